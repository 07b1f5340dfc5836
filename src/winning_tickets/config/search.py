"""The configuration of a search for a ticket."""

from __future__ import annotations

from collections.abc import Container
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from winning_tickets.config import objective as objectives
from winning_tickets.config import profiles
from winning_tickets.config.profiles import METHOD_NEEDS, MethodNeeds, Profile
from winning_tickets.config.settings import (
    CORPORA,
    GROUPING_MEANING,
    PERCENT,
    Count,
    Seed,
    Settings,
    Share,
    Size,
    all_digits,
    impossible,
    setting,
)
from winning_tickets.config.sparsity import Pattern, check_sparsity
from winning_tickets.config.structured import GATES, UNIT_FIELDS, UNITS, StructuredSettings
from winning_tickets.config.weights import PRETRAINED
from winning_tickets.runs.errors import UsageError

LEARNED = ("imp", "snip", "movement")  # methods whose objective is a sum of terms on a corpus and `task` on tasks
TRAINED = ("mask-training", GATES)
FOLLOWING = (*TRAINED, "imp")  # methods that can follow the dense model
MASKS = ("mask-training",)
ON_TEXT = ("wanda", *TRAINED, *LEARNED, "importance")
OF_WEIGHTS = ("random", "magnitude", "wanda", "mask-training", *LEARNED)
COUNTED = tuple(name for name, needs in METHOD_NEEDS.items() if needs.counts)

_Sparsity = Annotated[float, Field(allow_inf_nan=True), PERCENT]
"""Values that are not finite pass here, since the validator refuses them with a better message."""
DATA = "Model and data"
TICKET = "Ticket"
TRAINING = "Mask training"
MEMORY = "Memory"
ROUNDS = "Iterative pruning"
TASK_DATA = "Tasks of the objective"

_task = partial(setting, panel=TASK_DATA, methods=LEARNED)
_round = partial(setting, panel=ROUNDS, methods=("imp",))
_ticket = partial(setting, panel=TICKET)
_text = partial(setting, panel=DATA, methods=ON_TEXT)
_of_tasks = partial(setting, panel=TASK_DATA, methods=(*LEARNED, "importance"))
_objective = partial(setting, panel="Objective")
_weights = partial(setting, panel=TRAINING, methods=(*TRAINED, "imp", "movement"))
_train = partial(setting, panel=TRAINING, methods=TRAINED)
_mask = partial(setting, panel=TRAINING, methods=MASKS)
_memory = partial(setting, panel=MEMORY, methods=MASKS)


