"""What a study is: stages whose runs make a grid, and what its tables, figures and claims show of them.

Written as YAML; docs/reference/studies.md explains every key with examples.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from winning_tickets.config import Settings

SCALES = ("smoke", "small", "paper")
"""`smoke`: a tiny model made in code; `small`: hours on two cores; `paper`: the sizes of the paper."""
PAPERS = ("tamt", "tamt-submission", "bert-tickets", "super-tickets")

VerbName = Literal[
    "fit-head", "search", "evaluate", "transfer", "share", "super", "export", "measure", "compare", "analyse"
]
Condition = dict[str, Any]
"""Axis -> a value, a list of values, or `{not: ..}`, `{above: ..}`, `{below: ..}`; all of them must hold."""


class Stage(Settings):
    """Runs of one verb.

    Attributes:
        verb: which.
        settings: `with`: fields of the verb's configuration. Strings may hold `${parameter}` or `${axis}`, and be
            references such as `@search`.
        over: axes whose product gives the runs: name -> list of values, or mapping of label -> fields.
        label: axes that only the report sees, such as `{method: dense}`; of a list each value is a place of its own,
            whose `value` may be another one of the same result.
        skip: runs that match any of these conditions are left out; a list, or a parameter that is one.
        only: where given, runs that match none of these are left out.
        when: false leaves the whole stage out; a parameter, so that only some scales have the stage.
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

    Attributes:
        stage: whose results are read.
        value: dotted path into `result.json`, in which `${axis}` stands for the value of an axis; or `score`,
            `score.best`: the task's primary metric; or `run.seconds`.
    """

    stage: str
    value: str = "score"


class Table(Settings):
    """A table of mean ± deviation.

    Attributes:
        title: its caption.
        stage: whose results are read; several are put together.
        rows: axes that make the rows.
        columns: axis that makes the columns; None where `values` does.
        values: name -> path of a value; with several, each column has all of them.
        where: only runs that match one of these conditions.
        average: axes that are averaged for each seed first; only cells that have all of them count.
        mean_column: heading of one more column, the mean over all columns of a row; None for no such column.
        best: which value of a column is set in bold.
        statistic: of the repetitions: `mean` with deviation, or their `median`, `best` or `std` alone.
    """

    title: str = ""
    stage: str | tuple[str, ...]
    rows: tuple[str, ...]
    columns: str | None = None
    values: dict[str, str] = Field(default_factory=lambda: {"score": "score"})
    where: tuple[Condition, ...] = ()
    average: tuple[str, ...] = ()
    mean_column: str | None = None
    best: Literal["max", "min"] | None = "max"
    statistic: Literal["mean", "median", "best", "std"] = "mean"


class Figure(Settings):
    """A figure.

    Attributes:
        title: its caption.
        kind: `line`, `bar`, `scatter` or `heatmap`.
        stage: whose results are read where `x` or `y` names no stage; several are put together.
        x: an axis, or a value. A heatmap's columns.
        y: path of a value, or a value of another stage. A heatmap's rows are then `series` and `y` is the colour.
        series: axis that tells lines, bars or colours apart; a heatmap's rows.
        panels: axis with a panel for each value.
        where: only runs that match one of these conditions.
        average: axes that are averaged for each seed first; only points that have all of them count.
        error: band or bar around the mean over the remaining axes.
        level: stages drawn as a horizontal line, such as the dense model's; or values of them, where not `y`.
        reach: a score, a series (its best mean counts) or a stage of `level`; the first x at which each line is there
            is told.
        x_label: text of the horizontal axis; by default the axis' name.
        y_label: text of the vertical axis.
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


class Comparison(Settings):
    """Two groups of runs, paired.

    Attributes:
        axis: what tells them apart, such as `method`.
        first: its value in the first group.
        second: its value in the second group; or a value of another stage, such as the dense model's score, whose runs
            stand beside every value of the axes that they lack.
    """

    axis: str
    first: str | int | float
    second: str | int | float | Value


class Correlation(Settings):
    """Two values that go together.

    Attributes:
        x: of the one stage.
        y: of the other; runs are matched by the axes that both have.
        sign: `positive` or `negative`.
    """

    x: Value
    y: Value
    sign: Literal["positive", "negative"]


class Claim(Settings):
    """A finding of the paper and how our numbers judge it; exactly one of `better`, `not_worse`, `correlates`.

    Attributes:
        text: the finding, in words.
        stage: whose results are compared; several are put together.
        value: path of the value that is compared.
        better: the first group is better than the second.
        not_worse: the first group is at most `margin` worse than the second.
        correlates: two values go together.
        margin: see `not_worse`; a fraction.
        lower_is_better: of `value`, as of a loss.
        pair_by: axes that pair runs of both groups.
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
    """A number that the paper's text gives.

    Attributes:
        of: name of the table or figure.
        row: label of the row (of several axes: joined by ` / `), or of the series of a figure.
        column: label of the column, or the value of a figure's x.
        value: as a fraction where ours is one: 84.5 in the paper is 0.845.
        std: the deviation that the paper gives.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str
    row: str | int | float
    column: str | int | float
    value: float
    std: float | None = None


class Study(Settings):
    """A question that is a grid of runs, and what is shown of the answer.

    Attributes:
        name: short; letters, digits and dashes.
        title: one line.
        base: a recipe whose `needs`, `parameters`, `scales` and `stages` this study starts from; it is loaded already.
        paper: one of `PAPERS`; None for a study of one's own.
        shows: what it shows, in a sentence or two.
        needs: parameter -> what has to be there, in words; a value that is a path is looked for before any run.
        parameters: values for all scales, unless a scale has its own.
        scales: `smoke`, `small`, `paper` -> values of parameters.
        stages: name -> runs of one verb; a stage may refer to earlier ones.
        tables: name -> table.
        figures: name -> figure.
        claims: name -> finding of the paper.
        published: numbers that the paper's text gives.
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
