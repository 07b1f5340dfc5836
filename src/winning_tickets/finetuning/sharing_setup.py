"""What tickets sharing starts from: settings checked, the tasks' data, the tickets, the plan of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from winning_tickets.config import AUTO, Runtime, ShareConfig, TransferConfig
from winning_tickets.data.encode import EncodedSplit, train_subset
from winning_tickets.data.mixing import epoch_steps
from winning_tickets.data.records import Split, Task, TaskData
from winning_tickets.data.task_files import load_definitions
from winning_tickets.finetuning.evaluation_plan import DevPart, EvaluationPlan
from winning_tickets.finetuning.setup import check as check_single
from winning_tickets.finetuning.setup import digest_of
from winning_tickets.models.heads import text_length, window_stride
from winning_tickets.models.loading import PLM, base_hash, choose_device, weight_hashes
from winning_tickets.runs.errors import ContentError, TicketsError, UsageError
from winning_tickets.runs.identity import run_id
from winning_tickets.tickets.target import Target
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.objectives.smart import check_precision, check_smart
from winning_tickets.training.predict import encode_for
from winning_tickets.training.task_data import load_data

_LOGGED = ("step", "seconds", "learning_rate", "evaluation", "degenerate")
"""What a record of `metrics.jsonl` holds beside the tasks' losses."""


@dataclass(frozen=True)
class SharedTask:
    """One of the tasks that share a model.

    Attributes:
        data: the task and its examples.
        validation: tokenised examples by name of the split.
        train_examples: size of the training set, or of the subset that was asked for.
        per_epoch: batches of a pass over them (over windows of the first seed's, where texts are cut into windows).
        batch_size: examples a step.
        max_length: tokens an example or a window is cut to.
        doc_stride: of spans: tokens from one window to the next.
        selection: the best evaluation is chosen on the whole.
    """

    data: TaskData
    validation: dict[str, EncodedSplit]
    train_examples: int
    per_epoch: int
    batch_size: int
    max_length: int
    doc_stride: int | None
    selection: Mapping[str, tuple[DevPart, DevPart]] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """The task's record."""
        return self.data.task


@dataclass(frozen=True)
class PreparedSharing:
    """What is the same for all seeds.

    Attributes:
        config: as given.
        target: the model.
        tasks: by name, in the order that was asked for.
        tickets: by task, of those that have one; None while those of `auto` are not found.
        base: hash of the base weights.
        steps_per_epoch: optimiser steps of an epoch, as the mixing counts it.
        steps: optimiser steps in all.
    """

    config: ShareConfig
    target: Target
    tasks: dict[str, SharedTask]
    tickets: dict[str, Ticket] | None
    base: str
    steps_per_epoch: int
    steps: int

    @property
    def settings(self) -> ShareConfig:
        """The configuration with every open choice filled."""
        return self.config.resolved()

    def identity(self, config: ShareConfig) -> str:
        """The id of the whole run, or of one seed of it, by its configuration; what is in files counts, not where."""
        content: dict[str, str | None] = {"base": self.base}
        content |= {f"data of {name}": task.data.fingerprint for name, task in self.tasks.items()}
        update = dict.fromkeys(("data_dir", "task_file"))
        if config.task_file is not None:
            content |= {f"task {name}": digest_of(task.task) for name, task in self.tasks.items()}
        if self.tickets is not None:
            update |= dict.fromkeys(("tickets", "level"))
            content |= {f"ticket of {name}": ticket.id for name, ticket in self.tickets.items()}
        slug = f"share-{'-'.join(self.tasks)}-{'dense' if self.tickets == {} else 'tickets'}"
        return run_id(config.model_copy(update=update), slug, **content)

    def plan(self, task: str) -> EvaluationPlan:
        """When a task is evaluated, at the end of every epoch and of the training, and which evaluation is the best."""
        config = TransferConfig(target=self.target.name).resolved()
        return EvaluationPlan(config, self.tasks[task].task, self.steps_per_epoch, self.steps_per_epoch, self.steps)


