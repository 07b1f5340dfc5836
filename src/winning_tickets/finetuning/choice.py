"""The choice among candidates, such as learning rates, on one part of the dev set; the scores are of the other part.

The candidates of one transfer, which is one arm of a comparison, run with all of its seeds, and the one with the best
mean over the seeds is chosen for all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from winning_tickets.finetuning.setup import PreparedTransfer
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import TrainingError
from winning_tickets.runs.statistics import best_of

logger = logging.getLogger(__name__)

CANDIDATES = "candidates"
CHOSEN_BY = "final_selection"
"""The score that candidates are compared by: that of the last evaluation, on the part of the dev set to select on."""


def choose(
    prepared: PreparedTransfer,
    run: RunDirectory,
    fine_tune: Callable[[PreparedTransfer, RunDirectory], dict[str, Any]],
) -> dict[str, Any]:
    """Fine-tune with each candidate, and store the result of the best one with the scores of all of them.

    Candidates are runs in `candidates/NAME`; the seeds of the chosen one are moved to the folder of the transfer. A
    candidate that diverges is not chosen.
    """
    results: dict[str, dict[str, Any]] = {}
    errors: dict[str, TrainingError] = {}
    for name, config in prepared.config.candidates().items():
        one = prepared.of(config)
        settings = config.model_dump(mode="json")
        with RunDirectory.claim(run.path / CANDIDATES / name, "transfer", one.identity(config), settings) as own:
            logger.info("Candidate %s.", name)
            try:
                results[name] = own.result() if own.status == "done" else fine_tune(one, own)
            except TrainingError as error:
                if not error.diverged:
                    raise
                errors[name] = error
    if not results:
        raise next(iter(errors.values()))
    primary = prepared.plan.primary
    scores = {name: result["metrics"][primary][CHOSEN_BY]["mean"] for name, result in results.items()}
    best = best_of(scores)
    distributed.on_main(lambda: _move_seeds(run.path / CANDIDATES / best, run.path))
    run.finish(_with_choice(prepared, results, errors, best))
    return run.result()


def _move_seeds(source: Path, target: Path) -> None:
    """Move the folders of the seeds; a kill in between leaves the others for the next call."""
    for folder in sorted(source.glob("seed-*")):
        folder.rename(target / folder.name)


def _with_choice(
    prepared: PreparedTransfer, results: dict[str, dict[str, Any]], errors: dict[str, TrainingError], best: str
) -> dict[str, Any]:
    config, primary = prepared.config, prepared.plan.primary
    found = results[best] | {"run_id": prepared.identity(config)}
    found["chosen"] = _settings(prepared, best) | {
        "select_on": config.select_on,
        "by": f"mean {primary} of the last evaluation over the seeds on the selecting part of the dev set",
    }
    found["candidates"] = [
        _settings(prepared, name)
        | (
            {kind: results[name]["metrics"][primary][kind] for kind in (CHOSEN_BY, "best_selection", "final", "best")}
            if name in results
            else {"error": str(errors[name])}
        )
        for name in config.candidates()
    ]
    if errors:
        found["warnings"] = [*found["warnings"], f"Candidates that diverged were not chosen: {', '.join(errors)}."]
    return found


def _settings(prepared: PreparedTransfer, name: str) -> dict[str, Any]:
    """Return the settings of a candidate that others of its grid do not have."""
    config = prepared.config.candidates()[name]
    return {field: getattr(config, field) for field in prepared.config.chosen_fields}
