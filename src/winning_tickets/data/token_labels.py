"""A label for each word: reading the user's files, first sub-words, entities and their F1."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from winning_tickets.data.encode import IGNORED, Array, EncodedSplit, require_offsets
from winning_tickets.data.readers import jsonl_rows, read_utf8, split_lines
from winning_tickets.data.records import Split, Task, TaskData
from winning_tickets.runs.errors import ContentError, UsageError

WELL_KNOWN = ("words", "tokens")
"""Columns of words that are found without being named."""
CUT_OFF = -1
"""The prediction for a word that lies behind `max_length`; it counts as wrong."""

Sentence = tuple[int, list[str], list[str]]
"""Line number, words and labels."""
Entity = tuple[int, int, str]
"""First word, the word after the last one, type."""


def load_words(
    train_file: Path, validation_file: Path, text_columns: Sequence[str] | None, label_column: str, metric: str | None
) -> TaskData:
    """Read a task with a label for each word.

    Args:
        train_file: `.jsonl` with a list of words and a list of labels in each row, or `.conll`: a word and, last, its
            label on each line, an empty line after each sentence.
        validation_file: another one.
        text_columns: the column of the words; None looks for `WELL_KNOWN`.
        label_column: the column of the labels.
        metric: primary metric; None means entity F1 where the labels are BIO, else accuracy.

    Raises:
        UsageError: a file is missing or of another kind, several text columns, a metric that needs other labels.
        ContentError: rows that are no such lists, lists of different lengths, labels outside the set.
    """
    if text_columns is not None and len(text_columns) != 1:
        raise UsageError(f"--kind tokens takes one text column, that of the words; found {', '.join(text_columns)}.")
    column = None if text_columns is None else text_columns[0]
    files = (train_file, validation_file)
    found = {path: list(_sentences(path, column, label_column)) for path in files}
    for path, sentences in found.items():
        if not sentences:
            raise ContentError(f"{path} is empty: it holds no sentence.")
    labels = tuple(sorted({label for _, _, labels in found[train_file] for label in labels}))
    if len(labels) < 2:
        raise ContentError(f"{train_file} has one label only ({', '.join(labels)}); at least two are needed.")
    task = Task(
        "local", (column or "words",), labels, _metrics(metric, labels), kind="tokens", label_column=label_column
    )
    splits = {path: _split(path, sentences, labels) for path, sentences in found.items()}
    return TaskData.of(task, splits[train_file], {"validation": splits[validation_file]}, "files")


def _metrics(metric: str | None, labels: tuple[str, ...]) -> tuple[str, ...]:
    available = ("f1", "accuracy") if is_bio(labels) else ("accuracy", "macro_f1")
    if metric is None:
        return available
    if metric not in available:
        raise UsageError(
            f"--metric {metric} does not go with these labels ({', '.join(labels[:6])}); use {' or '.join(available)}. "
            "F1 of entities (f1) needs BIO labels: B-x and I-x for entities of type x, and O."
        )
    return (metric, *(name for name in available if name != metric))


def _sentences(path: Path, column: str | None, label_column: str) -> Iterator[Sentence]:
    if path.suffix.lower() == ".conll":
        return _conll(path)
    if path.suffix.lower() == ".jsonl":
        return _lists(path, column, label_column)
    raise UsageError(f"{path} is not one of .jsonl, .conll, which hold a label for each word.")


def _lists(path: Path, column: str | None, label_column: str) -> Iterator[Sentence]:
    for number, row in jsonl_rows(path, read_utf8(path)):
        where = f"{path}, line {number}"
        name = column or next((name for name in WELL_KNOWN if name in row), WELL_KNOWN[0])
        if missing := [wanted for wanted in (name, label_column) if wanted not in row]:
            raise ContentError(
                f"{where}, lacks the columns {', '.join(missing)}: found {', '.join(row)}, expected {name}, "
                f"{label_column}. Name them with --text-columns and --label-column."
            )
        words, labels = row[name], row[label_column]
        if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
            raise ContentError(f"{where}: column {name!r} must be a list of words, found {str(words)[:60]!r}.")
        if not isinstance(labels, list) or any(isinstance(label, list | dict) or label is None for label in labels):
            shown = str(labels)[:60]
            raise ContentError(f"{where}: column {label_column!r} must be a list of labels, found {shown!r}.")
        if len(words) != len(labels) or not words:
            raise ContentError(
                f"{where}: found {len(words)} words and {len(labels)} labels; each word needs one, and a row one word."
            )
        yield number, words, [str(label) for label in labels]


def _conll(path: Path) -> Iterator[Sentence]:
    words: list[str] = []
    labels: list[str] = []
    first = 1
    for number, line in enumerate([*split_lines(read_utf8(path)), ""], start=1):
        cells = re.findall(r"[^ \t]+", line)
        if not cells or cells[0] == "-DOCSTART-":
            if words:
                yield first, words, labels
            words, labels, first = [], [], number + 1
        elif len(cells) < 2:
            raise ContentError(f"{path}, line {number}: expected a word and its label, found {line.strip()!r}.")
        else:
            words.append(cells[0])
            labels.append(cells[-1])


def _split(path: Path, sentences: list[Sentence], labels: tuple[str, ...]) -> Split:
    places = {label: index for index, label in enumerate(labels)}
    for number, _, found in sentences:
        if others := [label for label in found if label not in places]:
            allowed = ", ".join(labels)
            raise ContentError(
                f"{path}, line {number}: label {others[0]!r} is not in the training file; allowed: {allowed}."
            )
    return Split(([words for _, words, _ in sentences],), [[places[label] for label in row] for _, _, row in sentences])


def encode_words(split: Split, tokenizer: Any, max_length: int) -> EncodedSplit:
    """Tokenise sentences of words; the first token of each word carries its label.

    The words are joined by blanks, which suits tokenizers that see a word's beginning by the blank before it.

    Args:
        split: lists of words and of class indices.
        tokenizer: of the model; it must tell which characters a token covers.
        max_length: tokens a sentence is cut to, special tokens included.

    Raises:
        ContentError: the tokenizer cannot tell characters.
    """
    require_offsets(tokenizer)
    texts = [" ".join(words) for words in split.texts[0]]
    if not texts:
        return EncodedSplit({}, [], places=[])
    encoded = tokenizer(texts, truncation=True, max_length=max_length, padding=False, return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")
    labels, places = [], []
    for row, words in enumerate(split.texts[0]):
        special = np.array([side is None for side in encoded.sequence_ids(row)])
        places.append(first_tokens(words, np.asarray(offsets[row], dtype=np.int64), special))
        marked = np.full(len(special), IGNORED)
        there = places[-1] != CUT_OFF
        marked[places[-1][there]] = np.asarray(split.labels[row])[there]
        labels.append(marked.tolist())
    return EncodedSplit({name: list(values) for name, values in encoded.items()}, labels, places=places)


def first_tokens(words: Sequence[str], offsets: Array, special: Array) -> Array:
    """Position of each word's first token, or `CUT_OFF`.

    Args:
        words: as they were joined by blanks.
        offsets: `(tokens, 2)`, the characters that each token covers; the blank before a word may belong to it.
        special: `(tokens,)`, true for tokens that stand for no text.
    """
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
    """The class of each word of each sentence, `CUT_OFF` where the model did not see it.

    Args:
        outputs: for each sentence the logits `(tokens, classes)`.
        encoded: the sentences.
    """
    assert encoded.places is not None
    return [
        np.where(places == CUT_OFF, CUT_OFF, logits.argmax(-1)[places])
        for logits, places in zip(outputs, encoded.places, strict=True)
    ]


def is_bio(labels: Sequence[str]) -> bool:
    """Whether these labels mark entities: B-x, I-x and O, and at least one of the first."""
    return all(label == "O" or re.match(r"[BI]-.", label) for label in labels) and any(
        label.startswith("B-") for label in labels
    )


def entities(labels: Sequence[str]) -> set[Entity]:
    """The entities of a sentence.

    One begins at B-x, and at an I-x that does not continue one of its type (as in the script of CoNLL-2000).

    Args:
        labels: BIO, one a word.
    """
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
    """Metrics over all words, or over all entities.

    Args:
        task: its metrics and labels.
        predictions: one class a word, `CUT_OFF` for words that were not seen.
        labels: the truth.

    Returns:
        The metrics by name, and whether all words got the same class.
    """
    found, truth = np.concatenate(predictions), np.concatenate([np.asarray(row) for row in labels])
    values = {
        name: entity_f1(task, predictions, labels) if name == "f1" else _WORD_METRICS[name](found, truth, task)
        for name in task.metrics
    }
    return values, len(np.unique(found[found != CUT_OFF])) <= 1


def _accuracy(found: Array, truth: Array, task: Task) -> float:
    return float(np.mean(found == truth))


def _macro_f1(found: Array, truth: Array, task: Task) -> float:
    from sklearn.metrics import f1_score

    classes = range(len(task.labels))
    return float(f1_score(truth, found, labels=classes, average="macro", zero_division=0.0))


def entity_f1(task: Task, predictions: Sequence[Array], labels: Sequence[Sequence[int]]) -> float:
    """F1 of whole entities of the right type; words that were not seen are in none.

    Args:
        task: its labels are BIO.
        predictions: one class a word, `CUT_OFF` for words that were not seen.
        labels: the truth.
    """
    names = [*task.labels, "O"]  # CUT_OFF is the last of them
    common = total = 0
    for guess, right in zip(predictions, labels, strict=True):
        a, b = entities([names[index] for index in guess]), entities([names[index] for index in right])
        common, total = common + len(a & b), total + len(a) + len(b)
    return 2 * common / total if total else 0.0


_WORD_METRICS: dict[str, Callable[[Array, Array, Task], float]] = {"accuracy": _accuracy, "macro_f1": _macro_f1}
