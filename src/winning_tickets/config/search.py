"""The base of the configurations of all methods that search for a ticket, and the parts that several of them share.

Each method has a class of its own, with the fields that the method reads. `SearchConfig(method="imp", ...)` makes an
instance of the class that `METHODS` names for the method.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from pkgutil import resolve_name
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from winning_tickets.config import objective as objectives
from winning_tickets.config import profiles
from winning_tickets.config.levels import UNIT_FIELDS
from winning_tickets.config.profiles import Profile
from winning_tickets.config.settings import (
    ASCENDING,
    CORPORA,
    PERCENT,
    PROFILE_MEANING,
    Count,
    Open,
    Seed,
    Settings,
    Share,
    Size,
    all_digits,
    impossible,
    setting,
)
from winning_tickets.config.sparsity import Pattern, check_sparsity
from winning_tickets.runs.errors import UsageError, problems_of, refuse, unknown

METHODS: dict[str, str] = {
    "random": "winning_tickets.config.one_shot:RandomSearch",
    "magnitude": "winning_tickets.config.one_shot:MagnitudeSearch",
    "wanda": "winning_tickets.config.one_shot:WandaSearch",
    "mask-training": "winning_tickets.config.mask_training:MaskTraining",
    "imp": "winning_tickets.config.weight_training:ImpSearch",
    "snip": "winning_tickets.config.weight_training:SnipSearch",
    "movement": "winning_tickets.config.weight_training:MovementSearch",
    "importance": "winning_tickets.config.structured:ImportanceSearch",
}
"""The class of the settings of each method; these classes are imported without torch."""
METHOD_NAMES = tuple(METHODS)
USUAL_METHOD = "mask-training"
GATE_TRAINING = "winning_tickets.config.structured:GateTraining"
"""The class of `mask-training` with a level, units or counts, which trains gates instead of masks of weights."""

SCOPES = ("encoder+embeddings", "encoder", "encoder+embeddings+pooler", "encoder+pooler")
TEXTS = "pydocs, wikitext-103, task:NAME, a text file or a folder."

DATA = "Model and data"
TICKET = "Ticket"
OBJECTIVE = "Objective"
TRAINING = "Mask training"
MEMORY = "Memory"
UNITS = "Structured tickets"
TASK_DATA = "Tasks of the objective"
ROUNDS = "Iterative pruning"
PANELS = (DATA, TICKET, OBJECTIVE, TRAINING, MEMORY, UNITS, TASK_DATA, ROUNDS)

_Sparsity = Annotated[float, Field(allow_inf_nan=True), PERCENT]
"""Values that are not finite pass here, since the validator refuses them with a better message."""
_text = partial(setting, panel=DATA)
_ticket = partial(setting, panel=TICKET)
_objective = partial(setting, panel=OBJECTIVE)


def classes_of(method: str) -> tuple[type[SearchConfig], ...]:
    """Return the classes of a method's settings: one, or for mask training those of masks and of gates."""
    paths = (METHODS[method], GATE_TRAINING) if method == USUAL_METHOD else (METHODS[method],)
    return tuple(map(resolve_name, paths))


def readers_of(field: str) -> tuple[str, ...]:
    """Return the methods that read a field."""
    return tuple(name for name in METHODS if any(field in kind.model_fields for kind in classes_of(name)))


