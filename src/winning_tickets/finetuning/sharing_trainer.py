"""The training of tickets sharing: a batch of a task computes with the task's ticket; evaluations along the way."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.config import Runtime
from winning_tickets.data.encode import make_collator
from winning_tickets.data.mixing import MixedBatches, TaskBatches
from winning_tickets.finetuning.evaluation import Evaluations, evaluate_dev_splits
from winning_tickets.finetuning.sharing_optimizer import SharedUpdate, SharingOptimizer
from winning_tickets.finetuning.sharing_setup import PreparedSharing, train_examples
from winning_tickets.models.device import choose_device
from winning_tickets.models.heads import load_for_task, seeded_loader
from winning_tickets.models.loading import PLM, set_dropout
from winning_tickets.models.structure import Structure, gated
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.tickets.holding import Mask, mask_gradient
from winning_tickets.tickets.selection import write_masked_
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.multitask import JointObjective, SharedEncoder
from winning_tickets.training.objectives.smart import make_task_objective
from winning_tickets.training.trainer import Callback, Checkpoints, StepLog, TicketTrainer, trainer_arguments


class TaskTickets:
    """Tickets by task that share one encoder on its device; a task without a ticket uses the whole encoder."""

    def __init__(self, encoder: nn.Module, tickets: Mapping[str, Ticket], *, allow_other_weights: bool = False) -> None:
        self._encoder = encoder
        self._parameters = dict(encoder.named_parameters())
        self._buffers: dict[str, Tensor] = {}
        self._gates: dict[str, tuple[Structure, dict[str, Tensor]]] = {}
        self._masks: dict[str, dict[str, Tensor]] = {}
        # By task, bool masks by parameter name of the encoder (True = kept), for parameters that are not kept entirely.
        self.selections: dict[str, dict[str, Tensor]] = {}
        at = next(iter(self._parameters.values()))
        for task, ticket in tickets.items():
            ticket.check(encoder, allow_other_weights=allow_other_weights)
            self.selections[task] = {n: mask for n, mask in ticket.masks_on(encoder).items() if not bool(mask.all())}
            if ticket.structure is not None and ticket.prunes_only_units:
                # Gates have the device and type of the hidden states, so that no forward pass has to convert them.
                closing = {n: gate.to(at.device, at.dtype) for n, gate in ticket.gates.items() if not bool(gate.all())}
                self._gates[task] = ticket.structure, closing
            else:
                self._masks[task] = {n: m.to(self._parameters[n].device) for n, m in self.selections[task].items()}

    @contextmanager
    def acting(self, task: str) -> Iterator[None]:
        """Compute with the task's ticket in forward passes inside the block; gradients of pruned weights are zero."""
        # In training, the block contains the forward and the backward pass; the optimizer's step comes after the block.
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
                    stack.callback(parameter.register_post_accumulate_grad_hook(mask_gradient(Mask(mask))).remove)
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


def sharing_optimizer(
    model: SharedEncoder, tasks: Sequence[str], tickets: TaskTickets, update: SharedUpdate, *, strict: bool = True
) -> SharingOptimizer:
    """Return the optimizer of an encoder that tickets share, already on its device, and of its task heads."""
    encoder, heads = dict(model.base_model.named_parameters()), model.heads
    owners = {name: name.split(".")[1] for name in heads}  # models.rte.classifier.weight
    return SharingOptimizer({**encoder, **heads}, tasks, tickets.selections, owners, update=update, strict=strict)


