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
        """The primary metric (TAMT Table 1: matched accuracy for MNLI; the released code uses mismatched accuracy)."""
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
                f"they have {', '.join(splits)}. Set mnli_dev: matched in a --config file, or complete the data."
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
        """Return the number by which evaluations are ranked."""
        if self.config.best_by == "accuracy-or-mean" and {"accuracy", "f1"} <= set(self.task.metrics):
            return max(metrics["accuracy"], (metrics["accuracy"] + metrics["f1"]) / 2)
        return metrics[self.primary]

    def rank(self, record: dict[str, Any]) -> float:
        """Return the rank of an evaluation: the `average` of a sharing, or the score (on its `selection`, if any)."""
        if "average" in record:
            return float(record["average"])
        return self.score(record.get("selection", record["evaluation"]))

    def best(self, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Return the first record of the highest rank among those that count; a degenerate one only if all are."""
        # If only scores above 0 count and there is none, `step` is None and all metrics are 0.
        records = list(records)
        measured = records[0]["evaluation"] if records else dict.fromkeys(metric_names(self.task), 0.0)
        zeros = {name: None if value is None else 0.0 for name, value in measured.items()}
        best: dict[str, Any] = {"step": None, "evaluation": zeros}
        highest = 0.0 if self.config.best_above_zero else float("-inf")
        counted = [record for record in records if self.counts(record["step"])]
        # On a small part of the dev set a model with one answer for all examples can have the highest score.
        for record in [record for record in counted if not _is_degenerate(record)] or counted:
            if (score := self.rank(record)) > highest:
                best, highest = record, score
        return best

    def exhausted(self, records: list[dict[str, Any]]) -> bool:
        """Return True if each of the last `patience` evaluations that count, after the warm-up, is below the best."""
        patience = self.config.patience
        counted = [record for record in records if self.counts(record["step"])]
        late = [record for record in counted if record["step"] >= self.warmup_steps]
        if patience is None or len(late) <= patience:
            return False
        # On few examples scores are often equal, which does not show that training is over.
        best = self.rank(self.best(counted))
        return all(self.rank(record) < best for record in late[-patience:])


def _is_degenerate(record: Mapping[str, Any]) -> bool:
    """Return whether a model learned nothing; the model of several tasks, if it learned nothing on any of them."""
    found = record.get("of_all_tasks", record.get("degenerate", False))
    return any(found.values()) if isinstance(found, Mapping) else bool(found)


class Evaluations(Callback):
    """Evaluates when an evaluation is due, and keeps the records here and in the run's `metrics.jsonl`."""

    # Evaluations happen at the end of a step, also at the end of an epoch. The checkpoint of that step is written after
    # the evaluation, so that a resumed run neither lacks an evaluation nor has one twice.

    def __init__(self, run: RunDirectory, plan: EvaluationPlan, evaluate: Callable[[], dict[str, Any]]) -> None:
        self.records: list[dict[str, Any]] = []
        self.confusion: dict[str, list[list[int]]] | None = None  # of the last evaluation, if this process made it
        self._run, self._plan, self._evaluate = run, plan, evaluate

    def on_train_begin(self, trainer: TicketTrainer) -> None:
        """Read the evaluations up to the checkpoint; later ones have just been removed from the log."""
        if (self._run.path / METRICS).exists():
            self.records = [record for record in read_log(self._run.path) if "evaluation" in record]

    def on_step_end(self, trainer: TicketTrainer) -> None:
        """Evaluate if it is due, and stop the training once `patience` is exhausted."""
        if not self._plan.is_due(trainer.step):
            return
        found = distributed.on_main(self._evaluate)
        self.confusion = found.pop("confusion", None)
        self.records.append({"step": trainer.step} | found)
        self._run.log(self.records[-1])
        if self._plan.exhausted(self.records):
            trainer.max_steps = trainer.step  # this was the last step, also for checkpoints and signals


def has_confusion(task: Task) -> bool:
    """Return whether the results of a task have a confusion table."""
    return task.kind == "classification" and len(task.labels) <= MOST_CLASSES


def evaluate_dev_splits(prepared: PreparedTask, plm: PLM, *, bf16: bool = False) -> dict[str, Any]:
    """Return the metrics on the validation splits (`evaluation`), and on their parts `selection` and `rest`, if any.

    `selection` is the part on which the best evaluation is chosen.
    """
    # `degenerate` says whether, on any split, the predictions are constant, empty or no better than a constant answer.
    # `confusion` is the table of the reported examples of each split, if the task does not have too many classes.
    task, degenerate = prepared.task, False
    confusion: dict[str, list[list[int]]] = {}
    parts: dict[str, dict[str, dict[str, float]]] = {}
    for name, encoded in prepared.validation.items():
        outputs = predict_split(plm, encoded, bf16=bf16)
        if not all(np.isfinite(logits).all() for logits in outputs):
            error = TrainingError("The model's outputs are not finite; lower --learning-rate.")
            error.diverged = True
            raise error
        score = KINDS[task.kind].score
        whole, constant = score(task, outputs, encoded, prepared.data.validation[name])
        parts.setdefault("evaluation", {})[name] = whole
        if has_confusion(task):
            labels = prepared.reported[name].labels
            confusion[name] = confusion_table(
                np.stack(outputs[-len(labels) :]).argmax(-1), np.asarray(labels), len(task.labels)
            )
        degenerate = degenerate or constant or not beats_one_answer(task, whole, prepared.data.validation[name].labels)
        # The examples of the selection come first, so their outputs do, too.
        if prepared.selection:
            chosen, rest = prepared.selection[name]
            border = len(chosen.encoded)
            parts.setdefault("selection", {})[name] = score(task, outputs[:border], chosen.encoded, chosen.split)[0]
            parts.setdefault("rest", {})[name] = score(task, outputs[border:], rest.encoded, rest.split)[0]
    found: dict[str, Any] = {part: combine_splits(task, by_split) for part, by_split in parts.items()}
    return found | {"degenerate": degenerate} | ({"confusion": confusion} if confusion else {})
