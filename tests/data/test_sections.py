"""`sections:L`: paragraphs of one section in two segments, and the one masked token of the released KD program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samples.batches import plain
from samples.tiny import tiny_tokenizer
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.data.corpora import load_corpus
from winning_tickets.data.segments import Cutting, Sections, parse_segments
from winning_tickets.data.token_cache import TokenStream, tokenize
from winning_tickets.runs.errors import ContentError, UsageError

WORDS = [f"w{index}" for index in range(400)]
TOKENIZER = tiny_tokenizer([" ".join(WORDS), "="])
PAD, UNK, CLS, SEP, MASK = range(5)
HEADING = TOKENIZER.convert_tokens_to_ids("=")
FIRST = TOKENIZER.convert_tokens_to_ids("w0")


def stream_of(*sections: list[int]) -> TokenStream:
    """Sections of paragraphs of so many tokens, each under a heading; ids rise, so that places can be recognised."""
    lines: list[list[int]] = []
    place = 1000
    for lengths in sections:
        lines.append([HEADING, FIRST, HEADING])
        for length in lengths:
            lines.append(list(range(place, place + length)))
            place += length
    tokens = np.array([token for line in lines for token in line], dtype=np.uint32)
    return TokenStream(tokens, np.cumsum([0, *map(len, lines)], dtype=np.int64), Path())


def batches(
    stream: TokenStream, longest: int = 40, rows: int = 3, tokenizer: Any = TOKENIZER, **options: Any
) -> CorpusBatches:
    settings = {"n_batches": None, "seed": 0, "shuffle": False, "mlm_probability": None}
    settings |= {"segments": f"sections:{longest}", "batch_tokens": rows * longest, "short_sequence_probability": 0.0}
    return CorpusBatches(stream, tokenizer, **settings | options)


def rows_of(dataset: CorpusBatches) -> list[tuple[list[int], list[int]]]:
    """Both segments of every row, checked for their form and types on the way."""
    found = []
    for index in range(len(dataset)):
        batch = plain(dataset[index])
        for ids, attention, types in zip(
            *(batch[k].tolist() for k in ("input_ids", "attention_mask", "token_type_ids")), strict=True
        ):
            length = sum(attention)
            assert attention == [1] * length + [0] * (len(ids) - length)
            assert ids[length:] == [PAD] * (len(ids) - length)
            assert (ids[0], ids[length - 1]) == (CLS, SEP)
            first = ids.index(SEP)
            assert types == [0] * (first + 1) + [1] * (length - first - 1) + [0] * (len(ids) - length)
            found.append((ids[1:first], ids[first + 1 : length - 1]))
    return found


def span(start: int, stop: int) -> list[int]:
    return list(range(1000 + start, 1000 + stop))


def test_a_section_of_one_paragraph_is_one_segment_and_every_row_is_padded_to_the_length() -> None:
    dataset = batches(stream_of([25], [30]))
    assert dataset[0]["input_ids"].shape == (2, 40)
    assert rows_of(dataset) == [(span(0, 25), []), (span(25, 55), [])]


def test_two_paragraphs_are_two_segments() -> None:
    assert rows_of(batches(stream_of([20, 10]))) == [(span(0, 20), span(20, 30))]


def test_sequences_end_where_they_are_full_and_begin_again() -> None:
    # 20 + 17 tokens fill 37; the rest of the section follows in a sequence of its own.
    assert rows_of(batches(stream_of([20, 17, 5]))) == [(span(0, 20), span(20, 37)), (span(37, 42), [])]


def test_what_overflows_is_cut_from_both_ends_of_the_longer_segment() -> None:
    for seed in range(20):
        ((first, second),) = rows_of(batches(stream_of([21, 9, 90]), 73, seed=seed))
        assert len(first) + len(second) == 70
        whole = span(0, 21) if len(first) == 21 else span(0, 30)
        assert first == whole  # the second segment stays the longer one
        rest = span(len(whole), 120)
        assert second == rest[rest.index(second[0]) :][: len(second)]
        assert rest[0] < second[0]
        assert second[-1] < rest[-1]


def test_segments_of_equal_length_are_cut_in_turn() -> None:
    ((first, second),) = rows_of(batches(stream_of([30, 30])))
    assert (len(first), len(second)) == (19, 18)


def test_left_out_are_headings_short_beginnings_and_first_paragraphs_with_equals_signs() -> None:
    stream = stream_of([19, 30], [], [20, 3], [25])
    tokens = stream.tokens.copy()
    tokens[-3] = HEADING
    spoilt = TokenStream(tokens, stream.offsets, Path())
    assert rows_of(batches(spoilt)) == [(span(49, 69), span(69, 72))]


def test_text_before_the_first_heading_is_a_section() -> None:
    stream = stream_of([22], [24])
    headless = TokenStream(stream.tokens[3:], stream.offsets[1:] - 3, Path())
    assert rows_of(batches(headless)) == [(span(0, 22), []), (span(22, 46), [])]


@given(
    st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=8), min_size=1, max_size=8),
    st.integers(8, 50),
    st.integers(0, 5),
    st.floats(0, 1),
)
def test_sequences_keep_order_and_never_cross_a_section(
    sections: list[list[int]], longest: int, seed: int, short: float
) -> None:
    lengths = [[20 + section[0], *section[1:]] for section in sections]
    found = rows_of(batches(stream_of(*lengths), longest, seed=seed, short_sequence_probability=short))
    owner = {1000 + i: s for i, s in enumerate(s for s, ls in enumerate(lengths) for _ in range(sum(ls)))}
    tokens = [token for first, second in found for token in (*first, *second)]
    assert tokens == sorted(set(tokens))
    assert len({owner[token] for token in tokens}) == len(lengths)
    for first, second in found:
        assert 1 <= len(first) + len(second) <= longest - 3
        assert len({owner[token] for token in (*first, *second)}) == 1
        for part in filter(None, (first, second)):
            assert part == list(range(part[0], part[-1] + 1))


def test_short_sequences_are_as_frequent_as_told() -> None:
    stream = stream_of(*([20] * 40 for _ in range(300)))
    lengths = {
        p: [len(a) + len(b) for a, b in rows_of(batches(stream, 203, short_sequence_probability=p))] for p in (0.0, 0.3)
    }
    assert set(lengths[0.0]) == {200}
    sections = 300
    shortened = sum(1 for length in lengths[0.3] if length < 200)
    assert shortened > 0.2 * sections
    same = batches(stream, 203, short_sequence_probability=0.3)
    other = batches(stream, 203, short_sequence_probability=0.3, seed=1)
    assert rows_of(same) == rows_of(batches(stream, 203, short_sequence_probability=0.3)) != rows_of(other)


def test_training_sees_every_sequence_once_an_epoch_with_the_same_masked_token() -> None:
    stream = stream_of(*([25, 8] for _ in range(7)))
    dataset = batches(stream, rows=1, n_batches=21, shuffle=True, masked_tokens=1)
    rows = [tuple(dataset[index]["input_ids"][0].tolist()) for index in range(21)]
    epochs = [rows[start : start + 7] for start in (0, 7, 14)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    again = batches(stream, rows=1, n_batches=21, shuffle=True, masked_tokens=1)
    assert torch.equal(again[13]["input_ids"], dataset[13]["input_ids"])


def test_one_token_of_each_sequence_is_masked() -> None:
    stream = stream_of(*([30, 20, 9] for _ in range(600)))
    clean, masked = batches(stream, 60), batches(stream, 60, masked_tokens=1)
    kinds = {"mask": 0, "word": 0, "same": 0}
    for index in range(len(clean)):
        before, after = clean[index]["input_ids"], masked[index]["input_ids"]
        assert "masked_ids" not in masked[index]
        changed = before != after
        assert bool((changed.sum(1) <= 1).all())
        assert not bool(torch.isin(before[changed], torch.tensor([PAD, CLS, SEP])).any())
        kinds["same"] += int((changed.sum(1) == 0).sum())
        kinds["mask"] += int((after[changed] == MASK).sum())
        kinds["word"] += int((after[changed] != MASK).sum())
    total = sum(kinds.values())
    assert total == 600
    assert 0.74 < kinds["mask"] / total < 0.86
    assert 0.05 < kinds["word"] / total < 0.15
    assert 0.05 < kinds["same"] / total < 0.15


def test_evaluation_reads_in_order_and_stops_after_so_many_tokens() -> None:
    stream = stream_of([25], [20, 10], [30])
    # 27 tokens with two special ones, then 33 with three.
    assert len(rows_of(batches(stream, max_tokens=59))) == 1
    assert len(rows_of(batches(stream, max_tokens=60))) == 2
    assert len(rows_of(batches(stream, max_tokens=1))) == 1


def test_a_tokenizer_without_token_types_gets_none() -> None:
    tokenizer = tiny_tokenizer([" ".join(WORDS), "="])
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert set(batches(stream_of([25]), tokenizer=tokenizer)[0]) == {"input_ids", "attention_mask"}


def test_what_cannot_be_cut_into_sections_says_so() -> None:
    with pytest.raises(ContentError, match="no section whose first paragraph has 20 tokens and no '='.*Use packed:L"):
        batches(stream_of([10, 500]))
    with pytest.raises(UsageError, match="leave no room for text next to 3 special tokens"):
        batches(stream_of([25]), 3)
    without = tiny_tokenizer([" ".join(WORDS)], mask_token=None)
    with pytest.raises(
        UsageError, match="has no mask token, so no token can be masked with it; use kd_masked_tokens 0"
    ):
        batches(stream_of([25]), tokenizer=without, segments="packed:12", masked_tokens=1)


def test_sections_of_wikitext(shared_data: Path) -> None:
    """Two thirds of the sequences have two segments, and a third of all positions is padding: see profiles.md."""
    corpus = load_corpus(str(shared_data / "wikitext-2"), "validation")
    words = sorted({word for line in corpus.lines for word in line.split()})
    tokenizer = tiny_tokenizer([" ".join(words)])
    segments = parse_segments("sections:512")
    cut = Sections(Cutting(tokenize(corpus, tokenizer), tokenizer, segments, 3, 16 * 512, seed=0, shuffle=False))
    rows = np.concatenate([cut.spans(index) for index in range(cut.epoch_batches)])
    lengths = rows[:, 1] - rows[:, 0] + rows[:, 3] - rows[:, 2]
    assert (lengths.max(), lengths.min() >= 1) == (509, True)
    assert 0.55 < (rows[:, 3] > rows[:, 2]).mean() < 0.8
    assert 0.25 < 1 - lengths.mean() / 512 < 0.55


def test_sequences_of_one_token() -> None:
    found = rows_of(batches(stream_of([25]), 4, short_sequence_probability=1.0))
    assert [[len(first), len(second)] for first, second in found] == [[1, 0]]
