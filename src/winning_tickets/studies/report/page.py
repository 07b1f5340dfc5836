"""The page of a study: one self-contained HTML file with all of its report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from winning_tickets.report.figures import page_svg
from winning_tickets.report.page import fill_template
from winning_tickets.studies.contract import Held
from winning_tickets.studies.expressions import without_axes
from winning_tickets.studies.needs import used_parameters
from winning_tickets.studies.plan import Plan, shown_setting
from winning_tickets.studies.report.claims import Verdict
from winning_tickets.studies.report.grids import Cell, Grid, form_of, label, slug, writer
from winning_tickets.studies.report.observations import StudyRun, count_states
from winning_tickets.studies.report.plots import Plot
from winning_tickets.studies.report.published_claims import judge_published
from winning_tickets.studies.schema import Study

TEMPLATES = Path(__file__).parent / "templates"
PAPERS = {
    "tamt": "Learning to Win Lottery Tickets in BERT Transfer via Task-agnostic Mask Training (NAACL 2022)",
    "tamt-submission": "Learning to Win Lottery Tickets in BERT Transfer via Task-agnostic Mask Training (submission)",
    "bert-tickets": "The Lottery Ticket Hypothesis for Pre-trained BERT Networks (appendix)",
    "super-tickets": "Super Tickets in Pre-Trained Language Models (ACL 2021)",
}


def render_page(
    plan: Plan,
    held: Held,
    runs: Sequence[StudyRun],
    grids: Sequence[Grid],
    *,
    plots: Sequence[tuple[Plot, Grid, str]],
    verdicts: Sequence[Verdict],
    problems: Sequence[str],
) -> str:
    """Return the page of a study from all planned runs, its tables and its figures (with SVG, which may be empty)."""
    unique = list({run.id: run for run in runs}.values())
    study, usual, used = plan.study, usual_facts(unique), used_parameters(plan)
    parameters = {name: value for name, value in plan.parameters.items() if name in used and value is not None}
    values = {
        "study": study,
        "scale": plan.scale,
        "parameters": {name: shown_setting(value) for name, value in parameters.items()},
        "paper": PAPERS.get(study.paper or ""),
        "part": plan.part,
        "rows": held.rows,
        "deviations": list(held.notes.values()),
        "counts": count_states(unique),
        "total": len(unique),
        "problems": problems,
        "claims": [_claim(study, verdict) for verdict in verdicts],
        "tables": [_table(grid) for grid in grids],
        "figures": [
            {"svg": page_svg(svg), "alt": describe_plot(plot, grid), "table": _table(grid)} for plot, grid, svg in plots
        ],
        "stages": list(_stages(runs, usual)),
        "usual": usual,
    }
    return fill_template("study.html.j2", values, TEMPLATES)


def _claim(study: Study, verdict: Verdict) -> dict[str, Any]:
    claim, published = study.claims[verdict.name], judge_published(study, verdict.name)
    write = writer(form_of(claim.value))
    evidence = [
        _evidence(f"claim-{slug(verdict.name)}-{index}", title, cell, write)
        for index, (title, cell) in enumerate(verdict.cells.items())
    ]
    said = "" if published is None else published.text
    return {"verdict": verdict, "evidence": evidence, "section": claim.section, "published": said}


def _table(grid: Grid) -> dict[str, Any]:
    """Return a grid; a look, a sort key and a link for each place with a number; and the numbers behind each mean."""
    places: dict[tuple[int, int], dict[str, str]] = {}
    evidence = []
    labels = grid.labels
    for (row, at), cell in grid.cells.items():
        href = f"run-{cell.run_ids[0]}"
        if len(cell.observations) > 1:
            href = f"from-{grid.stem}-{row}-{at}"
            title = ", ".join([*labels[row], grid.columns[at].title])
            evidence.append(_evidence(href, title, cell, grid.columns[at].format))
        look = "absent" if cell.mean is None else "partial" if cell.partial else ""
        sort = "" if cell.mean is None else repr(cell.mean)
        places[row, at] = {"look": look, "sort": sort, "href": f"#{href}"}
    for place, paper in grid.published.items():
        places[place] = {"look": "published", "sort": repr(paper.value), "href": ""}
    return {"grid": grid, "places": places, "evidence": evidence}


def _evidence(anchor: str, title: str, cell: Cell, write: Callable[[Any], str]) -> dict[str, Any]:
    """Return the numbers behind a mean: for each run the axes that differ, its number or state, and its anchor."""
    shared = shared_items([one.axes for one in cell.observations])
    parts = [
        (
            places_text([{axis: value for axis, value in one.axes.items() if axis not in shared}]),
            one.state if one.value is None else write(one.value),
            f"run-{one.run.id}",
        )
        for one in cell.observations
    ]
    return {"anchor": anchor, "title": title, "mean": write(cell), "parts": parts}


def shared_items(many: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the items that all mappings have, which need not be repeated."""
    first = many[0] if many else {}
    return {key: value for key, value in first.items() if all(key in one and one[key] == value for one in many)}


