"""Reading transfer results: one score for each task and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from winning_tickets.errors import ContentError, UsageError, unknown
from winning_tickets.files import read_json
from winning_tickets.rundir import MARKER, RESULT

Score = Literal["final", "best"]
SCORES: tuple[Score, ...] = ("final", "best")

SETTINGS = ("steps", "train_examples", "max_length", "batch_size", "learning_rate", "data_hash")
"""What two runs should share for their scores to be comparable; a stored seed knows the first three only."""


@dataclass(frozen=True)
class Cell:
    """The score of one fine-tuning run.

    Attributes:
        task: name of the task.
        seed: of the fine-tuning.
        metric: the task's primary metric.
        value: its value, 0-1 (correlations may be below 0).
        ticket_id: None for a dense model.
        sparsity: of the ticket; 0 for a dense model.
        model: name of the (base) model, where the files say it.
        base_hash: of the base weights, where the files say it.
        settings: those of `SETTINGS` that the files hold.
        path: the file the score was read from.
    """

    task: str
    seed: int
    metric: str
    value: float
    ticket_id: str | None
    sparsity: float
    model: str | None
    base_hash: str | None
    settings: dict[str, Any]
    path: str

    @property
    def key(self) -> tuple[str, int]:
        """What runs of different tickets are paired by."""
        return self.task, self.seed


def read_runs(paths: Sequence[str | Path], score: Score = "final") -> list[Cell]:
    """All finished seeds of transfer runs, in the order of the paths and of the seeds.

    Args:
        paths: folders made by `tickets transfer --out` (finished or with some seeds finished), or their `result.json`.
        score: the `final` evaluation of each seed, or its `best`.

    Raises:
        UsageError: nothing is there, no seed has finished, or the score is unknown.
        ContentError: a file is not a transfer result.
    """
    if score not in SCORES:
        raise unknown("score", score, SCORES)
    return [cell for path in paths for cell in _read_run(Path(path), score)]


def check_metrics(cells: Sequence[Cell]) -> None:
    """Make sure that each task is scored by one metric.

    Raises:
        ContentError: by two; their numbers must not be compared.
    """
    first: dict[str, Cell] = {}
    for cell in cells:
        other = first.setdefault(cell.task, cell)
        if other.metric != cell.metric:
            raise ContentError(
                f"{cell.task} is scored by {other.metric} in {other.path} and by {cell.metric} in {cell.path}; "
                "compare runs with the same metric."
            )


def is_transfer(content: Any) -> bool:
    """Whether a parsed JSON is the result of a transfer: of one seed, or the summary of several."""
    return isinstance(content, dict) and content.get("verb") in ("transfer", "transfer-seed")


def _read_run(path: Path, score: Score) -> list[Cell]:
    if not path.exists():
        raise UsageError(f"There is no transfer run {path}; give folders made by tickets transfer --out.")
    if path.is_file():
        return _read_file(path, score, {})
    seeds = sorted(path.glob(f"seed-*/{RESULT}"), key=_seed_number)
    common = read_json(path / RESULT, "result") if (path / RESULT).is_file() else {}
    if not seeds:
        if common:
            return _read_file(path / RESULT, score, {})
        started = (path / MARKER).is_file()
        raise UsageError(
            f"{path} is a run that has no finished seed yet; wait for it, or leave it out."
            if started
            else f"{path} is not a transfer run; give folders made by tickets transfer --out."
        )
    return [cell for file in seeds for cell in _read_file(file, score, common)]


def _seed_number(path: Path) -> tuple[int, str]:
    number = path.parent.name.removeprefix("seed-")
    return (int(number), "") if number.isdecimal() else (-1, number)


def _read_file(path: Path, score: Score, common: dict[str, Any]) -> list[Cell]:
    """The cells of a seed's result (what it lacks is taken from the summary `common`) or of a summary."""
    content = read_json(path, "result")
    if not is_transfer(content):
        found = content.get("verb") if isinstance(content, dict) else None
        what = f"a result of tickets {found}" if found else "something else"
        raise ContentError(f"{path} is not the result of a transfer but {what}; give folders made by tickets transfer.")
    try:
        metric = content["primary_metric"]
        if content["verb"] == "transfer":
            scores = dict(zip(content["seeds"], content["metrics"][metric][score]["values"], strict=True))
        else:
            scores = {content["seed"]: content[score][metric]}
        merged = common | content
        cells = [
            Cell(
                task=str(content["task"]),
                seed=int(seed),
                metric=str(metric),
                value=float(value),
                ticket_id=content["ticket_id"],
                sparsity=float(content["sparsity"]),
                model=merged.get("model"),
                base_hash=merged.get("base_hash"),
                settings={key: merged[key] for key in SETTINGS if key in merged},
                path=str(path),
            )
            for seed, value in scores.items()
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ContentError(f"{path} is an incomplete transfer result ({error!r}); make it anew.") from error
    for cell in cells:
        if not math.isfinite(cell.value):
            raise ContentError(f"{path} holds a score that is not finite ({cell.value}); a failed run is no number.")
    return cells
