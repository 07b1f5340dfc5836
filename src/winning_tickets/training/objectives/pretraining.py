"""The objective of mask training: a weighted sum of terms, with one forward pass of student and teacher each."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from winning_tickets.data.batches import MASKED_POSITIONS, count_tokens
from winning_tickets.models.architectures import Architecture
from winning_tickets.models.loading import reads_segments
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.objectives.base import Batch, Need, Outputs, TermSettings
from winning_tickets.training.objectives.terms import ALL_TERMS, lm_logits, needs_of, needs_teacher, sum_over_tokens


class _NoCache:
    """A key-value cache that stores nothing.

    Without a cache, transformers checks in every pass, on the device, whether the positions are those of several texts.
    """

    def update(self, keys: Tensor, values: Tensor, *details: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Return what a layer computed, unchanged."""
        return keys, values

    def get_seq_length(self, *details: Any) -> int:
        """Return the number of tokens before the text."""
        return 0

    get_query_offset = get_seq_length

    def get_mask_sizes(self, length: int, *details: Any) -> tuple[int, int]:
        """Return the number of keys, and the place of the first one."""
        return length, 0


def run_encoder(model: Any, batch: Batch, needs: AbstractSet[Need], architecture: Architecture) -> Outputs:
    """Run a model on a batch and return the needed outputs."""
    typed = "token_type_ids" in batch and reads_segments(model)
    mask = batch.get("attention_mask")
    if mask is None and architecture.always_masked:
        mask = torch.ones_like(batch["input_ids"])
    output = model.base_model(
        input_ids=batch["input_ids"],
        attention_mask=mask,
        output_hidden_states="states" in needs,
        **({"token_type_ids": batch["token_type_ids"]} if typed else {}),
        **({"output_attentions": True} if "attentions" in needs else {}),
        **({"use_cache": False, "past_key_values": _NoCache()} if architecture.causal else {}),
    )
    last = output.last_hidden_state
    states = output.hidden_states[1:] if "states" in needs else ()
    attentions = _attention_maps(model, output) if "attentions" in needs else ()
    if "logits" not in needs:
        return Outputs(last, states, attentions)
    if MASKED_POSITIONS in batch:
        predicting = last.flatten(0, 1).index_select(0, batch[MASKED_POSITIONS])
    else:
        predicting = last[:, :-1].flatten(0, 1)
    vocabulary = len(model.get_submodule(architecture.lm_decoder).weight)
    return Outputs(last, states, attentions, predicting, partial(lm_logits, model, architecture), vocabulary)


def check_attention_maps(model: Any) -> None:
    """Refuse a model that returns no attention maps."""
    ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    with torch.no_grad():
        _attention_maps(model, model.base_model(ids, torch.ones_like(ids), output_attentions=True))


def _attention_maps(model: Any, output: Any) -> tuple[Tensor, ...]:
    maps = output.attentions
    if not maps or any(each is None for each in maps):
        kind = getattr(model.config, "_attn_implementation", None)
        raise UsageError(
            f"{type(model).__name__} with {kind} attention gives no attention maps, which the attention objective "
            "compares; load it with attention='eager', and if that does not help leave attention out of the objective."
        )
    return tuple(maps)


@dataclass(eq=False)
class PretrainingObjective:
    """A weighted sum of `TERMS` or `MEASURES`, with one forward pass of the student and at most one of the teacher."""

    weights: Mapping[str, float]  # by term
    architecture: Architecture
    teacher: Any = None  # the dense model, for some terms: a twin of the student (`models.twin`), left in its mode
    settings: TermSettings | None = None

    def __post_init__(self) -> None:
        self._settings = self.settings or TermSettings()
        if needs_teacher(self.weights) and self.teacher is None:
            raise ValueError("Objectives with a teacher need the dense model (teacher=...).")

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return the divisor of each term's sum: a number of tokens, masked tokens or segments."""
        return {name: ALL_TERMS[name].count(batch, self._settings) for name in self.weights}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of each term."""
        # The teacher runs first, while the student's activations do not fill the memory yet.
        teacher = Outputs()
        if needs_teacher(self.weights):
            with torch.no_grad():
                needs = needs_of(self.weights, teacher=True)
                teacher = run_encoder(self.teacher, batch, needs, self.architecture)
        student = run_encoder(model, batch, needs_of(self.weights), self.architecture)
        return {name: ALL_TERMS[name].sum(student, teacher, batch, self._settings) for name in self.weights}


class StateProbe:
    """Objective to differentiate: a random projection of the states that the KD loss compares."""

    # The KD loss of a model with itself is zero and flat: to second order it is half the squared length of the change
    # of the normalized states. The derivative of a projection on normally distributed random directions v is normally
    # distributed with that length as its standard deviation, so the mean of absolute derivatives is proportional to it.

    def __init__(self, architecture: Architecture, seed: int) -> None:
        self.weights = {"kd": 1.0}
        self._architecture = architecture
        self._generator = torch.Generator().manual_seed(seed)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"kd": count_tokens(batch)}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the sum over L layers and unpadded tokens of <v, normalized state>, divided by the root of L."""
        states = run_encoder(model, batch, {"states"}, self._architecture).states
        total = states[0].new_zeros((), dtype=torch.float32)
        for state in states:
            directions = torch.randn(state.shape, generator=self._generator).to(state.device)
            products = functional.normalize(state.float(), dim=-1) * directions
            total = total + sum_over_tokens(products.sum(-1), batch.get("attention_mask"))
        return {"kd": total / len(states) ** 0.5}