class SearchConfig(Settings):
    """Configuration of a search for a ticket: what all methods read.

    A field that is None takes the value of the profile.
    """

    finder: ClassVar[str] = ""  # module and function that find the tickets
    together: ClassVar[bool] = False  # whether all ranks run this function; otherwise rank 0 does
    usual: ClassVar[Mapping[str, Any]] = {}  # defaults unlike those of the fields; part of the run id

    model: str = setting(..., "Hub id, local folder or builtin:minilm.", DATA)
    revision: str | None = setting(None, "Hub revision of the model.", DATA)
    layers: Count | None = setting(None, "Number of layers to keep, from the first. By default all.", DATA)
    method: str = _ticket(USUAL_METHOD, f"Method of the search: {', '.join(METHODS)}.", everyday=True)
    scope: Open[str] = _ticket(
        None, f"Matrices that are pruned: {', '.join(SCOPES[:-1])} or {SCOPES[-1]}.", everyday=True
    )
    profile: Profile = _ticket("tuned", PROFILE_MEANING, everyday=True)
    seed: Seed = _ticket(0, "Seed of random masks, data order and MLM masking.", everyday=True)

    def __new__(cls, /, **fields: Any) -> Self:
        """Make an instance of the class of the method."""
        return super().__new__(cls.kind_of(fields))

    @classmethod
    def kind_of(cls, fields: Mapping[str, Any]) -> type[Self]:
        """Return the class of the settings with these values; an unknown method has this one."""
        method = str(fields.get("method", USUAL_METHOD))
        if cls is not SearchConfig or method not in METHODS:
            return cls
        gates = method == USUAL_METHOD and any(fields.get(name) not in (None, (), []) for name in UNIT_FIELDS)
        kind: type[Self] = resolve_name(GATE_TRAINING if gates else METHODS[method])
        return kind

    @classmethod
    def all_fields(cls) -> dict[str, tuple[type[Settings], FieldInfo]]:
        """Return the fields of all methods, by panel, each with a class that has it."""
        return _all_fields() if cls is SearchConfig else super().all_fields()

    @classmethod
    def words_on(cls, field: str, fields: Mapping[str, Any]) -> str:
        """Say which methods read a field that this method does not read."""
        if cls is SearchConfig or field not in SearchConfig.all_fields():
            return "" if field in SearchConfig.all_fields() else super().words_on(field, fields)
        able = list(readers_of(field))
        if "mask-training" in able and field not in classes_of("mask-training")[0].model_fields:
            able.remove("mask-training")  # only the training of gates reads it
            able.append("mask-training" + ("" if field in UNIT_FIELDS else " with --level or counts"))
        option = SearchConfig.all_fields()[field][0].option_of(field)
        needed = (", ".join(able[:-1]) + " or " if able[1:] else "") + able[-1]
        return f"{cls.named(fields)} does not read {option}; it needs --method {needed}."

    @classmethod
    def named(cls, fields: Mapping[str, Any]) -> str:
        """Return the method as messages name it; `fields` are the values that were given."""
        return f"--method {cls.method_name()}"

    @classmethod
    def method_name(cls) -> str:
        """Return the name under which `METHODS` has this class."""
        own = f"{cls.__module__}:{cls.__name__}"
        return next((name for name, path in METHODS.items() if path == own), USUAL_METHOD)

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, values: Any) -> Any:
        """Fill in the defaults of the method or pattern, so that they are part of the run id."""
        if not isinstance(values, dict):
            return values
        # A field of another method without a value, as in settings that were stored, says nothing.
        empty = [name for name, value in values.items() if value in (None, (), []) and name not in cls.model_fields]
        values = {k: v for k, v in values.items() if k not in empty or k not in SearchConfig.all_fields()}
        own = {} if cls.method_name() == USUAL_METHOD else {"method": cls.method_name()}
        return (own if cls is not SearchConfig else {}) | cls.usual_for(values) | values

    @field_validator("method")
    @classmethod
    def _is_its_own(cls, value: str) -> str:
        if cls is SearchConfig:
            raise impossible(str(unknown("method", value, METHODS)))
        if value != cls.method_name():
            raise ValueError(f"{cls.__name__} is for the method {cls.method_name()}")
        return value

    @classmethod
    def usual_for(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of the method that differ from those of the fields, next to these values."""
        return dict(cls.usual)

    def misnamed(self) -> list[str]:
        """Return a line for each unknown name of a term or scope."""
        scope = [] if self.scope in (None, *SCOPES) else [str(unknown("scope", self.scope, SCOPES))]
        return problems_of(lambda: self.terms) + scope

    def problems(self) -> list[str]:
        """Return a line for each reason why the settings cannot work together."""
        return self.misnamed()

    @property
    def terms(self) -> dict[str, float]:
        """Weights of the terms of the objective; none for a method without one."""
        return {}

    @property
    def reads_corpus(self) -> bool:
        """Whether the search reads a text."""
        return False

    @property
    def rungs(self) -> tuple[float, ...] | tuple[str, ...]:
        """The sparsity of each ticket of the search, or the folder of its level."""
        raise NotImplementedError

    @staticmethod
    def rung_folder(rung: float | str) -> str:
        """Return the folder of one of several tickets: `sparsity-0.60`, or that of its level."""
        return rung if isinstance(rung, str) else f"sparsity-{all_digits(rung, 2)}"

    def resolved(self) -> Self:
        """Return this configuration with the values of its profile where a field is None."""
        return self.filled(type(self), self.profile_values())

    def profile_values(self) -> dict[str, Any]:
        """Return the values of the profile; those of fields that the method does not have are ignored."""
        return profiles.profile_values(self.profile, self.method, "kd")


@cache
def _all_fields() -> dict[str, tuple[type[Settings], FieldInfo]]:
    kinds = [kind for method in METHODS for kind in classes_of(method)]
    found = {name: (kind, field) for kind in reversed(kinds) for name, field in kind.model_fields.items()}
    return dict(sorted(found.items(), key=lambda item: PANELS.index(_panel(item[1][1]))))


def _panel(field: FieldInfo) -> str:
    extra: Any = field.json_schema_extra
    return str(extra["panel"])


class WeightSearch(SearchConfig):
    """What methods read that prune single weights at one or more sparsities."""

    sparsity: _Sparsity | tuple[_Sparsity, ...] = _ticket(
        0.6,
        "Fraction of the weights in scope to prune, in [0, 1), such as 0.6 or 60%. Several values, such as 0.5,0.6, "
        "give one ticket for each sparsity level.",
        option="--sparsity --sparsities",
        everyday=True,
    )
    ranking: Literal["matrix", "row", "global"] = _ticket(
        "matrix",
        "Weights that are ranked together: those of each matrix (matrix), of each row (row), or all (global). Wanda "
        "ranks by row by default.",
        everyday=True,
    )
    count_rounding: Open[Literal["floor", "nearest"]] = _ticket(
        None, "Rounding of the number of pruned weights: floor, or nearest (the released one-shot code).", option=None
    )

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

    @property
    def sparsities(self) -> tuple[float, ...]:
        return self.sparsity if isinstance(self.sparsity, tuple) else (self.sparsity,)

    @property
    def rungs(self) -> tuple[float, ...]:
        """The sparsity of each ticket of the search."""
        return self.sparsities

    @property
    def n_of_m(self) -> Pattern | None:
        """The N:M pattern of the masks."""
        return None


class CountedSearch(WeightSearch):
    """What methods read that can keep as many weights as an N:M pattern or another ticket says."""

    pattern: str | None = _ticket(
        None,
        "N:M pattern, such as 2:4: N of every M consecutive weights of a row are kept. It sets the sparsity.",
        everyday=True,
    )
    like: str | None = _ticket(
        None, "Ticket to match: each matrix keeps as many weights as in that ticket.", everyday=True
    )

    @field_validator("pattern", mode="before")
    @classmethod
    def _not_a_number(cls, value: Any) -> Any:
        """YAML 1.1 reads 2:4 without quotes as 124, in base 60."""
        if isinstance(value, int):
            raise ValueError("write it with quotes in a configuration file, such as pattern: '2:4'")
        return value

    @classmethod
    def usual_for(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults; a pattern or a ticket to match determines ranking and sparsity."""
        found = super().usual_for(values)
        pattern = values.get("pattern")
        if not isinstance(pattern, str) and values.get("like") is None:
            return found
        found = {name: value for name, value in found.items() if name not in ("ranking", "sparsity")}
        return found | (_usual_for_a_pattern(pattern) if isinstance(pattern, str) else {})

    @property
    def n_of_m(self) -> Pattern | None:
        return None if self.pattern is None else Pattern.parse(self.pattern)

    def problems(self) -> list[str]:
        found = super().problems()
        if self.pattern is not None:
            found += problems_of(self._check_pattern)
        if self.like is not None:
            written = ("ranking", "pattern" if self.pattern is not None else "sparsity")  # a pattern sets the sparsity
            found += [
                f"--{field} contradicts --like, which takes the counts of each matrix from a ticket; leave it out."
                for field in written
                if field in self.model_fields_set
            ]
        return found

    def _check_pattern(self) -> None:
        """Refuse settings that contradict the pattern, which determines groups, counts and sparsity itself."""
        pattern, scope, problems = Pattern.parse(str(self.pattern)), self.resolved().scope, []
        if self.sparsities != (pattern.sparsity,):
            found = ",".join(map(str, self.sparsities))
            problems.append(
                f"--sparsity {found} contradicts --pattern {pattern}, which removes {pattern.sparsity:.4g} of each "
                "group; leave --sparsity out."
            )
        if self.ranking != "matrix":
            problems.append(
                f"--ranking {self.ranking} contradicts --pattern {pattern}, whose groups are {pattern.of} consecutive "
                "weights; leave --ranking out."
            )
        if "embeddings" in scope:
            problems.append(
                f"--scope {scope} has word embeddings, and --pattern {pattern} is for matrices that multiply their "
                "input; use encoder or encoder+pooler."
            )
        refuse(problems)


def _usual_for_a_pattern(text: str) -> dict[str, Any]:
    """Return a pattern's defaults: its sparsity, and a scope without word embeddings, which have no input dimension."""
    try:
        return {"sparsity": Pattern.parse(text).sparsity, "scope": "encoder"}
    except UsageError:
        return {}  # refused later


class RoundedWeights(SearchConfig):
    """What methods read that work on weights of a shorter type too."""

    weights_dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        "Type of the model's weights during the search. In bfloat16 they take half the memory; weights that a "
        "checkpoint stores in a longer type are rounded. The ticket is for the weights of the checkpoint.",
        MEMORY,
    )


