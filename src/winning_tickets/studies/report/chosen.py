"""The choice of settings for each arm of a stage (`choose`): candidates in, the runs of the chosen one out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from winning_tickets.report import tables
from winning_tickets.runs.statistics import is_repetition
from winning_tickets.studies.report.grids import Grid, choose_settings, group_by, label, make_cell, make_grid
from winning_tickets.studies.report.observations import Observation, StudyRun, observe
from winning_tickets.studies.schema import Study

SELECTION = "score.selection"
"""Path of the score that candidates are compared by: after the last step, on the part of the dev set to select on."""
_NOTE = (
    "Each arm's settings are those with the best mean over its seeds on one part of the dev set (in bold); all other "
    "tables, figures and claims have the scores of the chosen runs on the rest. A setting with a failed run is out."
)


def keep_chosen(study: Study, runs: Sequence[StudyRun]) -> list[StudyRun]:
    """Return the runs without those of candidates that were not chosen; an arm that is not decided has no numbers."""
    found = [run for run in runs if study.stages[run.stage].choose is None]
    for _, among, tried in _choices(study, runs):
        for own in group_by(observe(tried, SELECTION), _arm_axes(among, tried)).values():
            best = _choose(among, own)
            decided = all(one.value is not None for one in best)
            undecided: dict[str, Any] = {} if decided else {"status": "absent", "result": None}
            for run in {id(one.run): one.run for one in best}.values():  # a run of several seeds has several scores
                axes = {axis: value for axis, value in run.axes.items() if axis not in among}
                settings = {axis: run.axes[axis] for axis in among}
                found.append(replace(run, axes=axes, chosen=settings, **undecided))
    place = {(run.id, run.stage): index for index, run in enumerate(runs)}
    return sorted(found, key=lambda run: place[run.id, run.stage])


def _choices(study: Study, runs: Sequence[StudyRun]) -> Iterator[tuple[str, list[str], list[StudyRun]]]:
    """Yield the name, the axes of the candidates and the runs of each stage with a choice."""
    for name, stage in study.stages.items():
        if stage.choose is not None:
            yield name, list(stage.choose.among), [run for run in runs if run.stage == name]


def _arm_axes(among: Sequence[str], runs: Sequence[StudyRun]) -> list[str]:
    """Return the axes that tell arms apart: all but seeds and candidates."""
    axes = dict.fromkeys(axis for run in runs for axis in run.axes)
    return [axis for axis in axes if axis not in among and not is_repetition(axis)]


def _choose(among: Sequence[str], own: Sequence[Observation]) -> Sequence[Observation]:
    """Return the observations of the chosen candidate, or of one that is not complete."""
    failed = {key for key, tried in group_by(own, among).items() if any(one.state == "failed" for one in tried)}
    left = [one for one in own if one.place(among) not in failed]
    return choose_settings(left or own, among)


def choice_grids(study: Study, runs: Sequence[StudyRun]) -> list[Grid]:
    """Return a table for each stage with a choice: the selecting score of every candidate, the chosen one in bold."""
    grids = []
    for name, among, own in _choices(study, runs):
        axes, scores = _arm_axes(among, own), observe(own, SELECTION)
        heads, rows = list(group_by(scores, among)), group_by(scores, axes)
        cells, marked = {}, set()
        for row, found in enumerate(rows.values()):
            best = _choose(among, found)
            for key, tried in group_by(found, among).items():
                place = row, heads.index(key)
                cells[place] = make_cell(tried)
                if tried[0] in best and all(one.value is not None for one in best):
                    marked.add(place)
        words = [", ".join(f"{axis} {label(value)}" for axis, value in zip(among, key, strict=True)) for key in heads]
        labels = [tuple(map(label, key)) for key in rows]
        if own:
            grids.append(
                make_grid(
                    f"chosen-{name}", axes, labels, [(text, tables.percent) for text in words],
                    cells=cells, published=(), best=None, marked=marked,
                    title=f"Settings chosen for {name}", notes=(_NOTE,), problems=(),
                )
            )  # fmt: skip
    return grids
