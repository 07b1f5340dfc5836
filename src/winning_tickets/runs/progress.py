"""Progress on stderr: a bar with the time left on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.distributed import is_main
from winning_tickets.runs.errors import TrainingError, UsageError, unknown
from winning_tickets.runs.files import is_number

Advance = Callable[[int, str], None]


@contextmanager
def progress(title: str, total: int, quiet: bool) -> Iterator[Advance]:
    """Show how far a loop has come."""
    if quiet or total <= 0 or not is_main():
        yield lambda done, text: None
    elif sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
    else:
        yield _lines(title, total)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(title, total=total, text="")
        yield lambda done, text: bar.update(task, completed=done, text=text)


def _lines(title: str, total: int) -> Advance:
    """About ten lines for the whole loop, each with an estimate of the time left."""
    start = time.monotonic()
    first: list[int] = []
    every = max(1, total // 10)

    def advance(done: int, text: str) -> None:
        if not first:
            first.append(done)
        if done and (done % every == 0 or done == total):
            pace = (time.monotonic() - start) / max(1, done - first[0])
            left = f", {pace * (total - done):.0f} s left" if done < total else ""
            print(f"{title}: {done}/{total}{' ' + text if text else ''}{left}", file=sys.stderr, flush=True)  # noqa: T201

    return advance


PROJECT = "winning-tickets"
TENSORBOARD_FOLDER = "tensorboard"
TRACKERS: dict[str, dict[str, str]] = {
    "tensorboard": {},
    "trackio": {"GRADIO_ANALYTICS_ENABLED": "False"},
    "wandb": {"WANDB_PROJECT": PROJECT, "WANDB_ERROR_REPORTING": "false"},
    "mlflow": {"MLFLOW_EXPERIMENT_NAME": PROJECT, "MLFLOW_DISABLE_TELEMETRY": "true"},
}
"""Packages that take metrics, as the Trainer names them, and variables that are set where the user has not: the name
of the project where the Trainer passes none on, and no reports to the makers of the package."""
_SPLITS = {"evaluation": "eval", "rest": "test"}
"""Parts of our records that the Trainer's callbacks show under names of their own."""


def check_trackers(names: Sequence[str]) -> None:
    """Make sure that trackers exist and are installed."""
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        if find_spec(name) is None:
            raise UsageError(
                f"--report-to {name} needs the package {name}, which is not installed: pip install {name}, or all "
                "trackers with pip install 'winning-tickets[track]'."
            )


def hand_over(arguments: Any, names: Sequence[str]) -> None:
    """Tell a Trainer of the trackers, and of no others."""
    check_trackers(names)
    arguments.report_to = list(names)
    arguments.project = PROJECT
    arguments.trackio_static_space_id = False  # else a run that somebody shows in a Space is copied to a second one


@contextmanager
def tracked(trainer: Any, run: RunDirectory) -> Iterator[None]:
    """Report what a run logs to the trackers that its Trainer was told of; without any nothing happens."""
    names = list(trainer.args.report_to)
    if not names:
        yield
        return
    trainer.args.run_name = run.id
    for variable, value in (pair for name in names for pair in TRACKERS[name].items()):
        os.environ.setdefault(variable, value)
    callbacks = _callbacks(trainer, names)
    wandb = import_module("wandb") if "wandb" in names else None
    of_others = None if wandb is None else wandb.run
    run.watch = lambda record: trainer.callback_handler.on_log(
        trainer.args, trainer.state, trainer.control, scalars(record)
    )
    with redirect_stdout(sys.stderr):  # trackers print where they put things, and results go to stdout alone
        try:
            for name, callback in callbacks.items():
                _start(name, callback, trainer, run)
            yield
        except BaseException:
            for callback in callbacks.values():  # the Trainer does this only where a training comes to its end
                callback.on_train_end(trainer.args, trainer.state, trainer.control, model=trainer.model)
            raise
        finally:
            run.watch = None
            if wandb is not None and wandb.run is not of_others:
                wandb.finish()  # else the next seed would go on in this run


def _callbacks(trainer: Any, names: Sequence[str]) -> dict[str, Any]:
    """The Trainer's callbacks that speak to trackers, by name."""
    from transformers.integrations import get_reporting_integration_callbacks

    kinds = {name: get_reporting_integration_callbacks([name])[0] for name in names}
    every = trainer.callback_handler.callbacks
    return {name: next(one for one in every if isinstance(one, kind)) for name, kind in kinds.items()}


def _start(name: str, callback: Any, trainer: Any, run: RunDirectory) -> None:
    """Let a tracker begin its run now, as after this its errors would be taken for errors of the training."""
    if name == "tensorboard":
        asked = os.environ.get("TENSORBOARD_LOGGING_DIR")
        # The Trainer's own place is the scratch folder, which goes when the run is done.
        place = Path(asked).expanduser() / run.id if asked else run.path / TENSORBOARD_FOLDER
        callback.logging_dir = str(place)
    try:
        callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    except Exception as error:  # each tracker has its own kinds
        raise TrainingError(
            f"The tracker {name} did not start: {error or type(error).__name__}. Nothing was trained; set it up, or "
            "leave it out of --report-to."
        ) from error


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record, inner ones under names such as `eval_accuracy`, as the Trainer's callbacks expect."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= {f"{_SPLITS.get(key, key)}_{name}": number for name, number in scalars(value).items()}
        elif is_number(value) and key != "step":
            found[key] = value
    return found
