"""The application, the options that are generated from settings, and the commands that take settings."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from winning_tickets import __version__
from winning_tickets.cli import plans, show
from winning_tickets.cli.help import HELP_ALL, RUNNING, Verb, show_help
from winning_tickets.cli.options import FieldPath, annotated, is_everyday, leaves, methods_of, parsed, split_words
from winning_tickets.cli.plan import Plan
from winning_tickets.config import (
    EvaluateConfig,
    FitHeadConfig,
    Runtime,
    SearchConfig,
    Settings,
    ShareConfig,
    ShrinkConfig,
    SuperConfig,
    TransferConfig,
    load_config_file,
)
from winning_tickets.config.share import SELECT_ON
from winning_tickets.data.names import misnamed
from winning_tickets.report.files import FORMATS, check_formats
from winning_tickets.runs import distributed
from winning_tickets.runs.ambient import neutral_if_loaded
from winning_tickets.runs.directory import trusting
from winning_tickets.runs.errors import UsageError, problems_of, refuse
from winning_tickets.runs.escapes import escaped, json_text, printable_lines
from winning_tickets.runs.files import check_working_directory
from winning_tickets.runs.messages import hush
from winning_tickets.runs.progress import check_trackers

app = typer.Typer(
    name="tickets",
    help="Find winning tickets in pre-trained language models, see what they preserve, use them and export them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - as Typer calls it
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


TOGETHER = ("search", "transfer", "share", "super", "fit-head")
"""Commands that several processes run together; the main process alone runs the others."""


@app.callback()
def _options(
    context: typer.Context,
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""
    check_working_directory()
    if context.invoked_subcommand not in TOGETHER and not distributed.continues_alone():
        raise typer.Exit
    context.with_resource(neutral_if_loaded())  # until the command ends


Show = Callable[[dict[str, Any]], str]  # makes the text that is printed without `--json` from a result


def emit(result: dict[str, Any], *, as_json: bool, show: Show) -> None:
    """Print a result as JSON, or as the text that `show` makes of it; nothing else writes to stdout."""
    # The line breaks of the text are those of `show`, as the strings of the result have none any more.
    typer.echo(json_text(result) if as_json else printable_lines(show(escaped(result))))


_running = partial(typer.Option, rich_help_panel=RUNNING)
Json = Annotated[bool, _running("--json", help="Print one JSON object.")]
Out = Annotated[Path, _running("--out", help="Folder of the run: new, empty, or with this same run, which is resumed.")]
Force = Annotated[bool, _running("--force", help="Replace an earlier run of tickets in --out.")]
Kept = Annotated[Path | None, _running("--out", help="New or empty folder to keep the result in, as a run.")]
DryRun = Annotated[
    bool, _running("--dry-run", help="Check command line and files, print what would run, but do nothing.")
]
AnalysisOut = Annotated[
    Path | None, typer.Option("--out", help="Folder for analysis.json, its tables and its figure; absent or empty.")
]
ReplaceAnalysis = Annotated[bool, typer.Option("--force", help="Replace another analysis in --out.")]
Labels = Annotated[
    str | None, typer.Option("--labels", help="Names of the paths, with commas. By default their folders.")
]
Formats = Annotated[
    str | None,
    typer.Option("--formats", help=f"Formats of the files in --out, of {','.join(FORMATS)}. By default all of them."),
]
Width = Annotated[
    float | None,
    typer.Option(
        "--width",
        min=4,
        max=100,
        help="Width of figures in print, in centimeters, such as 8 for a column or 16 for a page; text is 8 points.",
    ),
]
Config = Annotated[Path | None, _running("--config", help="YAML or JSON file of settings. Options override it.")]
Device = Annotated[str, _running("--device", help=Runtime.help_of("device"))]
Bf16 = Annotated[bool, _running("--bf16", help=Runtime.help_of("bf16"))]


def _hush(value: bool) -> bool:  # noqa: FBT001 - as Typer calls it
    if value:
        hush()
    return value


Quiet = Annotated[bool, _running("--quiet", callback=_hush, help=Runtime.help_of("quiet"))]
CheckpointSteps = Annotated[int | None, _running("--checkpoint-steps", min=1, help=Runtime.help_of("checkpoint_steps"))]
NonFinite = Annotated[Literal["stop", "skip"], _running("--non-finite", help=Runtime.help_of("non_finite"))]
ReportTo = Annotated[str | None, _running("--report-to", help=Runtime.help_of("report_to"))]


def _trust(context: typer.Context, value: bool) -> bool:  # noqa: FBT001 - as Typer calls it
    context.with_resource(trusting(remote_code=value))  # until the command ends
    return value


HelpAll = Annotated[bool, _running(HELP_ALL, callback=show_help, is_eager=True, help="Show all options and exit.")]
TrustRemoteCode = Annotated[
    bool, _running("--trust-remote-code", callback=_trust, help=Runtime.help_of("trust_remote_code"))
]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", help="Folder with GLUE data (CoLA/ ...), or a copy of the hub's repository.")
]
Base = Annotated[str | None, typer.Option("--base", help="Base model of a ticket, if it has moved.")]
StoreFolder = Annotated[
    Path, typer.Option("--store", envvar="WINNING_TICKETS_STORE", help="Folder of the store that holds the runs.")
]
DEFAULT_STORE = Path("tickets-store")


def formats_of(text: str | None, width: float | None = None, out: Path | None = None) -> tuple[str, ...]:
    """Return the formats that `--formats` names, by default all; it and `--width` are about the files in `--out`."""
    if out is None and (text is not None or width is not None):
        raise UsageError(f"{'--formats' if text is not None else '--width'} needs --out, the folder for the files.")
    formats = FORMATS if text is None else tuple(split_words(text) or ())
    check_formats(formats)
    return formats


Printed = tuple[dict[str, Any], Show]
EVERYDAY = ("out", "force", "config", "dry_run", "as_json", "help_all")
NOT_SHARDED = tuple(field for field in Runtime.model_fields if field != "shard")
NOT_COMPILED = tuple(field for field in NOT_SHARDED if field != "torch_compile")


def verb(
    name: str,
    settings: type[Settings],  # the class of the first argument of the function
    argument: str,  # the field that is an argument; empty where there is none
    check: str,  # module and function that refuse impossible settings, for `--dry-run`
    *,
    metavar: str = "MODEL",  # of the argument
    meaning: str | None = None,  # the help of the argument, if its field has another meaning here
    inline: str = "",  # a field that has settings of its own, whose options have no prefix
    without: Iterable[str] = (),  # fields without options, because other fields set them
    defaults: Mapping[str, Any] | None = None,  # of fields that neither options nor a file give
    runtime: Iterable[str] = NOT_SHARDED,  # fields of `Runtime` that are options
    out: Any = Out,  # the kind of the option `--out`
    plan: Callable[[Any, Runtime], Plan],  # what `--dry-run` prints
) -> Callable[[Callable[..., Printed]], Callable[..., None]]:
    """Register a function as a command whose options are the fields of its settings."""
    paths: dict[str, list[tuple[FieldPath, type[Settings]]]] = {}
    types: dict[str, Any] = {}
    readers: dict[str, tuple[str, ...]] = {}
    everyday = {argument, *EVERYDAY}
    for key, path, cls, options in leaves(settings, inline):
        if key in without or not options:
            continue
        default: Any = defaults
        for part in path:
            default = default.get(part) if isinstance(default, Mapping) else None
        paths.setdefault(key, []).append((path, cls))
        argued = {"metavar": metavar, "meaning": meaning} if key == argument else {}
        types.setdefault(key, annotated(cls, path[-1], options, default, **argued))
        readers.setdefault(key, methods_of(cls, path[-1]))
        everyday |= {key} if is_everyday(cls, path[-1]) else set()
    types = {key: types[key] for key in sorted(types, key=lambda key: key != argument)}
    types |= {key: annotated(Runtime, key, Runtime.options_of(key)) for key in runtime}
    everyday |= {key for key in runtime if is_everyday(Runtime, key)}
    types |= {"out": out, "force": Force, "config": Config, "dry_run": DryRun, "as_json": Json, "help_all": HelpAll}

    def register(function: Callable[..., Printed]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            given = {key: value for key, value in given.items() if value is not None and value != []}
            options: dict[str, Any] = {}
            for key in paths.keys() & given.keys():
                for path, cls in paths[key]:
                    inner = options
                    for part in path[:-1]:
                        inner = inner.setdefault(part, {})
                    inner[path[-1]] = parsed(cls, path[-1], given[key])
            chosen = checked_settings(settings, given.get("config"), options, defaults, inline=inline)
            how = {key: given[key] for key in runtime if key in given}
            execution = Runtime.of(**how | {"report_to": trackers_of(how.get("report_to"))})
            if execution.quiet:
                hush()
            # Names are checked before torch is imported, which takes seconds.
            refuse(misnamed(chosen))
            folder, as_json = given.get("out"), given["as_json"]
            if given["dry_run"]:
                check_all(chosen, execution, check)
                with trusting(remote_code=execution.trust_remote_code):
                    planned = plan(chosen, execution)
                return emit(planned.as_json(folder), as_json=as_json, show=lambda _: planned.text(name))
            with trusting(remote_code=execution.trust_remote_code):
                result, text_of = function(chosen, folder, execution, force=given["force"])
            return emit(result, as_json=as_json, show=text_of)

        _sign(run, function, types, required=(argument, "out") if out is Out else (argument,))
        app.command(name, cls=type("SettingsVerb", (Verb,), {"readers": readers, "rare": frozenset(types) - everyday}))(
            run
        )
        return run

    return register


_FLAGS = ("force", "dry_run", "as_json", "help_all")


def _sign(run: Any, function: Any, types: Mapping[str, Any], required: Iterable[str]) -> None:
    """Give a function the name and help of another, and keyword parameters of these types, as Typer reads them."""
    defaults: dict[str, Any] = {**dict.fromkeys(types), **dict.fromkeys(_FLAGS, False)}
    defaults |= dict.fromkeys(required, inspect.Parameter.empty)
    run.__name__, run.__doc__, run.__annotations__ = function.__name__, function.__doc__, types
    run.__signature__ = inspect.Signature(
        [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=defaults[key], annotation=kind)
            for key, kind in types.items()
        ]
    )


def small_verb(
    group: typer.Typer,
    name: str,
    settings: type[Settings],  # the class of the first argument of the function
    *,
    runtime: Iterable[str] = ("trust_remote_code",),  # fields of `Runtime` that are options
    writes: bool = False,  # whether there is a folder `--out`, and `--force`
    plan: Callable[[Any], dict[str, Any]] | None = None,  # what `--dry-run` checks and prints
    **arguments: str,  # the metavar of each field that is an argument
) -> Callable[[Callable[..., Printed]], Callable[..., None]]:
    """Register a function as a command whose options are the fields of its settings, without `--config`."""
    types = {field: annotated(settings, field, "", metavar=metavar) for field, metavar in arguments.items()}
    others = [field for field in settings.model_fields if settings.options_of(field)]
    types |= {field: annotated(settings, field, settings.options_of(field)) for field in others}
    types |= {field: annotated(Runtime, field, Runtime.options_of(field)) for field in runtime}
    types |= {"out": Out, "force": Force} if writes else {}
    types |= ({} if plan is None else {"dry_run": DryRun}) | {"as_json": Json}

    def register(function: Callable[..., Printed]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            given = {key: value for key, value in given.items() if value is not None}
            values = {key: given[key] for key in (*arguments, *others) if key in given}
            config = settings.of(
                **{key: value if key in arguments else parsed(settings, key, value) for key, value in values.items()}
            )
            execution = Runtime.of(**{key: given[key] for key in runtime if key in given})
            if execution.quiet:
                hush()
            out, as_json = given.get("out"), given["as_json"]
            with trusting(remote_code=execution.trust_remote_code):
                if plan is not None and given["dry_run"]:
                    planned = {"plan": plan(config), "out": None if out is None else str(out)}
                    words = f"Would write {out}" if writes else f"Would {name} {config.target}"  # type: ignore[attr-defined]
                    return emit(planned, as_json=as_json, show=lambda _: words)
                how = {"out": out, "force": given["force"]} if writes else {"runtime": execution}
                result, text_of = function(config, **how)
            return emit(result, as_json=as_json, show=text_of)

        required = [field for field in others if settings.model_fields[field].is_required()]
        _sign(run, function, types, required=("out", *arguments, *required))
        group.command(name)(run)
        return run

    return register


def check_all(settings: Settings, runtime: Runtime, check: str) -> None:
    """Refuse settings with problems: those that the checks of the command and of SMART find, all at once."""
    from winning_tickets.training.objectives.smart import check_precision

    checks = [partial(resolve_name(check), settings)]
    if getattr(getattr(settings, "fine_tuning", settings), "smart", None) is not None:
        checks.append(partial(check_precision, runtime))
    refuse(problems_of(*checks))


def checked_settings(
    kind: type[Settings], file: Path | None, options: dict[str, Any], defaults: Any, *, inline: str
) -> Settings:
    """Return the settings of a command; if values are out of range, problems of the other values are reported too."""
    try:
        return settings_of(kind, file, options, defaults, inline=inline)
    except UsageError as error:
        problems, cause = error.lines, error.__cause__
        cause = cause.__cause__ if isinstance(cause, UsageError) else cause
        found = cause.errors() if isinstance(cause, ValidationError) else []
        wrong = {str(item["loc"][0]) for item in found if item["loc"]}
        others = {field: value for field, value in options.items() if field not in wrong}
        try:
            rest = settings_of(kind, file, others, defaults, inline=inline)
        except UsageError:
            raise error from None
        names = [fields[field][0].option_of(field) for field in wrong if field in (fields := kind.all_fields())]
        # A problem that names a refused option is left out: it may come from the option's absence here. Checks that
        # need torch are left out too.
        more = [*misnamed(rest, with_files=False), *(rest.problems() if isinstance(rest, SearchConfig) else ())]
        problems += [line for line in more if not any(name in line for name in names)]
        raise UsageError(*dict.fromkeys(problems)) from None


def settings_of(
    kind: type[Settings],
    file: Path | None,
    options: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    *,
    inline: str = "",
) -> Settings:
    """Return settings from a `--config` file and from options, which win; a problem is reported with the file."""
    stored = load_config_file(file) if file else {}
    if inline and not isinstance(stored.get(inline, {}), dict):
        raise UsageError(
            f"{inline} in {file} must be a mapping of fields such as 'task: rte', found {stored[inline]!r}."
        )
    fields = merged(merged(defaults or {}, stored), options)
    try:
        part = kind.part_of(inline) if inline else None
        return kind.of(**fields | ({} if part is None else {inline: part.of(**fields[inline])}))
    except UsageError as error:
        if file is None:
            raise
        raise UsageError(*error.lines, f"Fields that are not on the command line come from {file}.") from error


def merged(fields: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Merge fields with others, which win, also inside parts such as `smart`."""
    inner = {
        field: merged(fields[field], value)
        for field, value in others.items()
        if isinstance(value, dict) and isinstance(fields.get(field), dict)
    }
    return {**fields, **others, **inner}


