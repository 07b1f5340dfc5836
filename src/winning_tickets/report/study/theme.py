"""Light and dark: the colours of our figures, and what each becomes on a dark page."""

from __future__ import annotations

import re

from winning_tickets.report.figures import BLACK, BLUE, GREEN, GRID, INK, ORANGE, PURPLE, SKY, VERMILLION

TILE_INKS = ("#1f2a37", "#fdfeff")
"""Numbers on pale and on dark tiles of a heat map; tiles keep their colours on a dark page, and so do these."""
EDGE = "#fefefe"
"""Hatching of bars."""
PAPER, FRAME = "#ffffff", "#888888"

DARK = {
    PAPER: "#16191d",
    EDGE: "#16191d",
    INK: "#d9dde2",
    FRAME: "#868e98",
    GRID: "#343a42",
    BLUE: "#56a8e0",
    VERMILLION: "#f0813c",
    GREEN: "#2cc394",
    PURPLE: "#dd9bbf",
    ORANGE: "#f0b43a",
    SKY: "#8ccdf2",
    BLACK: "#f2f2f2",
}
"""Every colour of ours and its twin with the same contrast on a dark ground."""

_COLOUR = re.compile(r"#[0-9A-Fa-f]{6}\b")


def dark_svg(svg: str) -> str:
    """The same figure for a dark ground."""
    return _replace(svg, DARK)


def page_svg(svg: str) -> str:
    """The same figure with the page's colours, so that it follows light and dark; alone it looks as before."""
    return _replace(svg, {light: f"var(--figure-{light[1:].lower()}, {light})" for light in DARK})


def page_variables(dark: bool) -> dict[str, str]:
    """What the page sets for `page_svg`."""
    return {f"--figure-{light[1:].lower()}": twin if dark else light for light, twin in DARK.items()}


def _replace(svg: str, colours: dict[str, str]) -> str:
    known = {light.lower(): colour for light, colour in colours.items()}

    def with_colours(attribute: re.Match[str]) -> str:
        return _COLOUR.sub(lambda found: known.get(found[0].lower(), found[0]), attribute[0])

    # Only these attributes hold colours: a hash in a link or in a text stays.
    return re.sub(r'\b(?:style|fill|stroke)="[^"]*"', with_colours, svg)
