"""SQuAD v1.1: reading its JSON, and questions with long texts as windows of tokens (Rajpurkar et al. 2016)."""

from __future__ import annotations

import dataclasses
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from winning_tickets.data.encode import Array, EncodedSplit, require_offsets
from winning_tickets.data.readers import read_utf8
from winning_tickets.data.records import Split, Task, TaskData
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.files import parse_json

MAX_QUESTION_TOKENS = 64
"""Longer questions are cut (Devlin et al. 2019)."""
_CHUNK = 512
_NAMES = {"train": ("train",), "validation": ("dev", "valid")}
_SHAPE = "articles in 'data', their 'paragraphs', each with a 'context' and questions in 'qas'"


class Answers(NamedTuple):
    """What people answered to a question; none where the question is new.

    Attributes:
        texts: pieces of the context; the first one is trained on, all of them count as right.
        starts: where each one begins, in characters of the context.
    """

    texts: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()


def answers_of(found: Any, where: str) -> Answers:
    """The answers of a question as the hub's data set has them.

    Args:
        found: `{"text": [...], "answer_start": [...]}`.
        where: place of the row, for messages.

    Raises:
        ContentError: it is something else, or there is no answer.
    """
    try:
        answers = Answers(tuple(found["text"]), tuple(found["answer_start"]))
    except (TypeError, KeyError, ValueError) as error:
        raise ContentError(
            f"{where}: expected answers as lists 'text' and 'answer_start', found {str(found)[:80]!r}."
        ) from error
    return _checked(answers, where)


def _checked(answers: Answers, where: str) -> Answers:
    if not answers.texts:
        raise ContentError(
            f"{where}: the question has no answer. SQuAD 2.0 has such questions and SQuAD v1.1, which is read here, "
            "has none; leave them out."
        )
    whole = all(isinstance(start, int) and start >= 0 for start in answers.starts)
    if len(answers.texts) != len(answers.starts) or not whole or not all(isinstance(t, str) for t in answers.texts):
        raise ContentError(f"{where}: each answer must be a text with the character at which it starts.")
    return answers


def check_answers(train: Split, where: str) -> None:
    """Make sure that the answers to train on are where they are said to be.

    Raises:
        ContentError: one is not.
    """
    for question, context, answers in zip(*train.texts, train.labels, strict=True):
        text, start = answers.texts[0], answers.starts[0]
        found = context[start : start + len(text)]
        if found != text:
            raise ContentError(
                f"{where}: the answer {text!r} to {question!r} is said to start at character {start} of its context, "
                f"and there is {found!r}. Were the texts changed after the answers had been marked?"
            )


def read_folder(task: Task, data_dir: Path) -> TaskData:
    """Questions from a folder with the official files, `train-v1.1.json` and `dev-v1.1.json`.

    Args:
        task: `squad`.
        data_dir: that folder, or one that holds it as `squad/` (in any case).

    Raises:
        UsageError: a folder or file is missing, or there are several that could be meant.
        ContentError: a file is not SQuAD v1.1.
    """
    if not data_dir.is_dir():
        raise UsageError(
            f"There is no folder {data_dir}; --data-dir takes one with train-v1.1.json and dev-v1.1.json, or a copy of "
            "the hub's repository."
        )
    inside = [path for path in data_dir.iterdir() if path.is_dir() and path.name.lower() == task.folder]
    folder = inside[0] if inside and not _candidates(data_dir, "train") else data_dir
    found = {}
    for split in _NAMES:
        files = _candidates(folder, split)
        if len(files) != 1:
            there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise UsageError(
                f"{folder} must hold one {_NAMES[split][0]}*.json of {task.name} (as train-v1.1.json and "
                f"dev-v1.1.json) or Parquet files of its own; found {there}."
            )
        found[split] = files[0]
    return _read(task, found["train"], found["validation"], "folder")


def _candidates(folder: Path, split: str) -> list[Path]:
    return [path for path in folder.glob("*.json") if path.name.lower().startswith(_NAMES[split])]


def read_files(train_file: Path, validation_file: Path) -> TaskData:
    """Questions of the user's own in the JSON of SQuAD v1.1, with the settings of SQuAD.

    Raises:
        UsageError: a file is missing or of another kind.
        ContentError: a file is not SQuAD v1.1.
    """
    return _read(dataclasses.replace(TASKS["squad"], name="local", hub=None), train_file, validation_file, "files")


def _read(task: Task, train: Path, validation: Path, source: Any) -> TaskData:
    splits = {path: read_json(path) for path in (train, validation)}
    check_answers(splits[train], str(train))
    return TaskData.of(task, splits[train], {"validation": splits[validation]}, source)