class Sharing:
    """A model that tasks share, on its device, before the first step of one seed."""

    # `plms` are ordinary models by task, on one shared encoder. Each head is initialized from the seed, independently
    # of the other tasks. Weights that no ticket keeps are zero.

    def __init__(self, prepared: PreparedSharing, seed: int, runtime: Runtime) -> None:
        settings, names = prepared.settings, list(prepared.tasks)
        load = seeded_loader(prepared.target.load, seed)
        self.plms: dict[str, PLM] = {name: load_for_task(load, task.task) for name, task in prepared.tasks.items()}
        self.model = SharedEncoder({name: plm.model for name, plm in self.plms.items()})
        if settings.dropout != "model":
            set_dropout(self.model.base_model, settings.dropout)
        self.model.to(choose_device(runtime.device))  # before the optimizer cuts parameters into pieces of their memory
        # The tickets were checked against the base weights before; the weights of a checkpoint differ from these.
        self.tickets = TaskTickets(self.model.base_model, prepared.tickets or {}, allow_other_weights=True)
        update = SharedUpdate(settings.optimizer, prepared.learning_rate, settings.weight_decay)
        self.optimizer = sharing_optimizer(self.model, names, self.tickets, update, strict=settings.strict)

    def acting(self, batch: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Return the context of one task's batch: it uses the task's ticket, and its step updates the kept weights."""
        (task,) = batch
        self.optimizer.select(task)
        return self.tickets.acting(task)


def make_sharing_trainer(
    prepared: PreparedSharing,
    sharing: Sharing,
    seed: int,
    run: RunDirectory,
    *,
    runtime: Runtime,
    evaluations: Callback,
    advance: Callable[[int, str], None],
) -> TicketTrainer:
    """Return the trainer of one seed, with the tasks' batches in the order of the mixing."""
    settings = prepared.settings
    batches = {}
    for name, task in prepared.tasks.items():
        plm = sharing.plms[name]
        encoded = task.encode(plm, train_examples(settings, task.data, seed))
        by_length = settings.group_by_length
        batches[name] = TaskBatches(encoded, make_collator(plm.tokenizer), task.batch_size, seed, by_length=by_length)
    return TicketTrainer(
        model=sharing.model,
        build_optimizer=lambda model: sharing.optimizer,
        acting=sharing.acting,
        objective=JointObjective(
            {name: make_task_objective(task.task, settings.smart) for name, task in prepared.tasks.items()},
            {name: task.task.weight for name, task in prepared.tasks.items()},
        ),
        args=trainer_arguments(
            run.scratch,
            runtime,
            max_steps=prepared.steps,
            learning_rate=prepared.learning_rate,
            warmup_steps=math.ceil(settings.warmup_ratio * prepared.steps),
            max_grad_norm=settings.max_grad_norm,
            seed=seed,
        ),
        batches=MixedBatches(
            batches,
            {name: found.per_epoch for name, found in batches.items()},
            settings.mixing,
            prepared.steps,
            seed=seed,
            main=settings.main_task or settings.tasks[0],
            ratio=settings.ratio,
        ),
        callbacks=[StepLog(run, advance), evaluations, Checkpoints(runtime)],
    )


class SharedEvaluations(Evaluations):
    """Evaluates every task with its own ticket at the end of each epoch and of the training."""

    # Each record has the `step`; by task, the metrics (`evaluation`) and whether the model learned nothing
    # (`degenerate`); and the `average` of the primary metrics, which decides on early stopping.

    def __init__(self, run: RunDirectory, prepared: PreparedSharing, sharing: Sharing, runtime: Runtime) -> None:
        def evaluate() -> dict[str, Any]:
            found = {}
            for name, task in prepared.tasks.items():
                with sharing.tickets.acting(name):
                    found[name] = evaluate_dev_splits(task, sharing.plms[name], bf16=runtime.bf16)
            record: dict[str, Any] = {key: {name: values[key] for name, values in found.items()} for key in _KEYS}
            scores = [prepared.plan(name).score(values) for name, values in record["evaluation"].items()]
            return record | {"average": statistics.fmean(scores)}

        super().__init__(run, prepared.plan(next(iter(prepared.tasks))), evaluate)
        self._together = prepared.settings.best_by == "average"

    def of(self, task: str) -> list[dict[str, Any]]:
        """Return the records of one task, as an `EvaluationPlan` reads them."""
        # With the average, all tasks have their best evaluation at the same step, so it is one and the same model.
        found = []
        for record in self.records:
            own = {"step": record["step"]} | {key: record[key][task] for key in _KEYS}
            if self._together:
                own |= {"average": record["average"], "of_all_tasks": record["degenerate"]}
            found.append(own)
        return found


_KEYS = ("evaluation", "degenerate")
