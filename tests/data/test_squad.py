"""SQuAD v1.1: its JSON and the hub's columns, windows over long texts, the tokens of an answer, the real files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samples.tiny import tiny_tokenizer
from samples.tiny_models import TEXT
from winning_tickets.data import hub
from winning_tickets.data.encode import EncodedSplit, make_collator
from winning_tickets.data.examples import read_answers
from winning_tickets.data.loading import load_task
from winning_tickets.data.records import Answers, Split
from winning_tickets.data.squad import MAX_QUESTION_TOKENS, encode_windows, read_articles
from winning_tickets.data.tasks import TASKS
from winning_tickets.data.user_files import load_files
from winning_tickets.runs.errors import ContentError, UsageError

TOKENIZER = tiny_tokenizer(TEXT)
QUESTIONS = [("Where did the cat sit?", "on the mat"), ("What looked at the dog?", "the cat"), ("Which dog? ", "small")]
CONTEXT = TEXT[0]


def row(question: str, *texts: str, context: str = CONTEXT) -> dict[str, Any]:
    """A question as the official files have it."""
    return {
        "id": question[:5],
        "question": question,
        "answers": [{"text": text, "answer_start": context.index(text)} for text in texts],
    }


def document(rows: list[dict[str, Any]], context: str = CONTEXT) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": "Cats", "paragraphs": [{"context": context, "qas": rows}]}]}


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


ROWS = [row(question, answer) for question, answer in QUESTIONS]
DEV = [row("What sat?", "cat", "the cat", "the cat sat")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The official files with made-up rows."""
    put(tmp_path / "squad" / "train-v1.1.json", document(ROWS))
    put(tmp_path / "squad" / "dev-v1.1.json", document(DEV))
    return tmp_path / "squad"


def test_the_official_files(folder: Path) -> None:
    data = load_task("squad", folder)
    assert data.train == Split(
        ([question for question, _ in QUESTIONS], [CONTEXT] * 3),
        [Answers((answer,), (CONTEXT.index(answer),)) for _, answer in QUESTIONS],
    )
    assert data.validation == {
        "validation": Split((["What sat?"], [CONTEXT]), [Answers(("cat", "the cat", "the cat sat"), (4, 0, 0))])
    }
    assert (data.source, data.task) == ("folder", TASKS["squad"])
    assert load_task("squad", folder.parent).fingerprint == data.fingerprint  # the folder above it
    own = load_files(folder / "train-v1.1.json", folder / "dev-v1.1.json", None)
    assert (own.train, own.task.name, own.task.kind, own.source) == (data.train, "local", "span", "files")
    assert (own.task.max_length, own.task.doc_stride, own.task.metrics) == (384, 128, ("f1", "exact_match"))
    exact = load_files(folder / "train-v1.1.json", folder / "dev-v1.1.json", None, metric="exact_match")
    assert exact.task.metrics == ("exact_match", "f1")


def test_the_settings_are_those_of_the_paper() -> None:
    task = TASKS["squad"]
    assert (task.paper_rate, task.batch_size, task.epochs, task.eval_steps) == (3e-5, 16, 2, 1000)
    assert (task.max_length, task.doc_stride, task.metrics[0]) == (384, 128, "f1")


def hub_rows(rows: list[dict[str, Any]]) -> datasets.Dataset:
    """The columns of rajpurkar/squad."""
    answers = [
        {"text": [a["text"] for a in r["answers"]], "answer_start": [a["answer_start"] for a in r["answers"]]}
        for r in rows
    ]
    columns = {"id": [r["id"] for r in rows], "title": ["Cats"] * len(rows), "context": [CONTEXT] * len(rows)}
    return datasets.Dataset.from_dict(columns | {"question": [r["question"] for r in rows], "answers": answers})


def copy_of_the_hub(path: Path, train: datasets.Dataset) -> Path:
    (path / "plain_text").mkdir(parents=True)
    train.to_parquet(path / "plain_text" / "train-00000-of-00001.parquet")
    hub_rows(DEV).to_parquet(path / "plain_text" / "validation-00000-of-00001.parquet")
    return path


