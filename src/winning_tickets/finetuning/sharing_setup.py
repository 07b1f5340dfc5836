"""Preparation of tickets sharing: settings checked, the tasks' data, the tickets, the number of steps."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from winning_tickets.config import AUTO, Runtime, ShareConfig, TransferConfig
from winning_tickets.config.share import OWN_FILES
from winning_tickets.data.encode import train_subset
from winning_tickets.data.mixing import epoch_steps
from winning_tickets.data.records import Split, TaskData
from winning_tickets.data.task_files import load_definitions
from winning_tickets.finetuning.evaluation import EvaluationPlan
from winning_tickets.finetuning.prepared_task import PreparedTask, prepare_task, task_digest
from winning_tickets.finetuning.setup import check_transfer as check_single
from winning_tickets.models.device import choose_device
from winning_tickets.models.loading import base_hash, weight_hashes
from winning_tickets.runs.errors import ContentError, TicketsError, UsageError, problems_of, refuse
from winning_tickets.runs.identity import run_id
from winning_tickets.tickets.target import Target
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.objectives.smart import check_precision, check_smart
from winning_tickets.training.task_data import load_data

_LOGGED = ("step", "seconds", "learning_rate", "evaluation", "degenerate", "average")
"""Keys of `metrics.jsonl` besides the losses of the tasks."""


@dataclass(frozen=True)
class PreparedSharing:
    """A sharing with everything that is the same for all seeds."""

    # `config` is as given, `base` is a hash of the base weights. `tickets` has the tasks with a ticket; with `auto`, it
    # is None until the tickets are found.

    config: ShareConfig
    target: Target
    tasks: dict[str, PreparedTask]
    tickets: dict[str, Ticket] | None
    base: str
    steps_per_epoch: int
    steps: int
    learning_rate: float

    @property
    def settings(self) -> ShareConfig:
        return self.config.resolved()

    def ticket_of(self, task: str) -> Ticket | None:
        return (self.tickets or {}).get(task)

    def identity(self, config: ShareConfig) -> str:
        """Return the id of the sharing, or of one seed of it; the content of files counts, not their path."""
        content: dict[str, str | None] = {"base": self.base}
        content |= {f"data of {name}": task.data.fingerprint for name, task in self.tasks.items()}
        update = dict.fromkeys(("data_dir", "task_file", "train_file", "validation_file"))
        if config.task_file is not None:
            content |= {f"task {name}": task_digest(task.task) for name, task in self.tasks.items()}
        if self.tickets is not None:
            update |= dict.fromkeys(("tickets", "level"))
            content |= {f"ticket of {name}": ticket.id for name, ticket in self.tickets.items()}
        slug = f"share-{'-'.join(self.tasks)}-{'dense' if self.tickets == {} else 'tickets'}"
        return run_id(config.model_copy(update=update), slug, **content)

    def plan(self, task: str) -> EvaluationPlan:
        """Return the plan of a task's evaluations: one at the end of every epoch and of the training."""
        patience, warmup = self.settings.patience, self.settings.warmup_ratio
        config = TransferConfig(target=self.target.name, patience=patience, warmup_ratio=warmup).resolved()
        return EvaluationPlan(config, self.tasks[task].task, self.steps_per_epoch, self.steps_per_epoch, self.steps)


def check_sharing(config: ShareConfig) -> None:
    """Refuse settings that contradict each other, with all problems at once, before anything is loaded."""
    with suppress(UsageError):  # a bad task file is reported with each task
        config = _with_tickets_of_the_file(config)
    problems: list[str] = []
    if not config.tasks:
        problems.append("No task was given: use --tasks, such as rte,mrpc, or --train-file support=train.csv.")
    if config.model is None and config.tickets in (None, {}, AUTO):
        problems.append("No model was given: use --model, or --tickets with folders, whose base model it is then.")
    problems += [f"The task name {name} is a key of the log; rename it." for name in config.tasks if name in _LOGGED]
    # Each task must be valid for fine-tuning alone, whatever the model.
    for task in config.tasks:
        alone = config.resolved().alone(config.model or "builtin:minilm", task, None)
        alone = alone.model_copy(update={"epochs": config.epochs, "steps": config.steps})
        problems += problems_of(partial(check_single, alone))
    for field in (*OWN_FILES, "text_columns", "drop_unlabelled"):
        if config.train_file is None and getattr(config, field):
            problems.append(f"{config.option_of(field)} needs --train-file, such as support=train.csv.")
    problems += _ticket_problems(config) + _mixing_problems(config)
    refuse(problems)