def single(config: ShareConfig, target: str, task: str, head_dropout: float | None) -> TransferConfig:
    """The fine-tuning on one task alone that belongs to a sharing.

    Args:
        config: of the sharing, resolved.
        target: the model, or the shared model.
        task: which one.
        head_dropout: as sharing has it.
    """
    return TransferConfig(
        target=target,
        task=task,
        task_file=config.task_file,
        data_dir=config.data_dir,
        seeds=config.seeds,
        train_size=config.train_size,
        epochs=config.single_epochs,
        batch_size=config.batch_size,
        learning_rate=config.single_learning_rate or config.learning_rate,
        optimizer=config.optimizer or "adamw",
        warmup_ratio=config.warmup_ratio or 0.0,
        weight_decay=config.weight_decay or 0.0,
        head_dropout=head_dropout,
        max_length=config.max_length,
        save_model=True,
        smart=config.smart,
        allow_other_weights=config.allow_other_weights,
    )


def check(config: ShareConfig) -> None:
    """Refuse what cannot work before anything is loaded; all problems at once.

    Raises:
        UsageError: one line for each problem.
    """
    problems: list[str] = []
    with suppress(UsageError):  # a bad task file is told with each task
        config = with_tickets_of_the_file(config)
    if not config.tasks:
        problems.append("No task was given: use --tasks, such as rte,mrpc.")
    if config.model is None and config.tickets in (None, {}, AUTO):
        problems.append("No model was given: use --model, or --tickets with folders, whose base model it is then.")
    problems += [
        f"The name of the task {name} is taken by the log; rename it." for name in config.tasks if name in _LOGGED
    ]
    settings = config.resolved()
    for task in config.tasks:
        alone = single(settings, config.model or "builtin:minilm", task, None)  # which model is no matter here
        try:
            check_single(alone.model_copy(update={"epochs": config.epochs, "steps": config.steps}))
        except UsageError as error:
            problems += str(error).splitlines()
    problems += _ticket_problems(config) + _mixing_problems(config)
    for name in ("single_epochs", "single_learning_rate"):
        value = getattr(config, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            problems.append(f"--{name.replace('_', '-')} {value:g} is impossible; it must be above 0.")
        if value is not None and config.tickets != AUTO and not config.fine_tune:
            problems.append(f"--{name.replace('_', '-')} goes with --tickets auto or --fine-tune.")
    for task, value in (config.dropout_p or {}).items():
        if not 0 <= value < 1:
            problems.append(f"--dropout-p {value:g} of {task} is outside [0, 1).")
    if not (config.max_grad_norm > 0 and math.isfinite(config.max_grad_norm)):
        problems.append(f"max_grad_norm {config.max_grad_norm:g} is impossible; it must be above 0.")
    if config.fine_tune and not config.save_model:
        problems.append("--fine-tune goes on from the shared model; leave --no-save-model out.")
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))


def with_tickets_of_the_file(config: ShareConfig) -> ShareConfig:
    """The configuration with the tickets that its task file names, where `tickets` says nothing.

    Raises:
        UsageError: the task file is missing or impossible.
    """
    if config.tickets is not None or config.task_file is None:
        return config
    here = Path(config.task_file).parent
    named = {one.name: str(here / one.ticket) for one in load_definitions(config.task_file, config.tasks) if one.ticket}
    return config.model_copy(update={"tickets": named}) if named else config


def _ticket_problems(config: ShareConfig) -> list[str]:
    if config.level is None:
        return []
    if config.tickets != AUTO:
        return ["--level goes with --tickets auto, which makes tickets."]
    problems = [
        f"--level {p:g}% of {task} lies outside [0, 100]." for task, p in config.level.items() if not 0 <= p <= 100
    ]
    missing = [task for task in config.tasks if task not in config.level]
    if missing:
        problems.append(f"--level says nothing of {', '.join(missing)}; give each task one, 0% for no ticket.")
    return problems


