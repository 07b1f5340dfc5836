"""Prune MiniLM with Torch-Pruning, and recover it as compare.py does: python peer.py DATA OUT [ROW...].

Needs `pip install torch-pruning`. Its pruner chooses and ranks heads and neurons by itself, with one ratio for both, as
in its example for BERT (examples/transformers/prune_hf_bert.py); bisection finds the ratio with which the model takes
at most half of the time by raw/costs.json. Each row becomes OUT/ROW.json, and OUT/ROW/model where the width stays.
"""

import argparse
import copy
import dataclasses
import json
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch_pruning
from compare import COMMON, RAW, config_of, recovered, sizes_of
from pydantic import TypeAdapter
from torch import nn

from winning_tickets.deploy import measure
from winning_tickets.deploy.costs import CostTable
from winning_tickets.finetuning.shrink_source import ShrinkSource
from winning_tickets.models.loading import PLM
from winning_tickets.models.removal import remove_
from winning_tickets.models.structure import structure_of
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.tickets.masking import modes
from winning_tickets.training.saved_model import save_folder

# What its examples do: for BERT magnitudes that are ranked over all layers; for ViT Taylor, one ratio in each layer.
# `hidden` also prunes the width of the states, as the example for BERT does. States and embeddings then have another
# width than the dense model's, and of the losses only the similarity matrix can be compared.
MAGNITUDE = {"importance": "magnitude", "ranking": "global"}
TAYLOR = {"importance": "taylor", "ranking": "local"}
ROWS: dict[str, tuple[dict, dict]] = {
    "peer-magnitude": (MAGNITUDE, {}),
    "peer-taylor": (TAYLOR, {}),
    "peer-taylor-global": (TAYLOR | {"ranking": "global"}, {}),
    "peer-hidden": (MAGNITUDE | {"hidden": True}, {"losses": "similarity"}),
    "peer-magnitude-no-recovery": (MAGNITUDE, {"steps": 0}),
    "peer-taylor-no-recovery": (TAYLOR, {"steps": 0}),
    "peer-taylor-global-no-recovery": (TAYLOR | {"ranking": "global"}, {"steps": 0}),
    "peer-taylor-global-320": (TAYLOR | {"ranking": "global"}, {"steps": 320}),
}
TRIES = 12  # of the bisection for the ratio


def gradients(source: ShrinkSource, batches: int) -> list[torch.Tensor | None]:
    """The gradients of the parameters that Taylor importances need, summed over batches."""
    # There are no labels, and the losses of the recovery are flat at the dense model: what is differentiated is the
    # random projection of the states that the importances of `shrink` come from.
    model = copy.deepcopy(source.plm.model).requires_grad_(True)
    probe = source.probe(0)
    with modes(model, training=False):
        for index in range(batches):
            sum(probe(model, source.batches[index]).values()).backward()
    return [value.grad for value in model.parameters()]


def pruned(plm: PLM, how: dict, ratio: float, grads: list[torch.Tensor | None]) -> tuple[PLM, dict[str, torch.Tensor]]:
    """A model that Torch-Pruning has pruned, and the heads and neurons that stay in each layer as gates."""
    small = dataclasses.replace(plm, model=copy.deepcopy(plm.model).requires_grad_(True).eval())
    for value, grad in zip(small.model.parameters(), grads, strict=False):
        value.grad = None if grad is None else grad.clone()
    layers = small.model.encoder.layer
    heads = {}
    for layer in layers:
        attention = layer.attention.self
        heads |= dict.fromkeys((attention.query, attention.key, attention.value), attention.num_attention_heads)
    importances = {
        "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
        "taylor": torch_pruning.importance.GroupTaylorImportance,
    }
    pruner = torch_pruning.pruner.BasePruner(
        small.model,
        dict(plm.tokenizer("Hello, my dog is cute", return_tensors="pt")),
        importance=importances[how["importance"]](),
        global_pruning=how["ranking"] == "global",
        pruning_ratio=ratio,
        head_pruning_ratio=ratio,
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=False,
        output_transform=lambda output: output.pooler_output.sum(),
        # One output that stays keeps the width of the states in the whole model.
        ignored_layers=[small.model.pooler, *(() if how.get("hidden") else [layer.output.dense for layer in layers])],
    )
    removed: dict[nn.Module, list[int]] = {}
    for group in pruner.step(interactive=True):
        dependency, indices = group[0]
        removed[dependency.target.module] = list(indices)
        group.prune()
    gates = {}
    for index, layer in enumerate(layers):
        attention = layer.attention.self
        open_heads = torch.ones(attention.num_attention_heads, attention.attention_head_size, dtype=torch.bool)
        open_heads.view(-1)[removed.get(layer.attention.output.dense, [])] = False
        neurons = torch.ones(plm.model.config.intermediate_size, dtype=torch.bool)
        neurons[removed.get(layer.intermediate.dense, [])] = False
        gates |= {f"layers.{index}.heads": open_heads.all(1), f"layers.{index}.neurons": neurons}
        attention.all_head_size = attention.query.out_features
        attention.num_attention_heads = attention.all_head_size // attention.attention_head_size
    small.model.config.hidden_size = small.model.embeddings.LayerNorm.weight.numel()
    return small, gates


