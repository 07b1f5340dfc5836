"""Self-contained HTML pages from templates: text, tables and inline SVG; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from winning_tickets import __version__
from winning_tickets.report.figures import page_variables
from winning_tickets.runs.escapes import printable_lines

TEMPLATES = Path(__file__).parent / "templates"


def fill_template(template: str, values: Mapping[str, Any], folder: Path = TEMPLATES) -> str:
    """Fill in a template of `folder`, which may extend `page.html.j2`; all text except inside `svg()` is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable_lines(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    common = {
        "svg": Markup,
        "version": __version__,
        "light": page_variables(dark=False),
        "dark": page_variables(dark=True),
    }
    return environment.get_template(template).render(common | dict(values))
