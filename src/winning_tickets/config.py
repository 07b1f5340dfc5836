"""What changes the numbers (frozen, in a run's identity) and, apart from it, where and how a run is executed.

A field that is None takes its value from the profile: `paper` (what the papers say), `code` (what their released
programs do, where they differ) or `tuned` (what measured best here; the default). An explicit field always wins.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from winning_tickets.errors import UsageError, unknown

Profile = Literal["paper", "code", "tuned"]
METHOD_NAMES = ("random", "magnitude", "mask-training")
OBJECTIVE_NAMES = ("kd", "mlm", "mlm+kd")
PROFILES = ("paper", "code", "tuned")
SCOPES = ("encoder+embeddings", "encoder", "encoder+embeddings+pooler", "encoder+pooler")


def check_sparsity(sparsity: float) -> Fraction:
    """The sparsity as the exact decimal that the user wrote.

    Floats would give `0.29 * 100 = 28.999...`; the shortest decimal of the float is what was meant.

    Raises:
        UsageError: not a number in [0, 1).
    """
    exact = Fraction(str(float(sparsity))) if math.isfinite(sparsity) else Fraction(-1)
    if not 0 <= exact < 1:
        raise UsageError(f"Sparsity {sparsity} is outside [0, 1); it is the fraction removed, for example 0.6.")
    return exact


class Settings(BaseModel):
    """Base of all configurations: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Build one, reporting every problem at once.

        Raises:
            UsageError: one or more fields are unknown or have impossible values.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            raise UsageError(_problems(cls, error)) from error