def test_the_hub_and_its_copies_hold_the_same(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copy_of_the_hub(tmp_path / "copy", hub_rows(ROWS))
    asked = []

    def load(name: str, config: str | None) -> Any:
        asked.append((name, config))
        return datasets.load_dataset("parquet", data_files=hub.find_files(copy, None, ("train", "validation")))

    monkeypatch.setattr(hub, "load_hub", lambda name, config, what, instead: load(name, config))
    for data in (load_task("squad", copy), load_task("squad")):
        assert data.fingerprint == load_task("squad", folder).fingerprint
        assert data.train == load_task("squad", folder).train
    assert asked == [("rajpurkar/squad", None)]


def test_wrong_rows_of_the_hub(tmp_path: Path) -> None:
    broken = hub_rows(ROWS).map(lambda r: {"answers": {"text": r["answers"]["text"], "answer_start": [40]}})
    with pytest.raises(
        ContentError, match=r"plain_text: the answer 'on the mat' to 'Where did .*' is said to start at"
    ):
        load_task("squad", copy_of_the_hub(tmp_path / "a", broken))
    empty = hub_rows([row("Who?"), *ROWS])
    with pytest.raises(ContentError, match=r"'train', row 0: the question has no answer. SQuAD 2.0 has such questions"):
        load_task("squad", copy_of_the_hub(tmp_path / "b", empty))
    other = hub_rows(ROWS).map(lambda r: {"answers": {"text": r["answers"]["text"], "answer_start": [1, 2]}})
    with pytest.raises(ContentError, match="row 0: each answer must be a text with the character at which it starts"):
        load_task("squad", copy_of_the_hub(tmp_path / "c", other))
    with pytest.raises(ContentError, match="row 0: expected lists 'text' and 'answer_start', found 'x'"):
        read_answers("x", "row 0")


def without(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (content | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"train\.json is not valid JSON"),
        (
            [{"text": "a", "label": 1}],
            r"is not SQuAD JSON: found a list, expected an object with articles in 'data'.*jsonl",
        ),
        ({"rows": []}, "is not SQuAD JSON: found an object with 'rows', expected"),
        ({"data": []}, r"train\.json is empty: it holds no example"),
        ({"data": ["x"]}, "article 1: 'paragraphs' must be a list, found None"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "article 1, paragraph 1: 'context' must be a text, found None"),
        (
            document([without(ROWS[0], question=None)]),
            "paragraph 1, question 1: 'question' must be a text, found None",
        ),
        (document([ROWS[0], without(ROWS[1], question=" ")]), "question 2: 'question' must be a text, found ' '"),
        (document([without(ROWS[0], answers="mat")]), "question 1: 'answers' must be a list, found 'mat'"),
        (document([without(ROWS[0], answers=[])]), "question 1: the question has no answer. SQuAD 2.0 has such"),
        (
            document([without(ROWS[0], answers=[{"text": "mat", "answer_start": "3"}])]),
            "question 1: 'answer_start' must be a whole number, found '3'",
        ),
        (
            document([without(ROWS[0], answers=[{"text": "mat", "answer_start": -3}])]),
            "question 1: each answer must be a text with the character at which it starts",
        ),
        (
            document([without(ROWS[0], answers=[{"text": "mat", "answer_start": 3}])]),
            r"train\.json: the answer 'mat' to 'Where did the cat sit\?' is said to start at character 3 of its "
            r"context, and there is ' ca'. Were the texts changed",
        ),
    ],
)
def test_what_is_not_squad(tmp_path: Path, content: Any, message: str) -> None:
    path = put(tmp_path / "train.json", content)
    with pytest.raises(ContentError, match=message):
        load_files(path, path, None)


def test_wrong_arguments(tmp_path: Path, folder: Path) -> None:
    train = folder / "train-v1.1.json"
    with pytest.raises(UsageError, match=r"There is no file .*none\.json"):
        load_files(train, tmp_path / "none.json", None)
    with pytest.raises(
        UsageError, match=r"a\.jsonl is not a \.json file; questions about texts are read from the JSON"
    ):
        load_files(train, tmp_path / "a.jsonl", None)
    with pytest.raises(UsageError, match="--text-columns and --label-column need rows; the JSON of SQuAD"):
        load_files(train, train, ("question", "context"))
    with pytest.raises(UsageError, match=r"Unknown metric 'accuracy'.*exact_match, f1"):
        load_files(train, train, None, metric="accuracy")
    with pytest.raises(UsageError, match=r"train-v1\.1\.json has none of the suffixes \.csv, \.tsv, \.jsonl"):
        load_files(train, train, None, kind="classification")


