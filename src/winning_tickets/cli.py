"""The command `tickets`: one function a verb that parses, calls one library function and prints.

Results go to stdout, progress and messages to stderr; exit codes are those of `errors`. Nothing heavy is imported
before a verb runs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import Abort, TyperException

from winning_tickets import __version__, show
from winning_tickets.config import EvaluateConfig, Runtime, SearchConfig, Settings, TransferConfig
from winning_tickets.errors import TicketsError, UsageError
from winning_tickets.options import (
    Base,
    Bf16,
    CheckpointSteps,
    Config,
    DataDir,
    Device,
    DryRun,
    Force,
    Json,
    Layers,
    OtherWeights,
    Out,
    Quiet,
    Revision,
    fields_of,
    split_floats,
    split_ints,
    split_words,
)

app = typer.Typer(
    name="tickets",
    help="Find winning tickets in pre-trained language models, see what they preserve, use them, take them away.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options before the verb."""


def _emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The only place that writes to stdout."""
    typer.echo(json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) if as_json else text)


def _plan(config: Settings, out: Path | None, as_json: bool) -> None:
    plan = {"plan": config.model_dump(mode="json"), "out": None if out is None else str(out)}
    lines = [f"{key}: {value}" for key, value in plan["plan"].items() if value is not None]  # type: ignore[union-attr]
    _emit(plan, as_json, "\n".join(["Would run with:", *lines]))


@app.command()
def search(
    model: Annotated[str, typer.Argument(help="Hub id, local folder or builtin:minilm.")],
    out: Out,
    method: Annotated[str | None, typer.Option(help="random, magnitude or mask-training.")] = None,
    objective: Annotated[str | None, typer.Option(help="Of mask training: kd, mlm or mlm+kd.")] = None,
    sparsity: Annotated[
        str | None, typer.Option("--sparsity", "--sparsities", help="Fraction removed, in [0, 1).")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="wikitext-103, wikitext-2, pydocs, task:NAME, a text file or a folder.")
    ] = None,
    segments: Annotated[str | None, typer.Option(help="packed:L, lines or mixed.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens an optimiser step sees.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the scores.")] = None,
    ranking: Annotated[str | None, typer.Option(help="matrix or global.")] = None,
    scope: Annotated[
        str | None, typer.Option(help="encoder+embeddings, encoder, encoder+embeddings+pooler or encoder+pooler.")
    ] = None,
    score_init: Annotated[str | None, typer.Option(help="activation, rank, plateau or random.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Upper plateau in units of phi.")] = None,
    phi: Annotated[float | None, typer.Option(help="Initial threshold.")] = None,
    profile: Annotated[str | None, typer.Option(help="paper, code or tuned.")] = None,
    save_at: Annotated[str | None, typer.Option(help="Steps whose tickets are saved too, such as 100,500.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of random masks, data order, MLM masking.")] = None,
    data_dir: DataDir = None,
    revision: Revision = None,
    layers: Layers = None,
    config: Config = None,
    device: Device = "auto",
    bf16: Bf16 = False,
    checkpoint_steps: CheckpointSteps = None,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find a ticket and save it in --out.

    Example: tickets search builtin:minilm --method mask-training --objective kd --sparsity 0.6 --corpus pydocs
    --steps 60 --out my-ticket
    """
    sparsities = split_floats("--sparsity", sparsity)
    if sparsities is not None and len(sparsities) > 1:
        raise UsageError(f"--sparsity {sparsity}: one sparsity a search; run one search for each.")
    given = {
        "model": model,
        "revision": revision,
        "layers": layers,
        "method": method,
        "sparsity": None if sparsities is None else sparsities[0],
        "scope": scope,
        "ranking": ranking,
        "profile": profile,
        "seed": seed,
        "objective": objective,
        "corpus": corpus,
        "data_dir": data_dir,
        "steps": steps,
        "batch_tokens": batch_tokens,
        "segments": segments,
        "learning_rate": learning_rate,
        "score_init": score_init,
        "alpha": alpha,
        "phi": phi,
        "save_at": split_ints("--save-at", save_at),
    }
    settings = SearchConfig.of(**fields_of(config, given))
    if dry_run:
        from winning_tickets.search.checks import check

        check(settings)
        return _plan(settings.resolved(), out, as_json)
    from winning_tickets.search import search as find

    runtime = Runtime(device=device, bf16=bf16, checkpoint_steps=checkpoint_steps, quiet=quiet)
    ticket = find(settings, out, runtime, force)
    result = json.loads((out / "result.json").read_text(encoding="utf-8")) | {"out": str(out)}
    share = result["pruned_share_of_all_parameters"]
    return _emit(result, as_json, f"{ticket}\n{share:.1%} of all encoder parameters are pruned; saved in {out}")


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="MODEL_OR_TICKET", help="A ticket folder, or a model.")],
    objective: Annotated[str, typer.Option(help="kd, mlm, similarity, or several with commas.")] = "kd",
    corpus: Annotated[str | None, typer.Option(help="Text for kd and mlm; validation part of a folder.")] = None,
    segments: Annotated[str, typer.Option(help="packed:L or lines.")] = "packed:128",
    max_tokens: Annotated[int | None, typer.Option(help="Stop after so many tokens.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="Tokens a forward pass sees.")] = 4096,
    task: Annotated[str | None, typer.Option(help="Scored pairs for similarity: stsb.")] = None,
    pairs_file: Annotated[str | None, typer.Option(help="Your own scored pairs: csv, tsv or jsonl.")] = None,
    data_dir: DataDir = None,
    mlm_head: Annotated[str | None, typer.Option(help="base or ticket.")] = None,
    seed: Annotated[int, typer.Option(help="Of the MLM masking.")] = 42,
    base: Base = None,
    revision: Revision = None,
    layers: Layers = None,
    allow_other_weights: OtherWeights = False,
    device: Device = "auto",
    bf16: Bf16 = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure what a model or ticket preserves, without fine-tuning.

    Example: tickets evaluate my-ticket --objective kd --corpus pydocs --json
    """
    settings = EvaluateConfig.of(
        target=target,
        base=base,
        revision=revision,
        layers=layers,
        objectives=split_words(objective) or (),
        corpus=corpus,
        segments=segments,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        task=task,
        pairs_file=pairs_file,
        data_dir=data_dir,
        mlm_head=mlm_head,
        seed=seed,
        allow_other_weights=allow_other_weights,
    )
    if dry_run:
        return _plan(settings, None, as_json)
    from winning_tickets.evaluate import evaluate as measure

    result = measure(settings, Runtime(device=device, bf16=bf16, quiet=quiet))
    return _emit(result, as_json, show.evaluation(result))


@app.command()
def transfer(
    target: Annotated[str, typer.Argument(metavar="MODEL_OR_TICKET", help="A ticket folder, or a model.")],
    out: Out,
    task: Annotated[str | None, typer.Option(help="cola sst2 mrpc stsb qqp mnli qnli rte wnli or pydocs.")] = None,
    data_dir: DataDir = None,
    train_file: Annotated[str | None, typer.Option(help="Your own csv, tsv or jsonl.")] = None,
    validation_file: Annotated[str | None, typer.Option(help="Your own csv, tsv or jsonl.")] = None,
    text_columns: Annotated[str | None, typer.Option(help="One or two columns of your files, such as a,b.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Label column of your files.")] = None,
    metric: Annotated[str | None, typer.Option(help="accuracy f1 matthews pearson spearman.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", "--seed", help="One run for each, such as 0,1,2.")] = None,
    train_size: Annotated[str | None, typer.Option(help="N examples or P% of the training set.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training set.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate of AdamW.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens an example is cut to.")] = None,
    eval_steps: Annotated[int | None, typer.Option(help="Steps between evaluations.")] = None,
    save_model: Annotated[bool | None, typer.Option("--save-model", help="Keep the fine-tuned models.")] = None,
    base: Base = None,
    revision: Revision = None,
    layers: Layers = None,
    allow_other_weights: OtherWeights = False,
    config: Config = None,
    device: Device = "auto",
    bf16: Bf16 = False,
    checkpoint_steps: CheckpointSteps = None,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model or ticket on a task, once for each seed, and store the metrics.

    Example: tickets transfer my-ticket --task pydocs --seeds 0,1 --out my-transfer --json
    """
    given = {
        "target": target,
        "base": base,
        "revision": revision,
        "layers": layers,
        "task": task,
        "data_dir": data_dir,
        "train_file": train_file,
        "validation_file": validation_file,
        "text_columns": split_words(text_columns),
        "label_column": label_column,
        "metric": metric,
        "seeds": split_ints("--seeds", seeds),
        "train_size": train_size,
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "max_length": max_length,
        "eval_steps": eval_steps,
        "save_model": save_model or None,
        "allow_other_weights": allow_other_weights or None,
    }
    settings = TransferConfig.of(**fields_of(config, given))
    if dry_run:
        from winning_tickets.transfer_setup import check

        check(settings)
        return _plan(settings, out, as_json)
    from winning_tickets.transfer import transfer as fine_tune

    runtime = Runtime(device=device, bf16=bf16, checkpoint_steps=checkpoint_steps, quiet=quiet)
    result = fine_tune(settings, out, runtime, force)
    return _emit(result, as_json, show.transfer(result))


@app.command()
def compare(
    targets: Annotated[list[str], typer.Argument(metavar="TICKET...", help="Two or more tickets.")],
    as_json: Json = False,
) -> None:
    """How much tickets overlap, beside what chance would give.

    Example: tickets compare ticket-a ticket-b --json
    """
    from winning_tickets.compare import compare as overlap

    result = overlap(targets)
    _emit(result, as_json, show.comparison(result))


@app.command()
def inspect(
    ticket: Annotated[str, typer.Argument(help="A ticket folder.")],
    as_json: Json = False,
) -> None:
    """What a ticket is: exact sparsity, counts, by matrix, where it came from.

    Example: tickets inspect my-ticket --json
    """
    from winning_tickets.ticket import Ticket, children, describe

    result = describe(Ticket.from_pretrained(ticket)) | {"tickets_inside": children(ticket)}
    _emit(result, as_json, show.description(result))


@app.command()
def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A transfer made with --save-model.")],
    text: Annotated[list[str], typer.Option("--text", help="A text; repeat it. For pairs: first TAB second.")],
    text_pair: Annotated[
        list[str] | None, typer.Option("--text-pair", help="The second text of each pair, in the order of --text.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Which seed's model; by default the first one saved.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Label texts with a fine-tuned ticket.

    Example: tickets predict my-transfer --text "Return a list of the words in the string." --json
    """
    from winning_tickets.predict import predict as label

    if text_pair is not None and len(text_pair) != len(text):
        raise UsageError(f"{len(text)} --text and {len(text_pair)} --text-pair were given; they go in pairs.")
    texts = [tuple(item.split("\t")) for item in text]
    if text_pair is not None:
        texts = list(zip(text, text_pair, strict=True))
    result = label(run, texts, seed=seed, runtime=Runtime(device=device, quiet=True))
    _emit(result, as_json, show.predictions(result))


@app.command()
def export(
    target: Annotated[str, typer.Argument(metavar="TICKET_OR_RUN", help="A ticket, or a transfer with its model.")],
    out: Out,
    format_: Annotated[str, typer.Option("--format", help="masked: an ordinary Hugging Face folder with zeros.")],
    base: Base = None,
    allow_other_weights: OtherWeights = False,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write a model that others load.

    Example: tickets export my-ticket --format masked --out my-model
    """
    if dry_run:
        return _emit({"plan": {"target": target, "format": format_}, "out": str(out)}, as_json, f"Would write {out}")
    from winning_tickets.export import export as write

    result = write(target, format_, out, base=base, allow_other_weights=allow_other_weights, force=force)
    return _emit(result, as_json, show.exported(result))


@app.command()
def demo(
    out: Out = Path("demo-out"),
    tiny: Annotated[bool, typer.Option("--tiny", hidden=True)] = False,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The main job on the built-in model, corpus and task: four tickets, one table, one report; a few minutes."""
    from winning_tickets.demo import DemoConfig, run_demo
    from winning_tickets.report.demo_report import table

    config = DemoConfig.small() if tiny else DemoConfig()
    result = run_demo(config, out, Runtime(device=device, quiet=quiet))
    _emit(result, as_json, f"{table(result)}\n\nReport: {out / 'report.html'}")


cache_app = typer.Typer(help="The tokenised corpora on disk.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cache_app, name="cache")


@cache_app.command("list")
def cache_list(as_json: Json = False) -> None:
    """Where the cache is and what it holds."""
    from winning_tickets.data.cache import cache_root, list_entries

    result = {"root": str(cache_root()), "entries": list_entries()}
    _emit(result, as_json, show.cache(result))


@cache_app.command("clean")
def cache_clean(
    older_than_days: Annotated[float | None, typer.Option(help="Only entries unused for so long.")] = None,
    as_json: Json = False,
) -> None:
    """Remove tokenised corpora; they are made again when needed."""
    from winning_tickets.data.cache import clean

    freed = clean(older_than_days)
    _emit({"bytes_freed": freed}, as_json, f"{freed / 1e6:.1f} MB freed")


def _terminate(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> NoReturn:
    """Entry point: errors become one message and an exit code, never a traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        code = app(standalone_mode=False)
    except TicketsError as error:
        typer.echo(f"Error: {error}", err=True)
        code = error.exit_code
    except Abort:
        code = 130
    except TyperException as error:
        typer.echo(f"Error: {error.format_message()}", err=True)
        code = error.exit_code
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
