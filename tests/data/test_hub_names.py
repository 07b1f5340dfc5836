"""Data sets of the hub by their names: `org/name/config:column` as a corpus, `org/name/config` as a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from winning_tickets.config import TransferConfig
from winning_tickets.data import corpora, hub
from winning_tickets.data.corpora import load_corpus
from winning_tickets.data.hub import HubPart
from winning_tickets.finetuning.setup import check_transfer
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.training.task_data import load_data

ROWS = [{"body": f"text {index}\nof two lines", "stars": index % 2} for index in range(12)]
FEATURES = datasets.Features({"body": datasets.Value("string"), "stars": datasets.ClassLabel(names=["worst", "best"])})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of `load_dataset`, which gives some rows, four of them in a split `validation` of `with-dev`."""
    calls: list[Any] = []

    def load(name: str, config: str | None = None, streaming: bool = False, revision: str | None = None) -> Any:
        calls.append((name, config, revision))
        parts = {"train": ROWS[:8], "validation": ROWS[8:]} if config == "with-dev" else {"train": ROWS}
        made = {split: datasets.Dataset.from_list(rows, features=FEATURES) for split, rows in parts.items()}
        if streaming:
            return datasets.IterableDatasetDict({split: one.to_iterable_dataset() for split, one in made.items()})
        return datasets.DatasetDict(made)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "newest_revision", lambda name, kind: ("abc", ""))
    monkeypatch.setattr(corpora, "HELD_OUT", 4)
    return calls


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("org/name:body", ("org/name", None, "body")),
        ("allenai/c4/en.noblocklist:text", ("allenai/c4", "en.noblocklist", "text")),
        ("task:rte", None),
        ("wikipedia:20231101.en", None),
        ("org/name", None),
        ("/folder/name:text", None),
        ("./org/name:text", None),
        ("a/b/c/d:text", None),
        ("data.csv", None),
    ],
)
def test_names(text: str, found: tuple[str, str | None, str] | None) -> None:
    part = HubPart.parse(text)
    assert (None if part is None else (part.name, part.config, part.part)) == found
    assert part is None or str(part) == text


def test_a_file_that_exists_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("org").mkdir()
    Path("org/name:text").write_text("here\n")
    assert list(load_corpus("org/name:text", "train").lines) == ["here"]


def test_a_corpus_is_a_stream_of_one_column(asked: list[Any]) -> None:
    train, validation = (load_corpus("org/name/with-dev:body", split) for split in ("train", "validation"))
    assert asked[0] == ("org/name", "with-dev", "abc")
    assert train.streamed
    assert list(train.lines) == [line for row in ROWS[:8] for line in row["body"].split("\n")]
    assert list(validation.lines) == [line for row in ROWS[8:] for line in row["body"].split("\n")]
    # Without a validation split some texts are held out.
    parts = [list(load_corpus("org/name:body", split).lines) for split in ("train", "validation")]
    assert sorted(line for part in parts for line in part) == sorted(
        line for row in ROWS for line in row["body"].split("\n")
    )
    assert all(parts)
    assert load_corpus("org/name:body", "train").fingerprint != load_corpus("org/name:stars", "train").fingerprint
    with pytest.raises(ContentError, match="Could not read the column 'boddy'"):
        list(load_corpus("org/name:boddy", "train").lines)


def config_of(task: str | None, **fields: Any) -> TransferConfig:
    return TransferConfig(target="m", task=task, text_columns=("body",), label_column="stars", **fields)


def test_a_task_has_the_classes_of_the_data_set(asked: list[Any]) -> None:
    config = config_of("org/name/with-dev", metric="f1")
    check_transfer(config)
    data = load_data(config)
    assert (data.task.name, data.task.metrics[0], data.task.labels) == ("org/name/with-dev", "f1", ("best", "worst"))
    assert data.train.texts[0] == [row["body"] for row in ROWS[:8]]
    assert [data.task.labels[label] for label in data.train.labels] == ["worst", "best"] * 4
    assert len(data.validation["validation"]) == 4


def test_splits_have_names_of_their_own(asked: list[Any]) -> None:
    files = {"train_file": "org/name/with-dev:train", "validation_file": "org/name/other:train"}
    data = load_data(config_of(None, **files))
    assert (len(data.train), len(data.validation["validation"])) == (8, 12)
    with pytest.raises(UsageError, match="The data set org/name has no split 'validation'; found train"):
        load_data(config_of("org/name"))


def test_without_a_network_both_are_refused() -> None:
    with pytest.raises(UsageError, match="org/name is not on this machine, and HF_HUB_OFFLINE is set"):
        load_corpus("org/name:text", "train")
    with pytest.raises(UsageError, match=r"Could not load the data set org/name for org/name:train"):
        load_data(config_of("org/name"))