def _problems(cls: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(str(unknown("field", field, cls.model_fields)))
        else:
            lines.append(f"{field.replace('_', '-')}: {item['msg']} (found {item['input']!r}).")
    return "\n".join(lines)


class Runtime(Settings):
    """How a run is executed; never part of its identity.

    Attributes:
        device: `auto` (a GPU where there is one), `cpu` or `cuda`; CUDA_VISIBLE_DEVICES says which GPU.
        bf16: bfloat16 autocast; weights and scores stay float32.
        checkpoint_steps: optimiser steps between checkpoints; None means by time.
        checkpoint_seconds: seconds between checkpoints where `checkpoint_steps` is None.
        quiet: no progress on stderr.
    """

    device: str = "auto"
    bf16: bool = False
    checkpoint_steps: int | None = None
    checkpoint_seconds: float = 120.0
    quiet: bool = False


class SearchConfig(Settings):
    """A search for a ticket.

    Attributes:
        model: hub id, local folder or `builtin:minilm`.
        revision: hub revision of the model.
        layers: keep only the first so many layers.
        method: one of `METHOD_NAMES`.
        sparsity: fraction removed of the scope, in [0, 1).
        scope: which matrices compete; one of `SCOPES`.
        ranking: `matrix` (each matrix loses the same fraction) or `global`.
        profile: where unset fields take their values from.
        seed: of random masks, data order and MLM masking.
        objective: what mask training minimises, one of `OBJECTIVE_NAMES`.
        corpus: text the masks are trained on.
        data_dir: folder of a `task:NAME` corpus.
        steps: optimiser steps.
        batch_tokens: tokens an optimiser step sees, over all processes.
        segments: how the corpus is cut: `packed:L`, `lines`, `mixed`.
        learning_rate: of the scores (and of the MLM head unless `head_learning_rate` is given).
        head_learning_rate: of the MLM head.
        schedule_steps: steps after which the linearly decaying rate reaches zero; None means `steps`.
        warmup_steps: steps of linear warm-up.
        score_init: `rank` (scores rise with the rank of the absolute weight), `activation` (with the rank of the
            absolute weight times the norm of its input), `plateau` (TAMT eq. 5), `random`.
        alpha: kept entries start at alpha * phi (TAMT eq. 5).
        phi: the initial threshold (TAMT eq. 3).
        rank_by: scores are ranked `signed` or by `absolute` value (TAMT section 3.4.2; the code is signed).
        reselect_steps: steps between adjustments of the threshold.
        count_rounding: pruned count of n entries, `floor` or `nearest` (the released one-shot code rounds).
        train_embeddings: train the mask of the word embeddings too; else it stays as initialised.
        student_dropout: dropout of the student; None in the profile means the model's own.
        teacher_dropout: the teacher runs with dropout (the released KD code forgot to switch it off).
        optimizer: `adamw`, or `bertadam` (no bias correction).
        adam_epsilon: epsilon of the optimiser.
        weight_decay: on the scores.
        clip: `global` norm over scores and head, `tensor` by tensor, or `none`.
        max_grad_norm: the norm clipped to.
        mlm_probability: fraction of tokens masked for MLM.
        save_at: steps at which intermediate tickets are saved too.
    """

    model: str
    revision: str | None = None
    layers: int | None = None
    method: str = "mask-training"
    sparsity: float = 0.6
    scope: str | None = None
    ranking: Literal["matrix", "global"] = "matrix"
    profile: Profile = "tuned"
    seed: int = 0
    objective: str = "kd"
    corpus: str | None = None
    data_dir: str | None = None
    steps: int = 60
    batch_tokens: int | None = None
    segments: str | None = None
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    schedule_steps: int | None = None
    warmup_steps: int | None = None
    score_init: Literal["activation", "rank", "plateau", "random"] | None = None
    alpha: float = 2.0
    phi: float = 0.01
    rank_by: Literal["signed", "absolute"] | None = None
    reselect_steps: int | None = None
    count_rounding: Literal["floor", "nearest"] | None = None
    train_embeddings: bool | None = None
    student_dropout: float | None = None
    teacher_dropout: bool | None = None
    optimizer: Literal["adamw", "bertadam"] | None = None
    adam_epsilon: float | None = None
    weight_decay: float | None = None
    clip: Literal["global", "tensor", "none"] | None = None
    max_grad_norm: float = 1.0
    mlm_probability: float = 0.15
    save_at: tuple[int, ...] = ()

    def resolved(self) -> SearchConfig:
        """The same configuration with every open field filled from its profile."""
        values = _profile_values(self.profile, self.method, self.objective)
        return self.model_copy(update={key: value for key, value in values.items() if getattr(self, key) is None})


MODEL_DROPOUT = -1.0
"""`student_dropout` of a profile that leaves the model's own dropout on."""

_TUNED: dict[str, Any] = {
    "scope": "encoder+embeddings",
    "batch_tokens": 2048,
    "segments": "mixed",
    "learning_rate": 2e-4,
    "head_learning_rate": 5e-5,
    "warmup_steps": 0,
    "score_init": "activation",
    "rank_by": "signed",
    "reselect_steps": 1,
    "count_rounding": "floor",
    "train_embeddings": False,
    "student_dropout": 0.0,
    "teacher_dropout": False,
    "optimizer": "adamw",
    "adam_epsilon": 1e-8,
    "weight_decay": 0.0,
    "clip": "none",
}

_PAPER: dict[str, Any] = _TUNED | {
    "batch_tokens": 16 * 512,
    "segments": "packed:512",
    "learning_rate": 5e-5,
    "score_init": "plateau",
    "rank_by": "absolute",
    "train_embeddings": True,
    "student_dropout": MODEL_DROPOUT,
    "clip": "global",
}

_PAPER_BY_OBJECTIVE: dict[str, dict[str, Any]] = {"kd": {"learning_rate": 2e-5}, "mlm": {}, "mlm+kd": {}}

# What the released programs do where they differ from the paper; see docs/explanation/profiles.md.
_CODE: dict[str, Any] = {"scope": "encoder+embeddings+pooler", "rank_by": "signed", "reselect_steps": 1000}
_CODE_ONE_SHOT: dict[str, Any] = {"count_rounding": "nearest"}
_CODE_BY_OBJECTIVE: dict[str, dict[str, Any]] = {
    "kd": {
        "reselect_steps": 100,
        "teacher_dropout": True,
        "optimizer": "bertadam",
        "adam_epsilon": 1e-6,
        "weight_decay": 0.01,
        "clip": "tensor",
    },
    "mlm": {},
    "mlm+kd": {},
}


def _profile_values(profile: Profile, method: str, objective: str) -> dict[str, Any]:
    if profile == "tuned":
        return _TUNED
    values = _PAPER | _PAPER_BY_OBJECTIVE.get(objective, {})
    if profile == "code":
        values = (
            values | _CODE | (_CODE_BY_OBJECTIVE.get(objective, {}) if method == "mask-training" else _CODE_ONE_SHOT)
        )
    return values


class EvaluateConfig(Settings):
    """An evaluation of a model or ticket without fine-tuning.

    Attributes:
        target: a ticket, or a model's name.
        base: the base model of a ticket, where it has moved since the search.
        objectives: any of `kd`, `mlm`, `similarity`.
        corpus: text for KD and MLM; a folder's validation file is read.
        segments: how the corpus is cut.
        max_tokens: stop after so many unpadded tokens.
        batch_tokens: tokens a forward pass sees.
        task: scored-pairs task of the similarity.
        pairs_file: the user's own scored pairs, instead of a task.
        data_dir: GLUE folder.
        mlm_head: the base model's own MLM head or the one the ticket trained; None takes the ticket's if it has one.
        seed: of the MLM masking.
        allow_other_weights: evaluate the ticket on weights it was not made for.
    """

    target: str
    base: str | None = None
    revision: str | None = None
    layers: int | None = None
    objectives: tuple[str, ...] = ("kd",)
    corpus: str | None = None
    segments: str = "packed:128"
    max_tokens: int | None = None
    batch_tokens: int = 4096
    task: str | None = None
    pairs_file: str | None = None
    data_dir: str | None = None
    mlm_head: Literal["base", "ticket"] | None = None
    seed: int = 42
    allow_other_weights: bool = False


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


def load_config_file(path: Path) -> dict[str, Any]:
    """Fields from a YAML or JSON file, for `--config`.

    Raises:
        UsageError: no such file, or not a mapping of field names to values.
    """
    import yaml

    if not path.is_file():
        raise UsageError(f"There is no configuration file {path}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"The configuration file {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"The configuration file {path} must map field names to values, such as 'steps: 60'.")
    return {key.replace("-", "_"): value for key, value in content.items()}
