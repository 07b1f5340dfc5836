"""Profiles: settings of the paper, of its released code, and those that measured best in this project (tuned)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from winning_tickets.config.objective import TEACHER_NAMES, paper_objective, terms_of

Profile = Literal["paper", "code", "tuned"]
MODEL_DROPOUT = -1.0  # `student_dropout` of a profile that leaves the model's own dropout on

# Learning rate of a fine-tuning of up to `_SHORT` steps, measured on models with hidden sizes 384 and 256
# (docs/results/settings). For other sizes it is inversely proportional to the size, like the best rates of BERT.
_MINILM_RATE, _MINILM_WIDTH = 1e-4, 384
_SHORT = 1000
_HIGHEST_RATE = 3e-4
# Tickets of single weights of this sparsity learn more with twice that rate, the dense model does not.
_SPARSE, _RATE_OF_SPARSE = 0.6, 2.0
# Learning rate of the scores of mask training, for a sparsity level of up to `_LONG` steps. In a longer one it moves
# scores across the threshold and back, and the loss falls no further (docs/results/settings).
_SCORES_RATE, _LONG = 2e-4, 300
# The same for a search that only follows the dense model: it learns more in a CPU second from small batches, whose
# moments forget early steps quickly (docs/results/time_to_ticket).
_FOLLOWING_RATE, _FOLLOWING_LONG = 3e-4, 200

_TUNED: dict[str, Any] = {
    "scope": "encoder+embeddings",
    "batch_tokens": 2048,
    "segments": "mixed",
    "learning_rate": _SCORES_RATE,
    "head_learning_rate": 5e-5,
    "schedule_passes": 0,
    "warmup_steps": 0,
    "step_offset": 0,
    "score_init": "activation",
    "rank_by": "signed",
    "reselect_steps": 1,
    "cadence": "after",
    "threshold": "exceeded",
    "count_rounding": "floor",
    "train_embeddings": False,
    "student_dropout": 0.0,
    "teacher_dropout": False,
    "optimizer": "adamw",
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.0,
    "clip": "none",
    "kd_masked_tokens": 0,
    "kd_padding": "ignored",
}

_TUNED_FOLLOWING: dict[str, Any] = {
    "batch_tokens": 1024,
    "learning_rate": _FOLLOWING_RATE,
    "adam_beta1": 0.6,
    "adam_beta2": 0.8,
}

# Weights times input norms are larger than the weights of the embeddings, so a global ranking would prune all of these.
_TUNED_GLOBAL: dict[str, Any] = _TUNED | {"score_init": "rank"}

_PAPER: dict[str, Any] = _TUNED | {
    "batch_tokens": 16 * 512,
    "segments": "packed:512",
    "learning_rate": 5e-5,
    "schedule_passes": 2,
    "score_init": "plateau",
    "threshold": "reached",
    "train_embeddings": True,
    "student_dropout": MODEL_DROPOUT,
    "clip": "global",
}

_PAPER_KD: dict[str, Any] = {"learning_rate": 2e-5}

# Values of the released code where it differs from the paper; see docs/explanation/profiles.md.
_CODE: dict[str, Any] = {
    "scope": "encoder+embeddings+pooler",
    "threshold": "exceeded",
    "reselect_steps": 1000,
    "optimizer": "adamw-hf",
}
_CODE_ONE_SHOT: dict[str, Any] = {"count_rounding": "nearest"}
_CODE_KD: dict[str, Any] = {
    "segments": "sections:512",
    "kd_masked_tokens": 1,
    "kd_padding": "counted",
    "reselect_steps": 100,
    "cadence": "before",
    "step_offset": -1,
    "teacher_dropout": True,
    "optimizer": "bertadam",
    "adam_epsilon": 1e-6,
    "weight_decay": 0.01,
    "clip": "tensor",
}


# Methods that work on the weights and not on scores (imp, snip, movement): Chen et al. 2020 and their released code.
_LEARNED_TUNED: dict[str, Any] = {
    "scope": "encoder+embeddings",
    "batch_tokens": 2048,
    "segments": "packed:128",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "count_rounding": "floor",
    "rewind": "pretrained",
    "rewind_scope": "all",
    "prune_first": False,
    "rate_horizon": "round",
    "reset_optimizer": True,
    "group_by_length": True,
}
_LEARNED_PAPER = _LEARNED_TUNED | {
    "scope": "encoder+pooler",
    "batch_tokens": 16 * 512,
    "segments": "packed:512",
    "group_by_length": False,
}
_LEARNED_CODE = _LEARNED_PAPER | {"rewind_scope": "encoder", "rate_horizon": "total", "count_rounding": "nearest"}
# Its MLM script rewinds to a reference to the weights in training, so nothing is rewound.
_LEARNED_CODE_MLM = {"rewind": "none", "prune_first": True}
# Iterative pruning that follows the dense model: without a mask there is nothing to learn, so the first step prunes.
_LEARNED_FOLLOWING = {"prune_first": True}


def tuned_rate(width: int, steps: int, sparsity: float = 0.0) -> float:
    """Return the peak learning rate of `tuned` for the fine-tuning of a model with this hidden size.

    `sparsity` is that of a ticket of single weights, and 0 for any other model.
    """
    dense = _MINILM_RATE * _MINILM_WIDTH / width * math.sqrt(min(1.0, _SHORT / steps))
    return min(_HIGHEST_RATE, dense * (1 + (_RATE_OF_SPARSE - 1) * min(1.0, sparsity / _SPARSE)))


def learned_values(profile: Profile, terms: Iterable[str]) -> dict[str, Any]:
    """Return the values of fields that are None, for imp, snip and movement with an objective of these terms."""
    names = set(terms)
    following: dict[str, Any] = dict(_LEARNED_FOLLOWING) if names and names <= set(TEACHER_NAMES) else {}
    if names & set(TEACHER_NAMES):  # as mask training does
        following["student_dropout"] = 0.0 if profile == "tuned" else MODEL_DROPOUT
    if profile == "code":
        return _LEARNED_CODE | (_LEARNED_CODE_MLM if names == {"mlm"} else {}) | following
    return (_LEARNED_PAPER if profile == "paper" else _LEARNED_TUNED) | following


# Super Tickets (Liang et al. 2021) and its released code.
_STRUCTURED: dict[str, Any] = {
    "batch_tokens": 2048,
    "segments": "packed:128",
    "importance": "sample",
    "min_heads_per_layer": 0,
}


# Training of gates of heads and FFNs. No paper does it, so only the profile `tuned` has values.
GATE_VALUES: dict[str, Any] = _TUNED | {
    "scope": "encoder",
    "score_init": "rank",
    "importance": "sample",
    "min_heads_per_layer": 0,
}


def structured_values(profile: Profile, selection: str) -> dict[str, Any]:
    """Return the values of fields that are None, for a search of structured tickets by importance."""
    if profile != "code":
        return _STRUCTURED
    # The released code keeps a head in every layer if it ranks heads, but not if it draws them at random.
    return _STRUCTURED | {"importance": "released", "min_heads_per_layer": 0 if selection == "random" else 1}


def follows(objective: str) -> bool:
    """Return whether an objective compares only hidden states or predictions with those of the dense model."""
    return terms_of(objective).keys() in ({"kd"}, {"logits"}, {"kd", "logits"})


def profile_values(
    profile: Profile, method: str, objective: str, ranking: str = "matrix", *, steps: int = 0
) -> dict[str, Any]:
    """Return the values of fields of a `SearchConfig` that are None.

    `steps` are those of the first sparsity level of mask training, and 0 if it is not trained end to end.
    """
    if profile == "tuned":
        if method != "mask-training":
            return _TUNED
        values = _TUNED_GLOBAL if ranking == "global" else _TUNED
        rate, long = _SCORES_RATE, _LONG
        if steps and follows(objective):
            values, rate, long = values | _TUNED_FOLLOWING, _FOLLOWING_RATE, _FOLLOWING_LONG
        return values | {"learning_rate": rate * math.sqrt(min(1.0, long / max(1, steps)))}
    kd = paper_objective(objective) == "kd"
    values = _PAPER | (_PAPER_KD if kd else {})
    if profile == "paper":
        return values
    if method != "mask-training":
        return values | _CODE | _CODE_ONE_SHOT
    return values | _CODE | (_CODE_KD if kd else {})
