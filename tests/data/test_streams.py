"""Corpora that are streams: Wikipedia by date and language, and folders of Parquet files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import datasets
import pytest

from samples.tiny import tiny_tokenizer
from winning_tickets.data import corpora, hub
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.data.corpora import load_corpus
from winning_tickets.data.token_cache import list_cache_entries, tokenize
from winning_tickets.runs.errors import ContentError, UsageError

WORDS = [f"w{index}" for index in range(100)]
TOKENIZER = tiny_tokenizer([" ".join(WORDS)])
TRAINING: dict[str, Any] = {"segments": "packed:8", "batch_tokens": 16, "seed": 0, "shuffle": True}


@pytest.fixture(autouse=True)
def _some_are_held_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(corpora, "HELD_OUT", 4)
    monkeypatch.setattr(hub, "_TEXTS_IN_TURN", 2)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def articles(file: int, count: int = 20) -> list[str]:
    return [f"w{file} w{index}\n\nw{index + 1} " + "w7 " * 8 for index in range(count)]


def dump(folder: Path, files: int = 3) -> Path:
    """Parquet files as those of the hub's Wikipedia."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        texts = articles(number)
        rows = {"id": list(map(str, range(len(texts)))), "title": texts, "text": texts}
        datasets.Dataset.from_dict(rows).to_parquet(folder / f"train-0000{number}-of-0000{files}.parquet")
    return folder


def texts_of(spec: str, split: corpora.SplitName, data_dir: Path | None = None) -> list[str]:
    lines = list(load_corpus(spec, split, data_dir).lines)
    return [f"{first}\n\n{second}" for first, second in zip(lines[::2], lines[1::2], strict=True)]


def test_articles_come_from_all_files_in_turn_and_some_are_held_out(tmp_path: Path) -> None:
    folder = dump(tmp_path / "20231101.en")
    train, validation = (texts_of(str(folder), split) for split in ("train", "validation"))
    assert sorted([*train, *validation]) == sorted(text for file in range(3) for text in articles(file))
    assert 5 < len(validation) < 30 < len(train)
    assert {text.split()[0] for text in train[:6]} == {"w0", "w1", "w2"}  # of each file at most two before the next
    # The same files as a copy of the repository, under the corpus's name.
    assert texts_of("wikipedia:20231101.en", "train", tmp_path) == train
    named = load_corpus("wikipedia:20231101.en", "train", tmp_path)
    assert named.streamed
    assert named.fingerprint == load_corpus(str(folder), "train").fingerprint
    assert named.fingerprint != load_corpus(str(folder), "validation").fingerprint
    # Another text in one file is another corpus, although no text was read for that.
    datasets.Dataset.from_dict({"text": ["w9 " * 30]}).to_parquet(folder / "train-00001-of-00003.parquet")
    assert load_corpus(str(folder), "train").fingerprint != named.fingerprint


def test_files_for_validation_are_taken_where_there_are_some(tmp_path: Path) -> None:
    folder = dump(tmp_path / "some", files=1)
    datasets.Dataset.from_dict({"text": ["w1 w2", "w3"]}).to_parquet(folder / "validation-00000-of-00001.parquet")
    assert list(load_corpus(str(folder), "validation").lines) == ["w1 w2", "w3"]
    assert texts_of(str(folder), "train") == articles(0)


def test_a_stream_is_read_as_far_as_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = load_corpus(str(dump(tmp_path / "text")), "train")
    read: list[str] = []
    watched = corpora._LinesAnew(lambda: (read.append(line) or line for line in corpus.lines))  # type: ignore[func-returns-value]
    limited = corpora.CorpusText(corpus.name, corpus.split, watched, corpus.fingerprint, streamed=True)
    monkeypatch.setattr("winning_tickets.data.token_cache._LINES_AT_A_TIME", 4)
    data = CorpusBatches.read(limited, TOKENIZER, n_batches=5, mlm_probability=None, **TRAINING)
    whole = list(corpus.lines)
    assert 80 <= data.stream.n_tokens < 120  # five batches of 16 tokens
    assert read == whole[: len(read)]
    assert len(read) < 20 < len(whole)
    assert list(data.stream.offsets) == sorted(data.stream.offsets)
    assert data.stream.n_lines == len(read)
    # The same again comes from the cache, and more of it is an entry of its own.
    first = len(read)
    CorpusBatches.read(limited, TOKENIZER, n_batches=5, mlm_probability=None, **TRAINING)
    assert len(read) == first
    more = CorpusBatches.read(limited, TOKENIZER, n_batches=9, mlm_probability=None, **TRAINING)
    assert more.stream.tokens[: data.stream.n_tokens].tolist() == data.stream.tokens.tolist()
    assert len(read) > 2 * first
    assert {entry["lines"] for entry in list_cache_entries()} >= {data.stream.n_lines, more.stream.n_lines}
    # A number of segments says how much is needed too, also of batches without an end.
    sized = CorpusBatches.read(limited, TOKENIZER, n_batches=2**62, train_size="12", mlm_probability=None, **TRAINING)
    assert sized.segments == 12
    for size, found in ((None, "nothing says how much of it is read; give --train-size N"), ("5%", "give a number")):
        with pytest.raises(UsageError, match=found):
            CorpusBatches.read(limited, TOKENIZER, n_batches=2**62, train_size=size, mlm_probability=None, **TRAINING)


