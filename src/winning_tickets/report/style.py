"""The look of all figures: colors, one for each method, their counterparts on a dark page, markers, and text sizes.

Colors are those of Okabe and Ito, and of Tol, which color-blind readers can tell apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, YELLOW = "#E69F00", "#56B4E9", "#000000", "#F0E442"
WINE, OLIVE, TEAL, INDIGO = "#882255", "#999933", "#44AA99", "#332288"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""Colors of what is no method, such as tasks or sparsity levels, by order."""
INK, GRID, FRAME, PAPER = "#333333", "#DDDDDD", "#888888", "#ffffff"
HATCHING = "#fefefe"
TILE_INKS = ("#1f2a37", "#fdfeff")
"""Colors of numbers on pale and dark tiles of a heat map; tiles and numbers keep their colors on a dark page."""
DARK = {
    PAPER: "#16191d",
    HATCHING: "#16191d",
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
    WINE: "#d0709c",
    OLIVE: "#bdbd5c",
    TEAL: "#67c7b7",
    INDIGO: "#8f83dd",
}
"""Each color of a figure and its counterpart with the same contrast on a dark background."""
SEQUENTIAL, DIVERGING = "Blues", "RdBu"
"""Color maps of amounts, and of differences around zero."""

MARKERS = "osD^vPX<>*"
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))

SMALLEST_POINTS = 8.0
"""Size of the smallest text."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": FRAME,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
}
DASHED: dict[str, Any] = {"color": INK, "linewidth": 1.2, "linestyle": (0, (5, 3))}
"""A horizontal line to compare with, such as the dense model's score."""

_METHODS = (
    (r"tamt-?mlm ?\+ ?kd|mask.training.*mlm ?\+ ?kd", PURPLE),
    (r"tamt-?mlm|mask.training.*mlm", SKY),
    (r"tamt|mask.training", BLUE),
    (r"imp|iterative", VERMILLION),
    (r"omp|magnitude|one-shot", GREEN),
    (r"rand(om)?", ORANGE),
    (r"full|dense|st-dnn", BLACK),
    (r"movement", WINE),
    (r"snip", OLIVE),
    (r"wanda", TEAL),
    (r"importance|structured|supert?", INDIGO),
    (r"winning", BLUE),
    (r"losing", GREEN),
)
"""How the names of methods and of selections begin, in tickets and in the papers, and their colors."""


_WORDS = {
    "kd": "KD",
    "mlm": "MLM",
    "clm": "CLM",
    "f1": "F1",
    "jaccard": "Jaccard similarity",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "matthews": "Matthews correlation",
}


def in_words(name: str) -> str:
    """Return the name of a number as people write it, such as `KD loss`."""
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))


@dataclass(frozen=True)
class Look:
    """Color, marker and dashes of a line."""

    color: str
    marker: str
    dashes: Any


def method_color(name: str) -> str | None:
    """Return the color of the method that a name begins with, such as `TAMT-KD` or `imp, 3 rounds`; None if it is none.

    Example:
        >>> method_color("IMP 1e-4") == method_color("imp") == VERMILLION
        True
        >>> method_color("rte") is None
        True
    """
    return next((color for start, color in _METHODS if re.match(rf"(?:{start})(?![a-z])", name.lower())), None)


def looks(names: Iterable[str], *, dashed: bool = False, apart: bool = False) -> list[Look]:
    """Return the look of each line of a figure: methods have their own color, other names one of those that are left.

    Several lines of one color differ by their dashes, and if `dashed` all lines do. With `apart`, for bars and dots
    without dashes, only the first name of a method has its color, so that colors differ as long as there are any.
    """
    known = [method_color(name) for name in names]
    left: Sequence[str] = [color for color in PALETTE if color not in known] or PALETTE
    seen: Counter[str] = Counter()
    found, others = [], 0
    for index, color in enumerate(known):
        if color is None or (apart and seen[color]):
            color, others = left[others % len(left)], others + 1
        found.append(Look(color, MARKERS[index % 8], DASHES[(index if dashed else seen[color]) % len(DASHES)]))
        seen[color] += 1
    return found
