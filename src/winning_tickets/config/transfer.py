"""The configuration of fine-tuning on a task."""

from __future__ import annotations

from winning_tickets.config.settings import Settings


class TransferConfig(Settings):
    """Fine-tuning of a model or ticket on a task, once for each seed.

    Fields left None take the task's own values (TAMT Table 1).

    Attributes:
        target: a ticket, or a model's name (the dense baseline).
        base: the base model of a ticket, where it has moved since the search.
        task: a name of `data.tasks.TASKS`; or `train_file` and `validation_file`.
        data_dir: GLUE folder.
        text_columns: text columns of the user's files.
        label_column: label column of the user's files.
        metric: primary metric of the user's files.
        seeds: one run each: head initialisation, data order, dropout.
        train_size: `N` examples or `P%` of the training set, nested and seeded.
        train_size_seed: seed of that subset; None takes each run's own seed.
        epochs: passes over the training set.
        steps: optimiser steps, instead of epochs.
        batch_size: examples a step.
        learning_rate: peak rate of AdamW, decaying linearly to zero.
        warmup_ratio: fraction of the steps with linear warm-up.
        weight_decay: of AdamW.
        max_length: tokens an example is cut to.
        eval_steps: steps between evaluations; there is at least one an epoch.
        save_model: keep each seed's final model.
        allow_other_weights: use the ticket on weights it was not made for.
    """

    target: str
    base: str | None = None
    revision: str | None = None
    layers: int | None = None
    task: str | None = None
    data_dir: str | None = None
    train_file: str | None = None
    validation_file: str | None = None
    text_columns: tuple[str, ...] | None = None
    label_column: str = "label"
    metric: str | None = None
    seeds: tuple[int, ...] = (0,)
    train_size: str | None = None
    train_size_seed: int | None = None
    epochs: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_length: int | None = None
    eval_steps: int | None = None
    save_model: bool = False
    allow_other_weights: bool = False
