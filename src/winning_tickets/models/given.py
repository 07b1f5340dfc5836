"""A model that is given in memory: a Hugging Face model, or a module with one inside, such as a SentenceTransformer."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.data.token_cache import tokenizer_hash
from winning_tickets.models.architectures import ARCHITECTURES, split_name
from winning_tickets.models.checkpoints import files_of
from winning_tickets.models.encoders import find_encoder, whole
from winning_tickets.models.layers import check_adapters, check_layer, check_parameter, class_of
from winning_tickets.models.loading import base_hash, tensor_hash
from winning_tickets.models.reparametrized import refuse_pruned_heads, refuse_reparametrized
from winning_tickets.models.tokenizers import fit_tokenizer_, open_tokenizer
from winning_tickets.runs import memory
from winning_tickets.runs.errors import ContentError, UsageError, listed

_NO_CONTENT = ("_name_or_path", "transformers_version", "dtype")


@dataclass(frozen=True)
class GivenModel:
    """A model in memory, which is only read: every load makes a new model."""

    model: Any  # a Hugging Face model
    tokenizer: Any = None  # None: that of the folder or hub id from which the model was loaded
    module: Any = None  # the module that was given, with the model inside

    @classmethod
    def of(cls, found: nn.Module, tokenizer: Any = None) -> GivenModel:
        """Find the Hugging Face model in a module.

        Raises:
            UsageError: there is none or more than one, or it has adapters or quantized weights.
            ContentError: a layer or weight is of a kind that cannot be masked, or heads were removed.
        """
        from transformers import PreTrainedModel

        models = [module for module in found.modules() if isinstance(module, PreTrainedModel)]
        models = [one for one in models if not any(one in set(other.modules()) for other in models if other is not one)]
        kind = type(found).__name__
        if len(models) != 1:
            raise UsageError(
                f"The {kind} that was given has {len(models)} Hugging Face models inside; give one model, or a "
                "SentenceTransformer of one."
            )
        adapters = sorted({class_of(one) for one in found.modules() if class_of(one).startswith("peft.")})
        if adapters or any("lora_" in name for name, _ in found.named_parameters()):
            named = f" ({listed(adapters)})" if adapters else ""
            raise UsageError(
                f"The {kind} that was given has LoRA or other adapters{named}, which a run would not see; give the "
                "model after merge_and_unload()."
            )
        if getattr(models[0], "hf_quantizer", None) is not None:
            raise UsageError(f"The {kind} that was given is quantized; give the model before it is quantized.")
        refuse_reparametrized(models[0].base_model, f"The {kind} that was given")
        refuse_pruned_heads(models[0].config, f"the {kind} that was given")
        _check_layers(models[0])
        return cls(models[0], getattr(found, "tokenizer", None) if tokenizer is None else tokenizer, found)

    @property
    def is_sentence_transformer(self) -> bool:
        return any(kind.__name__ == "SentenceTransformer" for kind in type(self.module).__mro__)

    @property
    def origin(self) -> str:
        """The folder or hub id that the model was loaded from; empty for one that was built in memory."""
        return str(self.model.name_or_path or "")

    def configuration(self) -> Any:
        """Return the configuration as a folder would have it, without fields that only a loaded model has."""
        return type(self.model.config).from_dict(self.model.config.to_dict())

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """Return copies of all tensors on the CPU."""
        found = self.model.state_dict()
        return {name: whole(value).to("cpu", copy=True).contiguous() for name, value in found.items()}

    def load_tokenizer(self) -> Any:
        """Return a new tokenizer for each load, as tokenizing changes its settings; a `NoTokenizer` without one."""
        found = copy.deepcopy(self.tokenizer)
        if found is None:
            if not self.origin:
                return NoTokenizer()
            try:
                found = open_tokenizer(self.origin, files_of(self.origin, None, {}))
            except ContentError:
                return NoTokenizer()
        return fit_tokenizer_(found, self.model, self.origin or f"the {type(self.model).__name__} in memory")

    @property
    def name(self) -> str:
        """The name by which runs know the model, made from its content."""
        return f"{memory.PREFIX}model-{self.hash}"

    @property
    def hash(self) -> str:
        """A hash of all that a load reads: tensors, configuration, and the tokenizer that was given."""
        hashes = {name: tensor_hash(whole(value)) for name, value in self.model.state_dict().items()}
        config = {key: value for key, value in self.configuration().to_dict().items() if key not in _NO_CONTENT}
        tokenizer = "" if self.tokenizer is None else tokenizer_hash(self.tokenizer)
        return base_hash(hashes | {"": json.dumps(config, sort_keys=True, default=str) + tokenizer})


def _check_layers(model: Any) -> None:
    """Refuse a model whose weights or prunable layers are not those that a load makes of its configuration."""
    architecture = ARCHITECTURES.get(model.config.model_type)
    if architecture is not None:
        roles = architecture.layer_matrices(model.base_model)
        matrices = [split_name(name).parameter for layer in roles for names in layer.values() for name in names]
        names = [*matrices, architecture.word_embeddings]
        encoder = find_encoder(model.base_model, names)
        for name in names:
            if chain := encoder.chain(name):  # a missing layer is named when the model is loaded
                check_layer(name, chain)
                check_adapters(name, chain)
    for name, parameter in model.named_parameters():
        check_parameter(name, parameter, trained=False)


class NoTokenizer:
    """Stands in for a missing tokenizer and raises an error when it is used; methods without text do not use it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self()

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise UsageError("The model in memory has no tokenizer; give one with tokenizer=, or load the model by name.")
