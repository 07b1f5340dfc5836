"""Does what a ticket preserves before fine-tuning tell how well it transfers? (TAMT, section 4.2.2 and Figure 5)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from winning_tickets.analyse.evaluations import Measurement, Subject, is_evaluation, measurements, merged, method_name
from winning_tickets.analyse.groups import COMPARED, compared
from winning_tickets.analyse.results import Cell, Score, check_metrics, is_transfer, read_runs
from winning_tickets.bootstrap import about
from winning_tickets.correlation import RESAMPLES, correlate, correlate_within
from winning_tickets.errors import ContentError, UsageError
from winning_tickets.files import read_json

MEAN = "mean over tasks"
Key = tuple[str, str]


def predictors(paths: Sequence[str | Path], *, score: Score = "final", seed: int = 0) -> dict[str, Any]:
    """Join evaluations with transfer results by ticket, and correlate them over tickets.

    The dense model is joined and shown, but no pair of a correlation: it belongs to no method. Sparsity drives both
    sides, so each correlation stands beside the one that is left inside the sparsities.

    Args:
        paths: JSON files that `tickets evaluate --json` printed, transfer runs (folders or their `result.json`), and
            `analysis.json` of a distance analysis, in any order.
        score: the `final` score of each seed of a transfer, or its `best`.
        seed: of the bootstrap.

    Returns:
        `predictors` and `tasks` (names of the columns), `rows` (a record for each ticket and dense model),
        `correlations` (for each predictor and task, and with the mean of the tickets that have all tasks).

    Raises:
        UsageError: a path is not there, or there are no evaluations, no transfers, or none of the same ticket.
        ContentError: a file is none of these, something was measured twice with different results, or metrics differ.
    """
    found, cells = _read(paths, score)
    if not found or not cells:
        lacking = (
            "evaluations (JSON of tickets evaluate)" if not found else "transfer runs (folders of tickets transfer)"
        )
        raise UsageError(f"Evaluations and transfer runs are joined here, and there are no {lacking} among the paths.")
    check_metrics(cells)
    known = _hashes([one.subject for one in found] + [_subject(cell) for cell in cells])
    rows = _rows(merged(found, lambda subject: _key(subject, known)), _by_key(cells, known))
    if not rows:
        raise UsageError(
            "No ticket has both an evaluation and a transfer run. They are joined by ticket_id (dense models by base "
            "weights or name); evaluate the very tickets that were fine-tuned."
        )
    tasks = list(dict.fromkeys(cell.task for cell in cells if any(cell.task in row["scores"] for row in rows)))
    for row in rows:
        complete = all(task in row["scores"] for task in tasks)
        row["mean"] = statistics.fmean(row["scores"][task] for task in tasks) if complete else None
    columns = list(dict.fromkeys(column for row in rows for column in row["predictors"]))
    joined = {(row["ticket_id"] or row["model"]) for row in rows}
    return {
        "kind": "predictors",
        "score": score,
        "predictors": columns,
        "tasks": tasks,
        "rows": rows,
        "correlations": [_correlation(rows, name, task, seed) for name in columns for task in [MEAN, *tasks]],
        "not_transferred": sorted({one.target for one in found if _name(one.subject) not in joined}),
        "not_evaluated": sorted({cell.path for cell in cells if _name(_subject(cell)) not in joined}),
        "different_settings": _different_settings(cells),
        "bootstrap": {**about(seed, "tickets"), "resamples": RESAMPLES},
    }


def _read(paths: Sequence[str | Path], score: Score) -> tuple[list[Measurement], list[Cell]]:
    found: list[Measurement] = []
    cells: list[Cell] = []
    for path in map(Path, paths):
        content: Any = read_json(path, "result") if path.is_file() else None
        if is_evaluation(content):
            found += measurements(content, str(path))
        elif isinstance(content, dict) and content.get("kind") == "distance":
            try:
                found += _distances(content, str(path))
            except (KeyError, TypeError, AttributeError) as error:
                raise ContentError(
                    f"{path} is no distance analysis as tickets analyse distance stores it ({error!r}); make it anew."
                ) from error
        elif path.is_dir() or not path.exists() or is_transfer(content):
            cells += read_runs([path], score)
        else:
            raise ContentError(
                f"{path} is neither an evaluation (printed by tickets evaluate --json) nor a transfer result."
            )
    return found, cells


def _distances(content: Mapping[str, Any], path: str) -> list[Measurement]:
    """The distance from OMP as a predictor: the horizontal axis of TAMT's Figure 8, left."""
    return [
        Measurement(
            Subject(point["ticket_id"], None, None),
            "distance[OMP]" if content["reference"] is None else f"distance[{Path(content['reference']).name}]",
            (),
            point["to_reference"],
            search["sparsity"],
            point["folder"],
            path,
            method=method_name(search["method"], search["objective"]),
        )
        for search in content["searches"]
        for point in search["checkpoints"]
    ]


