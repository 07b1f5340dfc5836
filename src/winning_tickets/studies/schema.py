"""Schema of a study: stages whose runs form a grid, and the tables, figures and claims of its report.

A study is written as YAML; docs/reference/studies.md explains every key with examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from winning_tickets.config import Settings

SCALES = ("smoke", "small", "paper")
"""`smoke`: a tiny generated model; `small`: hours on two cores; `paper`: the sizes of the paper."""

VerbName = Literal[
    "fit-head",
    "search",
    "evaluate",
    "transfer",
    "share",
    "super",
    "export",
    "import-mask",
    "measure",
    "compare",
    "analyse",
    "submit",
]
LOG = "log."  # start of the path of a value in the records of a run's log
SETTINGS = "settings."  # start of the path of a setting of a run, with the values of its profile
HOURS = "log.hours"  # path of the training time until a record of the log
TRAIN_SECONDS = "run.train_seconds"  # path of the time of all optimizer steps of a run, from its log
Condition = dict[str, Any]
"""Axis -> a value, a list of values, or `{not: ..}`, `{above: ..}`, `{below: ..}`, `{same: AXIS}`; all must hold."""


class Choice(Settings):
    """Settings of which one is chosen for each arm of a stage, by the mean over its seeds."""

    among: dict[str, Any] = Field(min_length=1)  # axis -> candidates, as in `over`
    select_on: float | str = 0.5  # part of the dev set to choose on; the scores are those of the rest


class Stage(Settings):
    """Runs of one verb; the axes of `label` are for the report only."""

    verb: VerbName
    settings: dict[str, Any] = Field(default_factory=dict, alias="with")  # may hold `${name}` and `@stage`
    over: dict[str, Any] = Field(default_factory=dict)  # axis -> list of values, or mapping of labels to settings
    label: dict[str, str | int | float | tuple[str | int | float, ...]] = Field(default_factory=dict)
    skip: tuple[Condition, ...] | str = ()  # runs that match any of these
    only: tuple[Condition, ...] | str = ()  # if given, runs that match none are skipped
    when: str | bool = True  # false skips the stage
    choose: Choice | None = None  # its candidates are axes, and `select_on` is its part of the dev set

    @model_validator(mode="before")
    @classmethod
    def _with_candidates(cls, value: Any) -> Any:
        """Make each candidate a run of its own."""
        choose = value.get("choose") if isinstance(value, dict) else None
        if not isinstance(choose, dict) or not isinstance(choose.get("among"), dict):
            return value
        if value.get("verb") != "transfer":
            raise ValueError("choose is for transfer, whose scores are of a dev set")
        given = {"select_on": choose.get("select_on", 0.5)}
        return value | {
            "over": {**value.get("over", {}), **choose["among"]},
            "with": {**value.get("with", {}), **given},
        }


class Value(Settings):
    """A number of each run of one or several stages."""

    stage: str | tuple[str, ...]
    value: str = "score"  # a dotted path into `result.json`, `score`, `score.best`, `run.seconds` or `log.` and a path
    where: tuple[Condition, ...] = ()  # only runs that match one of these
    name: str | None = None  # name to show, for example of a `level`; by default the stage

    @property
    def stages(self) -> tuple[str, ...]:
        return (self.stage,) if isinstance(self.stage, str) else self.stage

    @property
    def title(self) -> str:
        return self.name or " and ".join(self.stages)


Minus = Annotated[Value | Condition, Field(union_mode="left_to_right")]
"""What is subtracted from numbers: a value of another stage, or the runs at some values of axes."""


class ScatterPoint(Settings):
    """A point of a scatter plot that has no place in the grid, such as the full model."""

    x: Value
    y: Value


class StudyTable(Settings):
    """A table of mean ± deviation."""

    title: str = ""
    stage: str | tuple[str, ...]
    rows: tuple[str, ...]
    columns: str | None = None  # axis of the columns; None if `values` gives them
    values: dict[str, str | Value] = Field(default={"score": "score"})
    where: tuple[Condition, ...] = ()  # only runs that match one of these
    average: tuple[str, ...] = ()  # axes that are averaged first, for each seed
    choose: tuple[str, ...] = ()  # axes of settings; each cell shows the setting with the best mean
    mean_column: str | None = (
        None  # heading of a column with the mean of each row; metrics of a task count once together
    )
    best: Literal["max", "min"] | None = "max"  # which mean of each column is in bold
    statistic: Literal["mean", "median", "best", "std", "p"] = "mean"
    minus: Minus | None = None  # what is subtracted from each number
    share_of: Value | None = None  # of whose distance from chance each number is a share: 0 is chance, 1 is that value
    note: str = ""

    @property
    def shown(self) -> dict[str, Value]:
        """The values by their headings; those without a stage are of the runs of the table."""
        return {
            text: value if isinstance(value, Value) else Value(stage=self.stage, value=value, where=self.where)
            for text, value in self.values.items()
        }


class Figure(Settings):
    """A figure."""

    title: str = ""
    kind: Literal["line", "bar", "scatter", "heatmap", "pies"]
    stage: str | tuple[str, ...] | None = None  # if `x` or `y` names none
    x: str | Value  # in a heatmap, the columns
    y: str | Value = "score"  # in a heatmap, the color
    series: str | None = None  # axis of the lines or bars; the rows of a heatmap
    panels: str | None = None  # axis with a panel for each value
    where: tuple[Condition, ...] = ()
    average: tuple[str, ...] = ()
    error: Literal["std", "interval"] | None = "std"  # band or bar around the mean
    level: tuple[str | Value, ...] = ()  # stages or values drawn as a horizontal line
    points: dict[str, ScatterPoint] = Field(default_factory=dict)  # for a scatter: further points by name
    reach: str | float | None = None  # a score, a series or a stage of `level` that the lines should reach
    minus: Minus | None = None  # what is subtracted from each number
    gap: tuple[str, str] | None = None  # for lines: two series whose difference is drawn as a line, too
    mark_at_least: float | Literal["same"] | Value | None = None  # for a heatmap: the limit that dark cells reach
    mark_margin: float | Literal["std"] = 0.0  # how far below the limit they may be; `std`: its standard deviation
    count: str | None = None  # heading of a column with the number of dark cells of each row
    x_at: Value | None = None  # for lines: where each position is drawn, such as the hours after so many steps
    x_scale: Literal["linear", "log"] = "linear"
    x_label: str | None = None
    y_label: str | None = None
    note: str = ""

    @property
    def drawn(self) -> Value:
        """The drawn value, of the runs that match the conditions of the figure."""
        y = self.y if isinstance(self.y, Value) else Value(stage=self.stage or (), value=self.y)
        return y.model_copy(update={"where": self.where})

    @property
    def x_value(self) -> Value | None:
        """The value that gives the positions; None if an axis gives them."""
        return self.x if isinstance(self.x, Value) else self.x_at


class Comparison(Settings):
    """Two groups of runs that differ in one axis; the second may be a value of another stage (a dense model)."""

    axis: str | None = None
    first: str | int | float | None = None
    second: str | int | float | Value
    along: str | None = None  # axis of positions, such as steps, over which both groups are curves
    at: Value | None = None  # the number that replaces a position, such as hours

    @model_validator(mode="after")
    def _groups(self) -> Comparison:
        if (self.axis is None) != (self.first is None):
            raise ValueError("give axis and first together; without them the first group is all runs of the claim")
        if self.axis is None and not isinstance(self.second, Value):
            raise ValueError("without an axis, second must be a value of a stage: {stage, value}")
        if self.at is not None and self.along is None:
            raise ValueError("at needs along: the axis whose positions it replaces")
        return self


class Bounds(Settings):
    """The range of values that a claim allows."""

    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _some(self) -> Bounds:
        if self.above is None and self.below is None:
            raise ValueError("give above, below or both")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"above {self.above} and below {self.below} leave nothing")
        return self


class Ratio(Comparison, Bounds):
    """Two groups of runs, and the range that a claim allows for the ratio of the first to the second."""


class Correlation(Settings):
    """Two values that are expected to correlate; runs are paired by their common axes."""

    x: Value
    y: Value
    sign: Literal["positive", "negative"]


COMPARISONS = ("better", "not_worse", "equal", "ratio", "sooner", "steadier")
TESTS = (*COMPARISONS, "lies", "correlates")


class StudyClaim(Settings):
    """A finding of the paper; exactly one of `TESTS` judges it."""

    text: str  # the sentence of the paper that is judged, in words of our own
    section: str = ""  # where the paper says so
    stage: str | tuple[str, ...] | None = None
    value: str = "score"
    better: Comparison | None = None  # the first is higher
    not_worse: Comparison | None = None  # the first is at most `margin` lower
    equal: Comparison | None = None  # both differ by at most `margin`
    ratio: Ratio | None = None  # the first divided by the second is within the bounds
    sooner: Comparison | None = None  # the first reaches the best of the second at an earlier position of `along`
    steadier: Comparison | None = None  # the first varies less over its repetitions
    lies: Bounds | None = None  # the value itself is within the bounds
    correlates: Correlation | None = None
    margin: float = Field(default=0.01, ge=0)
    minus: Minus | None = None  # what is subtracted from each number of `stage`
    published: float | None = None  # the paper's number for the estimate
    lower_is_better: bool = False  # true for a loss, for example
    each: str | None = None  # axis, such as `task`; the claim is made for each of its values
    pair_by: tuple[str, ...] = ()  # axes that pair the runs of both groups
    average: tuple[str, ...] = ()  # axes that are averaged in each pair first
    where: tuple[Condition, ...] = ()  # only runs of `stage` that match one of these

    @property
    def test(self) -> str:
        return next(name for name in TESTS if getattr(self, name) is not None)

    @property
    def judged(self) -> Value:
        """The value that is judged."""
        return Value(stage=self.stage or (), value=self.value, where=self.where)

    @property
    def comparison(self) -> Comparison | None:
        found = getattr(self, self.test)
        return found if isinstance(found, Comparison) else None

    @model_validator(mode="after")
    def _one_test(self) -> StudyClaim:
        given = [name for name in TESTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(TESTS)}; found {' and '.join(given) or 'none'}")
        if given != ["correlates"] and self.stage is None:
            raise ValueError(f"{given[0]} needs the stage whose results are compared")
        if self.sooner is not None and self.sooner.along is None:
            raise ValueError("sooner needs along: the axis of the positions, such as step")
        if self.each is not None and (self.correlates is not None or self.each in self.average):
            raise ValueError("each names an axis that pairs the runs; it is not averaged, and no correlation has one")
        return self


class Published(BaseModel):  # `Settings` has an `of` of its own
    """A number of the paper, as a fraction (84.5 is 0.845), at a row and column of a table or figure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str
    row: str | int | float  # labels of several axes joined by ` / `; in a figure the series
    column: str | int | float  # in a figure the value of x
    value: float
    std: float | None = None


