"""Build the examples of a split from rows: columns, texts, labels and lengths are checked here for every source."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from textwrap import shorten
from typing import Any, Literal

from winning_tickets.data.records import Answers, Split, Task
from winning_tickets.data.rows import Row
from winning_tickets.runs.errors import ContentError, shown

LabelReader = Callable[[Any, str], Any]
"""Turns a cell into a label, or into None where the row has none; the second argument is the place, for messages."""
_UNLABELLED = (-1, "-1", "-")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE = re.compile(r"\s*(-?(?:0|[1-9]\d*))\.0+\s*")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
_NO_VALUE = ("NAType", "NaTType")  # types of pandas
_LARGEST_SCORE = 5.0  # of STS-B
_LISTED = 30  # classes that a message names


def check_columns(found: Iterable[str], wanted: Sequence[str], where: str) -> None:
    """Refuse rows in which a column is missing."""
    found = list(found)
    if missing := [name for name in wanted if name not in found]:
        raise ContentError(
            f"{where} lacks the columns {', '.join(missing)}: found {', '.join(found) or 'nothing'}, "
            f"expected {', '.join(wanted)}."
        )


def build_split(
    source: str,  # the file or split that the rows come from, for messages
    rows: Iterable[Row],
    columns: Sequence[str],  # the text columns
    label_column: str,
    *,
    read_label: LabelReader,
    texts_are: Literal["any", "not blank", "words"] = "not blank",  # words are lists with one label per word
) -> tuple[Split, int]:
    """Build a split from rows, and count the rows that have no label, which are left out."""
    wanted, fits = (*columns, label_column), _IS_TEXT[texts_are]
    names = set(wanted)
    texts: tuple[list[Any], ...] = tuple([] for _ in columns)
    labels, unlabeled = [], 0
    for where, row in rows:
        if not row.keys() >= names:
            check_columns(row, wanted, where)
        # A row without a label is left out; its texts are not looked at.
        label = read_label(row[label_column], where)
        if label is None:
            unlabeled += 1
            continue
        for name, column in zip(columns, texts, strict=True):
            if not fits(row[name]):
                kind = f"a list of words{_culprit(row[name])}" if texts_are == "words" else "a text"
                raise ContentError(f"{where}: column {name!r} must be {kind}, found {shown(row[name])}.")
            column.append(row[name])
        if texts_are == "words" and (len(label) != len(texts[0][-1]) or not label):
            raise ContentError(
                f"{where}: found {len(texts[0][-1])} words and {len(label)} labels; each word needs one, and a row "
                "one word."
            )
        labels.append(label)
    if not labels:
        raise ContentError(f"{source} {'holds no labeled row' if unlabeled else 'is empty: it holds no example'}.")
    return Split(texts, labels), unlabeled


def is_text(found: Any) -> bool:
    """Return whether a value is a text that tokenizers take: half of a surrogate pair is no character."""
    return isinstance(found, str) and _SURROGATE.search(found) is None


def _is_word(found: Any) -> bool:
    return is_text(found) and bool(found.strip())


def _culprit(words: Any) -> str:
    """Return a clause about the first member of a list that is no word; empty if it is no list."""
    if not isinstance(words, list):
        return ""
    place = next(number for number, word in enumerate(words, start=1) if not _is_word(word))
    blank = isinstance(words[place - 1], str) and not words[place - 1].strip()
    return f", and word {place} of {len(words)} is {'blank: ' if blank else ''}{shown(words[place - 1])}"


_IS_TEXT: dict[str, Callable[[Any], bool]] = {
    "any": is_text,
    "not blank": _is_word,
    "words": lambda found: isinstance(found, list) and all(map(_is_word, found)),
}


def is_missing(found: Any) -> bool:
    """Return whether a cell has no value: None, blank text, or NaN, NaT or NA of pandas."""
    if isinstance(found, str):
        return not found.strip()
    return found is None or type(found).__name__ in _NO_VALUE or (isinstance(found, float) and math.isnan(found))


def as_number(found: Any) -> float | None:
    """Return a finite number that is written as a number or text, else None."""
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        return None
    try:
        value = float(found)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def written(found: Any) -> str:
    """Return a class as text; a whole number has no fraction, because a column with gaps is float in some formats."""
    text = str(found)
    whole = _WHOLE.fullmatch(text)
    return text if whole is None else whole[1]


def read_score(found: Any, where: str) -> float:
    """Return the score of a regression."""
    value = as_number(found)
    if value is None:
        hint = " Write a point before the decimals." if has_decimal_comma(found) else ""
        raise ContentError(f"{where}: label {shown(found)} is not a number.{hint}")
    return value


def has_decimal_comma(found: Any) -> bool:
    """Return whether a text is a number with a decimal comma, such as 3,5."""
    return isinstance(found, str) and _DECIMAL_COMMA.fullmatch(found) is not None


def class_reader(names: Sequence[str], owner: str, numbers: Sequence[str] = ()) -> LabelReader:
    """Return a reader of classes by name or by index into `numbers`, which may also hold names that are not classes."""
    places = {name: index for index, name in enumerate(names)}
    allowed = ", ".join(shorten(name, 60, placeholder="...") for name in names[:_LISTED])  # each in one line
    if len(names) > _LISTED:
        allowed += f" and {len(names) - _LISTED} more. With {len(names)} classes: is this the label column?"
    end = "" if allowed.endswith("?") else "."
    if numbers and list(numbers) != [str(index) for index in range(len(numbers))]:
        allowed += f", or 0 to {len(numbers) - 1}"

    def read(found: Any, where: str) -> int:
        name = str(found) if isinstance(found, str | int | float) and not isinstance(found, bool) else ""
        if name not in places:
            name, number = name.strip(), as_number(name)
            if name not in places and number is not None and number in range(len(numbers)):
                name = numbers[int(number)]
        if name not in places:
            raise ContentError(f"{where}: label {shown(found)} is not {owner}; allowed: {allowed}{end}")
        return places[name]

    return read


def known_label_reader(task: Task) -> LabelReader:
    """Return the reader of the labels of a task of `TASKS`, as GLUE, other releases and the hub write them."""
    if task.kind == "span":
        return read_answers
    read_class = class_reader(task.labels, f"a label of {task.name}", task.labels)

    def read_label(found: Any, where: str) -> Any:
        found = found.strip() if isinstance(found, str) else found
        if found in _UNLABELLED:
            return None
        if not task.is_regression:
            return read_class(found, where)
        score = as_number(found)
        if score is None or not 0 <= score <= _LARGEST_SCORE:
            raise ContentError(f"{where}: label {shown(found)} is not a score from 0 to {_LARGEST_SCORE:g}.")
        return score

    return read_label


def read_answers(found: Any, where: str) -> Answers:
    """Return the answers to a question from `{"text": [...], "answer_start": [...]}`, as the hub has them."""
    try:
        answers = Answers(tuple(found["text"]), tuple(found["answer_start"]))
    except (TypeError, KeyError, ValueError) as error:
        raise ContentError(f"{where}: expected lists 'text' and 'answer_start', found {shown(found)}.") from error
    if not answers.texts:
        raise ContentError(
            f"{where}: the question has no answer. SQuAD 2.0 has such questions, SQuAD v1.1, which is read here, has "
            "none; leave them out."
        )
    whole = all(isinstance(start, int) and start >= 0 for start in answers.starts)
    if len(answers.texts) != len(answers.starts) or not whole or not all(isinstance(t, str) for t in answers.texts):
        raise ContentError(f"{where}: each answer must be a text with the character at which it starts.")
    return answers


def check_answers(train: Split, where: str) -> None:
    """Refuse training answers that are not at the given place in their context."""
    for question, context, answers in zip(*train.texts, train.labels, strict=True):
        text, start = answers.texts[0], answers.starts[0]
        found = context[start : start + len(text)]
        if found != text:
            raise ContentError(
                f"{where}: the answer {text!r} to {question!r} is said to start at character {start} of its context, "
                f"and there is {found!r}. Were the texts changed after the answers had been marked?"
            )
