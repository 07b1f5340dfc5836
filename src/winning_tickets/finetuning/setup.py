"""Preparation of a transfer: checked settings, the task's data, the base weights, the number of steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor

from winning_tickets.config import LAST_SEED, PRETRAINED, Runtime, TransferConfig, parse_start
from winning_tickets.data.hub import HubPart
from winning_tickets.data.records import Task, TaskData
from winning_tickets.data.task_files import TASK_NAME, load_definitions
from winning_tickets.data.tasks import TASKS, TEXT_TASKS
from winning_tickets.finetuning.adaptation import Adaptation, adaptation_problems
from winning_tickets.finetuning.evaluation import EvaluationPlan
from winning_tickets.finetuning.prepared_task import PreparedTask, prepare_task, task_digest
from winning_tickets.finetuning.teacher import Teacher, teacher_problems
from winning_tickets.finetuning.text_target import TextTarget, keep_decoder_dense, text_problems
from winning_tickets.models.device import choose_device
from winning_tickets.models.heads import load_for_task
from winning_tickets.models.loading import PLM, base_hash, set_dropout, weight_hashes
from winning_tickets.models.weights import content_hash, load_start_weights, write_state_
from winning_tickets.runs.directory import missing
from winning_tickets.runs.errors import ContentError, UsageError, problems_of, refuse, unknown
from winning_tickets.runs.identity import run_id
from winning_tickets.runs.results import SuperResult, find_result
from winning_tickets.tickets.target import Target
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.execution import check_compiler
from winning_tickets.training.objectives.smart import check_precision, check_smart
from winning_tickets.training.task_data import load_data, train_split


@dataclass(frozen=True)
class PreparedTransfer(PreparedTask):
    """A transfer with everything that is the same for all seeds."""

    # `config` is as given. `base` is the hash of the base weights. `start_hash` is the hash of the weights to start
    # from in a state, a folder or a fine-tuned model; None for start weights that are made here.

    config: TransferConfig
    target: Target
    adaptation: Adaptation | None
    text: TextTarget | None  # None unless the model learns from text
    teacher: Teacher | None
    base: str
    start_hash: str | None
    width: int  # hidden size
    learning_rate: float
    dense_rate: float  # learning rate that the dense model would have with the same settings
    steps: int
    eval_steps: int

    @property
    def remarks(self) -> list[str]:
        """Return sentences for the user on what may be a mistake: in the data, or in a later comparison."""
        found = list(self.data.remarks)
        if self.learning_rate != self.dense_rate:
            found.append(
                f"The default learning rate is {self.learning_rate:g} for this ticket and {self.dense_rate:g} for the "
                "dense model. To compare them at one rate, give --learning-rate to both."
            )
        return found

    @property
    def plan(self) -> EvaluationPlan:
        return EvaluationPlan(self.config.resolved(), self.task, self.eval_steps, self.steps_per_epoch, self.steps)

    @property
    def dropout(self) -> float | Literal["model"]:
        return self.config.resolved().dropout

    def of(self, config: TransferConfig) -> PreparedTransfer:
        """Return this transfer with one of the candidates of its configuration."""
        return replace(self, config=config, **_schedule(config, self, self.target.ticket, self.width))

    def identity(self, config: TransferConfig) -> str:
        """Return the id of the transfer, or of one seed of it; the content of files counts, not their path."""
        ticket = self.target.ticket
        slug = f"transfer-{self.task.name}-{'dense' if ticket is None else 'ticket'}"
        content = {"base": self.base, "ticket": None if ticket is None else ticket.id, "data": self.data.fingerprint}
        if self.start_hash is not None:
            config, content = config.model_copy(update={"start_from": PRETRAINED}), content | {"start": self.start_hash}
        if self.adaptation is not None:
            config = config.model_copy(update={"target": "", "from_task": None})
        if self.teacher is not None:
            config, content = config.model_copy(update={"teacher": ""}), content | {"teacher": self.teacher.content}
        if config.task_file is not None:
            config, content = config.model_copy(update={"task_file": None}), content | {"task": task_digest(self.task)}
        return run_id(config, slug, **content)

    @property
    def start_facts(self) -> dict[str, Any]:
        """Fields of results about the weights that fine-tuning started from."""
        adaptation = self.adaptation
        return {
            "start_from": self.config.start_from if adaptation is None else self.config.target,
            "start_hash": self.start_hash,
            "from_task": None if adaptation is None else adaptation.model.info.task,
            "head": None if adaptation is None else adaptation.head.note,
        }

    def load(self, seed: int) -> PLM:
        """Return the model of a seed before its first step; the ticket is not yet applied."""
        if self.adaptation is None:
            plm = load_base(self.target, self.task)
            self.start(plm, seed)
        else:
            plm = self.adaptation.load(self.task)
            if self.adaptation.content(plm) != self.start_hash:
                raise _changed(f"The model {self.adaptation.model.folder} has", "it")
        if self.text is not None:
            keep_decoder_dense(plm, self.target.ticket)
        if self.dropout != "model":
            set_dropout(plm.encoder, self.dropout)
        return plm

    def start(self, plm: PLM, seed: int) -> None:
        """Write the weights that fine-tuning starts from into a newly loaded model; random ones depend on the seed."""
        if self.config.start_from == PRETRAINED:
            return
        weights = _start_weights(self.config, plm, seed, self.base)
        if self.start_hash is not None and content_hash(weights) != self.start_hash:
            raise _changed(f"The weights in {self.config.start_from} have", "them")
        write_state_(plm.encoder, weights)


def _changed(what: str, it: str) -> ContentError:
    return ContentError(
        f"{what} changed since this transfer began, so its seeds would start differently. Put {it} back, or start a "
        "transfer in another --out."
    )


def check_transfer(config: TransferConfig) -> None:
    """Refuse settings that contradict each other, with all problems at once, before anything is loaded."""
    problems = _data_problems(config) + text_problems(config) + adaptation_problems(config)
    problems += teacher_problems(config)
    if config.mnli_dev is not None and config.task != "mnli":
        problems.append(f"mnli_dev: {config.mnli_dev} needs --task mnli.")
    if (problem := missing(config.target)) is not None:
        problems.append(problem)  # checked already here, because the data may be fetched before the model is loaded
    problems += [f"--start-from: {line}" for line in problems_of(lambda: parse_start(config.start_from))]
    seeds = ",".join(map(str, config.seeds))
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        problems.append(f"--seeds {seeds!r} must name one or more different seeds.")
    if any(not 0 <= seed <= LAST_SEED for seed in config.seeds):
        problems.append(f"--seeds {seeds!r} must be between 0 and 2**32 - 1.")
    if config.chosen_fields and not config.select_on and config.task not in TEXT_TASKS:
        given = " and ".join(map(config.option_of, config.chosen_fields))
        problems.append(
            f"{given}: of several values one is chosen on a part of the dev set, and the scores are those of the rest; "
            "add --select-on 0.5, or give one value."
        )
    if config.chosen_fields and config.task in TEXT_TASKS:
        given = " and ".join(map(config.option_of, config.chosen_fields))
        problems.append(f"{given}: --task {config.task} has no part of its text to choose on; give one value.")
    if config.epochs is not None and config.steps is not None:
        problems.append("--epochs and --steps contradict each other; give one of them.")
    if config.settings_from is not None:
        if config.learning_rate is not None or config.batch_size is not None:
            problems.append("--settings-from brings a learning rate and a batch size; leave yours out.")
        problems += problems_of(lambda: _best_settings(str(config.settings_from)))
    refuse(problems)


def _best_settings(folder: str) -> dict[str, Any]:
    """Return the learning rate and the batch size of the super ticket that a search found."""
    found = find_result(Path(folder).expanduser(), SuperResult)
    if found is None:
        raise UsageError(f"--settings-from {folder} is not a finished search by tickets super, which has them.")
    return {"learning_rate": found.super_ticket.learning_rate, "batch_size": found.super_ticket.batch_size}


def _data_problems(config: TransferConfig) -> list[str]:
    files = (config.train_file, config.validation_file)
    if config.task in TEXT_TASKS:
        return []
    # Without a task: either two files, or nothing to train on.
    if config.task is None:
        if config.task_file is not None:
            return ["--task-file needs --task, the name of one of its tasks."]
        if files == (None, None):
            return [
                f"No task was given: use --task ({', '.join((*TASKS, *TEXT_TASKS))}), or --train-file and "
                "--validation-file."
            ]
        problems = [] if None not in files else ["--train-file and --validation-file go together; one is missing."]
        if config.task_name is not None and not TASK_NAME.fullmatch(config.task_name):
            problems.append(
                f"--task-name {config.task_name!r} is not a name; use letters, digits, dots, dashes and underscores."
            )
        return problems + (["--data-dir is for --task, not for --train-file."] if config.data_dir else [])
    if files != (None, None):
        return [f"--task {config.task} and files of your own contradict each other; give one of them."]
    if HubPart.splits_of(config.task) is not None and config.task_file is None:
        return ["--data-dir is for known tasks, not for data sets of the hub."] if config.data_dir else []
    # With a task: the task must be known, and settings that describe files have no meaning.
    if config.task_file is not None:
        problems = problems_of(lambda: load_definitions(str(config.task_file), (str(config.task),)))
        problems += ["--data-dir is for known tasks, not for those of a --task-file."] if config.data_dir else []
    else:
        problems = [] if config.task in TASKS else [str(unknown("task", config.task, [*TASKS, *TEXT_TASKS]))]
    fields = ("text_columns", "label_column", "metric", "kind", "task_name", "drop_unlabelled")
    return problems + [
        f"{config.option_of(field)} needs --train-file; --task {config.task} has its own."
        for field in config.changed(*fields)
    ]


def prepare_transfer(config: TransferConfig, runtime: Runtime) -> PreparedTransfer:
    """Check all settings, load the data and read the weights, before any training."""
    check_transfer(config)
    if config.settings_from is not None:  # they are part of the id, the folder is not
        config = config.model_copy(update=_best_settings(config.settings_from) | {"settings_from": None})
    choose_device(runtime.device)
    check_compiler(runtime)
    if config.smart is not None:
        check_precision(runtime)
    # The task first: the head of a fine-tuned model is kept if it knows the task's labels.
    text = TextTarget.find(config)
    data = load_data(config) if text is None else None
    task = text.task if text is not None else cast(TaskData, data).task
    adaptation = Adaptation.find(config, task)
    if adaptation is None:
        target = Target.find(config.target, config.base, config.revision, config.layers)
    else:
        target = adaptation.target
    if config.smart is not None:
        check_smart(task)
    # The base weights are loaded here to check them and to hash them for the run id; each seed loads them again.
    plm = load_base(target, task) if adaptation is None else adaptation.load(task)
    if config.smart is not None and plm.architecture.causal:
        raise UsageError(f"--smart is for encoders, and {plm.name} is a decoder; leave it out.")
    if target.ticket is not None:  # a fine-tuned model has other weights than the ticket was made for
        target.ticket.check(plm.encoder, allow_other_weights=config.allow_other_weights or adaptation is not None)
    teacher = None
    if config.teacher is not None:
        teacher = Teacher.find(config.teacher, task, plm, with_states=config.teacher_states)
        teacher.plm.model.to(choose_device(runtime.device))
    base = (adaptation and adaptation.model.base) or base_hash(weight_hashes(plm.encoder))
    start_hash = _try_start(config, plm, base) if adaptation is None else adaptation.content(plm)
    if text is not None:
        found = text.prepare(config, plm)
    elif data is not None:
        examples = train_split(config, data, config.seeds[0])
        sizes = {"max_length": config.max_length, "doc_stride": config.doc_stride}
        found = prepare_task(plm, data, examples, config.batch_size, select_on=config.select_on, **sizes)
    width = plm.model.config.hidden_size
    first = next(iter(config.candidates().values()))
    prepared = PreparedTransfer(
        **vars(found),
        config=config,
        target=target,
        adaptation=adaptation,
        text=text,
        teacher=teacher,
        base=base,
        start_hash=start_hash,
        width=width,
        **_schedule(first, found, target.ticket, width),
    )
    for candidate in config.candidates().values():
        prepared.of(candidate).plan.check(found.data.validation)
    return prepared


def _schedule(config: TransferConfig, found: PreparedTask, ticket: Ticket | None, width: int) -> dict[str, Any]:
    """Return steps and learning rates of a configuration without candidates."""
    settings, task = config.resolved(), found.task
    steps = settings.steps or math.ceil((settings.epochs or task.epochs) * found.steps_per_epoch)
    sparsity = 0.0 if ticket is None or ticket.gates else ticket.sparsity
    rates = {"learning_rate": sparsity, "dense_rate": 0.0}
    return {
        **{
            name: settings.learning_rate or task.peak_rate(config.profile, width, steps, removed)
            for name, removed in rates.items()
        },
        "steps": steps,
        "eval_steps": _eval_steps(config, task, found.steps_per_epoch),
    }


def _eval_steps(config: TransferConfig, task: Task, steps_per_epoch: int) -> int:
    """Return the steps between evaluations; patience counts epochs unless --eval-steps says otherwise."""
    given = config.eval_steps or ("epoch" if config.resolved().patience else task.eval_steps)
    return steps_per_epoch if given == "epoch" else given


def _start_weights(config: TransferConfig, plm: PLM, seed: int, base: str) -> dict[str, Tensor]:
    start = parse_start(config.start_from)
    return load_start_weights(start, plm, seed, None if config.allow_other_weights else base)


def _try_start(config: TransferConfig, plm: PLM, base: str) -> str | None:
    """Write the start weights into a model, which refuses wrong shapes; return their hash if they are from a path."""
    if config.start_from == PRETRAINED:
        return None
    weights = _start_weights(config, plm, config.seeds[0], base)
    write_state_(plm.encoder, weights)
    return content_hash(weights) if parse_start(config.start_from).path is not None else None


def load_base(target: Target, task: Task) -> PLM:
    """Return the dense base model with a fresh head for the task; its configuration has the names of the labels."""
    return load_for_task(target.load, task)
