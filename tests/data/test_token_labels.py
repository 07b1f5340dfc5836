"""A label for each word: files, first sub-words, entities against a naive reading of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from samples.tiny import tiny_tokenizer
from samples.tiny_models import TEXT
from winning_tickets.data.encode import IGNORED, make_collator
from winning_tickets.data.records import Split, Task
from winning_tickets.data.token_labels import CUT_OFF, encode_words, entities, is_bio, word_metrics, word_predictions
from winning_tickets.data.user_files import load_files
from winning_tickets.runs.errors import ContentError, UsageError

TOKENIZER = tiny_tokenizer(TEXT)
ROWS = [
    {"words": ["the", "cat", "sat"], "labels": ["O", "B-PET", "O"]},
    {"words": ["a", "small", "dog", "ran"], "labels": ["O", "B-PET", "I-PET", "O"]},
]
CONLL = "-DOCSTART- O\n\nthe DT O\ncat\tNN\tB-PET\nsat VB O\n\n\na DT O\nsmall JJ B-PET\ndog NN I-PET\nran VB O\n"


def put(path: Path, content: str | list[Any]) -> Path:
    text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    path.write_text(text, encoding="utf-8")
    return path


def both(path: Path, **options: Any) -> Any:
    options = {"kind": "tokens", "label_column": "labels"} | options
    return load_files(path, path, options.pop("text_columns", None), **options)


def test_lists_and_columns_say_the_same(tmp_path: Path) -> None:
    data = both(put(tmp_path / "a.jsonl", ROWS))
    assert data.train == Split(([["the", "cat", "sat"], ["a", "small", "dog", "ran"]],), [[2, 0, 2], [2, 0, 1, 2]])
    assert data.task.labels == ("B-PET", "I-PET", "O")
    assert (data.task.kind, data.task.text_columns, data.task.metrics) == ("tokens", ("words",), ("f1", "accuracy"))
    conll = both(put(tmp_path / "a.conll", CONLL), kind=None, label_column="label")
    assert (conll.train, conll.fingerprint) == (data.train, data.fingerprint)
    renamed = [{"toks": row["words"], "tags": [ROWS[1]["labels"].index(x) for x in row["labels"]]} for row in ROWS]
    other = both(put(tmp_path / "b.jsonl", renamed), text_columns=("toks",), label_column="tags")
    assert (other.train.texts, other.task.labels) == (data.train.texts, ("0", "1", "2"))
    assert other.task.metrics == ("accuracy", "macro_f1")
    assert other.fingerprint != data.fingerprint
    moved = [{"words": ["the cat", "sat"], "labels": ["O", "O"]}, ROWS[1]]
    assert both(put(tmp_path / "c.jsonl", moved)).fingerprint != data.fingerprint
    assert both(put(tmp_path / "a.jsonl", ROWS), metric="accuracy").task.metrics == ("accuracy", "f1")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"words": ["a", "b"], "labels": ["O"]}, r"line 2: found 2 words and 1 labels; each word needs one"),
        ({"words": [], "labels": []}, r"line 2: found 0 words and 0 labels; each word needs one, and a row one word"),
        ({"words": "a b", "labels": ["O"]}, r"line 2: column 'words' must be a list of words, found 'a b'"),
        ({"words": ["a", " "], "labels": ["O", "O"]}, r"line 2: column 'words' must be a list of words"),
        ({"words": ["a"], "labels": "O"}, r"line 2: column 'labels' must be a list of labels, found 'O'"),
        ({"words": ["a"], "labels": [None]}, r"line 2: column 'labels' must be a list of labels"),
        ({"words": ["a"]}, r"line 2 lacks the columns labels: found words, expected words, labels\."),
        ({"text": "a", "labels": []}, r"line 2 lacks the columns words: found text, labels, expected words, labels"),
    ],
)
def test_ragged_rows_are_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(ContentError, match=message):
        both(put(tmp_path / "a.jsonl", [ROWS[0], row]))


def test_wrong_files(tmp_path: Path) -> None:
    good = put(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(ContentError, match=r"b\.conll, line 2: expected a word and its label, found 'cat'"):
        both(put(tmp_path / "b.conll", "the O\ncat\n"))
    with pytest.raises(ContentError, match=r"c\.conll is empty: it holds no example"):
        both(put(tmp_path / "c.conll", "\n\n"))
    with pytest.raises(ContentError, match=r"d\.conll has one class only \(O\); at least two are needed"):
        both(put(tmp_path / "d.conll", "the O\ncat O\n"))
    with pytest.raises(UsageError, match=r"e\.csv has none of the suffixes \.jsonl, \.parquet, \.conll\."):
        both(put(tmp_path / "e.csv", "words,labels\na,O\n"))
    other = put(tmp_path / "f.conll", "the O\ncat O\n\nold B-AGE\n")
    message = r"f\.conll, line 4: label 'B-AGE' is not in the training file; allowed: B-PET, I-PET, O"
    with pytest.raises(ContentError, match=message):
        load_files(good, other, None, label_column="labels", kind="tokens")
    with pytest.raises(UsageError, match="--kind tokens takes one text column, the words; found a, b"):
        both(good, text_columns=("a", "b"))
    with pytest.raises(
        UsageError, match=r"--metric macro_f1 cannot be used with these labels \(B-PET, I-PET, O\); use f1 or"
    ):
        both(good, metric="macro_f1")
    with pytest.raises(UsageError, match="Unknown metric 'pearson'"):
        both(good, metric="pearson")
    with pytest.raises(
        ContentError, match=r"must be a class or a number, found \['O.*\. For lists there are --kind mult"
    ):
        load_files(*[put(tmp_path / "g.jsonl", [{"text": "a", "label": ["O"]}])] * 2, None)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, the blank before a word in a token of its own, as in RoBERTa's family."""
    letters = {letter: index + 3 for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab={"<pad>": 0, "<s>": 1, "</s>": 2, **letters}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1), trim_offsets=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", cls_token="<s>", sep_token="</s>", model_max_length=512
    )


