"""Options that several verbs share, and the parsing of lists in options; no heavy imports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from winning_tickets.config import Settings, load_config_file
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.progress import check_trackers

AnySettings = TypeVar("AnySettings", bound=Settings)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Out = Annotated[Path, typer.Option("--out", help="Directory of the run: absent, empty, or holding this very run.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier run of ours in --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]


def _device(name: str) -> str:
    """Names that cannot be are refused before anything heavy is imported; what this machine has is seen later.

    Raises:
        UsageError: it is not the name of a device.
    """
    if name not in ("auto", "cpu", "cuda") and not name.startswith("cuda:"):
        raise UsageError(f"--device {name} is not a device; use auto, cpu or cuda.")
    return name


Device = Annotated[str, typer.Option("--device", callback=_device, help="auto, cpu or cuda.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="bfloat16 autocast; weights and scores stay float32.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the command line, print the plan, do nothing.")]
Config = Annotated[
    Path | None, typer.Option("--config", help="YAML or JSON file of configuration fields; options win over it.")
]
Revision = Annotated[str | None, typer.Option("--revision", help="Hub revision of the model.")]
Layers = Annotated[int | None, typer.Option("--layers", help="Keep only the first so many layers.")]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", help="Folder with GLUE data (CoLA/ ...), or a copy of the hub's repository.")
]
Base = Annotated[str | None, typer.Option("--base", help="Where a ticket's base model is now, if it has moved.")]
OtherWeights = Annotated[
    bool, typer.Option("--allow-other-weights", help="Use a ticket on weights it was not made for.")
]
StoreFolder = Annotated[
    Path, typer.Option("--store", envvar="WINNING_TICKETS_STORE", help="Folder of the store that holds the runs.")
]
DEFAULT_STORE = Path("tickets-store")
CheckpointSteps = Annotated[
    int | None,
    typer.Option("--checkpoint-steps", min=1, help="Steps between checkpoints; by default every two minutes."),
]
SmartWeight = Annotated[float | None, typer.Option("--smart", help="Weight of SMART, an adversarial regulariser.")]
NonFinite = Annotated[
    Literal["stop", "skip"],
    typer.Option("--non-finite", help="At a step whose loss or gradients are NaN or infinite: stop, or skip it."),
]
ReportTo = Annotated[
    str | None,
    typer.Option("--report-to", help="tensorboard, trackio, wandb, mlflow, or several; by default nothing is told."),
]

TaskFile = Annotated[str | None, typer.Option(help="YAML that defines --task, in MT-DNN's form.")]
TrainSize = Annotated[str | None, typer.Option(help="N examples or P% of the training set.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the training set.")]
Steps = Annotated[int | None, typer.Option(help="Optimiser steps, instead of epochs.")]
BatchSize = Annotated[int | None, typer.Option(help="Examples a step.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens an example is cut to.")]
EvalSteps = Annotated[int | None, typer.Option(help="Steps between evaluations.")]
WarmupRatio = Annotated[float | None, typer.Option(help="Fraction of the steps with linear warm-up.")]
WeightDecay = Annotated[float | None, typer.Option(help="Of matrices; biases and norms never decay.")]
HeadDropout = Annotated[float | None, typer.Option(help="Dropout before the head.")]
Patience = Annotated[int | None, typer.Option(help="Stop after so many evaluations without a better one.")]


def fields_of(file: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """Configuration fields: those of a `--config` file, then the options that were given on the command line."""
    return (load_config_file(file) if file else {}) | {key: value for key, value in given.items() if value is not None}


def settings_of(kind: type[AnySettings], file: Path | None, fields: dict[str, Any]) -> AnySettings:
    """The settings that fields make; a problem is told with the file that may have it.

    Raises:
        UsageError: one or more fields are unknown or have impossible values.
    """
    try:
        return kind.of(**fields)
    except UsageError as error:
        if file is None:
            raise
        raise UsageError(f"{error}\nFields that are no options of this command line come from {file}.") from error


def with_smart(fields: dict[str, Any], alpha: float | None) -> dict[str, Any]:
    """Configuration fields with the weight of SMART; its other settings may stand in the file."""
    if alpha is None:
        return fields
    others = fields.get("smart")
    return fields | {"smart": {**(others if isinstance(others, dict) else {}), "alpha": alpha}}


def split_words(text: str | None) -> tuple[str, ...] | None:
    """`a,b` -> ("a", "b")."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def trackers_of(text: str | None) -> tuple[str, ...]:
    """The trackers of `--report-to`; `none` is no tracker.

    Raises:
        UsageError: an unknown name, or a package that is not installed.
    """
    names = tuple(dict.fromkeys(name for name in split_words(text) or () if name != "none"))
    check_trackers(names)
    return names


def split_ints(option: str, text: str | None) -> tuple[int, ...] | None:
    """`1,2` -> (1, 2).

    Raises:
        UsageError: a part is not a whole number.
    """
    return _split(option, text, int, "whole numbers, such as 0,1,2")


def split_floats(option: str, text: str | None) -> tuple[float, ...] | None:
    """`0.5,0.6` -> (0.5, 0.6).

    Raises:
        UsageError: a part is not a number.
    """
    return _split(option, text, float, "numbers, such as 0.6")


def _split(option: str, text: str | None, kind: Callable[[str], Any], expected: str) -> tuple[Any, ...] | None:
    words = split_words(text)
    if words is None:
        return None
    try:
        parsed = tuple(kind(word) for word in words)
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is not a list of {expected}.") from error
    if not parsed:
        raise UsageError(f"{option} is empty; give {expected}.")
    return parsed
