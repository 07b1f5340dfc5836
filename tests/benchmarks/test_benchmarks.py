"""Benchmarks are not timed in tests, but each variant must take its steps with the library as it is."""

import argparse
import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from winning_tickets.training.objectives.terms import lm_logits

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("variant", ["dense", "mlm_mask", "kd_mask", "in_graph", "selection"])
def test_a_variant_of_the_step_benchmark_takes_steps(monkeypatch, variant, bf16):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import mask_step

    options = argparse.Namespace(
        shape="tiny", batch=2, length=16, dropout=0.0, device="cpu", bf16=bf16, train_embeddings=False
    )
    assert variant in (*mask_step.VARIANTS, "selection")
    step = mask_step.MaskBench(options).make(variant)
    step()
    step()
    forget()


@pytest.mark.parametrize("variant", ["dense", "held", "torch_prune", "units_held", "removed", "mlm", "imp"])
def test_a_variant_of_the_holding_benchmark_takes_steps(monkeypatch, variant):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import hold_step

    options = argparse.Namespace(shape="tiny", batch=2, length=16, dropout=0.1, device="cpu", bf16=False)
    assert variant in hold_step.VARIANTS
    step = hold_step.HoldBench(options).make(variant)
    step()
    step()
    forget()


@pytest.mark.parametrize(
    ("script", "bench", "variant"),
    [
        ("importance", "ImportanceBench", "passes"),
        ("importance", "ImportanceBench", "importance"),
        ("importance", "ImportanceBench", "neurons"),
        ("compact", "CompactBench", "dense"),
        ("compact", "CompactBench", "compact"),
        ("sharing_step", "SharingBench", "multi_task"),
        ("sharing_step", "SharingBench", "no_tickets"),
        ("sharing_step", "SharingBench", "sharing"),
        ("sharing_step", "SharingBench", "weights"),
    ],
)
def test_a_variant_of_a_benchmark_of_structured_tickets_takes_steps(monkeypatch, script, bench, variant):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module(script)
    options = argparse.Namespace(shape="tiny", batch=2, length=16, dropout=0.1, device="cpu", bf16=False)
    assert variant in module.VARIANTS
    step = getattr(module, bench)(options).make(variant)
    step()
    step()
    forget()


@pytest.mark.parametrize("mlm_head", [False, True])
def test_a_step_is_credited_with_three_times_the_products_of_a_forward_pass(monkeypatch, mlm_head):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import mask_step
    from utilisation import model_flops

    bench = mask_step.MaskBench(argparse.Namespace(shape="tiny", batch=3, length=16, dropout=0.0, device="cpu"))
    bench.config._attn_implementation = "eager"  # whose products the counter sees
    plm = bench.plm()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden = plm.encoder(bench.batch["input_ids"]).last_hidden_state
        if mlm_head:
            lm_logits(
                plm.model, plm.architecture, hidden.flatten(0, 1).index_select(0, bench.batch["masked_positions"])
            )
    assert model_flops(bench, plm, mlm_head) == 3 * counter.get_total_flops() > 0
    forget()


def forget():
    for name in (
        "bench",
        "mask_step",
        "hold_step",
        "interleave",
        "in_graph",
        "importance",
        "compact",
        "sharing_step",
        "utilisation",
    ):
        sys.modules.pop(name, None)
