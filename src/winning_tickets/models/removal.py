"""Removal of the closed units and of whole layers from a loaded model, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from winning_tickets.models.compact import compact_
from winning_tickets.models.loading import PLM
from winning_tickets.models.modeling_compact import COMPACT
from winning_tickets.models.structure import Structure, open_units

_NEURON_FIELDS = ("intermediate_size", "hidden_dim")  # of the configuration


def remove_(plm: PLM, gates: Mapping[str, Tensor], structure: Structure) -> list[int]:
    """Remove closed heads, neurons and FFNs, and layers without any; return the layers that stay.

    Where the remaining layers are alike and have all heads, the model keeps its ordinary class and configuration.
    """
    left = [open_units(gates, structure, layer) for layer in range(len(structure.layers))]
    kept = [layer for layer, units in enumerate(left) if bool(units.heads.any() or units.neurons.any())]
    model = plm.model
    if not all(bool(left[layer].heads.all() and left[layer].neurons.all()) for layer in kept):
        compact_(model, gates)
    keep_layers_(plm, kept)
    compact = getattr(model.config, COMPACT, None)
    if compact is not None:
        compact["layers"] = [compact["layers"][layer] for layer in kept]
        compact["paths"]["layers"] = list(structure.layers[: len(kept)])
        sizes = {(len(layer["heads"]), layer["neurons"]) for layer in compact["layers"]}
        if len(sizes) == 1 and sizes == {(structure.num_heads, compact["layers"][0]["neurons"])} and min(sizes)[1]:
            delattr(model.config, COMPACT)
            model.config.auto_map = {}
            field = next(name for name in _NEURON_FIELDS if hasattr(model.config, name))
            setattr(model.config, field, compact["layers"][0]["neurons"])
    return kept


def keep_layers_(plm: PLM, kept: Sequence[int]) -> None:
    """Keep some layers of a model, in their order, and write their number into its configuration."""
    config: Any = plm.model.config
    if list(kept) == list(range(config.num_hidden_layers)):
        return
    parent, _, name = plm.architecture.layers.removesuffix(".*").rpartition(".")
    owner = plm.encoder.get_submodule(parent)
    layers: Any = getattr(owner, name)
    setattr(owner, name, nn.ModuleList(layers[index] for index in kept))
    per_layer = {field: [getattr(config, field)[index] for index in kept] for field in plm.architecture.per_layer}
    config.num_hidden_layers = len(kept)
    for field, values in per_layer.items():
        setattr(config, field, values)


def first_layer_differs(plm: PLM, structure: Structure) -> bool:
    """Return whether the first layer has other parameters than the second one, so that it cannot be left out."""
    names = [{name for name, _ in plm.encoder.get_submodule(path).named_parameters()} for path in structure.layers[:2]]
    return names[0] != names[-1]
