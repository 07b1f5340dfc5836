"""Tasks of the EleutherAI evaluation harness, on a model in memory through the harness's Python interface."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from winning_tickets.config import EvaluateConfig
from winning_tickets.models.loading import PLM
from winning_tickets.runs.errors import ContentError, UsageError, unknown

PACKAGE = "lm_eval"


def check_tasks(config: EvaluateConfig) -> None:
    """Refuse tasks without an installed harness, a missing folder of tasks, and settings of tasks without a task."""
    if not config.harness_tasks:
        about = [field for field in ("tasks_dir", "num_fewshot", "limit") if getattr(config, field) is not None]
        if about:
            raise UsageError(f"{config.option_of(about[0])} is about --tasks; name tasks, or leave it out.")
        return
    if importlib.util.find_spec(PACKAGE) is None:
        raise UsageError("--tasks needs the EleutherAI evaluation harness: pip install 'winning-tickets[lm-eval]'.")
    if config.tasks_dir is not None and not Path(config.tasks_dir).is_dir():
        raise UsageError(f"There is no folder {config.tasks_dir} (--tasks-dir).")


def run_tasks(config: EvaluateConfig, plm: PLM) -> dict[str, Any]:
    """Return the scores of a decoder on the tasks of `harness_tasks`, by task and metric.

    A metric that the harness computes after another filter than `none` has that filter in its name, such as
    `exact_match,strict-match`. Standard errors are those of the harness.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger(PACKAGE).setLevel(logging.ERROR)  # stdout and stderr are ours
    manager = TaskManager(include_path=config.tasks_dir)
    for name in config.harness_tasks:
        if name not in manager.all_tasks:
            raise unknown("task of the harness", name, manager.all_tasks)
    length = config.max_length or plm.tokenizer.model_max_length
    rows = max(1, config.batch_tokens // length)
    model = HFLM(plm.model, backend="causal", tokenizer=plm.tokenizer, batch_size=rows, max_length=length)
    how = {"num_fewshot": config.num_fewshot, "limit": config.limit, "log_samples": False, "bootstrap_iters": 1000}
    try:
        found = simple_evaluate(model, tasks=list(config.harness_tasks), task_manager=manager, **how)
    except (OSError, ValueError, KeyError) as error:
        text = str(error).strip().splitlines()
        raise ContentError(
            f"The harness could not run {', '.join(config.harness_tasks)}: {text[0] if text else type(error).__name__}"
        ) from error
    return {
        "tasks": {name: _scores(values) for name, values in found["results"].items()},
        "task_examples": {name: counts["effective"] for name, counts in found["n-samples"].items()},
        "num_fewshot": config.num_fewshot,
        "harness": f"{PACKAGE} {metadata.version(PACKAGE)}",
    }


def _scores(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a task, under names without the filter `none`."""
    return {key.removesuffix(",none"): value for key, value in values.items() if isinstance(value, int | float)}
