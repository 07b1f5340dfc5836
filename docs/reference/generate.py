"""Write the generated parts of the pages here, and results.schema.json; with --check only compare them.

`make reference` calls it. With --recipes it also writes the list that `tickets recipes` shows, for which all recipes
are planned (half a minute).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterator
from inspect import get_annotations
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from winning_tickets import config
from winning_tickets.cli.application import whole_application
from winning_tickets.cli.help import Verb, written
from winning_tickets.config.search import METHOD_NAMES, readers_of
from winning_tickets.runs.results import Stored, StoredResult
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


RARE = " †"  # marks an option that only --help-all shows
SAME = (
    "The first list of a class has the fields that are [options of that name](command_line.md), described there,\n"
    "with their types and the defaults that are not None; a table has the others."
)
MANY = 5  # commands whose names are not worth listing


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


def shared(every: list[tuple[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """The commands of each option that at least two commands have with the same meaning, by its names and meaning."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, command in every:
        for one in command.params:
            if not one.hidden and one.param_type_name != "argument" and not read_by(command, one):
                found.setdefault((names_of(one), meaning(one)), []).append(name.removeprefix("tickets "))
    return {option: commands for option, commands in found.items() if len(commands) > 1}


def read_by(command: Any, parameter: Any) -> str:
    """The methods of `search` that read an option; empty if all do, or for other commands."""
    readers = command.readers if isinstance(command, Verb) else {}
    methods = dict.fromkeys(readers.get(parameter.name, METHOD_NAMES)) if "method" in readers else METHOD_NAMES
    others = [method for method in METHOD_NAMES if method not in methods]
    return f"all but {', '.join(others)}" if 0 < len(others) < 3 else ", ".join(methods) if others else ""


def names_of(parameter: Any) -> str:
    """The names of an option, as code."""
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def options(command: Any, common: Collection[tuple[str, str]]) -> list[str]:
    """The options that a command alone has, a table for each panel, and the names of those in `common`."""
    panels: dict[str, list[tuple[str, ...]]] = {}
    elsewhere: list[str] = []
    readers = command.readers if isinstance(command, Verb) else {}
    wide = "method" in readers
    for one in command.params:
        if one.hidden or one.param_type_name == "argument":
            continue
        if (names_of(one), meaning(one)) in common and not read_by(command, one):
            elsewhere.append(f"`{one.opts[0]}`")
            continue
        rare = RARE if isinstance(command, Verb) and one.name in command.rare else ""
        cells = (names_of(one), f"{meaning(one)}{rare}", read_by(command, one) or "all")
        panel = one.rich_help_panel or ("Running" if readers else "Options")
        panels.setdefault(panel, []).append(cells if wide else cells[:2])
    lines = []
    for panel, rows in panels.items():
        lines += table((panel, "meaning", "methods") if wide else (panel, "meaning"), rows)
    return lines + ([f"[Shared options](#shared-options): {', '.join(elsewhere)}.", ""] if elsewhere else [])


def command_line() -> str:
    """The options that several commands share, then all commands with their own."""
    every = list(commands(whole_application()))
    common = shared(every)
    by_commands: dict[str, list[tuple[str, ...]]] = {}
    for (names, text), users in sorted(common.items(), key=lambda item: -len(item[1])):
        groups = {user.partition(" ")[0] for user in users}
        whose = ", ".join(users) if len(users) < MANY else groups.pop() if len(groups) == 1 else "many commands"
        by_commands.setdefault(whose, []).append((names, text))
    lines = ["## Shared options", "", f"{RARE.strip()} marks an option that only `--help-all` shows.", ""]
    for whose, rows in by_commands.items():
        lines += table((f"Of {whose}", "meaning"), rows)
    for name, command in every:
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        words = " ".join([name, *(one.metavar or one.name.upper() for one in arguments)])
        lines += [f"## {words}", "", " ".join(command.help.partition("\n\n")[0].split()), ""]
        for one in arguments:
            lines += [f"`{one.metavar or one.name.upper()}`: {one.help or ''}", ""]
        lines += options(command, common)
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


def settings(options: str) -> str:
    """The fields of each class of settings: those that are options by type and default, a table of the others."""
    lines = []
    for cls in SETTINGS:
        lines += [f"### {cls.__name__}", "", " ".join((cls.__doc__ or "").split()), ""]
        rows: list[tuple[str, ...]] = []
        listed: list[str] = []
        for name, (_, field) in cls.all_fields().items():
            default = "" if field.is_required() or field.default in (None, ()) else f" = {written(field.default)}"
            if field.description and field.description.replace("|", "\\|") in options:
                kind = typed(field.annotation)
                listed.append(f"{name}: {'str' if '`' in kind else kind}{default}")
                continue
            methods = readers_of(name) if cls is config.SearchConfig else METHOD_NAMES
            read = f" Read by {', '.join(methods)}." if methods != METHOD_NAMES else ""
            rows.append((f"`{name}`", typed(field.annotation) + default, f"{field.description}{read}"))
        if listed:
            lines += ["```text", fill(", ".join(listed), 116, break_on_hyphens=False), "```", ""]
        lines += table(("field", "type and default", "meaning"), rows) if rows else []
    return "\n".join(lines)


