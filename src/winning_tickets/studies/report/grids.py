"""Cells, which hold the numbers of several runs at one place, present or missing; and tables of cells."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from winning_tickets.report import tables
from winning_tickets.report.comparisons import describe_values, remedy
from winning_tickets.report.effects import FEWEST, mean_effect
from winning_tickets.report.tables import Column, Table
from winning_tickets.runs.statistics import TIE, Summary, best_of, is_repetition, summarize
from winning_tickets.studies.expressions import matches
from winning_tickets.studies.report.observations import (
    METRIC,
    Key,
    Observation,
    State,
    StudyRun,
    absent_values,
    chance_of,
    differing_rates,
    observe_value,
)
from winning_tickets.studies.schema import TRAIN_SECONDS, Condition, Published, Study, StudyTable, Value

Form = Callable[[float], str]


@dataclass(frozen=True)
class Cell:
    """The numbers of the runs at one place."""

    values: tuple[float, ...]  # one for each complete repetition (such as a seed)
    expected: int  # number of planned repetitions
    failed: int  # number of repetitions in which some run failed
    observations: tuple[Observation, ...]  # all observations that the cell is made from, also absent ones

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def partial(self) -> bool:
        return self.n < self.expected

    @cached_property
    def summary(self) -> Summary | None:
        return summarize(self.values) if self.values else None

    @property
    def mean(self) -> float | None:
        return self.summary.mean if self.summary else None

    @property
    def run_ids(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.run.id for one in self.observations))

    @property
    def known(self) -> int:
        """The number of observations that have a number."""
        return len(numbers_of(self.observations))

    @property
    def at_chance(self) -> int:
        """The number of observations that one answer for all examples reaches."""
        return sum(one.degenerate for one in self.observations)

    def text(self, form: Form) -> str:
        """Return mean ± deviation, and what is to know of the repetitions, such as `(2 of 3, 1 failed, at chance)`."""
        summary = self.summary
        words = [f"{self.n} of {self.expected}"] if self.partial else []
        words += [f"{self.failed} failed"] if self.partial and self.failed else []
        if self.at_chance:
            words.append("at chance" if self.at_chance == self.known else f"{self.at_chance} of {self.known} at chance")
        state = f" ({', '.join(words)})" if words else ""
        if summary is None:
            return f"{tables.MISSING}{state}"
        return form(summary.mean) + ("" if summary.std is None else f" ± {form(summary.std).lstrip('+')}") + state


def numbers_of(observations: Iterable[Observation]) -> list[float]:
    """Return the numbers of observations, without those that have none."""
    return [one.value for one in observations if one.value is not None]


def required_places(observations: Sequence[Observation], average: Sequence[str]) -> frozenset[Key]:
    """Return the places along averaged axes that each repetition must have, so that all means cover the same places."""
    return frozenset(one.place(average) for one in observations)


def make_cell(
    observations: Sequence[Observation], average: Sequence[str] = (), needed: frozenset[Key] | None = None
) -> Cell:
    """Return the cell of one place, made from its observations in any state.

    Axes of `average` are averaged inside each repetition; the remaining axes tell repetitions apart. A repetition must
    have all `needed` places along the averaged axes; by default, all places that occur.
    """
    needed = required_places(observations, average) if needed is None else needed
    repetitions: dict[Key, list[Observation]] = defaultdict(list)
    # One run at several places of the grid (a search without chance under several seeds) is one number, not several.
    single = {(one.run.id, one.part, one.place(average)): one for one in reversed(observations)}
    counted = tuple(reversed(single.values()))
    for one in counted:
        rest = tuple((axis, str(value)) for axis, value in sorted(one.axes.items()) if axis not in average)
        repetitions[rest].append(one)
    values, failed = [], 0
    for own in repetitions.values():
        done = numbers_of(own)
        if len(done) == len(own) and required_places(own, average) >= needed:
            values.append(sum(done) / len(done))
        failed += any(one.state == "failed" for one in own)
    return Cell(tuple(values), len(repetitions), failed, counted)


def _p_value(cell: Cell) -> float | None:
    """Return the two-sided p-value of the mean of differences, as in claims; None if there are too few of them."""
    observed = [one for one in cell.observations if one.value is not None]
    axes = sorted({axis for one in observed for axis in one.axes})
    # A task on which no number is above chance says nothing.
    by_place = group_by(observed, [axis for axis in axes if not is_repetition(axis)])
    counted = [one for own in by_place.values() if not all(one.degenerate for one in own) for one in own]
    if not counted:
        return None
    effect = mean_effect(numbers_of(counted), [{axis: one.axes.get(axis) for axis in axes} for one in counted]).effect
    if effect is None:
        return None
    if effect.p is not None:
        return effect.p
    return float(abs(effect.estimate) <= TIE)  # all differences are equal


STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "median": statistics.median,
    "best": max,
    "std": statistics.stdev,
}


def condense_cell(cell: Cell, statistic: str) -> Cell:
    """Return a cell whose only value is a statistic of all its repetitions; for `mean`, return the cell unchanged."""
    if statistic == "mean":
        return cell
    found = None
    if statistic == "p":
        found = None if cell.partial else _p_value(cell)
    elif not cell.partial and cell.n >= (2 if statistic == "std" else 1):
        found = STATISTICS[statistic](cell.values)
    return replace(cell, values=() if found is None else (found,), expected=min(1, cell.expected))


def choose_settings(
    observations: Sequence[Observation], axes: Sequence[str], best: str | None = "max"
) -> Sequence[Observation]:
    """Return the observations of the setting with the best mean, as papers do after a search over settings.

    While numbers of some setting are missing, that setting is returned, so that the cell is partial.
    """
    settings = list(group_by(observations, axes).values())
    missing = [len(own) - len(numbers_of(own)) for own in settings]
    if len(settings) < 2 or max(missing):
        return settings[missing.index(max(missing))] if settings else observations
    sign = -1 if best == "min" else 1
    means = {at: sign * statistics.fmean(numbers_of(own)) for at, own in enumerate(settings)}
    return settings[best_of(means)]


def merge_metrics(observations: Sequence[Observation]) -> list[Observation]:
    """Average the metrics of each run and seed, so that a task with two counts once (Super Tickets, Table 1)."""
    found: dict[Key, list[Observation]] = defaultdict(list)
    for one in observations:
        axes = {axis: value for axis, value in one.axes.items() if axis != METRIC}
        rest = tuple((axis, str(value)) for axis, value in axes.items())
        found[one.run.id, one.part[0], rest].append(replace(one, axes=axes, part=(one.part[0], None)))
    merged = []
    for own in found.values():
        values = numbers_of(own)
        state = next((one.state for one in own if one.value is None), own[0].state)
        value = statistics.fmean(values) if len(values) == len(own) else None
        merged.append(replace(own[0], state=state, value=value, degenerate=all(one.degenerate for one in own)))
    return merged


def group_by(observations: Sequence[Observation], axes: Sequence[str]) -> dict[Key, list[Observation]]:
    """Return observations by their values on some axes, in the order of first occurrence."""
    found: dict[Key, list[Observation]] = {}
    for one in observations:
        found.setdefault(one.place(axes), []).append(one)
    return found


def common_axes(*groups: Sequence[Observation]) -> list[str]:
    """Return the axes that all observations of some groups have; none if a group is empty."""
    sets = [set(one.axes) for group in groups for one in group]
    return sorted(set.intersection(*sets)) if all(groups) and sets else []


def average_others(observations: Sequence[Observation], axes: Sequence[str] = ()) -> Cell:
    """Return the cell of observations that is averaged over all axes but the given ones."""
    return make_cell(observations, sorted({axis for one in observations for axis in one.axes} - set(axes)))


def subtract(
    observations: Sequence[Observation],
    minus: Value | Condition | None,
    runs: Sequence[StudyRun],
    compare: Callable[[Observation, float], float | None] = lambda one, partner: (one.value or 0.0) - partner,
) -> list[Observation]:
    """Subtract from each number the number of its partner, such as that of the full model on the same task and seed.

    `minus` is a condition on axes or a value of other stages. Partners are the observations that match the condition,
    which are left out of the result, or the observations of that value. Partners agree on all axes on which both sides
    have common values; of several partners, the mean is subtracted. An observation without a partner is left out; one
    whose partner has no number is missing.
    """
    if minus is None:
        return list(observations)
    if isinstance(minus, Value):
        kept, others = observations, observe_value(runs, minus)
    else:
        others = [one for one in observations if matches([minus], one.axes)]
        kept = [one for one in observations if not matches([minus], one.axes)]
    named = () if isinstance(minus, Value) else minus
    shared = [
        axis
        for axis in common_axes(kept, others)
        if axis not in named and {label(one.axes[axis]) for one in kept} & {label(one.axes[axis]) for one in others}
    ]
    partners = group_by(others, shared)
    found: list[Observation] = []
    state: State
    for one in kept:
        own = partners.get(one.place(shared), [])
        values = numbers_of(own)
        if own and one.value is None:
            found.append(one)
        elif own and len(values) == len(own):
            silent = one.degenerate and all(other.degenerate for other in own)
            value = compare(one, statistics.fmean(values))
            state = "missing" if value is None else one.state
            found.append(replace(one, state=state, value=value, degenerate=silent and value is not None))
        elif own:
            state = "failed" if any(other.state == "failed" for other in own) else "missing"
            found.append(replace(one, state=state, value=None))
    return found


def share_above_chance(one: Observation, whole: float) -> float | None:
    """Return which part of the distance of `whole` from chance a score has; None without one or without chance."""
    chance = chance_of(one)
    return None if chance is None or whole <= chance + TIE else ((one.value or 0.0) - chance) / (whole - chance)


def describe_minus(minus: Value | Condition) -> str:
    """Return in words what is subtracted."""
    if isinstance(minus, Value):
        return minus.title
    return ", ".join(f"{axis} {label(value)}" for axis, value in minus.items())


def label(value: Any) -> str:
    """Return the text of a value of an axis."""
    if value is None:
        return tables.MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)


def panel_title(axis: str | None, value: Any) -> str:
    """Return the heading of a panel; a sparsity is in percent, as in the papers."""
    return f"{100 * value:g} %" if axis == "sparsity" and isinstance(value, float) else label(value)


def row_label(key: Sequence[Any]) -> str:
    """Return the name of a row of several axes."""
    return " / ".join(label(value) for value in key)


def slug(text: str) -> str:
    """Return a text in a form that is safe in file names and anchors."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"


