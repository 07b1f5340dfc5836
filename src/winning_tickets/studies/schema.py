"""Schema of a study: stages whose runs form a grid, and the tables, figures and claims of its report.

A study is written as YAML; docs/reference/studies.md explains every key with examples.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from winning_tickets.config import Settings

SCALES = ("smoke", "small", "paper")
"""`smoke`: a tiny generated model; `small`: hours on two cores; `paper`: the sizes of the paper."""
PAPERS = ("tamt", "tamt-submission", "bert-tickets", "super-tickets")

VerbName = Literal[
    "fit-head", "search", "evaluate", "transfer", "share", "super", "export", "measure", "compare", "analyse"
]
LOG = "log."
"""Start of the path of a value in the records of a run's log."""
Condition = dict[str, Any]
"""Axis -> a value, a list of values, or `{not: ..}`, `{above: ..}`, `{below: ..}`; all entries must hold."""


class Stage(Settings):
    """Runs of one verb.

    Attributes:
        settings: `with`: settings of the verb. Strings may contain `${parameter}` or `${axis}`, or be references such
            as `@search`.
        over: axes whose product gives the runs: name -> list of values, or mapping of label -> settings.
        label: axes that only the report sees, such as `{method: dense}`; each value of a list is a place of its own.
        skip: runs that match any of these conditions are skipped; a list, or a parameter that is one.
        only: if given, runs that match none of these conditions are skipped.
        when: false skips the stage; a parameter, so that only some scales have the stage.
    """

    verb: VerbName
    settings: dict[str, Any] = Field(default_factory=dict, alias="with")
    over: dict[str, Any] = Field(default_factory=dict)
    label: dict[str, str | int | float | tuple[str | int | float, ...]] = Field(default_factory=dict)
    skip: tuple[Condition, ...] | str = ()
    only: tuple[Condition, ...] | str = ()
    when: str | bool = True


class Value(Settings):
    """A number of each run of a stage.

    `value` is a dotted path into `result.json`, which may contain `${axis}`; or `score` or `score.best`, the primary
    metric of the task; or `run.seconds`; or `log.` and a path into each record of `metrics.jsonl`, by the axis `step`.

    Attributes:
        where: only runs that match one of these conditions; of a `level` and of a table's `values`.
        name: of a `level`; by default the stage.
    """

    stage: str
    value: str = "score"
    where: tuple[Condition, ...] = ()
    name: str | None = None


class Table(Settings):
    """A table of mean ± deviation.

    Attributes:
        stage: stages whose results are read.
        columns: axis of the columns; None if `values` gives them.
        values: name -> path of a value, or a value of another stage; several values give a column each.
        where: only runs that match one of these conditions.
        average: axes that are averaged first, for each seed; cells without all of them are empty.
        mean_column: heading of a column with the mean of each row.
        best: value of each column that is set in bold.
        statistic: `mean` with deviation, or `median`, `best` or `std` alone.
        note: text below the table.
    """

    title: str = ""
    stage: str | tuple[str, ...]
    rows: tuple[str, ...]
    columns: str | None = None
    values: dict[str, str | Value] = Field(default={"score": "score"})
    where: tuple[Condition, ...] = ()
    average: tuple[str, ...] = ()
    mean_column: str | None = None
    best: Literal["max", "min"] | None = "max"
    statistic: Literal["mean", "median", "best", "std"] = "mean"
    note: str = ""


class Figure(Settings):
    """A figure.

    Attributes:
        stage: stages whose results are read if `x` or `y` names none.
        x: an axis, or a value; the columns of a heatmap.
        y: path of a value, or a value of another stage; the color of a heatmap.
        series: axis of the lines, bars or colors; the rows of a heatmap.
        panels: axis with a panel for each value.
        error: band or bar around the mean over the remaining axes.
        level: stages, or values of them, drawn as a horizontal line, such as the dense model.
        reach: a score, a series (its best mean) or a stage of `level`; the first x at which each line reaches it is
            reported.
        note: text below the figure.
    """

    title: str = ""
    kind: Literal["line", "bar", "scatter", "heatmap"]
    stage: str | tuple[str, ...] | None = None
    x: str | Value
    y: str | Value = "score"
    series: str | None = None
    panels: str | None = None
    where: tuple[Condition, ...] = ()
    average: tuple[str, ...] = ()
    error: Literal["std", "interval"] | None = "std"
    level: tuple[str | Value, ...] = ()
    reach: str | float | None = None
    x_label: str | None = None
    y_label: str | None = None
    note: str = ""


class Comparison(Settings):
    """Two groups of runs that differ in one axis; the second may be a value of another stage (the dense model)."""

    axis: str
    first: str | int | float
    second: str | int | float | Value


class Correlation(Settings):
    """Two values that are expected to correlate; runs are paired by the axes that both have."""

    x: Value
    y: Value
    sign: Literal["positive", "negative"]


class Claim(Settings):
    """A finding of the paper; exactly one of `better`, `not_worse` and `correlates` tests it.

    Attributes:
        margin: of `not_worse`: the largest accepted loss, as a fraction.
        lower_is_better: of `value`, as for a loss.
        pair_by: axes that pair the runs of both groups.
        average: axes that are averaged in each pair first.
        where: only runs of `stage` that match one of these conditions.
    """

    text: str
    stage: str | tuple[str, ...] | None = None
    value: str = "score"
    better: Comparison | None = None
    not_worse: Comparison | None = None
    correlates: Correlation | None = None
    margin: float = Field(default=0.01, ge=0)
    lower_is_better: bool = False
    pair_by: tuple[str, ...] = ()
    average: tuple[str, ...] = ()
    where: tuple[Condition, ...] = ()

    @model_validator(mode="after")
    def _one_test(self) -> Claim:
        given = [name for name in ("better", "not_worse", "correlates") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of better, not_worse and correlates, found {given or 'none'}")
        if given != ["correlates"] and self.stage is None:
            raise ValueError(f"{given[0]} needs the stage whose results are compared")
        return self


class Published(BaseModel):  # `Settings` has an `of` of its own
    """A number of the paper, as a fraction (84.5 is 0.845), at a row and column of a table or figure.

    The labels of several row axes are joined by ` / `; in a figure the row is a series and the column a value of x.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str
    row: str | int | float
    column: str | int | float
    value: float
    std: float | None = None


class Study(Settings):
    """A grid of runs, and the tables, figures and claims of its report.

    Attributes:
        base: recipe whose `needs`, `parameters`, `scales` and `stages` this study starts from; already merged.
        paper: one of `PAPERS`; None for a user's study.
        needs: parameter -> description of what the user provides; a path is checked before any run.
        parameters: values for all scales; those of a scale win.
        scales: `smoke`, `small`, `paper` -> values of parameters.
        published: numbers of the paper's text.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    base: str | None = None
    paper: Literal["tamt", "tamt-submission", "bert-tickets", "super-tickets"] | None = None
    shows: str = ""
    needs: dict[str, str] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)
    scales: dict[Literal["smoke", "small", "paper"], dict[str, Any]]
    stages: dict[str, Stage] = Field(min_length=1)
    tables: dict[str, Table] = Field(default_factory=dict)
    figures: dict[str, Figure] = Field(default_factory=dict)
    claims: dict[str, Claim] = Field(default_factory=dict)
    published: tuple[Published, ...] = ()
