"""Cut a tokenized corpus into the token spans of batch i: `packed:L`, `lines`, `mixed` or `sections:L`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from winning_tickets.data.token_cache import TokenStream
from winning_tickets.runs.errors import ContentError, UsageError

FORMS = "packed:L (such as packed:128), lines or lines:L, mixed or mixed:LO-HI (such as mixed:10-128), sections:L"
Array = np.ndarray[Any, Any]
Choose = Callable[[Array], Array]
"""A function of the lengths of all segments, including special tokens, that returns the sorted indices to use."""
Spans = Array  # token spans `[start, stop)` of the rows of one batch, int64 `(rows, 2)`; of two segments `(rows, 4)`

_BLOCK = 1 << 20  # tokens that are looked at at a time
_ORDER, _DRAW, _PACK = 1, 2, 4  # keep the random streams of one seed apart
_PREFIXES = ("", "\u0120", "\u2581")  # nothing, and the marks that byte-level BPE and SentencePiece put for a space
SHORT_SEQUENCE_PROBABILITY = 0.1


@dataclass(frozen=True)
class Segments:
    """A parsed `--segments`: its form, and the shortest and longest segment in tokens, including special tokens."""

    form: Literal["packed", "lines", "mixed", "sections"]
    shortest: int
    longest: int


def parse_segments(text: str) -> Segments:
    """Parse the value of `--segments`."""
    if match := re.fullmatch(r"(packed|sections):([1-9]\d{0,6})", text):
        return Segments("packed" if match[1] == "packed" else "sections", int(match[2]), int(match[2]))
    if match := re.fullmatch(r"lines(?::([1-9]\d{0,6}))?", text):
        return Segments("lines", 1, int(match[1] or 128))
    if match := re.fullmatch(r"mixed(?::([1-9]\d{0,6})-([1-9]\d{0,6}))?", text):
        shortest, longest = int(match[1] or 10), int(match[2] or 128)
        if shortest <= longest:
            return Segments("mixed", shortest, longest)
    raise UsageError(f"Unknown segments {text!r}; use {FORMS}.")


def check_countable(text: str) -> None:
    """Refuse segments that are drawn at random places, whose number is not defined."""
    if parse_segments(text).form == "mixed":
        raise UsageError(f"--train-size counts segments, and those of {text} are drawn; use packed:L or lines.")


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """Return a random generator for one purpose, which depends only on the arguments."""
    return np.random.default_rng((seed % 2**64, *purpose))


@dataclass(frozen=True)
class Cutting:
    """A tokenized corpus, and how it is cut; `CorpusBatches` describes the options."""

    stream: TokenStream
    tokenizer: Any
    segments: Segments
    special: int  # number of special tokens in each segment
    batch_tokens: int
    seed: int
    shuffle: bool
    choose: Choose | None = None  # None uses all segments
    short_sequence_probability: float = SHORT_SEQUENCE_PROBABILITY

    @property
    def content(self) -> int:
        """Largest number of tokens of a segment without special tokens."""
        return self.segments.longest - self.special

    def ids_of(self, marks: str) -> list[int]:
        """Return the tokens that are one of these characters, with or without a space before it."""
        vocabulary = self.tokenizer.get_vocab()
        tokens = [prefix + mark for prefix in _PREFIXES for mark in marks]
        return sorted({vocabulary[token] for token in tokens if token in vocabulary})

    def refuse_short(self) -> None:
        """Refuse a corpus that is shorter than a segment."""
        if self.stream.n_tokens < self.content:
            raise ContentError(
                f"The corpus is shorter than one segment: found {self.stream.n_tokens} tokens, needed {self.content} "
                f"(--segments {self.segments.form}). Use more text or shorter segments."
            )


class Rotation:
    """Segment indices of each batch: with `shuffle`, each segment once per epoch in random order; else all in order."""

    def __init__(self, count: int, cutting: Cutting) -> None:
        self.segments = self._count = count
        self._rows = cutting.batch_tokens // cutting.segments.longest
        self._seed = cutting.seed if cutting.shuffle else None
        self._orders: dict[int, Array] = {}
        self.epoch_batches = -(-count // self._rows)

    def batch(self, index: int) -> Array:
        """Return the indices of the segments; a training batch at the end of an epoch is filled from the next one."""
        places = np.arange(index * self._rows, (index + 1) * self._rows, dtype=np.int64)
        if self._seed is None:
            return places[places < self._count]
        epochs, within = np.divmod(places, self._count)
        return np.array([self._order(int(e))[w] for e, w in zip(epochs, within, strict=True)], dtype=np.int64)

    def _order(self, epoch: int) -> Array:
        if epoch not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key == epoch - 1}
            self._orders[epoch] = generator(int(self._seed or 0), _ORDER, epoch).permutation(self._count)
        return self._orders[epoch]


class Packed(Rotation):
    """Blocks of equal length over all lines; the tail is dropped."""

    def __init__(self, cutting: Cutting) -> None:
        cutting.refuse_short()
        self._content = cutting.content
        blocks = cutting.stream.n_tokens // self._content
        lengths = np.full(blocks, cutting.segments.longest)
        self._chosen = None if cutting.choose is None else cutting.choose(lengths)
        super().__init__(blocks if self._chosen is None else len(self._chosen), cutting)

    def spans(self, index: int) -> Spans:
        blocks = self.batch(index)
        starts = (blocks if self._chosen is None else self._chosen[blocks]) * self._content
        return np.stack([starts, starts + self._content], axis=1)


class LineSegments:
    """One line per segment, cut at the end; lines of similar length share a batch."""

    # With `shuffle` the batches come in seeded order, and lines of equal length change places between epochs.

    def __init__(self, cutting: Cutting) -> None:
        offsets, special = cutting.stream.offsets, cutting.special
        self._starts = np.asarray(offsets[:-1], dtype=np.int64)
        self._lengths = np.minimum(np.diff(offsets), cutting.content).astype(np.int64)
        self._seed = cutting.seed if cutting.shuffle else None
        lines = np.flatnonzero(self._lengths)
        if cutting.choose is not None:
            lines = lines[cutting.choose(self._lengths[lines] + special)]
        self._lines, self.segments = lines, len(lines)
        ordered = np.sort(self._lengths[lines]) + special
        self._bounds = _batch_bounds(ordered, cutting.batch_tokens)
        self.epoch_batches = len(self._bounds) - 1
        self._epochs: dict[int, tuple[Array, Array]] = {}

    def spans(self, index: int) -> Spans:
        epoch, within = divmod(index, self.epoch_batches)
        lines, batches = self._order(epoch)
        which = int(batches[within])
        chosen = lines[self._bounds[which] : self._bounds[which + 1]]
        return np.stack([self._starts[chosen], self._starts[chosen] + self._lengths[chosen]], axis=1)

    def _order(self, epoch: int) -> tuple[Array, Array]:
        if epoch not in self._epochs:
            lines, batches = self._lines, np.arange(self.epoch_batches)
            if self._seed is not None:
                random = generator(self._seed, _ORDER, epoch)
                lines, batches = random.permutation(lines), random.permutation(batches)
            self._epochs = {epoch: (lines[np.argsort(self._lengths[lines], kind="stable")], batches)}
        return self._epochs[epoch]


def _batch_bounds(lengths: Array, batch_tokens: int) -> list[int]:
    """Cut ascending lengths into runs with rows * longest <= batch_tokens."""
    bounds = [0]
    for index, length in enumerate(lengths.tolist()):
        if index > bounds[-1] and (index + 1 - bounds[-1]) * length > batch_tokens:
            bounds.append(index)
    return [*bounds, len(lengths)]


class Mixed:
    """Training segments of many lengths: each batch has one length, drawn log-uniformly, and starts at sentences."""

    # Sentence tasks have short segments; a ticket searched on long blocks alone can get worse on them. Segments stay
    # inside a line wherever enough sentences of the corpus leave room for that.

    epoch_batches: int | None = None  # segments are drawn
    segments: int | None = None
    _ENOUGH = 0.05  # share of all sentence starts; with fewer, the same few segments would come again and again

    def __init__(self, cutting: Cutting) -> None:
        cutting.refuse_short()
        self._cutting, stream = cutting, cutting.stream
        starts = _sentence_starts(stream, cutting.ids_of(".!?"))
        line_ends = stream.offsets[np.searchsorted(stream.offsets, starts, side="right")]
        falling_room = (starts - line_ends).astype(starts.dtype)
        order = np.argsort(falling_room, kind="stable")
        self._starts, self._falling_room = starts[order], falling_room[order]

    def length(self, index: int) -> int:
        """Return the length of the segments of batch `index`, special tokens included."""
        low, high = self._cutting.segments.shortest, self._cutting.segments.longest
        drawn = generator(self._cutting.seed, _DRAW, index).random()
        return min(high, int(low * ((high + 1) / low) ** drawn))

    def spans(self, index: int) -> Spans:
        length = self.length(index)
        rows, content = self._cutting.batch_tokens // length, length - self._cutting.special
        random = generator(self._cutting.seed, _ORDER, index)
        inside = int(np.searchsorted(self._falling_room, -content, side="right"))
        if inside >= max(rows, self._ENOUGH * len(self._starts)):
            starts = self._starts[random.choice(inside, rows, replace=False)]
        else:
            chosen = self._starts[random.integers(0, len(self._starts), rows)]
            starts = np.minimum(chosen, self._cutting.stream.n_tokens - content)
        return np.stack([starts, starts + content], axis=1).astype(np.int64)


def _sentence_starts(stream: TokenStream, sentence_ends: list[int]) -> Array:
    """Return the positions at which a line starts, or that follow a token that ends a sentence."""
    after = [np.flatnonzero(np.isin(block, sentence_ends)) + at + 1 for at, block in stream.blocks(_BLOCK)]
    starts = np.union1d(np.concatenate(after), stream.offsets[:-1])
    # A large text has millions of sentences.
    return starts[starts < stream.n_tokens].astype(np.int32 if stream.n_tokens < 2**31 else np.int64)


LEAST_OF_FIRST_PARAGRAPH = 20  # a section whose first paragraph has fewer tokens is left out


class Sections(Rotation):
    """Sequences of one section each; the packing is a function of the seed alone, the same in every epoch."""

    # A sequence is a pair of segments with special tokens in addition to at most `content`.

    def __init__(self, cutting: Cutting) -> None:
        random, content, special = generator(cutting.seed, _PACK), cutting.content, cutting.special
        found = [
            _truncated(chunk, content, random)
            for paragraphs in _sections(cutting.stream, cutting.ids_of("="))
            for chunk in _chunks(paragraphs, content, cutting.short_sequence_probability, random)
        ]
        if not found:
            raise ContentError(
                f"The corpus has no section whose first paragraph has {LEAST_OF_FIRST_PARAGRAPH} tokens and no '=': "
                "segments sections:L are for articles with headings such as ' = Title = '. Use packed:L or lines."
            )
        self._sequences = np.array(found, dtype=np.int64)
        if cutting.choose is not None:
            pairs = self._sequences[:, 3] > self._sequences[:, 2]
            lengths = np.diff(self._sequences)[:, ::2].sum(axis=1) + np.where(pairs, special, special - 1)
            self._sequences = self._sequences[cutting.choose(lengths)]
        super().__init__(len(self._sequences), cutting)

    def spans(self, index: int) -> Spans:
        """Return both segments of each row: `(rows, 4)`, the second one empty where a sequence has only one."""
        chosen: Spans = self._sequences[self.batch(index)]
        return chosen


def _sections(stream: TokenStream, heading_ids: list[int]) -> Iterator[list[tuple[int, int]]]:
    """Yield the paragraphs `[start, stop)` of each section that is used."""
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
    """Yield start, split and end of each sequence, which has the full or a drawn length, or ends with the section."""
    aim = content
    if random.random() < short_probability:
        aim = int(random.integers(min(2, content), content + 1))
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


def _truncated(chunk: tuple[int, int, int], content: int, random: Any) -> tuple[int, int, int, int]:
    """Cut both segments to `content` tokens in all: one token after the other from a random end of the longer one."""
    start, split, stop = chunk
    first, second = [start, split], [split, stop]
    for _ in range(stop - start - content):
        longer = first if first[1] - first[0] > second[1] - second[0] else second
        if random.random() < 0.5:
            longer[0] += 1
        else:
            longer[1] -= 1
    return first[0], first[1], second[0], second[1]


Cut = Packed | LineSegments | Mixed | Sections
"""A way to cut a corpus into the spans of each batch; `epoch_batches` includes a smaller last batch, and `segments` is
the number of distinct segments; both are None where segments are drawn at random."""
CUTS: dict[str, Callable[[Cutting], Cut]] = {
    "packed": Packed,
    "lines": LineSegments,
    "mixed": Mixed,
    "sections": Sections,
}