def places_text(many: Sequence[Mapping[str, Any]]) -> str:
    """Return places in the grid as text, by their axes."""
    return "; ".join(", ".join(f"{axis} {label(value)}" for axis, value in axes.items()) for axes in many)


def _stages(runs: Sequence[StudyRun], usual: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield all runs by stage; a run that several stages share is listed with the first of them."""
    listed: set[str] = set()
    for stage in dict.fromkeys(run.stage for run in runs):
        own: dict[str, list[StudyRun]] = {}
        for run in runs:
            if run.stage == stage:
                own.setdefault(run.id, []).append(run)
        first = [places[0] for places in own.values()]
        shared = shared_items([run.config for run in first])
        axes = {run_id: places_text([run.axes for run in places]) for run_id, places in own.items()}
        yield {
            "name": stage,
            "verb": first[0].verb,
            "counts": count_states(first),
            "shared": settings_text(shared),
            "lines": [_line(run, axes[run.id], shared, usual) for run in first if run.id not in listed],
            "elsewhere": [(axes[run_id], f"run-{run_id}", run_id) for run_id in own if run_id in listed],
        }
        listed |= set(own)


def _line(run: StudyRun, axes: str, shared: Mapping[str, Any], usual: Mapping[str, str]) -> dict[str, Any]:
    """Return the entry of a run, without settings that its stage shares and facts that are the usual ones."""
    own = {key: value for key, value in run.config.items() if key not in shared}
    return {
        "run": run,
        "axes": axes,
        "settings": settings_text(own),
        "seconds": run.facts.get("seconds"),
        "path": run.facts.get("path"),
        "finished": run.facts.get("finished_at"),
        "differs": "; ".join(f"{key}: {text}" for key, text in facts_text(run).items() if text != usual.get(key)),
    }


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return a configuration as one line of text."""
    return ", ".join(f"{key} = {shown_setting(value)}" for key, value in settings.items())


def facts_text(run: StudyRun) -> dict[str, str]:
    """Return versions, machine and source of a run, each in one line, if they are known."""
    return {key: settings_text(run.facts[key]) for key in ("versions", "machine", "source") if run.facts.get(key)}


def usual_facts(runs: Sequence[StudyRun]) -> dict[str, str]:
    """Return the most frequent versions, machine and source; only those that differ are shown with a run."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        for key, text in facts_text(run).items():
            found[key][text] += 1
    return {key: numbers.most_common(1)[0][0] for key, numbers in found.items()}


_KINDS = {"line": "Line chart", "bar": "Bar chart", "scatter": "Scatter plot", "heatmap": "Heat map", "pies": "Pies"}


def describe_plot(plot: Plot, grid: Grid) -> str:
    """Describe a figure in words: its kind, its axes, and the first and the last value of each line."""
    form = plot.form
    words = f"{without_axes(plot.path)} over {plot.x_name}".replace("_", " ")
    if plot.figure.kind == "pies":
        words = "Each head and FFN has a pie: its size is the importance, its slices are the shares of the tasks"
    parts = [f"{_KINDS[plot.figure.kind]}: {grid.title}. {words}."]
    for panel in plot.panels:
        for curve in panel.curves:
            means = [point.cell.mean for point in curve.points if point.x is not None]
            drawn = [form(mean) for mean in means if mean is not None]
            name = ", ".join(filter(None, (panel.title, curve.name))) or "values"
            if drawn and plot.figure.kind == "line":
                parts.append(f"{name}: from {drawn[0]} to {drawn[-1]}.")
            elif drawn:
                parts.append(f"{name}: {len(drawn)} {'point' if len(drawn) == 1 else 'points'}.")
    return " ".join([*parts, "The numbers are in the table below."])
