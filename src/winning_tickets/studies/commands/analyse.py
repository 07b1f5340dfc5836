"""`tickets analyse KIND PATH...`: analyses of tickets and results, as a table, JSON and a figure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from winning_tickets.cli import show
from winning_tickets.cli.commands import (
    AnalysisOut,
    Base,
    DataDir,
    Formats,
    Json,
    Labels,
    ReplaceAnalysis,
    Width,
    emit,
    formats_of,
)
from winning_tickets.cli.options import split_ints, split_words
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.escapes import printable
from winning_tickets.runs.locks import hold

analyse_app = typer.Typer(
    help="Analyze tickets and results in tables and figures.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class ListOptions(TyperCommand):
    """A command whose `--baseline` and `--dense` take all words up to the next option, as a shell's `*` gives them."""

    lists = ("--baseline", "--dense")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat such an option before each of its words, as the parser requires, and parse."""
        given: list[str] = []
        words = list(args)
        while words:
            name, equals, value = words.pop(0).partition("=")
            if name not in self.lists:
                given.append(name + equals + value)
                continue
            values = [value] if equals else []
            while words and not words[0].startswith("-"):
                values.append(words.pop(0))
            if not values:
                ctx.fail(f"Option {name!r} needs one or more paths.")
            given += [part for value in values for part in (name, value)]
        return super().parse_args(ctx, given)


def _table(result: Mapping[str, Any], out: Path | None) -> str:
    """Return the table of an analysis, its notes, and the folder of its files."""
    from winning_tickets.studies.analysis.report.views import analysis_table

    return analysis_table(result).text() + ("" if out is None else "\n" + printable(f"Saved in {out}"))


def analysis(cls: type[TyperCommand] | None = None, **readers: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Register a function as the command of the analysis of its name, with `--out`, `--json` and what belongs to them.

    The analysis gets what the function returns or, if that is None, the arguments of the function. `readers` convert
    arguments that the command line gives as text.
    """

    def register(function: Callable[..., dict[str, Any] | None]) -> Any:
        def run(
            *,
            out: AnalysisOut = None,
            force: ReplaceAnalysis = False,
            formats: Formats = None,
            width: Width = None,
            as_json: Json = False,
            **given: Any,
        ) -> None:
            from winning_tickets.report.files import check_folder, save_analysis
            from winning_tickets.studies.analysis.kinds import ANALYSES
            from winning_tickets.studies.analysis.report.views import REPORTS

            chosen_formats = formats_of(formats, width, out)
            given |= {name: read(given[name]) for name, read in readers.items()}
            chosen = function(**given) or given
            check_folder(out)
            paths = chosen.pop(next(iter(own)))  # the first parameter, such as tickets, searches or runs
            with nullcontext() if out is None else hold(out):
                result = ANALYSES[function.__name__](paths, **chosen)
                if out is not None:
                    views = REPORTS[result["kind"]]
                    save_analysis(result, views, out, chosen_formats, width=width, force=force)
            emit(result, as_json=as_json, show=partial(_table, out=out))

        own, more = (inspect.signature(one, eval_str=True).parameters for one in (function, run))
        parameters = [*own.values(), *(more[name] for name in ("out", "force", "formats", "width", "as_json"))]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return analyse_app.command(cls=cls)(run)

    return register


Score = Annotated[str, typer.Option("--score", help="Score of each seed: final or best.")]


@analysis(labels=split_words)
def distance(
    searches: Annotated[list[str], typer.Argument(metavar="SEARCH...", help="Folders of searches with --save-at.")],
    reference: Annotated[
        str | None, typer.Option("--reference", help="A ticket that distances are taken to, instead of OMP.")
    ] = None,
    base: Base = None,
    labels: Labels = None,
) -> None:
    """Measure the distance of searches from one-shot magnitude pruning (OMP).

    Example: tickets analyse distance kd-search mlm-search --out distance
    """


@analysis()
def predictors(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="JSON files of evaluate, and transfer runs, in any order.")
    ],
    score: Score = "final",
) -> None:
    """Correlate what is measured before fine-tuning with the scores after it.

    Example: tickets analyse predictors evaluations/*.json runs/* --out predictors
    """


@analysis(names=split_words, importances=split_words)
def sharing(
    tickets: Annotated[
        list[str],
        typer.Argument(metavar="TICKET...", help="Tickets of heads and FFNs, one per task, or one shared model."),
    ],
    names: Annotated[
        str | None,
        typer.Option("--names", help="Names of the tasks, with commas. By default those the tickets were found on."),
    ] = None,
    importances: Annotated[
        str | None,
        typer.Option(
            "--importances", help="Searches by importance, one per task, with commas. By default those of the tickets."
        ),
    ] = None,
    definition: Annotated[
        str,
        typer.Option("--definition", help="Definition of importance: sample (the paper's), token, batch or released."),
    ] = "sample",
    *,
    base: Base = None,
) -> None:
    """Show the heads and FFNs that each task keeps, and their importance for it.

    Example: tickets analyse sharing tickets/rte tickets/mrpc tickets/cola --out sharing
    """


