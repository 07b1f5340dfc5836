"""The average score of several transfers, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from winning_tickets.data.metrics import averages
from winning_tickets.data.user_files import LOCAL
from winning_tickets.runs.directory import MARKER, RESULT
from winning_tickets.runs.errors import ContentError, UsageError, shown
from winning_tickets.runs.files import read_json
from winning_tickets.runs.statistics import is_score, summarize

KINDS = ("final", "best")


def average_runs(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Average transfers to different tasks by both rules of the Super Tickets paper (Tables 1 and 2), seed by seed."""
    if not paths:
        raise UsageError("No run was given; give folders of tickets transfer --out, one per task.")
    runs: dict[str, dict[str, Any]] = {}
    for path in map(Path, paths):
        content = _read(path)
        task = str(content["task"])
        if task in runs:
            hint = " Tasks of your own files get their names by --task-name." if task == LOCAL else ""
            both = f"{runs[task]['run']} and {path} are both runs of {task}"
            raise UsageError(f"{both}; an average takes one per task.{hint}")
        runs[task] = content | {"run": str(path)}
    seeds = [seed for seed in next(iter(runs.values()))["seeds"] if all(seed in run["seeds"] for run in runs.values())]
    if not seeds:
        found = "; ".join(f"{task} {','.join(map(str, run['seeds']))}" for task, run in runs.items())
        raise UsageError(f"No seed was run for all tasks ({found}); run tickets transfer with the same --seeds.")
    try:
        by_kind = {kind: [averages(_seed_metrics(runs, kind, seed)) for seed in seeds] for kind in KINDS}
    except ContentError as error:
        raise ContentError(f"{', '.join(run['run'] for run in runs.values())}: {error}") from error
    example = by_kind["final"][0]
    return {
        "verb": "average",
        "tasks": {task: _task(run, seeds) for task, run in runs.items()},
        "averages": {
            rule: {kind: _summary([found[rule].value for found in by_kind[kind]]) for kind in KINDS} for rule in example
        },
        "seeds": seeds,
        "left_out_seeds": {
            task: left for task, run in runs.items() if (left := [seed for seed in run["seeds"] if seed not in seeds])
        },
        "missing_tasks": list(example["task_average"].missing),
        "other_tasks": list(example["task_average"].beyond),
    }


def _read(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise UsageError(f"There is no run {path}; give folders of tickets transfer --out.")
    if not (path / RESULT).is_file():
        state = "has not finished; run its command again" if (path / MARKER).is_file() else "is not a run"
        raise UsageError(f"{path} {state}; give folders of tickets transfer --out.")
    content = read_json(path / RESULT, "result")
    verb = content.get("verb") if isinstance(content, dict) else None
    if verb == "transfer-seed":
        raise UsageError(f"{path} is one seed of a transfer; give the folder above it.")
    if verb != "transfer":
        raise ContentError(f"{path / RESULT} is not the result of a transfer; give folders of tickets transfer --out.")
    try:
        seeds = content["seeds"]
        if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds) or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds {shown(seeds)}")
        for kinds in content["metrics"].values():
            for kind in KINDS:
                scores = dict(zip(seeds, kinds[kind]["values"], strict=True))
                if not all(score is None or is_score(score) for score in scores.values()):
                    raise ValueError(f"{shown(scores)} are no scores of seeds")
        if not isinstance(content["ticket_id"], str | None) or type(content["sparsity"]) not in (int, float):
            raise ValueError(f"ticket_id {shown(content['ticket_id'])}, sparsity {shown(content['sparsity'])}")
        if not seeds:
            raise ContentError(f"All seeds of {path} failed, so it has no score; see {path}/seed-N/error.json.")
        return {key: content[key] for key in ("task", "metrics", "seeds", "ticket_id", "sparsity")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ContentError(
            f"{path / RESULT} is damaged ({error!r}); delete it and run tickets transfer again."
        ) from error


def _seed_metrics(runs: dict[str, dict[str, Any]], kind: str, seed: int) -> dict[str, dict[str, float | None]]:
    """Return the metrics of each task for one seed."""
    return {
        task: {name: kinds[kind]["values"][run["seeds"].index(seed)] for name, kinds in run["metrics"].items()}
        for task, run in runs.items()
    }


def _task(run: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    places = [run["seeds"].index(seed) for seed in seeds]
    metrics = {
        name: {kind: _summary([kinds[kind]["values"][place] for place in places]) for kind in KINDS}
        for name, kinds in run["metrics"].items()
    }
    return {"run": run["run"], "ticket_id": run["ticket_id"], "sparsity": run["sparsity"], "metrics": metrics}


def _summary(values: Sequence[float | None]) -> dict[str, Any]:
    measured = [value for value in values if value is not None]
    if not measured:  # the data lack a split
        return {"mean": None, "std": None, "n": 0, "values": values}
    summary = summarize(measured)
    return {"mean": summary.mean, "std": summary.std, "n": summary.n, "values": values}
