"""Labels for words: tokens that carry them, entities and their F1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from winning_tickets.data.encode import IGNORED, Array, EncodedSplit, require_offsets
from winning_tickets.data.records import Split, Task
from winning_tickets.data.tokenizing import encoded_parts

CUT_OFF = -1  # prediction for a word after `max_length`; it counts as wrong

Entity = tuple[int, int, str]  # first word, the word after the last one, type


def encode_words(split: Split, tokenizer: Any, max_length: int) -> EncodedSplit:
    """Tokenize sentences of words, joined by spaces and cut to `max_length` tokens."""
    # The first token of each word has its label.
    require_offsets(tokenizer)
    texts = [" ".join(words) for words in split.texts[0]]
    options = {"truncation": True, "max_length": max_length, "padding": False, "return_offsets_mapping": True}
    columns: dict[str, list[Any]] = {}
    labels, places = [], []
    for begin, encoded in encoded_parts(tokenizer, [texts], **options):
        for row, offsets in enumerate(encoded.pop("offset_mapping")):
            words = split.texts[0][begin + row]
            special = np.array([side is None for side in encoded.sequence_ids(row)])
            places.append(first_tokens(words, np.asarray(offsets, dtype=np.int64), special))
            marked = np.full(len(special), IGNORED)
            there = places[-1] != CUT_OFF
            marked[places[-1][there]] = np.asarray(split.labels[begin + row])[there]
            labels.append(marked.tolist())
        for name, values in encoded.items():
            columns.setdefault(name, []).extend(values)
    return EncodedSplit(columns, labels, places=places)


def first_tokens(words: Sequence[str], offsets: Array, special: Array) -> Array:
    """Return the position of the first token of each word, or `CUT_OFF`; words were joined by spaces."""
    # `offsets` `(tokens, 2)` are the characters of each token, which may include the space before a word; `special`
    # `(tokens,)` is true for special tokens.
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    starts = ends - [len(word) for word in words]
    last = offsets[:, 1] - 1
    owner = np.clip(np.searchsorted(starts, last, side="right") - 1, 0, None)
    real = ~special & (offsets[:, 1] > offsets[:, 0]) & (last >= starts[owner]) & (last < ends[owner])
    found, first = np.unique(owner[real], return_index=True)
    result = np.full(len(words), CUT_OFF)
    result[found] = np.flatnonzero(real)[first]
    return result


def word_predictions(outputs: Sequence[Array], encoded: EncodedSplit) -> list[Array]:
    """Return the class of each word, `CUT_OFF` where the model did not see it, from logits `(tokens, classes)`."""
    assert encoded.places is not None
    return [
        np.where(places == CUT_OFF, CUT_OFF, logits.argmax(-1)[places])
        for logits, places in zip(outputs, encoded.places, strict=True)
    ]


def is_bio(labels: Sequence[str]) -> bool:
    """Check whether labels mark entities: B-x, I-x and O, and at least one B-x."""
    return all(label == "O" or re.match(r"[BI]-.", label) for label in labels) and any(
        label.startswith("B-") for label in labels
    )


def entities(labels: Sequence[str]) -> set[Entity]:
    """Return the entities of a sentence with BIO labels."""
    # An entity begins at B-x, and at an I-x that does not continue an entity of its type (as in the CoNLL-2000 script).
    found: set[Entity] = set()
    begin, kind = 0, ""
    for index, label in enumerate([*labels, "O"]):
        mark, _, name = label.partition("-")
        if mark == "I" and name == kind:
            continue
        if kind:
            found.add((begin, index, kind))
        begin, kind = index, name if mark in ("B", "I") else ""
    return found


def word_metrics(
    task: Task, predictions: Sequence[Array], labels: Sequence[Sequence[int]]
) -> tuple[dict[str, float], bool]:
    """Compute the metrics over all words, or over all entities, from one class per word (`CUT_OFF` if not seen)."""
    # The second value says whether all words got the same class.
    found, truth = np.concatenate(predictions), np.concatenate([np.asarray(row) for row in labels])
    values = {}
    for name in task.metrics:
        if name == "f1":
            values[name] = _entity_f1(task, predictions, labels)
        elif name == "accuracy":
            values[name] = float(np.mean(found == truth))
        else:
            from sklearn.metrics import f1_score

            classes = range(len(task.labels))
            values[name] = float(f1_score(truth, found, labels=classes, average="macro", zero_division=0.0))
    return values, len(np.unique(found[found != CUT_OFF])) <= 1


def _entity_f1(task: Task, predictions: Sequence[Array], labels: Sequence[Sequence[int]]) -> float:
    """Compute the F1 of whole entities of the right type; words that the model did not see are in no entity."""
    names = [*task.labels, "O"]  # CUT_OFF is the last of them
    common = total = 0
    for guess, right in zip(predictions, labels, strict=True):
        a, b = entities([names[index] for index in guess]), entities([names[index] for index in right])
        common, total = common + len(a & b), total + len(a) + len(b)
    return 2 * common / total if total else 0.0
