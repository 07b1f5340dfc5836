"""Options of the command line, made from the fields of settings, and the values in their texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from winning_tickets.cli.help import written
from winning_tickets.config import METHOD_NAMES, SearchConfig, Settings
from winning_tickets.config.search import readers_of
from winning_tickets.config.settings import PERCENT, as_fraction
from winning_tickets.runs.errors import UsageError


def shape(annotation: Any) -> tuple[type, bool]:
    """Return the basic type of a field's values, and whether there may be several."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal or origin is dict:
        return str, False
    if origin is tuple or origin is Annotated:
        kind, several = shape(inner[0])
        return kind, several or origin is tuple
    if inner:
        shapes = [shape(one) for one in inner if one is not type(None)]
        return shapes[0][0], any(several for _, several in shapes)
    return annotation, False


def named(annotation: Any) -> bool:
    """Return whether the values of a field have names, such as `task=DIR`."""
    return dict in (get_origin(annotation), *map(get_origin, get_args(annotation)))


def parsed(cls: type[Settings], field: str, value: Any) -> Any:
    """Return the value of a field from the text of its option, in which lists are written with commas."""
    (kind, several), option = shape(cls.model_fields[field].annotation), cls.option_of(field)
    if isinstance(value, list):
        return ",".join(value)
    if not several:
        return value
    if kind is int:
        return split_ints(option, value)
    if kind is float and "%" not in value and field != "level":
        return _split(option, value, float, "numbers, such as 0.6")
    return split_words(value)


def fraction(text: str | float) -> float:
    """Parse the value of an option that is a fraction: 0.1 or 10%."""
    try:
        return float(as_fraction(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither a fraction such as 0.1 nor a percentage such as 10%.") from error


FieldPath = tuple[str, ...]  # the names of a field, inside the settings of another


def leaves(
    cls: type[Settings], inline: str, path: FieldPath = ()
) -> Iterator[tuple[str, FieldPath, type[Settings], str]]:
    """Yield parameter, path, class and options of every single field, also of those inside other settings.

    The fields of the settings in the field `inline` have parameters and options without a prefix.
    """
    # Fields of a base come last, and with them those of the settings in `inline`.
    fields = cls.all_fields()
    own = {field: field not in kind.__annotations__ if kind is cls else False for field, (kind, _) in fields.items()}
    for field in sorted(fields, key=lambda field: (field == inline, own[field])):
        kind = fields[field][0]
        part = kind.part_of(field)
        if part is None:
            yield field, (*path, field), kind, kind.options_of(field)
        elif field == inline:
            yield from leaves(part, inline, (*path, field))
        else:
            for inner in part.model_fields:
                yield f"{field}__{inner}", (*path, field, inner), part, kind.options_of(field, inner)


def annotated(
    cls: type[Settings],
    field: str,
    options: str,
    default: Any = None,
    *,
    metavar: str | None = None,
    meaning: str | None = None,
) -> Any:
    """Return the type of a parameter as Typer reads it: an argument if there is a `metavar`, else an option."""
    about = cls.model_fields[field]
    extra: Any = about.json_schema_extra
    kind, several = shape(about.annotation)
    kind = str if several else kind
    if named(about.annotation):
        kind = list[str]  # the option may be repeated
    elif PERCENT in (*about.metadata, *(one for inner in get_args(about.annotation) for one in get_args(inner)[1:])):
        kind = str  # a fraction may be written as 10%
    if metavar is not None:
        kind = list[str] if several else kind
        return Annotated[kind, typer.Argument(metavar=metavar, help=meaning or about.description)]
    if kind is bool and about.default is not False and "/" not in options:
        options = f"{options}/--no-{options[2:]}"
    default = about.get_default() if default is None and not about.is_required() else default
    notes = [f"read by {', '.join(methods)}"] if (methods := methods_of(cls, field)) else []
    notes += [f"default: {written(default)}"] if default not in (None, ()) and kind is not bool else []
    meaning = f"{about.description} [{'; '.join(notes)}]" if notes else about.description
    words = METHOD_NAMES if field == "method" else tuple(_literals(about.annotation))
    more: dict[str, Any] = {"autocompletion": completer(words)} if words and not several else {}
    return Annotated[kind | None, typer.Option(*options.split(), help=meaning, rich_help_panel=extra["panel"], **more)]


def completer(words: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a function that a shell calls for the words that complete a beginning."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def _literals(annotation: Any) -> Iterator[str]:
    """Yield the words that a field accepts, if it accepts only some."""
    if get_origin(annotation) is Literal:
        yield from (word for word in get_args(annotation) if isinstance(word, str))
    else:
        for one in get_args(annotation):
            yield from _literals(one)


def methods_of(cls: type[Settings], field: str) -> tuple[str, ...]:
    """Return the methods that read a field of a search; empty if all methods read it."""
    found = readers_of(field) if issubclass(cls, SearchConfig) else ()
    return () if found == METHOD_NAMES else found


def is_everyday(cls: type[Settings], field: str) -> bool:
    """Return whether `--help` shows the option of a field."""
    extra: Any = cls.model_fields[field].json_schema_extra
    return bool(extra["everyday"])


def split_words(text: str | None) -> tuple[str, ...] | None:
    """Split `a,b` into ("a", "b")."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def split_ints(option: str, text: str | None) -> tuple[int, ...] | None:
    """Split `1,2` into (1, 2)."""
    return _split(option, text, int, "whole numbers, such as 0,1,2")


def _split(option: str, text: str | None, kind: Callable[[str], Any], expected: str) -> tuple[Any, ...] | None:
    words = split_words(text)
    if words is None:
        return None
    try:
        parsed = tuple(kind(word) for word in words)
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is not a list of {expected}.") from error
    if not parsed:
        raise UsageError(f"{option} is empty; give {expected}.")
    return parsed