def read_json(path: Path) -> Split:
    """The questions of one file, in its order.

    Raises:
        UsageError: no such file, or not `.json`.
        ContentError: not JSON, not SQuAD v1.1, a question without an answer, no question.
    """
    if path.suffix.lower() != ".json":
        raise UsageError(f"{path} is not a .json file; questions about texts are read from the JSON of SQuAD v1.1.")
    try:
        content = parse_json(read_utf8(path))
    except ValueError as error:
        raise ContentError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise ContentError(
            f"{path} is not SQuAD JSON: found {_described(content)}, expected an object with {_SHAPE}. "
            "Rows of another task go in a .jsonl file."
        )
    questions, contexts, labels = [], [], []
    for question, context, answers in _questions(path, content["data"]):
        questions.append(question)
        contexts.append(context)
        labels.append(answers)
    if not labels:
        raise ContentError(f"{path} holds no question.")
    return Split((questions, contexts), labels)


def _described(content: Any) -> str:
    if not isinstance(content, dict):
        return "a list" if isinstance(content, list) else repr(content)[:60]
    return f"an object with {', '.join(map(repr, list(content)[:5])) or 'nothing in it'}"


def _questions(path: Path, articles: list[Any]) -> Iterator[tuple[str, str, Answers]]:
    for number, article in enumerate(articles, start=1):
        place = f"{path}, article {number}"
        for index, paragraph in enumerate(_get(article, "paragraphs", list, place), start=1):
            where = f"{place}, paragraph {index}"
            context = _get(paragraph, "context", str, where)
            for count, row in enumerate(_get(paragraph, "qas", list, where), start=1):
                which = f"{where}, question {count}"
                found = [
                    (_get(answer, "text", str, which), _get(answer, "answer_start", int, which))
                    for answer in _get(row, "answers", list, which)
                ]
                answers = Answers(tuple(text for text, _ in found), tuple(start for _, start in found))
                yield _get(row, "question", str, which), context, _checked(answers, which)


def _get(row: Any, name: str, kind: type, where: str) -> Any:
    value: Any = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind) or not str(value).strip():
        wanted = {str: "a text", list: "a list", int: "a whole number"}[kind]
        raise ContentError(f"{where}: {name!r} must be {wanted}, found {str(value)[:60]!r}. SQuAD v1.1 has {_SHAPE}.")
    return value


def encode_windows(split: Split, tokenizer: Any, max_length: int, doc_stride: int) -> EncodedSplit:
    """Each question with all windows over its context, question first.

    Questions are cut to `MAX_QUESTION_TOKENS`, and to half of the room where that is less. Windows begin `doc_stride`
    tokens after each other (Devlin et al. 2019), or adjoin where they are shorter than that; so every token of the
    context is in one of them. Labels are the tokens at which the first answer begins and ends, and (0, 0), which is
    [CLS], where it is not wholly inside the window.

    Args:
        split: questions and contexts, and their `Answers`.
        tokenizer: of the model; it must tell which characters a token covers.
        max_length: tokens of a window, question and special tokens included.
        doc_stride: tokens from the start of one window to that of the next.

    Raises:
        ContentError: the tokenizer cannot tell characters.
    """
    require_offsets(tokenizer)
    columns: dict[str, list[Any]] = {}
    labels: list[tuple[int, int]] = []
    owners: list[int] = []
    places: list[Array] = []
    for begin in range(0, len(split), _CHUNK):
        questions, contexts = (column[begin : begin + _CHUNK] for column in split.texts)
        encoded = tokenizer(questions, contexts, return_offsets_mapping=True, padding=False, truncation=False)
        for row in range(len(questions)):
            side = np.array([-1 if value is None else value for value in encoded.sequence_ids(row)])
            offsets = np.asarray(encoded["offset_mapping"][row], dtype=np.int32)
            offsets[side != 1] = -1
            for chosen in _windows(side, max_length, doc_stride):
                for name in encoded.keys() - {"offset_mapping"}:
                    columns.setdefault(name, []).append(np.asarray(encoded[name][row], dtype=np.int32)[chosen])
                places.append(offsets[chosen])
                labels.append(_label(places[-1], split.labels[begin + row]))
                owners.append(begin + row)
    return EncodedSplit(columns, labels, owners, places)


