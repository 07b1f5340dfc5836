"""The language-model head of a loaded model: its decoder untied from the word embeddings, its trained parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from winning_tickets.models.loading import PLM, outside_encoder
from winning_tickets.runs.errors import ContentError


def untie_decoder(plm: PLM, dense: Tensor | None) -> None:
    """Give tied output embeddings a frozen dense matrix; with None (embeddings not masked) the tie stays."""
    decoder = plm.model.get_submodule(plm.architecture.lm_decoder)
    if dense is not None and decoder.weight is plm.encoder.get_parameter(plm.architecture.word_embeddings):
        decoder.weight = nn.Parameter(dense, requires_grad=False)


def separate_decoder(plm: PLM, *, masked: bool) -> None:
    """Untie the output embeddings if the embeddings are masked: their dense matrix and bias are saved separately."""
    decoder = plm.model.get_submodule(plm.architecture.lm_decoder)
    embeddings = plm.encoder.get_parameter(plm.architecture.word_embeddings)
    if masked and decoder.weight is embeddings:
        untie_decoder(plm, embeddings.detach().clone())
        if decoder.bias is not None:
            # Without the tie, transformers saves a shared bias under its other name only and then loads zeros.
            shared, decoder.bias = decoder.bias, nn.Parameter(decoder.bias.detach().clone())
            shared.requires_grad_(False)  # nothing reads it any more
        plm.model.config.tie_word_embeddings = False


def head_without_decoder(plm: PLM) -> dict[str, nn.Parameter]:
    """Return the parameters of a language-model head by the model's names, without the matrix of its decoder."""
    decoder = plm.model.get_submodule(plm.architecture.lm_decoder)
    return {name: value for name, value in outside_encoder(plm.model).items() if value is not decoder.weight}


def load_mlm_head(plm: PLM, head: Mapping[str, Tensor]) -> None:
    """Copy a trained MLM head into a ForMaskedLM model."""
    parameters = dict(plm.model.named_parameters())
    with torch.no_grad():
        for name, value in head.items():
            if name not in parameters or parameters[name].shape != value.shape:
                raise ContentError(f"The ticket's MLM head has {name} {tuple(value.shape)}, which {plm.name} does not.")
            parameters[name].copy_(value)
