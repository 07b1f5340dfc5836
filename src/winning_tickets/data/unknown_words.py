"""Whether a tokenizer knows the words of a text; all that it does not know become the same token."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

from winning_tickets.runs.errors import ContentError

FIRST = 1000
"""Number of tokens at the beginning of a text that are looked at, special ones not counted."""
_SPACE = "\u2581"  # the mark that SentencePiece puts before each word, also before an unknown one
_STRANGE = "\U00010380"  # a letter of a dead script, which no vocabulary has


def check_words(ids: Iterable[Any], tokenizer: Any, what: str) -> None:
    """Refuse a text, of which `ids` are the tokens, if most of its first tokens are unknown; `what` names the text.

    Raises:
        ContentError: the tokenizer knows few of the words, or there is no token at all.
    """
    rest = iter(ids)
    begin = list(islice(rest, 1))
    if not begin:
        raise ContentError(
            f"There is no token in {what}: the tokenizer knows none of the characters. Use other text, or a model of "
            "its language."
        )
    special = set(tokenizer.all_special_ids)
    if tokenizer.is_fast:
        special.add(tokenizer.backend_tokenizer.token_to_id(_SPACE))
    unknown = _find_unknown(tokenizer)
    if unknown is None:
        return
    special.discard(unknown)
    first = list(islice((index for index in chain(begin, rest) if index not in special), FIRST))
    count = first.count(unknown)
    if 2 * count > len(first):
        raise ContentError(
            f"Of the first {len(first):,} tokens of {what}, {count:,} are unknown: the tokenizer knows "
            f"{'none' if count == len(first) else 'few'} of the words. Use other text, or a model of its language."
        )


def _find_unknown(tokenizer: Any) -> int | None:
    """Return the id that all unknown words become; None if the tokenizer spells them with bytes, or drops them."""
    # Many tokenizers name an unknown token for form's sake, and others name none and have one: it is tried out.
    if not tokenizer.is_fast:
        unknown: int | None = tokenizer.unk_token_id
        return None if unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id) else unknown
    backend = tokenizer.backend_tokenizer
    encoded = backend.encode(_STRANGE, add_special_tokens=False)
    added = zip(encoded.ids, encoded.special_tokens_mask, strict=True)
    found = {index for index, is_added in added if not is_added} - {backend.token_to_id(_SPACE)}
    return found.pop() if len(found) == 1 else None