def _subject(cell: Cell) -> Subject:
    return Subject(cell.ticket_id, cell.model, cell.base_hash)


def _name(subject: Subject) -> str | None:
    return subject.ticket_id or subject.model


def _hashes(subjects: Iterable[Subject]) -> dict[str, str]:
    """Hashes of base weights by the name of the model, from the files that say both."""
    return {one.model: one.base_hash for one in subjects if one.model is not None and one.base_hash is not None}


def _key(subject: Subject, known: Mapping[str, str]) -> Key:
    """What evaluations and transfers are joined by: the ticket, or the dense weights (their name at least)."""
    if subject.ticket_id is not None:
        return "ticket", subject.ticket_id
    model = subject.model or ""
    return "dense", subject.base_hash or known.get(model, model)


def _by_key(cells: Sequence[Cell], known: Mapping[str, str]) -> dict[Key, list[Cell]]:
    groups: dict[Key, list[Cell]] = {}
    seen: dict[tuple[Key, str, int], Cell] = {}
    for cell in cells:
        key = _key(_subject(cell), known)
        earlier = seen.setdefault((key, cell.task, cell.seed), cell)
        if earlier is not cell and earlier.value == cell.value:
            continue  # the same run once more: a copy, or that of a search that ended with the very same masks
        if earlier is not cell:
            raise ContentError(
                f"{cell.task} with seed {cell.seed} of one ticket is there twice, with different scores: "
                f"{earlier.path} and {cell.path}. Give one run for each ticket, task and seed."
            )
        groups.setdefault(key, []).append(cell)
    return groups


def _rows(
    measured: Mapping[Key, Mapping[str, Measurement]], moved: Mapping[Key, Sequence[Cell]]
) -> list[dict[str, Any]]:
    rows = []
    for key, columns in measured.items():
        if key not in moved:
            continue
        one, cells = next(iter(columns.values())), moved[key]
        by_task: dict[str, list[float]] = {}
        for cell in cells:
            by_task.setdefault(cell.task, []).append(cell.value)
        dense = key[0] == "dense"
        rows.append(
            {
                "label": Path(one.target).name,
                "ticket_id": one.subject.ticket_id,
                "model": one.subject.model or cells[0].model,
                "method": "dense" if dense else next((m.method for m in columns.values() if m.method), "ticket"),
                "sparsity": cells[0].sparsity,
                "predictors": {column: measurement.value for column, measurement in columns.items()},
                "scores": {task: statistics.fmean(values) for task, values in by_task.items()},
                "seeds": {task: len(values) for task, values in by_task.items()},
            }
        )
    return sorted(rows, key=lambda row: (row["method"] != "dense", row["sparsity"], row["method"], row["label"]))


def _correlation(rows: Sequence[Mapping[str, Any]], column: str, task: str, seed: int) -> dict[str, Any]:
    pairs = []
    for row in rows:
        value, reached = row["predictors"].get(column), row["mean"] if task == MEAN else row["scores"].get(task)
        if row["ticket_id"] is not None and value is not None and reached is not None:
            pairs.append((value, reached, round(row["sparsity"], 3)))
    x, y, sparsities = ([pair[i] for pair in pairs] for i in range(3))
    return {
        "predictor": column,
        "task": task,
        **correlate(x, y, seed),
        "within_sparsity": correlate_within(x, y, sparsities),
    }


def _different_settings(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Settings of the fine-tuning that are not the same for all tickets; a fair comparison has none."""
    found = []
    for task in dict.fromkeys(cell.task for cell in cells):
        own = [compared(cell) for cell in cells if cell.task == task]
        for setting in COMPARED:
            values = {str(one[setting]): one[setting] for one in own if setting in one}
            if len(values) > 1:
                found.append({"task": task, "setting": setting, "values": list(values.values())})
    return found
