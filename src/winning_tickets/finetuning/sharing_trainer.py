"""The training of tickets sharing: the package's one loop around tickets, and the evaluations along the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from winning_tickets.config import Runtime
from winning_tickets.data.encode import collate
from winning_tickets.data.mixing import MixedBatches, TaskBatches
from winning_tickets.finetuning.evaluations import measure, stored_evaluations
from winning_tickets.finetuning.sharing_optimizer import SharedUpdate, SharingOptimizer
from winning_tickets.finetuning.sharing_setup import PreparedSharing, train_examples
from winning_tickets.models.heads import load_for_task, with_seed
from winning_tickets.models.loading import PLM, choose_device
from winning_tickets.models.structure import Structure, expand, gated
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.tickets.masking import mask_gradient
from winning_tickets.tickets.selection import write_masked_
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.multitask import JointObjective, SharedEncoder
from winning_tickets.training.objectives.smart import task_losses
from winning_tickets.training.predict import encode_for
from winning_tickets.training.trainer import Checkpoints, StepLog, TicketTrainer, arguments


class TaskTickets:
    """Tickets that share one encoder.

    Args:
        encoder: the encoder inside the models, on its device.
        tickets: by task; a task without one uses the whole encoder.
        allow_other_weights: also onto weights that the tickets were not made for (a resumed run).

    Raises:
        ContentError: a ticket does not fit the encoder.

    Attributes:
        selections: of each task, bool masks by parameter name of the encoder, True = selected, where not everything is.
    """

    def __init__(self, encoder: nn.Module, tickets: Mapping[str, Ticket], allow_other_weights: bool = False) -> None:
        self._encoder = encoder
        self._parameters = dict(encoder.named_parameters())
        self._buffers: dict[str, Tensor] = {}
        self._gates: dict[str, tuple[Structure, dict[str, Tensor]]] = {}
        self._masks: dict[str, dict[str, Tensor]] = {}
        self.selections: dict[str, dict[str, Tensor]] = {}
        for task, ticket in tickets.items():
            ticket.check(encoder, allow_other_weights)
            self.selections[task] = {n: mask for n, mask in ticket.masks_on(encoder).items() if not bool(mask.all())}
            if ticket.structure is not None and _is_gates_alone(ticket, ticket.structure):
                self._gates[task] = ticket.structure, self._closing(ticket)
            else:
                self._masks[task] = {n: m.to(self._parameters[n].device) for n, m in self.selections[task].items()}

    def _closing(self, ticket: Ticket) -> dict[str, Tensor]:
        """The gates that close something, where and what the states are: no forward pass has to convert them."""
        at = next(iter(self._parameters.values()))
        return {name: gate.to(at.device, at.dtype) for name, gate in ticket.gates.items() if not bool(gate.all())}

    @contextmanager
    def acting(self, task: str) -> Iterator[None]:
        """Forward passes compute with the ticket of a task inside this block, and gradients outside it are zero.

        For training the block holds the forward and the backward pass, and the optimiser's step comes after it.
        """
        if task in self._gates:
            with gated(self._encoder, *self._gates[task]):
                yield
            return
        with ExitStack() as stack:
            for name, mask in self._masks.get(task, {}).items():
                parameter: Any = self._parameters[name]
                self._mask(name, mask)
                stack.callback(self._restore, name)
                if parameter.requires_grad:
                    stack.callback(parameter.register_post_accumulate_grad_hook(mask_gradient(mask)).remove)
            yield

    @torch.no_grad()
    def _mask(self, name: str, mask: Tensor) -> None:
        parameter = self._parameters[name]
        if name not in self._buffers:
            self._buffers[name] = torch.empty_like(parameter)
        write_masked_(parameter, self._buffers[name].copy_(parameter), mask)

    @torch.no_grad()
    def _restore(self, name: str) -> None:
        self._parameters[name].copy_(self._buffers[name])


def _is_gates_alone(ticket: Ticket, structure: Structure) -> bool:
    """Whether the gates say all that a ticket prunes."""
    masks = expand(ticket.gates, structure)[0]
    return all(name in masks and torch.equal(mask, masks[name]) for name, mask in ticket.masks.items())


def sharing_optimizer(
    model: SharedEncoder, tasks: Sequence[str], tickets: TaskTickets, update: SharedUpdate, strict: bool = True
) -> SharingOptimizer:
    """The optimiser of an encoder shared by tickets, and of the heads on it.

    Args:
        model: on the device where it is trained; its models are called like the tasks.
        tasks: all of them.
        tickets: on the same encoder.
        update: how weights move.
        strict: move only what the task of a batch selected (`SharingOptimizer`).
    """
    encoder, heads = dict(model.base_model.named_parameters()), model.heads
    owners = {name: name.split(".")[1] for name in heads}  # models.rte.classifier.weight
    return SharingOptimizer({**encoder, **heads}, tasks, tickets.selections, owners, update, strict)


class Sharing:
    """A model that tasks share, on its device, before the first step of one seed.

    Heads are drawn from the seed, each alike whatever other tasks there are. Weights that no ticket keeps are zero.

    Args:
        prepared: what all seeds share; its tickets are known.
        seed: of the heads.
        runtime: device.

    Attributes:
        plms: by task, ordinary models on the one encoder.
        model: all of them.
        tickets: which one computes.
        optimizer: what moves weights.
    """

    def __init__(self, prepared: PreparedSharing, seed: int, runtime: Runtime) -> None:
        settings, names = prepared.settings, list(prepared.tasks)
        load = with_seed(prepared.target.load, seed)
        self.plms: dict[str, PLM] = {name: load_for_task(load, task.task) for name, task in prepared.tasks.items()}
        self.model = SharedEncoder({name: plm.model for name, plm in self.plms.items()})
        self.model.to(choose_device(runtime.device))  # pieces of parameters stay where they are when they are cut
        # The tickets were checked against the base weights before; those of a checkpoint are others.
        self.tickets = TaskTickets(self.model.base_model, prepared.tickets or {}, allow_other_weights=True)
        update = SharedUpdate(
            settings.optimizer or "adamw", float(settings.learning_rate or 0), float(settings.weight_decay or 0)
        )
        self.optimizer: SharingOptimizer = sharing_optimizer(
            self.model, names, self.tickets, update, strict=bool(settings.strict)
        )


class SharingTrainer(TicketTrainer):
    """Every step is one on a batch of one task: with its ticket, moving what it selected.

    Args:
        sharing: the model, its tickets and its optimiser.
        options: what a `TicketTrainer` takes beside the model and the optimiser.
    """

    def __init__(self, sharing: Sharing, **options: Any) -> None:
        super().__init__(model=sharing.model, build_optimizer=lambda model: sharing.optimizer, in_order=True, **options)
        self._sharing = sharing

    def training_step(self, model: Any, inputs: Mapping[str, Any], *rest: Any) -> Any:
        """The forward and the backward pass of one task's batch."""
        (task,) = inputs
        self._sharing.optimizer.select(task)
        with self._sharing.tickets.acting(task):
            return super().training_step(model, inputs, *rest)


