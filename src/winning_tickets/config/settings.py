"""The base of all configurations, and how a run is executed (`Runtime`)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from winning_tickets.runs.errors import UsageError, shown, unknown

LAST_SEED = 2**32 - 1  # the largest seed; generators of NumPy take no larger one
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=LAST_SEED)]


def as_fraction(value: Any) -> Any:
    """Convert `60%` to 0.6, exactly; return any other value unchanged."""
    text = value.strip() if isinstance(value, str) else ""
    number = text.removesuffix("%").strip()
    return float(Fraction(number) / 100) if text.endswith("%") and _NUMBER.fullmatch(number) else value


def all_digits(number: float, places: int) -> str:
    """Return a number with all its decimal digits, at least `places` of them: 0.6 is 0.60 and 0.625 is 0.625."""
    whole, _, digits = format(Decimal(str(number)), "f").partition(".")
    digits = digits.rstrip("0").ljust(places, "0")
    return f"{whole}.{digits}" if digits else whole


def as_percent(value: Any) -> Any:
    """Read the level `30%`, `30` or 30 as 30 percent; refuse a number up to 1 without a sign, perhaps a fraction."""
    text = str(value).strip()
    number = text.removesuffix("%").strip()
    if text.endswith("%") or isinstance(value, bool) or not _NUMBER.fullmatch(number):
        return number if isinstance(value, str) else value
    if 0 < float(number) <= 1:
        raise UsageError(
            f"--level {number} can be read as {number} % and as {100 * float(number):g} %: write {number}% or "
            f"{100 * float(number):g}%."
        )
    return number if isinstance(value, str) else value


_NUMBER = re.compile(r"[+-]?\d{1,15}(\.\d{1,15})?")  # no exponent, with which a number could fill the memory
PERCENT = BeforeValidator(as_fraction)
ASCENDING = AfterValidator(lambda values: tuple(sorted(set(values))))
"""Sorts values and drops repeated ones, so that equal sets are equal runs."""


def in_order_of(names: Sequence[str]) -> AfterValidator:
    """Return a validator that puts names into one order, and drops repeated ones."""
    return AfterValidator(lambda values: tuple(name for name in names if name in values))


Share = Annotated[float, PERCENT]
"""A fraction, which may be written as 0.1 or as 10%."""

_WANTED_SIZE = "use a number of examples such as 1000, or a percentage such as 10%"


def parse_size(size: str, option: str = "--train-size") -> tuple[Fraction, bool]:
    """Parse a number of examples or a percentage; the second value says whether it is a percentage."""
    percent = size.strip().endswith("%")
    text = size.strip().removesuffix("%").strip()
    if not _NUMBER.fullmatch(text):
        raise UsageError(f"{option} {size} is not a size; {_WANTED_SIZE}.")
    number = Fraction(text)
    if percent and not 0 < number <= 100:
        raise UsageError(f"{option} {size} is outside (0%, 100%]; {_WANTED_SIZE}.")
    if not percent and (number.denominator != 1 or number < 1):
        raise UsageError(f"{option} {size} is not a whole number of at least 1; {_WANTED_SIZE}.")
    return number, percent


def count_of(size: str, available: int, what: str = "training examples") -> int:
    """Return how many of the available examples a size asks for, at least one."""
    number, percent = parse_size(size)
    count = int(number * available / 100) if percent else int(number)
    if count > available:
        raise UsageError(f"--train-size {size} asks for more than the {available} {what} there are.")
    if count == 0:
        raise UsageError(f"--train-size {size} of {available} {what} leaves none; {_WANTED_SIZE}.")
    return count


def as_size(value: Any, info: ValidationInfo) -> Any:
    """Return a size as text; refuse a value that is not a size."""
    size = None if value is None else str(value)
    if size is not None:
        try:
            parse_size(size, f"--{str(info.field_name).replace('_', '-')}")
        except UsageError as error:
            raise impossible(str(error)) from error
    return size


Size = Annotated[str, BeforeValidator(as_size)]
"""A number of examples, such as `1000`, or a part of them, such as `10%`."""

PROFILE_MEANING = (
    "Source of the settings that are not given: the paper, its released code, or the best values measured by this "
    "project (tuned)."
)
LabeledKind = Literal["classification", "regression", "multilabel", "tokens", "span"]
"""Kinds of tasks that files can define: those with labeled examples."""
WeightType = Literal["float32", "float16", "bfloat16"]
"""Names of the types in which the weights of an export may be stored."""

AnySettings = TypeVar("AnySettings", bound="Settings")
Value = TypeVar("Value")

if TYPE_CHECKING:
    Open = Annotated[Value, "given by a profile"]
else:

    class Open:
        """The type of a field that may be None, until `resolved` gives it the value of the profile."""

        def __class_getitem__(cls, kind: Any) -> Any:
            return kind | None


def setting(
    default: Any,  # `...` if the field is required
    meaning: str,  # the help, one or two sentences
    panel: str,  # the section of `--help` that lists the option
    option: str | None = "",  # names of the option, separated by spaces; if empty, made from the field's name
    *,
    everyday: bool = False,  # whether `--help` shows the option; `--help-all` shows all
    output: bool = False,  # whether it chooses optional outputs, which a later call may add to a finished run
    **rules: Any,  # arguments of pydantic's `Field`, such as `ge`
) -> Any:
    """Define a field of settings: the only place for its default, range, help, option and panel.

    A field whose `option` is None has none: profiles give its value, or a configuration file, a study or Python.
    """
    extra: Any = {"panel": panel, "option": option, "everyday": everyday, "output": output}
    return Field(default, description=meaning, json_schema_extra=extra, **rules)


class Settings(BaseModel):
    """Base of all configurations: they are frozen, numbers are finite, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @classmethod
    def of(cls, /, **fields: Any) -> Self:
        """Build the settings; one `UsageError` names all unknown fields and impossible values."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise UsageError(*_problems(cls.kind_of(fields), error, fields)) from error

    @classmethod
    def kind_of(cls, fields: Mapping[str, Any]) -> type[Self]:
        """Return the class of the settings with these values: this one, or one that the values choose."""
        return cls

    @classmethod
    def all_fields(cls) -> dict[str, tuple[type[Settings], FieldInfo]]:
        """Return every field by name, also of the classes that `kind_of` may choose, each with a class that has it."""
        return {name: (cls, field) for name, field in cls.model_fields.items()}

    @classmethod
    def words_on(cls, field: str, fields: Mapping[str, Any]) -> str:
        """Return the message on a field that this class does not have; empty if another message says enough."""
        return str(unknown("field", field, cls.all_fields()))

    @classmethod
    def part_of(cls, field: str) -> type[Settings] | None:
        """Return the class of a field that has settings of its own, such as `smart`; None for other fields."""
        annotation: Any = cls.model_fields[field].annotation
        kinds = (annotation, *get_args(annotation))
        return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Settings)), None)

    @classmethod
    def options_of(cls, field: str, inner: str = "") -> str:
        """Return the options of a field, joined by spaces: `--heads`, or `--smart-steps` for `steps` of `smart`.

        A field without an option gives an empty text.
        """
        part = cls.part_of(field) if inner else None
        extra: Any = (part or cls).model_fields[inner if part else field].json_schema_extra
        name = f"{field}-{inner}" if part else field
        return "" if extra["option"] is None else extra["option"] or "--" + name.replace("_", "-")

    @classmethod
    def option_of(cls, field: str, inner: str = "") -> str:
        """Return the first option of a field, for messages; its name where it has none."""
        options = cls.options_of(field, inner).split() or [f"{field}.{inner}" if inner else field]
        return options[0].partition("/")[0]

    @property
    def defaults_version(self) -> int:
        """Increased when a default or a value of a profile changes, so that old and new runs never share an id."""
        return 1

    def identity(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """Return the fields that are part of a run's identity: all but those that choose optional outputs."""
        extra: dict[str, Any] = {name: field.json_schema_extra for name, field in type(self).model_fields.items()}
        outputs = {name for name, about in extra.items() if about and about.get("output")}
        return self.model_dump(mode="json", exclude_defaults=exclude_defaults, exclude=outputs)

    def changed(self, *fields: str) -> list[str]:
        """Return those of the fields that differ from their defaults."""
        return [field for field in fields if getattr(self, field) != type(self).model_fields[field].default]

    @classmethod
    def help_of(cls, field: str) -> str:
        return str(cls.model_fields[field].description)

    def filled(self, kind: type[AnySettings], values: Mapping[str, Any]) -> AnySettings:
        """Return these settings as another type, with these values in the fields that are None."""
        open_ = {name: value for name, value in values.items() if getattr(self, name, "") is None}
        return kind.model_construct(self.model_fields_set, **(dict(self) | open_))


