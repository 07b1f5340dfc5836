"""What a study will cost: seconds of like runs in the store, else by steps and sizes of models."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from winning_tickets.config import (
    EvaluateConfig,
    FitHeadConfig,
    SearchConfig,
    Settings,
    ShareConfig,
    SuperConfig,
    TransferConfig,
)
from winning_tickets.store import Record
from winning_tickets.study.plan import Plan, Run

STEP_SECONDS = 1.05
"""Of a fine-tuning step of MiniLM on 16 x 128 tokens, on two cores; see docs/results/hold_step."""
_STEP_TOKENS = 16 * 128
_MINILM = 6 * 384**2
_SIZES = {
    "builtin:minilm": (6, 384, 22_713_216),
    "base": (12, 768, 109_482_240),
    "large": (24, 1024, 335_141_888),
    "tiny": (2, 32, 60_000),
}
"""Layers, width and parameters by what a model's name has in it; of a local folder its config.json tells."""
EXAMPLES = {
    "cola": 8_551,
    "sst2": 67_349,
    "mrpc": 3_668,
    "stsb": 5_749,
    "qqp": 363_846,
    "mnli": 392_702,
    "qnli": 104_743,
    "rte": 2_490,
    "wnli": 635,
    "snli": 549_367,
    "scitail": 23_596,
    "squad": 87_599,
}
"""Training examples by task."""
_BATCH, _LENGTH, _EPOCHS, _EVALUATED_TOKENS = 32, 128, 3.0, 300_000
_FORWARD = 1 / 3
"""Of a step's work; the other two thirds are the backward pass."""
_FIXED_SECONDS = 5.0
_RESULT_BYTES = 30_000
_INSIDE = re.compile(r"(?:^@|/runs/)([^/]+)")


class Estimator:
    """Seconds and bytes of runs that are still to do.

    Args:
        plan: whose.
        records: of the store, by id.
    """

    def __init__(self, plan: Plan, records: Mapping[str, Record]) -> None:
        self._plan = plan
        self._records = records
        measured: dict[tuple[str, ...], list[float]] = {}
        for record in records.values():
            if record.status == "done" and record.seconds is not None:
                config = _flat(record.config)
                kind = self._kind(record.verb, config)
                measured.setdefault(kind, []).append(record.seconds / self._units(config))
        self._typical = {kind: statistics.median(seconds) for kind, seconds in measured.items()}

    def estimate(self, left: Iterable[str], workers: int) -> dict[str, Any]:
        """What runs will take.

        Args:
            left: their ids.
            workers: how many are done at a time.

        Returns:
            `seconds`, `bytes`, and `measured_runs` of `runs` whose seconds are those of like runs in the store.
        """
        seconds, size, measured, count = 0.0, 0, 0, 0
        for run in (self._plan.runs[run] for run in left):
            known = self._known(run)
            seconds += self._guess(run) if known is None else known
            size += self._bytes(run)
            measured += known is not None
            count += 1
        return {"seconds": seconds / max(1, workers), "bytes": size, "runs": count, "measured_runs": measured}

    def _known(self, run: Run) -> float | None:
        """Median seconds of runs of the same verb, model and method; by step, or else of the same task."""
        config = _flat(dict(run.settings))
        found = self._typical.get(self._kind(run.verb, config))
        return None if found is None else found * self._units(config)

    def _kind(self, verb: str, config: Mapping[str, Any]) -> tuple[str, ...]:
        task = "any" if config.get("steps") else str(config.get("task"))  # without steps the data decide
        return (verb, self._model(config), str(config.get("method")), task)

    def _units(self, config: Mapping[str, Any]) -> float:
        return float(config.get("steps") or 1)

    def _model(self, config: Mapping[str, Any]) -> str:
        """The model that a run starts from, through the runs that it refers to."""
        config = _flat(config)
        name = config.get("model") or config.get("target")
        inside = _INSIDE.search(str(name))
        if inside is None:
            return str(name)
        run = self._plan.runs.get(inside.group(1))
        if run is not None:
            return self._model(run.config)
        record = self._records.get(inside.group(1))
        return str(name) if record is None else self._model(record.config)

    def _guess(self, run: Run) -> float:
        layers, width, _ = _size_of(self._model(run.config))
        per_token = STEP_SECONDS / _STEP_TOKENS * layers * width**2 / _MINILM
        return _FIXED_SECONDS + float(tokens_of(run.settings) * per_token)

    def _bytes(self, run: Run) -> int:
        _, _, parameters = _size_of(self._model(run.config))
        settings = run.settings
        if isinstance(settings, SearchConfig):
            tickets = len(settings.rungs) + len(settings.save_at)
            return _RESULT_BYTES + tickets * parameters // 8
        saves = isinstance(settings, FitHeadConfig) or getattr(settings, "save_model", False) or run.verb == "export"
        return _RESULT_BYTES + (4 * parameters if saves else 0)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the fields of the fine-tuning inside it, as that of a super ticket has one."""
    return {**config, **dict(config.get("fine_tuning") or {})}


def tokens_of(settings: Settings) -> float:
    """Tokens that a run trains on, padding included; those it only reads count a third."""
    if isinstance(settings, SearchConfig):
        trains = settings.needs.mask_training or settings.needs.sources
        return float(settings.total_steps * (settings.batch_tokens or _STEP_TOKENS)) if trains else 0.0
    if isinstance(settings, FitHeadConfig):
        return float(settings.steps * settings.batch_tokens)
    if isinstance(settings, EvaluateConfig):
        return _FORWARD * (settings.max_tokens or _EVALUATED_TOKENS)
    if isinstance(settings, TransferConfig):
        batch = settings.batch_size or _BATCH
        steps = settings.steps or (settings.epochs or _EPOCHS) * _examples(settings.task, settings.train_size) / batch
        return steps * batch * (settings.max_length or _LENGTH) * len(settings.seeds)
    if isinstance(settings, SuperConfig):
        settings = settings.resolved()
        trainings = 1 + len(settings.level) * len(settings.selections)
        return trainings * sum(tokens_of(fine_tuning) for _, fine_tuning in settings.grid())
    if isinstance(settings, ShareConfig):
        batch = settings.batch_size or _BATCH
        examples = sum(_examples(task, settings.train_size) for task in settings.tasks)
        steps = settings.steps or float(settings.resolved().epochs or _EPOCHS) * examples / batch
        return steps * batch * (settings.max_length or _LENGTH) * len(settings.seeds)
    return 0.0


def _examples(task: str | None, asked: str | None) -> float:
    every: float = EXAMPLES.get(str(task), 1_000)
    if asked is None:
        return every
    number = float(asked.rstrip("% "))
    return every * number / 100 if asked.strip().endswith("%") else min(every, number)


def _size_of(name: str) -> tuple[int, int, int]:
    """Layers, width and about how many parameters a model has."""
    try:
        config = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
        layers, width, words = (int(config[key]) for key in ("num_hidden_layers", "hidden_size", "vocab_size"))
    except (OSError, ValueError, KeyError, TypeError):  # no local folder, or one that the run itself will refuse
        return next((size for part, size in _SIZES.items() if part in name), _SIZES["base"])
    return layers, width, words * width + 12 * layers * width**2
