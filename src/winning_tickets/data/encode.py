"""Task examples -> tensors: one batched tokenizer call, dynamic padding, seeded nested subsets."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from winning_tickets.data.tasks import Split
from winning_tickets.errors import UsageError

Item = dict[str, Any]
Batch = dict[str, torch.Tensor]


class EncodedSplit(Dataset[Item]):
    """Tokenised examples; an item holds lists of ids and `labels`.

    Args:
        columns: `input_ids`, `attention_mask`, perhaps `token_type_ids`, one list an example each.
        labels: class indices, or scores.
    """

    def __init__(self, columns: dict[str, list[list[int]]], labels: list[int] | list[float]) -> None:
        self.columns = columns
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        return {name: values[index] for name, values in self.columns.items()} | {"labels": self.labels[index]}


def encode(split: Split, tokenizer: Any, max_length: int) -> EncodedSplit:
    """Tokenise a split.

    Args:
        split: texts, one or two columns, and labels.
        tokenizer: of the model.
        max_length: tokens an example is cut to, special tokens included; of pairs the longer text is cut first.
    """
    columns = tokenizer(*split.texts, truncation=True, max_length=max_length, padding=False) if len(split) else {}
    return EncodedSplit({name: list(values) for name, values in columns.items()}, split.labels)


def collate(tokenizer: Any, length: int | None = None) -> Callable[[list[Item]], Batch]:
    """A collator that pads to `length`, or to the longest example; labels become int64, or float32 for scores."""
    padding = {"padding": True} if length is None else {"padding": "max_length", "max_length": length}

    def pad(items: list[Item]) -> Batch:
        labels = [item["labels"] for item in items]
        features = [{name: value for name, value in item.items() if name != "labels"} for item in items]
        batch: Batch = dict(tokenizer.pad(features, **padding, return_tensors="pt"))
        kind = torch.float32 if isinstance(labels[0], float) else torch.int64
        batch["labels"] = torch.tensor(labels, dtype=kind)
        return batch

    return pad


def train_subset(split: Split, size: str | None, seed: int) -> Split:
    """The first so many examples of a seeded permutation: smaller subsets lie inside larger ones of the same seed.

    Args:
        split: all examples.
        size: `"100"` examples, `"10%"` of them (rounded down), or None for all, in their order.
        seed: of the permutation.

    Raises:
        UsageError: not a number, nothing left, or more than there is.
    """
    if size is None:
        return split
    order = np.random.default_rng(seed).permutation(len(split))[: _count(size, len(split))].tolist()
    texts = tuple([column[index] for index in order] for column in split.texts)
    return Split(texts, [split.labels[index] for index in order])


def _count(size: str, available: int) -> int:
    wanted = "use a number of examples such as 1000, or a percentage such as 10%"
    percent = size.strip().endswith("%")
    try:
        number = Fraction(size.strip().removesuffix("%").strip())
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"--train-size {size} is not a size; {wanted}.") from error
    if percent and not 0 < number <= 100:
        raise UsageError(f"--train-size {size} is outside (0%, 100%]; {wanted}.")
    if not percent and (number.denominator != 1 or number < 1):
        raise UsageError(f"--train-size {size} is not a whole number of at least 1; {wanted}.")
    count = int(number * available / 100) if percent else int(number)
    if count > available:
        raise UsageError(f"--train-size {size} asks for more than the {available} training examples there are.")
    if count == 0:
        raise UsageError(f"--train-size {size} of {available} training examples leaves none; {wanted}.")
    return count