def _problems(cls: type[Settings], error: ValidationError, fields: Mapping[str, Any]) -> list[str]:
    return [text for item in error.errors() if (text := _problem(cls, item, fields))]


_WORDED = "worded"


def impossible(text: str) -> PydanticCustomError:
    """Return an error for a validator to raise, with this text as its message."""
    return PydanticCustomError(_WORDED, "{text}", {"text": text})


_LIMITS = {
    "greater_than": ("gt", "it must be above {}"),
    "greater_than_equal": ("ge", "it must be at least {}"),
    "less_than": ("lt", "it must be below {}"),
    "less_than_equal": ("le", "it must be at most {}"),
}


def _problem(cls: type[Settings], item: Any, fields: Mapping[str, Any]) -> str:
    names = [str(part) for part in item["loc"]]
    field = ".".join(names)
    if item["type"] == "extra_forbidden":
        return cls.words_on(field, fields)
    if item["type"] == _WORDED:
        return str(item["msg"])
    if item["type"] == "missing" and names[0] in cls.model_fields:
        return f"{cls.option_of(*names[:2])} is missing."
    if item["type"] in _LIMITS and names[0] in cls.model_fields:
        name, words = _LIMITS[item["type"]]
        inner = names[1] if names[1:] and cls.part_of(names[0]) else ""
        option, limit = cls.option_of(names[0], inner), str(item["ctx"][name]).removesuffix(".0")
        found = item["input"]
        number = float(found) if _NUMBER.fullmatch(str(found)) else 0.0
        hint = f" For {number:g} % write {number / 100:g} or {number:g}%." if limit == "1" and 1 < number < 100 else ""
        given = found if _NUMBER.fullmatch(str(found)) else shown(found)
        return f"{option} {given} is impossible; {words.format(limit)}.{hint}"
    return f"{_written(cls, item['loc'])}: {item['msg']} (found {shown(item['input'])})."


