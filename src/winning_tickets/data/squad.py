"""SQuAD v1.1 (Rajpurkar et al. 2016): read its JSON, cut long texts into windows, find and score answers."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from winning_tickets.data.encode import Array, EncodedSplit, require_offsets
from winning_tickets.data.examples import build_split, check_answers, read_answers
from winning_tickets.data.readers import read_utf8
from winning_tickets.data.records import Answers, Source, Split, Task, TaskData
from winning_tickets.data.rows import Row
from winning_tickets.data.tokenizing import check_length, encoded_parts
from winning_tickets.runs.errors import ContentError, UsageError, shown
from winning_tickets.runs.files import parse_json

MAX_QUESTION_TOKENS = 64  # longer questions are cut (Devlin et al. 2019)
MAX_ANSWER_TOKENS = 30
N_BEST = 20  # starts and ends that are compared in each window, those with the highest logits of all its tokens
_FILES = {"train": ("train",), "validation": ("dev", "valid")}
_SHAPE = "articles in 'data', their 'paragraphs', each with a 'context' and questions in 'qas'"
_PUNCTUATION = frozenset(string.punctuation)


def find_release(task: Task, data_dir: Path) -> dict[str, Path]:
    """Find the official files, `train-v1.1.json` and `dev-v1.1.json`, in a folder or in `squad/` in it, by split."""
    if not data_dir.is_dir():
        raise UsageError(
            f"There is no folder {data_dir}; --data-dir takes one with train-v1.1.json and dev-v1.1.json, or a copy of "
            "the hub's repository."
        )

    def files_of(folder: Path, split: str) -> list[Path]:
        return [path for path in folder.glob("*.json") if path.name.lower().startswith(_FILES[split])]

    inside = [path for path in data_dir.iterdir() if path.is_dir() and path.name.lower() == task.folder]
    folder = inside[0] if inside and not files_of(data_dir, "train") else data_dir
    found = {}
    for split, starts in _FILES.items():
        files = files_of(folder, split)
        if len(files) != 1:
            there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise UsageError(
                f"{folder} must hold one {starts[0]}*.json of {task.name} (as train-v1.1.json and dev-v1.1.json) or "
                f"Parquet files of its own; found {there}."
            )
        found[split] = files[0]
    return found


def read_release(task: Task, files: dict[str, Path], source: Source = "folder") -> TaskData:
    """Read a task from files by split, the official ones or the user's own, in the JSON of SQuAD v1.1."""
    splits = {split: read_articles(file) for split, file in files.items()}
    check_answers(splits["train"], str(files["train"]))
    return TaskData.of(task, splits.pop("train"), splits, source)


def read_articles(path: Path) -> Split:
    """Read the questions of one file, in its order."""
    if path.suffix.lower() != ".json":
        raise UsageError(f"{path} is not a .json file; questions about texts are read from the JSON of SQuAD v1.1.")
    try:
        content = parse_json(read_utf8(path))
    except ValueError as error:
        raise ContentError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        found = shown(content)[:60]
        if isinstance(content, dict):
            found = f"an object with {', '.join(map(repr, list(content)[:5])) or 'nothing in it'}"
        elif isinstance(content, list):
            found = "a list"
        raise ContentError(
            f"{path} is not SQuAD JSON: found {found}, expected an object with {_SHAPE}. Other rows go in a "
            ".jsonl file."
        )
    split, _ = build_split(
        str(path), _rows(path, content["data"]), ("question", "context"), "answers", read_label=read_answers
    )
    return split


def _rows(path: Path, articles: list[Any]) -> Iterator[Row]:
    for number, article in enumerate(articles, start=1):
        place = f"{path}, article {number}"
        for index, paragraph in enumerate(_get(article, "paragraphs", list, place), start=1):
            where = f"{place}, paragraph {index}"
            context = _get(paragraph, "context", str, where)
            for count, row in enumerate(_get(paragraph, "qas", list, where), start=1):
                which = f"{where}, question {count}"
                answers = [
                    (_get(answer, "text", str, which), _get(answer, "answer_start", int, which))
                    for answer in _get(row, "answers", list, which)
                ]
                found = {"text": [text for text, _ in answers], "answer_start": [start for _, start in answers]}
                yield which, {"question": _get(row, "question", str, which), "context": context, "answers": found}


def _get(row: Any, name: str, kind: type, where: str) -> Any:
    value: Any = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind) or not str(value).strip():
        wanted = {str: "a text", list: "a list", int: "a whole number"}[kind]
        raise ContentError(f"{where}: {name!r} must be {wanted}, found {shown(value)}. SQuAD v1.1 has {_SHAPE}.")
    return value


