"""The evaluations along the way of a fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from transformers import TrainerCallback

from winning_tickets.config import Runtime
from winning_tickets.data.encode import EncodedSplit
from winning_tickets.data.metrics import combine
from winning_tickets.data.records import Task, TaskData
from winning_tickets.finetuning.evaluation_plan import DevPart
from winning_tickets.finetuning.setup import Prepared
from winning_tickets.models.heads import KINDS
from winning_tickets.models.loading import PLM
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import METRICS, RunDirectory, read_log
from winning_tickets.runs.errors import TrainingError
from winning_tickets.training.predict import predict_split


def stored_evaluations(run: RunDirectory) -> list[dict[str, Any]]:
    """The evaluations that a run has logged so far."""
    if not (run.path / METRICS).exists():
        return []
    return [record for record in read_log(run.path) if "evaluation" in record]


class Evaluations(TrainerCallback):  # type: ignore[misc]
    """Evaluates on the validation splits and keeps the records.

    All of it happens at the end of a step, also at the end of an epoch: a checkpoint of that step is written after it,
    so that a resumed run neither lacks an evaluation nor has one twice.

    Args:
        run: records go to its `metrics.jsonl`.
        prepared: the task and when evaluations are due.
        plm: the model that is trained.
        runtime: precision.
    """

    def __init__(self, run: RunDirectory, prepared: Prepared, plm: PLM, runtime: Runtime) -> None:
        self.records: list[dict[str, Any]] = []
        self._run = run
        self._prepared = prepared
        self._plm = plm
        self._bf16 = runtime.bf16

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Recall the evaluations up to the checkpoint; later ones were dropped from the log just before."""
        self.records = stored_evaluations(self._run)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate where it is due."""
        if self._prepared.plan.due(state.global_step):
            found = distributed.on_main(lambda: measure(self._prepared, self._plm, self._bf16))
            self.records.append({"step": state.global_step} | found)
            self._run.log(self.records[-1])
            if self._prepared.plan.exhausted(self.records):
                state.max_steps = state.global_step  # so that this was the last step, for checkpoints and signals too
                control.should_training_stop = True


class Evaluated(Protocol):
    """A task and its validation examples, as `measure` asks for them."""

    @property
    def task(self) -> Task:
        """The task's record."""

    @property
    def data(self) -> TaskData:
        """All its examples."""

    @property
    def validation(self) -> Mapping[str, EncodedSplit]:
        """Tokenised examples by name of the split."""

    @property
    def selection(self) -> Mapping[str, tuple[DevPart, DevPart]]:
        """What the best evaluation is chosen on, and the rest; empty where it is chosen on the whole."""


def measure(prepared: Evaluated, plm: PLM, bf16: bool = False) -> dict[str, Any]:
    """Metrics on the validation splits.

    Returns:
        `evaluation`: all metrics; `degenerate`: whether the predictions are constant, or empty, on one of the splits;
        and where the best evaluation is chosen on a part of them, the metrics on it in `selection`, and in `rest`.
    """
    task, degenerate = prepared.task, False
    parts: dict[str, dict[str, dict[str, float]]] = {}
    for name, encoded in prepared.validation.items():
        outputs = predict_split(plm, encoded, bf16)
        if not all(np.isfinite(logits).all() for logits in outputs):
            raise TrainingError("The model's outputs are not finite; lower --learning-rate.")
        score = KINDS[task.kind].score
        whole, constant = score(task, outputs, encoded, prepared.data.validation[name])
        parts.setdefault("evaluation", {})[name] = whole
        degenerate = degenerate or constant
        if prepared.selection:
            chosen, rest = prepared.selection[name]
            border = len(chosen.encoded)
            parts.setdefault("selection", {})[name] = score(task, outputs[:border], chosen.encoded, chosen.split)[0]
            parts.setdefault("rest", {})[name] = score(task, outputs[border:], rest.encoded, rest.split)[0]
    return {part: combine(task, by_split) for part, by_split in parts.items()} | {"degenerate": degenerate}
