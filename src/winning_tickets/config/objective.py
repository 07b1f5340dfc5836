"""Objectives: weighted sums of terms such as `mlm+kd` or `mlm:1,kd:2`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from winning_tickets.config.settings import all_digits
from winning_tickets.runs.errors import UsageError, refuse, unknown

TERM_NAMES = ("mlm", "clm", "kd", "attention", "contrastive", "logits")
"""The terms of a sum in canonical order; `winning_tickets.training.objectives` computes them."""
TEXT_NAMES = ("mlm", "clm")  # the losses of pre-training itself: on masked tokens, or on the next one
TEACHER_NAMES = ("kd", "attention", "contrastive", "logits", "agreement")  # those that compare with the dense model
MEASURED = (
    *("kd_loss", "mlm_loss", "mlm_accuracy", "clm_loss", "clm_accuracy", "attention_loss", "contrastive_loss"),
    *("logits_loss", "greedy_agreement", "perplexity", "word_perplexity", "similarity_pearson", "similarity_spearman"),
)
"""The numbers that an evaluation without fine-tuning gives, in the order in which they are shown."""
SOURCE_NAMES = (*TEXT_NAMES, "task")  # the terms of snip and movement: text, and the tasks of `--task`; imp has all
STRUCTURED_NAMES = (*TEXT_NAMES, "kd", "task")  # the losses that importances of heads and FFNs are computed from
GATE_NAMES = (*TEXT_NAMES, "kd")  # the terms that gates of heads, FFNs, neurons and layers are trained on
OBJECTIVE_NAMES = ("kd", "mlm", "mlm+kd")  # the papers' objectives, which profiles know by name

ALL_NAMES = (*TERM_NAMES, "task")
EVALUATION_NAMES = (*TERM_NAMES, "agreement", "perplexity", "similarity")  # what `evaluate` measures

_EXAMPLES = "such as mlm+kd or mlm:1,kd:2."


def parse_objective(text: str, names: Sequence[str] = TERM_NAMES, why: str = "") -> dict[str, float]:
    """Return the terms of a sum such as `kd:0.5+attention` and their weights, in canonical order."""
    # `why` is a sentence for error messages that says why only `names` are allowed.
    weights: dict[str, float] = {}
    problems = []
    for part in re.split(r"[+,]", text):
        name, colon, number = (piece.strip() for piece in part.partition(":"))
        if not name:
            known = ", ".join(names)
            problems.append(f"The objective {text!r} has an empty term; write a sum of {known}, {_EXAMPLES}")
        elif name not in names:
            problems.append(
                str(unknown("objective", name, names, why or f"An objective is one of them or a sum, {_EXAMPLES}"))
            )
        elif name in weights:
            problems.append(f"The objective {text!r} names {name} twice; give it one weight, such as {name}:2.")
        else:
            try:
                weights[name] = float(number) if colon else 1.0
            except ValueError:
                weights[name] = math.nan
            if not weights[name] > 0 or math.isinf(weights[name]):
                problems.append(
                    f"The weight {number!r} of {name} in the objective {text!r} is not a positive number; "
                    f"write {name}:0.5, or leave the term out."
                )
    if {*TEXT_NAMES} <= weights.keys():
        problems.append(
            f"The objective {text!r} has mlm, which is for encoders, and clm, for decoders; give one of them."
        )
    refuse(problems)
    return {name: weights[name] for name in names if name in weights}


def terms_of(text: str) -> dict[str, float]:
    """Return the terms of a sum and their weights; none if it is impossible, which another message says."""
    try:
        return parse_objective(text)
    except UsageError:
        return {}


def canonical_objective(weights: Mapping[str, float]) -> str:
    """Return a sum in its canonical form: terms in the order of `ALL_NAMES`, joined with `+`, weights of 1 left out."""
    # All digits without an exponent, whose sign would look like a separator.
    parts = {name: name if weight == 1 else f"{name}:{all_digits(weight, 0)}" for name, weight in weights.items()}
    return "+".join(parts[name] for name in ALL_NAMES if name in parts)


def paper_objective(objective: str) -> str:
    """Return the papers' objective whose profile values a sum uses: itself if it is one, else `mlm+kd` or `kd`."""
    # Another sum uses `mlm+kd` if it has `mlm` in it, else `kd`.
    if objective in OBJECTIVE_NAMES:
        return objective
    return "mlm+kd" if "mlm" in terms_of(objective) else "kd"