class TaskSettings(Settings):
    """The part of a `SearchConfig` about learning from tasks, and about iterative pruning."""

    tasks: tuple[str, ...] = _task(
        (), "Tasks that the objective's term task is about, such as rte,mrpc.", option="--task"
    )
    train_file: str | None = _task(None, "Your own training file, as one more task.")
    text_columns: tuple[str, ...] | None = _task(None, "Text columns of your file, such as premise,hypothesis.")
    label_column: str = _task("label", "Label column of your file.")
    kind: Literal["classification", "regression", "multilabel", "tokens", "span"] | None = _task(
        None,
        "Kind of the labels of your file: classification, regression, multilabel, tokens or span. By default the file "
        "is inspected.",
    )
    train_size: Size | None = setting(
        None,
        "N examples or P% of each task's training set, and N segments or P% of the corpus. With one seed, larger "
        "subsets contain smaller ones.",
        DATA,
        ON_TEXT,
    )
    batch_size: int | None = _of_tasks(None, "Batch size of each task. By default that of the task's definition.", ge=1)
    max_length: int | None = _task(
        None, "Maximum tokens of a task's example. By default that of the task's definition.", ge=1
    )
    group_by_length: bool | None = _task(None, GROUPING_MEANING)
    mixing: Literal["sum", "proportional"] = _task(
        "sum",
        "A step over several sources (text and tasks): one batch of each with their losses added (sum), or a batch of "
        "one source, drawn in proportion to its size (proportional).",
        option=None,
    )
    round_steps: int | None = _round(None, "Optimizer steps of a round.", ge=1)
    round_epochs: float | None = _round(None, "Passes over the largest source (text or a task) in a round.", gt=0)
    round_examples: int | None = _round(None, "Examples (segments of text) of all sources in a round.", ge=1)
    rewind: str | None = _round(
        None,
        "Weights restored after each pruning: pretrained, step:K or percent:P of the first round, none, noise, "
        "noise:SCALE (pre-trained weights plus noise) or reinit.",
    )
    rewind_scope: Literal["all", "encoder", "prunable"] | None = _round(
        None,
        "Parameters that are rewound: all (encoder and heads), encoder, or only the prunable matrices.",
        option=None,
    )
    prune_first: bool | None = _round(None, "Prune the pre-trained weights before the first round.")
    rate_horizon: Literal["round", "total"] | None = _round(
        None, "Period over which the learning rate decays to zero: each round, or all rounds (total)."
    )
    reset_optimizer: bool | None = _round(
        None, "Reset the optimizer's moments after each round, or keep them from round to round.", option=None
    )
    save_trained: bool = _round(False, "Save the weights at the end of each round, for transfer --start-from.")

    @field_validator("tasks")
    @classmethod
    def _sorted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Sort the tasks and drop repeated ones, so that equal sets are equal runs."""
        return tuple(sorted(set(value)))


SCOPES = ("encoder+embeddings", "encoder", "encoder+embeddings+pooler", "encoder+pooler")


class SearchConfig(TaskSettings, StructuredSettings):
    """Configuration of a search for a ticket.

    A field that is None takes the value of the profile.
    """

    model: str = setting(..., "Hub id, local folder or builtin:minilm.", DATA)
    revision: str | None = setting(None, "Hub revision of the model.", DATA)
    layers: Count | None = setting(None, "Number of layers to keep, from the first. By default all.", DATA)
    method: str = _ticket("mask-training", f"Method of the search: {', '.join(METHOD_NEEDS)}.")
    sparsity: _Sparsity | tuple[_Sparsity, ...] = _ticket(
        0.6,
        "Fraction of the weights in scope to prune, in [0, 1), such as 0.6 or 60%. Several values, such as 0.5,0.6, "
        "give one ticket for each sparsity level.",
        methods=OF_WEIGHTS,
        option="--sparsity --sparsities",
    )
    scope: str | None = _ticket(None, f"Matrices that are pruned: {', '.join(SCOPES[:-1])} or {SCOPES[-1]}.")
    ranking: Literal["matrix", "row", "global"] = _ticket(
        "matrix",
        "Weights that are ranked together: those of each matrix (matrix), of each row (row), or all (global). Wanda "
        "ranks by row by default.",
        methods=OF_WEIGHTS,
    )
    pattern: str | None = _ticket(
        None,
        "N:M pattern, such as 2:4: N of every M consecutive weights of a row are kept. It sets the sparsity.",
        methods=COUNTED,
    )
    like: str | None = _ticket(
        None, "Ticket to match: each matrix keeps as many weights as in that ticket.", methods=COUNTED
    )
    weights_from: str = _ticket(
        PRETRAINED,
        "Weights whose magnitudes are ranked: pretrained, reinit, shuffle-within, shuffle-encoder, shuffle-layers, "
        "noise:0.1 or a path.",
        methods=("magnitude",),
    )
    profile: Profile = _ticket(
        "tuned",
        "Source of the settings that are not given: the paper, its released code, or the best values measured by this "
        "project (tuned).",
    )
    seed: Seed = _ticket(0, "Seed of random masks, data order and MLM masking.")
    objective: str = _objective(
        "kd",
        "Loss. For mask-training: kd, mlm (encoders), clm (decoders), attention, contrastive, logits, or a weighted "
        "sum such as mlm:1,kd:2. For imp: these, task, or a sum. For snip and movement: mlm or clm, task, or a sum. "
        "For importance: kd, mlm, clm, or task with --importance-from.",
        methods=ON_TEXT[1:],
    )
    temperature: float = _objective(0.05, "Temperature of the contrastive term.", methods=FOLLOWING, gt=0)
    logits_temperature: float = _objective(1.0, "Temperature of the logits term.", methods=FOLLOWING, gt=0)
    logits_top_k: int | None = _objective(
        None,
        "Number of tokens that the logits term compares one by one at each position: those that the dense model finds "
        "most probable. The others are merged into one class. By default all are compared.",
        methods=(*MASKS, "imp"),
        ge=1,
    )
    kd_layers: tuple[Count, ...] = _objective(
        (),
        "Layers whose hidden states the kd term compares, counted from 1, such as 12 or 4,8,12. By default all.",
        methods=FOLLOWING,
    )
    corpus: str | None = _text(None, f"Text: {CORPORA}.")
    data_dir: str | None = _text(
        None, "Folder with the data of tasks: a GLUE download (CoLA/ ...), or a copy of the hub's repository."
    )
    steps: int = setting(
        60,
        "Optimizer steps; with several sparsities, those of the first. For snip and importance: batches over which "
        "gradients are summed.",
        TRAINING,
        (*TRAINED, "snip", "movement", "importance"),
        ge=1,
    )
    rung_steps: int | None = _mask(
        None, "Optimizer steps of each sparsity level after the first. By default half of --steps.", ge=1
    )
    batch_tokens: int | None = setting(
        None, "Tokens in an optimizer step, over all processes.", TRAINING, ON_TEXT, ge=1
    )
    segments: str | None = _text(None, "Segments that the corpus is cut into: packed:L, lines, mixed or sections:L.")
    short_sequence_probability: Share = setting(
        0.1,
        "Fraction of the sections (of --segments sections:L) whose sequences get a random target length.",
        DATA,
        ("wanda", *TRAINED, "importance"),
        ge=0,
        le=1,
        option=None,
    )
    calibration_batches: int = setting(
        8,
        "Batches that input norms are computed on, for wanda and for --score-init activation.",
        TRAINING,
        ("wanda", *TRAINED),
        ge=1,
    )
    learning_rate: float | None = _weights(
        None, "Learning rate of the scores, or of the weights of imp and movement.", gt=0
    )
    head_learning_rate: float | None = _mask(None, "Learning rate of the MLM head.", gt=0, option=None)
    weights_dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        "Type of the model's weights during the search. In bfloat16 they take half the memory; weights that a "
        "checkpoint stores in a longer type are rounded. The ticket is for the weights of the checkpoint.",
        MEMORY,
        ("random", "magnitude", "wanda", *MASKS),
    )
    score_dtype: Literal["float32", "bfloat16"] = _memory(
        "float32", "Type of the scores. In bfloat16 they are rounded up or down at random, so that no update is lost."
    )
    moment_dtype: Literal["float32", "bfloat16"] = _memory(
        "float32", "Type of AdamW's two moments of each score: 4 bytes each, or 2 in bfloat16."
    )
    block_wise: bool = _memory(
        False,
        "Train the masks of one layer after the other, each on the distance of its output from that of the dense layer "
        "(--objective kd). --steps are divided among the layers. Only one layer has gradients, scores and moments.",
        option="--block-wise/--end-to-end",
    )
    schedule_steps: int | None = setting(
        None,
        "Steps after which the linearly decaying learning rate is zero. By default it follows from schedule_passes, "
        "or for imp from --rate-horizon; imp may end before this many steps, at a rate above zero.",
        TRAINING,
        (*TRAINED, "imp"),
        ge=1,
    )
    schedule_passes: int | None = setting(
        None,
        "Passes over the corpus after which the learning rate is zero, or after --steps if these take longer. With 0 "
        "it is zero after --steps. For imp by default as --rate-horizon says.",
        TRAINING,
        (*TRAINED, "imp"),
        ge=0,
        option=None,
    )
    warmup_steps: int | None = _weights(None, "Steps of linear warm-up.", ge=0)
    step_offset: int | None = _train(
        None, "Number added to --steps. The released KD code saves its tickets one step early (-1).", option=None
    )
    score_init: Literal["activation", "rank", "plateau", "random"] | None = _train(
        None,
        "Initial scores: by the rank of absolute weights (rank), by the rank of absolute weights times input norms "
        "(activation), two values by magnitude (plateau, TAMT eq. 5), or two values at random (random).",
    )
    alpha: float = _train(2.0, "Initial scores of kept weights in units of phi (TAMT eq. 5).", gt=0)
    phi: float = _train(0.01, "Threshold at the start (TAMT eq. 3).", gt=0, option=None)
    rank_by: Literal["signed", "absolute"] | None = _mask(
        None,
        "Rank scores by their value (signed: TAMT eq. 3, the released code) or by absolute value (TAMT section 3.4.2).",
    )
    reselect_steps: int | None = _mask(None, "Steps between adjustments of the threshold.", ge=1, option=None)
    cadence: Literal["after", "before"] | None = _mask(
        None,
        "Time of adjusting the threshold: after every reselect_steps steps, or one step earlier and also after the "
        "first step (before).",
        option=None,
    )
    threshold: Literal["reached", "exceeded"] | None = _mask(
        None, "Between adjustments, keep weights whose score has reached the threshold (TAMT eq. 3), or exceeded it."
    )
    count_rounding: Literal["floor", "nearest"] | None = _ticket(
        None,
        "Rounding of the number of pruned weights: floor, or nearest (the released one-shot code).",
        methods=OF_WEIGHTS,
        option=None,
    )
    train_embeddings: bool | None = _mask(
        None, "Train the mask of the word embeddings too. Otherwise it keeps its initial value."
    )
    student_dropout: Share | None = setting(
        None,
        "Dropout of the student. The profiles paper and code use that of the model, as does imp with an objective that "
        "does not follow the dense model.",
        TRAINING,
        FOLLOWING,
    )
    teacher_dropout: bool | None = _train(
        None, "Run the teacher with dropout, as the released KD code does by an oversight.", option=None
    )
    optimizer: Literal["adamw", "adamw-hf", "bertadam"] | None = _train(
        None, "Optimizer: adamw, adamw-hf (epsilon before the bias correction) or bertadam (no bias correction)."
    )
    adam_epsilon: float | None = _train(None, "Epsilon of the optimizer.", gt=0)
    weight_decay: float | None = setting(
        None, "Weight decay of the scores, or of the weights of imp.", TRAINING, (*TRAINED, "imp"), ge=0
    )
    clip: Literal["global", "tensor", "none"] | None = _train(
        None,
        "Clip gradients by the norm over scores and head together (global) or of each tensor (tensor), or not (none).",
    )
    max_grad_norm: float = _weights(
        1.0, "Norm that gradients are clipped to; with 0 the weights of imp are not clipped.", ge=0
    )
    mlm_probability: Share = _objective(
        0.15, "Fraction of the tokens that are masked for MLM.", methods=ON_TEXT[1:], gt=0, lt=1
    )
    kd_masked_tokens: int | None = _objective(
        None,
        "Tokens masked in each sequence if --objective has no mlm. The released KD code masks one.",
        methods=TRAINED,
        ge=0,
        option=None,
    )
    kd_padding: Literal["ignored", "counted"] | None = _objective(
        None,
        "Treatment of padded positions in the KD loss: ignored, or counted (the released KD code).",
        methods=TRAINED,
        option=None,
    )
    save_at: tuple[int, ...] = _train((), "Steps at which intermediate tickets are saved, such as 100,500.")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, values: Any) -> Any:
        """Fill in the defaults of the method or pattern, so that they are part of the run id."""
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
        patterned = isinstance(values.get("pattern"), str)
        if needs.counts and (patterned or values.get("like") is not None):
            defaults = {key: value for key, value in defaults.items() if key not in ("ranking", "sparsity")}
            defaults |= _defaults_of_a_pattern(values["pattern"]) if patterned else {}
        return defaults | values

    @field_validator("pattern", mode="before")
    @classmethod
    def _not_a_number(cls, value: Any) -> Any:
        """YAML 1.1 reads 2:4 without quotes as 124, in base 60."""
        if isinstance(value, int):
            raise ValueError("write it with quotes in a configuration file, such as pattern: '2:4'")
        return value

    @field_validator("student_dropout")
    @classmethod
    def _dropout(cls, value: float | None) -> float | None:
        """Refuse a number that is no dropout; stored settings of a profile may have `MODEL_DROPOUT`."""
        if value not in (None, profiles.MODEL_DROPOUT) and not 0 <= value < 1:
            raise impossible(f"--student-dropout {value:g} is impossible; give a number from 0 to below 1.")
        return value

    @field_validator("sparsity")
    @classmethod
    def _in_order(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        """Sort the sparsities and drop repeated ones; several equal values become one."""
        for one in value if isinstance(value, tuple) else (value,):
            try:
                check_sparsity(one)
            except UsageError as error:
                raise impossible(str(error)) from error
        if not isinstance(value, tuple):
            return value
        rungs = tuple(sorted(set(value)))
        if not rungs:
            raise ValueError("give at least one sparsity")
        return rungs if len(rungs) > 1 else rungs[0]

    @field_validator("kd_layers")
    @classmethod
    def _layers_in_order(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        """Sort the layers and drop repeated ones, so that equal sets are equal runs."""
        return tuple(sorted(set(value)))

    @field_validator("objective")
    @classmethod
    def _in_one_form(cls, value: str) -> str:
        """Write equal sums in the same way, so that they share an id; other text is refused later."""
        try:
            return objectives.canonical_objective(objectives.parse_objective(value, objectives.ALL_NAMES))
        except UsageError:
            return value

    @property
    def needs(self) -> MethodNeeds:
        """Inputs of the method besides the model; an unknown method has none."""
        return _needs_of(self.method, any(getattr(self, field) for field in UNIT_FIELDS))

    def reads(self, field: str) -> bool:
        """Return whether the method reads a field."""
        extra: Any = SearchConfig.model_fields[field].json_schema_extra
        return not extra["methods"] or (GATES if self.needs.gates else self.method) in extra["methods"]

    @property
    def advice_on_rounds(self) -> str | None:
        """What to know about iterative pruning in a single round; None for other searches."""
        if self.method != "imp" or len(self.sparsities) - bool(self.resolved().prune_first) != 1:
            return None
        last = self.sparsities[-1]
        levels = ",".join(f"{last * part / 3:.2g}" for part in (1, 2)) + f",{last:g}"
        return (
            f"One sparsity level is one round: the model is trained once, pruned to {100 * last:g} %, and not trained "
            f"again. For iterative pruning give several levels, such as --sparsity {levels}."
        )

    def unread(self, fields: Container[str] | None = None) -> list[str]:
        """Return a line for each of these fields that the method does not read; none for an unknown method.

        Without `fields`, those fields are checked that were set and describe the ticket or its tasks, because in Python
        one set of training settings may serve several methods. For gates, all fields that were set are checked.
        """
        lines = []
        for field, info in type(self).model_fields.items() if self.method in METHOD_NEEDS else ():
            extra: Any = info.json_schema_extra
            if self.reads(field) or getattr(self, field) in (None, ()):
                continue
            wanted = extra["panel"] in (TICKET, UNITS, TASK_DATA) or self.needs.gates
            if field in fields if fields is not None else wanted and field in self.model_fields_set:
                option, able = self.option_of(field), _able(field, extra)
                lines.append(f"{self._named} does not read {option}; it needs {able}.")
        return lines

    @property
    def _named(self) -> str:
        if not self.needs.gates:
            return f"--method {self.method}"
        unit = next(field for field in UNIT_FIELDS if getattr(self, field))
        return f"--method {self.method} with {self.option_of(unit)} trains gates and"

    @property
    def terms(self) -> dict[str, float]:
        """Weights of the terms of the objective; none for a method without one."""
        if self.needs.gates:
            why = f"{self._named.removesuffix(' and')}, which learn from these losses only."
            return objectives.parse_objective(self.objective, objectives.GATE_NAMES, why)
        if not self.needs.objective or (self.needs.structured and self.selection == "random"):
            return {}
        if self.needs.structured:
            return objectives.parse_objective(self.objective, objectives.STRUCTURED_NAMES)
        if self.method == "imp":
            return objectives.parse_objective(self.objective, objectives.ALL_NAMES)
        return objectives.parse_objective(
            self.objective, objectives.SOURCE_NAMES if self.needs.sources else objectives.TERM_NAMES
        )

    @property
    def text_terms(self) -> dict[str, float]:
        """The terms that are computed on the corpus, and their weights."""
        return {name: weight for name, weight in self.terms.items() if name != "task"}

    @property
    def text_term(self) -> str | None:
        """The term that is a loss of pre-training itself: mlm or clm."""
        return next((name for name in objectives.TEXT_NAMES if name in self.terms), None)

    @property
    def reads_corpus(self) -> bool:
        if self.needs.sources:
            return bool(self.text_terms)
        return self.needs.corpus or (self.needs.structured and bool(self.terms) and "task" not in self.terms)

    @property
    def n_of_m(self) -> Pattern | None:
        return None if self.pattern is None else Pattern.parse(self.pattern)

    @property
    def sparsities(self) -> tuple[float, ...]:
        return self.sparsity if isinstance(self.sparsity, tuple) else (self.sparsity,)

    @property
    def rungs(self) -> tuple[float, ...] | tuple[str, ...]:
        """The sparsity of each ticket of the search, or the folder of its level."""
        return tuple(level.folder for level in self.levels) if self.needs.structured else self.sparsities

    @staticmethod
    def rung_folder(rung: float | str) -> str:
        """Return the folder of one of several tickets: `sparsity-0.60`, or that of its level."""
        return rung if isinstance(rung, str) else f"sparsity-{all_digits(rung, 2)}"

    @property
    def steps_of_a_rung(self) -> int:
        """Optimizer steps of every sparsity level but the first."""
        return (self.steps + 1) // 2 if self.rung_steps is None else self.rung_steps

    @property
    def first_steps(self) -> int:
        """Optimizer steps of the first sparsity level; at least 1."""
        return max(1, self.steps + (self.step_offset or 0))

    @property
    def _steps_of_all_scores(self) -> int:
        """Steps of the first sparsity level; 0 for gates, and for layers that share the steps."""
        return 0 if self.block_wise or self.needs.structured else self.first_steps

    @property
    def total_steps(self) -> int:
        return self.first_steps + (len(self.sparsities) - 1) * self.steps_of_a_rung

    def resolved(self) -> ResolvedSearch:
        """Return this configuration with the values of its profile where a field is None."""
        if self.needs.sources:
            values = profiles.learned_values(self.profile, self.terms)
        elif self.needs.gates:
            values = profiles.GATE_VALUES
        elif self.needs.structured:
            values = profiles.structured_values(self.profile, self.selection)
        else:
            values = profiles.profile_values(
                self.profile, self.method, self.objective, self.ranking, self._steps_of_all_scores
            )
        return self.filled(ResolvedSearch, values)


class ResolvedSearch(SearchConfig):
    """A `SearchConfig` in which the profile has filled every field that was None.

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
        group_by_length: bool
        importance: Literal["sample", "token", "batch", "released"]
        min_heads_per_layer: int


def _able(field: str, extra: dict[str, Any]) -> str:
    """Return the methods that read a field, in words."""
    able = [name for name in METHOD_NEEDS if name in extra["methods"]]
    if GATES in extra["methods"] and "mask-training" not in able:
        able.append("mask-training" if field in UNIT_FIELDS else "mask-training with --level or counts")
    return "--method " + (", ".join(able[:-1]) + " or " if able[1:] else "") + able[-1]


def _needs_of(method: str, units: bool) -> MethodNeeds:
    """Return the inputs of a method; with units, a level or counts, mask training trains gates."""
    return profiles.GATE_TRAINING if units and method == "mask-training" else METHOD_NEEDS.get(method, MethodNeeds())


def _defaults_of_a_pattern(text: str) -> dict[str, Any]:
    """Return a pattern's defaults: its sparsity, and a scope without word embeddings, which have no input dimension."""
    try:
        return {"sparsity": Pattern.parse(text).sparsity, "scope": "encoder"}
    except UsageError:
        return {}  # refused later