_FRACTION = re.compile(
    r"score|metrics|whole|\b(selection|rest)\.|remaining|accuracy|similarity|jaccard|chance|f1|matthews|sparsity|pearson"
)
_COUNT = re.compile(r"examples(\.\w+)?$|(tokens|epochs|passes|steps|_size|_length|\.heads|\.ffns)$")


def form_of(path: str, *, signed: bool = False) -> Form:
    """Return the format of the numbers at a path: fractions x 100, durations and counts whole, the rest with decimals.

    Signed numbers are differences, which have one more decimal.
    """
    if signed:
        return _signed_percent if form_of(path) is tables.percent else _signed
    if _FRACTION.search(path) and "loss" not in path:
        return tables.percent
    if path == TRAIN_SECONDS:
        return _duration
    if path.endswith("seconds"):
        return tables.seconds
    if _COUNT.search(path):
        return _count
    return _number


def _duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds, such as `4h6m26s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60}m{rest}s"


def _signed_percent(value: float) -> str:
    return f"{round(100 * value, 2) + 0.0:+.2f}"  # never -0.00


def _signed(value: float) -> str:
    return f"{value:+.4g}"


def _p_text(value: float) -> str:
    return f"{value:.2g}"


def _count(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


Places = Mapping[tuple[int, int], Cell]  # cells by row and column of numbers; a place without planned runs has none


@dataclass(frozen=True)
class Grid(Table):
    """A table of a study: labels in the first columns, then cells and published numbers."""

    axes: tuple[str, ...] = ()  # names of the columns of labels
    problems: tuple[str, ...] = ()  # errors in its declaration
    kind: Literal["table", "figure"] = "table"  # `figure` for the numbers of a figure

    @property
    def stem(self) -> str:
        return f"{self.kind}-{self.name}"

    @property
    def label(self) -> str:
        """The label in LaTeX; a figure may have the name of a table."""
        return self.name if self.kind == "table" else self.stem

    @property
    def labels(self) -> list[tuple[str, ...]]:
        return [tuple(row[column.key] for column in self.columns[: len(self.axes)]) for row in self.rows]

    @property
    def cells(self) -> dict[tuple[int, int], Cell]:
        return self._values(Cell)

    @property
    def published(self) -> dict[tuple[int, int], Published]:
        """The paper's numbers by row and column; each is to the right of the study's cell."""
        return self._values(Published)

    def _values(self, kind: type[Any]) -> dict[tuple[int, int], Any]:
        return {
            (row, at): values[column.key]
            for row, values in enumerate(self.rows)
            for at, column in enumerate(self.columns)
            if isinstance(values[column.key], kind)
        }

    @property
    def keys(self) -> list[str]:
        numbers = ("column", "mean", "std", "n", "planned", "failed", "at_chance", "published", "published_std", "runs")
        return [*self.axes, *numbers]

    def records(self) -> list[dict[str, Any]]:
        """Return the cells in long form."""
        labels, published, found = self.labels, self.published, []
        for (row, column), cell in self.cells.items():
            summary, paper = cell.summary, published.get((row, column + 1))
            ours = (None, None) if summary is None else (summary.mean, summary.std)
            counts = (cell.n, cell.expected, cell.failed, cell.at_chance)
            theirs = (None, None) if paper is None else (paper.value, paper.std)
            values = (*labels[row], self.columns[column].title, *ours, *counts, *theirs, " ".join(cell.run_ids))
            found.append(dict(zip(self.keys, values, strict=True)))
        return found


def make_grid(
    name: str,
    axes: Sequence[str],
    labels: Sequence[tuple[str, ...]],
    heads: Sequence[tuple[str, Form]],
    *,
    cells: Places,
    published: Iterable[Published],
    best: Literal["max", "min"] | None = None,
    marked: Collection[tuple[int, int]] = (),
    **further: Any,
) -> Grid:
    """Return a grid made of row labels, heads (heading and number format) and cells.

    A column for which the paper has numbers is followed by a column with these; the `best` means
    are in bold, and so are `marked` places by row and head.
    Further fields of the grid, such as its title, are keyword arguments.
    """
    rows = {row_label(texts): index for index, texts in enumerate(labels)}
    titles = {title: index for index, (title, _) in enumerate(heads)}
    paper = {(rows.get(label(one.row)), titles.get(label(one.column))): one for one in published if one.of == name}
    columns = [Column(f"axis {index}", axis) for index, axis in enumerate(axes)]
    contents: list[dict[str, Any]] = [{f"axis {i}": text for i, text in enumerate(texts)} for texts in labels]
    bold: set[tuple[int, int]] = set()
    for index, (title, form) in enumerate(heads):
        bold |= {(row, len(columns)) for row in _best_rows(index, form, cells, best)}
        bold |= {(row, len(columns)) for row, head in marked if head == index}
        columns.append(Column(f"number {index}", title, writer(form)))
        if any(row is not None and column == index for row, column in paper):
            columns.append(Column(f"paper {index}", f"{title} (paper)", writer(form)))
        for row, content in enumerate(contents):
            content |= {f"number {index}": cells.get((row, index), ""), f"paper {index}": paper.get((row, index), "")}
    return Grid(contents, columns, name=slug(name), axes=tuple(axes), bold=frozenset(bold), **further)


def _best_rows(column: int, form: Form, cells: Places, best: str | None) -> set[int]:
    """Rows with the best mean of a column, over complete cells above chance of at least two rows; ties are all best."""
    means = {
        row: cell.summary.mean
        for (row, at), cell in cells.items()
        if at == column and cell.summary is not None and not cell.partial
        if cell.at_chance < cell.known
    }
    if best is None or len(means) < 2:
        return set()
    top = max(means.values()) if best == "max" else min(means.values())
    return {row for row, mean in means.items() if form(mean) == form(top)}


def writer(form: Form) -> Callable[[Any], str]:
    """Return a function that writes a cell, one of its numbers, a number of the paper, or "" for no planned run."""

    def write(value: Any) -> str:
        if isinstance(value, Cell):
            return value.text(form)
        if isinstance(value, Published):
            return form(value.value) + ("" if value.std is None else f" ± {form(value.std).lstrip('+')}")
        return value if isinstance(value, str) else form(value)

    return write


MEAN: Key = ("mean over columns",)


def table_grid(study: Study, name: str, runs: Sequence[StudyRun]) -> Grid:
    """Return one of the study's tables, made from all its planned runs."""
    table = study.tables[name]
    values = table.shown
    parts = {text: _part(table, value, runs) for text, value in values.items()}
    rows = list(dict.fromkeys(row for part in parts.values() for row in part.rows))
    # Each column has all values that are planned for it, side by side.
    keys = dict.fromkeys(key for part in parts.values() for key in part.columns)
    columns = [(text, key) for key in keys for text, part in parts.items() if key in part.columns]
    columns += [(text, MEAN) for text in parts if table.mean_column]
    heads = []
    for text, key in columns:
        words = [table.mean_column or ""] if key == MEAN else [label(value) for value in key if value is not None]
        form = _p_text if table.statistic == "p" else form_of(values[text].value, signed=table.minus is not None)
        heads.append((" ".join([*words, text] if len(parts) > 1 or not words else words), form))
    cells = {
        (row, at): parts[text].cells[key, column]
        for row, key in enumerate(rows)
        for at, (text, column) in enumerate(columns)
        if (key, column) in parts[text].cells
    }
    empty = [values[text] for text, part in parts.items() if not any(cell.n for cell in part.cells.values())]
    return make_grid(
        name,
        table.rows,
        [tuple(map(label, key)) for key in rows],
        heads,
        cells=cells,
        published=study.published,
        best=table.best,
        title=table.title or name,
        notes=_notes(table, list(cells.values()), _rates(rows, cells)),
        problems=absent_values(name, empty, runs),
    )


@dataclass(frozen=True)
class _Part:
    """One value of a table: all its cells by row and column."""

    rows: Sequence[Key]
    columns: Sequence[Key]
    cells: Mapping[tuple[Key, Key], Cell]


def _part(table: StudyTable, value: Value, runs: Sequence[StudyRun]) -> _Part:
    observations = subtract(observe_value(runs, value), table.minus, runs)
    if table.share_of is not None:
        observations = subtract(observations, table.share_of, runs, share_above_chance)
    axes = (table.columns,) if table.columns else ()
    # The metric becomes an axis if the path takes all metrics and the table has no other place for them.
    if "*" in value.value.split(".") and METRIC not in (*axes, *table.rows, *table.average):
        axes = (*axes, METRIC)
    needed = required_places(observations, table.average)
    rows = group_by(observations, table.rows)
    cells = {
        (row, column): make_cell(choose_settings(inside, table.choose, table.best), table.average, needed)
        for row, own in rows.items()
        for column, inside in group_by(own, axes).items()
    }
    if table.mean_column:
        merged = merge_metrics(observations) if METRIC in axes else observations
        everything = (*table.average, *(axis for axis in axes if axis != METRIC))
        all_needed = required_places(merged, everything)
        by_row = group_by(merged, table.rows)
        cells |= {(row, MEAN): make_cell(own, everything, all_needed) for row, own in by_row.items()}
    shown = {place: condense_cell(cell, table.statistic) for place, cell in cells.items()}
    return _Part(tuple(rows), tuple(group_by(observations, axes)) if axes else ((),), shown)


def _rates(rows: Sequence[Key], cells: Places) -> list[str]:
    """Return a sentence if the fine-tunings of a table's rows differ in their learning rates on a task."""
    groups: dict[str, list[Observation]] = defaultdict(list)
    for (row, _), cell in cells.items():
        groups[row_label(rows[row])] += cell.observations
    return describe_rates("rows", differing_rates(groups))


def describe_rates(who: str, rates: Mapping[str, Sequence[float]]) -> list[str]:
    """Return a sentence on fine-tunings whose learning rates differ; none if there are none."""
    differ = f"The {who} differ in learning_rate ({describe_values(rates)}). {remedy(['learning_rate'])}"
    return [differ] if rates else []


def _notes(table: StudyTable, cells: Sequence[Cell], rates: Sequence[str]) -> list[str]:
    words = {"median": "Median", "best": "Largest value", "std": "Standard deviation (ddof=1)"}
    notes = []
    if table.statistic == "p" and cells:
        notes = [
            "Two-sided p-value of the mean difference, once all repetitions are there. Tasks and seeds are samples, "
            f"and each task needs {FEWEST} repetitions."
        ]
    elif cells:
        word = words.get(table.statistic)
        notes = [f"{word} of the repetitions, once all of them are there." if word else describe_cells(cells)]
    if table.choose:
        notes.append(f"Of {' and '.join(table.choose)} each cell has the best setting, chosen on these same scores.")
    if table.minus is not None:
        notes.append(f"Differences from {describe_minus(table.minus)}, inside each repetition first.")
    if table.share_of is not None:
        notes.append(
            f"Shares of {table.share_of.title} above chance: 0 is one answer for all examples, 100 is its score."
        )
    if table.average:
        notes.append(f"Averaged over {' and '.join(table.average)} inside each repetition first.")
    if table.mean_column:
        notes.append(f"{table.mean_column}: the mean over the columns inside each repetition first.")
    return [*notes, *rates, *([table.note] if table.note else [])]


def describe_cells(cells: Sequence[Cell]) -> str:
    """Return the number of repetitions of the cells."""
    numbers = sorted({cell.expected for cell in cells})
    each = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    partial = sum(cell.partial for cell in cells)
    text = f"Mean ± standard deviation (ddof=1) of {each} repetitions" if each != "1" else "One repetition"
    return f"{text}; {partial} of {len(cells)} cells are partial and say how many they have." if partial else f"{text}."