def trackers_of(text: str | None) -> tuple[str, ...]:
    """Return the trackers of `--report-to`, which must be installed; the name `none` is ignored."""
    names = tuple(dict.fromkeys(name for name in split_words(text) or () if name != "none"))
    check_trackers(names)
    return names


@verb(
    "search",
    SearchConfig,
    "model",
    "winning_tickets.pruning.search:check_search",
    runtime=tuple(Runtime.model_fields),
    plan=plans.plan_search,
)
def search(config: SearchConfig, out: Path, runtime: Runtime, *, force: bool) -> Printed:
    """Find a ticket and save it in --out. With --method NAME, --help shows what that method reads.

    Example: tickets search builtin:minilm --method mask-training --objective kd --sparsity 0.6 --corpus pydocs
    --steps 60 --out my-ticket
    """
    from winning_tickets.pruning.search import search_all

    tickets = search_all(config, out, runtime, force=force)
    result = json.loads((out / "result.json").read_text(encoding="utf-8")) | {"out": str(out)}
    return result, partial(show.search, tickets=list(map(str, tickets.values())))


@verb(
    "evaluate",
    EvaluateConfig,
    "target",
    "winning_tickets.evaluation.evaluate:check_evaluate",
    metavar="MODEL_OR_TICKET",
    runtime=("device", "bf16", "quiet", "trust_remote_code"),
    out=Kept,
    plan=plans.plan_evaluate,
)
def evaluate(config: EvaluateConfig, out: Path | None, runtime: Runtime, *, force: bool) -> Printed:
    """Measure what a model or ticket preserves, without fine-tuning.

    Example: tickets evaluate my-ticket --objective kd --corpus pydocs --json
    """
    from winning_tickets.evaluation.evaluate import evaluate as measure

    return measure(config, runtime, out, force=force), show.evaluation


