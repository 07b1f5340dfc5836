"""The base of all configurations, how a run is executed (`Runtime`), and configuration files."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from winning_tickets.runs.errors import UsageError, shown, unknown

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LAST_SEED = 2**32 - 1
"""Any generator takes seeds up to this one; NumPy's take no others."""
Seed = Annotated[int, Field(ge=0, lt=LAST_SEED + 1)]


AnySettings = TypeVar("AnySettings", bound="Settings")


class Settings(BaseModel):
    """Base of all configurations: frozen, numbers are finite, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, /, **fields: Any) -> Self:
        """Build one, reporting every problem at once.

        Raises:
            UsageError: one or more fields are unknown or have impossible values.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            raise UsageError(_problems(cls, error)) from error

    def filled(self, kind: type[AnySettings], values: Mapping[str, Any]) -> AnySettings:
        """The same settings as another type, with values for the fields that are None."""
        open_ = {name: value for name, value in values.items() if getattr(self, name) is None}
        return kind.model_construct(self.model_fields_set | open_.keys(), **(dict(self) | open_))


def _problems(cls: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(str(unknown("field", field, cls.model_fields)))
        else:
            lines.append(f"{field.replace('_', '-')}: {item['msg']} (found {shown(item['input'])}).")
    return "\n".join(lines)


class Runtime(Settings):
    """How a run is executed; never part of its identity.

    Attributes:
        device: `auto` (a GPU where there is one), `cpu` or `cuda`; CUDA_VISIBLE_DEVICES says which GPU.
        bf16: bfloat16 autocast; weights and scores stay float32.
        checkpoint_steps: optimiser steps between checkpoints; None means by time.
        checkpoint_seconds: seconds between checkpoints where `checkpoint_steps` is None.
        quiet: no progress on stderr.
        non_finite: at a step whose loss or gradients are NaN or infinite `stop`, or `skip` it; it changes no number of
            a run that has no such step, and one that has gives none without it.
        report_to: names of `tracking.TRACKERS` that are told of losses and scores while a run trains.
    """

    device: str = "auto"
    bf16: bool = False
    checkpoint_steps: int | None = None
    checkpoint_seconds: float = 120.0
    quiet: bool = False
    non_finite: Literal["stop", "skip"] = "stop"
    report_to: tuple[str, ...] = ()


def load_config_file(path: Path) -> dict[str, Any]:
    """Fields from a YAML or JSON file, for `--config`.

    Raises:
        UsageError: no such file, or not a mapping of field names to values.
    """
    import yaml

    if not path.is_file():
        raise UsageError(f"There is no configuration file {path}.")
    try:
        _, content = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"The configuration file {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"The configuration file {path} must map field names to values, such as 'steps: 60'.")
    return {key.replace("-", "_"): value for key, value in content.items()}


MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 64
MAX_VALUES = 100_000
"""With every alias written out: nine lines of aliases of aliases can stand for 10^9 values."""


class _Loader(yaml.SafeLoader):
    """The safe loader, with limits, and with an error of its own where a value does not fit its tag."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._values: dict[int, int] = {}
        self._depths: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read the next node, and refuse it where it is too deep, too large, or inside itself."""
        peeked: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if self._level >= MAX_DEPTH:
            raise _refused(f"nested more than {MAX_DEPTH} deep", peeked)
        alias: Any = peeked if isinstance(peeked, yaml.AliasEvent) else None
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        if node is None:
            return None
        if alias is None:
            self._measure(node)
        elif id(node) not in self._values:
            raise _refused(f"the alias *{alias.anchor} stands inside what it names", alias)
        if self._values[id(node)] > MAX_VALUES:
            raise _refused(f"more than {MAX_VALUES:,} values, with all aliases written out", alias or node)
        if self._level + self._depths[id(node)] > MAX_DEPTH:
            raise _refused(f"nested more than {MAX_DEPTH} deep, with all aliases written out", alias or node)
        return node

    def _measure(self, node: yaml.Node) -> None:
        """Count what is inside a node; what it holds was counted before it."""
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inside = [one for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        self._values[id(node)] = 1 + sum(self._values[id(one)] for one in inside)
        self._depths[id(node)] = 1 + max((self._depths[id(one)] for one in inside), default=0)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node, or an error that says where it does not fit its tag."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int):
                str(value)  # thousands of hexadecimal digits are read and could not be written
            elif isinstance(value, str):
                value.encode("utf-8")  # half of a surrogate pair, which "\\ud800" is, could not either
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
            kind = str(node.tag).rpartition(":")[2]
            shown = node.value[:40] if isinstance(node.value, str) else f"a {type(node).__name__}"
            raise _refused(f"{shown!r} is no {kind}", node) from error
        return value


def _refused(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def _copied(node: yaml.Node, copies: dict[int, yaml.Node]) -> yaml.Node:
    """The same tree of other nodes, aliases included; the marks, which hold the whole text, are shared."""
    if id(node) in copies:
        return copies[id(node)]
    copied = copies[id(node)] = copy.copy(node)
    if isinstance(node, yaml.MappingNode):
        copied.value = [(_copied(key, copies), _copied(value, copies)) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        copied.value = [_copied(item, copies) for item in node.value]
    return copied


def parse_yaml(text: str) -> tuple[yaml.Node | None, Any]:
    """The tree of a document, which knows where everything stands, and its value.

    Args:
        text: one YAML document; of an empty one both are None.

    Raises:
        yaml.YAMLError: it is not valid, has other tags than those of plain values, or goes beyond the limits above.
    """
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"it has {len(text):,} characters, and at most {MAX_CHARACTERS:,} are read")
    loader = _Loader(text)
    try:
        tree = loader.get_single_node()
        # The values are made of a copy: merge keys (<<) are written out in what they are made of.
        return tree, None if tree is None else loader.construct_document(_copied(tree, {}))
    finally:
        loader.dispose()
