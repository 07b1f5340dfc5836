"""Reading a study's YAML: where each key stands, keys that come twice, and what was probably meant."""

from __future__ import annotations

from typing import Any

import yaml

from winning_tickets.config.yaml_text import parse_yaml
from winning_tickets.errors import UsageError

Path = tuple[str | int, ...]


def read_yaml(text: str, source: str) -> tuple[Any, dict[Path, int]]:
    """The content of a YAML document, and the line of every key and item.

    Args:
        text: the document.
        source: its name, for messages.

    Raises:
        UsageError: it is not valid YAML, or a key comes twice; the line is named.
    """
    lines: dict[Path, int] = {}
    try:
        tree, content = parse_yaml(text)
        if tree is not None:
            _note(tree, (), lines, source)
        return content, lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f", line {mark.line + 1}"
        hint = ""
        if mark is not None and "@" in str(error.problem):
            hint = " A reference needs quotes: '@search'."
        raise UsageError(f"{source}{where}: not valid YAML: {error.problem}.{hint}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: not valid YAML: {error}") from error


def _note(node: yaml.Node, path: Path, lines: dict[Path, int], source: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            if inner in lines:
                raise UsageError(
                    f"{source}, line {key.start_mark.line + 1}: {key.value!r} is there already, in line {lines[inner]}."
                )
            lines[inner] = key.start_mark.line + 1
            _note(value, inner, lines, source)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note(item, (*path, index), lines, source)


def line_of(path: Path, lines: dict[Path, int]) -> int | None:
    """The line of a place, or of the closest one around it; None where the study is not from a file."""
    parts = tuple(part if isinstance(part, int) else str(part) for part in path)
    while parts:
        if parts in lines:
            return lines[parts]
        parts = parts[:-1]
    return None
