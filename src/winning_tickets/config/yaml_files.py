"""Read YAML that the user wrote: configuration files, task files and studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.text import read_text

YamlPath = tuple[str | int, ...]
Lines = dict[YamlPath, int]  # lines of the keys and items of a YAML document


def read_yaml(text: str, source: str) -> tuple[Any, Lines]:
    """Return the content of a YAML document, and the line of every key and item.

    Raises:
        UsageError: the text is not YAML of plain values, or a key comes twice; both are named with their line.
    """
    lines: Lines = {}
    try:
        tree = yaml.compose(text, yaml.SafeLoader)
        if tree is not None:
            _note(tree, (), lines, source)
        return yaml.safe_load(text), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f", line {mark.line + 1}"
        hint = " A reference needs quotes: '@search'." if "@" in str(error.problem) else ""
        raise UsageError(f"{source}{where}: not valid YAML: {error.problem}.{hint}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as the date 2001-99-99
        raise UsageError(f"{source}: not valid YAML: {error}.") from error


def _note(node: yaml.Node, path: YamlPath, lines: Lines, source: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner, line = (*path, str(key.value)), key.start_mark.line + 1
            if inner in lines:
                raise UsageError(
                    f"{source}, line {line}: {key.value!r} is there already, in line {lines[inner]}; keep one."
                )
            lines[inner] = line
            _note(value, inner, lines, source)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note(item, (*path, index), lines, source)


def load_config_file(path: Path) -> dict[str, Any]:
    """Read fields from a YAML or JSON file, for `--config`."""
    if not path.is_file():
        raise UsageError(f"There is no configuration file {path}.")
    content, _ = read_yaml(read_text(path), f"The configuration file {path}")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"The configuration file {path} must map field names to values, such as 'steps: 60'.")
    return {key.replace("-", "_"): value for key, value in content.items()}
