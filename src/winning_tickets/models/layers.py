"""The closed list of what masks work on: kinds of parameters, layers, and adapters around layers.

Anything else computes with other weights than those that are masked, so it is refused by the name of its class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from winning_tickets.runs.errors import ContentError

_LAYERS = {
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.sparse.Embedding",
    "transformers.pytorch_utils.Conv1D",
}
_OF_MODELS = ("transformers.models.", "transformers_modules.")
"""Modules in which a model defines layers of its own, such as an embedding that is scaled."""
_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.CheckpointWrapper",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.OffloadWrapper",
}
"""Modules around a layer that compute what the layer computes."""
LORA = {f"peft.tuners.lora.layer.{kind}" for kind in ("Linear", "Embedding", "ParamWrapper")}
_SCALING = {"peft.tuners.ia3.layer.Linear"}
"""Adapters that multiply inputs or outputs: merging them keeps zeros without any mask."""
_LORA_VARIANTS = {f"peft.tuners.lora.variants.Dora{kind}Variant" for kind in ("Linear", "Embedding")}
_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def class_of(found: Any) -> str:
    """Return the full name of an object's class, without what `fully_shard` adds to the class of a module."""
    kind = type(found)
    if kind.__name__.startswith("FSDP") and kind.__module__.startswith("torch.distributed"):
        kind = kind.__mro__[2]  # (FSDPLinear, FSDPModule, Linear, ...)
    return f"{kind.__module__}.{kind.__qualname__}"


def check_parameter(name: str, parameter: Any, *, trained: bool = True) -> None:
    """Refuse a parameter that is no plain tensor of floating-point numbers with data.

    Raises:
        ContentError: it is another kind of tensor; where it is to be `trained`, also one of inference mode.
    """
    problem = _problem(parameter, trained=trained)
    if problem:
        raise ContentError(f"{name} {problem}.")


def _problem(parameter: Any, *, trained: bool) -> str:
    kind = type(parameter)
    plain = kind is nn.Parameter or _is_dtensor(kind)
    data = parameter.to_local() if _is_dtensor(kind) else parameter
    if isinstance(parameter, UninitializedParameter):
        return f"is an {kind.__name__}, without data; run the model once before"
    if not plain:
        return (
            f"is a {kind.__name__}, not a plain tensor; put the ticket on the model before it is quantized or wrapped"
        )
    if parameter.layout != torch.strided:
        return f"is stored as {parameter.layout}; convert it with to_dense() before"
    if parameter.dtype not in _TYPES:
        if parameter.is_complex():
            return "has complex numbers; masks work on real ones"
        return f"is quantized ({parameter.dtype}); put the ticket on the model before it is quantized"
    if data.device.type == "meta":
        return "is on the device meta, without data; load the whole model, without offloading"
    if trained and parameter.is_inference():
        return "was made in torch.inference_mode, so it cannot be trained; load the model outside of it"
    return ""


def _is_dtensor(kind: type) -> bool:
    return kind.__module__.startswith("torch.distributed.") and kind.__name__ == "DTensor"


def check_layer(name: str, chain: Sequence[nn.Module]) -> None:
    """Refuse a parameter whose layer is not on the list.

    Args:
        name: the encoder's own name of the parameter.
        chain: the modules in the place of its layer, each inside the one before; the last is the layer itself.

    Raises:
        ContentError: with the class, and what to do.
    """
    layer = chain[-1]
    if name.rpartition(".")[2] not in layer._parameters or not _is_known(layer):
        check_absent(name, chain)
    if _has_other_forward(layer):
        raise ContentError(
            f"{name} is in a {class_of(layer)} whose forward was replaced, so that it may compute with other weights; "
            "put the ticket on the model as its class defines it."
        )


def check_adapters(name: str, chain: Sequence[nn.Module], otherwise: str = "") -> None:
    """Refuse a parameter with an adapter around its layer that is not on the list; `otherwise` ends the advice.

    Raises:
        ContentError: with the class, and what to do.
    """
    for around in chain[:-1]:
        kind = class_of(around)
        variants = {class_of(one) for one in getattr(around, "lora_variant", {}).values()}
        if kind not in _WRAPPERS | LORA | _SCALING or variants - _LORA_VARIANTS or _has_other_forward(around):
            found = ", ".join([kind, *sorted(variants), *(["with another forward"] * _has_other_forward(around))])
            raise ContentError(
                f"{name} has an adapter that cannot be masked ({found}), so a merged model would be dense. Merge the "
                f"adapter before, or use LoRA, also with DoRA, or IA3{otherwise}."
            )


def check_absent(name: str, chain: Sequence[nn.Module]) -> None:
    """Refuse a parameter whose place in a model has modules of another kind; do nothing if it has none.

    Raises:
        ContentError: with the class of the outermost module, and what to do.
    """
    if chain:
        raise ContentError(f"{name} is in a {class_of(chain[0])}, on which no ticket can be put. {_cure(chain[-1])}")


def _is_known(layer: nn.Module) -> bool:
    kind = class_of(layer)
    return kind in _LAYERS or (kind.startswith(_OF_MODELS) and isinstance(layer, nn.Linear | nn.Embedding))


def _has_other_forward(module: nn.Module) -> bool:
    """Return whether a module computes something else than its class, as with X-LoRA; accelerate only moves weights."""
    return "forward" in vars(module) and not hasattr(module, "_hf_hook")


def _cure(layer: nn.Module) -> str:
    if class_of(layer).startswith("peft."):
        return (
            "Leave that module out of the adapter's configuration (modules_to_save, trainable_token_indices), or merge "
            "the adapter before."
        )
    return (
        "Masks work on Linear, Embedding and Conv1D; put one of these there, or put the ticket on the model before it "
        "is quantized or changed."
    )
