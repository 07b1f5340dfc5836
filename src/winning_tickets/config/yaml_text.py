"""YAML from anywhere: only plain values, and no document that grows when it is read."""

from __future__ import annotations

import copy
from typing import Any

import yaml

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
