"""The configuration of tickets sharing: several tasks on one encoder, each with its ticket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from winning_tickets.config.profiles import Profile
from winning_tickets.config.settings import Count, Settings
from winning_tickets.config.structured import StructuredSettings, Unit
from winning_tickets.config.transfer import Smart, TransferConfig
from winning_tickets.runs.errors import UsageError, unknown

AUTO = "auto"
NONE = "none"
USUAL_LEVEL = 30.0
"""Percent of the heads and FFNs that the tickets of `auto` lose, where nothing else is asked for."""

_TUNED: dict[str, Any] = {
    "epochs": 5.0,
    "learning_rate": 5e-5,
    "optimizer": "adamw",
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "strict": True,
}
_PAPER = _TUNED | {"optimizer": "adamax-mtdnn"}
_CODE = _PAPER | {"strict": False}  # momentum and decay go on moving what the task of a batch did not select
_VALUES: dict[Profile, dict[str, Any]] = {"tuned": _TUNED, "paper": _PAPER, "code": _CODE}
_DROPOUT: dict[Profile, dict[str, float]] = {
    "paper": {"mnli": 0.3, "cola": 0.05},  # Super Tickets, appendix A
    "code": {"mnli": 0.2, "cola": 0.05},
}
_USUAL_DROPOUT = 0.1


class ShareConfig(Settings):
    """Tickets sharing (Super Tickets, section 4): one encoder for several tasks, once for each seed.

    Choices left None are those of the profile, sizes left None the task's own.

    Attributes:
        tasks: names of `data.tasks.TASKS`, or of tasks of `task_file`, each once.
        model: hub id, local folder or `builtin:minilm`; None takes the base model of the tickets.
        revision: hub revision of the model.
        layers: keep only the first so many layers.
        tickets: the folder of a ticket by task; a task without one uses the whole encoder. None is plain multi-task
            fine-tuning (MT-DNN), unless the task file names tickets; an empty mapping is so in any case. `auto` finds a
            ticket for each task: single-task fine-tuning, importance, `level`.
        level: of `auto`: percent of the heads and FFNs that a ticket loses, by task; 0 means no ticket.
        task_file: YAML with definitions of the tasks, in MT-DNN's form.
        data_dir: folder with the tasks' data.
        profile: where unset choices take their values from.
        seeds: one run each: initialisation of the heads, data order, dropout. Tickets of `auto` are of the first one.
        train_size: `N` examples or `P%` of each training set, nested and seeded.
        epochs: passes, as `mixing` counts them.
        steps: optimiser steps, instead of epochs.
        batch_size: examples a step.
        learning_rate: peak rate, decaying linearly to zero.
        optimizer: `adamw`, `adamax`, or `adamax-mtdnn` (without bias correction), as in the paper.
        warmup_ratio: fraction of the steps with linear warm-up.
        weight_decay: of the optimiser; biases and norms never decay.
        max_grad_norm: what gradients are clipped to.
        dropout_p: dropout before the head, by task; others have what their task file, the profile or the model says.
        mixing: whose batch is next, see `data.mixing.MixedBatches`; a step is one of a single task.
        main_task: of `ratio`: the main task; None takes the first one.
        ratio: of `ratio`: batches of all others together for each batch of the main task.
        max_length: tokens an example is cut to.
        strict: a step moves only what its task selected (Algorithm 1); False lets momentum and weight decay move the
            rest too, as the released program does.
        single_epochs: passes of each single-task fine-tuning, of `auto` and of `fine_tune`; None: the task's own.
        single_learning_rate: its peak rate; None takes that of sharing, as the paper has it for tickets.
        fine_tune: fine-tune the shared model on each task alone afterwards, with its ticket held.
        smart: adversarial regularisation of every training; None goes without.
        save_model: keep each seed's shared model.
        allow_other_weights: use tickets on weights they were not made for.
    """

    tasks: tuple[str, ...]
    model: str | None = None
    revision: str | None = None
    layers: Count | None = None
    tickets: Literal["auto"] | dict[str, str] | None = None
    level: dict[str, float] | None = None
    task_file: str | None = None
    data_dir: str | None = None
    profile: Profile = "tuned"
    seeds: tuple[int, ...] = (0,)
    train_size: str | None = None
    epochs: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    optimizer: Literal["adamw", "adamax", "adamax-mtdnn"] | None = None
    warmup_ratio: float | None = None
    weight_decay: float | None = None
    max_grad_norm: float = 1.0
    dropout_p: dict[str, float] | None = None
    mixing: Literal["proportional", "annealed", "ratio", "round-robin"] = "proportional"
    main_task: str | None = None
    ratio: float | None = None
    max_length: int | None = None
    strict: bool | None = None
    single_epochs: float | None = None
    single_learning_rate: float | None = None
    fine_tune: bool = False
    smart: Smart | None = None
    save_model: bool = True
    allow_other_weights: bool = False

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, values: Any) -> Any:
        """What stands for each task in turn, or after its name, is sorted by task.

        Raises:
            UsageError: two tasks of one name, more or fewer values than tasks, values for tasks that are not there.
        """
        if not isinstance(values, dict) or not isinstance(values.get("tasks"), str | list | tuple):
            return values
        tasks = tuple(map(str, _listed(values["tasks"])))
        values = values | {"tasks": tasks}
        repeated = [task for place, task in enumerate(tasks) if task in tasks[:place]]
        if repeated:
            raise UsageError(f"--tasks names {repeated[0]} twice; two tasks cannot have one name.")
        tickets = values.get("tickets")
        if tickets == NONE:
            values["tickets"] = {}
        elif tickets is not None and tickets != AUTO:
            folders = by_task("--tickets", tickets, tasks, "folder")
            values["tickets"] = {task: str(path) for task, path in folders.items() if str(path) != NONE}
        if values.get("level") is not None:
            levels = by_task("--level", values["level"], tasks, "level", one_for_all=True)
            values["level"] = {task: _without_percent_sign(level) for task, level in levels.items()}
        if values.get("dropout_p") is not None:
            values["dropout_p"] = by_task("--dropout-p", values["dropout_p"], tasks, "number", one_for_all=True) or None
        return values

    def resolved(self) -> ResolvedShare:
        """The same configuration with every open choice filled from its profile."""
        return self.filled(ResolvedShare, _VALUES[self.profile])

    def level_of(self, task: str) -> float:
        """Percent that the ticket of a task loses under `auto`."""
        return USUAL_LEVEL if self.level is None else self.level[task]

    def dropout_of(self, task: str, own: float | None) -> float | None:
        """Dropout before the head of a task; None leaves it as the model has it.

        Args:
            task: its name.
            own: what its task file says.
        """
        given = (self.dropout_p or {}).get(task, own)
        if given is not None or self.profile == "tuned":
            return given
        return _DROPOUT[self.profile].get(task, _USUAL_DROPOUT)


class ResolvedShare(ShareConfig):
    """A sharing whose open choices have the values of its profile."""

    if TYPE_CHECKING:
        epochs: float
        learning_rate: float
        optimizer: Literal["adamw", "adamax", "adamax-mtdnn"]
        warmup_ratio: float
        weight_decay: float
        strict: bool


def by_task(option: str, value: Any, tasks: Sequence[str], what: str, one_for_all: bool = False) -> dict[str, Any]:
    """Values by task, however they were written.

    Args:
        option: its name in messages.
        value: a mapping; `a,b`, in the order of the tasks, or a list of them; or `rte=a,mrpc=b`, for some tasks.
        tasks: all tasks.
        what: one of the values.
        one_for_all: a single value stands for all tasks.

    Raises:
        UsageError: another number of values than of tasks, a task that is not there, or that comes twice.
    """
    found = list(value.items()) if isinstance(value, Mapping) else [_named(part) for part in _listed(value)]
    named = [(task, part) for task, part in found if task is not None]
    if not named and one_for_all and len(found) == 1:
        return dict.fromkeys(tasks, found[0][1])
    if not named and len(found) == len(tasks):
        return {task: part for task, (_, part) in zip(tasks, found, strict=True)}
    if len(named) < len(found):
        raise UsageError(
            f"{option} gives {len(found)} {what}(s) for {len(tasks)} tasks ({', '.join(tasks)}); give one for each, in "
            f"their order, or by name: {next(iter(tasks), 'rte')}={what.upper()},..."
        )
    values: dict[str, Any] = {}
    for task, part in named:
        if task not in tasks:
            raise unknown("task", str(task), tasks, f"It stands in {option}; the tasks are those of --tasks.")
        if task in values:
            raise UsageError(f"{option} names {task} twice; give it one {what}.")
        values[task] = part
    return values


def _listed(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    return [part.strip() for part in str(value).split(",") if part.strip()]


def _named(part: Any) -> tuple[str | None, Any]:
    """`rte=DIR` -> ("rte", "DIR"); a path may have a = of its own, behind a slash."""
    name, sign, rest = str(part).partition("=")
    return (name.strip(), rest.strip()) if sign and "/" not in name else (None, part)


def _without_percent_sign(level: Any) -> Any:
    return level.strip().removesuffix("%") if isinstance(level, str) else level


Selection = Literal["winning", "random", "losing"]
SELECTIONS: tuple[Selection, ...] = ("winning", "random", "losing")
LEVELS = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)
"""The eight levels of the paper's figures."""

