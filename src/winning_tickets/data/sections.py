"""`sections:L`: paragraphs of one section a sequence, in two segments, as the released KD program packs them.

A section begins at a heading (a line that starts with "=", such as ` = Title = ` of WikiText); headings are left out.
Paragraphs are gathered until a sequence is full, split into two segments at a random paragraph, and cut to size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from winning_tickets.data.cache import TokenStream
from winning_tickets.data.segments import Rotation, Spans, generator
from winning_tickets.errors import ContentError

LEAST_OF_FIRST_PARAGRAPH = 20
"""A section whose first paragraph has fewer tokens is left out."""
SHORT_SEQUENCE_PROBABILITY = 0.1
_PACK = 4  # a random stream of its own


class Sections:
    """Sequences of one section each; the packing is a function of the seed alone, the same in every epoch.

    Args:
        stream: the corpus, a paragraph a line.
        content: most tokens of a sequence, without the three special tokens of a pair.
        special: their number.
        rows: sequences a batch.
        seed: of the packing, and of the order in training.
        shuffle: training: every sequence once an epoch in seeded order; else in the order of the corpus.
        heading_ids: ids of the token that starts a heading.
        short_probability: share of sections for whose sequences a random length is aimed at.
        max_tokens: only the first sequences, up to so many tokens, special tokens included.

    Raises:
        ContentError: no section is long enough.
    """

    def __init__(
        self,
        stream: TokenStream,
        content: int,
        special: int,
        rows: int,
        seed: int,
        shuffle: bool,
        heading_ids: list[int],
        short_probability: float,
        max_tokens: int | None = None,
    ) -> None:
        random = generator(seed, _PACK)
        found = [
            _truncated(*chunk, content, random)
            for paragraphs in _sections(stream, heading_ids)
            for chunk in _chunks(paragraphs, content, short_probability, random)
        ]
        if not found:
            raise ContentError(
                f"The corpus has no section whose first paragraph has {LEAST_OF_FIRST_PARAGRAPH} tokens and no '=': "
                "segments sections:L are for articles with headings such as ' = Title = '. Use packed:L or lines."
            )
        self._sequences = np.array(found, dtype=np.int64)
        if max_tokens is not None:
            pairs = self._sequences[:, 3] > self._sequences[:, 2]
            lengths = np.diff(self._sequences)[:, ::2].sum(axis=1) + np.where(pairs, special, special - 1)
            fitting = int(np.searchsorted(np.cumsum(lengths), max_tokens, side="right"))
            self._sequences = self._sequences[: max(1, fitting)]
        self._rotation = Rotation(len(self._sequences), rows, seed if shuffle else None)

    @property
    def epoch_batches(self) -> int:
        """Batches of one pass, a smaller last one included."""
        return self._rotation.epoch_batches

    def spans(self, index: int) -> Spans:
        """Both segments of each row: `(rows, 4)`, the second one empty where a sequence has only one."""
        chosen: Spans = self._sequences[self._rotation.batch(index)]
        return chosen


def _sections(stream: TokenStream, heading_ids: list[int]) -> Iterator[list[tuple[int, int]]]:
    """The paragraphs `[start, stop)` of each section that is used."""
    starts, stops = stream.offsets[:-1], stream.offsets[1:]
    lines = np.flatnonzero(stops > starts)
    headings = np.isin(stream.tokens[starts[lines]], heading_ids)
    for part in np.split(np.arange(len(lines)), np.flatnonzero(headings)):
        paragraphs = lines[part[headings[part].sum() :]]  # without the heading
        if not len(paragraphs):
            continue
        first = stream.tokens[starts[paragraphs[0]] : stops[paragraphs[0]]]
        if len(first) >= LEAST_OF_FIRST_PARAGRAPH and not np.isin(first, heading_ids).any():
            yield list(zip(starts[paragraphs].tolist(), stops[paragraphs].tolist(), strict=True))


def _chunks(
    paragraphs: list[tuple[int, int]], content: int, short_probability: float, random: Any
) -> Iterator[tuple[int, int, int]]:
    """Start, split and end of each sequence: full (or as long as is aimed at), or at the end of the section."""
    aim = content
    if random.random() < short_probability:
        aim = int(random.integers(2, content + 1))
    begin = 0
    for end in range(1, len(paragraphs) + 1):
        start, stop = paragraphs[begin][0], paragraphs[end - 1][1]
        if stop - start < aim and end < len(paragraphs):
            continue
        split = stop
        if end - begin >= 2:
            split = paragraphs[begin + int(random.integers(1, end - begin))][0]
        yield start, split, stop
        begin = end


def _truncated(start: int, split: int, stop: int, content: int, random: Any) -> tuple[int, int, int, int]:
    """Cut both segments to `content` tokens in all: one token after the other from a random end of the longer one."""
    first, second = [start, split], [split, stop]
    for _ in range(stop - start - content):
        longer = first if first[1] - first[0] > second[1] - second[0] else second
        if random.random() < 0.5:
            longer[0] += 1
        else:
            longer[1] -= 1
    return first[0], first[1], second[0], second[1]
