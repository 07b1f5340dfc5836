"""Micro-batches of a tokenised corpus for training and evaluation: pure functions of a seed and an index."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from winning_tickets.data.cache import TokenStream
from winning_tickets.data.segments import Cut, Lines, Mixed, Packed, Segments, Spans, generator, parse_segments
from winning_tickets.errors import UsageError

Batch = dict[str, torch.Tensor]
IGNORED = -100
"""Label of positions that are not predicted."""

_MASKING = 3  # a random stream of its own
_SENTENCE_ENDS = tuple(prefix + mark for mark in ".!?" for prefix in ("", "\u0120", "\u2581"))
"""As words, and with the marks that byte-level BPE and SentencePiece put for a space."""


class CorpusBatches(Dataset[Batch]):
    """Batches with `input_ids`, `attention_mask` and, for MLM, `labels`; all int64 `(rows, length)`.

    Args:
        stream: the tokenised corpus.
        tokenizer: the one that made it; it says which special tokens surround a text.
        segments: `packed:L`, `lines`, `lines:L`, `mixed` or `mixed:LO-HI`; lengths include special tokens.
        batch_tokens: rows * length is at most this, padding included.
        n_batches: how many there are; None for one pass over the corpus.
        seed: of order, places and masking.
        shuffle: training: batch i is drawn with the seed; otherwise the corpus once, in order.
        mlm_probability: share of tokens masked for MLM; None for none.
        max_tokens: take only the first segments, up to so many unpadded tokens (at least one segment).

    Raises:
        UsageError: segments of another form, too long for `batch_tokens` or the tokenizer's model, or too short to
            hold a token; `mixed` without `n_batches`; no mask token for MLM.
        ContentError: the corpus is shorter than one segment.
    """

    def __init__(
        self,
        stream: TokenStream,
        tokenizer: Any,
        *,
        segments: str,
        batch_tokens: int,
        n_batches: int | None,
        seed: int,
        shuffle: bool,
        mlm_probability: float | None,
        max_tokens: int | None = None,
    ) -> None:
        self._stream, self._seed = stream, seed
        self._prefix, self._suffix = special_tokens(tokenizer)
        parsed = parse_segments(segments)
        _check(parsed, segments, len(self._prefix) + len(self._suffix), batch_tokens, tokenizer)
        if max_tokens is not None and (max_tokens < 1 or shuffle):
            raise UsageError(f"--max-tokens {max_tokens} must be at least 1, and limits evaluation only.")
        order = seed if shuffle else None
        self._cut = self._make_cut(parsed, tokenizer, batch_tokens, order, max_tokens)
        if n_batches is None and self._cut.epoch_batches is None:
            raise UsageError(
                f"Segments {segments} are drawn at random, so they have no end: they are for training. "
                "Use packed:L or lines here."
            )
        self._length = int(n_batches if n_batches is not None else self._cut.epoch_batches or 0)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._masking = None if mlm_probability is None else _Masking(tokenizer, mlm_probability, seed)

    def _make_cut(
        self, parsed: Segments, tokenizer: Any, batch_tokens: int, seed: int | None, max_tokens: int | None
    ) -> Cut:
        special = len(self._prefix) + len(self._suffix)
        content = parsed.longest - special
        if parsed.form == "packed":
            blocks = None if max_tokens is None else max(1, max_tokens // parsed.longest)
            return Packed(self._stream, content, batch_tokens // parsed.longest, seed, blocks)
        if parsed.form == "lines":
            return Lines(self._stream, content, special, batch_tokens, seed, max_tokens)
        return Mixed(self._stream, parsed, special, batch_tokens, self._seed, _known(tokenizer, _SENTENCE_ENDS))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        """Batch `index`, the same whenever and wherever it is asked for."""
        if not 0 <= index < self._length:
            raise IndexError(f"Batch {index} of {self._length}.")
        ids, attention = self._assemble(self._cut.spans(index))
        batch = {"input_ids": ids, "attention_mask": attention}
        if self._masking is not None:
            batch["input_ids"], batch["labels"] = self._masking(ids, attention, index)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _assemble(self, spans: Spans) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        head, tail = len(self._prefix), len(self._suffix)
        lengths = spans[:, 1] - spans[:, 0] + head + tail
        ids = np.full((len(spans), int(lengths.max())), self._pad, dtype=np.int64)
        for row, ((start, stop), length) in enumerate(zip(spans.tolist(), lengths.tolist(), strict=True)):
            ids[row, :head] = self._prefix
            ids[row, head : length - tail] = self._stream.tokens[start:stop]
            ids[row, length - tail : length] = self._suffix
        attention = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        return ids, attention


class _Masking:
    """BERT's corruption: of the chosen tokens 80 % become the mask token, 10 % a random one, 10 % stay."""

    def __init__(self, tokenizer: Any, probability: float, seed: int) -> None:
        if tokenizer.mask_token_id is None:
            raise UsageError(
                f"The tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no mask token, so there is "
                "no MLM with it; use --objective kd."
            )
        self._probability, self._seed = probability, seed
        self._mask_id, self._vocabulary = int(tokenizer.mask_token_id), len(tokenizer)
        self._special_ids = np.asarray(sorted(tokenizer.all_special_ids), dtype=np.int64)

    def __call__(
        self, ids: np.ndarray[Any, Any], attention: np.ndarray[Any, Any], index: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Corrupted ids, and labels; at least one token is masked unless all of them are special."""
        random = generator(self._seed, _MASKING, index)
        eligible = (attention == 1) & ~np.isin(ids, self._special_ids)
        chosen = eligible & (random.random(ids.shape) < self._probability)
        if not chosen.any() and eligible.any():
            chosen[tuple(random.choice(np.argwhere(eligible)))] = True
        fate = random.random(ids.shape)
        words = random.integers(0, self._vocabulary, ids.shape)
        corrupted = np.where(fate < 0.8, self._mask_id, np.where(fate < 0.9, words, ids))
        return np.where(chosen, corrupted, ids), np.where(chosen, ids, IGNORED)


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before and after a single text, such as [CLS] and [SEP].

    Raises:
        UsageError: the tokenizer does not simply surround a text.
    """
    options = {"truncation": False, "padding": False}
    plain = tokenizer("a", add_special_tokens=False, **options)["input_ids"]
    full = tokenizer("a", add_special_tokens=True, **options)["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if plain and full[start : start + len(plain)] == plain:
            return list(full[:start]), list(full[start + len(plain) :])
    raise UsageError(f"The tokenizer {tokenizer.name_or_path} does not surround a text with special tokens.")


def _known(tokenizer: Any, tokens: tuple[str, ...]) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    return sorted({vocabulary[token] for token in tokens if token in vocabulary})


def _check(parsed: Segments, text: str, special: int, batch_tokens: int, tokenizer: Any) -> None:
    least = parsed.longest if parsed.form == "lines" else parsed.shortest
    if least <= special:
        raise UsageError(f"Segments {text} leave no room for text beside {special} special tokens; use longer ones.")
    if parsed.longest > batch_tokens:
        raise UsageError(
            f"Segments {text} do not fit into batches of {batch_tokens} tokens; raise --batch-tokens to at least "
            f"{parsed.longest} or use shorter segments."
        )
    if parsed.longest > tokenizer.model_max_length:
        raise UsageError(
            f"Segments {text} are longer than the {tokenizer.model_max_length} tokens that the model takes; "
            "use shorter ones."
        )
