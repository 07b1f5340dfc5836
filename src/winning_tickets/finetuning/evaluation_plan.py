"""When a fine-tuning is evaluated, and which of its evaluations is the best one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from winning_tickets.config import TransferConfig
from winning_tickets.data.encode import EncodedSplit
from winning_tickets.data.metrics import metric_names, primary_metric
from winning_tickets.data.records import Split, Task
from winning_tickets.runs.errors import UsageError


@dataclass(frozen=True)
class EvaluationPlan:
    """The evaluations of one fine-tuning (TAMT appendix B.2: the best of those along the way is reported).

    Attributes:
        config: with all choices resolved.
        task: what it is evaluated on.
        eval_steps: steps between evaluations.
        steps_per_epoch: optimiser steps of a pass over the training set.
        steps: optimiser steps in all.
    """

    config: TransferConfig
    task: Task
    eval_steps: int
    steps_per_epoch: int
    steps: int

    @property
    def primary_split(self) -> str:
        """The validation split whose metric is primary."""
        wanted = f"validation_{self.config.mnli_dev}"
        return wanted if wanted in self.task.validation_splits else self.task.validation_splits[0]

    @property
    def primary(self) -> str:
        """The primary metric (TAMT Table 1: matched accuracy for MNLI; its program takes the mismatched one)."""
        if len(self.task.validation_splits) == 1:
            return primary_metric(self.task)
        return f"{self.task.metrics[0]}_{self.primary_split.removeprefix('validation_')}"

    def due(self, step: int) -> bool:
        """Whether an evaluation follows this step: always after the last one, `final` needs it."""
        epoch_ends = bool(self.config.evaluate_each_epoch) and step % self.steps_per_epoch == 0
        return self._regular(step) or epoch_ends or step == self.steps

    def counts(self, step: int) -> bool:
        """Whether the evaluation after this step can become the best one."""
        if step == self.steps and not self.config.best_includes_final:
            return self._regular(step)
        return self.due(step)

    def _regular(self, step: int) -> bool:
        return (step + (self.config.eval_offset_steps or 0)) % self.eval_steps == 0

    def check(self) -> None:
        """Make sure that there will be a best evaluation.

        Raises:
            UsageError: none of the steps counts.
        """
        if not any(self.counts(step) for step in range(1, self.steps + 1)):
            raise UsageError(
                f"No evaluation would count for best: there are {self.steps} steps, one evaluation every "
                f"{self.eval_steps}, and best_includes_final is off (the released program stops with an error here). "
                "Give a smaller --eval-steps, or --profile tuned."
            )

    def score(self, metrics: dict[str, float]) -> float:
        """What evaluations are ranked by."""
        if self.config.best_by == "accuracy-or-mean" and {"accuracy", "f1"} <= set(self.task.metrics):
            return max(metrics["accuracy"], (metrics["accuracy"] + metrics["f1"]) / 2)
        return metrics[self.primary]

    def best(self, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """The first record with the highest score among those that count.

        Args:
            records: evaluations in order: `step` and `evaluation`, the metrics by name; `selection`, those on the
                part of the dev set that the best one is chosen on, where there is one.

        Returns:
            That record. Where only scores above 0 are recorded and there is none: `step` None and zeros.
        """
        best: dict[str, Any] = {"step": None, "evaluation": dict.fromkeys(metric_names(self.task), 0.0)}
        highest = 0.0 if self.config.best_above_zero else float("-inf")
        for record in records:
            score = self.score(record.get("selection", record["evaluation"]))
            if self.counts(record["step"]) and score > highest:
                best, highest = record, score
        return best

    def exhausted(self, records: list[dict[str, Any]]) -> bool:
        """Whether the last `patience` evaluations that count brought no new best one."""
        patience = self.config.patience
        counted = [record for record in records if self.counts(record["step"])]
        if patience is None or len(counted) <= patience:
            return False
        return self.best(counted)["step"] not in [record["step"] for record in counted[-patience:]]


def problems(config: TransferConfig) -> list[str]:
    """What cannot be meant in the choices of a configuration, one line each."""
    found = []
    if config.mnli_dev is not None and config.task != "mnli":
        found.append(f"mnli_dev {config.mnli_dev!r} goes with --task mnli.")
    if config.eval_offset_steps is not None and config.eval_offset_steps < 0:
        found.append(f"eval_offset_steps {config.eval_offset_steps} is impossible; it must not be negative.")
    if not 0 <= config.select_on < 1:
        found.append(f"--select-on {config.select_on:g} is outside [0, 1).")
    if config.patience is not None and config.patience < 1:
        found.append(f"--patience {config.patience} is impossible; at least 1.")
    return found


@dataclass(frozen=True)
class DevPart:
    """Some of the examples of a validation split.

    Attributes:
        split: texts and labels.
        encoded: the same for the model.
    """

    split: Split
    encoded: EncodedSplit


def selected_count(share: float, available: int, name: str) -> int:
    """How many examples of a dev set the best evaluation is chosen on: `share` of them, rounded down.

    Raises:
        UsageError: none, or all of them.
    """
    count = int(Fraction(str(share)) * available)
    if not 0 < count < available:
        raise UsageError(
            f"--select-on {share:g} takes {count} of the {available} examples of {name}; at least one must be chosen "
            "on, and one be left to report on."
        )
    return count
