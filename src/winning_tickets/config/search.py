"""The configuration of a search for a ticket."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from winning_tickets.config.objective import (
    ALL_NAMES,
    GATE_NAMES,
    SOURCE_NAMES,
    STRUCTURED_NAMES,
    TERM_NAMES,
    canonical_objective,
    parse_objective,
)
from winning_tickets.config.profiles import (
    GATE_TRAINING,
    METHOD_NEEDS,
    MethodNeeds,
    Profile,
    gate_values,
    learned_values,
    profile_values,
    structured_values,
)
from winning_tickets.config.settings import Count, Rate, Seed, Settings
from winning_tickets.config.sparsity import Pattern, check_sparsity
from winning_tickets.config.structured import UNIT_FIELDS, StructuredSettings
from winning_tickets.config.weights import PRETRAINED
from winning_tickets.runs.errors import UsageError


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


_Sparsity = Annotated[float, Field(allow_inf_nan=True)]
"""`check_sparsity` has a better message."""
SCOPES = ("encoder+embeddings", "encoder", "encoder+embeddings+pooler", "encoder+pooler")


class SearchConfig(LearningSettings, StructuredSettings):
    """A search for a ticket.

    The fields about learning from tasks and about rounds are those of `LearningSettings`, those about heads, FFNs and
    neurons of `StructuredSettings`.

    Attributes:
        model: hub id, local folder or `builtin:minilm`.
        revision: hub revision of the model.
        layers: keep only the first so many layers.
        method: one of `METHOD_NAMES`.
        sparsity: fraction removed of the scope, in [0, 1); several make a ladder, one ticket for each.
        scope: which matrices compete; one of `SCOPES`.
        ranking: `matrix` (each matrix loses the same fraction), `row` (each row of it does) or `global`.
        like: of `random`: a ticket that says how many weights of each matrix are kept, and so the sparsity and scope.
        weights_from: of `magnitude`: the weights that are ranked, as in `TransferConfig.start_from`.
        pattern: `N:M`: N of every M consecutive weights along the input dimension are kept; it sets the sparsity.
        profile: where unset fields take their values from.
        seed: of random masks, data order and MLM masking.
        objective: what mask training minimises: a term of `TERM_NAMES` or a weighted sum such as `mlm:1,kd:2`; equal
            sums are kept in one form.
        temperature: of the objective's `contrastive` term.
        logits_temperature: of the objective's `logits` term.
        corpus: text the masks are trained on.
        data_dir: folder of a `task:NAME` corpus.
        steps: optimiser steps; of a ladder, those of its first rung.
        rung_steps: optimiser steps of every further rung of a ladder; None means half of `steps`.
        batch_tokens: tokens an optimiser step sees, over all processes.
        segments: how the corpus is cut: `packed:L`, `lines`, `mixed`, `sections:L`.
        short_sequence_probability: share of the sections for whose sequences a random length is aimed at.
        calibration_batches: batches over which the norms of inputs are taken, for `wanda` and `score_init`.
        learning_rate: of the scores (and of the MLM head unless `head_learning_rate` is given).
        head_learning_rate: of the MLM head.
        schedule_steps: steps after which the linearly decaying rate reaches zero; None means `schedule_passes`.
        schedule_passes: passes over the corpus after which it reaches zero, or later if `steps` are more; 0: `steps`.
        warmup_steps: steps of linear warm-up.
        step_offset: steps taken beyond `steps`; the released KD program saves its tickets one step early.
        score_init: `rank` (scores rise with the rank of the absolute weight), `activation` (with the rank of the
            absolute weight times the norm of its input), `plateau` (TAMT eq. 5), `random`.
        alpha: kept entries start at alpha * phi (TAMT eq. 5).
        phi: the initial threshold (TAMT eq. 3).
        rank_by: scores are ranked `signed` or by `absolute` value (TAMT section 3.4.2; the code is signed).
        reselect_steps: steps between adjustments of the threshold.
        cadence: `after` every `reselect_steps` steps, or `before`: one step earlier, and after the first step too.
        threshold: between adjustments an entry is kept that `reached` the threshold (TAMT eq. 3) or `exceeded` it.
        count_rounding: pruned count of n entries, `floor` or `nearest` (the released one-shot code rounds).
        train_embeddings: train the mask of the word embeddings too; else it stays as initialised.
        student_dropout: dropout of the student; None in the profile means the model's own.
        teacher_dropout: the teacher runs with dropout (the released KD code forgot to switch it off).
        optimizer: `adamw`, `adamw-hf` (epsilon before the bias correction) or `bertadam` (no bias correction).
        adam_epsilon: epsilon of the optimiser.
        weight_decay: on the scores.
        clip: `global` norm over scores and head, `tensor` by tensor, or `none`.
        max_grad_norm: the norm clipped to.
        mlm_probability: fraction of tokens masked for MLM.
        kd_masked_tokens: tokens corrupted in each sequence of a search without MLM (the released KD code: one).
        kd_padding: padded positions are `ignored` in the KD loss, or `counted` (the released KD code).
        save_at: steps at which intermediate tickets are saved too.
    """

    model: str
    revision: str | None = None
    layers: Count | None = None
    method: str = "mask-training"
    sparsity: _Sparsity | tuple[_Sparsity, ...] = 0.6
    scope: str | None = None
    ranking: Literal["matrix", "row", "global"] = "matrix"
    pattern: str | None = None
    like: str | None = None
    weights_from: str = PRETRAINED
    profile: Profile = "tuned"
    seed: Seed = 0
    objective: str = "kd"
    temperature: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    logits_temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    corpus: str | None = None
    data_dir: str | None = None
    steps: int = 60
    rung_steps: int | None = None
    batch_tokens: int | None = None
    segments: str | None = None
    short_sequence_probability: float = Field(default=0.1, ge=0, le=1)
    calibration_batches: int = Field(default=8, ge=1)
    learning_rate: Rate | None = None
    head_learning_rate: Rate | None = None
    schedule_steps: int | None = None
    schedule_passes: int | None = Field(default=None, ge=0)
    warmup_steps: int | None = None
    step_offset: int | None = None
    score_init: Literal["activation", "rank", "plateau", "random"] | None = None
    alpha: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    phi: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    rank_by: Literal["signed", "absolute"] | None = None
    reselect_steps: int | None = Field(default=None, ge=1)
    cadence: Literal["after", "before"] | None = None
    threshold: Literal["reached", "exceeded"] | None = None
    count_rounding: Literal["floor", "nearest"] | None = None
    train_embeddings: bool | None = None
    student_dropout: float | None = None
    teacher_dropout: bool | None = None
    optimizer: Literal["adamw", "adamw-hf", "bertadam"] | None = None
    adam_epsilon: float | None = None
    weight_decay: float | None = None
    clip: Literal["global", "tensor", "none"] | None = None
    max_grad_norm: float = 1.0
    mlm_probability: float = 0.15
    kd_masked_tokens: int | None = Field(default=None, ge=0)
    kd_padding: Literal["ignored", "counted"] | None = None
    save_at: tuple[int, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, values: Any) -> Any:
        """What a method or a pattern sets by default is written down, so that it counts in an id."""
        if not isinstance(values, dict):
            return values
        method = str(values.get("method", cls.model_fields["method"].default))
        needs = _needs_of(method, any(values.get(field) not in (None, (), []) for field in UNIT_FIELDS))
        defaults = dict(needs.defaults)
        if needs.sources and (values.get("tasks") or values.get("train_file")):
            defaults["objective"] = "task"
        if needs.sources and values.get("profile") in ("paper", "code"):
            defaults["ranking"] = "global"  # one threshold over all matrices (Chen et al. 2020)
        if needs.structured and not needs.gates and values.get("importance_from") is not None:
            defaults["objective"] = "task"
        if isinstance(values.get("pattern"), str):
            defaults = {key: value for key, value in defaults.items() if key not in ("ranking", "sparsity")}
            defaults |= _defaults_of_a_pattern(values["pattern"])
        return defaults | values

    @field_validator("pattern", mode="before")
    @classmethod
    def _not_a_number(cls, value: Any) -> Any:
        """YAML 1.1 reads 2:4 without quotes as 124, in base 60."""
        if isinstance(value, int):
            raise ValueError("write it with quotes in a configuration file, such as pattern: '2:4'")
        return value

    @field_validator("sparsity")
    @classmethod
    def _in_order(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        """Ascending, each once; a ladder of one rung is a plain search."""
        for one in value if isinstance(value, tuple) else (value,):
            if not math.isfinite(one):
                check_sparsity(one)
        if not isinstance(value, tuple):
            return value
        rungs = tuple(sorted(set(value)))
        if not rungs:
            raise ValueError("give at least one sparsity")
        return rungs if len(rungs) > 1 else rungs[0]

    @field_validator("objective")
    @classmethod
    def _in_one_form(cls, value: str) -> str:
        """Equal sums are written alike, so that they share an id; what is no sum is refused with all else that is."""
        try:
            return canonical_objective(parse_objective(value, ALL_NAMES))
        except UsageError:
            return value

    @property
    def needs(self) -> MethodNeeds:
        """What the method reads besides the model; of an unknown one nothing."""
        return _needs_of(self.method, any(getattr(self, field) for field in UNIT_FIELDS))

    @property
    def terms(self) -> dict[str, float]:
        """Weights of the terms of the objective; none for a method without one.

        Raises:
            UsageError: not a sum of terms that the method knows.
        """
        if self.needs.gates:
            return parse_objective(self.objective, GATE_NAMES)
        if not self.needs.objective or (self.needs.structured and self.selection == "random"):
            return {}
        if self.needs.structured:
            return parse_objective(self.objective, STRUCTURED_NAMES)
        return parse_objective(self.objective, SOURCE_NAMES if self.needs.sources else TERM_NAMES)

    @property
    def reads_corpus(self) -> bool:
        """Whether `corpus` is read."""
        if self.needs.sources:
            return "mlm" in self.terms
        return self.needs.corpus or (self.needs.structured and bool(self.terms) and "task" not in self.terms)

    @property
    def n_of_m(self) -> Pattern | None:
        """The pattern, where there is one.

        Raises:
            UsageError: it is not N:M with 1 <= N <= M.
        """
        return None if self.pattern is None else Pattern.parse(self.pattern)

    @property
    def sparsities(self) -> tuple[float, ...]:
        """All sparsities of the search, ascending."""
        return self.sparsity if isinstance(self.sparsity, tuple) else (self.sparsity,)

    @property
    def rungs(self) -> tuple[float, ...] | tuple[str, ...]:
        """What each ticket of the search is known by: its sparsity, or the folder of its level."""
        return tuple(level.folder for level in self.levels) if self.needs.structured else self.sparsities

    @staticmethod
    def rung_folder(rung: float | str) -> str:
        """The folder of one of several tickets: `sparsity-0.60`, or that of its level."""
        return rung if isinstance(rung, str) else f"sparsity-{rung:.2f}{str(rung)[4:]}"

    @property
    def steps_of_a_rung(self) -> int:
        """Optimiser steps of every rung of a ladder but the first."""
        return (self.steps + 1) // 2 if self.rung_steps is None else self.rung_steps

    @property
    def first_steps(self) -> int:
        """Optimiser steps of a search of one sparsity, or of a ladder's first rung; at least 1."""
        return max(1, self.steps + (self.step_offset or 0))

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole search."""
        return self.first_steps + (len(self.sparsities) - 1) * self.steps_of_a_rung

    def resolved(self) -> ResolvedSearch:
        """The same configuration with every open field filled from its profile."""
        if self.needs.sources:
            values = learned_values(self.profile, self.terms)
        elif self.needs.gates:
            values = gate_values()
        elif self.needs.structured:
            values = structured_values(self.profile, self.selection)
        else:
            values = profile_values(self.profile, self.method, self.objective)
        return self.filled(ResolvedSearch, values)


class ResolvedSearch(SearchConfig):
    """A search whose open fields have the values of its profile.

    Fields that its method does not read may stay None at run time. So may `learning_rate` of `imp`, `snip` and
    `movement`, which is then that of the task.
    """

    if TYPE_CHECKING:
        scope: str
        batch_tokens: int
        segments: str
        learning_rate: float
        head_learning_rate: float
        schedule_passes: int
        warmup_steps: int
        step_offset: int
        score_init: Literal["activation", "rank", "plateau", "random"]
        rank_by: Literal["signed", "absolute"]
        reselect_steps: int
        cadence: Literal["after", "before"]
        threshold: Literal["reached", "exceeded"]
        count_rounding: Literal["floor", "nearest"]
        train_embeddings: bool
        student_dropout: float
        teacher_dropout: bool
        optimizer: Literal["adamw", "adamw-hf", "bertadam"]
        adam_epsilon: float
        weight_decay: float
        clip: Literal["global", "tensor", "none"]
        kd_masked_tokens: int
        kd_padding: Literal["ignored", "counted"]
        rewind: str
        rewind_scope: Literal["all", "encoder", "prunable"]
        prune_first: bool
        rate_horizon: Literal["round", "total"]
        reset_optimizer: bool
        importance: Literal["sample", "token", "batch", "released"]
        min_heads_per_layer: int


def _needs_of(method: str, units: bool) -> MethodNeeds:
    """What a method needs; with units, levels or counts mask training trains gates."""
    return GATE_TRAINING if units and method == "mask-training" else METHOD_NEEDS.get(method, MethodNeeds())


def _defaults_of_a_pattern(text: str) -> dict[str, Any]:
    """It says the sparsity, and word embeddings, whose rows are no inputs, are out of its scope."""
    try:
        return {"sparsity": Pattern.parse(text).sparsity, "scope": "encoder"}
    except UsageError:
        return {}  # refused with all else that is
