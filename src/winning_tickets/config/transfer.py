"""The configuration of fine-tuning on a task."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from winning_tickets.config.profiles import Profile
from winning_tickets.config.settings import Count, Seed, Settings
from winning_tickets.config.weights import PRETRAINED


class Smart(Settings):
    """How SMART searches for the noise that changes the outputs most (Jiang et al. 2020, Algorithm 1).

    Attributes:
        alpha: weight of the regularisation beside the loss; 0 leaves it out.
        steps: ascent steps.
        noise: standard deviation of the noise that the ascent starts from.
        step_size: length of an ascent step, in the norm.
        radius: the largest norm that the noise may have.
        norm: `inf`, `l2` or `l1`.
        level: the norm is taken over each `token`'s embedding, or over those of a whole `sentence`.
    """

    alpha: float = 1.0
    steps: int = 1
    noise: float = 1e-5
    step_size: float = 1e-3
    radius: float = 1e-5
    norm: Literal["inf", "l2", "l1"] = "inf"
    level: Literal["token", "sentence"] = "token"

    def problems(self) -> list[str]:
        """What is impossible, a line each."""
        found = []
        if not (self.alpha >= 0 and math.isfinite(self.alpha)):
            found.append(f"--smart {self.alpha} is impossible; its weight must not be negative.")
        if self.steps < 1:
            found.append(f"smart: steps {self.steps} is impossible; at least 1.")
        for field in ("noise", "step_size", "radius"):
            value = getattr(self, field)
            if not (value > 0 and math.isfinite(value)):
                found.append(f"smart: {field} {value} is impossible; it must be above 0.")
        return found


_TUNED: dict[str, Any] = {
    "evaluate_each_epoch": True,
    "eval_offset_steps": 0,
    "best_includes_final": True,
    "best_above_zero": False,
    "best_by": "primary",
    "mnli_dev": "matched",
    "padding": "longest",
}
_PAPER: dict[str, Any] = _TUNED | {"evaluate_each_epoch": False}
# What the released program does where it differs from the paper; see docs/explanation/profiles.md.
_CODE: dict[str, Any] = _PAPER | {
    "best_includes_final": False,
    "best_above_zero": True,
    "best_by": "accuracy-or-mean",
    "mnli_dev": "mismatched",
    "padding": "max-length",
}
_CODE_BY_TASK: dict[str, dict[str, Any]] = {"squad": {"eval_offset_steps": 1}}


def transfer_profile(profile: Profile, task: str | None) -> dict[str, Any]:
    """What a profile gives the open fields of a `TransferConfig`, by task; `resolved` says which are open."""
    if profile == "code":
        return _CODE | _CODE_BY_TASK.get(task or "", {})
    return _PAPER if profile == "paper" else _TUNED


class TransferConfig(Settings):
    """Fine-tuning of a model or ticket on a task, once for each seed.

    Numbers left None take the task's own values (TAMT Table 1), choices left None those of the profile.

    Attributes:
        target: a ticket, or a model's name (the dense baseline); or a transfer or share with a saved model, which
            fine-tuning goes on from.
        base: the base model of a ticket, where it has moved since the search.
        start_from: the encoder's weights when fine-tuning starts, which the ticket is held on: `pretrained`, `reinit`,
            `shuffle-within`, `shuffle-layers`, `noise:SCALE`, a state file, or a folder with Hugging Face weights.
        from_task: of a shared model: the task whose head and ticket are used; None takes the one called like `task`.
        fresh_head: draw the head afresh also where that of a fine-tuned target knows all labels.
        task: a name of `data.tasks.TASKS`, or of a task of `task_file`; or `train_file` and `validation_file`.
        task_file: YAML with definitions of tasks, in MT-DNN's form.
        profile: where unset choices take their values from.
        data_dir: folder with the task's data: a GLUE download, or a copy of the hub's repository.
        text_columns: text columns of the user's files.
        label_column: label column of the user's files.
        metric: primary metric of the user's files.
        kind: what is predicted in the user's files; None looks at them.
        seeds: one run each: head initialisation, data order, dropout.
        train_size: `N` examples or `P%` of the training set, nested and seeded.
        train_size_seed: seed of that subset; None takes each run's own seed.
        epochs: passes over the training set.
        steps: optimiser steps, instead of epochs.
        batch_size: examples a step.
        learning_rate: peak rate, decaying linearly to zero.
        optimizer: `adamw`, `adamax`, or `adamax-mtdnn` (without bias correction), which the super tickets were
            trained with; gradients are clipped to a norm of 1.
        warmup_ratio: fraction of the steps with linear warm-up.
        weight_decay: of the optimiser; biases and norms never decay.
        head_dropout: dropout before the head; None leaves it as the task or the model has it.
        max_length: tokens an example, or a window over a long text, is cut to.
        doc_stride: of answers in texts: tokens from the start of one window to that of the next.
        eval_steps: steps between evaluations.
        evaluate_each_epoch: evaluate at the end of each epoch too.
        eval_offset_steps: evaluations come so many steps early; the released SQuAD program counts from 1.
        best_includes_final: the evaluation after the last step can be the best; else only where it is due anyway.
        best_above_zero: only scores above 0 are ever recorded as best, as in the released program.
        best_by: `primary` metric, or `accuracy-or-mean`: the larger of accuracy and its mean with F1, where the task
            has both (the released program).
        mnli_dev: the validation set whose accuracy is primary on MNLI, `matched` or `mismatched`.
        padding: training batches are padded to the `longest` example, or to `max-length`.
        select_on: the share of each validation split, seeded, on which the best evaluation is chosen; metrics are then
            reported on that part, on the rest and on the whole. 0 chooses on the whole.
        select_on_seed: of that choice.
        patience: stop after so many evaluations without a new best one; None goes through all steps.
        smart: adversarial regularisation; None goes without.
        save_model: keep each seed's final model.
        allow_other_weights: use the ticket on weights it was not made for, start from a state of another model.
    """

    target: str
    base: str | None = None
    revision: str | None = None
    layers: Count | None = None
    start_from: str = PRETRAINED
    from_task: str | None = None
    fresh_head: bool = False
    task: str | None = None
    task_file: str | None = None
    profile: Profile = "tuned"
    data_dir: str | None = None
    train_file: str | None = None
    validation_file: str | None = None
    text_columns: tuple[str, ...] | None = None
    label_column: str = "label"
    metric: str | None = None
    kind: Literal["classification", "regression", "multilabel", "tokens", "span"] | None = None
    seeds: tuple[int, ...] = (0,)
    train_size: str | None = None
    train_size_seed: Seed | None = None
    epochs: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    optimizer: Literal["adamw", "adamax", "adamax-mtdnn"] = "adamw"
    head_dropout: float | None = None
    max_length: int | None = None
    doc_stride: int | None = None
    eval_steps: int | None = None
    evaluate_each_epoch: bool | None = None
    eval_offset_steps: int | None = None
    best_includes_final: bool | None = None
    best_above_zero: bool | None = None
    best_by: Literal["primary", "accuracy-or-mean"] | None = None
    mnli_dev: Literal["matched", "mismatched"] | None = None
    padding: Literal["longest", "max-length"] | None = None
    select_on: float = 0.0
    select_on_seed: Seed = 0
    patience: int | None = None
    smart: Smart | None = None
    save_model: bool = False
    allow_other_weights: bool = False

    def resolved(self) -> ResolvedTransfer:
        """The same configuration with every open choice filled from its profile."""
        return self.filled(ResolvedTransfer, transfer_profile(self.profile, self.task))


class ResolvedTransfer(TransferConfig):
    """A fine-tuning whose open choices have the values of its profile."""

    if TYPE_CHECKING:
        evaluate_each_epoch: bool
        eval_offset_steps: int
        best_includes_final: bool
        best_above_zero: bool
        best_by: Literal["primary", "accuracy-or-mean"]
        mnli_dev: Literal["matched", "mismatched"]
        padding: Literal["longest", "max-length"]


WARMUP_RATIO = 0.06
"""Fraction of the steps that the learning rates rise where `warmup_steps` is None."""


class FitHeadConfig(Settings):
    """Fitting an MLM head to an encoder that has none.

    Attributes:
        model: hub id, local folder or `builtin:minilm`; without a trained MLM head.
        revision: hub revision of the model.
        layers: keep only the first so many layers.
        corpus: text the head is trained on.
        data_dir: folder of a `task:NAME` corpus.
        steps: optimiser steps.
        train_encoder: train the encoder too; else it stays as it is, bit for bit, and so do its tickets.
        batch_tokens: tokens an optimiser step sees.
        segments: how the corpus is cut: `packed:L`, `lines`, `mixed`.
        learning_rate: peak rate of the head.
        encoder_learning_rate: peak rate of the encoder, where it is trained.
        warmup_steps: steps over which the rates rise; None takes 6 % of all. After them they decay linearly to zero.
        weight_decay: of AdamW, on matrices only.
        mlm_probability: fraction of tokens masked.
        max_tokens: unpadded tokens of the validation part that the result is measured on; None means all, as in
            `tickets evaluate`.
        seed: of the fresh head, the data order and the masking.
    """

    model: str
    revision: str | None = None
    layers: Count | None = None
    corpus: str | None = None
    data_dir: str | None = None
    steps: int = 1000
    train_encoder: bool = False
    batch_tokens: int = Field(default=2048, ge=1)
    segments: str = "packed:128"
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    encoder_learning_rate: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    warmup_steps: int | None = Field(default=None, ge=0)
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    mlm_probability: float = 0.15
    max_tokens: int | None = Field(default=None, ge=1)
    seed: Seed = 0

    @property
    def warmup(self) -> int:
        """Steps of the warm-up."""
        return math.ceil(WARMUP_RATIO * self.steps) if self.warmup_steps is None else self.warmup_steps


class EvaluateConfig(Settings):
    """An evaluation of a model or ticket without fine-tuning.

    Attributes:
        target: a ticket, or a model's name.
        base: the base model of a ticket, where it has moved since the search.
        objectives: any of `kd`, `mlm`, `attention`, `contrastive`, `logits`, `similarity`.
        corpus: text for all but the similarity; a folder's validation file is read.
        segments: how the corpus is cut.
        max_tokens: stop after so many unpadded tokens.
        batch_tokens: tokens a forward pass sees.
        task: scored-pairs task of the similarity.
        pairs_file: the user's own scored pairs, instead of a task.
        data_dir: GLUE folder.
        kd_loss: distance of the hidden states: 1 - `cosine` (TAMT eq. 6), or `mse` (what the released program reports).
        kd_padding: padded positions are `ignored` in it, or `counted` (the released program).
        kd_masked_tokens: tokens corrupted in each segment for it (the released program: one).
        temperature: of the contrastive loss.
        mlm_head: the base model's own MLM head or the one the ticket trained; None takes the ticket's if it has one.
        seed: of the MLM masking.
        allow_other_weights: evaluate the ticket on weights it was not made for.
    """

    target: str
    base: str | None = None
    revision: str | None = None
    layers: Count | None = None
    objectives: tuple[str, ...] = ("kd",)
    corpus: str | None = None
    segments: str = "packed:128"
    max_tokens: Count | None = None
    batch_tokens: Count = 4096
    task: str | None = None
    pairs_file: str | None = None
    data_dir: str | None = None
    kd_loss: Literal["cosine", "mse"] = "cosine"
    kd_padding: Literal["ignored", "counted"] = "ignored"
    kd_masked_tokens: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    mlm_head: Literal["base", "ticket"] | None = None
    seed: Seed = 42
    allow_other_weights: bool = False
