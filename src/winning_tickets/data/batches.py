"""Micro-batches of a tokenized corpus for training and evaluation, each a pure function of a seed and its index."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import Dataset

from winning_tickets.config.settings import count_of, parse_size
from winning_tickets.data import segments as segmentation
from winning_tickets.data.corpora import CorpusText
from winning_tickets.data.encode import Array, Batch, special_tokens
from winning_tickets.data.segments import CUTS, Cutting, Segments, Spans, generator
from winning_tickets.data.token_cache import TokenStream, tokenize
from winning_tickets.data.unknown_words import FIRST, check_words
from winning_tickets.runs.errors import ContentError, UsageError

MASKED_POSITIONS, MASKED_IDS = "masked_positions", "masked_ids"
"""Keys of a batch: the masked positions, as indices into its flattened rows, and the tokens to predict there."""
_MASKING, _FEW, _SUBSET = 3, 5, 6  # numbers of separate random streams
ENDLESS = 2**62
"""Number of batches of a training whose length is not known beforehand."""
HELD_OUT_TOKENS = 250_000
"""Tokens of the validation part of a stream that are measured, unless there is a limit."""


class CorpusBatches(Dataset[Batch]):
    """Batches with `input_ids` and, where rows are padded, `attention_mask`; all int64 `(rows, length)`.

    For MLM they have `masked_positions` `(masked,)`, ascending indices into the flattened rows, and `masked_ids`
    `(masked,)`, the original tokens at these positions.
    """

    # Whether rows are padded, and which tokens are masked, is determined here on the CPU, because a check on a GPU
    # makes the program wait for the device. Segments `sections:L` also have `token_type_ids`, if the tokenizer has
    # them, and are padded to L.

    def __init__(
        self,
        stream: TokenStream,
        tokenizer: Any,  # the one that made the stream; it decides which special tokens surround a text
        *,
        segments: str,  # `packed:L`, `lines`, `lines:L`, `mixed`, `mixed:LO-HI`, `sections:L`, with special tokens
        batch_tokens: int,  # rows * length is at most this, padding included
        n_batches: int | None,  # None for one pass over the corpus
        seed: int,  # of order, places and masking
        shuffle: bool,  # training: batch i is drawn with the seed; evaluation: the corpus once, in order
        mlm_probability: float | None,  # share of tokens masked for MLM; None for none
        max_tokens: int | None = None,  # only the first segments, up to this number of unpadded tokens; at least one
        train_size: str | None = None,  # only `N` segments or `P%` of them, drawn with a seed
        train_size_seed: int | None = None,  # None takes `seed`
        masked_tokens: int = 0,  # without MLM, number of tokens of each segment to corrupt
        short_sequence_probability: float = segmentation.SHORT_SEQUENCE_PROBABILITY,  # of `sections:L`
    ) -> None:
        self.stream, self._batch_tokens = stream, batch_tokens
        self._prefix, self._suffix = special_tokens(tokenizer)
        parsed, special = check_segments(segments, batch_tokens, tokenizer)
        if max_tokens is not None and (max_tokens < 1 or shuffle):
            raise UsageError(f"--max-tokens {max_tokens} must be at least 1, and limits evaluation only.")
        if train_size is not None:
            segmentation.check_countable(segments)
        choose = _chooser(max_tokens, train_size, seed if train_size_seed is None else train_size_seed)
        self._cut = CUTS[parsed.form](
            Cutting(
                *(stream, tokenizer, parsed, special, batch_tokens, seed),
                shuffle=shuffle,
                choose=choose,
                short_sequence_probability=short_sequence_probability,
            )
        )
        self.segments = self._cut.segments  # number of distinct segments; None if they are drawn at random
        if n_batches is None and self._cut.epoch_batches is None:
            raise UsageError(
                f"Segments {segments} are drawn at random, without an end, for training. Use packed:L or lines here."
            )
        self._length = int(n_batches if n_batches is not None else self._cut.epoch_batches or 0)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._masking = None if mlm_probability is None else _Masking(tokenizer, mlm_probability, seed)
        self._few = None
        if masked_tokens and mlm_probability is None:
            self._few = _FewMasked(tokenizer, masked_tokens, seed)
        self._padded_length = parsed.longest if parsed.form == "sections" else None
        self._token_types = parsed.form == "sections" and "token_type_ids" in tokenizer.model_input_names

    @classmethod
    def read(
        cls,
        corpus: CorpusText,
        tokenizer: Any,
        at_most_batches: int | None = None,
        end: int | None = None,
        **settings: Any,
    ) -> Self:
        """Tokenize a corpus and cut it into batches; of a stream, only as much is read as the batches need.

        `at_most_batches` is the number of batches that will be used of an endless sequence, if it is known; `end` is
        the token that is put after each line.
        """
        longest, tokens = segmentation.parse_segments(settings["segments"]).longest, settings["batch_tokens"]
        needed = settings.get("max_tokens") or HELD_OUT_TOKENS
        if settings["shuffle"]:
            known = at_most_batches or settings["n_batches"]
            needed = None if known is None or known >= ENDLESS else known * tokens
        if (size := settings.get("train_size")) is not None and corpus.streamed:
            number, percent = parse_size(size)
            if percent:
                raise UsageError(f"--train-size {size} of {corpus.name} is unknown, as it is a stream; give a number.")
            needed = int(number) * longest
        stream = tokenize(corpus, tokenizer, needed, end)
        check_words(stream.tokens[: 2 * FIRST].tolist(), tokenizer, f"the corpus {corpus.name} ({corpus.split})")
        batches = cls(stream, tokenizer, **settings)
        batches._check_masked(f"{corpus.name} ({corpus.split})")
        return batches

    def _check_masked(self, name: str) -> None:
        """Refuse text in which no token can be masked, in its batches or in as many as a pass has."""
        # Unknown words are special tokens, which are never masked. In nearly all texts the first batch has masked ones.
        some = range(min(self._length, math.ceil(self.steps_of_a_pass)))
        if self._masking is not None and not any(len(self[index][MASKED_IDS]) for index in some):
            raise ContentError(
                f"No token that is read from the corpus {name} can be masked: the tokenizer knows none of the words. "
                "Use other text, or a model of its language."
            )

    @property
    def steps_of_a_pass(self) -> float:
        """Number of batches of a pass over the corpus; for random segments, of batches with as many tokens in all."""
        return self._cut.epoch_batches or self.stream.n_tokens / self._batch_tokens

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        """Return batch `index`, always the same."""
        if not 0 <= index < self._length:
            raise IndexError(f"Batch {index} of {self._length}.")
        spans = self._cut.spans(index)
        ids, attention, types = self._assemble(spans)
        batch = {"input_ids": ids}
        if not attention.all():
            batch["attention_mask"] = attention
        if self._token_types:
            batch["token_type_ids"] = types
        if self._masking is not None:
            batch["input_ids"], chosen = self._masking(ids, attention, index)
            batch[MASKED_POSITIONS] = np.flatnonzero(chosen)
            batch[MASKED_IDS] = ids[chosen]
        elif self._few is not None:
            batch["input_ids"] = self._few(ids, attention, spans[:, 0])
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _assemble(self, spans: Spans) -> tuple[Array, ...]:
        """Return ids, attention mask and token types; a second segment follows the end of the first one."""
        head, tail = len(self._prefix), len(self._suffix)
        firsts = spans[:, 1] - spans[:, 0] + head + tail
        seconds = np.zeros_like(firsts)
        if spans.shape[1] == 4:
            seconds = spans[:, 3] - spans[:, 2]
            seconds = np.where(seconds > 0, seconds + tail, 0)
        lengths = firsts + seconds
        ids = np.full((len(spans), self._padded_length or int(lengths.max())), self._pad, dtype=np.int64)
        for row, first, length, (start, stop, *second) in zip(ids, firsts, lengths, spans, strict=True):
            row[:head] = self._prefix
            row[head : first - tail] = self.stream.tokens[start:stop]
            row[first - tail : first] = self._suffix
            if length > first:
                row[first : length - tail] = self.stream.tokens[slice(*second)]
                row[length - tail : length] = self._suffix
        attention = np.arange(ids.shape[1]) < lengths[:, None]
        types = attention & (np.arange(ids.shape[1]) >= firsts[:, None])
        return ids, attention.astype(np.int64), types.astype(np.int64)


def _chooser(max_tokens: int | None, train_size: str | None, seed: int) -> segmentation.Choose | None:
    """Return a function that chooses the segments to use; None to use all."""

    def first(lengths: Array) -> Array:
        return np.arange(max(1, int(np.searchsorted(np.cumsum(lengths), int(max_tokens or 0), side="right"))))

    def some(lengths: Array) -> Array:
        order = generator(seed, _SUBSET).permutation(len(lengths))
        return np.sort(order[: count_of(str(train_size), len(lengths), "segments of the corpus")])

    return some if train_size is not None else first if max_tokens is not None else None


def count_tokens(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the number of tokens of a batch that are not padding, special tokens included; a scalar."""
    mask = batch.get("attention_mask")
    return torch.tensor(batch["input_ids"].numel()) if mask is None else mask.sum()


