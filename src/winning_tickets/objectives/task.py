"""The loss of fine-tuning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from winning_tickets.objectives.base import Batch


class TaskObjective:
    """Cross entropy, or squared error for regression, of a sequence classification model."""

    def __init__(self, regression: bool) -> None:
        self.weights = {"loss": 1.0}
        self._regression = regression

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Number of examples."""
        return {"loss": torch.tensor(batch["labels"].numel(), device=batch["labels"].device)}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Sum of the examples' losses."""
        labels = batch["labels"]
        logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits.float()
        if self._regression:
            loss = torch.nn.functional.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")
        else:
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return {"loss": loss}
