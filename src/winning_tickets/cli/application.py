"""The application: its commands in the order of `--help`, each with its readers and its guide."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperGroup

from winning_tickets.cli import stores as stores
from winning_tickets.cli import tickets as tickets
from winning_tickets.cli.commands import app as app
from winning_tickets.runs.errors import DOCS

WING = "winning_tickets.studies"
"""The package of studies and analyses, which nothing of the library imports."""

EVERY_DAY, MODELS, HOUSEKEEPING = "Every day", "Other searches and models", "Studies and housekeeping"
"""The panels of `tickets --help`, in this order."""
GUIDES = {
    "search": (EVERY_DAY, "researchers", "explanation/objectives.md"),
    "evaluate": (EVERY_DAY, "researchers", "explanation/objectives.md"),
    "transfer": (EVERY_DAY, "NLP engineers", "how_to/use_your_own_files.md"),
    "predict": (EVERY_DAY, "NLP engineers", "how_to/from_csv_to_a_compact_classifier.md"),
    "inspect": (EVERY_DAY, "students", "tutorials/first_ticket.md"),
    "compare": (EVERY_DAY, "researchers", "how_to/analyse_tickets.md"),
    "export": (EVERY_DAY, "NLP engineers", "how_to/make_a_model_smaller.md"),
    "super": (MODELS, "researchers", "how_to/find_a_super_ticket.md"),
    "share": (MODELS, "researchers", "how_to/share_tickets.md"),
    "shrink": (MODELS, "NLP engineers", "how_to/make_a_model_faster.md"),
    "measure": (MODELS, "NLP engineers", "how_to/make_a_model_smaller.md"),
    "fit-head": (MODELS, "researchers", "how_to/fit_an_mlm_head.md"),
    "mask": (MODELS, "researchers", "how_to/controls.md"),
    "push": (MODELS, "NLP engineers", "how_to/publish_on_the_hub.md"),
    "runs": (HOUSEKEEPING, "cluster users", "explanation/store.md"),
    "cache": (HOUSEKEEPING, "NLP engineers", "how_to/use_your_own_files.md"),
}
"""The commands in the order of `--help`: for each, its panel, its readers and the page that guides them."""


def name_guides(commands: typer.Typer, guides: Mapping[str, tuple[str, str, str]]) -> None:
    """Sort commands and groups into panels, and end the help of each with its readers and its guide."""
    named = {one.name or one.callback.__name__: one for one in commands.registered_commands}  # type: ignore[union-attr]
    commands.registered_commands = [named[name] for name in guides if name in named]
    groups = {str(group.name): group for group in commands.registered_groups}
    for name, (panel, readers, guide) in guides.items():
        epilog = f"\b\nFor {readers}. Guide:\n{DOCS}{guide}"
        one = named.get(name) or groups[name]
        one.epilog, one.rich_help_panel = epilog, panel
        if name in named:
            continue
        for command in groups[name].typer_instance.registered_commands:  # type: ignore[union-attr]
            command.epilog = epilog


class Commands(TyperGroup):
    """The commands of the library, and those of the wing of studies, which is imported when they are asked for."""

    def load_wing(self) -> None:
        """Add the commands of the wing, if it is installed."""
        if find_spec(WING) is not None:
            wing: Any = typer.main.get_command(import_module(f"{WING}.commands.application").app)
            self.commands.update({name: one for name, one in wing.commands.items() if name not in self.commands})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; only a name that the library does not have needs the wing."""
        if cmd_name not in self.commands:
            self.load_wing()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        self.load_wing()
        return super().list_commands(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands of each panel, with the first sentence of each."""
        panels: dict[str, list[tuple[str, str]]] = {EVERY_DAY: [], MODELS: [], HOUSEKEEPING: []}
        names = self.list_commands(ctx)
        width = formatter.width - 6 - max(map(len, names))
        for name in names:
            command: Any = self.get_command(ctx, name)
            panels[command.rich_help_panel].append((name, command.get_short_help_str(width)))
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl(rows)


name_guides(app, GUIDES)
app.info.cls = Commands
app.info.epilog = f"\b\nWhich command do I need?\n{DOCS}README.md"


def whole_application() -> Any:
    """Return the application with the commands of the library and of the wing."""
    group: Any = typer.main.get_command(app)
    group.load_wing()
    return group