def _windows(side: Array, max_length: int, doc_stride: int) -> Iterator[Array]:
    """Positions of the tokens of each window.

    Args:
        side: 0 for tokens of the question, 1 for those of the context, -1 for special ones.
        max_length: tokens of a window.
        doc_stride: tokens between the starts of windows.
    """
    positions = np.arange(len(side))
    context = np.flatnonzero(side == 1)
    special = int(np.count_nonzero(side == -1))
    limit = min(MAX_QUESTION_TOKENS, (max_length - special) // 2)
    dropped = np.flatnonzero(side == 0)[limit:]
    head = np.setdiff1d(positions[: context[0]] if len(context) else positions, dropped)
    tail = positions[context[-1] + 1 :] if len(context) else positions[:0]
    room = max_length - len(head) - len(tail)
    step = min(doc_stride, room)
    count = 1 + max(0, -(-(len(context) - room) // step))
    for first in range(0, count * step, step):
        yield np.concatenate((head, context[first : first + room], tail))


def _label(offsets: Array, answers: Answers) -> tuple[int, int]:
    """First and last token of the first answer in a window; [CLS] where it is not wholly there."""
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    if not answers.texts or not len(inside):
        return 0, 0
    text = answers.texts[0]
    start = answers.starts[0] + len(text) - len(text.lstrip())
    stop = start + len(text.strip())
    begins, ends = offsets[inside].T
    if begins[0] > start or ends[-1] < stop:
        return 0, 0
    first = int(np.searchsorted(ends, start, side="right"))
    last = int(np.searchsorted(begins, stop, side="left")) - 1
    return (int(inside[first]), int(inside[last])) if first <= last else (0, 0)


MAX_ANSWER_TOKENS = 30
N_BEST = 20
"""Starts and ends that are looked at in each window, those with the highest logits."""


class Answer(NamedTuple):
    """A predicted answer.

    Attributes:
        text: a piece of the context; empty where no span is possible.
        start: its first character in the context; None for an empty answer.
        score: logit of its start plus logit of its end; None for an empty answer.
    """

    text: str
    start: int | None
    score: float | None


def best_answers(outputs: Sequence[Array], encoded: EncodedSplit, contexts: Sequence[str]) -> list[Answer]:
    """The best answer to each question: the span with the highest sum of logits in any of its windows.

    Args:
        outputs: for each window the logits `(tokens, 2)` of start and end.
        encoded: the windows.
        contexts: the texts, one for each question.
    """
    assert encoded.owners is not None
    assert encoded.places is not None
    best: dict[int, tuple[float, int, int]] = {}
    for logits, owner, offsets in zip(outputs, encoded.owners, encoded.places, strict=True):
        span = best_span(logits, offsets[:, 0] >= 0)
        if span is not None and (owner not in best or span[0] > best[owner][0]):
            score, first, last = span
            best[owner] = score, int(offsets[first, 0]), int(offsets[last, 1])
    return [_cut(context, best.get(index)) for index, context in enumerate(contexts)]


def best_span(logits: Array, allowed: Array) -> tuple[float, int, int] | None:
    """The span of one window with the highest sum of logits; of equal ones the one whose start, then end, ranks first.

    Args:
        logits: `(tokens, 2)` of start and end.
        allowed: `(tokens,)`, true for tokens of the context.

    Returns:
        Score, first and last token; None where no span of at most `MAX_ANSWER_TOKENS` joins the `N_BEST` starts and
        ends.
    """
    inside = np.flatnonzero(allowed)
    values = logits.astype(np.float64)
    firsts, lasts = (inside[np.argsort(-values[inside, side], kind="stable")[:N_BEST]] for side in (0, 1))
    length = lasts[None, :] - firsts[:, None] + 1
    valid = (length >= 1) & (length <= MAX_ANSWER_TOKENS)
    if not valid.any():
        return None
    scores = np.where(valid, values[firsts, 0][:, None] + values[lasts, 1][None, :], -np.inf)
    row, column = np.unravel_index(np.argmax(scores), scores.shape)
    return float(scores[row, column]), int(firsts[row]), int(lasts[column])


def _cut(context: str, span: tuple[float, int, int] | None) -> Answer:
    """The text of a span; some tokenizers count the blank before a word to it."""
    if span is None:
        return Answer("", None, None)
    score, start, stop = span
    piece = context[start:stop]
    return Answer(piece.strip(), start + len(piece) - len(piece.lstrip()), score)


def normalise(text: str) -> str:
    """What the official script compares: lower case, without ASCII punctuation, articles and superfluous blanks."""
    kept = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


_PUNCTUATION = frozenset(string.punctuation)


def token_f1(prediction: str, truth: str) -> float:
    """F1 of the words that two answers have in common; 0 where there are none, as in the official script for v1.1."""
    found, expected = normalise(prediction).split(), normalise(truth).split()
    common = sum((Counter(found) & Counter(expected)).values())
    return 2 * common / (len(found) + len(expected)) if common else 0.0


def squad_metrics(predictions: Sequence[str], truths: Sequence[Sequence[str]]) -> dict[str, Any]:
    """`f1` and `exact_match` as fractions: for each question the best over its true answers, then the mean.

    Args:
        predictions: one answer a question.
        truths: one or more right answers to each.
    """
    pairs = list(zip(predictions, truths, strict=True))
    exact = [max(float(normalise(found) == normalise(truth)) for truth in right) for found, right in pairs]
    f1 = [max(token_f1(found, truth) for truth in right) for found, right in pairs]
    return {"f1": float(np.mean(f1)), "exact_match": float(np.mean(exact))}
