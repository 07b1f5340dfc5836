"""Results in Python: the result of a verb or an analysis, as a dict with attributes, a table and a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

from winning_tickets.config.objective import MEASURED
from winning_tickets.data.tasks import task_title
from winning_tickets.report import figures, tables
from winning_tickets.report.figures import Drawing, PhasePoint, Series, canvas
from winning_tickets.report.overlap import similarity_figure, similarity_table
from winning_tickets.report.shrink import shrink_figure, shrink_table
from winning_tickets.report.style import BLUE, ORANGE
from winning_tickets.report.tables import Column, Row, Table, columns, decimal, format_count, percent
from winning_tickets.runs import memory
from winning_tickets.runs.ambient import neutral_if_loaded
from winning_tickets.runs.errors import UsageError, closest
from winning_tickets.runs.files import is_number

Parameters = ParamSpec("Parameters")
Found = Mapping[str, Any]
Views = Mapping[str, tuple[Callable[[Found], Table], Callable[[Found], Drawing] | None]]


class Result(dict[str, Any]):
    """The result of a verb or an analysis.

    The keys of the dict are attributes, too. A result is displayed as a table, also in notebooks.

    Args:
        content: the dict, as stored and as printed by `--json`.
        verb: the verb; empty for an analysis, whose `kind` is in its content.
        views: the functions that make the table and the figure, by verb or kind of analysis; by default `VIEWS`.

    Example:
        >>> kept = evaluate(ticket, corpus=texts)
        >>> kept.kd_loss, kept.to_frame(), kept.plot()
    """

    _verb = ""
    _views: Views

    def __init__(self, content: Mapping[str, Any], verb: str = "", views: Views | None = None) -> None:
        super().__init__(content)
        self._verb = verb or str(content.get("kind"))
        self._views = VIEWS if views is None else views

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"The result of {self._verb} has no {name!r}.{closest(name, self)}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    @property
    def _table(self) -> Table:
        return self._views.get(self._verb, (facts_table, None))[0](self)

    def __repr__(self) -> str:
        return self._table.text()

    def _repr_html_(self) -> str:
        return self._table.html()

    def to_frame(self) -> Any:
        """Return the table as a pandas data frame; numbers are unrounded, and fractions are not times 100."""
        return self._table.to_frame().infer_objects()

    def plot(self) -> Any:
        """Return the figure, a Matplotlib `Figure` that notebooks show and `savefig` saves.

        Raises:
            UsageError: results of this verb have no figure.
        """
        draw = self._views.get(self._verb, (facts_table, None))[1]
        if draw is None:
            able = ", ".join(name for name, (_, figure) in self._views.items() if figure is not None)
            raise UsageError(f"Results of {self._verb} have no figure; those of {able} have one. See to_frame().")
        made = draw(self)
        # Notebooks show a figure that pyplot does not know only if it has a method for that.
        made.figure._repr_png_ = lambda: made["png"]
        return made.figure


def resulting(
    verb: str = "", views: Views | None = None
) -> Callable[[Callable[Parameters, dict[str, Any]]], Callable[Parameters, Result]]:
    """Return a decorator for functions that return a dict; they then return a `Result` of the verb or analysis.

    The caller's PyTorch state stays out of them, see `runs.ambient`.
    """

    def decorate(function: Callable[Parameters, dict[str, Any]]) -> Callable[Parameters, Result]:
        @wraps(function)
        @neutral_if_loaded()
        def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
            return Result(function(*arguments, **options), verb, views)

        return call

    return decorate


def facts_table(found: Found) -> Table:
    """Return one row for each entry that is a number, a string or a Boolean."""
    facts = {key: value for key, value in found.items() if isinstance(value, str | bool) or is_number(value)}
    return Table([{"fact": key, "value": value} for key, value in facts.items()], columns(fact="Fact", value="Value"))


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def evaluation_table(found: Found) -> Table:
    """Return one row: the target, its method and sparsity, and the values that were measured."""
    measured = [name for name in MEASURED if found[name] is not None]
    heads = [
        *columns(target="Target", method="Method"),
        *columns(percent, sparsity="Sparsity"),
        *(Column(name, name, decimal) for name in measured),
        *(columns(format_count, tokens="Tokens") if found["tokens"] is not None else []),
    ]
    return Table([{**found, "target": memory.shown(str(found["target"]))}], heads)


def evaluation_figure(found: Found) -> Drawing:
    """Draw a bar for each value that was measured."""
    names = [name for name in MEASURED if found[name] is not None]
    title = f"{found['method'] or 'dense'}, {percent(found['sparsity'])} % pruned"
    with canvas(1.6 + 1.3 * len(names), 3.4, "evaluate") as (drawing, made):
        axes = drawing.add_subplot()
        words = [name.replace("_", " ") for name in names]
        figures.draw_bars(axes, [Series("", words, [found[name] for name in names])], words, values=True)
        axes.set_title(title)
        axes.grid(axis="y")
    return made


def transfer_table(found: Found) -> Table:
    """Return one row per seed with the final and the best value of each metric."""
    return _score_table([_seed_rows(found, {"task": found["task"], **_about(found)})], found["metrics"])


def share_table(found: Found) -> Table:
    """Return one row for each task and seed."""
    tasks = found["tasks"]
    rows = [_seed_rows({**one, "seeds": found["seeds"]}, {"task": name, **_about(one)}) for name, one in tasks.items()]
    metrics = {name: kinds for one in tasks.values() for name, kinds in one["metrics"].items()}
    return _score_table(rows, metrics)


def _about(found: Found) -> Row:
    return {
        "method": found.get("method") or ("ticket" if found["ticket_id"] else "dense"),
        "sparsity": found["sparsity"],
    }


def _seed_rows(found: Found, about: Row) -> list[Row]:
    kinds = {
        f"{name}_{kind}": one[kind]["values"] for name, one in found["metrics"].items() for kind in ("final", "best")
    }
    return [
        {**about, "seed": seed, **{key: values[number] for key, values in kinds.items()}}
        for number, seed in enumerate(found["seeds"])
    ]


def _score_table(rows: Sequence[Sequence[Row]], metrics: Mapping[str, Any]) -> Table:
    heads = [
        *columns(task="Task", method="Method"),
        *columns(percent, sparsity="Sparsity"),
        *columns(seed="Seed"),
        *(
            Column(f"{name}_{kind}", f"{name} ({kind})", decimal if name.endswith("_loss") else percent)
            for name in metrics
            for kind in ("final", "best")
        ),
    ]
    return Table([row for some in rows for row in some], heads)


def transfer_figure(found: Found) -> Drawing:
    """Draw the final score of each seed and their mean, by metric."""
    finals = {name: kinds["final"] for name, kinds in found["metrics"].items() if not name.endswith("_loss")}
    return _draw_seeds({name: final for name, final in finals.items() if final["mean"] is not None}, found["task"])


def share_figure(found: Found) -> Drawing:
    """Draw the final score of each seed and their mean, by task, for the task's primary metric."""
    finals = {name: one["metrics"][one["primary_metric"]]["final"] for name, one in found["tasks"].items()}
    return _draw_seeds({name: final for name, final in finals.items() if final["mean"] is not None}, "one encoder")