def bases_of(cls: type[Stored]) -> list[type[Stored]]:
    """The classes of results from which a class has further keys, without those of all results."""
    origins = [base.__pydantic_generic_metadata__["origin"] or base for base in cls.__bases__ if hasattr(base, "known")]
    return [base for base in origins if base not in (Stored, StoredResult)]


def own_fields(cls: type[Stored]) -> dict[str, Any]:
    """The fields that a class of results adds to those of its bases."""
    return {name: cls.model_fields[name] for name in get_annotations(cls) if name in cls.model_fields}


def link(cls: type[Stored]) -> str:
    """A link to the section of a class."""
    return f"[{cls.__name__}](#{cls.__name__.lower()})"


def parts_of(annotation: Any) -> list[type[Stored]]:
    """The classes of results that the type of a field holds."""
    if isinstance(annotation, type) and issubclass(annotation, Stored):
        return [annotation]
    return [part for inner in get_args(annotation) for part in parts_of(inner)]


def described(cls: type[Stored], title: str) -> list[str]:
    """The section of a class of results; fields with one meaning share a row. Types are in the schema."""
    names: dict[str, list[str]] = {}
    for name, one in own_fields(cls).items():
        parts = dict.fromkeys(map(link, parts_of(one.annotation)))
        names.setdefault("; ".join(filter(None, (one.description, *parts))), []).append(f"`{name}`")
    rows = [(", ".join(same), meaning) for meaning, same in names.items()]
    summary = " ".join((cls.__doc__ or "").partition("\n\n")[0].split())
    more = [f"Further keys: {', '.join(map(link, bases))}."] if (bases := bases_of(cls)) else []
    return [f"## {title}", "", " ".join([summary, *more]), "", *(table(("key", ""), rows) if rows else [])]


def stored_results() -> str:
    """The results that runs store, by verb, and then what they hold."""
    lines = described(StoredResult, "All results")
    kinds = StoredResult.by_verb()
    parts: dict[type[Stored], None] = dict.fromkeys(bases_of(StoredResult))
    for cls in dict.fromkeys(kinds.values()):
        lines += described(cls, ", ".join(verb for verb, kind in kinds.items() if kind is cls))
        waiting = [cls]
        for one in waiting:
            inner = [part for field in own_fields(one).values() for part in parts_of(field.annotation)] + bases_of(one)
            waiting += [part for part in inner if part not in parts]
            parts |= dict.fromkeys(inner)
    for cls in parts:
        lines += described(cls, cls.__name__)
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """The pages as they should be, and the JSON schema of the results."""
    options = command_line()
    made = {
        HERE / "command_line.md": options,
        HERE / "python.md": f"## Settings\n\n{SAME}\n\n{settings(options)}",
        HERE / "json.md": stored_results(),
    }
    written = {
        path: path.read_text(encoding="utf-8").partition(MARKER)[0] + MARKER + "\n" + text
        for path, text in made.items()
    }
    return written | {HERE / "results.schema.json": schema_text()}


class Untitled(GenerateJsonSchema):
    """A schema in which fields have no titles, which would be their names once more."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_text() -> str:
    """The JSON schema of results, an object whose `verb` says which of them it is; a line for each class."""
    kinds = StoredResult.by_verb()
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (kind, "validation") for kind in dict.fromkeys(kinds.values())
    ]
    places, definitions = models_json_schema(modes, schema_generator=Untitled)
    cases = [
        {"if": {"properties": {"verb": {"const": verb}}}, "then": places[kind, "validation"]}
        for verb, kind in kinds.items()
    ]
    body = {"$schema": "https://json-schema.org/draft/2020-12/schema", "allOf": cases}
    lines = [f' "{name}": {json.dumps(one)}' for name, one in definitions["$defs"].items()]
    return json.dumps(body)[:-1] + ', "$defs": {\n' + ",\n".join(lines) + "\n}}\n"


def main() -> None:
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv and stale:
        sys.exit(f"{', '.join(path.name for path in stale)}: not current; run `make reference`.")
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
    if "--recipes" in sys.argv:
        LIST.write_text(json.dumps(describe_recipes(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
