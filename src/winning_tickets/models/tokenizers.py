"""The tokenizer that goes with a model: opened from its files, and fitted to the model that reads its tokens."""

from __future__ import annotations

import json
import math
from itertools import chain
from typing import Any

from winning_tickets.models.checkpoints import Find, reading, without_embedding
from winning_tickets.runs.directory import is_trusted
from winning_tickets.runs.errors import ContentError, shown

_VOCABULARIES = (
    *(
        "tokenizer.json",
        "vocab.txt",
        "vocab.json",
        "tokenizer.model",
        "spiece.model",
        "spm.model",
        "sentencepiece.bpe.model",
    ),
    *("sentencepiece.model", "tekken.json", "tiktoken.model"),
)
_TEXT = "a \ue000"  # a letter, and a character that no vocabulary has
_PLACEHOLDERS = ("image_token", "audio_token", "video_token")
"""Tokens that no text has; Gemma 3 numbers one of them beyond the embeddings of its models without images."""


def open_tokenizer(where: str, find: Find, *, own_code: bool = False, **options: Any) -> Any:
    """Open the tokenizer of a folder or of a repository of the hub; `find` finds its files.

    With `own_code` the code that comes with it may run, if the user trusts it.

    Raises:
        ContentError: the vocabulary is missing or damaged.
    """
    from transformers import AutoTokenizer

    try:
        with reading(f"Could not load the tokenizer of {where}"):
            tokenizer: Any = AutoTokenizer.from_pretrained(
                where, trust_remote_code=own_code and is_trusted(), **options
            )
    except ContentError as error:
        raise error if any(map(find, _VOCABULARIES)) else _missing(where) from error
    # Without files of a vocabulary, transformers makes a tokenizer that knows its special tokens and no word.
    names = dict(getattr(tokenizer, "vocab_files_names", {}))
    if names and not any(map(find, dict.fromkeys((*_VOCABULARIES, *names.values())))):
        raise _missing(where)
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise _missing(where)
    return tokenizer


def _missing(where: str) -> ContentError:
    return ContentError(
        f"The model {where} has no tokenizer files with words (such as tokenizer.json or vocab.txt); save the "
        f"tokenizer that it was trained with there: tokenizer.save_pretrained({where!r})."
    )


def fit_tokenizer_(tokenizer: Any, model: Any, name: str) -> Any:
    """Compare a tokenizer with its model, and let its `model_max_length` be the most tokens that both take.

    Raises:
        ContentError: the tokenizer has ids that the model has no embeddings for, or one of them states no length.
    """
    _check_ids(tokenizer, model, name)
    tokenizer.model_max_length = longest_input(tokenizer, model.base_model, name)
    return tokenizer


def _check_ids(tokenizer: Any, model: Any, name: str) -> None:
    """Refuse token ids beyond the rows of the word embeddings, which may have more rows than there are tokens."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    rows = int(model.config.vocab_size if embeddings is None else embeddings.weight.shape[0])
    outside = {str(getattr(tokenizer, one, None)) for one in _PLACEHOLDERS}
    vocabulary = {token: index for token, index in tokenizer.get_vocab().items() if token not in outside}
    token = max(vocabulary, key=vocabulary.__getitem__)
    if (index := vocabulary[token]) >= rows:
        raise without_embedding(f"The tokenizer of {name} has ids up to {index} ({shown(token)})", index, rows)
    if (padding := tokenizer.pad_token_id) is not None and padding >= rows:
        raise without_embedding(f"The tokenizer of {name} has the padding id {padding}", padding, rows)
    # The ids that a tokenizer puts around a text, and for an unknown word, are written down in other places: they are
    # tried out, without a change of its settings.
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        with reading(f"The tokenizer of {name} cannot be used"):
            _check_template(backend.post_processor)
            index = max(chain(backend.encode(_TEXT).ids, backend.encode(_TEXT, _TEXT).ids))
        if index >= rows:
            raise without_embedding(f"The tokenizer of {name} puts the id {index} around a text", index, rows)


def _check_template(processor: Any) -> None:
    """Refuse a template for texts with a special token that it gives no id for, which would stop the process."""
    state = {} if processor is None else json.loads(processor.__getstate__())
    for one in state.get("processors", [state]):
        pieces = chain(one.get("single", ()), one.get("pair", ())) if one.get("type") == "TemplateProcessing" else ()
        for piece in pieces:
            token = piece.get("SpecialToken", {}).get("id")
            if token is not None and token not in one.get("special_tokens", {}):
                raise ValueError(f"its template has the special token {shown(token)}, and no id for it.")


def read_together_(tokenizer: Any, other: Any) -> None:
    """Let a model and another one that reads the same texts take as many tokens as the shorter one of them."""
    tokenizer.model_max_length = min(tokenizer.model_max_length, other.model_max_length)


def longest_input(tokenizer: Any, encoder: Any, name: str) -> int:
    """Return the most tokens that a model takes: the smaller one of its positions and of its tokenizer's maximum."""
    most = tokenizer.model_max_length
    if isinstance(most, bool) or not isinstance(most, int | float) or not 1 <= most < math.inf:
        raise ContentError(
            f"The tokenizer of {name} has model_max_length {shown(most)}, expected a number from 1; correct its "
            "tokenizer_config.json."
        )
    if getattr(encoder.config, "max_position_embeddings", None) is None:  # as in some models with their own code
        return int(most)
    if (positions := count_positions(encoder)) < 1:
        raise ContentError(f"The config.json of {name} gives the model {positions} positions for tokens.")
    return int(min(most, positions))


def count_positions(encoder: Any) -> int:
    """Return the number of positions of an encoder or decoder."""
    # RoBERTa and MPNet start their positions after the padding index of the position embeddings; decoders do not.
    embeddings = getattr(encoder, "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return int(encoder.config.max_position_embeddings) - (0 if padding is None else padding + 1)