def _draw_seeds(finals: Mapping[str, Any], about: str) -> Drawing:
    """Draw a column of dots for each metric or task, with a dot per seed."""
    with canvas(2.2 + 1.1 * len(finals), 3.4, "seeds") as (drawing, made):
        axes = drawing.add_subplot(ylabel="final score (x 100)")
        for place, final in enumerate(finals.values()):
            values = figures.percents(final["values"])
            axes.plot([place] * len(values), values, "o", color=ORANGE, markersize=5, alpha=0.75)
            axes.plot([place], [100 * final["mean"]], "_", color=BLUE, markersize=26, markeredgewidth=2.5)
        axes.set_xticks(range(len(finals)), list(finals))
        axes.set_xlim(-0.6, len(finals) - 0.4)
        axes.grid(axis="y")
        axes.set_title(f"{about}: seeds (dots) and mean")
    return made


def super_table(found: Found) -> Table:
    """Return one row for each selection and level, with the mean score on the rest of the dev set."""
    selections = {"full": {"0": found["full"]}, **found["selections"]}
    rows = [
        {"selection": name, "level": float(level), "weight_remaining": one["weight_remaining"], **one["rest"]}
        for name, levels in selections.items()
        for level, one in levels.items()
    ]
    heads = [
        *columns(selection="Selection"),
        Column("level", "Level", _shown),
        *columns(percent, weight_remaining="Weights left", mean=found["metric"], std="±"),
    ]
    return Table(
        rows, heads, [f"Super ticket: level {found['super_ticket']['level']:g} %.", *found.get("warnings", ())]
    )


