"""What a transfer starts from: its settings checked, the task's data, the base weights, the plan of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from winning_tickets.config import LAST_SEED, PRETRAINED, Runtime, TransferConfig, parse_start
from winning_tickets.data.encode import EncodedSplit
from winning_tickets.data.records import Task, TaskData
from winning_tickets.data.task_files import load_definitions
from winning_tickets.data.tasks import TASKS
from winning_tickets.finetuning.adaptation import Adaptation, adaptation_problems
from winning_tickets.finetuning.evaluation_plan import DevPart, EvaluationPlan, selected_count
from winning_tickets.finetuning.evaluation_plan import problems as choice_problems
from winning_tickets.models.heads import load_for_task, text_length, window_stride
from winning_tickets.models.loading import PLM, base_hash, choose_device, weight_hashes
from winning_tickets.models.weights import content_hash, start_weights, write_state_
from winning_tickets.runs.directory import missing
from winning_tickets.runs.errors import ContentError, UsageError, unknown
from winning_tickets.runs.identity import digest, run_id
from winning_tickets.tickets.target import Target
from winning_tickets.training.objectives.smart import check_precision, check_smart
from winning_tickets.training.predict import encode_for
from winning_tickets.training.task_data import load_data, train_split


@dataclass(frozen=True)
class Prepared:
    """What is the same for all seeds of a transfer.

    Attributes:
        config: as given.
        target: the model or ticket.
        adaptation: the fine-tuned model that fine-tuning goes on from, where there is one.
        data: the task and its examples.
        validation: tokenised examples by name of the split.
        selection: what the best evaluation is chosen on and what is left, by name of the split; empty where it is
            chosen on the whole.
        base: hash of the base weights.
        start_hash: of the weights in a state, a folder or a fine-tuned model to start from; None for those that are
            made here.
        train_examples: size of the training set, or of the subset that was asked for.
        train_windows: of spans: windows over the texts of these examples (of the first seed's); they fill the batches.
        batch_size: examples a step.
        learning_rate: peak rate.
        max_length: tokens an example or a window is cut to.
        doc_stride: of spans: tokens from one window to the next.
        steps_per_epoch: optimiser steps of a pass over the training set.
        steps: optimiser steps in all.
        eval_steps: steps between evaluations.
    """

    config: TransferConfig
    target: Target
    adaptation: Adaptation | None
    data: TaskData
    validation: dict[str, EncodedSplit]
    selection: dict[str, tuple[DevPart, DevPart]]
    base: str
    start_hash: str | None
    train_examples: int
    train_windows: int | None
    batch_size: int
    learning_rate: float
    max_length: int
    doc_stride: int | None
    steps_per_epoch: int
    steps: int
    eval_steps: int

    @property
    def task(self) -> Task:
        """The task's record."""
        return self.data.task

    @property
    def pad_to(self) -> int | None:
        """Length that training batches are padded to; None means that of the longest example."""
        return self.max_length if self.config.resolved().padding == "max-length" else None

    def identity(self, config: TransferConfig) -> str:
        """The id of the whole transfer, or of one seed of it, by its configuration."""
        ticket = self.target.ticket
        slug = f"transfer-{self.task.name}-{'dense' if ticket is None else 'ticket'}"
        content = {"base": self.base, "ticket": None if ticket is None else ticket.id, "data": self.data.fingerprint}
        if self.start_hash is not None:  # what is in the file counts, not where it is
            config, content = config.model_copy(update={"start_from": PRETRAINED}), content | {"start": self.start_hash}
        if self.adaptation is not None:  # likewise
            config = config.model_copy(update={"target": "", "from_task": None})
        if config.task_file is not None:  # likewise
            config, content = config.model_copy(update={"task_file": None}), content | {"task": digest_of(self.task)}
        return run_id(config, slug, **content)

    @property
    def began(self) -> dict[str, Any]:
        """What a result says about the weights that fine-tuning started from."""
        adaptation = self.adaptation
        return {
            "start_from": self.config.start_from if adaptation is None else self.config.target,
            "start_hash": self.start_hash,
            "from_task": None if adaptation is None else adaptation.source.info.task,
            "head": None if adaptation is None else adaptation.head.note,
        }

    def load(self, seed: int) -> PLM:
        """The model of a seed before its first step; the ticket is not yet held.

        Raises:
            UsageError: the model cannot be transformed as `start_from` says.
            ContentError: what it starts from has changed since the transfer began.
        """
        if self.adaptation is None:
            plm = load_base(self.target, self.task)
            self.start(plm, seed)
            return plm
        plm = self.adaptation.load(self.task)
        self.adaptation.check(plm, str(self.start_hash))
        return plm

    def start(self, plm: PLM, seed: int) -> None:
        """Put the weights that fine-tuning starts from into a freshly loaded model; a seed draws its own ones.

        Raises:
            UsageError: the model cannot be transformed so.
            ContentError: a state or folder has changed since the transfer began.
        """
        if self.config.start_from == PRETRAINED:
            return
        weights = _start_weights(self.config, plm, seed, self.base)
        if self.start_hash is not None and content_hash(weights) != self.start_hash:
            raise ContentError(
                f"The weights in {self.config.start_from} have changed since this transfer began, so its seeds would "
                "not start alike. Put them back, or start a transfer in another --out."
            )
        write_state_(plm.encoder, weights)

    @property
    def plan(self) -> EvaluationPlan:
        """When it is evaluated, and which evaluation is the best."""
        return EvaluationPlan(self.config.resolved(), self.task, self.eval_steps, self.steps_per_epoch, self.steps)


def digest_of(task: Task) -> str:
    """A hash of what a task says of itself; a field that all tasks may one day have leaves it as it is."""
    said = {field.name: getattr(task, field.name) for field in fields(task)}
    return digest({field.name: said[field.name] for field in fields(task) if said[field.name] != field.default})


def check(config: TransferConfig) -> None:
    """Refuse what cannot work before anything is loaded; all problems at once.

    Raises:
        UsageError: one line for each problem.
    """
    problems = _check_data(config) + adaptation_problems(config) + choice_problems(config)
    if (told := missing(config.target)) is not None:
        problems.append(told)  # here already, as data may have to be fetched first
    try:
        parse_start(config.start_from)
    except UsageError as error:
        problems.append(f"--start-from: {error}")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        problems.append(f"--seeds {','.join(map(str, config.seeds))!r} must name one or more different seeds.")
    if any(not 0 <= seed <= LAST_SEED for seed in config.seeds):
        problems.append(f"--seeds {','.join(map(str, config.seeds))!r} must lie between 0 and 2**32 - 1.")
    if config.epochs is not None and config.steps is not None:
        problems.append("--epochs and --steps contradict each other; give one of them.")
    for field in ("epochs", "learning_rate"):
        value = getattr(config, field)
        if value is not None and not (value > 0 and math.isfinite(value)):
            problems.append(f"--{field.replace('_', '-')} {value} is impossible; it must be above 0.")
    for field in ("steps", "batch_size", "max_length", "doc_stride", "eval_steps"):
        value = getattr(config, field)
        if value is not None and value < 1:
            problems.append(f"--{field.replace('_', '-')} {value} is impossible; at least 1.")
    if not 0 <= config.warmup_ratio <= 1:
        problems.append(f"warmup_ratio {config.warmup_ratio} is outside [0, 1].")
    if not (config.weight_decay >= 0 and math.isfinite(config.weight_decay)):
        problems.append(f"weight_decay {config.weight_decay} is impossible; it must not be negative.")
    if config.head_dropout is not None and not 0 <= config.head_dropout < 1:
        problems.append(f"--head-dropout {config.head_dropout:g} is outside [0, 1).")
    if problems:
        raise UsageError("\n".join(problems))


def _check_data(config: TransferConfig) -> list[str]:
    files = (config.train_file, config.validation_file)
    if config.task_file is not None and config.task is None:
        return ["--task-file goes with --task, which says which of its tasks."]
    if config.task is None and files == (None, None):
        return [f"No task was given: use --task ({', '.join(TASKS)}), or --train-file and --validation-file."]
    if config.task is not None and files != (None, None):
        return [f"--task {config.task} and files of your own contradict each other; give one of them."]
    if config.task is None:
        problems = [] if None not in files else ["--train-file and --validation-file go together; one is missing."]
        return problems + (["--data-dir goes with --task, not with --train-file."] if config.data_dir else [])
    if config.task_file is not None:
        try:
            load_definitions(config.task_file, (config.task,))
            problems = []
        except UsageError as error:
            problems = [str(error)]
    else:
        problems = [] if config.task in TASKS else [str(unknown("task", config.task, TASKS))]
    defaults = TransferConfig(target=config.target)
    for field in ("text_columns", "label_column", "metric", "kind"):
        if getattr(config, field) != getattr(defaults, field):
            problems.append(f"--{field.replace('_', '-')} goes with --train-file; --task {config.task} has its own.")
    return problems


def prepare(config: TransferConfig, runtime: Runtime) -> Prepared:
    """Check everything, load the data and look at the weights, before any work.

    Raises:
        UsageError: impossible settings, missing files, unknown names, no GPU where one is asked for.
        ContentError: a damaged ticket, one for other weights, unusable data.
    """
    check(config)
    choose_device(runtime.device)
    if config.smart is not None:
        check_precision(runtime)
    data = load_data(config)
    adaptation = Adaptation.find(config, data.task)
    if adaptation is None:
        target = Target.find(config.target, config.base, config.revision, config.layers)
    else:
        target = adaptation.target
    if config.smart is not None:
        check_smart(data.task)
    examples = train_split(config, data, config.seeds[0])
    plm = load_base(target, data.task) if adaptation is None else adaptation.load(data.task)
    if target.ticket is not None:  # a fine-tuned model has other weights than the ticket was made for
        target.ticket.check(plm.encoder, config.allow_other_weights or adaptation is not None)
    base = (adaptation and adaptation.source.base) or base_hash(weight_hashes(plm.encoder))
    start_hash = _try_start(config, plm, base) if adaptation is None else adaptation.content(plm)
    max_length = text_length(config.max_length, data.task, plm)
    doc_stride = window_stride(config.doc_stride, data.task, max_length)
    windows = None
    if data.task.kind == "span":
        windows = len(encode_for(plm, examples, max_length, data.task.kind, doc_stride))
    batch_size = config.batch_size or data.task.batch_size
    per_epoch = math.ceil((windows or len(examples)) / batch_size)
    validation = {
        name: encode_for(plm, split, max_length, data.task.kind, doc_stride) for name, split in data.validation.items()
    }
    prepared = Prepared(
        config=config,
        target=target,
        adaptation=adaptation,
        data=data,
        validation=validation,
        selection=_selection(config, data, validation),
        base=base,
        start_hash=start_hash,
        train_examples=len(examples),
        train_windows=windows,
        batch_size=batch_size,
        learning_rate=config.learning_rate or data.task.learning_rate,
        max_length=max_length,
        doc_stride=doc_stride,
        steps_per_epoch=per_epoch,
        steps=config.steps or math.ceil((config.epochs or data.task.epochs) * per_epoch),
        eval_steps=config.eval_steps or data.task.eval_steps,
    )
    prepared.plan.check()
    return prepared


def _selection(
    config: TransferConfig, data: TaskData, validation: Mapping[str, EncodedSplit]
) -> dict[str, tuple[DevPart, DevPart]]:
    """What the best evaluation is chosen on, and the rest, of splits that have been put in the order of the choice."""
    parts = {}
    for name, split in data.validation.items() if config.select_on else ():
        count = selected_count(config.select_on, len(split), name)
        first, rest = validation[name].split_at(count)
        places = list(range(len(split)))
        parts[name] = (DevPart(split.take(places[:count]), first), DevPart(split.take(places[count:]), rest))
    return parts


def _start_weights(config: TransferConfig, plm: PLM, seed: int, base: str) -> dict[str, Tensor]:
    start = parse_start(config.start_from)
    return start_weights(start, plm, seed, None if config.allow_other_weights else base)


def _try_start(config: TransferConfig, plm: PLM, base: str) -> str | None:
    """Make sure that the model can start from the weights; the hash of those of a state or folder."""
    if config.start_from == PRETRAINED:
        return None
    weights = _start_weights(config, plm, config.seeds[0], base)
    write_state_(plm.encoder, weights)
    return content_hash(weights) if parse_start(config.start_from).path is not None else None


def load_base(target: Target, task: Task) -> PLM:
    """The dense base model with a fresh head for the task, which knows the names of the labels."""
    return load_for_task(target.load, task)