class TextSearch(SearchConfig):
    """What methods read that use text or tasks."""

    corpus: str | None = _text(None, f"Text: {CORPORA}.", everyday=True)
    data_dir: str | None = _text(
        None,
        "Folder with the data of tasks: a GLUE download (CoLA/ ...), or a copy of the hub's repository.",
        everyday=True,
    )
    train_size: Size | None = _text(
        None,
        "N examples or P% of each task's training set, and N segments or P% of the corpus. With one seed, larger "
        "subsets contain smaller ones.",
        everyday=True,
    )
    segments: Open[str] = _text(
        None, "Segments that the corpus is cut into: packed:L, lines, mixed or sections:L.", everyday=True
    )
    short_sequence_probability: Share = _text(
        0.1,
        "Fraction of the sections (of --segments sections:L) whose sequences get a random target length.",
        ge=0,
        le=1,
        option=None,
    )
    batch_tokens: Open[int] = setting(
        None, "Tokens in an optimizer step, over all processes.", TRAINING, everyday=True, ge=1
    )

    @property
    def text_term(self) -> str | None:
        """The term that is a loss of pre-training itself: mlm or clm."""
        return next((name for name in objectives.TEXT_NAMES if name in self.terms), None)

    @property
    def most_steps(self) -> int:
        """The largest number of batches of text that the search reads, as far as the settings say."""
        return 0


