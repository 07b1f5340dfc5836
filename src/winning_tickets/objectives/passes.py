"""One forward pass of the encoder, with what the terms of an objective ask for."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

import torch

from winning_tickets.architectures import Architecture
from winning_tickets.errors import UsageError
from winning_tickets.objectives.base import Batch, Need, Outputs
from winning_tickets.objectives.mlm import mlm_logits


def run_encoder(
    model: Any, batch: Batch, needs: AbstractSet[Need], architecture: Architecture, head: Any = None
) -> Outputs:
    """The outputs of a model for a batch.

    Args:
        model: the model, with whatever weights are in it.
        batch: text; with `labels` where logits are needed.
        needs: what to keep of the pass.
        architecture: its entry of the table.
        head: what gives the logits; None means the model's own MLM head.

    Raises:
        UsageError: attention maps are needed, and the model gives none.
    """
    # Only some families tell segments apart; the others do not know the argument, or have one type alone.
    typed = "token_type_ids" in batch and (getattr(model.config, "type_vocab_size", None) or 0) > 1
    output = model.base_model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        output_hidden_states="states" in needs,
        **({"token_type_ids": batch["token_type_ids"]} if typed else {}),
        **({"output_attentions": True} if "attentions" in needs else {}),
    )
    last = output.last_hidden_state
    found = Outputs(
        last=last,
        states=output.hidden_states[1:] if "states" in needs else (),
        attentions=_maps(model, output) if "attentions" in needs else (),
    )
    if "logits" not in needs:
        return found
    logits, _ = mlm_logits(model if head is None else head, architecture, last, batch["labels"])
    return Outputs(last, found.states, found.attentions, logits)


def check_attention_maps(model: Any) -> None:
    """Refuse a model that gives no attention maps.

    Raises:
        UsageError: it gives none.
    """
    ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    with torch.no_grad():
        _maps(model, model.base_model(ids, torch.ones_like(ids), output_attentions=True))


def _maps(model: Any, output: Any) -> tuple[torch.Tensor, ...]:
    maps = output.attentions
    if not maps or any(each is None for each in maps):
        kind = getattr(model.config, "_attn_implementation", None)
        raise UsageError(
            f"{type(model).__name__} with {kind} attention gives no attention maps, which the attention objective "
            "compares; load it with attention='eager', and if that does not help leave attention out of the objective."
        )
    return tuple(maps)
