"""Write the generated parts of command_line.md and python.md, or with --check only compare them; `make reference`.

With --recipes it also writes the list that `tickets recipes` shows, for which all recipes are planned (half a minute).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from winning_tickets import config
from winning_tickets.cli.application import whole_application
from winning_tickets.cli.help import Verb, written
from winning_tickets.config.search import METHOD_NAMES, readers_of
from winning_tickets.studies.text import describe_recipes

HERE = Path(__file__).parent
LIST = HERE.parents[1] / "src/winning_tickets/studies/recipes/list.json"
MARKER = "<!-- Generated from here on by `make reference`; edit the settings or commands instead. -->\n"
SETTINGS = (
    config.SearchConfig,
    config.TransferConfig,
    config.ShareConfig,
    config.SuperConfig,
    config.ShrinkConfig,
    config.FitHeadConfig,
    config.EvaluateConfig,
    config.ExportConfig,
    config.MeasureConfig,
    config.CompareConfig,
    config.ImportConfig,
    config.Smart,
    config.Runtime,
)
READ_BY = re.compile(r" \[read by [^;\]]+\]|(?<=\[)read by [^;\]]+; ")


RARE = "Options that only `--help-all` shows:"


def row(*cells: str) -> str:
    """One line of a table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A table in Markdown, with an empty line after it."""
    return [row(*heads), f"|{'---|' * len(heads)}", *(row(*cells) for cells in rows), ""]


def commands(command: Any, name: str = "tickets") -> Iterator[tuple[str, Any]]:
    """All commands in the order of `--help`."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
    for word, one in (inner or {}).items():
        yield from commands(one, f"{name} {word}")


def meaning(parameter: Any) -> str:
    """The help of a parameter; a default that it does not have already is added."""
    text = READ_BY.sub("", parameter.help or "")
    plain = parameter.default not in (None, False, ()) and "default" not in text
    return f"{text} [default: {parameter.default}]" if plain else text


def options(command: Any) -> list[str]:
    """The options of a command, a table for each panel."""
    panels: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    readers = command.readers if isinstance(command, Verb) else {}
    for one in command.params:
        if one.hidden or one.param_type_name == "argument":
            continue
        names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
        methods = ", ".join(dict.fromkeys(readers.get(one.name, ()))) or "all"
        cells = (names, meaning(one), methods) if "method" in readers else (names, meaning(one))
        place = RARE if isinstance(command, Verb) and one.name in command.rare else ""
        panel = one.rich_help_panel or ("Running" if readers else "Options")
        panels.setdefault((place, panel), []).append(cells)
    lines = []
    for (place, panel), rows in sorted(panels.items(), key=lambda item: item[0][0]):
        if place and RARE not in lines:
            lines += [RARE, ""]
        wide = "method" in readers and panel != "Running"
        lines += table((panel, "meaning", "methods") if wide else (panel, "meaning"), [
            cells if wide else cells[:2] for cells in rows
        ])  # fmt: skip
    return lines


def command_line() -> str:
    """All commands with their options."""
    lines = []
    for name, command in commands(whole_application()):
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        words = " ".join([name, *(one.metavar or one.name.upper() for one in arguments)])
        lines += [f"## {words}", "", " ".join(command.help.partition("\n\n")[0].split()), ""]
        rows = [(f"`{one.metavar or one.name.upper()}`", one.help or "") for one in arguments]
        lines += (table(("argument", "meaning"), rows) if rows else []) + options(command)
    return "\n".join(lines)


def typed(annotation: Any) -> str:
    """The values that a field takes."""
    origin, inner = get_origin(annotation), [one for one in get_args(annotation) if one is not type(None)]
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is dict:
        return "dict"
    if origin is tuple:
        return f"tuple of {typed(inner[0])}"
    if hasattr(annotation, "__metadata__"):
        return typed(inner[0])
    # Sorted, because Python gives equal unions the order of the one that was made first.
    return " or ".join(sorted(map(typed, inner))) if inner else annotation.__name__


def settings() -> str:
    """A table for each class of settings."""
    lines = []
    for cls in SETTINGS:
        lines += [f"### {cls.__name__}", "", " ".join((cls.__doc__ or "").split()), ""]
        rows = []
        for name, (_, field) in cls.all_fields().items():
            default = (
                "required" if field.is_required() else f"`{written(field.default)}`" if field.default != () else ""
            )
            methods = readers_of(name) if cls is config.SearchConfig else METHOD_NAMES
            read = f" Read by {', '.join(methods)}." if methods != METHOD_NAMES else ""
            rows.append((f"`{name}`", typed(field.annotation), default, f"{field.description}{read}"))
        lines += table(("field", "type", "default", "meaning"), rows)
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """The pages as they should be."""
    made = {HERE / "command_line.md": command_line(), HERE / "python.md": "## Settings\n\n" + settings()}
    return {
        path: path.read_text(encoding="utf-8").partition(MARKER)[0] + MARKER + "\n" + text
        for path, text in made.items()
    }


def main() -> None:
    stale = [path for path, text in pages().items() if path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv and stale:
        sys.exit(f"{', '.join(path.name for path in stale)}: not current; run `make reference`.")
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
    if "--recipes" in sys.argv:
        LIST.write_text(json.dumps(describe_recipes(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