def _with_tickets_of_the_file(config: ShareConfig) -> ShareConfig:
    """Return the configuration, with the tickets that its task file names if `tickets` is None."""
    if config.tickets is not None or config.task_file is None:
        return config
    here = Path(config.task_file).parent
    defined = load_definitions(config.task_file, config.tasks)
    named = {name: str(here / one.ticket) for name, one in defined.items() if one.ticket}
    return config.model_copy(update={"tickets": named}) if named else config


def _ticket_problems(config: ShareConfig) -> list[str]:
    problems = []
    if config.level is not None and config.tickets != AUTO:
        problems.append("--level needs --tickets auto, which makes tickets.")
    elif config.level is not None:
        problems += [
            f"--level {p:g}% of {task} is outside [0, 100]." for task, p in config.level.items() if not 0 <= p <= 100
        ]
        absent = [task for task in config.tasks if task not in config.level]
        if absent:
            problems.append(f"--level has no value for {', '.join(absent)}; give each task one, 0% for no ticket.")
    if config.tickets != AUTO and not config.fine_tune:
        problems += [
            f"{config.option_of(field)} needs --tickets auto or --fine-tune."
            for field in ("single_epochs", "single_learning_rate")
            if getattr(config, field) is not None
        ]
    if config.fine_tune and not config.save_model:
        problems.append("--fine-tune starts from the shared model; leave --no-save-model out.")
    return problems


def _mixing_problems(config: ShareConfig) -> list[str]:
    problems = [
        f"--dropout-p {value:g} of {task} is outside [0, 1)."
        for task, value in (config.dropout_p or {}).items()
        if not 0 <= value < 1
    ]
    if config.mixing != "ratio":
        given = config.main_task is not None or config.ratio is not None
        return [*problems, "--main-task and --ratio need --mixing ratio."] if given else problems
    if config.main_task is not None and config.main_task not in config.tasks:
        problems.append(f"--main-task {config.main_task} is none of the tasks {', '.join(config.tasks)}.")
    if config.ratio is None or config.ratio < 0:
        problems.append(
            "--mixing ratio needs --ratio: batches of all other tasks per batch of the main one, 0 or more."
        )
    return problems


def prepare_sharing(config: ShareConfig, runtime: Runtime) -> PreparedSharing:
    """Check all settings, load the data, and read the weights and tickets, before any training."""
    check_sharing(config)
    choose_device(runtime.device)
    if runtime.torch_compile:
        raise UsageError("--compile is for search and transfer: here the encoder has other hooks for every task.")
    if config.smart is not None:
        check_precision(runtime)
    config = _with_tickets_of_the_file(config)
    settings = config.resolved()
    # A ticket names its base model, so the tickets are opened before the model is loaded.
    tickets, target = _open(config)
    data = {task: _data(settings, task) for task in config.tasks}
    plm = target.load()
    if plm.architecture.causal:
        raise UsageError(
            f"Tickets are shared by encoders, and {plm.name} is a decoder; fine-tune it on each task with tickets "
            "transfer."
        )
    for task, ticket in (tickets or {}).items():
        try:
            ticket.check(plm.encoder, allow_other_weights=config.allow_other_weights)
        except ContentError as error:
            raise ContentError(f"The ticket of {task}: {error}") from error
    # Steps are counted on the examples of the first seed.
    tasks = {}
    for name, found in data.items():
        examples = train_examples(config, found, config.seeds[0])
        tasks[name] = prepare_task(plm, found, examples, config.batch_size, max_length=settings.max_length)
    per_epoch = epoch_steps(
        {name: task.steps_per_epoch for name, task in tasks.items()},
        config.mixing,
        config.main_task or config.tasks[0],
        config.ratio,
    )
    steps = config.steps or math.ceil(settings.epochs * per_epoch)
    base = base_hash(weight_hashes(plm.encoder))
    rate = config.peak_rate(plm.model.config.hidden_size, steps)
    return PreparedSharing(config, target, tasks, tickets, base, per_epoch, steps, rate)


def _open(config: ShareConfig) -> tuple[dict[str, Ticket] | None, Target]:
    """Return the tickets, and the model that they belong to."""
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
    data = load_data(config.alone("", task, None))
    if not len(data.train):
        raise ContentError(f"The task {task} has no training example; give it some, or leave it out of --tasks.")
    if config.smart is not None:
        check_smart(data.task)
    return replace(data, task=replace(data.task, head_dropout=config.dropout_of(task, data.task.head_dropout)))


def train_examples(config: ShareConfig, data: TaskData, seed: int) -> Split:
    """Return the training examples of one seed."""
    return train_subset(data.train, config.train_size or data.task.train_size, seed)
