"""Compaction: removes heads, neurons and FFNs that contribute nothing, so that matrices become smaller."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.models.architectures import (
    ARCHITECTURES,
    Architecture,
    Role,
    module_of,
    prunable_views,
    split_name,
)
from winning_tickets.models.loading import CLASSES, PLM, Head, load_plm
from winning_tickets.models.modeling_compact import ACTIVATIONS, COMPACT, PREFIX, compact_class, shrink_
from winning_tickets.models.structure import OpenUnits, Structure, open_units, structure_of
from winning_tickets.runs.ambient import neutral
from winning_tickets.runs.errors import UsageError, unknown
from winning_tickets.runs.files import read_object


def compact_(model: Any, gates: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Make a model smaller without changing what it computes, in place."""
    # A head, a neuron or an FFN is removed if its weights are zeros such that it contributes nothing, or if its gate is
    # closed. A layer without heads keeps the bias of the attention's output; a layer without FFN keeps no part of it.
    #
    # Returns the entry of the configuration: `paths` and, for each of the `layers`, `heads`, `neurons`, `ffn`. It has
    # `plain` if an ordinary configuration describes the layers that are left.
    config, encoder = model.config, model.base_model
    if config.model_type not in ARCHITECTURES:
        raise unknown("architecture", config.model_type, ARCHITECTURES)
    name = config.name_or_path or type(model).__name__
    # Find the units that contribute something, layer by layer.
    plm = PLM(model, None, ARCHITECTURES[config.model_type], name, None, None, has_mlm_head=False)
    structure = structure_of(plm)
    paths = paths_of(structure, encoder)
    layers = [
        _live(encoder, structure, index, open_units(gates or {}, structure, index))
        for index in range(len(structure.layers))
    ]
    if all(kept.ffn and bool(kept.heads.all()) and bool(kept.neurons.all()) for kept in layers):
        raise UsageError(
            "Nothing can be removed: no head, neuron or FFN is pruned as a whole, the zeros are scattered. "
            "Use --format masked, or make a ticket with a structured method."
        )
    # The configuration records the sizes, so that a loader can build the same layers before it reads the weights. If
    # the fields of an ordinary configuration can record them, these are used.
    compact: dict[str, Any] = {
        "paths": paths,
        "layers": [size_of(kept) for kept in layers],
    }
    biases = [name for layer in range(len(layers)) for name in structure.bias_names(layer, "AO")]
    biased = any(bool(encoder.get_parameter(name).any()) for name in biases)
    plain = _plain(config, structure, compact["layers"], biased=biased)
    shrink_(encoder, compact, [indices_of(kept.neurons) for kept in layers])
    if plain is None:
        setattr(config, COMPACT, compact)
        config.auto_map = _auto_map(config)
        return compact
    if len(kept := plain.pop("layers")) < len(layers):
        _drop_layers(encoder, config, plm.architecture, kept)
    for field, value in plain.items():
        setattr(config, field, value)
    return compact | {"plain": True}


def _auto_map(config: Any) -> dict[str, str]:
    """Return, by automatic class, the model class in the code that is saved next to the weights."""
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


@neutral()
def load_compact(folder: Path | str, head: Head = "none") -> Any:
    """Load a compact export without running the code in its folder.

    Args:
        folder: a folder of `tickets export --format compact`.
        head: `none`, `lm` (`mlm` of an encoder, `clm` of a decoder), `classification`, `tokens` or `span`.

    Returns:
        The Hugging Face model, in float32.

    Raises:
        UsageError: the folder does not exist, or is not a compact export.
        ContentError: the weights are damaged.

    Example:
        >>> model = load_compact("exports/sst2", head="classification")  # doctest: +SKIP
    """
    config = read_object(Path(folder) / "config.json", "model configuration")
    if COMPACT not in config and not (Path(folder) / "export.json").is_file():
        raise UsageError(f"{folder} is no compact export; make one with tickets export --format compact.")
    return load_plm(str(folder), head=head, num_labels=len(config.get("id2label", (0, 1))), with_tokenizer=False).model


def indices_of(kept: Tensor) -> Tensor:
    """Return the indices of the true entries of a bool tensor."""
    return kept.nonzero().flatten()


def size_of(kept: OpenUnits) -> dict[str, Any]:
    """Return what is left of a layer, in the form that `shrink_` takes."""
    return {"heads": indices_of(kept.heads).tolist(), "neurons": int(kept.neurons.sum()), "ffn": kept.ffn}


