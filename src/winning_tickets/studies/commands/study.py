"""`tickets study plan|run|status|report|list|new`, `recipes` and `demo`: grids of runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from winning_tickets.cli import commands
from winning_tickets.cli.commands import emit
from winning_tickets.config import Runtime
from winning_tickets.runs.errors import TrainingError, UsageError
from winning_tickets.runs.escapes import printable

if TYPE_CHECKING:
    from winning_tickets.report.costs import Speed
    from winning_tickets.studies.plan import Plan

logger = logging.getLogger(__name__)

study_app = typer.Typer(
    help="Plan, run and resume grids of runs. They are a recipe of the papers, or your own study.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _recipes(incomplete: str) -> list[str]:
    from winning_tickets.studies.load import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


Source = Annotated[
    str,
    typer.Argument(
        metavar="NAME_OR_FILE",
        help="A recipe of `tickets recipes`, a YAML file, or a folder with a study.yaml.",
        autocompletion=_recipes,
    ),
]
Scale = Annotated[str, typer.Option("--scale", help="Scale: smoke, small or paper.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Replace a parameter, such as tasks=rte,mrpc.")
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes at a time.")]
Gpus = Annotated[float, typer.Option("--gpus", min=0, help="GPUs of a run on Ray (may be a fraction) or Slurm.")]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="DEVICE",
        help="Device of the estimated time: cpu, v100, a100 or h100. By default similar runs in the store, else cpu; "
        "a100 with --gpus.",
    ),
]
TokensPerSecond = Annotated[
    float | None,
    typer.Option("--tokens-per-second", min=1, help="Speed of training that you measured, for the estimated time."),
]


Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="AXIS=VALUE",
        help="Only runs with these values, such as task=rte,mrpc or stage=search, and those that they need.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Only the I-th of N parts, such as 3/16 for a job of a cluster."),
]


def _plan(
    source: str, scale: str, overrides: list[str] | None, where: list[str] | None = None, *, shard: str | None = None
) -> Plan:
    from winning_tickets.studies.load import load_study
    from winning_tickets.studies.plan import parse_overrides, part_of, plan_study

    whole = plan_study(load_study(source), scale, parse_overrides(overrides or []))
    return part_of(whole, where or (), shard) if where or shard is not None else whole


def _speed(on: str | None, tokens_per_second: float | None, gpus: float, *, bf16: bool) -> Speed | None:
    """Return what the time is estimated for; None if the user named nothing, and runs in the store may say more."""
    from winning_tickets.report.costs import Speed

    if on is None and tokens_per_second is None and not gpus and not bf16:
        return None
    return Speed(on or ("a100" if gpus else "cpu"), bf16, tokens_per_second)


def _pairs(option: str, words: list[str] | None) -> dict[str, str]:
    """Return the values of an option that is repeated as NAME=VALUE."""
    for word in words or ():
        if not word.partition("=")[2]:
            raise UsageError(f"{option} {word!r} is not NAME=VALUE.")
    return dict(word.split("=", 1) for word in words or ())


@study_app.command()
def plan(
    study: Source,
    scale: Scale,
    set_: Set = None,
    where: Where = None,
    *,
    shard: Shard = None,
    store: commands.StoreFolder = commands.DEFAULT_STORE,
    workers: Workers = 1,
    gpus: Gpus = 0,
    on: On = None,
    tokens_per_second: TokensPerSecond = None,
    bf16: commands.Bf16 = False,
    as_json: commands.Json = False,
) -> None:
    """Plan a study: its runs, those that are done, the time of the rest, and what is missing.

    Example: tickets study plan tamt-figure-3 --scale small --set tasks=rte,mrpc
    """
    from winning_tickets.runs.store.store import Store
    from winning_tickets.studies.status import study_status
    from winning_tickets.studies.text import plan_text

    planned = _plan(study, scale, set_, where, shard=shard)
    speed = _speed(on, tokens_per_second, gpus, bf16=bf16)
    result = study_status(planned, Store(store), workers, ask_hub=True, speed=speed, gpus=gpus)
    runs = [{"id": one.id, "stage": one.stage, "verb": one.verb, "needs": one.needs} for one in planned.runs.values()]
    emit(result | {"parameters": planned.parameters, "planned": runs}, as_json=as_json, show=plan_text)


@study_app.command()
def status(
    study: Source,
    scale: Scale,
    set_: Set = None,
    where: Where = None,
    *,
    shard: Shard = None,
    store: commands.StoreFolder = commands.DEFAULT_STORE,
    workers: Workers = 1,
    gpus: Gpus = 0,
    on: On = None,
    tokens_per_second: TokensPerSecond = None,
    bf16: commands.Bf16 = False,
    as_json: commands.Json = False,
) -> None:
    """Report the runs that are done, running, failed and blocked; also while the study runs.

    Example: tickets study status tamt-figure-3 --scale small
    """
    from winning_tickets.runs.store.store import Store
    from winning_tickets.studies.status import study_status
    from winning_tickets.studies.text import status_text

    speed = _speed(on, tokens_per_second, gpus, bf16=bf16)
    result = study_status(_plan(study, scale, set_, where, shard=shard), Store(store), workers, speed=speed, gpus=gpus)
    emit(result, as_json=as_json, show=status_text)


@study_app.command()
def run(
    study: Source,
    scale: Scale,
    set_: Set = None,
    where: Where = None,
    *,
    shard: Shard = None,
    store: commands.StoreFolder = commands.DEFAULT_STORE,
    engine: Annotated[str, typer.Option("--engine", help="Engine: local, ray or slurm.")] = "local",
    workers: Workers = 1,
    address: Annotated[
        str | None, typer.Option("--address", help="Address of a Ray cluster. By default one is started here.")
    ] = None,
    cpus: Annotated[float, typer.Option("--cpus", help="Cores of a run on Ray or Slurm.")] = 1,
    gpus: Gpus = 0,
    on: On = None,
    tokens_per_second: TokensPerSecond = None,
    walltime: Annotated[
        int, typer.Option("--walltime", min=1, help="Minutes of a Slurm job, after which it is requeued.")
    ] = 240,
    slurm: Annotated[
        list[str] | None,
        typer.Option("--slurm", metavar="NAME=VALUE", help="A parameter of sbatch, such as partition=gpu. Repeatable."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed runs again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan the study, check what it needs, and do nothing.")
    ] = False,
    ignore_room: Annotated[
        bool, typer.Option("--ignore-room", help="Start even if the estimated bytes do not fit on the disk.")
    ] = False,
    device: commands.Device = "auto",
    bf16: commands.Bf16 = False,
    checkpoint_steps: commands.CheckpointSteps = None,
    non_finite: commands.NonFinite = "stop",
    report_to: commands.ReportTo = None,
    trust_remote_code: commands.TrustRemoteCode = False,
    quiet: commands.Quiet = False,
    as_json: commands.Json = False,
) -> None:
    """Do all runs that are not done; after any stop the same command resumes.

    Example: tickets study run tamt-figure-3 --scale smoke --workers 2
    """
    from winning_tickets.report.costs import CPU
    from winning_tickets.runs.store.store import Store
    from winning_tickets.studies.engines import EngineOptions, check_engine, make_engine
    from winning_tickets.studies.needs import unmet_needs
    from winning_tickets.studies.run import ProgressLines, run_study
    from winning_tickets.studies.status import study_status
    from winning_tickets.studies.text import plan_text, run_text

    check_engine(engine)
    trackers, sbatch = commands.trackers_of(report_to), _pairs("--slurm", slurm)
    planned = _plan(study, scale, set_, where, shard=shard)
    found = Store(store)
    speed = _speed(on, tokens_per_second, gpus, bf16=bf16)
    status = study_status(planned, found, workers, ask_hub=engine == "local", speed=speed, gpus=gpus)
    # The nodes of a cluster may have data that this machine lacks.
    problems = status["problems"] if engine == "local" else unmet_needs(planned)
    if status["room"] and not ignore_room:
        problems.append(status["room"])
    if problems:
        raise UsageError(*problems)
    if dry_run:
        return emit(status, as_json=as_json, show=plan_text)
    engine_options = EngineOptions.of(
        workers=workers, address=address, cpus=cpus, gpus=gpus, walltime=walltime, slurm=sbatch
    )
    runtime = Runtime.of(
        device=device,
        bf16=bf16,
        checkpoint_steps=checkpoint_steps,
        quiet=True,
        non_finite=non_finite,
        report_to=trackers,
        trust_remote_code=trust_remote_code,
    )
    if not quiet and (left := len(planned.runs) - status["done"]):
        logger.info("%s at %s: %d runs to do; a line for each when it ends.", planned.study.name, scale, left)
    watch = ProgressLines(planned, found, workers, speed or CPU, gpus=gpus)
    result = run_study(
        planned, found, make_engine(engine, engine_options, found.path), runtime, retry_failed=retry_failed, watch=watch
    )
    _check(result)
    result = {"study": planned.study.name, "scale": scale, **result}
    return emit(result, as_json=as_json, show=run_text)


def _check(result: dict[str, Any]) -> None:
    """Raise an error if runs of a study failed."""
    failed, blocked = result["failed"], result["blocked"]
    if failed:
        name, message = next(iter(failed.items()))
        raise TrainingError(
            f"{len(failed)} of {result['runs']} runs failed and {len(blocked)} wait for them; {result['done']} are "
            f"done. {name}: {message} `tickets study status` shows all; --retry-failed tries them again."
        )


@study_app.command("list")
def list_studies(store: commands.StoreFolder = commands.DEFAULT_STORE, *, as_json: commands.Json = False) -> None:
    """List the studies that have runs in a store.

    Example: tickets study list
    """
    from winning_tickets.runs.store.store import Store
    from winning_tickets.studies.text import studies_in, studies_text

    found = studies_in(Store(store))
    emit({"store": str(store), "studies": found}, as_json=as_json, show=studies_text)


@study_app.command()
def report(
    study: Source,
    scale: Scale,
    out: Annotated[Path, typer.Option("--out", help="Folder: absent, empty, or holding a report of this study.")],
    set_: Set = None,
    *,
    where: Where = None,
    store: commands.StoreFolder = commands.DEFAULT_STORE,
    formats: commands.Formats = None,
    width: commands.Width = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the report of another study in --out.")] = False,
    as_json: commands.Json = False,
) -> None:
    """Write tables, figures, verdicts on the claims and one page from the stored runs, at any time.

    Example: tickets study report tamt-figure-3 --scale small --out report
    """
    from winning_tickets.runs.store.store import Store
    from winning_tickets.studies.report import report_study, report_text

    found = Store(store)
    if not found.exists():
        raise UsageError(f"There is no store at {store}; name the one that `tickets study run` was given by --store.")
    chosen = commands.formats_of(formats, width, out)
    planned = _plan(study, scale, set_, where)
    result = report_study(planned, found, out, chosen, force=force, width=width)
    emit(result, as_json=as_json, show=report_text)


@study_app.command()
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file to write.")],
    recipe: Annotated[
        str | None, typer.Option("--from", metavar="RECIPE", help="Recipe that the study is a variant of.")
    ] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: commands.Json = False,
) -> None:
    """Write a commented study as a starting point.

    Example: tickets study new my-study.yaml

    Example: tickets study new my-figure.yaml --from tamt-figure-3
    """
    from winning_tickets.studies.text import template_text, write_template

    write_template(file, force=force, recipe=recipe)
    emit({"file": str(file)}, as_json=as_json, show=template_text)


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print this one, to change it.")] = None,
    *,
    as_json: commands.Json = False,
) -> None:
    """List the built-in studies, for the papers' tables and figures.

    Example: tickets recipes
    """
    from winning_tickets.studies.load import recipe_text
    from winning_tickets.studies.text import recipe_list, recipes_text

    if name is not None:
        text = recipe_text(name)
        return emit({"name": name, "yaml": text}, as_json=as_json, show=lambda _: text.rstrip())
    found = recipe_list()
    return emit({"recipes": found}, as_json=as_json, show=recipes_text)


def demo(
    out: commands.Out = Path("demo-out"),
    *,
    tiny: Annotated[bool, typer.Option("--tiny", hidden=True)] = False,
    device: commands.Device = "auto",
    quiet: commands.Quiet = False,
    as_json: commands.Json = False,
) -> None:
    """Run the main job on built-in data in a few minutes. It compares three tickets and the dense model."""
    from winning_tickets.studies.demo import REPORT, run_demo, table

    result = run_demo(out, Runtime.of(device=device, quiet=quiet), "smoke" if tiny else "small")
    emit(
        result, as_json=as_json, show=lambda found: f"{table(found).text()}\n\n" + printable(f"Report: {out / REPORT}")
    )
