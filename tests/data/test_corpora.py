"""Corpora: names, tasks, files and folders; what is missing or unreadable gets a clear answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from winning_tickets.data import corpora, readers
from winning_tickets.data.corpora import HUB_CORPORA, CorpusText, SplitName, check_corpus_name, load_corpus, load_text
from winning_tickets.data.readers import fingerprint
from winning_tickets.runs import memory
from winning_tickets.runs.errors import ContentError, UsageError

WIKITEXT = Path(__file__).resolve().parents[3] / "shared" / "data" / "wikitext-2"


def put(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8", newline="")
    return folder


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = put(tmp_path, a__txt="\ufeff = Title = \r\n\n  \nIt 's <unk> @-@ \u2028 here .\n") / "a.txt"
    train, validation = (load_corpus(str(path), split) for split in ("train", "validation"))
    assert list(train.lines) == [" = Title = ", "It 's <unk> @-@ \u2028 here ."]
    assert list(train.lines) == list(validation.lines)  # as often as needed
    assert len(train.lines) == 2
    assert (train.name, train.split, train.fingerprint) == (str(path), "train", fingerprint(train.lines))
    assert (validation.name, validation.split, validation.fingerprint) == (str(path), "validation", train.fingerprint)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    "content", ["", "\ufeff", "\n", "a", "\ufeffa\r\n\n é\u2028x\r\nlast", "a\n\r", "a\n\ufeffb\n\n"]
)
def test_lines_are_those_of_the_whole_text(
    tmp_path: Path, content: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode())
    monkeypatch.setattr(readers, "_BLOCK", block)
    assert list(readers.read_lines(path)) == readers.split_lines(readers.read_utf8(path))


def test_not_utf8_far_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_bytes("äb\nc\nde é".encode() + b"\xff\n")
    monkeypatch.setattr(readers, "_BLOCK", 6)
    with pytest.raises(ContentError, match=r"a\.txt is not UTF-8: byte 0xff at offset 11\. The rest of it is UTF-8"):
        load_corpus(str(tmp_path / "a.txt"), "train")


def test_fingerprint_follows_the_text(tmp_path: Path) -> None:
    put(tmp_path, a__txt="one\ntwo\n", b__txt="one\n\ntwo", c__txt="one two\n")
    prints = [load_corpus(str(tmp_path / f"{name}.txt"), "train").fingerprint for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("files", "split", "lines"),
    [
        ({"wiki__train__tokens": "a", "wiki__valid__tokens": "b", "wiki__test__tokens": "c"}, "train", ["a"]),
        ({"wiki__train__tokens": "a", "wiki__valid__tokens": "b", "wiki__test__tokens": "c"}, "validation", ["b"]),
        ({"train2__txt": "b", "train1__txt": "a", "dev__txt": "c"}, "train", ["a", "b"]),
        ({"train__txt": "a", "validation__md": "b", "notes__txt": "c"}, "validation", ["b"]),
        ({"latest__txt": "a", "constrained__raw": "b", "device__md": "c", "x__py": "d"}, "validation", ["b", "c", "a"]),
    ],
)
def test_folders(tmp_path: Path, files: dict[str, str], split: SplitName, lines: list[str]) -> None:
    assert list(load_corpus(str(put(tmp_path / "folder", **files)), split).lines) == lines


def test_folder_without_the_split(tmp_path: Path) -> None:
    put(tmp_path, corpus_train__txt="a", corpus_test__txt="b")
    message = r"has no validation file \(a name with dev or val or valid or validation in it\); found corpus_test\.txt"
    with pytest.raises(UsageError, match=message):
        load_corpus(str(tmp_path), "validation")


def test_folder_without_text(tmp_path: Path) -> None:
    put(tmp_path, a__csv="x")
    with pytest.raises(ContentError, match=r"holds no text file \(\.txt, \.tokens, \.raw, \.md\)"):
        load_corpus(str(tmp_path), "train")


def test_empty(tmp_path: Path) -> None:
    put(tmp_path, a__txt=" \n\n")
    with pytest.raises(ContentError, match=r"a\.txt \(train\) is empty"):
        load_corpus(str(tmp_path / "a.txt"), "train")


def test_a_column_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dev.csv").write_text('id,body\n1,"a cat\nsat, down"\n2,a dog\n')
    (tmp_path / "rows.jsonl").write_text('{"text": "a cat"}\n{"text": 3}\n')
    monkeypatch.chdir(tmp_path)
    for spec in ("data/dev.csv:body", str(tmp_path / "data" / "dev.csv:body")):  # the first could be one of the hub
        assert list(load_corpus(spec, "train").lines) == ["a cat", "sat, down", "a dog"]
    with pytest.raises(ContentError, match=r"line 2 has no text in a column 'text'; it has the columns id, body"):
        load_corpus("data/dev.csv:text", "train")
    with pytest.raises(ContentError, match=r"rows.jsonl, line 2 has no text in a column 'text'"):
        load_corpus("rows.jsonl:text", "train")
    with pytest.raises(UsageError, match=r"rows.jsonl is a table; name the column .* such as rows.jsonl:text"):
        load_corpus("rows.jsonl", "train")
    with pytest.raises(UsageError, match="There is no file or folder other.csv:body"):
        load_corpus("other.csv:body", "train")


@pytest.mark.parametrize(
    "spec", ["pydocs", "task:rte", "org/name:text", "wikipedia:20231101.en", "a/b", "x.txt", "~/x"]
)
def test_names_that_may_be_a_corpus(spec: str) -> None:
    check_corpus_name(spec)


def test_unknown_names_and_missing_paths() -> None:
    with pytest.raises(UsageError, match=r"Unknown corpus 'wikitext2'\. Did you mean 'wikitext-2'.*A path to a text"):
        load_corpus("wikitext2", "train")
    with pytest.raises(UsageError, match="Unknown corpus 'pydocs:topic'"):
        load_corpus("pydocs:topic", "train")
    with pytest.raises(UsageError, match="Unknown task 'stbs'. Did you mean 'stsb'"):
        load_corpus("task:stbs", "train")
    for path in ("./nowhere", "no/where", "nowhere.txt", "~/nowhere-at-all"):
        with pytest.raises(UsageError, match=f"There is no file or folder {path}"):
            load_corpus(path, "train")


def test_task_sentences(tmp_path: Path) -> None:
    """Each text once, row by row."""
    rows = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\tc\ta\tnot_entailment\n"
    put(tmp_path / "RTE", train__tsv=rows, dev__tsv=rows.replace("\tc\t", "\td\t"))
    assert list(load_corpus("task:rte", "train", tmp_path).lines) == ["a", "b", "c"]
    assert list(load_corpus("task:rte", "validation", tmp_path).lines) == ["a", "b", "d"]


@pytest.mark.parametrize("spec", ["pydocs", "pydocs:docstrings", "pydocs:topics"])
def test_pydocs(spec: str) -> None:
    corpus = load_corpus(spec, "validation")
    assert corpus.name == spec
    assert len(corpus.lines) >= 100


def test_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the real load_dataset call, with Parquet files in place of the hub's."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        rows = datasets.Dataset.from_dict({"text": ["", f" = {split} = \n", "a paragraph\n"]})
        rows.to_parquet(tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet")
    assert HUB_CORPORA["wikitext-103"] == ("Salesforce/wikitext", "wikitext-103-raw-v1")
    monkeypatch.setitem(HUB_CORPORA, "wikitext-2", (str(tmp_path / "hub"), None))
    assert list(load_corpus("wikitext-2", "validation").lines) == [" = validation = ", "a paragraph"]


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*arguments: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    expected = r"Salesforce/wikitext \(wikitext-2-raw-v1\) for the corpus wikitext-2 .*no route.*or pydocs, which is"
    with pytest.raises(UsageError, match=expected):
        load_corpus("wikitext-2", "train")


def test_split_words_do_not_overlap() -> None:
    words = list(corpora._SPLIT_WORDS.values())
    assert sum(map(len, words)) == len(set().union(*words))


@pytest.mark.skipif(not WIKITEXT.is_dir(), reason="the real WikiText-2 is not beside this repository")
def test_real_wikitext() -> None:
    """The published token counts are those of words and line ends."""
    corpus = load_corpus(str(WIKITEXT), "validation")
    blank = (WIKITEXT / "wiki.valid.tokens").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(corpus.lines) == 2461
    assert sum(len(line.split()) for line in corpus.lines) + len(blank) == 217_646
    assert next(iter(corpus.lines)) == " = Homarus gammarus = "


def test_the_whole_text_of_a_corpus_in_memory() -> None:
    lines = ["the cat sat", "", "on the mat"]
    with memory.given("memory:text-1", CorpusText.of("given", "train", lambda: lines)) as name:
        assert load_text(name, "validation") == "the cat sat\n\non the mat"
    with pytest.raises(UsageError, match=r"wikipedia:20231101.en is a stream, and perplexity needs a whole text"):
        load_text("wikipedia:20231101.en", "validation")
