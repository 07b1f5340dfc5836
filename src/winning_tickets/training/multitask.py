"""One encoder under several heads, and what they learn together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from winning_tickets.models.loading import outside_encoder
from winning_tickets.training.objectives.base import Objective

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
        return outside_encoder(self)


class JointObjective:
    """The losses of several sources, each over its own head; a batch may hold some of them only.

    Args:
        objectives: by source. Its loss is called like the source, a further part like `rte.soft_loss`.
        weights: of each source.
    """

    def __init__(self, objectives: Mapping[str, Objective], weights: Mapping[str, float]) -> None:
        self._objectives = dict(objectives)
        self.weights = {
            key: weights[name] * objective.weights[part]
            for name, objective in self._objectives.items()
            for part, key in self._keys(name).items()
        }

    def _keys(self, name: str) -> dict[str, str]:
        parts = self._objectives[name].weights
        return {part: name if part == "loss" or len(parts) == 1 else f"{name}.{part}" for part in parts}

    def _named(self, name: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        keys = self._keys(name)
        return {keys[part]: value for part, value in values.items()}

    def counts(self, batch: MixedBatch) -> dict[str, Tensor]:
        """What the sums of each source of the batch are divided by."""
        named = [self._named(name, self._objectives[name].counts(part)) for name, part in batch.items()]
        return {key: count for counts in named for key, count in counts.items()}

    def __call__(self, model: Any, batch: MixedBatch) -> dict[str, Tensor]:
        """The sums of each source of the batch."""
        named = [self._named(name, self._objectives[name](model.models[name], part)) for name, part in batch.items()]
        return {key: value for sums in named for key, value in sums.items()}