def encode_windows(split: Split, tokenizer: Any, max_length: int, doc_stride: int) -> EncodedSplit:
    """Tokenize each question with all windows of `max_length` tokens over its context, question first."""
    # Questions are cut to `MAX_QUESTION_TOKENS`, and to half of the room where that is less. Windows begin `doc_stride`
    # tokens after each other (Devlin et al. 2019), or adjoin where they are shorter than that; so every token of the
    # context is in one of them. Labels are the tokens at which the first answer begins and ends, and (0, 0), which is
    # [CLS], where it is not wholly inside the window.
    require_offsets(tokenizer)
    columns: dict[str, list[Any]] = {}
    labels: list[tuple[int, int]] = []
    owners: list[int] = []
    places: list[Array] = []
    for number, pair in enumerate(zip(*split.texts, strict=True), start=1):
        for column, text in zip(("question", "context"), pair, strict=True):
            check_length(text, f"The {column} of question {number}")
    options = {"return_offsets_mapping": True, "padding": False, "truncation": False}
    for begin, encoded in encoded_parts(tokenizer, split.texts, **options):
        for row in range(len(encoded["input_ids"])):
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
    """Yield the positions of the tokens of each window."""
    # `side` is 0 for tokens of the question, 1 for those of the context, -1 for special ones.
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
    """Return the first and last token of the first answer; that of [CLS] if the window does not hold all of it."""
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


class Answer(NamedTuple):
    """A predicted answer, its first character in the context and its sum of logits; empty without a span."""

    text: str
    start: int | None
    score: float | None


def best_answers(outputs: Sequence[Array], encoded: EncodedSplit, contexts: Sequence[str]) -> list[Answer]:
    """Return for each question the span with the highest sum of logits `(tokens, 2)` in any of its windows."""
    assert encoded.owners is not None
    assert encoded.places is not None
    best: dict[int, tuple[float, int, int]] = {}
    for logits, owner, offsets in zip(outputs, encoded.owners, encoded.places, strict=True):
        span = best_span(logits, offsets[:, 0] >= 0)
        if span is not None and (owner not in best or span[0] > best[owner][0]):
            score, first, last = span
            best[owner] = score, int(offsets[first, 0]), int(offsets[last, 1])
    answers = []
    for index, context in enumerate(contexts):
        if index not in best:
            answers.append(Answer("", None, None))
            continue
        # Some tokenizers count the space before a word as part of it.
        score, start, stop = best[index]
        piece = context[start:stop]
        answers.append(Answer(piece.strip(), start + len(piece) - len(piece.lstrip()), score))
    return answers


def best_span(logits: Array, allowed: Array) -> tuple[float, int, int] | None:
    """Return score, first and last token of the span of one window with the highest sum of logits `(tokens, 2)`."""
    # Among spans of equal score, the one whose start, then end, ranks first is taken. `allowed` is true for tokens of
    # the context: as in the official evaluation, the `N_BEST` starts and ends are those of all tokens, and then those
    # outside the context are dropped. The result is None if no span of at most `MAX_ANSWER_TOKENS` is left.
    values = logits.astype(np.float64)
    ranked = (np.argsort(-values[:, side], kind="stable")[:N_BEST] for side in (0, 1))
    firsts, lasts = (best[allowed[best]] for best in ranked)
    length = lasts[None, :] - firsts[:, None] + 1
    valid = (length >= 1) & (length <= MAX_ANSWER_TOKENS)
    if not valid.any():
        return None
    scores = np.where(valid, values[firsts, 0][:, None] + values[lasts, 1][None, :], -np.inf)
    row, column = np.unravel_index(np.argmax(scores), scores.shape)
    return float(scores[row, column]), int(firsts[row]), int(lasts[column])


def normalize_answer(text: str) -> str:
    """Normalize an answer as the official script does: lower case, no ASCII punctuation, articles or extra spaces."""
    kept = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def token_f1(prediction: str, truth: str) -> float:
    """Compute the F1 of the words that two answers have in common, as the official script for v1.1 does."""
    found, expected = normalize_answer(prediction).split(), normalize_answer(truth).split()
    common = sum((Counter(found) & Counter(expected)).values())
    return 2 * common / (len(found) + len(expected)) if common else 0.0


def squad_metrics(predictions: Sequence[str], truths: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Compute `f1` and `exact_match` as fractions: for each question the best over its true answers, then the mean."""
    pairs = list(zip(predictions, truths, strict=True))
    exact = [
        max(float(normalize_answer(found) == normalize_answer(truth)) for truth in right) for found, right in pairs
    ]
    f1 = [max(token_f1(found, truth) for truth in right) for found, right in pairs]
    return {"f1": float(np.mean(f1)), "exact_match": float(np.mean(exact))}
