"""All commands of the application, in the order of `--help`, each with its readers and its guide."""

from __future__ import annotations

from importlib import import_module

from winning_tickets.cli.commands import app as app

for _module in ("commands", "tickets", "analyse", "studies"):
    import_module(f"winning_tickets.cli.{_module}")

DOCS = "https://github.com/winning-tickets/winning-tickets/blob/main/docs/"
GUIDES = {
    "search": ("researchers", "explanation/objectives.md"),
    "evaluate": ("researchers", "explanation/objectives.md"),
    "fit-head": ("researchers", "how_to/fit_an_mlm_head.md"),
    "transfer": ("NLP engineers", "how_to/use_your_own_files.md"),
    "predict": ("NLP engineers", "how_to/from_csv_to_a_compact_classifier.md"),
    "share": ("researchers", "how_to/share_tickets.md"),
    "compare": ("researchers", "how_to/analyse_tickets.md"),
    "inspect": ("students", "tutorials/first_ticket.md"),
    "average": ("students", "explanation/numbers.md"),
    "combine": ("researchers", "how_to/controls.md"),
    "perturb": ("researchers", "how_to/controls.md"),
    "super": ("researchers", "how_to/find_a_super_ticket.md"),
    "shrink": ("NLP engineers", "how_to/make_a_model_faster.md"),
    "export": ("NLP engineers", "how_to/make_a_model_smaller.md"),
    "push": ("NLP engineers", "how_to/publish_on_the_hub.md"),
    "import-mask": ("researchers", "how_to/use_the_papers_masks.md"),
    "measure": ("NLP engineers", "how_to/measure_speed.md"),
    "runs": ("cluster users", "explanation/store.md"),
    "verify": ("cluster users", "explanation/store.md"),
    "recipes": ("cluster users", "reference/recipes.md"),
    "demo": ("students", "tutorials/first_ticket.md"),
    "analyse": ("researchers", "how_to/analyse_tickets.md"),
    "study": ("cluster users", "how_to/run_a_study.md"),
    "cache": ("NLP engineers", "how_to/use_your_own_files.md"),
}
"""The commands in the order of `--help`: for each, its readers and the page that guides them."""


def _guide(name: str) -> str:
    readers, page = GUIDES[name]
    return f"\b\nFor {readers}. Guide:\n{DOCS}{page}"


def _name_guides() -> None:
    """Sort the commands, and end the help of each command and group with its guide."""
    named = {one.name or one.callback.__name__: one for one in app.registered_commands}  # type: ignore[union-attr]
    for name, command in named.items():
        command.epilog = _guide(name)
    app.registered_commands = [named[name] for name in GUIDES if name in named]
    for group in app.registered_groups:
        group.epilog = _guide(str(group.name))
        for command in group.typer_instance.registered_commands:  # type: ignore[union-attr]
            command.epilog = group.epilog


_name_guides()
app.info.epilog = f"\b\nWhich command do I need?\n{DOCS}README.md"
