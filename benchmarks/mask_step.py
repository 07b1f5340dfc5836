"""Cost of a mask-training step compared with a dense fine-tuning step: time and peak memory, ratios of one run.

    python benchmarks/mask_step.py --json > result.json

Variants, interleaved step by step so machine noise affects all equally:
  dense     fine-tuning all weights with AdamW and the MLM loss at masked positions only
  mlm_mask  mask training, MLM objective (frozen weights, decoder untied and dense, head trained)
  kd_mask   mask training, KD objective (one more forward pass, of the teacher)
  in_graph  masked modules in the graph, embeddings among them, and a full MLM head: the straightforward way
  alike     the same with the embedding mask fixed and a fused AdamW, as in `mlm_mask`
  selection the masks alone, from the scores of `kd_mask`
The settings of the mask steps are those of a search (`tuned`), and they check for NaN as its steps do. All have
the same dropout. Utilization is the speed of the model's products relative to one large product. Peak memory is that of
one process per variant, above the level before the model loads.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch
from transformers import BertForMaskedLM

from bench import Bench, common_options, run, timings
from in_graph import mask_in_graph
from interleave import Step
from memory import measured_apart, peak_of
from utilisation import model_flops, product_flops_a_second
from winning_tickets.config import SearchConfig
from winning_tickets.models.architectures import ARCHITECTURES, prunable_views
from winning_tickets.models.lm_head import head_without_decoder, untie_decoder
from winning_tickets.models.loading import PLM, prunable_names, set_dropout
from winning_tickets.models.twin import make_twin
from winning_tickets.pruning.mask_optimizer import MaskOptimizer, buffer_order, rank_scores
from winning_tickets.pruning.mask_training import freeze_all_but
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.tickets.selection import keep_top
from winning_tickets.training.objectives.pretraining import PretrainingObjective
from winning_tickets.training.objectives.terms import lm_logits
from winning_tickets.training.trainer import FiniteSteps

VARIANTS = ("dense", "mlm_mask", "kd_mask", "in_graph", "alike")
PAIRS = {
    "mlm_mask_over_dense": ("mlm_mask", "dense"),
    "kd_mask_over_dense": ("kd_mask", "dense"),
    "in_graph_over_mlm_mask": ("in_graph", "mlm_mask"),
    "alike_over_mlm_mask": ("alike", "mlm_mask"),
    "selection_over_kd_mask": ("selection", "kd_mask"),
}
SPARSITY = 0.6
PAPER_STEPS, PAPER_SECONDS = 22_000, 3 * 3600 + 55 * 60


class MaskBench(Bench):
    """The variants on one shape."""

    def plm(self) -> PLM:
        """A fresh model with the same random weights every time."""
        torch.manual_seed(0)
        model = BertForMaskedLM(self.config).to(self.device)
        set_dropout(model, self.options.dropout)
        return PLM(model.train(), None, ARCHITECTURES["bert"], "benchmark", None, None, True)

    def make(self, variant: str) -> Step:
        """A function that does one whole optimizer step of a variant."""
        if variant in ("mlm_mask", "kd_mask"):
            return self._mask(variant.removesuffix("_mask"))
        if variant == "selection":
            return self._selection()
        return self._dense() if variant == "dense" else self._in_graph(alike=variant == "alike")

    def _dense(self) -> Step:
        plm = self.plm()
        optimizer = torch.optim.AdamW(plm.model.parameters(), lr=1e-5, fused=True)

        def step() -> None:
            with self.autocast():
                hidden = plm.model.base_model(self.batch["input_ids"]).last_hidden_state
                logits = lm_logits(
                    plm.model, plm.architecture, hidden.flatten(0, 1).index_select(0, self.batch["masked_positions"])
                )
                loss = torch.nn.functional.cross_entropy(logits, self.batch["masked_ids"])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plm.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    def _optimizer(self, objective_name: str) -> tuple[PLM, MaskOptimizer]:
        """A model that computes with W * M, and the optimizer of a search."""
        plm = self.plm()
        names = prunable_names(plm)
        trained = names if self.options.train_embeddings else [n for n in names if "embeddings" not in n]
        config = self._search(objective_name)
        shapes = {name: view.shape for name, view in prunable_views(plm.encoder, trained).items()}
        masked = MaskedWeights(plm.encoder, names, buffer_order(shapes, config.ranking))
        head = {}
        if objective_name == "mlm":
            untie_decoder(plm, masked.dense_weights.get(plm.architecture.word_embeddings))
            head = head_without_decoder(plm)
        freeze_all_but(plm.model, [masked.parameters[n] for n in trained] + list(head.values()))
        # As `activation`, which would need a corpus.
        importance = {n: w.abs() for n, w in masked.dense_weights.items()}
        scores = rank_scores(importance, config.ranking, config.alpha * config.phi)
        masked.write(keep_top(scores, SPARSITY, config.ranking, weights=masked.dense_weights))
        return plm, MaskOptimizer(masked, {n: scores[n] for n in trained}, head, config)

    def _mask(self, objective_name: str) -> Step:
        plm, optimizer = self._optimizer(objective_name)
        teacher = make_twin(plm.model, optimizer.masked.dense_weights) if objective_name == "kd" else None
        objective = PretrainingObjective({objective_name: 1.0}, plm.architecture, teacher)
        finite = FiniteSteps(skip=False)

        def step() -> None:
            with self.autocast():
                total = objective(plm.model, self.batch)[objective_name]
                loss = total / objective.counts(self.batch)[objective_name]
            loss.backward()
            found, norm = torch.stack([loss.detach().float(), optimizer.gradient_norm()]).tolist()
            finite.check(1, {objective_name: found}, norm, optimizer)
            optimizer.step()
            plm.model.zero_grad()

        return step

    def _selection(self) -> Step:
        optimizer = self._optimizer("kd")[1]
        return lambda: bool(optimizer.masks(exact=True))

    def _search(self, objective_name: str) -> SearchConfig:
        """The product's settings of a search."""
        return SearchConfig(
            model="benchmark", method="mask-training", objective=objective_name, sparsity=SPARSITY
        ).resolved()

    def _in_graph(self, alike: bool) -> Step:
        plm = self.plm()
        decoder = plm.model.cls.predictions.decoder
        decoder.weight = torch.nn.Parameter(decoder.weight.detach().clone(), requires_grad=False)
        fixed = {plm.architecture.word_embeddings} if alike and not self.options.train_embeddings else set()
        masked = mask_in_graph(plm.model, prunable_names(plm), SPARSITY, fixed)
        for name, parameter in plm.model.cls.named_parameters():
            parameter.requires_grad_("decoder.weight" not in name)
        trained = [p for p in plm.model.parameters() if p.requires_grad]
        labels = torch.full_like(self.batch["input_ids"], -100).flatten()
        labels[self.batch["masked_positions"]] = self.batch["masked_ids"]
        optimizer = torch.optim.AdamW(trained, lr=5e-5, weight_decay=0.0, fused=alike or None)

        def step() -> None:
            with self.autocast():
                logits = plm.model(self.batch["input_ids"]).logits
                loss = torch.nn.functional.cross_entropy(logits.view(-1, logits.size(-1)).float(), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            for module in masked:
                module.reset_threshold()
            plm.model.zero_grad()

        return step


def peak_memory(options: argparse.Namespace) -> dict[str, int]:
    """Peak bytes of each variant above the level before its model loads, each in its own process."""
    return {variant: measured_apart(__file__, [*sys.argv[1:], "--peak-of", variant]) for variant in VARIANTS}


def peak_of_steps(options: argparse.Namespace) -> int:
    """Peak bytes of a few steps of one variant in this process."""
    bench = MaskBench(options)

    def work() -> None:
        step = bench.make(options.peak_of)
        for _ in range(3):
            step()

    return peak_of(work, bench.device)


def operators(options: argparse.Namespace) -> dict[str, Any]:
    """Return the milliseconds of a step that each operator takes itself, of the dense and the mask steps."""
    bench, found = MaskBench(options), {}
    for variant in ("dense", "mlm_mask", "kd_mask"):
        step = bench.make(variant)
        for _ in range(options.warm_up):
            step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(options.rounds):
                step()
        times = {one.key: one.self_cpu_time_total / 1000 / options.rounds for one in profile.key_averages()}
        found[variant] = {"all": sum(times.values())} | dict(sorted(times.items(), key=lambda one: -one[1])[:20])
    return {"operator_ms_a_step": found}


def selection_alone(options: argparse.Namespace) -> dict[str, Any]:
    """Time the selection of all masks beside a KD step, without the other variants."""
    bench, pair = MaskBench(options), "selection_over_kd_mask"
    return timings(bench, {name: bench.make(name) for name in PAIRS[pair]}, {pair: PAIRS[pair]})


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    bench = MaskBench(options)
    found = timings(bench, {variant: bench.make(variant) for variant in (*VARIANTS, "selection")}, PAIRS)
    plm = bench.plm()
    flops = {variant: model_flops(bench, plm, mlm_head=variant != "kd_mask") for variant in VARIANTS}
    speeds = {variant: 1000 * flops[variant] / found["ms_a_step"][variant] for variant in VARIANTS}
    product = product_flops_a_second(bench)
    peaks = peak_memory(options)
    return found | {
        "model_flops_a_step": flops,
        "model_flops_a_second": speeds,
        "product_flops_a_second": product,
        "utilisation": {variant: speed / product for variant, speed in speeds.items()},
        "train_embeddings": options.train_embeddings,
        "peak_bytes": peaks,
        "peak_ratios": {variant: peaks[variant] / peaks["dense"] for variant in VARIANTS if variant != "dense"},
        "paper": {
            "steps": PAPER_STEPS,
            "seconds_on_a_v100": PAPER_SECONDS,
            "seconds_here_at_this_shape": PAPER_STEPS * found["ms_a_step"]["mlm_mask"] / 1000,
        },
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = common_options(__doc__, dropout=0.0)
    parser.add_argument("--train-embeddings", action="store_true", help="train the embedding mask too")
    parser.add_argument("--operators", action="store_true", help="where the time of a step goes, and nothing else")
    parser.add_argument("--selection-alone", action="store_true", help="the selection beside a KD step, nothing else")
    parser.add_argument("--peak-of", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(peak_of_steps(options))
    elif options.operators:
        print(json.dumps(operators(options), indent=2))
    else:
        run(parser, selection_alone if options.selection_alone else report)


if __name__ == "__main__":
    main()