def without_masks(batch: Mapping[str, torch.Tensor]) -> Batch:
    """Return a batch with the text before tokens were masked for MLM."""
    clean = {name: value for name, value in batch.items() if name not in (MASKED_POSITIONS, MASKED_IDS)}
    if MASKED_POSITIONS in batch:
        ids = batch["input_ids"]
        flat = ids.flatten().index_copy(0, batch[MASKED_POSITIONS], batch[MASKED_IDS])
        clean["input_ids"] = flat.view_as(ids)
    return clean


def shard_rows(batch: Mapping[str, torch.Tensor], rank: int, count: int) -> Batch:
    """Return the rows `rank`, `rank + count`, ... of a batch of tensors; there may be none."""
    rows = {name: value for name, value in batch.items() if name not in (MASKED_POSITIONS, MASKED_IDS)}
    shard = {name: value[rank::count].contiguous() for name, value in rows.items()}
    if MASKED_POSITIONS in batch:
        length = batch["input_ids"].shape[1]
        places = batch[MASKED_POSITIONS]
        row = places // length
        own = row % count == rank
        shard[MASKED_POSITIONS] = (row // count * length + places % length)[own]
        shard[MASKED_IDS] = batch[MASKED_IDS][own]
    return shard


class _Corruption:
    """BERT's corruption: of the chosen tokens 80 % become the mask token, 10 % a random one, 10 % stay."""

    def __init__(self, tokenizer: Any, consequence: str, seed: int) -> None:
        if tokenizer.mask_token_id is None:
            name = tokenizer.name_or_path or type(tokenizer).__name__
            raise UsageError(f"The tokenizer {name} has no mask token, so {consequence}.")
        self._seed = seed
        self._mask_id, self._vocabulary = int(tokenizer.mask_token_id), len(tokenizer)
        self._special_ids = np.asarray(sorted(tokenizer.all_special_ids), dtype=np.int64)

    def _eligible(self, ids: Array, attention: Array) -> Array:
        eligible: Array = (attention == 1) & ~np.isin(ids, self._special_ids)
        return eligible


class _Masking(_Corruption):
    """Corrupts a random share of all tokens."""

    def __init__(self, tokenizer: Any, probability: float, seed: int) -> None:
        super().__init__(tokenizer, "there is no MLM with it; use --objective kd", seed)
        self._probability = probability

    def __call__(self, ids: Array, attention: Array, index: int) -> tuple[Array, Array]:
        """Return corrupted ids and which tokens were masked: at least one, unless all tokens are special."""
        random = generator(self._seed, _MASKING, index)
        eligible = self._eligible(ids, attention)
        chosen = eligible & (random.random(ids.shape) < self._probability)
        if not chosen.any() and eligible.any():
            chosen[tuple(random.choice(np.argwhere(eligible)))] = True
        fate = random.random(ids.shape)
        words = random.integers(0, self._vocabulary, ids.shape)
        corrupted = np.where(fate < 0.8, self._mask_id, np.where(fate < 0.9, words, ids))
        return np.where(chosen, corrupted, ids), chosen


class _FewMasked(_Corruption):
    """Corrupts a fixed number of tokens of each row, the same ones each time the row is used."""

    # The released KD program does so with one token, by an accident of its data generator. With RoBERTa it writes the
    # unknown token there instead of the mask token; that is not imitated.

    def __init__(self, tokenizer: Any, count: int, seed: int) -> None:
        super().__init__(tokenizer, "no token can be masked with it; use kd_masked_tokens 0", seed)
        self._count = count

    def __call__(self, ids: Array, attention: Array, keys: Array) -> Array:
        corrupted = ids.copy()
        eligible = self._eligible(ids, attention)
        for row, key in enumerate(keys.tolist()):
            random = generator(self._seed, _FEW, key)
            places = np.flatnonzero(eligible[row])
            for place in random.choice(places, min(self._count, len(places)), replace=False):
                fate, word = random.random(), random.integers(0, self._vocabulary)
                corrupted[row, place] = self._mask_id if fate < 0.8 else word if fate < 0.9 else ids[row, place]
        return corrupted


def check_segments(text: str, batch_tokens: int, tokenizer: Any) -> tuple[Segments, int]:
    """Return segments and the number of special tokens in each.

    Raises:
        UsageError: the model or a batch takes fewer tokens, or there is no room for text.
    """
    parsed = segmentation.parse_segments(text)
    prefix, suffix = special_tokens(tokenizer)
    special = len(prefix) + len(suffix) * (2 if parsed.form == "sections" else 1)
    least = parsed.longest if parsed.form == "lines" else parsed.shortest
    if least <= special:
        raise UsageError(f"Segments {text} leave no room for text next to {special} special tokens; use longer ones.")
    if parsed.longest > batch_tokens:
        raise UsageError(
            f"Segments {text} do not fit into batches of {batch_tokens} tokens; raise --batch-tokens to at least "
            f"{parsed.longest} or use shorter segments."
        )
    if parsed.longest > tokenizer.model_max_length:
        raise UsageError(
            f"Segments {text} are longer than the {tokenizer.model_max_length} tokens of the model; use shorter ones."
        )
    return parsed, special
