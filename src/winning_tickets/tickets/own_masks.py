"""Masks that a user's own method found: checks of their names, shapes and types against the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic_core import PydanticSerializationError, to_json
from torch import Tensor

from winning_tickets.config import METHODS, SCOPES
from winning_tickets.models.architectures import ARCHITECTURES, HOW_TO_ADD, split_name
from winning_tickets.models.given import GivenModel
from winning_tickets.models.loading import PLM, load_plm, prunable_names
from winning_tickets.runs.errors import ContentError, UsageError, closest, unknown

PARTIAL = "partial"
"""Scope of masks whose matrices are not exactly those of a scope in `SCOPES`."""


def check_own_method(method: str) -> None:
    """Refuse an empty name, and that of a method of the library, whose settings analyses would expect."""
    if method in METHODS or not method.strip():
        raise UsageError(f"The method {method!r} is empty or one of the library; give yours a name of its own.")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that the description of a ticket cannot store."""
    for name, value in settings.items():
        try:
            to_json(value)
        except PydanticSerializationError as error:
            raise UsageError(
                f"The setting {name} is a {type(value).__name__}, which a ticket cannot store; give numbers, texts, "
                "lists or dicts of Python."
            ) from error


def plm_of(model: Any, revision: str | None = None) -> PLM:
    """Load a model by its name, or wrap a given model, which has no tokenizer here and must not be changed."""
    if isinstance(model, str) or not isinstance(model, torch.nn.Module):
        return load_plm(str(model), revision=revision, with_tokenizer=False)
    given = GivenModel.of(model)
    kind = given.model.config.model_type
    if kind not in ARCHITECTURES:
        raise unknown("architecture", kind, ARCHITECTURES, HOW_TO_ADD)
    return PLM(given.model, None, ARCHITECTURES[kind], given.origin or given.name, revision, None, has_mlm_head=False)


def own_masks(masks: Mapping[str, Any], plm: PLM, model: Any) -> tuple[dict[str, Tensor], str]:
    """Return masks under the names of the encoder's matrices, in the model's order, and their scope."""
    # The same parameter has a longer name in a model with a head or a wrapper.
    named = model.named_parameters() if isinstance(model, torch.nn.Module) else plm.model.named_parameters()
    inside = {id(value): name for name, value in plm.encoder.named_parameters()}
    outside = {name: inside[id(value)] for name, value in named if id(value) in inside}
    shapes = {name: tuple(value.shape) for name, value in plm.encoder.named_parameters()}
    pooler = plm.architecture.pooler if plm.has_pooler else None
    names = prunable_names(plm, "encoder+embeddings") + [one for one in [pooler] if one in shapes and one is not None]
    matrices = [split_name(name) for name in names]
    found: dict[str, Tensor] = {}
    for key, value in masks.items():
        name = outside.get(key, key)
        if name not in {one.parameter for one in matrices}:
            what = "is no matrix that tickets prune" if name in shapes else f"is no parameter of {plm.name}"
            near = closest(key, {one.parameter for one in matrices})
            raise ContentError(f"The mask of {key} cannot be used: {key} {what}.{near}")
        if name in found:
            raise ContentError(f"There are two masks of {name}, one of them as {key}; give one.")
        if not isinstance(value, Tensor) or value.dtype != torch.bool:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ContentError(f"The mask of {key} is {kind}, expected a torch.bool tensor, True = kept.")
        if tuple(value.shape) != shapes[name]:
            raise ContentError(f"The mask of {key} has shape {tuple(value.shape)}, its weight has {shapes[name]}.")
        found[name] = value.detach().cpu().clone()
    own = {
        name: part.of(found[part.parameter])
        for name, part in zip(names, matrices, strict=True)
        if part.parameter in found
    }
    scopes = (scope for scope in SCOPES if pooler in shapes or "pooler" not in scope)
    return own, next((scope for scope in scopes if set(prunable_names(plm, scope)) == set(own)), PARTIAL)
