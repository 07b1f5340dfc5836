"""The methods of a search by name, what each needs before it can start, and its own defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MethodNeeds:
    """What a method reads besides the model.

    Attributes:
        corpus: it always reads text, `--corpus`.
        objective: it minimises, or differentiates, an `--objective`.
        mask_training: it trains masks: steps, schedule, score start and the rest of a `SearchConfig` apply.
        patterns: its masks can follow a `--pattern`.
        like: how many weights of each matrix it keeps can be told by another ticket, `--like`.
        other_weights: it can rank other weights than those of the model, `--weights-from`.
        sources: its objective is a sum of `mlm` on a corpus and `task` on tasks, and `LearningSettings` apply.
        structured: its tickets lose heads, FFNs, neurons or layers, and `StructuredSettings` apply.
        defaults: fields of a `SearchConfig` whose default differs for this method.
    """

    corpus: bool = False
    objective: bool = False
    mask_training: bool = False
    patterns: bool = False
    like: bool = False
    other_weights: bool = False
    sources: bool = False
    structured: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gates(self) -> bool:
        """Whether it trains gates of heads, FFNs, neurons or layers."""
        return self.structured and self.mask_training


TENTHS = tuple(tenth / 10 for tenth in range(1, 10))
"""10 to 90 %, the sparsities of the papers' iterative pruning."""

METHOD_NEEDS = {
    "random": MethodNeeds(patterns=True, like=True),
    "magnitude": MethodNeeds(patterns=True, other_weights=True),
    "wanda": MethodNeeds(corpus=True, patterns=True, defaults={"ranking": "row"}),
    "mask-training": MethodNeeds(corpus=True, objective=True, mask_training=True, patterns=True),
    "imp": MethodNeeds(objective=True, sources=True, defaults={"objective": "mlm", "sparsity": TENTHS}),
    "snip": MethodNeeds(objective=True, sources=True, patterns=True, defaults={"objective": "mlm"}),
    "movement": MethodNeeds(objective=True, sources=True, patterns=True, defaults={"objective": "mlm"}),
    "importance": MethodNeeds(objective=True, structured=True, defaults={"scope": "encoder"}),
}
METHOD_NAMES = tuple(METHOD_NEEDS)
GATE_TRAINING = MethodNeeds(
    corpus=True, objective=True, mask_training=True, structured=True, defaults={"scope": "encoder"}
)
"""What `mask-training` needs where a level, units or counts say that it trains gates and no masks of weights."""