def trainer_of(
    prepared: PreparedSharing,
    sharing: Sharing,
    seed: int,
    run: RunDirectory,
    runtime: Runtime,
    evaluations: TrainerCallback,
    advance: Callable[[int, str], None],
) -> SharingTrainer:
    """Everything one seed's training needs, on the tasks' batches in the order of the mixing.

    Args:
        prepared: tasks, tickets and settings.
        sharing: what is trained.
        seed: of the order of examples and tasks, and of dropout.
        run: of the seed.
        runtime: device, precision and checkpoints.
        evaluations: what happens at the end of epochs.
        advance: shows progress.
    """
    settings = prepared.settings
    batches = _batches(prepared, sharing, seed)
    log = StepLog(run, advance)
    trainer = SharingTrainer(
        sharing,
        objective=JointObjective(
            {name: task_losses(task.task, settings.smart) for name, task in prepared.tasks.items()},
            {name: task.task.weight for name, task in prepared.tasks.items()},
        ),
        args=arguments(
            run.scratch,
            runtime,
            max_steps=prepared.steps,
            per_device_train_batch_size=1,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=math.ceil(float(settings.warmup_ratio or 0) * prepared.steps),
            max_grad_norm=settings.max_grad_norm,
            seed=seed,
        ),
        train_dataset=MixedBatches(
            batches,
            {name: found.per_epoch for name, found in batches.items()},
            settings.mixing,
            prepared.steps,
            seed,
            settings.main_task or settings.tasks[0],
            settings.ratio,
        ),
        data_collator=lambda items: items[0],
        callbacks=[log, evaluations, Checkpoints(runtime)],
    )
    log.trainer = trainer
    return trainer


def _batches(prepared: PreparedSharing, sharing: Sharing, seed: int) -> dict[str, TaskBatches]:
    made = {}
    for name, task in prepared.tasks.items():
        plm, examples = sharing.plms[name], train_examples(prepared.settings, task.data, seed)
        encoded = encode_for(plm, examples, task.max_length, task.task.kind, task.doc_stride)
        made[name] = TaskBatches(encoded, collate(plm.tokenizer), task.batch_size, seed)
    return made


class SharedEvaluations(TrainerCallback):  # type: ignore[misc]
    """Evaluates every task with its own ticket at the end of each epoch and of the training, and keeps the records.

    It happens at the end of a step, so that a checkpoint of that step is written after it.

    Args:
        run: records go to its `metrics.jsonl`.
        prepared: the tasks.
        sharing: what is trained.
        runtime: precision.

    Attributes:
        records: of each evaluation the `step`, and by task the metrics (`evaluation`) and whether the predictions say
            nothing (`degenerate`).
    """

    def __init__(self, run: RunDirectory, prepared: PreparedSharing, sharing: Sharing, runtime: Runtime) -> None:
        self.records: list[dict[str, Any]] = []
        self._run, self._prepared, self._sharing, self._bf16 = run, prepared, sharing, runtime.bf16

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Recall the evaluations up to the checkpoint; later ones were dropped from the log just before."""
        self.records = stored_evaluations(self._run)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate where it is due."""
        prepared, step = self._prepared, state.global_step
        if step % prepared.steps_per_epoch and step != prepared.steps:
            return
        found = distributed.on_main(self._measured)
        record = {key: {name: values[key] for name, values in found.items()} for key in ("evaluation", "degenerate")}
        self.records.append({"step": step} | record)
        self._run.log(self.records[-1])

    def _measured(self) -> dict[str, Any]:
        found = {}
        for name, task in self._prepared.tasks.items():
            with self._sharing.tickets.acting(name):
                found[name] = measure(task, self._sharing.plms[name], self._bf16)
        return found

    def of(self, task: str) -> list[dict[str, Any]]:
        """The records of one task, as `best.EvaluationPlan` reads them."""
        return [
            {"step": record["step"]} | {key: record[key][task] for key in ("evaluation", "degenerate")}
            for record in self.records
        ]
