"""One encoder under several heads, and their joint objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from winning_tickets.models.loading import outside_encoder
from winning_tickets.training.objectives.base import Objective

MixedBatch = Mapping[str, Mapping[str, Tensor]]  # a batch of one or more sources, by name


class SharedEncoder(nn.Module):
    """Hugging Face models, by name, that share one encoder; each can still be used and saved alone."""

    # All come from one checkpoint. The encoder is that of the first model with a pooler, or else of the first model:
    # heads that need no pooler do without. A model without a head is the encoder itself.

    def __init__(self, models: Mapping[str, Any]) -> None:
        super().__init__()
        headed = [model for model in models.values() if model.base_model is not model] or list(models.values())
        owners = [model for model in headed if getattr(model.base_model, "pooler", None) is not None]
        owner = (owners or headed)[0]
        own: dict[str, Any] = {
            name: owner.base_model if model.base_model is model else model for name, model in models.items()
        }
        self.models = nn.ModuleDict(own)  # before the owner, so that parameters have the names of the sources
        self._owner = owner
        for model in own.values():
            if model.base_model is not self.base_model:
                setattr(model, model.base_model_prefix, self.base_model)
                model.tie_weights()

    @property
    def base_model(self) -> nn.Module:
        encoder: nn.Module = self._owner.base_model
        return encoder

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        """The parameters outside the encoder, by name, without a decoder that is tied to the embeddings."""
        return outside_encoder(self)


class JointObjective:
    """The losses of several sources, each with its own head; a batch may hold only some of them."""

    # The loss of a source has the name of the source; a further part of it has a name such as `rte.smart`.

    def __init__(self, objectives: Mapping[str, Objective], weights: Mapping[str, float]) -> None:
        self._objectives = dict(objectives)
        self._names: dict[str, dict[str, str]] = {}  # by source and part
        self.weights: dict[str, float] = {}
        for name, objective in self._objectives.items():
            parts = objective.weights
            alone = len(parts) == 1
            self._names[name] = {part: name if part == "loss" or alone else f"{name}.{part}" for part in parts}
            self.weights |= {self._names[name][part]: weights[name] * weight for part, weight in parts.items()}

    def counts(self, batch: MixedBatch) -> dict[str, Tensor]:
        """Return the count of each part of the loss, for the sources in the batch."""
        return self._named({name: self._objectives[name].counts(part) for name, part in batch.items()})

    def __call__(self, model: Any, batch: MixedBatch) -> dict[str, Tensor]:
        return self._named({name: self._objectives[name](model.models[name], part) for name, part in batch.items()})

    def _named(self, values: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {self._names[name][part]: value for name, parts in values.items() for part, value in parts.items()}
