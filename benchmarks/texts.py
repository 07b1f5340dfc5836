"""Text and a tokenizer trained on it, for benchmarks with real words: the built-in text, or a file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from winning_tickets.data.corpora import load_corpus

_SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
_SPECIAL |= {"mask_token": "[MASK]"}


def lines_of(path: str | None) -> list[str]:
    """The lines of a text file, or of the built-in text."""
    return list(load_corpus(path or "pydocs", "train").lines)


@cache
def tokenizer_of(folder: str | None, size: int = 8000) -> Any:
    """A tokenizer that is saved in a folder; without one a WordPiece of BERT's kind, trained on the built-in text."""
    if folder is not None:
        return AutoTokenizer.from_pretrained(folder)
    backend = Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = BertNormalizer(lowercase=True), BertPreTokenizer()
    special = list(_SPECIAL.values())
    trainer = WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    backend.train_from_iterator(lines_of(None), trainer)
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **_SPECIAL)


def repeat_to(path: Path, lines: list[str], size: int) -> None:
    """Write a text of the given number of bytes by repeating the lines."""
    block = "".join(f"{line}\n" for line in lines).encode()
    with path.open("wb") as handle:
        for _ in range(size // len(block)):
            handle.write(block)
        rest = block[: size % len(block)]
        handle.write(rest[: rest.rfind(b"\n") + 1])
