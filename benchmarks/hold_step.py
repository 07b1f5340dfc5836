"""Cost of holding a ticket in a training step and of a step of iterative pruning: ratios of one run.

    python benchmarks/hold_step.py --json > result.json

Variants, interleaved step by step:
  dense        fine-tuning all weights with fused AdamW, gradients clipped
  held         the same with a 70 % ticket held: gradients masked before clipping, pruned weights zero after each step
  torch_prune  the same with torch.nn.utils.prune, which keeps weight_orig and multiplies by the mask in each forward
  units_held   the same with a ticket without half of the heads and FFNs, held as zeros
  removed      the same with these heads and FFNs removed from the model, as `tickets transfer` and `super` do it
  mlm          training all weights on MLM, a plain loop
  imp          a step of `--method imp` on MLM inside a round, with the same ticket
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch.nn.utils import prune
from transformers import BertForMaskedLM, BertForSequenceClassification

from bench import Bench, common_options, run, timings
from interleave import Step
from winning_tickets import Ticket
from winning_tickets.config import SearchConfig
from winning_tickets.models.architectures import ARCHITECTURES, prunable_views
from winning_tickets.models.loading import PLM, prunable_names, set_dropout
from winning_tickets.models.structure import structure_of
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.holding import Held, hold
from winning_tickets.tickets.selection import keep_top
from winning_tickets.training.multitask import JointObjective, SharedEncoder
from winning_tickets.training.objectives.pretraining import PretrainingObjective
from winning_tickets.training.objectives.terms import lm_logits
from winning_tickets.training.trainer import FiniteSteps

VARIANTS = ("dense", "held", "torch_prune", "units_held", "removed", "mlm", "imp")
PAIRS = {
    "held_over_dense": ("held", "dense"),
    "torch_prune_over_dense": ("torch_prune", "dense"),
    "units_held_over_dense": ("units_held", "dense"),
    "removed_over_dense": ("removed", "dense"),
    "imp_over_mlm": ("imp", "mlm"),
}
SPARSITY = 0.7


class HoldBench(Bench):
    """The variants on one shape."""

    def make(self, variant: str) -> Step:
        """A function that does one whole optimizer step of a variant."""
        return self._imp() if variant == "imp" else self._mlm() if variant == "mlm" else self._fine_tuning(variant)

    def _model(self, kind: Any) -> Any:
        torch.manual_seed(0)
        model = kind(self.config).to(self.device)
        set_dropout(model, self.options.dropout)
        return model.train()

    def _ticket(self, model: Any, units: bool = False) -> Ticket:
        plm = PLM(model, None, ARCHITECTURES["bert"], "benchmark", None, None, True)
        masks: dict[str, torch.Tensor] = {}
        structure, gates = structure_of(plm), {}
        if units:
            # Every second head of each layer, and every second FFN.
            for layer in range(len(structure.layers)):
                gates[f"layers.{layer}.heads"] = torch.arange(structure.num_heads) % 2 > 0
                gates[f"layers.{layer}.ffn"] = torch.tensor([layer % 2 > 0])
        else:
            weights = prunable_views(model.base_model, prunable_names(plm))
            masks = keep_top({name: weight.abs() for name, weight in weights.items()}, SPARSITY)
        config = SearchConfig(model="benchmark", method="magnitude").model_dump(mode="json")
        base = BaseModelInfo.of(model.base_model, "benchmark", "bert", None, layers=None)
        info = TicketInfo(
            method="magnitude", scope="encoder+embeddings", config=config, applies_to=base, seed=0, step=None
        )
        return Ticket({name: mask.cpu() for name, mask in masks.items()}, info, None, gates, structure=structure)

    def _fine_tuning(self, variant: str) -> Step:
        model = self._model(BertForSequenceClassification)
        labels = torch.zeros(self.options.batch, dtype=torch.long, device=self.device)
        ticket = self._ticket(model, units=variant in ("units_held", "removed"))
        if variant == "removed":
            ticket.remove_units_(model.base_model)
        if variant == "torch_prune":
            for name, mask in ticket.masks.items():
                module = model.base_model.get_submodule(name.removesuffix(".weight"))
                prune.custom_from_mask(module, "weight", mask.to(self.device))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        if variant in ("held", "units_held"):
            hold(model, ticket, optimizer)

        def step() -> None:
            with self.autocast():
                logits = model(**self.inputs).logits
            torch.nn.functional.cross_entropy(logits.float(), labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    def _mlm(self) -> Step:
        model = self._model(BertForMaskedLM)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

        def step() -> None:
            with self.autocast():
                hidden = model.base_model(self.batch["input_ids"]).last_hidden_state
                logits = lm_logits(
                    model, ARCHITECTURES["bert"], hidden.flatten(0, 1).index_select(0, self.batch["masked_positions"])
                )
                loss = torch.nn.functional.cross_entropy(logits, self.batch["masked_ids"])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    def _imp(self) -> Step:
        alone = self._model(BertForMaskedLM)
        ticket = self._ticket(alone)
        model = SharedEncoder({"mlm": alone})
        objective = JointObjective({"mlm": PretrainingObjective({"mlm": 1.0}, ARCHITECTURES["bert"])}, {"mlm": 1.0})
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        held = Held(model, ticket)
        batch = {"mlm": self.batch}
        finite = FiniteSteps(skip=False)

        def step() -> None:
            with self.autocast():
                loss = objective(model, batch)["mlm"] / objective.counts(batch)["mlm"]
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            value, found = torch.stack([loss.detach(), norm]).tolist()  # one read-back
            finite.check(1, {"mlm": value}, found, optimizer)
            optimizer.step()
            held.zero_()
            optimizer.zero_grad()

        return step


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    bench = HoldBench(options)
    return {"sparsity": SPARSITY} | timings(bench, {variant: bench.make(variant) for variant in VARIANTS}, PAIRS)


if __name__ == "__main__":
    run(common_options(__doc__, dropout=0.1), report)
