"""Best spans against every pair of tokens, and the official metrics of SQuAD v1.1 against their definition."""

from __future__ import annotations

import re
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winning_tickets.data.encode import EncodedSplit
from winning_tickets.data.squad import (
    MAX_ANSWER_TOKENS,
    N_BEST,
    best_answers,
    best_span,
    normalize_answer,
    squad_metrics,
)


def naive_span(logits: Any, allowed: Any) -> tuple[float, int, int] | None:
    """The best pair in the context among the best starts and ends of all tokens, in their order (BERT's run_squad)."""
    tokens = range(len(allowed))
    starts = sorted(tokens, key=lambda i: (-logits[i][0], i))[:20]
    ends = sorted(tokens, key=lambda i: (-logits[i][1], i))[:20]
    best = None
    for start in starts:
        for end in ends:
            if allowed[start] and allowed[end] and start <= end < start + 30:
                score = float(logits[start][0]) + float(logits[end][1])
                if best is None or score > best[0]:
                    best = (score, start, end)
    return best


@given(st.integers(0, 60), st.integers(1, 90), st.integers(0, 3), st.data())
def test_the_best_span_is_that_of_a_naive_search(head: int, inside: int, tail: int, data: st.DataObject) -> None:
    """Whole numbers, so that there are ties."""
    size = head + inside + tail
    generator = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    logits = generator.integers(-data.draw(st.integers(1, 9)), 10, (size, 2)).astype(np.float32)
    allowed = np.array([head <= index < head + inside for index in range(size)])
    assert best_span(logits, allowed) == naive_span(logits.tolist(), allowed)


def test_limits_of_a_span() -> None:
    assert (MAX_ANSWER_TOKENS, N_BEST) == (30, 20)
    logits = np.zeros((40, 2), dtype=np.float32)
    logits[2, 0] = logits[31, 1] = 5.0
    everything = np.ones(40, dtype=bool)
    assert best_span(logits, everything) == (10.0, 2, 31)
    logits[31, 1], logits[32, 1] = 0.0, 5.0  # one token too long
    assert best_span(logits, everything) == (5.0, 2, 2)
    only = everything & (np.arange(40) > 2)
    assert best_span(logits, only) == (5.0, 3, 32)  # the question is no answer
    assert best_span(logits, everything & False) is None


def test_where_all_good_ends_come_before_all_good_starts_there_is_no_span() -> None:
    logits = np.zeros((60, 2), dtype=np.float32)
    logits[40:, 0] = logits[:20, 1] = 1.0
    assert best_span(logits, np.ones(60, dtype=bool)) is None


def test_tokens_of_the_question_count_among_the_best_starts_and_ends() -> None:
    """As in the official evaluation: the span (30, 32) would be the best one of the context alone."""
    logits = np.zeros((40, 2), dtype=np.float32)
    logits[:19] = 9.0  # 19 of the 20 best starts and ends are outside the context
    logits[30, 0], logits[31, 0] = 1.0, 2.0
    logits[31, 1], logits[32, 1] = 2.0, 1.5
    context = np.arange(40) >= 20
    assert best_span(logits, context) == (4.0, 31, 31)
    logits[31, 0] = 0.0
    assert best_span(logits, context) == (3.0, 30, 31)
    logits[19] = 9.0  # all 20 of them
    assert best_span(logits, context) is None


def windows(*owners_and_places: tuple[int, list[tuple[int, int]]]) -> EncodedSplit:
    """Windows that only know their example and the characters of their tokens."""
    owners = [owner for owner, _ in owners_and_places]
    return EncodedSplit({}, [None] * len(owners), owners, [np.array(places) for _, places in owners_and_places])


def test_the_best_window_gives_the_answer() -> None:
    texts = ["red green blue", "one"]
    other = (-1, -1)
    encoded = windows((0, [other, (0, 3), (3, 9)]), (0, [other, (3, 9), (9, 14)]), (1, [other, other]))
    weak, strong = np.array([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0]]), np.array([[9.0, 9.0], [0.0, 0.0], [2.0, 2.0]])
    found = best_answers([weak, strong, np.zeros((2, 2))], encoded, texts)
    assert found[0] == ("blue", 10, 4.0)  # without the blank that the token covers
    assert found[1] == ("", None, None)
    assert best_answers([strong, weak, np.zeros((2, 2))], encoded, texts)[0] == ("green", 4, 4.0)
    assert best_answers([weak, weak, np.zeros((2, 2))], encoded, texts)[0] == ("red green", 0, 2.0)  # the first of two


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat's, an A!", "cats"),
        ("a-n the", ""),  # punctuation goes first, and what is left is an article
        ("anthem theory", "anthem theory"),
        ("\tTwo\u2003words\n", "two words"),
        ("\u00ab caf\u00e9 \u00bb", "\u00ab caf\u00e9 \u00bb"),  # only ASCII punctuation
        ("", ""),
    ],
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


def official(text: str) -> str:
    """The four steps of the script, one after the other."""
    text = text.lower()
    text = "".join(ch for ch in text if ch not in set(string.punctuation))
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def naive_f1(prediction: str, truth: str) -> float:
    """Each common word is crossed out on both sides."""
    left, right = official(prediction).split(), official(truth).split()
    rest, common = list(right), 0
    for word in left:
        if word in rest:
            rest.remove(word)
            common += 1
    if common == 0:
        return 0.0
    precision, recall = common / len(left), common / len(right)
    return 2 * precision * recall / (precision + recall)


ANSWERS = st.lists(
    st.sampled_from(["a", "The", "an", "cat", "Cat,", "sat", "10", "(1066)", "the-", "\u00e9t\u00e9", "-", " "]),
    max_size=6,
).map(" ".join)


@given(st.lists(st.tuples(ANSWERS, st.lists(ANSWERS, min_size=1, max_size=3)), min_size=1, max_size=6))
def test_metrics_are_the_best_over_the_truths_and_the_mean_over_questions(rows: Any) -> None:
    predictions, truths = [row[0] for row in rows], [row[1] for row in rows]
    f1 = sum(max(naive_f1(found, truth) for truth in right) for found, right in rows) / len(rows)
    exact = sum(any(official(found) == official(truth) for truth in right) for found, right in rows) / len(rows)
    assert squad_metrics(predictions, truths) == pytest.approx({"f1": f1, "exact_match": exact})
