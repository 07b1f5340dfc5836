"""The report of a study, from the store alone: tables, figures, claims and one page; nothing here imports torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from winning_tickets.report.figures import printed
from winning_tickets.report.files import FORMATS, check_formats, figure_files, figure_formats, table_files
from winning_tickets.runs.errors import UsageError, foreign
from winning_tickets.runs.escapes import csv_cell
from winning_tickets.runs.files import read_json, read_object, write_bytes, write_json
from winning_tickets.runs.locks import hold
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.contract import Held
from winning_tickets.studies.plan import Plan
from winning_tickets.studies.report.charts import draw_plot
from winning_tickets.studies.report.chosen import choice_grids, keep_chosen
from winning_tickets.studies.report.claims import Finding, Verdict, judge_claim
from winning_tickets.studies.report.grids import table_grid
from winning_tickets.studies.report.observations import StudyRun, count_states, gather_runs, select_runs
from winning_tickets.studies.report.page import render_page
from winning_tickets.studies.report.plots import plot_grid, plot_of
from winning_tickets.studies.report.published_claims import judge_published
from winning_tickets.studies.schema import Study


def report_text(result: Mapping[str, Any]) -> str:
    """Return the progress of the study, the verdicts, the warnings and the path of the report as text."""
    runs = result["runs"]
    rest = "".join(f", {runs[key]} {word}" for key, word in (("failed", "failed"), ("missing", "to do")) if runs[key])
    part = f", part {' and '.join(result['part'])}" if result["part"] else ""
    lines = [f"{result['study']} at {result['scale']}{part}: {runs['done']} of {sum(runs.values())} runs done{rest}."]
    for name, claim in result["claims"].items():
        lines.append(f"{claim['verdict']:15}  {name}: {claim['text']} {claim['reason']}")
    lines += [f"Warning: {problem}" for problem in result["problems"]]
    if result["left_out"]:
        lines.append(f"Left out of the base, as their stages or axes are gone: {', '.join(result['left_out'])}.")
    if not result["shows"]:
        lines.append("The study has no tables, figures or claims, so the page lists its runs only.")
    page = f"{result['out']}/index.html" if "index.html" in result["files"] else result["out"]
    files = len(result["files"])
    return "\n".join([*lines, f"{files} {'file' if files == 1 else 'files'}, see {page}"])


_FIXED = ("run", "stage", "verb", "status")


def long_form(runs: Sequence[StudyRun]) -> str:
    """Return CSV of all planned runs: a line for each number of a result, by path; one line for a run without any."""
    axes = list(dict.fromkeys(axis for run in runs for axis in run.axes))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(csv_cell, [*_FIXED, *axes, "value", "number"]))
    for run in runs:
        start = [run.id, run.stage, run.verb, run.status, *(run.axes.get(axis, "") for axis in axes)]
        found: list[tuple[str, Any]] = list(numbers(run.result or {}))
        writer.writerows(map(csv_cell, [*start, path, number]) for path, number in found or [("", "")])
    return buffer.getvalue()


def numbers(node: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield each number in a result with its path, except versions, machine, configuration and scores of classes."""
    if isinstance(node, bool):
        return
    if isinstance(node, int | float):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            if path or key not in ("versions", "machine", "config", "classes", "confusion"):
                yield from numbers(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from numbers(value, f"{path}.{index}")


FILE, PAGE, LONG = "report.json", "index.html", "runs.csv"


def report_study(
    plan: Plan,
    store: Store,
    out: Path | str,
    formats: Sequence[str] = FORMATS,
    *,
    force: bool = False,
    width: float | None = None,
) -> dict[str, Any]:
    """Write the report of a study from its store: tables, figures, the verdict on each claim, and one page with all.

    A report may be made at any time; missing numbers are shown as missing. The same store gives the same bytes. That
    of a part of a plan (`part_of`) says so, and leaves out tables, figures and claims that none of its runs belongs to.

    Args:
        plan: the plan, or a part of it.
        store: the store with its runs.
        out: a folder that is absent or empty, or holds a report of this study, which is replaced.
        formats: some of `FORMATS`.
        force: replace the report of another study.
        width: width of each figure in centimeters, as printed; None: as on a page.

    Returns:
        `runs` (how many are done, failed, missing), `tables`, `figures`, `claims`, `problems` and `files`.
    """
    out = Path(out)
    check_formats(formats)
    _check_out(out, plan, force=force)
    with hold(out):
        _check_out(out, plan, force=force)  # another launch may have written a report meanwhile
        files, result = report_files(plan, store, formats, width)
        _write(out, files, result)
    return {**result, "out": str(out)}


def report_files(
    plan: Plan, store: Store, formats: Sequence[str], width: float | None = None
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files of a report by their names, and its result."""
    planned = gather_runs(plan, store)
    study, whole, held = plan.study, not plan.part, Held(plan)
    runs = keep_chosen(study, planned)
    grids = choice_grids(study, planned)
    grids += [grid for name in study.tables if (grid := table_grid(study, name, runs)).cells or whole]
    drawn = [name for name, figure in study.figures.items() if select_runs(runs, figure.drawn) or whole]
    plots = [plot_of(study, name, runs) for name in drawn]
    plotted = [plot_grid(plot, study.published) for plot in plots]
    verdicts = [verdict for name in study.claims if (verdict := judge_claim(study, name, runs)).cells or whole]
    problems_of_each = [grid.problems for grid in (*grids, *plotted)] + [verdict.problems for verdict in verdicts]
    problems = [*dict.fromkeys(chain.from_iterable(problems_of_each)), *_runs_of_other_parameters(plan, store, planned)]
    files: dict[str, bytes] = {}
    for grid in (*grids, *plotted):
        files |= table_files(grid.stem, grid, formats)
    svgs = []
    wanted = figure_formats(formats)
    for plot, grid in zip(plots, plotted, strict=True):
        with printed(width):
            pictures = {} if plot.empty or not wanted else draw_plot(plot, wanted, grid)
        svgs.append(pictures.get("svg", b"").decode())
        files |= figure_files(grid.stem, pictures, formats) if pictures else {}
    if "csv" in formats:
        files[LONG] = long_form(planned).encode()
    if "html" in formats:
        page = render_page(
            plan,
            held,
            planned,
            grids,
            plots=list(zip(plots, plotted, svgs, strict=True)),
            verdicts=verdicts,
            problems=problems,
        )
        files[PAGE] = page.encode()
    result = {
        "verb": "study-report",
        "study": study.name,
        "scale": plan.scale,
        "part": list(plan.part),
        "differences": [row.text for row in held.rows if row.differs],
        "deviations": held.notes,
        "runs": count_states({run.id: run for run in planned}.values()),
        "tables": [grid.name for grid in grids],
        "figures": [plot.name for plot in plots],
        "claims": {verdict.name: _record(verdict) | _of_the_paper(study, verdict.name) for verdict in verdicts},
        "problems": problems,
        "left_out": list(study.left_out),
        "shows": bool(study.tables or study.figures or study.claims),
        "files": sorted(files),
    }
    return files, result


def _runs_of_other_parameters(plan: Plan, store: Store, planned: Sequence[StudyRun]) -> list[str]:
    """Return a sentence if planned runs are not done and the store has finished runs with other parameters."""
    if plan.part or not store.exists() or all(run.status == "done" for run in planned):
        return []
    asked = {"study": plan.study.name, "scale": plan.scale}
    others = [
        record.id
        for record in store.records(status="done")
        if record.id not in plan.runs and asked.items() <= record.labels.items()
    ]
    if not others:
        return []
    return [
        f"{len(others)} finished runs of this study in the store are not among those of this report, such as "
        f"{others[0]}; give the --set options that they were run with."
    ]


def _check_out(out: Path, plan: Plan, *, force: bool) -> None:
    """Refuse a folder that is not absent, empty, or a report of this study; `force` allows that of another study."""
    if out.is_file():
        raise UsageError(f"--out {out} is a file; give a directory that is absent or empty.")
    if not out.is_dir() or not any(one.name[0] != "." for one in out.iterdir()):
        return
    found = read_json(out / FILE, "report") if (out / FILE).is_file() else None
    if not isinstance(found, dict) or found.get("verb") != "study-report":
        raise foreign(out, "the report of a study")
    own = (plan.study.name, plan.scale)
    if (found.get("study"), found.get("scale")) != own and not force:
        raise UsageError(
            f"--out {out} holds the report of {found.get('study')} at {found.get('scale')}, this one is of {own[0]} at "
            f"{own[1]}; it was left untouched. Give another directory, or --force to replace it."
        )


def _record(verdict: Verdict) -> dict[str, Any]:
    runs = sorted({run_id for cell in verdict.cells.values() for run_id in cell.run_ids})
    each = {title: _finding(part) for title, part in verdict.parts.items()}
    return {"text": verdict.text, "test": verdict.test, **_finding(verdict.finding), "each": each, "runs": runs}


def _of_the_paper(study: Study, claim: str) -> dict[str, Any]:
    """Return where the paper makes a claim, and what its own numbers say on it."""
    found = judge_published(study, claim)
    published = None if found is None else {"estimate": found.mean, "n": found.n, "contradicted": list(found.fails)}
    return {"section": study.claims[claim].section, "published": published}


def _finding(finding: Finding) -> dict[str, Any]:
    effect = finding.effect
    return {
        "verdict": finding.word,
        "reason": finding.reason,
        "n": finding.n,
        "planned": finding.planned,
        "estimate": effect and effect.estimate,
        "interval": effect and effect.interval,
        "p": effect and effect.p,
        "detectable": effect and effect.detectable,
        "levels": dict(effect.levels) if effect else None,
        "needed": dict(effect.needed) if effect and finding.word == "inconclusive" else None,
        "missing_runs": finding.missing_runs,
        "degenerate": list(finding.degenerate),
        "learning_rates": {name: list(rates) for name, rates in finding.learning_rates.items()},
    }


def _write(out: Path, files: dict[str, bytes], result: dict[str, Any]) -> None:
    """Write all files, `report.json` last; files of an earlier report that this one lacks are removed."""
    listed = read_object(out / FILE, "report").get("files") if (out / FILE).is_file() else None
    before = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    # With this file, a report that was stopped half-way is not taken for foreign files.
    write_json(out / FILE, {**result, "files": sorted({*files, *before})})
    for name, content in files.items():
        write_bytes(out / name, content)
    for name in set(before) - files.keys():
        if (old := out / Path(name).name).is_file():  # only names in this folder, never paths
            old.unlink()
    write_json(out / FILE, result)
