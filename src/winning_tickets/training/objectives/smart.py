"""SMART: a loss that measures how much outputs change when word embeddings change a little (Jiang et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from winning_tickets.config import Runtime, Smart
from winning_tickets.data.records import Task
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.objectives.base import Batch, Objective
from winning_tickets.training.objectives.task import DISTANCES, TaskObjective

_ORDERS = {"inf": torch.inf, "l2": 2, "l1": 1}


class SmartObjective:
    """The losses of a task plus the change of its outputs under the worst noise nearby."""

    # The noise is added to the word embeddings. It starts at random and follows the gradient of the distance between
    # the outputs with and without it, by normalized steps that are projected back onto the ball (Jiang et al. 2020, eq.
    # 2 and Algorithm 1). Every pass of a batch has the same dropout, so that the noise alone makes the distance. The
    # search for the noise leaves no gradient on the model: only the final distance does, through both outputs.

    def __init__(self, base: TaskObjective, task: Task, settings: Smart) -> None:
        check_smart(task)
        self.weights = {**base.weights, "smart": settings.alpha}
        self._base = base
        self._distance = DISTANCES["mse" if task.is_regression else "symmetric-kl"]
        self._settings = settings

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        counts = self._base.counts(batch)
        if self._settings.alpha > 0:
            # Filled on the device: a number that is copied there makes the host wait.
            counts["smart"] = torch.full((), len(batch["labels"]), device=batch["labels"].device)
        return counts

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        if self._settings.alpha == 0:
            return self._base(model, batch)
        state = _RandomState.now(batch["input_ids"].device)
        logits = self._base.logits(model, batch)
        noise = self._worst_noise(model, batch, logits.detach(), state)
        sums = self._base.sums(logits, batch)
        distance = self._distance.sum(self._perturbed(model, batch, noise, state), logits)
        # The sum is one over examples: squared errors of several outputs count as their mean.
        sums["smart"] = distance * (len(logits) / self._distance.count(logits))
        return sums

    def _worst_noise(self, model: Any, batch: Batch, logits: Tensor, state: _RandomState) -> Tensor:
        """Return the noise `(batch, seq, hidden)`, zero at padding."""
        settings = self._settings
        with torch.no_grad():
            embeddings = model.get_input_embeddings()(batch["input_ids"])
        counted = batch["attention_mask"].unsqueeze(-1).to(embeddings.dtype)
        noise = project(torch.randn_like(embeddings) * settings.noise * counted, settings)
        for _ in range(settings.steps):
            noise.requires_grad_()
            distance = self._distance.sum(self._perturbed(model, batch, noise, state), logits)
            (gradient,) = torch.autograd.grad(distance, noise)
            step = settings.step_size * normalize(gradient * counted, settings)
            noise = project(noise.detach() + step, settings)
        return noise

    def _perturbed(self, model: Any, batch: Batch, noise: Tensor, state: _RandomState) -> Tensor:
        """Return the logits of the batch with noise on its word embeddings, under the dropout of a random state."""
        embeddings = model.get_input_embeddings()(batch["input_ids"])
        inputs = {name: value for name, value in batch.items() if name != "input_ids"}
        with state.replayed():
            return self._base.logits(model, {**inputs, "inputs_embeds": embeddings + noise})


def make_task_objective(task: Task, smart: Smart | None) -> Objective:
    """Make the objective of a task, with SMART where it is configured."""
    losses = TaskObjective(task.kind)
    return losses if smart is None else SmartObjective(losses, task, smart)


def check_precision(runtime: Runtime) -> None:
    """Refuse SMART with a precision that is too coarse for it."""
    if runtime.bf16:
        raise UsageError("--smart and --bf16 contradict each other: its noise is smaller than bfloat16 can tell.")


def check_smart(task: Task) -> None:
    """Refuse SMART on a task that has neither classes nor scores."""
    if task.kind not in ("classification", "regression"):
        raise UsageError(f"--smart needs one class or score per text; the task {task.name} is {task.kind}.")


def normalize(gradient: Tensor, settings: Smart) -> Tensor:
    """Scale a gradient `(batch, seq, hidden)` to norm 1 over each token or sentence; zero stays zero."""
    rows = _rows(gradient, settings)
    norm = torch.linalg.vector_norm(rows, _ORDERS[settings.norm], dim=-1, keepdim=True)
    return (rows / torch.where(norm > 0, norm, 1)).view_as(gradient)


def project(noise: Tensor, settings: Smart) -> Tensor:
    """Project noise `(batch, seq, hidden)` onto the ball of the radius, over each token or sentence."""
    rows, radius = _rows(noise, settings), settings.radius
    if settings.norm == "inf":
        nearest = rows.clamp(-radius, radius)
    elif settings.norm == "l2":
        nearest = rows * (radius / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp(min=radius))
    else:
        nearest = _onto_l1_ball(rows, radius)
    return nearest.view_as(noise)


def _onto_l1_ball(rows: Tensor, radius: float) -> Tensor:
    """Soft-threshold each row so that its absolute values sum to at most the radius (Duchi et al. 2008, Figure 1)."""
    sizes = rows.abs()
    ordered = sizes.sort(dim=-1, descending=True).values
    excess = (ordered.cumsum(-1) - radius) / torch.arange(1, rows.shape[-1] + 1, device=rows.device)
    last = ((ordered > excess).sum(-1, keepdim=True) - 1).clamp(min=0)
    amount = excess.gather(-1, last).clamp(min=0)  # negative inside the ball, which is left as it is
    return rows.sign() * (sizes - amount).clamp(min=0)


def _rows(values: Tensor, settings: Smart) -> Tensor:
    """Return the vectors whose norms are taken, along the last dimension."""
    return values if settings.level == "token" else values.flatten(1)


@dataclass(frozen=True)
class _RandomState:
    """States of the generators that dropout draws from: the CPU's, and that of the GPU of a batch."""

    cpu: Tensor
    gpu: Tensor | None
    device: torch.device

    @classmethod
    def now(cls, device: torch.device) -> Self:
        """Return the present state; GPUs keep theirs on the host, so nothing is read back."""
        gpu = None if device.type == "cpu" else torch.get_device_module(device.type).get_rng_state()
        return cls(torch.get_rng_state(), gpu, device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Repeat the random numbers that followed the state, and leave the generators as they were before."""
        after = type(self).now(self.device)
        try:
            self._restore()
            yield
        finally:
            after._restore()

    def _restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.get_device_module(self.device.type).set_rng_state(self.gpu)  # of the current device