def paths_of(structure: Structure, encoder: nn.Module) -> dict[str, Any]:
    """Return the paths, within a layer, of the modules that become smaller, and the rows of the matrices in them."""
    size = structure.key_size or structure.head_size
    widths: dict[Role, int] = {"Q": structure.head_size, "K": size, "V": size}
    projections: dict[str, list[list[int]]] = {}
    for role, width in widths.items():
        for name in structure.matrices[role]:
            projections.setdefault(module_of(name), []).append([width, *_part(name)])
    first: dict[str, list[list[int]]] = {}
    for name in structure.matrices["FI"]:
        first.setdefault(module_of(name), []).append(_part(name))
    # DeBERTa may have separate matrices for relative positions.
    attention = next(iter(projections)).rpartition(".")[0]
    module = encoder.get_submodule(f"{structure.layers[0]}.{attention}")
    extra = [name for name in ("pos_key_proj", "pos_query_proj") if hasattr(module, name)]
    projections |= {f"{attention}.{name}": [[structure.head_size, 0, 1, 1, 1]] for name in extra}
    return {
        "layers": list(structure.layers),
        "attention": attention,
        "projections": projections,
        "output": module_of(structure.matrices["AO"][0]),
        "first": first,
        "second": module_of(structure.matrices["FO"][0]),
        "head_size": structure.head_size,
        "queries": structure.head_size // size,
    }


def _part(name: str) -> list[int]:
    part = split_name(name)
    return [part.start, part.stop, part.count, part.blocks]


def _live(encoder: nn.Module, structure: Structure, layer: int, left: OpenUnits) -> OpenUnits:
    """Return the units of a layer that contribute something, given its gates and the zeros in its weights."""
    # A head or a neuron is dead if its outputs are zero or no output weight reads them. In a gated FFN either of the
    # two factors may be zero.
    parameters = dict(encoder.named_parameters())

    def in_use(role: Role, dimension: int) -> list[Tensor]:
        """Return masks of a role's outputs that can differ from zero (dimension -1), or of the inputs it reads (0)."""
        matrices = prunable_views(encoder, structure.names(layer, role)).values()
        used = [matrix.bool().flatten(0, -2).any(dimension) for matrix in matrices]
        if dimension == -1:
            for mask, name in zip(used, structure.bias_names(layer, role), strict=False):
                part = split_name(name)
                mask |= part.of(parameters[part.parameter].detach()).bool().flatten()
        return [mask.cpu() for mask in used]

    (columns,), (values,) = in_use("AO", 0), in_use("V", -1)
    contexts = columns.view(structure.num_heads, -1, structure.key_size or structure.head_size)
    heads = (contexts & values.view(structure.num_heads, 1, -1)).flatten(1).any(dim=1)
    (neurons,) = in_use("FO", 0)
    inputs, *factors = in_use("FI", -1)
    for factor in (*factors, *([inputs] if _keeps_zero(encoder.config) else [])):
        neurons &= factor
    neurons &= left.neurons
    bias = any(bool(parameters[name].any()) for name in structure.bias_names(layer, "FO"))
    return OpenUnits(heads & left.heads, neurons, left.ffn and (bias or bool(neurons.any())))


def _plain(config: Any, structure: Structure, layers: list[dict[str, Any]], *, biased: bool) -> dict[str, Any] | None:
    """Return the configuration fields of an ordinary model of the same layers, and `layers`, those that stay.

    None if there is no such model: only decoders have one. A layer without heads and FFN is left out, unless it still
    adds the bias of its attention's output (`biased`). All other layers need equal numbers of heads and neurons.
    """
    architecture = ARCHITECTURES[config.model_type]
    if not architecture.causal:
        return None
    pruned = [not layer["heads"] and not layer["ffn"] for layer in layers]
    skips = not biased and not getattr(config, "scale_attn_by_inverse_layer_idx", False)
    kept = [index for index, gone in enumerate(pruned) if not (gone and skips)]
    sizes = {(len(layers[i]["heads"]), layers[i]["neurons"], layers[i]["ffn"]) for i in kept}
    if len(sizes) != 1:
        return None
    ((heads, neurons, ffn),) = sizes
    if not heads or not neurons or not ffn or (heads < structure.num_heads and not architecture.own_head_size):
        return None
    changes: dict[str, Any] = {"layers": kept, architecture.ffn_size: neurons}
    if heads < structure.num_heads:
        size = structure.key_size or structure.head_size
        changes |= {"num_attention_heads": heads * structure.head_size // size, "num_key_value_heads": heads}
        changes["head_dim"] = size
    return changes


def _drop_layers(encoder: nn.Module, config: Any, architecture: Architecture, kept: list[int]) -> None:
    """Remove all layers but `kept` from an encoder and its configuration."""
    path = architecture.layers.removesuffix(".*")
    owner, _, name = path.rpartition(".")
    parent = encoder.get_submodule(owner)
    setattr(parent, name, nn.ModuleList([getattr(parent, name)[index] for index in kept]))
    config.num_hidden_layers = len(kept)
    for field in architecture.per_layer:
        setattr(config, field, [getattr(config, field)[index] for index in kept])


def _keeps_zero(config: Any) -> bool:
    """Return whether the activation of the FFN is zero at zero."""
    from transformers.activations import ACT2FN

    name = next(getattr(config, field) for field in ACTIVATIONS if hasattr(config, field))
    return float(ACT2FN[name](torch.zeros(1))) == 0