@verb(
    "fit-head",
    FitHeadConfig,
    "model",
    "winning_tickets.finetuning.fit_head:check_fit_head",
    plan=plans.plan_fit_head,
)
def fit_head(config: FitHeadConfig, out: Path, runtime: Runtime, *, force: bool) -> Printed:
    """Train an MLM head for a model that has none. Both are saved as an ordinary ForMaskedLM folder.

    Example: tickets fit-head builtin:minilm --corpus pydocs --steps 200 --out minilm-mlm
    """
    from winning_tickets.finetuning.fit_head import fit_head as fit

    result = fit(config, out, runtime, force=force) | {"out": str(out)}
    return result, show.fitted_head


@verb(
    "transfer",
    TransferConfig,
    "target",
    "winning_tickets.finetuning.setup:check_transfer",
    metavar="MODEL_OR_TICKET_OR_RUN",
    plan=plans.plan_transfer,
)
def transfer(config: TransferConfig, out: Path, runtime: Runtime, *, force: bool) -> Printed:
    """Fine-tune a model or ticket on a task, once for each seed. The metrics are stored.

    Example: tickets transfer my-ticket --task pydocs --seeds 0,1 --out my-transfer --json

    Example: tickets transfer my-transfer --train-file a.csv --validation-file b.csv --train-size 10% --out adapted
    """
    from winning_tickets.finetuning.transfer import transfer as fine_tune

    result = fine_tune(config, out, runtime, force=force)
    return result, partial(show.transfer, out=out)