class CalibratedSearch(TextSearch):
    """What methods read that measure the inputs of each matrix."""

    calibration_batches: int = setting(
        8, "Batches that input norms are computed on, for wanda and for --score-init activation.", TRAINING, ge=1
    )

    @property
    def reads_corpus(self) -> bool:
        return True

    @property
    def most_steps(self) -> int:
        return self.calibration_batches

    def problems(self) -> list[str]:
        missing = [f"--method {self.method} needs --corpus: {TEXTS}"] if self.corpus is None else []
        return super().problems() + missing


class ObjectiveSearch(TextSearch):
    """What methods read that minimize or differentiate an objective."""

    term_names: ClassVar[tuple[str, ...]] = objectives.TERM_NAMES

    objective: str = _objective(
        "kd",
        "Loss. For mask-training: kd, mlm (encoders), clm (decoders), attention, contrastive, logits, or a weighted "
        "sum such as mlm:1,kd:2. For imp: these, task, or a sum. For snip and movement: mlm or clm, task, or a sum. "
        "For importance: kd, mlm, clm, or task with --importance-from.",
        everyday=True,
    )
    mlm_probability: Share = _objective(0.15, "Fraction of the tokens that are masked for MLM.", gt=0, lt=1)

    @field_validator("objective")
    @classmethod
    def _in_one_form(cls, value: str) -> str:
        """Write equal sums in the same way, so that they share an id; other text is refused later."""
        try:
            return objectives.canonical_objective(objectives.parse_objective(value, objectives.ALL_NAMES))
        except UsageError:
            return value

    @property
    def terms(self) -> dict[str, float]:
        return objectives.parse_objective(self.objective, self.term_names)

    @property
    def known_terms(self) -> dict[str, float]:
        """The terms of the objective; none if it is impossible, which another problem says."""
        try:
            return self.terms
        except UsageError:
            return {}

    @property
    def text_terms(self) -> dict[str, float]:
        """The terms that are computed on the corpus, and their weights."""
        return {name: weight for name, weight in self.terms.items() if name != "task"}


