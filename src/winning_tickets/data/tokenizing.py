"""Bounded work for tokenizers: no call gets a longer text or more texts than these limits, whatever the data hold.

A call of a fast tokenizer takes up to 500 bytes of memory for each character, and no signal is heard before it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from winning_tickets.runs.errors import ContentError

LONGEST_TEXT = 1 << 19
"""Characters of one text in a call, and of one line of a corpus; longer lines are cut into several."""
CHARACTERS_A_CALL = 1 << 19
"""Characters of all texts of a call, unless one row alone has more."""
TEXTS_A_CALL = 1000
LONGEST_WHOLE = 1 << 21
"""Characters in a call where the tokens of a whole text count, as for perplexity; the usual test sets are shorter."""
_WHITE_SPACE = " \t\n\r\u00a0\u3000"


def cut(text: str, longest: int = LONGEST_TEXT) -> Iterator[str]:
    """Yield a text in pieces of at most so many characters, which joined are the text.

    A piece ends before a white space, such as the space between two words, so that the next one begins with it and
    tokens stay whole. A stretch without white space is cut at a character.
    """
    start = 0
    while len(text) - start > longest:
        stop = _border(text, start, start + longest)
        yield text[start:stop]
        start = stop
    yield text[start:] if start else text


def _border(text: str, start: int, stop: int) -> int:
    """Return the last good place for a cut after `start`, at most `stop`."""
    # Many tokenizers look at punctuation and line breaks together; a single space between two words is safest.
    place = text.rfind(" ", start + 1, stop)
    while place > start:
        if text[place - 1].isalnum() and text[place + 1].isalnum():
            return place
        place = text.rfind(" ", start + 1, place)
    place = max(text.rfind(space, start + 1, stop) for space in _WHITE_SPACE)
    place = start + len(text[start:place].rstrip()) if place > start else start
    return place if place > start else stop


def calls(columns: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
    """Yield the first row and the end of the rows of each call; a row has one text per column."""
    begin = characters = 0
    for row, texts in enumerate(zip(*columns, strict=True)):
        more = sum(map(len, texts))
        if row > begin and (row - begin == TEXTS_A_CALL or characters + more > CHARACTERS_A_CALL):
            yield begin, row
            begin, characters = row, 0
        characters += more
    if columns and len(columns[0]) > begin:
        yield begin, len(columns[0])


def encoded_parts(tokenizer: Any, columns: Sequence[Sequence[str]], **options: Any) -> Iterator[tuple[int, Any]]:
    """Yield the first row of each call of a tokenizer, and what the call returns.

    Where texts are truncated to tokens, of a longer text than `LONGEST_TEXT` only the first piece is looked at, or the
    last one if the tokenizer truncates on the left.
    """
    for begin, end in calls(columns):
        texts = [column[begin:end] for column in columns]
        if options.get("truncation"):
            texts = [[_first_piece(text, tokenizer) for text in column] for column in texts]
        yield begin, tokenizer(*texts, **options)


def encoded_columns(tokenizer: Any, columns: Sequence[Sequence[str]], **options: Any) -> dict[str, list[Any]]:
    """Return the columns that a tokenizer makes of all rows, such as `input_ids`."""
    found: dict[str, list[Any]] = {}
    for _, part in encoded_parts(tokenizer, columns, **options):
        for name, values in part.items():
            found.setdefault(name, []).extend(values)
    return found


def _first_piece(text: str, tokenizer: Any) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    return text[-LONGEST_TEXT:] if tokenizer.truncation_side == "left" else next(cut(text))


def check_length(text: str, where: str) -> None:
    """Refuse a text that is tokenized as a whole and is too long for that."""
    if len(text) > LONGEST_TEXT:
        raise ContentError(
            f"{where} has {len(text):,} characters, and at most {LONGEST_TEXT:,} are read as one text; divide it into "
            "several."
        )