@verb(
    "share",
    ShareConfig,
    "",
    "winning_tickets.finetuning.sharing_setup:check_sharing",
    defaults={"tasks": ()},
    runtime=NOT_COMPILED,
    plan=plans.plan_share,
)
def share(config: ShareConfig, out: Path, runtime: Runtime, *, force: bool) -> Printed:
    """Train one encoder for several tasks, each with its ticket. Without tickets that is MT-DNN.

    Example: tickets share --model builtin:minilm --tasks rte,mrpc --tickets auto --data-dir glue --out shared

    Example: tickets share --tasks rte,mrpc --tickets rte-ticket,mrpc-ticket --data-dir glue --out shared --json
    """
    from winning_tickets.finetuning.sharing import share as share_model

    result = share_model(config, out, runtime, force=force)
    return result, partial(show.sharing, out=out)


@verb(
    "super",
    SuperConfig,
    "target",
    "winning_tickets.finetuning.super_ticket:check_super_ticket",
    meaning="Hub id, local folder or builtin:minilm.",
    inline="fine_tuning",
    without=("learning_rate", "batch_size", "settings_from"),
    defaults={"fine_tuning": {"seeds": (0, 1, 2), "select_on": SELECT_ON}},
    plan=plans.plan_super,
)
def super_ticket(config: SuperConfig, out: Path, runtime: Runtime, *, force: bool) -> Printed:
    """Find a task's super ticket: the level of heads and FFNs that wins.

    Tickets of every level and the full model are fine-tuned, and the best is named.

    Example: tickets super builtin:minilm --task rte --data-dir glue --seeds 0,1,2 --out rte-super
    """
    from winning_tickets.finetuning.super_ticket import super_ticket as find

    result = find(config.resolved(), out, runtime, force=force)
    return result, partial(show.super_ticket, out=out)


@verb(
    "shrink",
    ShrinkConfig,
    "model",
    "winning_tickets.finetuning.shrink:check_shrink",
    metavar="MODEL_OR_RUN",
    plan=plans.plan_shrink,
    runtime=NOT_COMPILED,
)
def shrink(config: ShrinkConfig, out: Path, runtime: Runtime, *, force: bool) -> Printed:
    """Make a model faster by removing heads, neurons and layers. The rest learns from the dense model.

    Example: tickets shrink builtin:minilm --speedup 2 --corpus pydocs --steps 300 --out fast
    """
    from winning_tickets.finetuning.shrink import shrink as make_faster
    from winning_tickets.report.shrink import as_text

    result = make_faster(config, out, runtime, force=force) | {"out": str(out)}
    return result, as_text
