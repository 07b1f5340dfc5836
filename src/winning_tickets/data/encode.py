"""Encode examples as tensors: batched tokenizer calls, dynamic padding, seeded nested subsets."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from winning_tickets.config.settings import count_of
from winning_tickets.data.records import Split
from winning_tickets.data.tokenizing import LONGEST_WHOLE, cut, encoded_columns
from winning_tickets.runs.errors import ContentError, UsageError

Array = np.ndarray[Any, Any]
Item = dict[str, Any]
Batch = dict[str, torch.Tensor]
IGNORED = -100  # label of positions that are not predicted


class EncodedSplit(Dataset[Item]):
    """Tokenized examples; an item has lists of ids and `labels`."""

    # `columns` are `input_ids`, `attention_mask`, perhaps `token_type_ids`, one list per item each.
    # `labels` are class indices; scores; tuples of numbers; or lists with one number per token, which are padded.

    def __init__(
        self,
        columns: dict[str, list[Any]],
        labels: list[Any],
        owners: list[int] | None = None,  # the example that each item is a window of; None: each example is one item
        # for windows: the characters of each token `(tokens, 2)`, -1 outside the context; for words: their first tokens
        places: list[Array] | None = None,
    ) -> None:
        self.columns = columns
        self.labels = labels
        self.owners = owners
        self.places = places

    def __len__(self) -> int:
        return len(self.labels)

    def split_at(self, examples: int) -> tuple[EncodedSplit, EncodedSplit]:
        """Return the items of the first so many examples, and those of the rest."""
        border = examples if self.owners is None else bisect_left(self.owners, examples)
        return self._between(0, border, 0), self._between(border, len(self), examples)

    def _between(self, start: int, stop: int, first: int) -> EncodedSplit:
        owners = None if self.owners is None else [owner - first for owner in self.owners[start:stop]]
        places = None if self.places is None else self.places[start:stop]
        columns = {name: values[start:stop] for name, values in self.columns.items()}
        return EncodedSplit(columns, self.labels[start:stop], owners, places)

    def __getitem__(self, index: int) -> Item:
        return {name: values[index] for name, values in self.columns.items()} | {"labels": self.labels[index]}


def encode(split: Split, tokenizer: Any, max_length: int) -> EncodedSplit:
    """Tokenize a split, cut to `max_length` tokens including special ones; in pairs, the longer text is cut first."""
    columns = encoded_columns(tokenizer, split.texts, truncation=True, max_length=max_length, padding=False)
    return EncodedSplit(columns, split.labels)


def encoded_whole(tokenizer: Any, text: str) -> Array:
    """Return the ids of one text with its special tokens, int32 `(tokens,)`."""
    pieces = list(cut(text, LONGEST_WHOLE))
    if len(pieces) == 1:
        return np.asarray(tokenizer(text, truncation=False)["input_ids"], dtype=np.int32)
    prefix, suffix = special_tokens(tokenizer)
    parts = (tokenizer(piece, truncation=False, add_special_tokens=False)["input_ids"] for piece in pieces)
    return np.concatenate([np.asarray(ids, dtype=np.int32) for ids in (prefix, *parts, suffix)])


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after a single text, such as [CLS] and [SEP]."""
    options = {"truncation": False, "padding": False}
    plain = tokenizer("a", add_special_tokens=False, **options)["input_ids"]
    full = tokenizer("a", add_special_tokens=True, **options)["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if plain and full[start : start + len(plain)] == plain:
            return list(full[:start]), list(full[start + len(plain) :])
    raise UsageError(f"The tokenizer {tokenizer.name_or_path} does not surround a text with special tokens.")


def require_offsets(tokenizer: Any) -> None:
    """Refuse tokenizers that do not report the characters that a token covers."""
    if not tokenizer.is_fast:
        raise ContentError(
            "The model's tokenizer cannot tell which characters a token covers, so words and spans cannot be labeled; "
            "use a model with a fast tokenizer (tokenizer.json)."
        )


def make_collator(tokenizer: Any, length: int | None = None) -> Callable[[list[Item]], Batch]:
    """Return a collator that pads on the right, to `length` or to the longest item."""
    padding = {"padding": True} if length is None else {"padding": "max_length", "max_length": length}

    def pad(items: list[Item]) -> Batch:
        labels = [item["labels"] for item in items]
        features = [{name: value for name, value in item.items() if name != "labels"} for item in items]
        batch: Batch = dict(tokenizer.pad(features, **padding, padding_side="right", return_tensors="pt"))
        if isinstance(labels[0], list):
            width = batch["input_ids"].shape[1]
            labels = [row + [IGNORED] * (width - len(row)) for row in labels]
        first = labels[0][0] if isinstance(labels[0], list | tuple) else labels[0]
        batch["labels"] = torch.tensor(labels, dtype=torch.float32 if isinstance(first, float) else torch.int64)
        return batch

    return pad


def train_subset(split: Split, size: str | None, seed: int) -> Split:
    """Return the first examples of a seeded permutation; smaller subsets are inside larger ones of the same seed."""
    # `size` is `"100"` examples, `"10%"` of them (rounded down), or None for all, in their order.
    if size is None:
        return split
    order = np.random.default_rng(seed).permutation(len(split))[: count_of(size, len(split))].tolist()
    return split.take(order)
