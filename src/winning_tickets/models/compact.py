"""Compaction: removes heads, neurons and FFNs that contribute nothing, so that matrices become smaller."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.models.architectures import ARCHITECTURES, module_of
from winning_tickets.models.loading import CLASSES, PLM, Head, load_plm
from winning_tickets.models.modeling_compact import COMPACT, PREFIX, compact_class, shrink_
from winning_tickets.models.structure import OpenUnits, Structure, open_units, structure_of
from winning_tickets.runs.errors import UsageError, unknown
from winning_tickets.runs.files import read_object


def compact_(model: Any, gates: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Make a model smaller without changing what it computes, in place."""
    # A head, a neuron or an FFN is removed if its weights are zeros such that it contributes nothing, or if its gate is
    # closed. A layer without heads keeps the bias of the attention's output, a layer without FFN nothing of it.
    #
    # Returns the entry of the configuration: `paths` and, for each of the `layers`, `heads`, `neurons`, `ffn`.
    config, encoder = model.config, model.base_model
    if config.model_type not in ARCHITECTURES:
        raise unknown("architecture", config.model_type, ARCHITECTURES)
    name = config.name_or_path or type(model).__name__
    # Find the units that contribute something, layer by layer.
    plm = PLM(model, None, ARCHITECTURES[config.model_type], name, None, None, has_mlm_head=False)
    structure = structure_of(plm)
    paths = _paths(structure, encoder)
    layers = [
        _live(encoder.get_submodule(path), paths, config, open_units(gates or {}, structure, index))
        for index, path in enumerate(structure.layers)
    ]
    if all(kept.ffn and bool(kept.heads.all()) and bool(kept.neurons.all()) for kept in layers):
        raise UsageError(
            "Nothing can be removed: no head, neuron or FFN is pruned as a whole, the zeros are scattered. "
            "Use --format masked, or make a ticket with a structured method."
        )
    # The configuration records the sizes, so that a loader can build the same layers before it reads the weights.
    compact = {
        "paths": paths,
        "layers": [
            {"heads": _indices(kept.heads).tolist(), "neurons": int(kept.neurons.sum()), "ffn": kept.ffn}
            for kept in layers
        ],
    }
    shrink_(encoder, compact, [_indices(kept.neurons) for kept in layers])
    setattr(config, COMPACT, compact)
    config.auto_map = _auto_map(config)
    return compact


def _auto_map(config: Any) -> dict[str, str]:
    """The class of each kind of head in the code that is saved next to the weights."""
    import transformers

    found = {auto: getattr(transformers, auto)._model_mapping.get(type(config), None) for auto in CLASSES.values()}
    file = compact_class.__module__.rpartition(".")[2]
    return {auto: f"{file}.{PREFIX}{own.__name__}" for auto, own in found.items() if own is not None}


def compact_where_possible_(model: Any) -> bool:
    """Compact a model if something can be removed, and return whether it became smaller."""
    try:
        compact_(model)
    except UsageError:
        return False
    return True


def load_compact(folder: Path | str, head: Head = "none") -> Any:
    """Load a compact export without running the code in its folder.

    Args:
        folder: a folder of `tickets export --format compact`.
        head: `none`, `mlm`, `classification`, `tokens` or `span`.

    Returns:
        The Hugging Face model, in float32.

    Raises:
        UsageError: the folder does not exist, or is not a compact export.
        ContentError: the weights are damaged.

    Example:
        >>> model = load_compact("exports/sst2", head="classification")  # doctest: +SKIP
    """
    config = read_object(Path(folder) / "config.json", "model configuration")
    if COMPACT not in config:
        raise UsageError(f"{folder} is no compact export; make one with tickets export --format compact.")
    return load_plm(str(folder), head=head, num_labels=len(config.get("id2label", (0, 1)))).model


def _indices(kept: Tensor) -> Tensor:
    return kept.nonzero().flatten()


def _paths(structure: Structure, encoder: nn.Module) -> dict[str, Any]:
    """Paths, within a layer, of the modules that become smaller."""

    matrices = {role: [module_of(name) for name in names] for role, names in structure.matrices.items()}
    attention = matrices["Q"][0].rpartition(".")[0]
    first = encoder.get_submodule(f"{structure.layers[0]}.{attention}")
    projections = list(dict.fromkeys(name for role in ("Q", "K", "V") for name in matrices[role]))
    # DeBERTa may have separate matrices for relative positions.
    extra = [name for name in ("pos_key_proj", "pos_query_proj") if hasattr(first, name)]
    return {
        "layers": list(structure.layers),
        "attention": attention,
        "projections": projections + [f"{attention}.{name}" for name in extra],
        "value": matrices["V"][0],
        "output": matrices["AO"][0],
        "first": matrices["FI"][0],
        "second": matrices["FO"][0],
        "head_size": structure.head_size,
    }


def _live(layer: nn.Module, paths: dict[str, Any], config: Any, left: OpenUnits) -> OpenUnits:
    """Return the units of a layer that contribute something, given its gates and the zeros in its weights."""
    # A head or a neuron is dead if its outputs are zero or no output weight reads them. In a gated FFN (ModernBERT)
    # either of the two factors may be zero.
    output: Any = layer.get_submodule(paths["output"])
    width, size = output.in_features, paths["head_size"]
    values = _rows_in_use(layer.get_submodule(paths["value"]), width)[-1]  # the last part of a fused matrix
    heads = (values & _columns_in_use(output)).view(-1, size).any(dim=1)
    second: Any = layer.get_submodule(paths["second"])
    neurons = _columns_in_use(second)
    inputs, *gate = _rows_in_use(layer.get_submodule(paths["first"]), second.in_features)
    if _keeps_zero(config):
        neurons &= inputs
    for factor in gate:
        neurons &= factor
    neurons = neurons.cpu() & left.neurons
    bias = second.bias is not None and bool(second.bias.any())
    return OpenUnits(heads.cpu() & left.heads, neurons, left.ffn and (bias or bool(neurons.any())))


def _rows_in_use(linear: Any, width: int) -> Tensor:
    """Mask of the outputs of a linear layer that can differ from zero, `(parts, width)`."""
    used: Tensor = linear.weight.detach().bool().any(dim=1)
    if linear.bias is not None:
        used |= linear.bias.detach().bool()
    return used.view(-1, width)


def _columns_in_use(linear: Any) -> Tensor:
    """Mask of the inputs of a linear layer that change its output, `(in_features,)`."""
    used: Tensor = linear.weight.detach().bool().any(dim=0)
    return used


def _keeps_zero(config: Any) -> bool:
    """Return whether the activation of the FFN is zero at zero."""
    from transformers.activations import ACT2FN

    name = next(
        getattr(config, key) for key in ("hidden_act", "hidden_activation", "activation") if hasattr(config, key)
    )
    return float(ACT2FN[name](torch.zeros(1))) == 0