# Super Tickets, section 5.2 and appendix A.1.2; weight decay is that of the program.
_SUPER_PAPER: dict[str, Any] = {
    "learning_rates": (5e-5, 1e-4, 2e-4),
    "batch_sizes": (8, 16, 32),
    "optimizer": "adamax-mtdnn",
    "epochs": 6.0,
    "patience": 1,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "max_length": 512,
}
_SUPER_DROPOUT = {"mnli": 0.3, "cola": 0.05}
_PAPER_DROPOUT = 0.1
_SELECT_ON = 0.1
_SUPER_TUNED: dict[str, Any] = {"learning_rates": (), "batch_sizes": ()}


class SuperConfig(Settings):
    """Which ticket of heads and FFNs is best for a task (Super Tickets, sections 3 and 5).

    Attributes:
        fine_tuning: how the full model and every ticket are fine-tuned; its target is the model. `select_on` is the
            part of the dev set on which settings, the best evaluation and the super ticket are chosen.
        level: percent of the units that tickets lose.
        units: which units a level prunes.
        selections: what is fine-tuned: tickets without what matters least, without any, without what matters most.
        importance: where absolute values of gradients are taken; None takes the profile's.
        importance_train_size: `N` examples or `P%` that importances are taken from; None means all.
        importance_from: a transfer that was run with `--save-model`; None fine-tunes one.
        min_heads_per_layer: heads that every layer keeps; None takes the profile's.
        learning_rates: peak rates that are tried; empty means that of `fine_tuning`.
        batch_sizes: batch sizes that are tried; empty means that of `fine_tuning`.
        profile: where unset choices take their values from; `paper` also tries its grid of nine settings.
    """

    fine_tuning: TransferConfig
    level: tuple[float, ...] = LEVELS
    units: tuple[Unit, ...] = ("heads", "ffns")
    selections: tuple[Selection, ...] = SELECTIONS
    importance: Literal["sample", "token", "batch", "released"] | None = None
    importance_train_size: str | None = None
    importance_from: str | None = None
    min_heads_per_layer: int | None = Field(default=None, ge=0)
    learning_rates: tuple[float, ...] | None = None
    batch_sizes: tuple[int, ...] | None = None
    profile: Profile = "tuned"

    _percent = field_validator("level", mode="before")(StructuredSettings._without_percent_signs.__func__)  # type: ignore[attr-defined]
    _sorted = field_validator("level")(StructuredSettings._ascending.__func__)  # type: ignore[attr-defined]

    @field_validator("selections")
    @classmethod
    def _in_one_order(cls, value: tuple[Selection, ...]) -> tuple[Selection, ...]:
        return tuple(selection for selection in SELECTIONS if selection in value)

    def resolved(self) -> SuperConfig:
        """The same configuration with every open choice filled from its profile; what was set stays."""
        values = dict(_SUPER_PAPER if self.profile in ("paper", "code") else _SUPER_TUNED)
        if self.profile in ("paper", "code"):
            values["head_dropout"] = _SUPER_DROPOUT.get(str(self.fine_tuning.task), _PAPER_DROPOUT)
        own = {name: values.pop(name) for name in ("learning_rates", "batch_sizes") if name in values}
        own = {name: value for name, value in own.items() if getattr(self, name) is None}
        given = self.fine_tuning.model_fields_set | ({"epochs"} if self.fine_tuning.steps is not None else set())
        open_ = {name: value for name, value in ({"select_on": _SELECT_ON} | values).items() if name not in given}
        return self.model_copy(update=own | {"fine_tuning": self.fine_tuning.model_copy(update=open_)})

    def grid(self) -> Iterator[tuple[str, TransferConfig]]:
        """The settings that are tried: a folder's name and the fine-tuning, of a resolved configuration."""
        rates = self.learning_rates or (None,)
        sizes = self.batch_sizes or (None,)
        for rate, size in product(rates, sizes):
            values = {"learning_rate": rate, "batch_size": size}
            chosen = {name: value for name, value in values.items() if value is not None}
            name = "_".join(f"{word}-{value:g}" for word, value in (("lr", rate), ("batch", size)) if value is not None)
            yield name or "task-settings", self.fine_tuning.model_copy(update=chosen)