def test_wikipedia_comes_from_the_hub_at_one_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name, the configuration and the revision are asked for, as a stream; no file is fetched before."""
    files = sorted(map(str, dump(tmp_path / "hub").iterdir()))
    asked: list[Any] = []
    original = datasets.load_dataset

    def load(name: str, *arguments: Any, **options: Any) -> Any:
        asked.append((name, *arguments, options))
        return original("parquet", data_files={"train": files}, streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", load)
    prints = set()
    for revision in ("abc", "def"):
        monkeypatch.setattr(hub, "newest_revision", lambda name, kind, sha=revision: (sha, ""))
        corpus = load_corpus("wikipedia:20231101.en", "train", tmp_path)  # a folder with other data
        prints.add(corpus.fingerprint)
    options = {"streaming": True, "revision": "abc"}
    assert asked[0] == ("wikimedia/wikipedia", "20231101.en", options)
    assert len(prints) == 2
    assert len(list(corpus.lines)) > 60


def test_without_a_network_wikipedia_is_refused_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UsageError) as found:
        load_corpus("wikipedia:20231101.en", "train")
    assert time.monotonic() - began < 5
    assert str(found.value) == (
        "the corpus wikipedia:20231101.en: wikimedia/wikipedia is not on this machine, and HF_HUB_OFFLINE is set; give "
        "--corpus (in a study --set corpus=) a folder with its Parquet files, from: hf download wikimedia/wikipedia "
        "--repo-type dataset --include '20231101.en/*' --local-dir DIR."
    )
    for wrong in ("wikipedia", "wikipedia:en"):
        with pytest.raises(UsageError, match=r"wikipedia:20231101\.en"):
            load_corpus(wrong, "train")


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ContentError, match="Could not read the Parquet files in .*git lfs pull"):
        tokenize(load_corpus(str(tmp_path), "train"), TOKENIZER, 10)
    datasets.Dataset.from_dict({"body": ["w1"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ContentError, match="Could not read the column 'text' of parquet: .*Columns in the dataset"):
        tokenize(load_corpus(str(tmp_path), "train"), TOKENIZER, 10)


def test_parquet_files_of_one_split_are_never_those_of_another(tmp_path: Path) -> None:
    def write(**files: str) -> str:
        folder = tmp_path / "-".join(files)
        folder.mkdir()
        for name, text in files.items():
            datasets.Dataset.from_dict({"text": [text]}).to_parquet(folder / f"{name}.parquet")
        return str(folder)

    tested = write(train="w1", test="w2")
    assert list(load_corpus(tested, "test").lines) == ["w2"]
    for folder, split, found in (
        (write(train="w1"), "test", "has no test file .*; found train.parquet"),
        (write(train="w1", validation="w2"), "test", "has no test file .*; found train.parquet, validation.parquet"),
        (write(part="w1", validation="w2"), "train", "has no train file .*; found part.parquet, validation.parquet"),
        (write(test="w1"), "train", "has no train file .*; found test.parquet"),
    ):
        with pytest.raises(UsageError, match=found):
            load_corpus(folder, split)  # type: ignore[arg-type]


def test_the_test_split_of_the_hub_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"train": ["w1"] * 20, "test": ["w2"] * 20}
    made = {name: datasets.Dataset.from_dict({"text": found}) for name, found in texts.items()}
    monkeypatch.setattr(hub, "newest_revision", lambda name, kind: ("abc", ""))
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: {name: one.to_iterable_dataset() for name, one in made.items()}
    )
    assert list(load_corpus("org/name:text", "test").lines) == texts["test"]
    del made["test"]
    with pytest.raises(UsageError, match="org/name has no split 'test'; found train"):
        load_corpus("org/name:text", "test")
