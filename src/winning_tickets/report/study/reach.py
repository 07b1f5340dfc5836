"""Steps or time to reach a score: the first position at which each line of a figure is there (TAMT, Figure 6)."""

from __future__ import annotations

from winning_tickets.report.study.cells import form_of, label
from winning_tickets.report.study.plots import Panel, Plot


def target_of(plot: Plot, panel: Panel) -> float | None:
    """The score that the lines of a panel are to reach; None where it is not known yet."""
    wanted = plot.figure.reach
    if wanted is None or isinstance(wanted, float):
        return wanted
    if wanted in panel.levels:
        summary = panel.levels[wanted].summary
        return None if summary is None else summary.mean
    means = [
        point.cell.summary.mean
        for series in panel.series
        for point in series.points
        if series.name == wanted and point.cell.summary is not None
    ]
    return max(means, default=None)


def reached(plot: Plot) -> list[str]:
    """A sentence for each line: where it first reaches the score, on measured positions and without interpolation."""
    if plot.figure.reach is None:
        return []
    sentences = []
    form = form_of(plot.path)
    for panel in plot.panels:
        target = target_of(plot, panel)
        where = f"{panel.title}: " if panel.title else ""
        if target is None:
            sentences.append(f"{where}{plot.figure.reach} has no number yet, so nothing can reach it.")
            continue
        for series in panel.series:
            if series.name == plot.figure.reach:
                continue
            first = next(
                (
                    point
                    for point in series.points
                    if point.cell.summary is not None and point.cell.summary.mean >= target
                ),
                None,
            )
            what = f"{where}{series.name or 'it'}"
            sentences.append(
                f"{what} does not reach {form(target)}."
                if first is None
                else f"{what} reaches {form(target)} first at {_axis(plot)} {label(first.x)}."
            )
    return sentences


def _axis(plot: Plot) -> str:
    x = plot.figure.x
    return plot.figure.x_label or (x if isinstance(x, str) else x.value)