def test_the_first_sub_word_carries_the_label() -> None:
    encoded = encode_words(Split(([["the", "zebra", "sat"], ["a"]],), [[2, 0, 1], [1]]), TOKENIZER, 32)
    tokens = TOKENIZER.convert_ids_to_tokens(encoded.columns["input_ids"][0])
    assert tokens == ["[CLS]", "the", "[UNK]", "sat", "[SEP]"]
    assert encoded.labels == [[IGNORED, 2, 0, 1, IGNORED], [IGNORED, 1, IGNORED]]
    pieces = encode_words(Split(([["taxi", "sat"]],), [[2, 1]]), tiny_tokenizer(["sat t a x i"]), 32)
    assert pieces.labels == [[IGNORED, 2, IGNORED, IGNORED, IGNORED, 1, IGNORED]]
    batch = make_collator(TOKENIZER, 8)([encoded[0], encoded[1]])
    assert batch["labels"].tolist() == [row + [IGNORED] * (8 - len(row)) for row in encoded.labels]
    assert encode_words(Split(([],), []), TOKENIZER, 8).labels == []


WORDS = st.lists(
    st.sampled_from(["the", "cat", "zq", "it's", "d.o.g", "a b", "\u00e9t\u00e9", "\u2603\u2603", "("]), min_size=1
)


@given(WORDS, st.integers(4, 40), st.booleans())
def test_every_word_that_fits_has_one_labelled_token(words: list[str], length: int, of_bytes: bool) -> None:
    tokenizer = byte_tokenizer() if of_bytes else tiny_tokenizer([*TEXT, "it's d.o.g ("])
    encoded = encode_words(Split(([words],), [list(range(len(words)))]), tokenizer, length)
    assert encoded.places is not None
    places, (labels,) = encoded.places[0], encoded.labels
    text, starts = " ".join(words), np.cumsum([0] + [len(word) + 1 for word in words])
    offsets = tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=length)["offset_mapping"]
    for number, word in enumerate(words):
        begin, end = starts[number], starts[number] + len(word)
        inside = [i for i, (a, b) in enumerate(offsets) if a < b and a < end and b > begin]
        assert places[number] == (inside[0] if inside else CUT_OFF)
    there = places[places != CUT_OFF]
    assert [label for label in labels if label != IGNORED] == list(range(len(there)))
    assert len(set(there.tolist())) == len(there)


