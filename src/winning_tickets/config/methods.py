"""The methods of a search by name, and what each of them needs before it can start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodNeeds:
    """What a method reads besides the model.

    Attributes:
        corpus: it reads text, `--corpus`.
        objective: it minimises, or differentiates, an `--objective`.
        mask_training: it trains masks: steps, schedule, score start and the rest of a `SearchConfig` apply.
    """

    corpus: bool = False
    objective: bool = False
    mask_training: bool = False


METHOD_NEEDS = {
    "random": MethodNeeds(),
    "magnitude": MethodNeeds(),
    "mask-training": MethodNeeds(corpus=True, objective=True, mask_training=True),
}
METHOD_NAMES = tuple(METHOD_NEEDS)
