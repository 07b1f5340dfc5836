"""Measures before fine-tuning as predictors of the transfer of tickets (TAMT, section 4.2.2 and Figure 5)."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from winning_tickets.report.correlations import correlate, correlate_within
from winning_tickets.report.effects import clustered_correlation, describe_too_few_methods
from winning_tickets.report.result import resulting
from winning_tickets.runs import memory
from winning_tickets.runs.errors import ContentError, UsageError, explain
from winning_tickets.runs.files import read_json, read_object
from winning_tickets.studies.analysis.report.views import REPORTS
from winning_tickets.studies.analysis.results import (
    UNKNOWN,
    Runs,
    RunScore,
    Score,
    as_list,
    check_comparable,
    find_differences,
    is_transfer,
    method_name,
    name_in_memory,
    objective_of,
    read_runs,
)
from winning_tickets.tickets.files import INFO_FILE

MEASURES = {
    "kd_loss": "kd",
    "mlm_loss": "mlm",
    "mlm_accuracy": "mlm_accuracy",
    "clm_loss": "clm",
    "perplexity": "perplexity",
    "logits_loss": "logits",
    "greedy_agreement": "greedy_agreement",
    "attention_loss": "attention",
    "contrastive_loss": "contrastive",
    "similarity_pearson": "similarity_pearson",
    "similarity_spearman": "similarity_spearman",
}
"""Keys of an evaluation and the names of their columns."""

_ALWAYS = ("kd_loss", "mlm_loss", "ticket_id", "sparsity", "target")  # keys of evaluations of every version

MEAN = "mean over tasks"
Key = tuple[str, str]

_SETTINGS = ("segments", "split", "kd_distance", "kd_padding", "kd_masked_tokens", "corpus_hash")
"""Settings in which two measurements on the same text may differ, in the order in which they are shown."""

_DEFAULTS = {"kd_distance": "cosine", "kd_padding": "ignored", "kd_masked_tokens": "0"}
"""Values of settings that committed results of docs/results may lack."""


@dataclass(frozen=True)
class Measurement:
    """One value that was measured before fine-tuning."""

    ticket_id: str | None  # None for a dense model
    model: str | None
    base_hash: str | None
    name: str  # such as `kd[wikitext-2]`
    settings: tuple[tuple[str, str], ...]  # part of the column's name if they differ between measurements
    value: float
    sparsity: float
    target: str  # name of the target as the user gave it
    path: str
    method: str | None = None


_MEASUREMENT = TypeAdapter(Measurement)


def is_evaluation(content: Any) -> bool:
    """Return True if a parsed JSON file is an output of `tickets evaluate`."""
    return isinstance(content, Mapping) and {*_ALWAYS} <= content.keys()


def measurements(content: Mapping[str, Any], path: str) -> list[Measurement]:
    """Return all values of an evaluation."""
    try:
        return [_MEASUREMENT.validate_python(asdict(one)) for one in _measurements(content, path)]
    except (ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = explain(error) if isinstance(error, ValidationError) else repr(error)
        raise ContentError(
            f"{path} is not an output of tickets evaluate --json: {reason} It was edited; evaluate again."
        ) from error


def _measurements(content: Mapping[str, Any], path: str) -> Iterator[Measurement]:
    subject = content["ticket_id"], content.get("model"), content.get("base_hash")
    target = str(content["target"])
    for key, short in MEASURES.items():
        if content.get(key) is None:
            continue
        value = float(content[key])
        settings: dict[str, str] = {}
        # A similarity is measured on pairs of texts, the other values on a corpus with settings.
        if key.startswith("similarity"):
            text = str(content.get("pairs_from")).removesuffix(" validation")
        else:
            text = PurePath(memory.shown(str(content.get("corpus")))).name
            given = {name: str(content[name]) for name in _SETTINGS if content.get(name) is not None}
            common = {name: one for name, one in given.items() if name not in _DEFAULTS}
            settings = _DEFAULTS | given if short == "kd" else common
        method, sparsity = method_of(content), float(content["sparsity"])
        name = f"{short}[{text}]"
        yield Measurement(*subject, name, tuple(settings.items()), value, sparsity, target, path, method)


def method_of(content: Mapping[str, Any]) -> str | None:
    """Return the method of the evaluated ticket, with the objective of mask training; None if unknown or dense."""
    if content["ticket_id"] is None:
        return None
    if content.get("method") is not None:
        return method_name(content["method"], content.get("search_objective"))
    # Committed evaluations of docs/results may lack the method; the ticket has it, if it is still in its folder.
    file, body = Path(str(content["target"])) / INFO_FILE, {}
    with suppress(OSError):  # the target is not a valid path
        body = read_object(file, "ticket description") if file.is_file() else {}
    if body.get("id") != content["ticket_id"]:
        return None
    return method_name(body["info"]["method"], body["info"]["config"].get("objective"))


def score_columns(found: Sequence[Measurement]) -> dict[Measurement, str]:
    """Return the column of each measurement: its name, and the settings that differ between those of the same name."""
    names: dict[Measurement, str] = {}
    for name in dict.fromkeys(one.name for one in found):
        same = [one for one in found if one.name == name]
        settings = [dict(one.settings) for one in same]
        keys = [key for key in _SETTINGS if len({setting.get(key) for setting in settings}) > 1]
        if keys != ["corpus_hash"] and "corpus_hash" in keys:
            keys.remove("corpus_hash")  # other settings are easier to read, if they suffice
            if _ambiguous(settings, keys):
                keys.append("corpus_hash")
        for one, setting in zip(same, settings, strict=True):
            extra = " ".join(setting.get(key, "?")[:12] for key in keys)
            names[one] = f"{name[:-1]} {extra}]" if extra else name
    return names


def _ambiguous(settings: Sequence[Mapping[str, str]], keys: Sequence[str]) -> bool:
    """Return True if texts of different content have the same values of the keys."""
    seen: dict[tuple[str | None, ...], str | None] = {}
    return any(
        seen.setdefault(tuple(setting.get(key) for key in keys), setting.get("corpus_hash"))
        != setting.get("corpus_hash")
        for setting in settings
    )


def _by_subject(found: Sequence[Measurement], hashes: Mapping[str, str]) -> dict[Key, dict[str, Measurement]]:
    """Return the measurements of each ticket and dense model by column."""
    table: dict[Key, dict[str, Measurement]] = {}
    for one, column in score_columns(found).items():
        earlier = table.setdefault(_key(one, hashes), {}).setdefault(column, one)
        if abs(earlier.value - one.value) > 1e-9:
            raise ContentError(
                f"{column} of {one.target} is {earlier.value} in {earlier.path} and {one.value} in {one.path}; "
                "give one of these files."
            )
    return table


@resulting(views=REPORTS)
def predictors(paths: Runs, *, score: Score = "final") -> dict[str, Any]:
    """Join evaluations with transfer results by ticket, and correlate them over tickets, between and within methods.

    Both are given as files and folders, or as results that `evaluate`, `transfer` and `distance` returned.

    The dense model is shown in the table, but left out of the correlations.
    """
    found, cells = _read(paths, score)
    if not found or not cells:
        lacking = "transfer runs (folders of tickets transfer)" if found else "evaluations (JSON of tickets evaluate)"
        raise UsageError(f"Found no {lacking} among the paths. Give both evaluations and transfer runs.")
    check_comparable(cells)
    # Join by ticket. Dense models are joined by the hash of their weights, which some files give next to the name.
    both: list[Measurement | RunScore] = [*found, *cells]
    hashes = {one.model: one.base_hash for one in both if one.model is not None and one.base_hash is not None}
    rows = _rows(_by_subject(found, hashes), _by_key(cells, hashes))
    if not rows:
        raise UsageError(
            "No ticket has both an evaluation and a transfer run. They are joined by ticket_id (dense models by base "
            "weights or name); evaluate the same tickets that were fine-tuned."
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
        "correlations": [_correlation(rows, name, task) for name in columns for task in [MEAN, *tasks]],
        "not_transferred": sorted({one.target for one in found if (one.ticket_id or one.model) not in joined}),
        "not_evaluated": sorted({cell.path for cell in cells if (cell.ticket_id or cell.model) not in joined}),
        "degenerate": [
            {"group": _method_of(cell), "task": cell.task, "seed": cell.seed, "run": cell.path}
            for cell in cells
            if cell.degenerate or cell.at_chance
        ],
        "different_settings": [
            {"task": task, "setting": setting, "values": values}
            for task in dict.fromkeys(cell.task for cell in cells)
            for setting, values in find_differences(_by_method(cells, task))
        ],
    }


def _by_method(cells: Sequence[RunScore], task: str) -> dict[str, list[RunScore]]:
    """Return the runs on a task by the method of their tickets."""
    found: dict[str, list[RunScore]] = {}
    for cell in cells:
        if cell.task == task:
            found.setdefault(_method_of(cell), []).append(cell)
    return found


def _method_of(cell: RunScore) -> str:
    return "dense" if cell.ticket_id is None else method_name(cell.method or UNKNOWN, objective_of(cell))


def _read(given: Runs, score: Score) -> tuple[list[Measurement], list[RunScore]]:
    found: list[Measurement] = []
    cells: list[RunScore] = []
    for one in as_list(given):
        in_memory = isinstance(one, Mapping)
        path = Path(name_in_memory(one) if in_memory else one)
        content: Any = one if in_memory else read_json(path, "result") if path.is_file() else None
        if is_evaluation(content):
            found += measurements(content, str(path))
        elif isinstance(content, Mapping) and content.get("kind") == "distance":
            try:
                found += _distances(content, str(path))
            except (KeyError, TypeError, AttributeError) as error:
                raise ContentError(
                    f"{path} is not a result of tickets analyse distance ({error!r}); run the analysis again."
                ) from error
        elif content is None or is_transfer(content):
            cells += read_runs([one], score)
        else:
            raise ContentError(f"{path} is neither an evaluation (of tickets evaluate --json) nor a transfer result.")
    return found, cells


def _distances(content: Mapping[str, Any], path: str) -> list[Measurement]:
    """Return distances from one-shot magnitude pruning (OMP) as predictors: the x axis of TAMT, Figure 8 left."""
    return [
        Measurement(
            point["ticket_id"],
            None,
            None,
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


def _key(one: Measurement | RunScore, hashes: Mapping[str, str]) -> Key:
    """Return the key that joins evaluations and transfers: the ticket, or the dense weights (or their name)."""
    if one.ticket_id is not None:
        return "ticket", one.ticket_id
    model = one.model or ""
    return "dense", one.base_hash or hashes.get(model, model)


def _by_key(cells: Sequence[RunScore], hashes: Mapping[str, str]) -> dict[Key, list[RunScore]]:
    groups: dict[Key, list[RunScore]] = {}
    seen: dict[tuple[Key, str, int], RunScore] = {}
    for cell in cells:
        key = _key(cell, hashes)
        earlier = seen.setdefault((key, cell.task, cell.seed), cell)
        if earlier is not cell and earlier.value == cell.value:
            continue  # a copy of the run, or a run of another search that found the same masks
        if earlier is not cell:
            raise ContentError(
                f"Found two different scores of one ticket for {cell.task} with seed {cell.seed}: "
                f"{earlier.path} and {cell.path}. Give one run for each ticket, task and seed."
            )
        groups.setdefault(key, []).append(cell)
    return groups


def _rows(
    measured: Mapping[Key, Mapping[str, Measurement]], transferred: Mapping[Key, Sequence[RunScore]]
) -> list[dict[str, Any]]:
    rows = []
    for key, columns in measured.items():
        if key not in transferred:
            continue
        one, cells = next(iter(columns.values())), transferred[key]
        by_task: dict[str, list[float]] = {}
        for cell in cells:
            by_task.setdefault(cell.task, []).append(cell.value)
        dense = key[0] == "dense"
        rows.append(
            {
                "label": Path(memory.shown(one.target)).name,
                "ticket_id": one.ticket_id,
                "model": one.model or cells[0].model,
                "method": "dense" if dense else next((m.method for m in columns.values() if m.method), "ticket"),
                "sparsity": cells[0].sparsity,
                "predictors": {column: measurement.value for column, measurement in columns.items()},
                "scores": {task: statistics.fmean(values) for task, values in by_task.items()},
                "seeds": {task: len(values) for task, values in by_task.items()},
            }
        )
    return sorted(rows, key=lambda row: (row["method"] != "dense", row["sparsity"], row["method"], row["label"]))


def _correlation(rows: Sequence[Mapping[str, Any]], column: str, task: str) -> dict[str, Any]:
    pairs = []
    for row in rows:
        value, score = row["predictors"].get(column), row["mean"] if task == MEAN else row["scores"].get(task)
        if row["ticket_id"] is not None and value is not None and score is not None:
            pairs.append((value, score, round(row["sparsity"], 3), row["method"]))
    x, y, sparsities, methods = ([pair[i] for pair in pairs] for i in range(4))
    # Tickets of one method resemble each other, so methods and not tickets are the sample.
    effect = clustered_correlation(x, y, methods)
    return {
        "predictor": column,
        "task": task,
        **correlate(x, y),
        "methods": len(set(methods)),
        "pearson_interval": None if effect is None else effect.interval,
        "no_interval": None if effect else describe_too_few_methods(methods),
        "within_method": correlate_within(x, y, methods),
        "within_sparsity": correlate_within(x, y, sparsities),
    }