def _written(cls: type[Settings], place: Sequence[str | int]) -> str:
    """Return a place in settings as messages name it: by its option, or by its path where there is no option."""
    names = [str(part) for part in place]
    field = cls.model_fields.get(names[0]) if names else None
    if field is None or not field.json_schema_extra:
        return ".".join(names).replace("_", "-")
    inner = names[1] if names[1:] and cls.part_of(names[0]) else ""
    keys = [part for part in place[2 if inner else 1 :] if isinstance(part, str)]
    return " ".join([cls.option_of(names[0], inner), *keys])


CORPORA = (
    "wikitext-103, wikitext-2, wikipedia:20231101.en, pydocs, task:NAME, a column of a data set of the hub such as "
    "org/name:text or org/name/config:text, or of a csv, tsv, jsonl or parquet file such as FILE.csv:text, a text "
    "file, or a folder of text or Parquet files"
)
"""The corpora, for help texts."""
GROUPING_MEANING = (
    "Put examples of similar lengths into a batch, so that little is padding. Otherwise batches are random."
)
_running = partial(setting, panel="Running")
_USUAL_DEVICES = ("cpu", "cuda", "mps", "xpu")  # names that are known without importing torch


class Runtime(Settings):
    """Settings of the execution of a run, such as its device; they are not part of its id."""

    device: str = _running(
        "auto",
        "Device: auto (a CUDA GPU where there is one), cpu, cuda, mps or another that torch knows, also with a number "
        "such as cuda:1.",
        everyday=True,
    )
    bf16: bool = _running(
        False,
        "Use bfloat16 autocast, which accelerate launch can ask for too. Weights and scores stay float32. It is "
        "faster on most GPUs and on some CPUs.",
        validate_default=True,
        everyday=True,
    )
    torch_compile: bool = _running(
        False,
        "Compile the encoder with torch.compile. The first step is slow, the others are faster.",
        option="--compile",
    )
    gradient_checkpointing: bool = _running(
        False,
        "Compute activations inside layers again in the backward pass: less memory, more time, the same numbers.",
    )
    shard: bool = _running(
        False,
        "Shard weights, scores and moments of mask training over all processes (FSDP2), for models that do not fit on "
        "one GPU. The ticket is the same up to rounding.",
    )
    checkpoint_steps: int | None = _running(
        None, "Optimizer steps between checkpoints. By default checkpoints are written by time.", ge=1
    )
    checkpoint_seconds: float = _running(120.0, "Seconds between checkpoints if --checkpoint-steps is not given.", ge=0)
    quiet: bool = _running(False, "Print no progress on stderr.")
    non_finite: Literal["stop", "skip"] = _running(
        "stop", "Stop at a step whose loss or gradients are NaN or infinite, or skip that step."
    )
    trust_remote_code: bool = _running(
        False,
        "Run the code that a model's repository brings, with all rights of this process. The run's record says so.",
    )
    report_to: tuple[str, ...] = _running(
        (),
        "Trackers that receive losses and scores during training: tensorboard, trackio, wandb, mlflow or another one "
        "that the installed transformers knows. Separate several with commas.",
    )

    @field_validator("device")
    @classmethod
    def _a_device(cls, value: str) -> str:
        """Refuse names that are not devices; whether this machine has the device is checked later."""
        name, colon, number = value.partition(":")
        if (name in _USUAL_DEVICES and (number.isdecimal() or not colon)) or value == "auto":
            return value
        import torch  # which knows the other devices

        try:
            torch.device(value)
        except RuntimeError as error:
            raise impossible(f"--device {value} is not a device; use auto, cpu, cuda, mps, cuda:1 ...") from error
        return value

    @field_validator("bf16")
    @classmethod
    def _as_launched(cls, value: bool) -> bool:  # noqa: FBT001 - as pydantic calls it
        """Return whether bfloat16 is set here, or by `accelerate launch` in the environment."""
        return value or os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower() == "bf16"
