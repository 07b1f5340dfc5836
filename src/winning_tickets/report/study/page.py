"""The page of a study: one HTML file with all of it, that asks no network for anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from winning_tickets import __version__
from winning_tickets.report.html import fill
from winning_tickets.report.study.cells import form_of, slug
from winning_tickets.report.study.claims import Verdict, signed
from winning_tickets.report.study.grids import Grid
from winning_tickets.report.study.page_runs import stage_runs, usual_facts, value_text
from winning_tickets.report.study.page_tables import Evidence, PageTable, evidence_of, page_table
from winning_tickets.report.study.plots import Plot
from winning_tickets.report.study.runs import Run, counts
from winning_tickets.report.study.theme import page_svg, page_variables
from winning_tickets.study.plan import Plan

PAPERS = {
    "tamt": "Learning to Win Lottery Tickets in BERT Transfer via Task-agnostic Mask Training (NAACL 2022)",
    "tamt-submission": "Learning to Win Lottery Tickets in BERT Transfer via Task-agnostic Mask Training (submission)",
    "bert-tickets": "The Lottery Ticket Hypothesis for Pre-trained BERT Networks (appendix)",
    "super-tickets": "Super Tickets in Pre-Trained Language Models (ACL 2021)",
}


@dataclass(frozen=True)
class PageFigure:
    """A figure of the page; `svg` is empty where there is nothing to draw yet."""

    svg: str
    alt: str
    table: PageTable


@dataclass(frozen=True)
class PageClaim:
    """A claim of the page, with the numbers that its verdict rests on."""

    verdict: Verdict
    bootstrap: str
    evidence: tuple[Evidence, ...]


def render_page(
    plan: Plan,
    runs: Sequence[Run],
    grids: Sequence[Grid],
    plots: Sequence[tuple[Plot, Grid, str]],
    verdicts: Sequence[Verdict],
    problems: Sequence[str],
) -> str:
    """The whole page.

    Args:
        plan: whose report it is.
        runs: all planned runs.
        grids: the tables.
        plots: the figures: data, table, and SVG (empty where there is no number yet).
        verdicts: of the claims.
        problems: what a reader should know first, such as a value that no run has.
    """
    unique = list({run.id: run for run in runs}.values())
    study, usual = plan.study, usual_facts(runs)
    values = {
        "study": study,
        "scale": plan.scale,
        "parameters": {name: value_text(value) for name, value in plan.parameters.items() if value is not None},
        "paper": PAPERS.get(study.paper or ""),
        "counts": counts(unique),
        "total": len(unique),
        "problems": problems,
        "claims": [_claim(study.claims[verdict.name].value, verdict) for verdict in verdicts],
        "tables": [page_table(grid) for grid in grids],
        "figures": [PageFigure(page_svg(svg), alternative(plot, grid), page_table(grid)) for plot, grid, svg in plots],
        "stages": stage_runs(runs, usual),
        "usual": usual,
        "light": page_variables(dark=False),
        "dark": page_variables(dark=True),
        "version": __version__,
    }
    return fill("study.html.j2", values)


def _claim(value: str, verdict: Verdict) -> PageClaim:
    form = form_of(value)
    return PageClaim(
        verdict,
        "" if verdict.bootstrap is None else f"[{', '.join(signed(value, end) for end in verdict.bootstrap)}]",
        tuple(
            evidence_of(f"claim-{slug(verdict.name)}-{index}", title, cell.text(form), cell, form)
            for index, (title, cell) in enumerate(verdict.cells.items())
        ),
    )


def alternative(plot: Plot, grid: Grid) -> str:
    """What a reader who cannot see a figure should know: its kind, its axes, and where each line begins and ends."""
    kinds: Mapping[str, str] = {
        "line": "Line chart",
        "bar": "Bar chart",
        "scatter": "Scatter plot",
        "heatmap": "Heat map",
    }
    form = form_of(plot.path)
    x = plot.figure.x if isinstance(plot.figure.x, str) else plot.figure.x.value
    parts = [f"{kinds[plot.figure.kind]}: {grid.title}. {plot.path.replace('_', ' ')} over {x.replace('_', ' ')}."]
    for panel in plot.panels:
        for series in panel.series:
            drawn = [point for point in series.points if point.cell.summary is not None and point.x is not None]
            ends = [
                form(point.cell.summary.mean) for point in (drawn[:1] + drawn[-1:]) if point.cell.summary is not None
            ]
            name = ", ".join(filter(None, (panel.title, series.name))) or "values"
            if ends and plot.figure.kind == "line":
                parts.append(f"{name}: from {ends[0]} to {ends[-1]}.")
            elif ends:
                parts.append(f"{name}: {len(drawn)} {'point' if len(drawn) == 1 else 'points'}.")
    return " ".join([*parts, "The numbers are in the table below."])
