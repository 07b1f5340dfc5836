"""The page of a study: one HTML file with all of it, that asks no network for anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from winning_tickets.analysis.report.html import fill
from winning_tickets.runs.provenance import version
from winning_tickets.studies.plan import Plan
from winning_tickets.studies.report.cells import Cell, form_of, label, slug
from winning_tickets.studies.report.charts import page_svg, page_variables
from winning_tickets.studies.report.claims import Verdict, signed
from winning_tickets.studies.report.grids import Form, Grid, texts
from winning_tickets.studies.report.observations import Observation, Run, State, counts
from winning_tickets.studies.report.plots import Plot


@dataclass(frozen=True)
class PageCell:
    """A place of a table.

    Attributes:
        text: what stands there.
        sort: what it is sorted by; empty sorts last.
        href: where its number comes from; empty for the paper's numbers and for empty places.
        best: set in bold.
        look: `partial`, `absent`, `published` or empty.
    """

    text: str
    sort: str = ""
    href: str = ""
    best: bool = False
    look: str = ""


@dataclass(frozen=True)
class Evidence:
    """The single numbers behind a mean.

    Attributes:
        anchor: its id on the page.
        title: which place of which table.
        mean: as it stands there.
        parts: for each run its axes, its number or its state, and the id of the run.
    """

    anchor: str
    title: str
    mean: str
    parts: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class PageTable:
    """A table of the page."""

    grid: Grid
    rows: tuple[tuple[tuple[str, ...], tuple[PageCell, ...]], ...]
    evidence: tuple[Evidence, ...]


def run_anchor(run_id: str) -> str:
    """The id of a run's line on the page."""
    return f"run-{run_id}"


def page_table(grid: Grid) -> PageTable:
    """A grid for the page."""
    best = grid.best()
    rows = []
    evidence: list[Evidence] = []
    for row, (labels, line) in enumerate(zip(grid.rows, texts(grid), strict=True)):
        cells = []
        for column, (head, text) in enumerate(zip(grid.heads, line, strict=True)):
            cell = grid.cells.get((row, column))
            if cell is None:
                cells.append(_without_runs(grid, row, column, text))
                continue
            href = f"#{run_anchor(cell.run_ids[0])}"
            if len(cell.observations) > 1:
                anchor = f"from-{grid.stem}-{row}-{column}"
                title = ", ".join([*labels, head.label])
                evidence.append(evidence_of(anchor, title, text, cell, head.form))
                href = f"#{anchor}"
            cells.append(_cell(cell, text, href, (row, column) in best))
        rows.append((labels, tuple(cells)))
    return PageTable(grid, tuple(rows), tuple(evidence))


def _without_runs(grid: Grid, row: int, column: int, text: str) -> PageCell:
    paper = grid.published.get((row, column))
    return PageCell("") if paper is None else PageCell(text, repr(paper.value), look="published")


def _cell(cell: Cell, text: str, href: str, best: bool) -> PageCell:
    summary = cell.summary
    if summary is None:
        return PageCell(text, "", href, look="absent")
    return PageCell(text, repr(summary.mean), href, best, "partial" if cell.partial else "")


def evidence_of(anchor: str, title: str, mean: str, cell: Cell, form: Form) -> Evidence:
    """The numbers behind one place.

    Args:
        anchor: its id on the page.
        title: where the mean stands.
        mean: the mean as it stands there.
        cell: the runs.
        form: how a number is written.
    """
    shared = shared_axes([one.axes for one in cell.observations])
    parts = tuple(
        (own_axes(one, shared), one.state if one.value is None else form(one.value), run_anchor(one.run.id))
        for one in cell.observations
    )
    return Evidence(anchor, title, mean, parts)


def shared_axes(many: Sequence[Mapping[str, Any]]) -> set[str]:
    """The axes that have one and the same value everywhere; they need not be repeated."""
    first = many[0] if many else {}
    return {axis for axis, value in first.items() if all(axis in axes and axes[axis] == value for axes in many)}


