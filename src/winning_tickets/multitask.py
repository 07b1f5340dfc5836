"""One encoder under several heads, and what they learn together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from winning_tickets.objectives import Objective

MixedBatch = Mapping[str, Mapping[str, Tensor]]
"""A batch of one or more sources, by name."""


class SharedEncoder(nn.Module):
    """Hugging Face models that share one encoder.

    Args:
        models: by name; all of one checkpoint. The encoder is that of the first one with a pooler, or else of the
            first: heads that need none do without.

    Attributes:
        models: the models; each is an ordinary one and can be used and saved alone.
    """

    def __init__(self, models: Mapping[str, Any]) -> None:
        super().__init__()
        self.models = nn.ModuleDict(models)
        owners = [model for model in models.values() if getattr(model.base_model, "pooler", None) is not None]
        self._owner = (owners or list(models.values()))[0]
        for model in models.values():
            if model.base_model is not self.base_model:
                setattr(model, model.base_model_prefix, self.base_model)
                model.tie_weights()

    @property
    def base_model(self) -> nn.Module:
        """The encoder."""
        encoder: nn.Module = self._owner.base_model
        return encoder

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        """The parameters outside the encoder, by name; a decoder that is tied to the embeddings is not among them."""
        inside = {id(parameter) for parameter in self.base_model.parameters()}
        return {name: value for name, value in self.named_parameters() if id(value) not in inside}


class JointObjective:
    """The losses of several sources, each over its own head; a batch may hold some of them only.

    Args:
        objectives: by source, each with one part.
        weights: of each source.
    """

    def __init__(self, objectives: Mapping[str, Objective], weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)
        self._objectives = dict(objectives)

    def counts(self, batch: MixedBatch) -> dict[str, Tensor]:
        """What the sum of each source of the batch is divided by."""
        return {name: _only(self._objectives[name].counts(part)) for name, part in batch.items()}

    def __call__(self, model: Any, batch: MixedBatch) -> dict[str, Tensor]:
        """The sum of each source of the batch."""
        return {name: _only(self._objectives[name](model.models[name], part)) for name, part in batch.items()}


def _only(parts: Mapping[str, Tensor]) -> Tensor:
    (value,) = parts.values()
    return value
