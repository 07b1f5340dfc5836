"""Examples to tensors, and nested training subsets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samples.tiny import tiny_tokenizer
from winning_tickets.data.encode import encode, make_collator, train_subset
from winning_tickets.data.records import Split
from winning_tickets.runs.errors import UsageError

FIRST = ["the cat sat on the mat", "a dog", "the end of it all"]
SECOND = ["a cat sat", "the dog barked at the cat on the mat", "no"]
TOKENIZER = tiny_tokenizer([*FIRST, *SECOND])


def test_single_texts() -> None:
    items = encode(Split((FIRST,), [1, 0, 1]), TOKENIZER, 5)
    assert len(items) == 3
    assert set(items[0]) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert TOKENIZER.convert_ids_to_tokens(items[0]["input_ids"]) == ["[CLS]", "the", "cat", "sat", "[SEP]"]
    assert TOKENIZER.convert_ids_to_tokens(items[1]["input_ids"]) == ["[CLS]", "a", "dog", "[SEP]"]
    assert [items[index]["labels"] for index in range(3)] == [1, 0, 1]


def test_pairs_cut_the_longer_text() -> None:
    items = encode(Split((FIRST, SECOND), [0, 1, 0]), TOKENIZER, 9)
    expected = "[CLS] a dog [SEP] the dog barked at [SEP]"
    assert " ".join(TOKENIZER.convert_ids_to_tokens(items[1]["input_ids"])) == expected
    assert items[1]["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_collate_pads_to_the_longest() -> None:
    items = encode(Split((FIRST,), [1, 0, 1]), TOKENIZER, 128)
    batch = make_collator(TOKENIZER)([items[1], items[2]])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["token_type_ids"].shape == (2, 7)
    assert batch["attention_mask"].sum(1).tolist() == [4, 7]
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [0, 1]


def test_scores_are_float32() -> None:
    items = encode(Split((FIRST,), [1.0, 2.5, 5.0]), TOKENIZER, 128)
    labels = make_collator(TOKENIZER)([items[0], items[1]])["labels"]
    assert labels.dtype == torch.float32
    assert labels.tolist() == [1.0, 2.5]


def test_empty_split() -> None:
    assert len(encode(Split(([],), []), TOKENIZER, 8)) == 0


SPLIT = Split(([f"text {index}" for index in range(50)], [f"other {index}" for index in range(50)]), list(range(50)))


def test_all_in_order_without_a_size() -> None:
    assert train_subset(SPLIT, None, 0) is SPLIT


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 1000))
def test_subsets_are_nested(one: int, two: int, seed: int) -> None:
    small, large = (train_subset(SPLIT, str(size), seed) for size in sorted((one, two)))
    assert large.labels[: len(small)] == small.labels
    assert len(set(large.labels)) == len(large) == max(one, two)
    assert large.texts == ([f"text {i}" for i in large.labels], [f"other {i}" for i in large.labels])


def test_subsets_are_seeded() -> None:
    assert train_subset(SPLIT, "20", 1) == train_subset(SPLIT, "20", 1)
    assert train_subset(SPLIT, "20", 1) != train_subset(SPLIT, "20", 2)


@pytest.mark.parametrize(("size", "count"), [("29%", 14), ("100%", 50), ("50", 50), (" 10 % ", 5), ("2.5%", 1)])
def test_percentages_round_down(size: str, count: int) -> None:
    assert len(train_subset(SPLIT, size, 0)) == count
    assert train_subset(SPLIT, size, 0) == train_subset(SPLIT, str(count), 0)


def test_percentages_are_exact() -> None:
    """0.29 * 100 is 28.999... in floats."""
    hundred = Split((["x"] * 100,), list(range(100)))
    assert [len(train_subset(hundred, f"{p}%", 0)) for p in (29, 57, 58)] == [29, 57, 58]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("0", "--train-size 0 is not a whole number of at least 1; use a number of examples such as 1000"),
        ("-5", "-5 is not a whole number of at least 1"),
        ("2.5", r"2\.5 is not a whole number"),
        ("51", "51 asks for more than the 50 training examples there are"),
        ("0%", r"0% is outside \(0%, 100%\]"),
        ("-1%", r"-1% is outside \(0%, 100%\]"),
        ("101%", r"101% is outside \(0%, 100%\]"),
        ("1%", "1% of 50 training examples leaves none"),
        ("10,000", "--train-size 10,000 is not a size"),
        ("1/0", "1/0 is not a size"),
        ("nan", "nan is not a size"),
    ],
)
def test_impossible_sizes(size: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train_subset(SPLIT, size, 0)
