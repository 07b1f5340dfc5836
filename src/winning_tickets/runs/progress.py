"""Progress on stderr, and metrics for trackers such as TensorBoard."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.distributed import hidden_launch, is_main
from winning_tickets.runs.errors import TrainingError, UsageError, unknown
from winning_tickets.runs.escapes import printable
from winning_tickets.runs.files import is_number

logger = logging.getLogger(__name__)

Advance = Callable[[int, str], None]


@contextmanager
def progress(title: str, total: int, *, quiet: bool) -> Iterator[Advance]:
    """Yield a function that shows progress, given the number of steps done and a short text, such as the loss.

    The function moves a bar on a terminal and in a notebook, and logs about ten lines elsewhere.
    """
    if quiet or total <= 0 or not is_main():
        yield lambda done, text: None
    elif sys.stderr.isatty() or _in_notebook():
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=printable(title), file=sys.stderr) as bar:

            def advance(done: int, text: str) -> None:
                bar.set_postfix_str(printable(text), refresh=False)
                if bar.n == 0:
                    bar.initial = done  # steps of an earlier attempt do not count for the time left
                bar.update(done - bar.n)

            yield advance
    else:
        yield _lines(title, total)


def _in_notebook() -> bool:
    ipython: Any = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _lines(title: str, total: int) -> Advance:
    """Log about ten lines for the whole loop, each with an estimate of the time left."""
    start = time.monotonic()
    first: list[int] = []
    every = max(1, total // 10)

    def advance(done: int, text: str) -> None:
        if not first:
            first.append(done)
        if done and (done % every == 0 or done == total):
            pace = (time.monotonic() - start) / max(1, done - first[0])
            left = f", {pace * (total - done):.0f} s left" if done < total else ""
            logger.info("%s: %d/%d%s%s", title, done, total, f" {text}" if text else "", left)

    return advance


PROJECT = "winning-tickets"
TENSORBOARD_FOLDER = "tensorboard"
ENVIRONMENT: dict[str, dict[str, str]] = {
    "trackio": {"GRADIO_ANALYTICS_ENABLED": "False"},
    "wandb": {"WANDB_PROJECT": PROJECT, "WANDB_ERROR_REPORTING": "false"},
    "mlflow": {"MLFLOW_EXPERIMENT_NAME": PROJECT, "MLFLOW_DISABLE_TELEMETRY": "true"},
    "comet_ml": {"COMET_PROJECT_NAME": PROJECT},
    "clearml": {"CLEARML_PROJECT": PROJECT},
    "swanlab": {"SWANLAB_PROJECT": PROJECT},
}
"""By tracker: environment variables that are set unless the user has set them (project name, no telemetry)."""
_SPLITS = {"evaluation": "eval", "rest": "test"}  # names that the Trainer's callbacks use for parts of our records


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that the installed transformers does not know, or that are not installed."""
    if not names:
        return
    from transformers.integrations import INTEGRATION_TO_CALLBACK

    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise unknown("tracker", name, INTEGRATION_TO_CALLBACK)
        if find_spec(name) is None:  # some packages have another name than their tracker
            _make_callback(name)


def _make_callback(name: str) -> Any:
    """Return the callback of transformers for a tracker."""
    from transformers.integrations import INTEGRATION_TO_CALLBACK

    try:
        return INTEGRATION_TO_CALLBACK[name]()
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"--report-to {name}: {str(error).rstrip('.')}. pip install 'winning-tickets[track]' installs mlflow, "
            "tensorboard, trackio and wandb."
        ) from error


@contextmanager
def tracked(run: RunDirectory, names: Sequence[str], model: Any, settings: Mapping[str, Any]) -> Iterator[None]:
    """Forward the metrics that a run logs to trackers, which show `settings` (fields of `TrainingArguments`) too."""
    if not names:
        yield
        return
    from transformers import TrainerControl, TrainerState, TrainingArguments

    check_trackers(names)
    for variable, value in (pair for name in names for pair in ENVIRONMENT.get(name, {}).items()):
        os.environ.setdefault(variable, value)
    # The callbacks of transformers are used without its Trainer; a wandb run that the user opened stays open.
    with hidden_launch():
        arguments = TrainingArguments(
            output_dir=str(run.scratch), run_name=run.id, project=PROJECT, report_to="none", **settings
        )
    arguments.report_to = list(names)
    arguments.trackio_static_space_id = False  # do not copy a run that is shown in a Space
    state, control = TrainerState(), TrainerControl()
    began = time.monotonic()
    state.max_steps = int(settings.get("max_steps") or 0)
    callbacks = {name: _make_callback(name) for name in names}
    wandb = import_module("wandb") if "wandb" in names else None
    earlier = None if wandb is None else wandb.run

    def tell(record: Mapping[str, Any]) -> None:
        state.global_step = record["step"]
        send("on_log", logs=scalars(record))

    def send(event: str, **about: Any) -> None:
        for name, callback in list(callbacks.items()):
            try:
                getattr(callback, event)(arguments, state, control, model=model, **about)
            except Exception as error:  # each tracker raises its own types, and none concerns the training
                del callbacks[name]
                reason = str(error).strip().split("\n")[0] or type(error).__name__
                logger.warning(
                    "the tracker %s failed at step %d and gets nothing more: %s", name, state.global_step, reason
                )

    run.watch = tell
    with redirect_stdout(sys.stderr):  # trackers print, and stdout is for results
        try:
            for name, callback in callbacks.items():
                if name == "tensorboard":
                    callback.logging_dir = str(_tensorboard_folder(run))
                for begin in (callback.on_init_end, callback.on_train_begin):
                    _start(name, partial(begin, arguments, state, control, model=model))
            yield
            tell({"step": state.global_step, "train_runtime": time.monotonic() - began})
        finally:
            run.watch = None
            send("on_train_end")
            if wandb is not None and wandb.run is not earlier:
                wandb.finish()  # otherwise the next seed would continue this run


def _tensorboard_folder(run: RunDirectory) -> Path:
    # The callback's own default is the scratch folder, which is removed at the end of the run.
    asked = os.environ.get("TENSORBOARD_LOGGING_DIR")
    return Path(asked).expanduser() / run.id if asked else run.path / TENSORBOARD_FOLDER


def _start(name: str, begin: Callable[[], object]) -> None:
    """Start a tracker before the training, so that its errors are not taken for errors of the training."""
    try:
        begin()
    except Exception as error:  # each tracker raises its own types
        raise TrainingError(
            f"The tracker {name} did not start: {error or type(error).__name__}. Nothing was trained; set it up, or "
            "leave it out of --report-to."
        ) from error


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record under flat names such as `eval_accuracy`, without the step."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= {f"{_SPLITS.get(key, key)}_{name}": number for name, number in scalars(value).items()}
        elif is_number(value) and key != "step":
            found[key] = value
    return found