class TeacherSearch(ObjectiveSearch):
    """What methods read whose objective may compare the model with the dense one, its teacher."""

    temperature: float = _objective(0.05, "Temperature of the contrastive term.", gt=0)
    logits_temperature: float = _objective(1.0, "Temperature of the logits term.", gt=0)
    kd_layers: Annotated[tuple[Count, ...], ASCENDING] = _objective(
        (),
        "Layers whose hidden states the kd term compares, counted from 1, such as 12 or 4,8,12. By default all.",
    )
    kd_padding: Open[Literal["ignored", "counted"]] = _objective(
        None,
        "Treatment of padded positions in the KD loss: ignored, or counted (the released KD code).",
        option=None,
    )
    student_dropout: Open[Share] = setting(
        None,
        "Dropout of the student. The profiles paper and code use that of the model, as does imp with an objective that "
        "does not follow the dense model.",
        TRAINING,
    )
    teacher_dropout: Open[bool] = setting(
        None, "Run the teacher with dropout, as the released KD code does by an oversight.", TRAINING, option=None
    )

    @field_validator("student_dropout")
    @classmethod
    def _dropout(cls, value: float | None) -> float | None:
        """Refuse a number that is no dropout; stored settings of a profile may have `MODEL_DROPOUT`."""
        if value not in (None, profiles.MODEL_DROPOUT) and not 0 <= value < 1:
            raise impossible(f"--student-dropout {value:g} is impossible; give a number from 0 to below 1.")
        return value

    def problems(self) -> list[str]:
        found, terms, filled = super().problems(), self.known_terms, self.resolved()
        if self.kd_layers and terms and "kd" not in terms:
            found.append(f"--kd-layers is about the kd term, which --objective {self.objective} does not have.")
        if "attention" in terms and (filled.student_dropout or filled.teacher_dropout):
            found.append(
                "The attention objective compares distributions, and dropout removes parts of them: give "
                "--student-dropout 0 and teacher_dropout: false in a --config file, or use --profile tuned."
            )
        return found


class LogitsSearch(TeacherSearch):
    """What methods read whose objective may compare predictions of the model with those of the dense one."""

    logits_top_k: int | None = _objective(
        None,
        "Number of tokens that the logits term compares one by one at each position: those that the dense model finds "
        "most probable. The others are merged into one class. By default all are compared.",
        ge=1,
    )


class SteppedSearch(SearchConfig):
    """What methods read whose number of steps is given."""

    steps: int = setting(
        60,
        "Optimizer steps; with several sparsities, those of the first. For snip and importance: batches over which "
        "gradients are summed.",
        TRAINING,
        everyday=True,
        ge=1,
    )


class TrainingSearch(SearchConfig):
    """What methods read that take optimizer steps."""

    together = True

    learning_rate: Open[float] = setting(
        None,
        "Learning rate of the scores, or of the weights of imp and movement.",
        TRAINING,
        everyday=True,
        gt=0,
    )
    warmup_steps: Open[int] = setting(None, "Steps of linear warm-up.", TRAINING, ge=0)
    max_grad_norm: float = setting(
        1.0, "Norm that gradients are clipped to; with 0 the weights of imp are not clipped.", TRAINING, ge=0
    )


class ScheduledSearch(TrainingSearch):
    """What methods read whose learning rate may decay over a period of its own."""

    schedule_steps: int | None = setting(
        None,
        "Steps after which the linearly decaying learning rate is zero. By default it follows from schedule_passes, "
        "or for imp from --rate-horizon; imp may end before this many steps, at a rate above zero.",
        TRAINING,
        ge=1,
    )
    schedule_passes: Open[int] = setting(
        None,
        "Passes over the corpus after which the learning rate is zero, or after --steps if these take longer. With 0 "
        "it is zero after --steps. For imp by default as --rate-horizon says.",
        TRAINING,
        ge=0,
        option=None,
    )
    weight_decay: Open[float] = setting(None, "Weight decay of the scores, or of the weights of imp.", TRAINING, ge=0)


class BatchedSearch(SearchConfig):
    """What methods read that read the examples of tasks in batches."""

    batch_size: int | None = setting(
        None, "Batch size of each task. By default that of the task's definition.", TASK_DATA, everyday=True, ge=1
    )