def row(data: Path, out: Path, name: str, table: CostTable) -> dict:
    """Prune, recover and measure one small model."""
    how, changes = ROWS[name]
    config = config_of(data, out, "nli", COMMON | changes)
    started = time.process_time()
    source = ShrinkSource.find(config)
    grads = gradients(source, config.importance_batches) if how["importance"] == "taylor" else []
    dense = measure.forward_flops(source.plm, *config.shape)

    def operations(small: PLM) -> float:
        return measure.forward_flops(small, *config.shape) / dense

    # The table knows nothing of the width of the states; there operations count.
    low, high = 0.0, 1.0
    for _ in range(TRIES):
        middle = (low + high) / 2
        small, gates = pruned(source.plm, how, middle, grads)
        cost = operations(small) if how.get("hidden") else table.of(sizes_of(gates, table.layers))
        low, high = (low, middle) if cost <= 1 / config.speedup[0] else (middle, high)
    small, gates = pruned(source.plm, how, high, grads)
    sizes = sizes_of(gates, table.layers)
    share = operations(small)
    if not how.get("hidden"):  # the same model of the class that can be saved and loaded
        compact = copy.deepcopy(source.plm)
        remove_(compact, gates, structure_of(source.plm))
        batch = source.held_out[0]
        with modes(compact.model, training=False), torch.no_grad():
            torch.testing.assert_close(
                compact.model(**batch).last_hidden_state, small.model(**batch).last_hidden_state, rtol=0, atol=1e-4
            )
        small = compact
    chosen = time.process_time()
    found = recovered(
        data, config, source, small, list(range(table.layers)), RunDirectory(out / name, "unfinished", name)
    )
    if not how.get("hidden"):
        save_folder(small.model, small.tokenizer, out / name / "model")
    found["cpu_seconds"] = {"choose": chosen - started} | found["cpu_seconds"]
    found["versions"] |= {"torch-pruning": version("torch-pruning")}
    return {
        "row": name,
        "asked": COMMON | changes,
        "peer": how | {"ratio": high},
        "layers": sizes,
        "hidden_size": small.model.config.hidden_size,
        "time_by_table": None if how.get("hidden") else table.of(sizes),
        "operations": share,
    } | found


def main() -> None:
    """Make the rows that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("rows", nargs="*", default=list(ROWS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    stored = json.loads((RAW / "costs.json").read_text())
    table = TypeAdapter(CostTable).validate_python(stored, extra="ignore")
    # Torch-Pruning leaves any number of neurons: between those that were timed the time is taken to be linear.
    numbers = range(table.sizes[-1] + 1)
    neurons = tuple(np.interp(numbers, table.sizes, table.neurons).tolist())
    table = dataclasses.replace(table, sizes=tuple(numbers), neurons=neurons)
    for name in options.rows:
        file = options.out / f"{name}.json"
        if not file.is_file():
            file.write_text(json.dumps(row(options.data, options.out, name, table), indent=2) + "\n")


if __name__ == "__main__":
    main()
