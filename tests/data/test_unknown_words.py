"""Text of unknown words is found whatever name a tokenizer has for the token that stands for them."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from winning_tickets.data.unknown_words import check_words
from winning_tickets.runs.errors import ContentError

WORDS = ("a", "b", "good", "bad")
ENDS = {"</s>": 0, "<unk>": 1}
GREEK = "\u03b1\u03b2 \u03b3"


def tokenizer(model: Any, splitter: Any, **named: str) -> Any:
    backend = Tokenizer(model)
    backend.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>", **named)


def words_by(unknown: str | None, **named: str) -> Any:
    vocabulary = ENDS | {word: number for number, word in enumerate(WORDS, start=2)}
    if unknown is None:
        return tokenizer(models.BPE(vocabulary, []), pre_tokenizers.Whitespace(), **named)
    return tokenizer(models.WordLevel(vocabulary, unknown), pre_tokenizers.Whitespace(), **named)


def pieces() -> Any:
    found = [(token, 0.0) for token in ENDS] + [(f"\u2581{word}", -1.0) for word in WORDS] + [("\u2581", -2.0)]
    return tokenizer(models.Unigram(found, unk_id=1), pre_tokenizers.Metaspace())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (words_by("<unk>", unk_token="<unk>"), "2 are unknown: the tokenizer knows none of the words"),
        (words_by("<unk>"), "2 are unknown: the tokenizer knows none of the words"),
        (words_by("</s>", unk_token="</s>"), "2 are unknown: the tokenizer knows none of the words"),
        (pieces(), "2 are unknown: the tokenizer knows none of the words"),
        (words_by(None), "There is no token in the texts: the tokenizer knows none of the characters"),
    ],
    ids=["declared", "not declared", "end of text", "pieces", "dropped"],
)
def test_unknown_words_are_found(made: Any, message: str) -> None:
    with pytest.raises(ContentError, match=message):
        check_words(made(GREEK)["input_ids"], made, "the texts")
    check_words(made("a b")["input_ids"], made, "the texts")


def test_bytes_are_never_unknown() -> None:
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = tokenizer(models.BPE(alphabet | {"</s>": 256}, []), pre_tokenizers.ByteLevel(), unk_token="</s>")
    check_words(made(GREEK)["input_ids"], made, "the texts")