def super_figure(found: Found) -> Drawing:
    """Draw the phase transition: the score against the remaining weight."""

    def point(one: Found) -> PhasePoint:
        return PhasePoint(one["weight_remaining"], tuple(one["rest"]["values"]))

    curves = {name: [point(one) for one in levels.values()] for name, levels in found["selections"].items()}
    title = f"{task_title(found['task'])}: {memory.shown(str(found['model']))}"
    return figures.draw_phases(curves, point(found["full"]), found["metric"], title)


def _as_similarity(found: Found) -> Found:
    of = found.get("of", "kept")
    own = {"of": of, "labels": found.get("labels", found["names"])}
    return {**found, **own, "jaccard": found[f"{of}_jaccard"], "chance": found[f"chance_{of}"]}


def comparison_table(found: Found) -> Table:
    """Return the overlap of each pair, of kept weights unless `of` is pruned, and the chance level."""
    return similarity_table(_as_similarity(found))


def comparison_figure(found: Found) -> Drawing:
    """Draw a heat map of the overlap of all pairs, of kept weights unless `of` is pruned."""
    return similarity_figure(_as_similarity(found))


def measure_table(found: Found) -> Table:
    """Return one row for each batch size and length."""
    rows = [
        {
            **{key: shape.get(key) for key in ("batch", "length", "flops", "flops_ratio")},
            "seconds": shape["latency_seconds"]["median"],
            "dense_seconds": shape.get("dense_latency_seconds", {}).get("median"),
            "speedup": shape.get("speedup", {}).get("median"),
        }
        for shape in found["shapes"]
    ]
    heads = [
        *columns(format_count, batch="Batch", length="Length", flops="FLOPs"),
        *columns(tables.text, seconds="Seconds", dense_seconds="Dense", speedup="Speed-up", flops_ratio="FLOPs ratio"),
    ]
    heads = [Column(one.key, one.title, _shown) if one.format is tables.text else one for one in heads]
    return Table(rows, heads, [found["expectation"]])


def measure_figure(found: Found) -> Drawing:
    """Draw a bar for the median time of each batch size and length, and one for the dense model."""
    shapes = {f"{one['batch']} x {one['length']}": one for one in found["shapes"]}
    kinds = [("dense", "dense_latency_seconds", BLUE), (found["kind"], "latency_seconds", ORANGE)]
    bars = [
        Series(name, list(shapes), [1000 * one[key]["median"] for one in shapes.values()], color=color)
        for name, key, color in kinds
        if key in found["shapes"][0]
    ]
    with canvas(2.4 + 1.1 * len(shapes), 3.4, "measure") as (drawing, made):
        axes = drawing.add_subplot(xlabel="texts x tokens", ylabel="milliseconds")
        figures.draw_bars(axes, bars, list(shapes), values=True)
        axes.grid(axis="y")
        axes.legend()
    return made


def predictions_table(found: Found) -> Table:
    """Return one row per text with its label, score or answer."""
    rows = [{**one, "text": " | ".join(one["text"])} for one in found["predictions"]]
    keys = dict.fromkeys(key for row in rows for key in row)
    return Table(rows, [Column(key, key, _shown) for key in keys])


def fitted_table(found: Found) -> Table:
    """Return the quality of the head before and after it was trained."""
    rows = [{"head": name, **found[key]} for name, key in (("untrained", "start"), ("fitted", "final"))]
    heads = [*columns(head="Head"), *columns(decimal, mlm_loss="MLM loss", perplexity="Perplexity")]
    return Table(rows, [*heads, *columns(percent, mlm_accuracy="MLM accuracy")])


VIEWS: Views = {
    "evaluate": (evaluation_table, evaluation_figure),
    "transfer": (transfer_table, transfer_figure),
    "share": (share_table, share_figure),
    "super": (super_table, super_figure),
    "compare": (comparison_table, comparison_figure),
    "measure": (measure_table, measure_figure),
    "predict": (predictions_table, None),
    "fit-head": (fitted_table, None),
    "shrink": (shrink_table, shrink_figure),
}
"""The functions that make the table and the figure of each verb; other results use `facts_table`."""
