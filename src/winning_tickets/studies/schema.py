"""Schema of a study: stages whose runs form a grid, and the tables, figures and claims of its report.

A study is written as YAML; docs/reference/studies.md explains every key with examples.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from winning_tickets.config import Settings

SCALES = ("smoke", "small", "paper")
"""`smoke`: a tiny generated model; `small`: hours on two cores; `paper`: the sizes of the paper."""

VerbName = Literal[
    "fit-head", "search", "evaluate", "transfer", "share", "super", "export", "measure", "compare", "analyse", "submit"
]
LOG = "log."  # start of the path of a value in the records of a run's log
SETTINGS = "settings."  # start of the path of a setting of a run, with the values of its profile
Condition = dict[str, Any]
"""Axis -> a value, a list of values, or `{not: ..}`, `{above: ..}`, `{below: ..}`; all entries must hold."""


class Stage(Settings):
    """Runs of one verb; the axes of `label` are for the report only."""

    verb: VerbName
    settings: dict[str, Any] = Field(default_factory=dict, alias="with")  # of the verb; may hold `${name}` and `@stage`
    over: dict[str, Any] = Field(default_factory=dict)  # values, or label -> settings
    label: dict[str, str | int | float | tuple[str | int | float, ...]] = Field(default_factory=dict)
    skip: tuple[Condition, ...] | str = ()  # runs that match any of these
    only: tuple[Condition, ...] | str = ()  # if given, runs that match none are skipped
    when: str | bool = True  # false skips the stage


class Value(Settings):
    """A number of each run of a stage."""

    stage: str
    value: str = "score"  # a dotted path into `result.json`, `score`, `score.best`, `run.seconds` or `log.` and a path
    where: tuple[Condition, ...] = ()  # of a `level` and of `values`: only runs that match one of these
    name: str | None = None  # of a `level`; by default the stage


class StudyTable(Settings):
    """A table of mean ± deviation."""

    title: str = ""
    stage: str | tuple[str, ...]
    rows: tuple[str, ...]
    columns: str | None = None  # axis of the columns; None if `values` gives them
    values: dict[str, str | Value] = Field(default={"score": "score"})
    where: tuple[Condition, ...] = ()  # only runs that match one of these
    average: tuple[str, ...] = ()  # axes that are averaged first, for each seed
    choose: tuple[str, ...] = ()  # axes of settings, of which each cell has the one with the best mean
    mean_column: str | None = (
        None  # heading of a column with the mean of each row; metrics of a task count once together
    )
    best: Literal["max", "min"] | None = "max"  # set in bold in each column
    statistic: Literal["mean", "median", "best", "std"] = "mean"
    note: str = ""


class Figure(Settings):
    """A figure."""

    title: str = ""
    kind: Literal["line", "bar", "scatter", "heatmap"]
    stage: str | tuple[str, ...] | None = None  # if `x` or `y` names none
    x: str | Value  # the columns of a heatmap
    y: str | Value = "score"  # the color of a heatmap
    series: str | None = None  # axis of the lines or bars; the rows of a heatmap
    panels: str | None = None  # axis with a panel for each value
    where: tuple[Condition, ...] = ()
    average: tuple[str, ...] = ()
    error: Literal["std", "interval"] | None = "std"  # band or bar around the mean
    level: tuple[str | Value, ...] = ()  # stages or values drawn as a horizontal line
    reach: str | float | None = None  # a score, a series or a stage of `level` that the lines are to reach
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


class StudyClaim(Settings):
    """A finding of the paper; exactly one of `better`, `not_worse` and `correlates` tests it."""

    text: str
    stage: str | tuple[str, ...] | None = None
    value: str = "score"
    better: Comparison | None = None
    not_worse: Comparison | None = None
    correlates: Correlation | None = None
    margin: float = Field(default=0.01, ge=0)  # of `not_worse`: the largest accepted loss
    lower_is_better: bool = False  # as for a loss
    pair_by: tuple[str, ...] = ()  # axes that pair the runs of both groups
    average: tuple[str, ...] = ()  # axes that are averaged in each pair first
    where: tuple[Condition, ...] = ()  # only runs of `stage` that match one of these

    @model_validator(mode="after")
    def _one_test(self) -> StudyClaim:
        given = [name for name in ("better", "not_worse", "correlates") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of better, not_worse and correlates, found {given or 'none'}")
        if given != ["correlates"] and self.stage is None:
            raise ValueError(f"{given[0]} needs the stage whose results are compared")
        return self


class Published(BaseModel):  # `Settings` has an `of` of its own
    """A number of the paper, as a fraction (84.5 is 0.845), at a row and column of a table or figure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str
    row: str | int | float  # labels of several axes joined by ` / `; in a figure the series
    column: str | int | float  # in a figure the value of x
    value: float
    std: float | None = None


class Study(Settings):
    """A grid of runs, and the tables, figures and claims of its report."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    base: str | None = None  # recipe that this study starts from; already merged
    paper: Literal["tamt", "tamt-submission", "bert-tickets", "super-tickets"] | None = None
    shows: str = ""
    deviations: dict[str, str] = Field(default_factory=dict)  # what differs from the paper, each in a sentence or two
    needs: dict[str, str] = Field(default_factory=dict)  # parameter -> what the user provides
    parameters: dict[str, Any] = Field(default_factory=dict)  # values for all scales; those of a scale win
    scales: dict[Literal["smoke", "small", "paper"], dict[str, Any]]
    stages: dict[str, Stage] = Field(min_length=1)
    tables: dict[str, StudyTable] = Field(default_factory=dict)
    figures: dict[str, Figure] = Field(default_factory=dict)
    claims: dict[str, StudyClaim] = Field(default_factory=dict)
    published: tuple[Published, ...] = ()  # numbers of the paper