class Deviation(Settings):
    """What differs from the paper, in a sentence or two, and the runs that it is about; without them it is left out.

    Settings and their values are those that the contract with the paper names (`studies.contract`).
    """

    text: str
    training: str | tuple[str, ...] = ()  # kinds of training in the contract; any if there is none
    settings: dict[str, Any] = Field(default_factory=dict)  # setting -> value of these runs, which is not the paper's
    stage: str | tuple[str, ...] = ()
    where: tuple[Condition, ...] = ()  # only runs whose axes or settings match one of these
    added: bool = False  # these runs are not in the paper

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    @property
    def trainings(self) -> tuple[str, ...]:
        return (self.training,) if isinstance(self.training, str) else self.training

    @property
    def stages(self) -> tuple[str, ...]:
        return (self.stage,) if isinstance(self.stage, str) else self.stage


class Study(Settings):
    """A grid of runs, and the tables, figures and claims of its report."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    base: str | None = None  # recipe that this study starts from; already merged
    paper: Literal["tamt", "tamt-submission", "bert-tickets", "super-tickets"] | None = None
    shows: str = ""
    deviations: dict[str, Deviation] = Field(default_factory=dict)  # what differs from the paper
    needs: dict[str, str] = Field(default_factory=dict)  # parameter -> what the user provides
    parameters: dict[str, Any] = Field(default_factory=dict)  # values for all scales; the values of a scale win
    scales: dict[Literal["smoke", "small", "paper"], dict[str, Any]]
    stages: dict[str, Stage] = Field(min_length=1)
    tables: dict[str, StudyTable] = Field(default_factory=dict)
    figures: dict[str, Figure] = Field(default_factory=dict)
    claims: dict[str, StudyClaim] = Field(default_factory=dict)
    published: tuple[Published, ...] = ()  # numbers of the paper
    left_out: tuple[str, ...] = ()  # tables, figures and claims of the base whose stages or axes are gone

    @property
    def scale_names(self) -> list[str]:
        """The scales that the study can run at, from the smallest."""
        return [name for name in SCALES if name in self.scales]


def map_conditions(shown: Any, change: Callable[[Any], Any]) -> Any:
    """Return a table, figure or claim with its conditions changed, also the conditions of the values in it."""
    if isinstance(shown, Settings):
        found = {
            name: change(value)
            if name in ("where", "minus") and not isinstance(value, Settings)
            else map_conditions(value, change)
            for name, value in shown
        }
        return shown.model_copy(update=found)
    if isinstance(shown, Mapping):
        return {name: map_conditions(value, change) for name, value in shown.items()}
    return tuple(map_conditions(value, change) for value in shown) if isinstance(shown, tuple) else shown
