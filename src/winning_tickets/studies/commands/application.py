"""The commands of studies and analyses, each with its readers and its guide."""

from __future__ import annotations

import typer

from winning_tickets.cli.application import EVERY_DAY, HOUSEKEEPING, name_guides
from winning_tickets.studies.commands.analyse import analyse_app
from winning_tickets.studies.commands.study import demo, recipes, study_app

app = typer.Typer(rich_markup_mode=None)
app.command()(demo)
app.command()(recipes)
app.add_typer(study_app, name="study")
app.add_typer(analyse_app, name="analyse")

name_guides(
    app,
    {
        "demo": (EVERY_DAY, "students", "tutorials/first_ticket.md"),
        "study": (HOUSEKEEPING, "cluster users", "how_to/run_a_study.md"),
        "recipes": (HOUSEKEEPING, "cluster users", "reference/recipes.md"),
        "analyse": (HOUSEKEEPING, "researchers", "how_to/analyse_tickets.md"),
    },
)
