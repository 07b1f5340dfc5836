"""Draw docs/results/figure.svg, the differences of the front page with their intervals, from intervals.json.

    python docs/results/figure.py

The rows are those of `front.ROWS`: differences of scores at 70 % sparsity, in points.
"""

from __future__ import annotations

from front import ROWS, found, interval
from intervals import HERE

from winning_tickets.report.figures import BLACK, BLUE, canvas

GRAY = "#666666"


def main() -> None:
    """Draw the figure."""
    lines = sum(1 + len(rows) for rows in ROWS.values())
    with canvas(9.0, 0.26 * lines + 0.9, "do tickets win", ("svg",)) as (drawing, made):
        drawing.set_layout_engine("none")
        axes = drawing.add_axes((0.41, 0.12, 0.4, 0.87))
        axes.axvline(0, color=BLACK, linewidth=0.9)
        drawing.patch.set_facecolor("white")
        drawing.patch.set_alpha(1)
        at, content = 0, found()
        text = {"va": "center", "fontsize": 9.5, "transform": axes.get_yaxis_transform(), "clip_on": False}
        for group, rows in ROWS.items():
            axes.text(-1.0, at, group, ha="left", weight="bold", **text)
            at += 1
            for words, tasks, name in rows:
                one = content[name]
                low, high = (100 * end for end in one["interval"])
                estimate = 100 * one["estimate"]
                color = BLUE if low > 0 or high < 0 else GRAY
                axes.plot([low, high], [at, at], color=color, linewidth=2, solid_capstyle="butt")
                axes.plot([estimate], [at], "o", color=color, markersize=6)
                axes.text(-0.96, at, words, ha="left", **text)
                axes.text(-0.03, at, tasks, ha="right", color=GRAY, **text)
                axes.text(1.03, at, f"{estimate:+.1f} {interval(name)}", ha="left", color=color, **text)
                at += 1
        axes.set(
            ylim=(at - 0.5, -0.7), xlim=(-8, 21), yticks=[], xlabel="difference of scores in points, 95 % interval"
        )
        axes.grid(axis="x")
        for side in ("left", "right", "top"):
            axes.spines[side].set_visible(False)
    (HERE / "figure.svg").write_bytes(made["svg"])


if __name__ == "__main__":
    main()
