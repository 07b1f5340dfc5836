"""Bytes that mask training needs, counted from the configuration of a model: none of its weights are loaded."""

from __future__ import annotations

import os

import torch

from winning_tickets.config import ResolvedSearch
from winning_tickets.models.architectures import prunable_views
from winning_tickets.models.loading import ModelNotFound, outline, prunable_names
from winning_tickets.pruning.low_precision import bytes_of_moment
from winning_tickets.pruning.mask_optimizer import DTYPES
from winning_tickets.pruning.mask_training import trained_names
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.training.objectives.terms import lm_head_of


def memory_plan(config: ResolvedSearch) -> dict[str, int]:
    """Return the bytes of a search by what they hold; without activations, whose size follows from `--batch-tokens`.

    Example:
        >>> config = SearchConfig(model="Qwen/Qwen2.5-0.5B", corpus="pydocs", block_wise=True)
        >>> memory_plan(config.resolved())["gradients"]  # doctest: +SKIP
        59645952
    """
    terms = [name for name in config.terms if name != "task"]
    plm = outline(config.model, lm_head_of(terms), config.revision, config.layers)
    long = DTYPES[config.weights_dtype].itemsize
    found = {"model": sum(parameter.numel() for parameter in plm.model.parameters()) * long}
    if not config.needs.mask_training or config.needs.structured:
        return found | {"at_once": found["model"]}
    scope = "encoder" if plm.architecture.causal and "scope" not in config.model_fields_set else config.scope
    names = prunable_names(plm, scope.removesuffix("+pooler"))
    shapes = {name: view.shape.numel() for name, view in prunable_views(plm.encoder, names).items()}
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
        "moments": round(2 * entries * bytes_of_moment(DTYPES[config.moment_dtype])),
        # Gradients are freed before the selection, which compares scores in float32 and writes one byte for each.
        "gradients": entries * (long + (score.itemsize if score.itemsize != long else 0)),
        "selection": entries * (1 + (4 if score.itemsize < 4 else 0)),
    }
    steady = sum(found[name] for name in ("model", "dense_weights", "scores", "moments"))
    return found | {"at_once": steady + max(found["gradients"], found["selection"])}


def planned_memory(config: ResolvedSearch) -> dict[str, dict[str, int]]:
    """Return `memory_plan` for `--dry-run`; nothing where the model is not here or is refused later."""
    try:
        return {"memory_bytes": memory_plan(config)}
    except (ModelNotFound, UsageError, ContentError):
        return {}


def check_memory(config: ResolvedSearch, device: torch.device) -> None:
    """Refuse a model that this machine, or its GPU, has no memory for, before its weights are loaded."""
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    if device.type == "cuda":
        has = torch.cuda.mem_get_info(device)[1]
    needs = memory_plan(config)["at_once"]
    if has is None or needs <= has:
        return
    advice = [
        text
        for text, given in (
            ("--weights-dtype bfloat16", config.weights_dtype != "float32"),
            ("--score-dtype bfloat16 --moment-dtype float8", config.moment_dtype == "float8"),
            ("--block-wise", config.block_wise or config.terms.keys() != {"kd"}),
        )
        if not given and (config.needs.mask_training or "weights" in text)
    ]
    hint = f"; give {' or '.join(advice)}" if advice else ""
    raise UsageError(
        f"The search needs {needs / 1e9:.1f} GB for {config.model} without activations, and {device.type} has "
        f"{has / 1e9:.1f} GB{hint}, or use a larger machine. --dry-run says what the bytes are for."
    )
