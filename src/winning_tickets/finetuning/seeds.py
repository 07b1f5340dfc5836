"""One stored run for each seed: finished ones are kept, failed ones keep their error and give no number."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from winning_tickets.runs import distributed
from winning_tickets.runs.directory import MARKER
from winning_tickets.runs.errors import TrainingError
from winning_tickets.runs.files import write_json
from winning_tickets.runs.statistics import deviation

ERROR = "error.json"


def run_seeds(
    seeds: Sequence[int], path: Path, run_seed: Callable[[int], dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Run all seeds, one after the other.

    Args:
        seeds: each once.
        path: the folder above `seed-N`.
        run_seed: gives the result of a seed.

    Returns:
        The results of the seeds that finished, in order, and the messages of those that failed.
    """
    results: list[dict[str, Any]] = []
    failures: dict[int, str] = {}
    for seed in seeds:
        try:
            results.append(run_seed(seed))
        except (TrainingError, torch.OutOfMemoryError) as error:
            if distributed.count() > 1 and not getattr(error, "of_all", False):
                raise  # the others do not know of it, and would wait for this process in that seed
            failures[seed] = str(error)
            if not (path / f"seed-{seed}" / MARKER).exists():
                raise  # the disk refused the run's own folder, which an error alone would turn into a foreign one
            content = {"seed": seed, "error": str(error)}
            distributed.on_main(partial(write_json, path / f"seed-{seed}" / ERROR, content))
    return results, failures


def raise_failures(failures: Mapping[int, str], seeds: Sequence[int], path: Path) -> None:
    """Tell of failed seeds, once all others are stored.

    Raises:
        TrainingError: there are some.
    """
    if failures:
        seed, message = next(iter(failures.items()))
        raise TrainingError(
            f"{len(failures)} of {len(seeds)} seeds failed ({', '.join(map(str, failures))}). Seed {seed}: "
            f"{message} Each error is kept in {path}/seed-N/{ERROR}; the same command tries these seeds again."
        )


def statistics_of(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation (ddof=1; None of one value) and the values of the seeds."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "std": deviation(values),
        "values": values,
    }
