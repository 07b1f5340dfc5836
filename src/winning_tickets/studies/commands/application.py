"""The commands of studies and analyses, each with its readers and its guide."""

from __future__ import annotations

import typer

from winning_tickets.cli.application import name_guides
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
        "recipes": ("cluster users", "reference/recipes.md"),
        "demo": ("students", "tutorials/first_ticket.md"),
        "analyse": ("researchers", "how_to/analyse_tickets.md"),
        "study": ("cluster users", "how_to/run_a_study.md"),
    },
)
