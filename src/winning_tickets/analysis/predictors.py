"""Does what a ticket preserves before fine-tuning tell how well it transfers? (TAMT, section 4.2.2 and Figure 5)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from winning_tickets.analysis.results import COMPARED, Cell, Score, check_metrics, compared, is_transfer, read_runs
from winning_tickets.analysis.statistics import CORRELATION_RESAMPLES, about, correlate, correlate_within
from winning_tickets.runs.errors import ContentError, UsageError, explain
from winning_tickets.runs.files import read_json, read_object
from winning_tickets.tickets.files import INFO_FILE

MEASURES = {
    "kd_loss": "kd",
    "mlm_loss": "mlm",
    "mlm_accuracy": "mlm_accuracy",
    "similarity_pearson": "similarity_pearson",
    "similarity_spearman": "similarity_spearman",
}
"""Keys of an evaluation and what their columns are called."""

_HOW = ("segments", "split", "kd_distance", "kd_padding", "kd_masked_tokens", "corpus_hash")
"""What tells measurements on a text of the same name apart, in the order in which it is shown."""

_USUAL = {"kd_distance": "cosine", "kd_padding": "ignored", "kd_masked_tokens": "0"}
"""What files mean that do not say it."""


@dataclass(frozen=True)
class Subject:
    """What was evaluated or fine-tuned.

    Attributes:
        ticket_id: None for a dense model.
        model: name of the (base) model; None where the file does not say it.
        base_hash: of the base weights; None where the file does not say it.
    """

    ticket_id: str | None
    model: str | None
    base_hash: str | None


@dataclass(frozen=True)
class Measurement:
    """One number that was measured before fine-tuning.

    Attributes:
        subject: of what.
        name: such as `kd[wikitext-2]`.
        how: further settings by name, which become part of the column's name where they differ.
        value: the number.
        sparsity: of the ticket; 0 for a dense model.
        target: what was evaluated, as the user named it.
        path: the file it was read from.
        method: how the ticket was found, and with which objective; None where nothing says it.
    """

    subject: Subject
    name: str
    how: tuple[tuple[str, str], ...]
    value: float
    sparsity: float
    target: str
    path: str
    method: str | None = None


def is_evaluation(content: Any) -> bool:
    """Whether a parsed JSON is what `tickets evaluate` prints."""
    return isinstance(content, dict) and {*MEASURES, "ticket_id", "sparsity", "target"} <= content.keys()


def measurements(content: Mapping[str, Any], path: str) -> list[Measurement]:
    """All numbers of an evaluation.

    Raises:
        ContentError: it has something else where numbers or names should be.
    """
    try:
        return [_MEASUREMENT.validate_python(asdict(one)) for one in _measurements(content, path)]
    except (ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = explain(error) if isinstance(error, ValidationError) else repr(error)
        raise ContentError(
            f"{path} is no evaluation as tickets evaluate --json prints it: {reason} It was edited; evaluate anew."
        ) from error


def _measurements(content: Mapping[str, Any], path: str) -> Iterator[Measurement]:
    subject = Subject(content["ticket_id"], content.get("model"), content.get("base_hash"))
    target = str(content["target"])
    for key, short in MEASURES.items():
        if content[key] is None:
            continue
        value = float(content[key])
        how: tuple[tuple[str, str], ...] = ()
        if key.startswith("similarity"):
            text = str(content.get("pairs_from")).removesuffix(" validation")
        else:
            text = PurePath(str(content.get("corpus"))).name
            how = _how(content, short)
        method = method_of(content)
        yield Measurement(subject, f"{short}[{text}]", how, value, float(content["sparsity"]), target, path, method)


_MEASUREMENT = TypeAdapter(Measurement)


def _how(content: Mapping[str, Any], measure: str) -> tuple[tuple[str, str], ...]:
    given = {key: str(content[key]) for key in _HOW if content.get(key) is not None}
    return tuple((_USUAL | given if measure == "kd" else {k: v for k, v in given.items() if k not in _USUAL}).items())


def method_of(content: Mapping[str, Any]) -> str | None:
    """The method of the evaluated ticket and the objective of a trained one.

    Evaluations of older versions do not say it; the ticket itself does, while it is where it was.
    """
    if content["ticket_id"] is None:
        return None
    if content.get("method") is not None:
        return method_name(content["method"], content.get("search_objective"))
    file, body = Path(str(content["target"])) / INFO_FILE, {}
    with suppress(OSError):  # a target that no path can be
        body = read_object(file, "ticket description") if file.is_file() else {}
    if body.get("id") != content["ticket_id"]:
        return None
    return method_name(body["info"]["method"], body["info"]["config"].get("objective"))


def method_name(method: str, objective: str | None) -> str:
    """A trained mask is named with its objective; for other methods the field means nothing."""
    return f"{method} {objective}" if method == "mask-training" and objective else method


def columns(found: Sequence[Measurement]) -> dict[Measurement, str]:
    """The column of each measurement: its name, and what differs between measurements of that name."""
    names: dict[Measurement, str] = {}
    for name in dict.fromkeys(one.name for one in found):
        own = [one for one in found if one.name == name]
        settings = [dict(one.how) for one in own]
        keys = [key for key in _HOW if len({setting.get(key) for setting in settings}) > 1]
        if keys != ["corpus_hash"] and "corpus_hash" in keys:
            keys.remove("corpus_hash")  # other settings tell them apart in words
            if _ambiguous(settings, keys):
                keys.append("corpus_hash")
        for one, setting in zip(own, settings, strict=True):
            extra = " ".join(setting.get(key, "?")[:12] for key in keys)
            names[one] = f"{name[:-1]} {extra}]" if extra else name
    return names


def _ambiguous(settings: Sequence[Mapping[str, str]], keys: Sequence[str]) -> bool:
    """Whether the keys leave texts of different content together."""
    seen: dict[tuple[str | None, ...], str | None] = {}
    return any(
        seen.setdefault(tuple(setting.get(key) for key in keys), setting.get("corpus_hash"))
        != setting.get("corpus_hash")
        for setting in settings
    )


def merged(
    found: Sequence[Measurement], key: Callable[[Subject], tuple[str, str]]
) -> dict[tuple[str, str], dict[str, Measurement]]:
    """For each subject its measurements by column.

    Args:
        found: all measurements.
        key: what says that two subjects are the same.

    Raises:
        ContentError: the same thing was measured twice with different results.
    """
    table: dict[tuple[str, str], dict[str, Measurement]] = {}
    for one, column in columns(found).items():
        earlier = table.setdefault(key(one.subject), {}).setdefault(column, one)
        if abs(earlier.value - one.value) > 1e-9:
            raise ContentError(
                f"{column} of {one.target} is {earlier.value} in {earlier.path} and {one.value} in {one.path}; "
                "give one of these files."
            )
    return table


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
        "bootstrap": {**about(seed, "tickets"), "resamples": CORRELATION_RESAMPLES},
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