def _mixing_problems(config: ShareConfig) -> list[str]:
    given = config.main_task is not None or config.ratio is not None
    if config.mixing != "ratio":
        return ["--main-task and --ratio go with --mixing ratio."] if given else []
    problems = []
    if config.main_task is not None and config.main_task not in config.tasks:
        problems.append(f"--main-task {config.main_task} is none of the tasks {', '.join(config.tasks)}.")
    if config.ratio is None or not (config.ratio >= 0 and math.isfinite(config.ratio)):
        problems.append(
            "--mixing ratio needs --ratio, the batches of all other tasks for each batch of the main one, 0 or more."
        )
    return problems


def prepare(config: ShareConfig, runtime: Runtime) -> PreparedSharing:
    """Check everything, load the data and look at the weights and tickets, before any work.

    Raises:
        UsageError: impossible settings, missing files, unknown names, no GPU where one is asked for.
        ContentError: a damaged ticket, one for other weights, unusable data.
    """
    check(config)
    choose_device(runtime.device)
    if config.smart is not None:
        check_precision(runtime)
    config = with_tickets_of_the_file(config)
    tickets, target = _open(config)
    data = {task: _data(config, task) for task in config.tasks}
    plm = target.load()
    base = base_hash(weight_hashes(plm.encoder))
    for task, ticket in (tickets or {}).items():
        try:
            ticket.check(plm.encoder, config.allow_other_weights)
        except ContentError as error:
            raise ContentError(f"The ticket of {task}: {error}") from error
    tasks = {task: _encoded(config, plm, found) for task, found in data.items()}
    per_epoch = epoch_steps(
        {name: task.per_epoch for name, task in tasks.items()},
        config.mixing,
        config.main_task or config.tasks[0],
        config.ratio,
    )
    steps = config.steps or math.ceil(float(config.resolved().epochs or 0) * per_epoch)
    return PreparedSharing(config, target, tasks, tickets, base, per_epoch, steps)


def _open(config: ShareConfig) -> tuple[dict[str, Ticket] | None, Target]:
    """The tickets, and the model that they belong to."""
    folders = config.tickets if isinstance(config.tickets, dict) else {}
    if not folders:
        target = Target(str(config.model), None, str(config.model), config.revision, config.layers)
        return (None if config.tickets == AUTO else {}), target
    targets = {}
    for task, folder in folders.items():
        try:
            found = Target.find(folder, config.model, config.revision, config.layers)
            targets[task] = replace(found, ticket=found.ticket or Ticket.from_pretrained(folder))
        except TicketsError as error:
            raise type(error)(f"The ticket of {task}: {error}") from error
    return {task: found.ticket for task, found in targets.items() if found.ticket}, next(iter(targets.values()))


def _data(config: ShareConfig, task: str) -> TaskData:
    data = load_data(single(config, "", task, None))
    if not len(data.train):
        raise ContentError(f"The task {task} has no training example; give it some, or leave it out of --tasks.")
    if config.smart is not None:
        check_smart(data.task)
    own = config.dropout_of(task, data.task.head_dropout)
    return replace(data, task=replace(data.task, head_dropout=own))


def _encoded(config: ShareConfig, plm: PLM, data: TaskData) -> SharedTask:
    task = data.task
    length = text_length(config.max_length, task, plm)
    stride = window_stride(None, task, length)

    def encode(split: Split) -> EncodedSplit:
        return encode_for(plm, split, length, task.kind, stride)

    examples = train_examples(config, data, config.seeds[0])
    items = len(encode(examples)) if task.kind == "span" else len(examples)
    batch_size = config.batch_size or task.batch_size
    return SharedTask(
        data=data,
        validation={name: encode(split) for name, split in data.validation.items()},
        train_examples=len(examples),
        per_epoch=math.ceil(items / batch_size),
        batch_size=batch_size,
        max_length=length,
        doc_stride=stride,
    )


def train_examples(config: ShareConfig, data: TaskData, seed: int) -> Split:
    """The training examples of one seed.

    Raises:
        UsageError: more examples are asked for than there are.
    """
    return train_subset(data.train, config.train_size or data.task.train_size, seed)
