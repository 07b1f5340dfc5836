"""Bytes that mask training needs, counted from the configuration of a model without loading its weights."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from winning_tickets.config import Runtime, SearchConfig
from winning_tickets.config.mask_training import MaskTraining
from winning_tickets.config.search import RoundedWeights
from winning_tickets.models.architectures import prunable_views
from winning_tickets.models.device import choose_device
from winning_tickets.models.lm_head import untie_decoder
from winning_tickets.models.loading import PLM, ModelNotFound, outline, prunable_names
from winning_tickets.pruning.mask_optimizer import DTYPES
from winning_tickets.pruning.mask_training import trained_names
from winning_tickets.pruning.sharded import sharded_modules
from winning_tickets.runs.distributed import launched
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.training.objectives.terms import lm_head_of, needs_lm_head, needs_teacher

_FLOAT = 4  # bytes of a weight in a sharded search


def memory_plan(config: SearchConfig, processes: int = 1, *, bf16: bool = False) -> dict[str, int]:
    """Return the bytes of a search by what they hold, without activations, whose size depends on `--batch-tokens`.

    With several `processes`, these are the bytes that each process of a sharded search needs on its device. With
    `bf16`, mask training in one process keeps its frozen weights in bfloat16.

    Example:
        >>> config = SearchConfig(model="Qwen/Qwen2.5-0.5B", corpus="pydocs", block_wise=True)
        >>> memory_plan(config.resolved())["gradients"]  # doctest: +SKIP
        59645952
    """
    terms = [name for name in config.terms if name != "task"]
    head, predicts = lm_head_of(terms) if terms else "none", needs_lm_head(terms)
    plm = outline(config.model, head, config.revision, config.layers, require_mlm_head=predicts)
    long = DTYPES["bfloat16" if _rounds_weights(config, bf16=bf16 and processes == 1) else "float32"].itemsize
    found = {"model": sum(parameter.numel() for parameter in plm.model.parameters()) * long}
    if not isinstance(config, MaskTraining):
        return found | {"at_once": found["model"]}
    scope = "encoder" if plm.architecture.causal and "scope" not in config.model_fields_set else config.scope
    names = prunable_names(plm, scope.removesuffix("+pooler"))
    views = prunable_views(plm.encoder, names)
    shapes = {name: view.shape.numel() for name, view in views.items()}
    trained = {name: shapes[name] for name in trained_names(config, plm, shapes)}
    if config.block_wise:
        layers = plm.architecture.layer_paths(plm.encoder)
        sizes = [sum(size for name, size in trained.items() if name.startswith(f"{path}.")) for path in layers]
        entries = max(sizes)
    else:
        entries = sum(trained.values())
    score = DTYPES[config.score_dtype]
    found |= {
        "dense_weights": sum(shapes.values()) * long,
        "scores": entries * score.itemsize,
        "moments": 2 * entries * DTYPES[config.moment_dtype].itemsize,
        # Gradients are freed before the selection, which compares scores in float32 and writes one byte for each.
        "gradients": entries * (long + (score.itemsize if score.itemsize != long else 0)),
        "selection": entries * (1 + (4 if score.itemsize < 4 else 0)),
    }
    if processes > 1:
        found = _of_each(found, plm, views, config, n=processes)
    steady = sum(size for name, size in found.items() if name not in ("gradients", "selection"))
    return found | {"at_once": steady + max(found["gradients"], found["selection"])}


def _of_each(
    whole: Mapping[str, int], plm: PLM, views: Mapping[str, Tensor], config: MaskTraining, *, n: int
) -> dict[str, int]:
    """Return the bytes of each of `n` processes of a sharded search from those of one process."""
    if needs_lm_head(config.terms):
        untie_decoder(plm, views.get(plm.architecture.word_embeddings))
    modules = [plm.encoder.get_submodule(path) for path in sharded_modules(plm)]
    sizes = [sum(parameter.numel() for parameter in module.parameters()) for module in modules]
    every = sum(parameter.numel() for parameter in plm.model.parameters())
    share = -(-sum(sizes) // n)
    return {
        "model": (every - sum(sizes) + share) * _FLOAT,
        "teacher": share * _FLOAT if needs_teacher(config.terms) else 0,
        **{name: -(-size // n) for name, size in whole.items() if name != "model"},
        # In the backward pass the largest module is whole, with its gradients and the buffer that these are sent from.
        "gathered": 3 * max(sizes) * _FLOAT,
    }


def planned_memory(config: SearchConfig, runtime: Runtime) -> dict[str, dict[str, int]]:
    """Return `memory_plan` for `--dry-run`; nothing if the model is not found, or is refused later."""
    try:
        return {"memory_bytes": memory_plan(config, launched() if runtime.shard else 1, bf16=runtime.bf16)}
    except (ModelNotFound, UsageError, ContentError):
        return {}


def check_memory(config: SearchConfig, runtime: Runtime) -> None:
    """Refuse a search that this machine, or its GPU, has too little memory for, before weights are loaded."""
    device = choose_device(runtime.device)
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    if device.type == "cuda":
        has = torch.cuda.mem_get_info(device)[1]
    needs = memory_plan(config, launched() if runtime.shard else 1, bf16=runtime.bf16)["at_once"]
    if device.type == "cpu" and launched() > 1:
        needs *= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # the processes of a machine share its memory
    if has is None or needs <= has:
        return
    advice = _advice(config, runtime, device.type)
    hint = "; start more processes" if runtime.shard else f"; give {' or '.join(advice)}" if advice else ""
    raise UsageError(
        f"The search needs {needs / 1e9:.1f} GB for {config.model} without activations, and {device.type} has "
        f"{has / 1e9:.1f} GB{hint}, or use a larger machine. --dry-run says what the bytes are for."
    )


def _rounds_weights(config: SearchConfig, *, bf16: bool) -> bool:
    """Return whether a search in one process keeps its frozen weights in bfloat16."""
    asked = isinstance(config, RoundedWeights) and config.weights_dtype == "bfloat16"
    return asked or (bf16 and isinstance(config, MaskTraining))


def _advice(config: SearchConfig, runtime: Runtime, device: str) -> list[str]:
    """Return the options that would save memory and were not given."""
    found = []
    if isinstance(config, RoundedWeights) and not _rounds_weights(config, bf16=runtime.bf16 and not runtime.shard):
        found.append("--weights-dtype bfloat16")
    if isinstance(config, MaskTraining):
        if config.moment_dtype != "bfloat16":
            found.append("--score-dtype bfloat16 --moment-dtype bfloat16")
        if not config.block_wise:
            found += ["--block-wise"] if config.terms.keys() == {"kd"} else []
            found += ["--shard with several GPUs"] if device == "cuda" else []
    return found