def naive_entities(labels: list[str]) -> set[tuple[int, int, str]]:
    """Word by word: does this one begin an entity, and how far does it go?"""
    found = set()
    for i, label in enumerate(labels):
        if label == "O":
            continue
        continues = label[0] == "I" and i > 0 and labels[i - 1] != "O" and labels[i - 1][2:] == label[2:]
        if not continues:
            end = i + 1
            while end < len(labels) and labels[end] == f"I-{label[2:]}":
                end += 1
            found.add((i, end, label[2:]))
    return found


BIO = ("B-A", "B-B", "I-A", "I-B", "O")
SENTENCE = st.lists(st.integers(0, 4), min_size=1, max_size=9)


@given(st.lists(st.sampled_from(BIO), max_size=12))
def test_entities(labels: list[str]) -> None:
    assert entities(labels) == naive_entities(labels)


def test_known_entities() -> None:
    assert entities(["B-A", "I-A", "B-A", "O", "I-B", "I-A"]) == {(0, 2, "A"), (2, 3, "A"), (4, 5, "B"), (5, 6, "A")}
    assert entities(["B-x-y", "I-x-y"]) == {(0, 2, "x-y")}


def test_what_bio_is() -> None:
    assert is_bio(BIO)
    assert is_bio(("B-A",))
    for labels in (("O", "I-A"), ("NN", "B-A"), ("O", "B-"), ("O", "E-A", "B-A"), ("0", "1")):
        assert not is_bio(labels)


@given(st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=5))
def test_entity_f1(rows: Any) -> None:
    """One set over all sentences, precision and recall of it; words that were cut off are in no entity."""
    task = Task("local", ("words",), BIO, ("f1", "accuracy"), kind="tokens")
    predictions = [np.array([*found, *[CUT_OFF] * len(right)][: len(right)]) for found, right in rows]
    truth = [right for _, right in rows]
    values, degenerate = word_metrics(task, predictions, truth)
    sets = []
    for sentences in (predictions, truth):
        names = [["O" if index == CUT_OFF else BIO[index] for index in sentence] for sentence in sentences]
        sets.append({(i, *entity) for i, labels in enumerate(names) for entity in naive_entities(labels)})
    found, right = sets
    precision = len(found & right) / len(found) if found else 0.0
    recall = len(found & right) / len(right) if right else 0.0
    f1 = 2 * precision * recall / (precision + recall) if found & right else 0.0
    pairs = [
        (int(a), b) for guess, row in zip(predictions, truth, strict=True) for a, b in zip(guess, row, strict=True)
    ]
    assert values == pytest.approx({"f1": f1, "accuracy": sum(a == b for a, b in pairs) / len(pairs)})
    assert degenerate == (len({a for a, _ in pairs} - {CUT_OFF}) <= 1)


def test_other_labels_have_macro_f1() -> None:
    task = Task("local", ("words",), ("DT", "NN", "VB"), ("accuracy", "macro_f1"), kind="tokens")
    values, degenerate = word_metrics(task, [np.array([0, 1, 1]), np.array([CUT_OFF])], [[0, 1, 2], [0]])
    assert values == pytest.approx({"accuracy": 0.5, "macro_f1": (2 / 3 + 2 / 3 + 0) / 3})
    assert not degenerate
    assert word_metrics(task, [np.array([1, 1, 1])], [[1, 1, 0]]) == (
        pytest.approx({"accuracy": 2 / 3, "macro_f1": 0.8 / 3}),
        True,
    )


def test_predictions_are_those_of_first_tokens() -> None:
    encoded = encode_words(Split(([["the", "cat", "sat"]],), [[0, 0, 0]]), TOKENIZER, 4)
    logits = np.array([[9, 0], [0, 1], [1, 0], [0, 9]])
    assert [row.tolist() for row in word_predictions([logits], encoded)] == [[1, 0, CUT_OFF]]
