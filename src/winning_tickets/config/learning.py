"""What methods that train weights, or differentiate a loss, learn from: text, tasks or both; and rounds of pruning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from winning_tickets.config.settings import Settings


class LearningSettings(Settings):
    """The part of a `SearchConfig` about learning from tasks, and about iterative pruning.

    Attributes:
        tasks: names of `data.tasks.TASKS` that the objective's `task` term stands for.
        train_file: the user's own training file, as one more task.
        text_columns: its text columns.
        label_column: its label column.
        kind: what is predicted in it; None looks at the file.
        train_size: `N` examples or `P%` of each task's training set, nested and seeded.
        batch_size: examples of a task a step; None means the task's own.
        max_length: tokens an example is cut to; None means the task's own.
        mixing: with several sources each step is one batch of all of them, their losses added (`sum`), or a batch of
            one of them, drawn as often as it has batches (`proportional`).
        round_steps: optimiser steps of a round.
        round_epochs: the same as passes over the largest source.
        round_examples: the same as examples (segments of text) of all sources.
        rewind: what a pruned network goes back to: `pretrained`, `step:K`, `percent:P` of the first round, `none`,
            `noise[:SCALE]` (the pre-trained weights plus noise) or `reinit`.
        rewind_scope: what goes back: `all` (encoder and heads), `encoder`, or only the `prunable` matrices.
        prune_first: prune the pre-trained weights before the first round.
        rate_horizon: the learning rate decays to zero over each `round`, or over all rounds in `total`.
        reset_optimizer: forget the optimiser's moments after each round.
        save_trained: keep the weights at the end of each round, for `transfer --start-from`.
    """

    tasks: tuple[str, ...] = ()
    train_file: str | None = None
    text_columns: tuple[str, ...] | None = None
    label_column: str = "label"
    kind: Literal["classification", "regression", "multilabel", "tokens", "span"] | None = None
    train_size: str | None = None
    batch_size: int | None = Field(default=None, ge=1)
    max_length: int | None = Field(default=None, ge=1)
    mixing: Literal["sum", "proportional"] = "sum"
    round_steps: int | None = Field(default=None, ge=1)
    round_epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    round_examples: int | None = Field(default=None, ge=1)
    rewind: str | None = None
    rewind_scope: Literal["all", "encoder", "prunable"] | None = None
    prune_first: bool | None = None
    rate_horizon: Literal["round", "total"] | None = None
    reset_optimizer: bool | None = None
    save_trained: bool = False

    @field_validator("tasks")
    @classmethod
    def _sorted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Each once and in one order, so that equal sets are equal runs."""
        return tuple(sorted(set(value)))
