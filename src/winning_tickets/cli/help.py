"""The help of commands whose options are made from settings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand

from winning_tickets.config import METHOD_NAMES
from winning_tickets.config.search import classes_of

RUNNING = "Running"
HELP_ALL = "--help-all"


def show_help(context: typer.Context, value: bool) -> None:  # noqa: FBT001 - as Typer calls it
    """Print the help and end, for an option that asks for it."""
    if value:
        typer.echo(context.get_help())
        raise typer.Exit


class Verb(TyperCommand):
    """A command whose help has a section for each panel.

    It shows the first sentence about each everyday option, with `--method` about those that this method reads; with
    `--help-all` it shows all options and sentences.
    """

    readers: Mapping[str, tuple[str, ...]] = {}  # the methods that read a parameter; all of them if empty
    rare: frozenset[str] = frozenset()  # parameters that only `--help-all` shows

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; the method is stored first, since the help is printed while options are parsed."""
        for word, following in itertools.pairwise([*args, ""]):
            name, _, value = word.partition("=")
            if name == "--method" and (value or following) in METHOD_NAMES:
                ctx.meta["method"] = value or following
        ctx.meta["all"] = HELP_ALL in args
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        method, left_out = ctx.meta.get("method"), 0
        kinds = classes_of(method) if method and self.readers else ()
        for one in self.get_params(ctx):
            record, methods = one.get_help_record(ctx), self.readers.get(one.name or "")
            if record is None or (kinds and methods and method not in methods):
                continue
            if not ctx.meta["all"] and one.name in self.rare:
                left_out += 1
                continue
            name, meaning = record
            if kinds or not ctx.meta["all"]:
                meaning = re.sub(r" \[read by [^;\]]+\]|(?<=\[)read by [^;\]]+; ", "", meaning)
            if kinds:
                meaning = with_default(meaning, kinds[0].usual.get(one.name or ""))
            record = name, meaning if ctx.meta["all"] else first_sentence(meaning)
            title = "Arguments" if one.param_type_name == "argument" else getattr(one, "rich_help_panel", None)
            panels.setdefault(title or (RUNNING if self.readers else "Options"), []).append(record)
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)
        if left_out:
            formatter.write_paragraph()
            formatter.write_text(f"{HELP_ALL} shows {left_out} more options, and all that there is to say about each.")


def first_sentence(meaning: str) -> str:
    """Return the first sentence of the help of an option, with the note in brackets behind the last one."""
    text = re.split(r"\s*\[(?:default|required)", meaning, maxsplit=1)[0]
    return re.split(r"(?<=\.)\s+(?=[A-Z])", text, maxsplit=1)[0] + meaning[len(text) :]


def with_default(meaning: str, default: Any) -> str:
    """Return the help of an option with the default that a method has of its own; None leaves it unchanged."""
    if default is None:
        return meaning
    note = f"default: {written(default)}"
    return re.sub(r"default: [^;\]]+", note, meaning) if "[default: " in meaning else f"{meaning} [{note}]"


def written(value: Any) -> str:
    """Return a default as it is written on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(written, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
