"""Evaluations during fine-tuning: when they are due, what they measure, and which one is the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from winning_tickets.config.transfer import ResolvedTransfer
from winning_tickets.data.metrics import (
    MOST_CLASSES,
    beats_one_answer,
    combine_splits,
    confusion_table,
    metric_names,
    primary_metric,
)
from winning_tickets.data.records import Task
from winning_tickets.finetuning.prepared_task import PreparedTask
from winning_tickets.models.heads import KINDS
from winning_tickets.models.loading import PLM
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import METRICS, RunDirectory, read_log
from winning_tickets.runs.errors import TrainingError, UsageError
from winning_tickets.training.predict import predict_split
from winning_tickets.training.trainer import Callback, TicketTrainer


@dataclass(frozen=True)
class EvaluationPlan:
    """The evaluations of one fine-tuning, of which the best one is reported (TAMT appendix B.2)."""

    config: ResolvedTransfer
    task: Task
    eval_steps: int
    steps_per_epoch: int
    steps: int

    @property
    def primary_split(self) -> str:
        wanted = f"validation_{self.config.mnli_dev}"
        return wanted if wanted in self.task.validation_splits else self.task.validation_splits[0]

    @property
    def primary(self) -> str:
        """The primary metric (TAMT Table 1: matched accuracy for MNLI; the released code takes the mismatched one)."""
        if len(self.task.validation_splits) == 1:
            return primary_metric(self.task)
        return f"{self.task.metrics[0]}_{self.primary_split.removeprefix('validation_')}"

    def is_due(self, step: int) -> bool:
        """Return True if an evaluation follows this step; one always follows the last step, for the score `final`."""
        epoch_ends = self.config.evaluate_each_epoch and step % self.steps_per_epoch == 0
        return self._is_regular(step) or epoch_ends or step == self.steps

    def counts(self, step: int) -> bool:
        """Return True if the evaluation after this step can become the best one."""
        if step == self.steps and not self.config.best_includes_final:
            return self._is_regular(step)
        return self.is_due(step)

    def _is_regular(self, step: int) -> bool:
        return (step + self.config.eval_offset_steps) % self.eval_steps == 0

    def check(self, splits: Collection[str]) -> None:
        """Refuse a plan without its primary split, or in which no evaluation can become the best one."""
        if self.primary_split not in splits:
            raise UsageError(
                f"The primary score would be that on {self.primary_split}, which the data of {self.task.name} lack; "
                f"they have {', '.join(splits)}. Give --mnli-dev matched, or complete the data."
            )
        if not any(self.counts(step) for step in range(1, self.steps + 1)):
            raise UsageError(
                f"No evaluation would count for best: there are {self.steps} steps, one evaluation every "
                f"{self.eval_steps}, and best_includes_final is off (the released code stops with an error here). "
                "Give a smaller --eval-steps, or --profile tuned."
            )

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up, during which a training never stops early."""
        return math.ceil(self.config.warmup_ratio * self.steps)

    def score(self, metrics: Mapping[str, float]) -> float:
        """The number that evaluations are ranked by."""
        if self.config.best_by == "accuracy-or-mean" and {"accuracy", "f1"} <= set(self.task.metrics):
            return max(metrics["accuracy"], (metrics["accuracy"] + metrics["f1"]) / 2)
        return metrics[self.primary]

    def rank(self, record: dict[str, Any]) -> float:
        """The number that an evaluation is ranked by: the `average` of a sharing, or the score on its `selection`."""
        if "average" in record:
            return float(record["average"])
        return self.score(record.get("selection", record["evaluation"]))

    def best(self, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """The first record of the highest rank among those that count."""
        # Where only scores above 0 count and there is none, `step` is None and all metrics are 0.
        records = list(records)
        measured = records[0]["evaluation"] if records else dict.fromkeys(metric_names(self.task), 0.0)
        zeros = {name: None if value is None else 0.0 for name, value in measured.items()}
        best: dict[str, Any] = {"step": None, "evaluation": zeros}
        highest = 0.0 if self.config.best_above_zero else float("-inf")
        for record in records:
            score = self.rank(record)
            if self.counts(record["step"]) and score > highest:
                best, highest = record, score
        return best

    def exhausted(self, records: list[dict[str, Any]]) -> bool:
        """Return True if none of the last `patience` evaluations that count, after the warm-up, was the best."""
        patience = self.config.patience
        counted = [record for record in records if self.counts(record["step"])]
        late = [record["step"] for record in counted if record["step"] >= self.warmup_steps]
        if patience is None or len(late) <= patience:
            return False
        return self.best(counted)["step"] not in late[-patience:]


class Evaluations(Callback):
    """Evaluates where it is due, and keeps the records here and in the run's `metrics.jsonl`."""

    # It happens at the end of a step, also at the end of an epoch: the checkpoint of that step is written after it, so
    # that a resumed run neither lacks an evaluation nor has one twice.

    def __init__(self, run: RunDirectory, plan: EvaluationPlan, evaluate: Callable[[], dict[str, Any]]) -> None:
        self.records: list[dict[str, Any]] = []
        self.confusion: dict[str, list[list[int]]] | None = None  # of the last evaluation, if it was made here
        self._run, self._plan, self._evaluate = run, plan, evaluate

    def on_train_begin(self, trainer: TicketTrainer) -> None:
        """Read the evaluations up to the checkpoint; later ones were dropped from the log just before."""
        if (self._run.path / METRICS).exists():
            self.records = [record for record in read_log(self._run.path) if "evaluation" in record]

    def on_step_end(self, trainer: TicketTrainer) -> None:
        """Evaluate where it is due, and stop the training once `patience` is exhausted."""
        if not self._plan.is_due(trainer.step):
            return
        found = distributed.on_main(self._evaluate)
        self.confusion = found.pop("confusion", None)
        self.records.append({"step": trainer.step} | found)
        self._run.log(self.records[-1])
        if self._plan.exhausted(self.records):
            trainer.max_steps = trainer.step  # this was the last step, for checkpoints and signals too


def has_confusion(task: Task) -> bool:
    """True for a task whose results have a confusion table."""
    return task.kind == "classification" and len(task.labels) <= MOST_CLASSES


def evaluate_dev_splits(prepared: PreparedTask, plm: PLM, bf16: bool = False) -> dict[str, Any]:
    """Metrics on the validation splits (`evaluation`), on the part that chooses the best one and on the `rest`."""
    # `degenerate` says whether the predictions are constant, or empty, or no better than that, on one of the splits.
    # `confusion` is the table of each split, where the labels are not too many classes.
    task, degenerate = prepared.task, False
    confusion: dict[str, list[list[int]]] = {}
    parts: dict[str, dict[str, dict[str, float]]] = {}
    for name, encoded in prepared.validation.items():
        outputs = predict_split(plm, encoded, bf16)
        if not all(np.isfinite(logits).all() for logits in outputs):
            raise TrainingError("The model's outputs are not finite; lower --learning-rate.")
        score = KINDS[task.kind].score
        whole, constant = score(task, outputs, encoded, prepared.data.validation[name])
        parts.setdefault("evaluation", {})[name] = whole
        if has_confusion(task):
            labels = prepared.data.validation[name].labels
            confusion[name] = confusion_table(np.stack(outputs).argmax(-1), np.asarray(labels), len(task.labels))
        degenerate = degenerate or constant or not beats_one_answer(task, whole, prepared.data.validation[name].labels)
        # The examples of the selection come first, so its outputs are the first ones too.
        if prepared.selection:
            chosen, rest = prepared.selection[name]
            border = len(chosen.encoded)
            parts.setdefault("selection", {})[name] = score(task, outputs[:border], chosen.encoded, chosen.split)[0]
            parts.setdefault("rest", {})[name] = score(task, outputs[border:], rest.encoded, rest.split)[0]
    found: dict[str, Any] = {part: combine_splits(task, by_split) for part, by_split in parts.items()}
    return found | {"degenerate": degenerate} | ({"confusion": confusion} if confusion else {})
