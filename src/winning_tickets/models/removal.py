"""Removal of closed units and whole layers from a loaded model, in place, and writing its weights back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.models.compact import compact_, indices_of, paths_of, size_of
from winning_tickets.models.loading import PLM
from winning_tickets.models.modeling_compact import COMPACT, shrink_
from winning_tickets.models.structure import OpenUnits, Structure, open_units


@dataclass(frozen=True)
class Removed:
    """The closed units that an encoder has lost, recorded so that its weights can be written into the full one."""

    paths: dict[str, Any]  # as `shrink_` takes them
    kept: tuple[OpenUnits, ...]  # the units that each layer keeps

    @torch.no_grad()
    def write_back_(self, full: Any, small: Any) -> None:
        """Write the weights of a model that has lost units, with its embeddings and its head, into the full model.

        Lost entries become zero, including rows of DeBERTa's projections of positions, which no mask covers.
        """
        full_state = small.state_dict()
        prefix = next(f"{name}." if name else "" for name, one in full.named_modules() if one is full.base_model)
        for index, path in enumerate(self.paths["layers"]):
            places = self._places(full.base_model, index)
            for name, parameter in full.base_model.get_submodule(path).named_parameters():
                whole, own = torch.zeros_like(parameter), f"{prefix}{path}.{name}"
                if name in places:
                    whole.view(-1)[places[name].flatten()] = full_state[own].flatten().to(whole.device)
                full_state[own] = whole
        full.load_state_dict(full_state)

    def _places(self, encoder: nn.Module, index: int) -> dict[str, Tensor]:
        """Return, for each parameter of a layer that lost units, the places of its entries in the full parameter."""
        # In a copy of the full layer, every weight is replaced by its own place; removal leaves the places of the rest.
        layer = encoder.get_submodule(self.paths["layers"][index])
        numbered = {
            id(one): nn.Parameter(torch.arange(one.numel()).view(one.shape), requires_grad=False)
            for one in layer.parameters()
        }
        alone = nn.ModuleList([copy.deepcopy(layer, numbered)])
        _keep_units_(alone, self.paths | {"layers": ["0"]}, self.kept[index : index + 1])
        return dict(alone[0].named_parameters())


def remove_closed_(encoder: nn.Module, structure: Structure, gates: Mapping[str, Tensor]) -> Removed:
    """Remove the units that gates close from an encoder, in place.

    The encoder then computes and learns the same as the full encoder with zeros in their place that stay zero.
    """
    kept = tuple(open_units(gates, structure, layer) for layer in range(len(structure.layers)))
    removed = Removed(paths_of(structure, encoder), kept)
    _keep_units_(encoder, removed.paths, kept)
    return removed


def _keep_units_(encoder: nn.Module, paths: dict[str, Any], kept: Sequence[OpenUnits]) -> None:
    compact = {"paths": paths, "layers": [size_of(one) for one in kept]}
    shrink_(encoder, compact, [indices_of(one.neurons) for one in kept])


def remove_(plm: PLM, gates: Mapping[str, Tensor], structure: Structure) -> list[int]:
    """Remove closed heads, neurons and FFNs, and layers that have none left; return the layers that stay.

    If the remaining layers are alike and have all heads, the model keeps its ordinary class and configuration.
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
            setattr(model.config, plm.architecture.ffn_size, compact["layers"][0]["neurons"])
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
