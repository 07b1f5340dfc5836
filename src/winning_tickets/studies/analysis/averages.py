"""The average score of several transfers, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from winning_tickets.data.metrics import averages
from winning_tickets.data.user_files import LOCAL
from winning_tickets.runs.directory import MARKER
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.results import RESULT, FineTuning, TransferResult, read_result
from winning_tickets.runs.statistics import summarize

KINDS = ("final", "best")


def average_runs(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Average transfers to different tasks by both rules of the Super Tickets paper (Tables 1 and 2), seed by seed."""
    if not paths:
        raise UsageError("No run was given; give folders of tickets transfer --out, one per task.")
    runs: dict[str, tuple[Path, TransferResult]] = {}
    for path in map(Path, paths):
        result = _read(path)
        if result.task in runs:
            hint = " Tasks of your own files get their names by --task-name." if result.task == LOCAL else ""
            both = f"{runs[result.task][0]} and {path} are both runs of {result.task}"
            raise UsageError(f"{both}; an average takes one per task.{hint}")
        runs[result.task] = path, result
    results = {task: result for task, (_, result) in runs.items()}
    first = next(iter(results.values()))
    seeds = [seed for seed in first.seeds if all(seed in result.seeds for result in results.values())]
    if not seeds:
        found = "; ".join(f"{task} {','.join(map(str, result.seeds))}" for task, result in results.items())
        raise UsageError(f"No seed was run for all tasks ({found}); run tickets transfer with the same --seeds.")
    try:
        by_kind = {kind: [averages(_seed_metrics(results, kind, seed)) for seed in seeds] for kind in KINDS}
    except ContentError as error:
        raise ContentError(f"{', '.join(str(path) for path, _ in runs.values())}: {error}") from error
    example = by_kind["final"][0]
    left_out = {task: [seed for seed in result.seeds if seed not in seeds] for task, result in results.items()}
    return {
        "verb": "average",
        "tasks": {task: {"run": str(path), **_task(result, seeds)} for task, (path, result) in runs.items()},
        "averages": {
            rule: {kind: _summary([found[rule].value for found in by_kind[kind]]) for kind in KINDS} for rule in example
        },
        "seeds": seeds,
        "left_out_seeds": {task: left for task, left in left_out.items() if left},
        "missing_tasks": list(example["task_average"].missing),
        "other_tasks": list(example["task_average"].beyond),
    }


def _read(path: Path) -> TransferResult:
    if not path.is_dir():
        raise UsageError(f"There is no run {path}; give folders of tickets transfer --out.")
    if not (path / RESULT).is_file():
        state = "has not finished; run its command again" if (path / MARKER).is_file() else "is not a run"
        raise UsageError(f"{path} {state}; give folders of tickets transfer --out.")
    result = read_result(path, FineTuning)
    if not isinstance(result, TransferResult):
        raise UsageError(f"{path} is one seed of a transfer; give the folder above it.")
    if not result.seeds:
        raise ContentError(f"All seeds of {path} failed, so it has no score; see {path}/seed-N/error.json.")
    return result


def _seed_metrics(results: Mapping[str, TransferResult], kind: str, seed: int) -> dict[str, dict[str, float | None]]:
    """Return the metrics of each task for one seed."""
    return {
        task: {name: getattr(kinds, kind).values[result.seeds.index(seed)] for name, kinds in result.metrics.items()}
        for task, result in results.items()
    }


def _task(result: TransferResult, seeds: list[int]) -> dict[str, Any]:
    places = [result.seeds.index(seed) for seed in seeds]
    metrics = {
        name: {kind: _summary([getattr(kinds, kind).values[place] for place in places]) for kind in KINDS}
        for name, kinds in result.metrics.items()
    }
    return {"ticket_id": result.ticket_id, "sparsity": result.sparsity, "metrics": metrics}


def _summary(values: Sequence[float | None]) -> dict[str, Any]:
    measured = [value for value in values if value is not None]
    if not measured:  # the data lack a split
        return {"mean": None, "std": None, "n": 0, "values": values}
    summary = summarize(measured)
    return {"mean": summary.mean, "std": summary.std, "n": summary.n, "values": values}
