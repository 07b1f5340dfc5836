"""Whether a tokenizer knows the words of a text; all that it does not know become the same token."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from winning_tickets.runs.errors import ContentError

FIRST = 1000
"""Number of tokens at the beginning of a text that are looked at, special ones not counted."""
_SPACE = "\u2581"  # the mark that SentencePiece puts before each word, also before an unknown one


def check_words(ids: Iterable[Any], tokenizer: Any, what: str) -> None:
    """Refuse a text, of which `ids` are the tokens, if most of its first tokens are unknown; `what` names the text.

    Raises:
        ContentError: the tokenizer knows few of the words.
    """
    unknown, special = tokenizer.unk_token_id, set(tokenizer.all_special_ids)
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        special.add(backend.token_to_id(_SPACE))
        if (token := getattr(backend.model, "unk_token", None)) is not None:
            unknown = backend.token_to_id(token)
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return  # it knows all bytes, and names an unknown token for form's sake
    special.discard(unknown)
    first = list(islice((index for index in ids if index not in special), FIRST))
    count = first.count(unknown)
    if 2 * count > len(first):
        raise ContentError(
            f"Of the first {len(first):,} tokens of {what}, {count:,} are unknown: the tokenizer knows "
            f"{'none' if count == len(first) else 'few'} of the words. Use other text, or a model of its language."
        )