def test_missing_files_say_what_is_there(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no folder .*nowhere; --data-dir takes one with train-v1\.1\.json"):
        load_task("squad", folder / "nowhere")
    (folder / "dev-v1.1.json").rename(folder / "test.json")
    with pytest.raises(UsageError, match=r"must hold one dev\*\.json of squad.*found test\.json, train-v1\.1\.json"):
        load_task("squad", folder)
    put(folder / "train-v2.0.json", "{}")
    with pytest.raises(
        UsageError, match=r"must hold one train\*\.json of squad.*found test\.json, train-v1\.1\.json, tr"
    ):
        load_task("squad", folder)


WORDS = sorted({word for text in TEXT for word in text.split()})
LONG = st.lists(st.sampled_from([*WORDS, "zq", "d.o.g", "(", "x"]), min_size=1, max_size=60).map(" ".join)


def characters(encoded: EncodedSplit) -> list[set[int]]:
    """Of each window the characters of the context that it covers."""
    assert encoded.places is not None
    return [{c for begin, end in places.tolist() for c in range(begin, end)} for places in encoded.places]


@given(LONG, LONG, st.integers(8, 40), st.integers(1, 30), st.data())
def test_windows(question: str, context: str, length: int, stride: int, data: st.DataObject) -> None:
    """They cover every character, begin with the question, and mark the answer where it is wholly inside."""
    start = data.draw(st.integers(0, len(context) - 1))
    answer = context[start : data.draw(st.integers(start + 1, len(context)))]
    encoded = encode_windows(Split(([question], [context]), [Answers((answer,), (start,))]), TOKENIZER, length, stride)
    covered = characters(encoded)
    assert set().union(*covered) == {index for index, letter in enumerate(context) if letter != " "}
    whole = TOKENIZER(context, add_special_tokens=False)["input_ids"]
    asked = TOKENIZER(question, add_special_tokens=False)["input_ids"][: min(64, (length - 3) // 2)]
    room = length - 3 - len(asked)
    for index, ids in enumerate(encoded.columns["input_ids"]):
        first = index * min(stride, room)
        piece = whole[first : first + room]
        assert ids.tolist() == [2, *asked, 3, *piece, 3]
        assert encoded.columns["token_type_ids"][index].tolist() == [0] * (len(asked) + 2) + [1] * (len(piece) + 1)
        assert len(ids) <= length
    assert first + room >= len(whole)  # the last window is needed, and it is the last
    assert len(encoded) == 1 or first - min(stride, room) + room < len(whole)
    wanted = {start + i for i, letter in enumerate(answer) if letter != " "}
    for (begin, end), places, there in zip(encoded.labels, encoded.places or [], covered, strict=True):
        if not wanted or not wanted <= there:
            assert (begin, end) == (0, 0) or not wanted
        else:
            marked = {c for a, b in places[begin : end + 1].tolist() for c in range(a, b)}
            assert wanted <= marked
            assert not wanted <= marked - set(range(*places[begin].tolist()))  # the first token is needed
            assert not wanted <= marked - set(range(*places[end].tolist()))  # so is the last


def test_long_questions_are_cut() -> None:
    question = " ".join(["cat"] * 100)
    encoded = encode_windows(Split(([question], [CONTEXT]), [Answers()]), TOKENIZER, 384, 128)
    assert MAX_QUESTION_TOKENS == 64
    assert len(encoded.columns["input_ids"][0]) == 64 + 3 + len(CONTEXT.split())
    assert encoded.labels == [(0, 0)]


def test_windows_know_their_question_and_the_first_answer_is_trained_on() -> None:
    long = " ".join(["birds"] * 20 + ["cat"])
    answers = [Answers(("cat", "birds"), (long.index("cat"), 0)), Answers(("the cat",), (0,))]
    encoded = encode_windows(Split((["birds"] * 2, [long, CONTEXT]), answers), TOKENIZER, 16, 8)
    assert encoded.owners == [0, 0, 0, 1]
    assert encoded.labels == [(0, 0), (0, 0), (7, 7), (3, 4)]
    batch = make_collator(TOKENIZER)([encoded[index] for index in range(4)])
    assert batch["labels"].tolist() == [[0, 0], [0, 0], [7, 7], [3, 4]]
    assert batch["input_ids"].shape == (4, 16)
    assert batch["attention_mask"].sum(1).tolist() == [16, 16, 9, 16]
    left = tiny_tokenizer(TEXT)
    left.padding_side = "left"
    assert make_collator(left)([encoded[2], encoded[0]])["attention_mask"][0].tolist() == [1] * 9 + [0] * 7


def test_blanks_around_an_answer_do_not_count() -> None:
    context = "the cat sat "
    encoded = encode_windows(Split((["birds"], [context]), [Answers((" sat ",), (7,))]), TOKENIZER, 32, 8)
    assert encoded.labels == [(5, 5)]


def test_a_tokenizer_without_characters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ContentError, match="cannot tell which characters a token covers.*use a model with a fast"):
        encode_windows(Split((["a"], ["b"]), [Answers()]), Slow(), 32, 8)


@pytest.mark.parametrize(("length", "stride"), [(384, 128), (64, 24)])
def test_the_real_files(shared_data: Path, length: int, stride: int) -> None:
    """Every answer to train on comes back to the letter from some window."""
    data = load_task("squad", shared_data)
    assert (len(data.train), len(data.validation["validation"])) == (384, 197)
    assert {len(answers.texts) for answers in data.validation["validation"].labels} == {2, 3, 4}
    tokenizer = tiny_tokenizer(sorted({*data.train.texts[0], *data.train.texts[1]}))
    encoded = encode_windows(data.train, tokenizer, length, stride)
    assert encoded.owners is not None
    assert encoded.places is not None
    found: list[set[str]] = [set() for _ in range(len(data.train))]
    for owner, (begin, end), places in zip(encoded.owners, encoded.labels, encoded.places, strict=True):
        if begin:
            found[owner].add(data.train.texts[1][owner][places[begin, 0] : places[end, 1]])
    assert all(answers.texts[0] in texts for answers, texts in zip(data.train.labels, found, strict=True))
    assert max(map(len, encoded.columns["input_ids"])) <= length
    assert np.bincount(encoded.owners, minlength=len(data.train)).min() >= 1


def test_reading_one_real_file(shared_data: Path) -> None:
    split = read_articles(shared_data / "squad" / "dev-v1.1.json")
    assert all(
        context[start : start + len(text)] == text
        for context, answers in zip(split.texts[1], split.labels, strict=True)
        for text, start in zip(*answers, strict=True)
    )