@analysis()
def cards(
    tasks: Annotated[str | None, typer.Option("--tasks", help="Tasks with commas, such as rte,mrpc.")] = None,
    data_dir: DataDir = None,
    task_file: Annotated[
        str | None,
        typer.Option("--task-file", help="YAML that defines --tasks. Without --tasks all its tasks are meant."),
    ] = None,
    train_file: Annotated[str | None, typer.Option("--train-file", help="Your own file, as transfer takes it.")] = None,
    *,
    validation_file: Annotated[
        str | None, typer.Option("--validation-file", help="Another file of that format.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Kind of the labels of your files, as transfer takes it.")
    ] = None,
    text_columns: Annotated[
        str | None, typer.Option("--text-columns", help="One or two columns of your files.")
    ] = None,
    label_column: Annotated[str, typer.Option("--label-column", help="Label column of your files.")] = "label",
    metric: Annotated[str | None, typer.Option("--metric", help="Primary metric of your files.")] = None,
) -> dict[str, Any]:
    """Describe the data of tasks: examples, labels, lengths, baselines, repeated texts.

    Example: tickets analyse cards --tasks rte,mrpc --data-dir glue --out cards
    """
    files = None
    if train_file is not None or validation_file is not None:
        if train_file is None or validation_file is None:
            raise UsageError("--train-file and --validation-file go together; one of them is missing.")
        files = dict(
            train_file=train_file,
            validation_file=validation_file,
            text_columns=split_words(text_columns),
            label_column=label_column,
            metric=metric,
            kind=kind,
        )
    return {"tasks": split_words(tasks) or (), "data_dir": data_dir, "task_file": task_file, "files": files}


@analysis(cls=ListOptions, dense=lambda runs: runs or ())
def gain(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Transfer runs of the tickets in question.")],
    baseline: Annotated[
        list[str], typer.Option("--baseline", metavar="RUN...", help="Transfer runs that they are compared with.")
    ],
    dense: Annotated[
        list[str] | None, typer.Option("--dense", metavar="RUN...", help="Transfer runs of the dense model.")
    ] = None,
    score: Score = "final",
    *,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out tasks and seeds that a group lacks.")
    ] = False,
) -> None:
    """Test if tickets transfer better than others, with runs paired by task and seed.

    Example: tickets analyse gain runs/*-kd-70 --baseline runs/*-magnitude-70 --dense runs/*-dense
    """


@analysis(
    cls=ListOptions,
    select_seeds=partial(split_ints, "--select-seeds"),
    report_seeds=partial(split_ints, "--report-seeds"),
)
def winning(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Transfer runs of tickets, of any sparsities.")],
    dense: Annotated[
        list[str], typer.Option("--dense", metavar="RUN...", help="Transfer runs of the full model, one per task.")
    ],
    criterion: Annotated[
        str, typer.Option("--criterion", help="Criterion: exceeds, within-std or non-inferior.")
    ] = "exceeds",
    std_of: Annotated[
        str, typer.Option("--std-of", help="Standard deviation of within-std: that of full, subnetwork or max.")
    ] = "full",
    *,
    margin: Annotated[
        float, typer.Option("--margin", min=0, help="Loss that non-inferior allows, as a fraction.")
    ] = 0.01,
    statistic: Annotated[
        str, typer.Option("--statistic", help="Statistic of the seeds: mean, median or best.")
    ] = "mean",
    score: Score = "final",
    metric: Annotated[
        str | None, typer.Option("--metric", help="Metric. By default the primary one of each task.")
    ] = None,
    select_seeds: Annotated[
        str | None, typer.Option("--select-seeds", help="Seeds on which the highest winning sparsity is chosen.")
    ] = None,
    report_seeds: Annotated[
        str | None, typer.Option("--report-seeds", help="Other seeds, on which it is reported.")
    ] = None,
) -> None:
    """Find the tickets that match the full model, and the highest sparsity that does.

    Example: tickets analyse winning runs/*-imp-* --dense runs/*-dense --criterion within-std --out winning
    """


@analyse_app.command()
def average(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Transfers, one per task.")],
    *,
    as_json: Json = False,
) -> None:
    """Average the scores of several tasks, by both rules of the Super Tickets paper.

    Example: tickets analyse average runs/cola runs/mrpc runs/rte --json
    """
    from winning_tickets.studies.analysis.averages import average_runs

    result = average_runs(runs)
    emit(result, as_json=as_json, show=averages_text)


def averages_text(result: dict[str, Any]) -> str:
    """Show the scores of each task and both averages x100, and the tasks and seeds that are left out."""
    lines = []
    for task, run in result["tasks"].items():
        lines += [f"{task} {name}: {show.final_and_best(kinds)}" for name, kinds in run["metrics"].items()]
    meanings = {"task_average": "each task once", "column_average": "the GLUE server's columns"}
    for rule, kinds in result["averages"].items():
        lines.append(f"{rule} ({meanings[rule]}): {show.final_and_best(kinds)}")
    lines.append(f"seeds: {', '.join(map(str, result['seeds']))}")
    for task, seeds in result["left_out_seeds"].items():
        lines.append(f"left out, as not all tasks have them: {task} {', '.join(map(str, seeds))}")
    if result["missing_tasks"]:
        lines.append(f"missing of the paper's tasks: {', '.join(result['missing_tasks'])}")
    if result["other_tasks"]:
        lines.append(f"not among the paper's tasks: {', '.join(result['other_tasks'])}")
    if result["missing_tasks"] or result["other_tasks"]:
        lines.append("These averages are not those of the paper's tables.")
    sparsities = {task: run["sparsity"] for task, run in result["tasks"].items()}
    if len(set(sparsities.values())) > 1:
        lines.append(f"sparsities differ: {', '.join(f'{task} {value:.3f}' for task, value in sparsities.items())}")
    return "\n".join(lines)