def own_axes(one: Observation, shared: set[str]) -> str:
    """What tells a number apart from its neighbours."""
    return ", ".join(f"{axis} {label(value)}" for axis, value in one.axes.items() if axis not in shared)


@dataclass(frozen=True)
class Line:
    """A run.

    Attributes:
        anchor: its id on the page.
        id: in the store.
        status: the store's word.
        axes: where it lies in the grid; of a run at several places all of them.
        settings: its configuration but for what all runs of the stage have.
        seconds: it took; None where that is not known.
        path: of its result, inside the store.
        finished: when.
        differs: versions and machine, where they are not those of most runs.
        error: of a failed run.
    """

    anchor: str
    id: str
    status: str
    axes: str
    settings: str
    seconds: float | None
    path: str
    finished: str
    differs: str
    error: str


@dataclass(frozen=True)
class StageRuns:
    """The runs of a stage, each once.

    Attributes:
        name: of the stage.
        verb: what its runs do.
        counts: how many are done, failed, missing.
        shared: configuration that all of them have.
        lines: the runs that no stage before has.
        elsewhere: runs that an earlier stage lists: axes, anchor and id.
    """

    name: str
    verb: str
    counts: Mapping[State, int]
    shared: str
    lines: tuple[Line, ...]
    elsewhere: tuple[tuple[str, str, str], ...]


def stage_runs(runs: Sequence[Run], usual: Mapping[str, str]) -> list[StageRuns]:
    """All runs, by stage; a run that several stages share is listed with the first of them.

    Args:
        runs: all planned runs.
        usual: what most of them share, as of `usual_facts`.
    """
    listed: set[str] = set()
    found = []
    for stage in dict.fromkeys(run.stage for run in runs):
        own: dict[str, list[Run]] = {}
        for run in runs:
            if run.stage == stage:
                own.setdefault(run.id, []).append(run)
        first = [places[0] for places in own.values()]
        shared = shared_axes([run.config for run in first])
        lines = [_line(places, shared, usual) for run_id, places in own.items() if run_id not in listed]
        elsewhere = [
            (_places(places), run_anchor(run_id), run_id) for run_id, places in own.items() if run_id in listed
        ]
        listed |= set(own)
        same = {key: value for key, value in first[0].config.items() if key in shared}
        found.append(
            StageRuns(stage, first[0].verb, counts(first), settings_text(same), tuple(lines), tuple(elsewhere))
        )
    return found


def _places(places: Sequence[Run]) -> str:
    return "; ".join(", ".join(f"{axis} {label(value)}" for axis, value in run.axes.items()) for run in places)


def _line(places: Sequence[Run], shared: set[str], usual: Mapping[str, str]) -> Line:
    run = places[0]
    facts = run.facts
    differs = [f"{key}: {text}" for key, text in facts_text(run).items() if text != usual.get(key)]
    return Line(
        run_anchor(run.id),
        run.id,
        run.status,
        _places(places),
        settings_text({key: value for key, value in run.config.items() if key not in shared}),
        facts.get("seconds"),
        facts.get("path") or "",
        facts.get("finished_at") or "",
        "; ".join(differs),
        run.error or "",
    )


def settings_text(settings: Mapping[str, Any]) -> str:
    """A configuration in one line."""
    return ", ".join(f"{key} = {value_text(value)}" for key, value in settings.items())


def value_text(value: Any) -> str:
    """A setting as text: words as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


FACTS = ("versions", "machine", "source")


def facts_text(run: Run) -> dict[str, str]:
    """Versions, machine and source of a run, each in one line, where they are known."""
    return {key: settings_text(run.facts[key]) for key in FACTS if run.facts.get(key)}


def usual_facts(runs: Sequence[Run]) -> dict[str, str]:
    """What most runs share of versions, machine and source; only what differs from it is repeated."""
    found: dict[str, dict[str, int]] = {}
    for run in {run.id: run for run in runs}.values():
        for key, text in facts_text(run).items():
            numbers = found.setdefault(key, {})
            numbers[text] = numbers.get(text, 0) + 1
    return {key: max(numbers, key=lambda text: numbers[text]) for key, numbers in found.items()}


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
        "version": version(),
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
