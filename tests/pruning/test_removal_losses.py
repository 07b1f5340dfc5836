"""Measured losses of smaller layers, against passes of the whole model with the same units closed."""

import numpy as np
import pytest
import torch

from samples.tiny_models import make_model
from winning_tickets import Runtime
from winning_tickets.models.loading import load_plm
from winning_tickets.models.structure import gated, structure_of
from winning_tickets.pruning.removal_losses import measure_losses
from winning_tickets.training.objectives.distillation import Distillation

QUIET = Runtime(quiet=True, device="cpu")


@pytest.mark.parametrize("kind", ["bert", "distilbert", "deberta-v2", "modernbert"])
def test_losses_are_those_of_whole_passes(tmp_path, kind):
    make_model(tmp_path / kind, kind, "none")
    plm = load_plm(str(tmp_path / kind))
    plm.model.train()
    structure = structure_of(plm)
    layers, neurons = len(structure.layers), structure.intermediate_size
    generator = torch.Generator().manual_seed(0)
    values = {unit: torch.rand(layers, structure.per_layer(unit), generator=generator) for unit in ("heads", "neurons")}
    batches = [{"input_ids": torch.randint(5, 30, (2, length), generator=generator)} for length in (4, 7)]
    for batch in batches:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batches[1]["attention_mask"][0, 5:] = 0
    objective = Distillation({"states": 1.0, "pooled": 2.0}, plm.architecture, plm.model, [layers - 1])
    sizes = (0, neurons // 2, neurons)
    found = measure_losses(plm, structure, objective, values, sizes=sizes, batches=batches, runtime=QUIET)
    assert plm.model.training
    assert found.heads.shape == (layers, structure.num_heads + 1)
    assert found.neurons.shape == (layers, 3)
    assert not found.heads[:, -1].any()
    assert not found.neurons[:, -1].any()

    model = plm.model.eval()
    tokens, texts = 20, 4
    for unit, numbers, losses in (("heads", (0, 1), found.heads), ("neurons", sizes, found.neurons)):
        for layer in range(layers):
            for column, number in enumerate(numbers[:2]):
                gate = torch.zeros(structure.per_layer(unit))
                gate[values[unit][layer].topk(number).indices] = 1
                expected = 0.0
                for batch in batches:
                    mask = batch["attention_mask"][..., None]
                    with torch.no_grad():
                        dense = model(**batch).last_hidden_state
                        with gated(plm.encoder, structure, {f"layers.{layer}.{unit}": gate}):
                            own = model(**batch).last_hidden_state
                    apart = 1 - torch.cosine_similarity(own, dense, dim=-1)
                    means = [(states * mask).sum(1) / mask.sum(1) for states in (own, dense)]
                    pooled = 1 - torch.cosine_similarity(*means, dim=-1)
                    expected += float((apart * mask[..., 0]).sum()) / tokens + 2 * float(pooled.sum()) / texts
                np.testing.assert_allclose(losses[layer, column], expected, rtol=1e-4, atol=1e-6)
