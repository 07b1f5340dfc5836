"""Measure how much the outputs of a model change when one of its layers keeps only its best heads or neurons.

Sums of importances cannot say this: a derivative sees neither what normalization makes up for nor that units of a layer
replace each other. Importances therefore rank the units of a layer well and compare layers badly (docs/results/shrink).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from winning_tickets.config import Runtime
from winning_tickets.models.loading import PLM
from winning_tickets.models.structure import Structure, gated
from winning_tickets.pruning.budget import Losses
from winning_tickets.runs.progress import progress
from winning_tickets.tickets.masking import modes
from winning_tickets.training.objectives.base import Batch
from winning_tickets.training.objectives.distillation import Distillation


def measure_losses(
    plm: PLM,
    structure: Structure,
    objective: Distillation,
    values: Mapping[str, Tensor],
    *,
    sizes: Sequence[int],
    batches: Sequence[Batch],
    runtime: Runtime,
) -> Losses:
    """Return the loss of each layer if it alone keeps 0, 1, ... heads, or as many neurons as `sizes` say.

    Args:
        plm: the dense model; it is also the teacher of `objective`.
        structure: the structure of its encoder.
        objective: compares the outputs of the changed and the dense model.
        values: values of `heads` and `neurons`, `(layers, n)`; the units with the highest values stay.
        sizes: numbers of neurons, from 0 to all of them.
        batches: the inputs of the model.
        runtime: device, precision and progress.
    """
    device = plm.model.device
    modules = [plm.encoder.get_submodule(path) for path in structure.layers]
    kept: dict[str, Sequence[int]] = {"heads": range(structure.num_heads + 1), "neurons": sizes}
    sums = {unit: np.zeros((len(modules), len(counts))) for unit, counts in kept.items()}
    total = len(batches) * len(modules) * sum(len(counts) - 1 for counts in kept.values())
    divisors = dict.fromkeys(objective.weights, 0)
    with ExitStack() as stack:
        stack.enter_context(modes(plm.model, training=False))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=runtime.bf16))
        advance = stack.enter_context(progress("measuring removals", total, quiet=runtime.quiet))
        for batch in batches:
            for name, count in objective.counts(batch).items():
                divisors[name] += int(count)
        done = 0
        for batch in ({name: value.to(device) for name, value in one.items()} for one in batches):
            with _recorded(modules) as computed:
                dense = objective.outputs(plm.model, batch)
            for layer in range(len(modules)):
                # Layers before the changed one return what they computed in the dense pass.
                with _replayed(modules[:layer], computed):
                    for unit, counts in kept.items():
                        order = values[unit][layer].argsort(descending=True, stable=True)
                        for column, number in enumerate(counts[:-1]):
                            gate = torch.zeros(len(order), device=device)
                            gate[order[:number].to(device)] = 1
                            with gated(plm.encoder, structure, {f"layers.{layer}.{unit}": gate}):
                                parts = objective.compare(objective.outputs(plm.model, batch), dense, batch)
                            sums[unit][layer, column] += sum(
                                objective.weights[name] * float(part) / divisors[name] for name, part in parts.items()
                            )
                            advance(done := done + 1, "")
    return Losses(sums["heads"], sums["neurons"])


@contextmanager
def _recorded(modules: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """Yield a list to which the outputs of the modules are added, one after the other."""
    outputs: list[Any] = []
    handles = [module.register_forward_hook(lambda *call: outputs.append(call[-1])) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _replayed(modules: Sequence[nn.Module], outputs: Sequence[Any]) -> Iterator[None]:
    """Let modules return the recorded outputs instead of computing them."""
    for module, output in zip(modules, outputs, strict=False):
        vars(module)["forward"] = lambda *_, output=output, **__: output
    try:
        yield
    finally:
        for module in modules:
            del vars(module)["forward"]
