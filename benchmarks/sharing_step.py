"""Cost of a step of tickets sharing compared with plain multi-task fine-tuning: ratios of one run.

    python benchmarks/sharing_step.py --json > result.json

Variants, interleaved step by step, on the same batch of alternating tasks:
  multi_task     four heads on one encoder, fused AdamW over all of them: a plain loop
  no_tickets     the same with the optimizer of tickets sharing, without tickets
  sharing        each task with its own ticket that prunes 30 % of the heads and of the FFNs
  weights        each task with its own ticket of single weights, 30 % of every matrix
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import torch
from transformers import BertForSequenceClassification

from bench import Bench, common_options, run, timings
from interleave import Step
from winning_tickets.finetuning.sharing_optimizer import SharedUpdate
from winning_tickets.finetuning.sharing_trainer import TaskTickets, sharing_optimizer
from winning_tickets.models.architectures import ARCHITECTURES
from winning_tickets.models.loading import PLM, prunable_names
from winning_tickets.models.structure import structure_of
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.multitask import JointObjective, SharedEncoder
from winning_tickets.training.objectives.task import TaskObjective

VARIANTS = ("multi_task", "no_tickets", "sharing", "weights")
PAIRS = {
    "sharing_over_multi_task": ("sharing", "multi_task"),
    "no_tickets_over_multi_task": ("no_tickets", "multi_task"),
    "weights_over_multi_task": ("weights", "multi_task"),
}
TASKS = ("rte", "mrpc", "cola", "stsb")
CLOSED = 0.3


class SharingBench(Bench):
    """The variants on one shape."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.config.hidden_dropout_prob = self.config.attention_probs_dropout_prob = options.dropout
        labels = torch.zeros(options.batch, dtype=torch.long, device=self.device)
        self.batch = self.inputs | {"labels": labels}
        self.objective = JointObjective(
            {task: TaskObjective("classification") for task in TASKS}, dict.fromkeys(TASKS, 1.0)
        )

    def make(self, variant: str) -> Step:
        """A function that does one whole optimizer step of a variant, of the next task at each call."""
        model = self._model()
        return self._plain(model) if variant == "multi_task" else self._shared(model, variant)

    def _model(self) -> SharedEncoder:
        models = {}
        for task in TASKS:
            torch.manual_seed(0)
            models[task] = BertForSequenceClassification(self.config)
        return SharedEncoder(models).to(self.device).train()

    def _backward(self, model: SharedEncoder, task: str) -> None:
        batch = {task: self.batch}
        with self.autocast():
            loss = self.objective(model, batch)[task] / self.objective.counts(batch)[task]
        loss.backward()

    def _plain(self, model: SharedEncoder) -> Step:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        turns = cycle(TASKS)

        def step() -> None:
            self._backward(model, next(turns))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    def _shared(self, model: SharedEncoder, variant: str) -> Step:
        made = {task: self._ticket(model, variant, seed) for seed, task in enumerate(TASKS)}
        tickets = TaskTickets(model.base_model, {} if variant == "no_tickets" else made, allow_other_weights=True)
        optimizer = sharing_optimizer(model, TASKS, tickets, SharedUpdate("adamw", 1e-5, 0.01))
        turns = cycle(TASKS)

        def step() -> None:
            task = next(turns)
            optimizer.select(task)
            with tickets.acting(task):
                self._backward(model, task)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    def _ticket(self, model: SharedEncoder, variant: str, seed: int) -> Ticket:
        """Heads and FFNs, or single weights, drawn at random."""
        plm = PLM(model.models[TASKS[0]], None, ARCHITECTURES["bert"], "benchmark", None, None, True)
        generator = torch.Generator().manual_seed(seed)
        base = BaseModelInfo(name="benchmark", model_type="bert", hash="0", tensors={})
        info = TicketInfo(method="random", scope="encoder", config={}, applies_to=base, seed=seed)
        if variant == "weights":
            parameters: Mapping[str, Any] = dict(plm.encoder.named_parameters())
            shapes = {name: parameters[name].shape for name in prunable_names(plm, "encoder")}
            masks = {name: torch.rand(shape, generator=generator) >= CLOSED for name, shape in shapes.items()}
            return Ticket(masks, info)
        structure = structure_of(plm)
        gates = {}
        for gate, unit in (("heads", "heads"), ("ffn", "ffns")):
            total = structure.size(unit)
            kept = torch.ones(total, dtype=torch.bool)
            kept[torch.randperm(total, generator=generator)[: int(CLOSED * total)]] = False
            pieces = kept.split(structure.per_layer(unit))
            gates |= {f"layers.{layer}.{gate}": piece.clone() for layer, piece in enumerate(pieces)}
        return Ticket({}, info, gates=gates, structure=structure)


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    bench = SharingBench(options)
    steps = {variant: bench.make(variant) for variant in VARIANTS}
    return {"tasks": len(TASKS), "closed": CLOSED} | timings(bench, steps, PAIRS)


if __name__ == "__main__":
    run(common_options(__doc__, dropout=0.1), report)
