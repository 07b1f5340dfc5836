"""Commands about tickets and models: compare, inspect, predict, mask, export, push, measure"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from winning_tickets.cli import commands, plans, show
from winning_tickets.cli.commands import Printed, app, emit, small_verb
from winning_tickets.cli.options import fraction, split_words
from winning_tickets.config import LAST_SEED, CompareConfig, ExportConfig, ImportConfig, MeasureConfig, Runtime
from winning_tickets.runs.errors import UsageError, unknown

mask_app = typer.Typer(
    help="Combine, perturb and import masks. Those of the papers' released code can be imported.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(mask_app, name="mask")


@app.command()
def compare(
    targets: Annotated[list[str], typer.Argument(metavar="TICKET...", help=CompareConfig.help_of("targets"))],
    average: Annotated[str, typer.Option("--average", help=CompareConfig.help_of("average"))] = "pooled",
    of: Annotated[
        str, typer.Option("--of", help="Weights of the matrix and the figure: kept or pruned. JSON has both.")
    ] = "kept",
    *,
    labels: commands.Labels = None,
    out: commands.AnalysisOut = None,
    force: commands.ReplaceAnalysis = False,
    formats: commands.Formats = None,
    width: commands.Width = None,
    as_json: commands.Json = False,
) -> None:
    """Compare the masks of tickets: their overlap and that of chance.

    Example: tickets compare ticket-a ticket-b --json

    Example: tickets compare tickets/* --out overlap
    """
    from winning_tickets.report.files import check_folder, save_analysis
    from winning_tickets.report.result import comparison_figure, comparison_table
    from winning_tickets.runs.locks import hold
    from winning_tickets.tickets.overlap import OF
    from winning_tickets.tickets.overlap import compare as overlap
    from winning_tickets.tickets.ticket import labels_of

    if of not in OF:
        raise unknown("kind of weights", of, OF)
    chosen = commands.formats_of(formats, width, out)
    check_folder(out)
    names = labels_of(targets, split_words(labels))
    with nullcontext() if out is None else hold(out):
        result = {"kind": "compare", "labels": names, "of": of} | overlap(targets, average)
        if out is not None:
            save_analysis(result, (comparison_table, comparison_figure), out, chosen, width=width, force=force)
    emit(result, as_json=as_json, show=partial(show.comparison, out=out))


@app.command()
def inspect(
    ticket: Annotated[str, typer.Argument(help="A ticket: its folder or hub id.")],
    figure: Annotated[
        Path | None, typer.Option("--figure", help="File for a picture of the masks: svg, png or pdf.")
    ] = None,
    *,
    before: Annotated[
        str | None,
        typer.Option("--before", help="Another ticket of the same model: the figure shows what changed since it."),
    ] = None,
    width: commands.Width = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --figure.")] = False,
    as_json: commands.Json = False,
) -> None:
    """Describe a ticket: sparsity, counts, matrices, origin, a figure.

    Example: tickets inspect my-ticket --json

    Example: tickets inspect my-ticket --figure masks.svg

    Example: tickets inspect my-ticket --figure change.svg --before magnitude-ticket
    """
    from winning_tickets.tickets.files import children
    from winning_tickets.tickets.ticket import Ticket, describe

    given = {"--force": force, "--width": width is not None, "--before": before is not None}
    if figure is None and any(given.values()):
        raise UsageError(f"{next(name for name, one in given.items() if one)} needs --figure, a file for the picture.")
    if figure is not None:
        check_figure_file(figure, force=force)
    found = Ticket.from_pretrained(ticket)
    result = describe(found) | {"tickets_inside": children(ticket)}
    if figure is not None:
        from winning_tickets.report.figures import printed
        from winning_tickets.report.masks import mask_figure
        from winning_tickets.runs.files import write_bytes

        since, title = None, show.title_of(result)
        if before is not None:
            since = Ticket.from_pretrained(before)
            title += f"\nchange since {show.title_of(describe(since))}"
        with printed(width):
            drawing = mask_figure(found, title, before=since)
        write_bytes(figure, drawing[figure.suffix[1:]])
        result["figure"] = str(figure)
    emit(result, as_json=as_json, show=show.description)


def check_figure_file(path: Path, *, force: bool) -> None:
    """Raise `UsageError` for a file that no figure can be written to."""
    from winning_tickets.report.figures import FORMATS

    if path.suffix[1:] not in FORMATS:
        raise UsageError(f"--figure {path}: the name of a figure ends with {', '.join(f'.{one}' for one in FORMATS)}.")
    if not path.parent.is_dir():
        raise UsageError(f"--figure {path}: there is no folder {path.parent}.")
    if path.exists() and not force:
        raise UsageError(f"--figure {path} is there already; give another file, or --force to replace it.")


@app.command()
def predict(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="A transfer or super run made with --save-model, a shrink run of such a one, an export or a hub id.",
        ),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="A text. Repeat the option for several. A pair is written as first TAB second."),
    ] = None,
    text_pair: Annotated[
        list[str] | None, typer.Option("--text-pair", help="The second text of each pair, in the order of --text.")
    ] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", help="File whose rows are labeled: csv, tsv, jsonl or parquet.")
    ] = None,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="File for the rows of --input with their predictions.")
    ] = None,
    text_columns: Annotated[
        str | None,
        typer.Option("--text-columns", help="Text columns of --input. By default those that the model was trained on."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of every class too.")
    ] = False,
    glue_submission: Annotated[
        Path | None,
        typer.Option("--glue-submission", help="Folder for the files of the GLUE server, one RUN per task."),
    ] = None,
    data_dir: commands.DataDir = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the model. By default the first one saved.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace --out, or an earlier submission.")] = False,
    device: commands.Device = "auto",
    bf16: commands.Bf16 = False,
    trust_remote_code: commands.TrustRemoteCode = False,
    quiet: commands.Quiet = False,
    as_json: commands.Json = False,
) -> None:
    """Label texts or the rows of a file with a fine-tuned model. It also writes the files of a GLUE submission.

    Example: tickets predict my-transfer --text "Return a list of the words in the string." --json

    Example: tickets predict my-transfer --input new.csv --out labeled.csv --probabilities

    Example: tickets predict my-cola my-rte --glue-submission submission --data-dir glue
    """
    runtime = Runtime.of(device=device, bf16=bf16, quiet=quiet, trust_remote_code=trust_remote_code)
    of_file = {"--out": out, "--text-columns": text_columns, "--probabilities": probabilities}
    given = [option for option, value in of_file.items() if value]
    if input_file is None and given:
        raise UsageError(f"{given[0]} needs --input, a file whose rows are labeled.")
    if glue_submission is not None:
        from winning_tickets.finetuning.glue_submission import glue_submission as submit

        if text or text_pair or input_file is not None:
            raise UsageError("--glue-submission labels the test sets of GLUE; leave --text and --input out.")
        if data_dir is None:
            raise UsageError("--glue-submission needs --data-dir, a GLUE download with the test files.")
        written = submit(runs, data_dir, glue_submission, seed=seed, runtime=runtime, force=force)
        return emit(written, as_json=as_json, show=show.submission)
    if data_dir is not None or (force and input_file is None):
        raise UsageError("--data-dir and --force need --glue-submission; --force goes with --input too.")
    if len(runs) > 1:
        hint = f" Did you mean --input {runs[1]}?" if Path(runs[1]).is_file() else " Several need --glue-submission."
        raise UsageError(f"Texts are labeled by one run, found {len(runs)}.{hint}")
    if input_file is not None:
        from winning_tickets.training.predict_files import predict_file

        if text or text_pair:
            raise UsageError("--input and --text exclude each other; give one of them.")
        if out is None:
            raise UsageError(f"--input {input_file} needs --out, a file for the rows with their predictions.")
        columns = split_words(text_columns)
        result = predict_file(
            *(runs[0], input_file, out),
            text_columns=columns,
            probabilities=probabilities,
            seed=seed,
            runtime=runtime,
            force=force,
        )
        return emit(result, as_json=as_json, show=show.predicted_file)
    from winning_tickets.training.predict import predict as label

    if not text:
        raise UsageError("There is nothing to label: give --text, --input FILE, or --glue-submission DIR.")
    if file := next((one[1:] for one in text if one.startswith("@") and Path(one[1:]).is_file()), None):
        raise UsageError(f"--text takes a text, and {file} is a file; label its rows with --input {file}.")
    if text_pair is not None and len(text_pair) != len(text):
        raise UsageError(f"{len(text)} --text and {len(text_pair)} --text-pair were given; they go in pairs.")
    texts = [tuple(item.split("\t")) for item in text]
    if text_pair is not None:
        texts = list(zip(text, text_pair, strict=True))
    result = label(runs[0], texts, seed=seed, runtime=runtime)
    return emit(result, as_json=as_json, show=show.predictions)


@mask_app.command()
def combine(
    operation: Annotated[
        str, typer.Argument(metavar="OPERATION", help="Operation: union, intersection or difference.")
    ],
    targets: Annotated[list[str], typer.Argument(metavar="TICKETS...", help="Two or more of one model and scope.")],
    out: commands.Out,
    *,
    force: commands.Force = False,
    as_json: commands.Json = False,
) -> None:
    """Make a ticket of the union, intersection or difference of the weights that tickets keep.

    Example: tickets mask combine intersection ticket-a ticket-b --out shared-core
    """
    from winning_tickets.tickets.algebra import save_combined

    result = save_combined(operation, targets, out, force=force) | {"out": str(out)}
    return emit(result, as_json=as_json, show=show.derived)


@mask_app.command()
def perturb(
    target: Annotated[str, typer.Argument(metavar="TICKET", help="A ticket: its folder or hub id.")],
    out: commands.Out,
    fraction: Annotated[
        float,
        typer.Option(parser=fraction, help="Fraction of the kept weights of each matrix that moves to pruned places."),
    ] = 0.05,
    seed: Annotated[
        int, typer.Option(min=0, max=LAST_SEED, help="Seed of the weights that move, and of their new places.")
    ] = 0,
    *,
    force: commands.Force = False,
    as_json: commands.Json = False,
) -> None:
    """Change a ticket's mask at random, at exactly the same sparsity.

    Example: tickets mask perturb my-ticket --fraction 0.05 --seed 0 --out perturbed
    """
    from winning_tickets.tickets.algebra import save_perturbed

    result = save_perturbed(target, fraction, seed, out, force=force) | {"out": str(out)}
    return emit(result, as_json=as_json, show=show.derived)


@small_verb(mask_app, "import", ImportConfig, writes=True, file="FILE")
def import_mask(config: ImportConfig, out: Path, *, force: bool) -> Printed:
    """Make a ticket of the masks that the released code of the papers writes.

    Example: tickets mask import mask.pt --base bert-base-uncased --out my-ticket
    """
    from winning_tickets.deploy.mask_files import import_mask as read

    return read(config, out, force=force), show.imported


@small_verb(app, "export", ExportConfig, writes=True, plan=plans.plan_export, target="TICKET_OR_RUN")
def export(config: ExportConfig, out: Path, *, force: bool) -> Printed:
    """Write a model in a format that other programs load.

    Example: tickets export my-ticket --format masked --out my-model

    Example: tickets export my-share --task rte --format compact --out my-rte
    """
    from winning_tickets.deploy.export import export as write

    return write(config, out, force=force), show.exported


@app.command()
def push(
    target: Annotated[
        Path, typer.Argument(metavar="DIR", help="A ticket, an export, or a run that has saved its model.")
    ],
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="A repository of the Hugging Face hub, such as me/ticket.")
    ],
    results: Annotated[
        list[Path] | None,
        typer.Option(
            "--results", help="A transfer, or a file of evaluate --json, for the model card. May be repeated."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the model. By default the first one saved.")] = None,
    *,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Whether a new repository is private.")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch. By default main.")] = None,
    as_json: commands.Json = False,
) -> None:
    """Push a ticket, an export or a fine-tuned model to the hub. It gets a model card.

    Example: tickets push my-ticket me/ticket --results kept.json
    """
    from winning_tickets.runs.hub import check_access

    for path in (target, *(results or ())):
        if not path.exists():
            raise UsageError(f"There is nothing at {path}.")
    check_access(repo, None)  # before torch is imported
    from winning_tickets.deploy.publish import push as upload

    result = upload(target, repo, results=results or (), seed=seed, private=private, revision=revision)
    return emit(result, as_json=as_json, show=lambda done: f"Pushed {len(done['files'])} files to {done['url']}.")


@small_verb(
    app,
    "measure",
    MeasureConfig,
    runtime=("device", "bf16", "trust_remote_code", "quiet"),
    plan=plans.plan_measure,
    target="TARGET",
)
def measure(config: MeasureConfig, runtime: Runtime) -> Printed:
    """Measure size, operations and speed beside the dense model. Both are measured in the same run.

    Example: tickets measure my-export --batch 1,8 --length 128
    """
    from winning_tickets.deploy.measure import measure as run

    return run(config, runtime), show.measurement
