"""Hub data sets and local copies of their repositories, through the real load_dataset call; official releases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from samples.tiny_models import make_model
from winning_tickets.cli import app
from winning_tickets.data import corpora, hub
from winning_tickets.data.loading import load_task
from winning_tickets.data.records import Split
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import ContentError, UsageError

NLI = ("entailment", "neutral", "contradiction")
SNLI_ROWS = [("p one", "h one", 2), ("p two", "h two", -1), ("p three", "h three", 0), ("p four", "h four", 1)]
SCITAIL_ROWS = [('the "premise"', "h one", "neutral"), ("p two", "h two", "entails"), ("p three", "h three", "neutral")]


@pytest.fixture(autouse=True)
def _own_datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def put(path: Path, rows: list[tuple[Any, ...]], names: tuple[str, ...], classes: tuple[str, ...] = ()) -> None:
    """One Parquet file, with the hub's features where the label is a class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[index] for row in rows] for index, name in enumerate(names)}
    made = datasets.Dataset.from_dict(columns)
    if classes:
        made = made.cast_column("label", datasets.ClassLabel(names=list(classes)))
    made.to_parquet(path)


def snli(root: Path) -> Path:
    """A copy of stanfordnlp/snli."""
    for split, rows in {"train": SNLI_ROWS, "validation": SNLI_ROWS[:3], "test": SNLI_ROWS[1:2]}.items():
        path = root / "plain_text" / f"{split}-00000-of-00001.parquet"
        put(path, rows, ("premise", "hypothesis", "label"), NLI)
    return root


def scitail(root: Path) -> Path:
    """A copy of allenai/scitail, which has other configurations beside the one we read."""
    for folder in ("snli_format", "tsv_format"):
        for split, rows in {"train": SCITAIL_ROWS, "validation": SCITAIL_ROWS[:2], "test": SCITAIL_ROWS[:1]}.items():
            names = ("premise", "hypothesis", "label") if folder == "tsv_format" else ("sentence1", "x", "gold_label")
            put(root / folder / f"{split}-00000-of-00001.parquet", rows, names)
    return root


def glue(root: Path) -> Path:
    """A copy of nyu-mll/glue with three of its tasks; the training set of CoLA in two shards."""
    names = ("sentence", "label", "idx")
    put(root / "cola" / "train-00001-of-00002.parquet", [("c", 1, 2)], names)
    put(root / "cola" / "train-00000-of-00002.parquet", [("a", 0, 0), ("b", 1, 1)], names)
    put(root / "cola" / "validation-00000-of-00001.parquet", [("d", 1, 0)], names)
    put(root / "cola" / "test-00000-of-00001.parquet", [("never", -1, 0)], names)
    names = ("premise", "hypothesis", "label", "idx")
    splits = {"train": 0, "validation_matched": 1, "validation_mismatched": 2, "test_matched": -1}
    for split, label in splits.items():
        put(root / "mnli" / f"{split}-00000-of-00001.parquet", [(split, "h", label, 0)], names, NLI)
    names = ("sentence1", "sentence2", "label", "idx")
    for split, score in {"train": 2.25, "validation": 5.0, "test": -1.0}.items():
        put(root / "stsb" / f"{split}-00000-of-00001.parquet", [(split, "b", score, 0)], names)
    return root


def test_snli_leaves_out_rows_without_a_gold_label_and_counts_them(tmp_path: Path) -> None:
    data = load_task("snli", snli(tmp_path / "copy"))
    assert data.train == Split((["p one", "p three", "p four"], ["h one", "h three", "h four"]), [2, 0, 1])
    assert data.validation == {"validation": Split((["p one", "p three"], ["h one", "h three"]), [2, 0])}
    assert data.unlabelled == {"train": 1, "validation": 1}
    assert data.source == "folder"
    assert load_task("snli", tmp_path / "copy" / "plain_text").fingerprint == data.fingerprint


def test_scitail_has_labels_in_words(tmp_path: Path) -> None:
    data = load_task("scitail", scitail(tmp_path / "copy"))
    assert data.train == Split((['the "premise"', "p two", "p three"], ["h one", "h two", "h three"]), [1, 0, 1])
    assert data.validation["validation"].labels == [1, 0]
    assert data.unlabelled == {"train": 0, "validation": 0}


def test_a_copy_of_glue(tmp_path: Path) -> None:
    """Shards in order; matched and mismatched apart; a test split, whose labels are -1, is never read."""
    root = glue(tmp_path / "glue")
    cola = load_task("cola", root)
    assert cola.train == Split((["a", "b", "c"],), [0, 1, 1])
    assert cola.validation == {"validation": Split((["d"],), [1])}
    assert load_task("cola", root / "cola").fingerprint == cola.fingerprint
    mnli = load_task("mnli", root)
    assert (mnli.train.texts[0], mnli.train.labels) == (["train"], [0])
    assert {name: (split.texts[0], split.labels) for name, split in mnli.validation.items()} == {
        "validation_matched": (["validation_matched"], [1]),
        "validation_mismatched": (["validation_mismatched"], [2]),
    }
    stsb = load_task("stsb", root)
    assert (stsb.train.labels, stsb.validation["validation"].labels) == ([2.25], [5.0])


@pytest.mark.parametrize("name", ["snli", "scitail"])
def test_hub_copy_and_release_are_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    root = {"snli": snli, "scitail": scitail}[name](tmp_path / "copy")
    release = tmp_path / "release"
    release.mkdir()
    if name == "snli":
        for split, rows in {"train": SNLI_ROWS, "dev": SNLI_ROWS[:3]}.items():
            objects = [
                {"annotator_labels": [], "gold_label": "-" if label < 0 else NLI[label], "sentence1": a, "sentence2": b}
                for a, b, label in rows
            ]
            (release / f"snli_1.0_{split}.jsonl").write_text("\n".join(map(json.dumps, objects)) + "\n")
    else:
        for split, rows in {"train": SCITAIL_ROWS, "dev": SCITAIL_ROWS[:2]}.items():
            (release / f"scitail_1.0_{split}.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    called = []
    original = datasets.load_dataset

    def from_copy(*arguments: Any) -> Any:
        called.append(arguments)
        return original(str(root / ("plain_text" if name == "snli" else "tsv_format")))

    monkeypatch.setattr(datasets, "load_dataset", from_copy)
    remote = load_task(name)
    monkeypatch.undo()
    assert called == [TASKS[name].hub]
    local, published = load_task(name, root), load_task(name, release)
    assert (remote.source, local.source, published.source) == ("hub", "folder", "folder")
    assert remote.fingerprint == local.fingerprint == published.fingerprint
    assert remote.unlabelled == local.unlabelled == published.unlabelled
    folder = tmp_path / "above" / str(TASKS[name].folder)
    folder.parent.mkdir()
    release.rename(folder)
    assert load_task(name, folder.parent).fingerprint == published.fingerprint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"snli_1\.0_train\.jsonl, line 1: not valid JSON"),
        (
            '{"gold_label": "neutral", "sentence1": "a"}',
            r"line 1 lacks the columns sentence2: found gold_label, sentence1, expected sent",
        ),
        ('{"gold_label": "both", "sentence1": "a", "sentence2": "b"}', "line 1: label 'both' is not a label of snli"),
        ('{"gold_label": "-", "sentence1": "a", "sentence2": "b"}', "train.jsonl holds no labeled row"),
    ],
)
def test_damaged_releases(tmp_path: Path, line: str, message: str) -> None:
    for split in ("train", "dev"):
        (tmp_path / f"snli_1.0_{split}.jsonl").write_text(line + "\n")
    with pytest.raises(ContentError, match=message):
        load_task("snli", tmp_path)


def test_a_copy_that_lacks_a_split_or_is_something_else(tmp_path: Path) -> None:
    root = glue(tmp_path / "glue")
    (root / "mnli" / "validation_mismatched-00000-of-00001.parquet").unlink()
    assert list(load_task("mnli", root).validation) == ["validation_matched"]  # one dev set is enough
    (root / "mnli" / "validation_matched-00000-of-00001.parquet").unlink()
    message = r"mnli lacks validation_matched-\*\.parquet; found test_matched-00000-of-00001\.parquet, train-"
    with pytest.raises(UsageError, match=message):
        load_task("mnli", root)
    message = (
        r"glue has no folder RTE for the task rte, and no train\.tsv or Parquet files of its own; found cola, mnli"
    )
    with pytest.raises(UsageError, match=message):
        load_task("rte", root)
    with pytest.raises(
        UsageError, match=r"has no folder snli_1\.0 for the task snli, and no snli_1\.0_train\.jsonl or"
    ):
        load_task("snli", root)


def test_damaged_copies(tmp_path: Path) -> None:
    root = snli(tmp_path / "pointers")
    path = root / "plain_text" / "train-00000-of-00001.parquet"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ContentError, match=r"Could not read the Parquet files in .*plain_text: .*git lfs pull"):
        load_task("snli", root)
    names = ("premise", "hypothesis", "label")
    for index, (rows, message) in enumerate(
        {
            (("a", "b", 1), ("a", None, 1)): r"split 'train', row 1: column 'hypothesis' must be a text, found None",
            (("a", "b", 3),): "row 0: label 3 is not a label of snli; allowed: .*contradiction, or 0 to 2",
            (("a", "b", -1),): r"plain_text, split 'train' holds no labeled row",
        }.items()
    ):
        other = snli(tmp_path / f"copy-{index}")
        put(other / "plain_text" / "train-00000-of-00001.parquet", list(rows), names)
        with pytest.raises(ContentError, match=message):
            load_task("snli", other)
    other = scitail(tmp_path / "words")
    put(other / "tsv_format" / "train-00000-of-00001.parquet", [("a", "b", "maybe")], names)
    with pytest.raises(
        ContentError, match=r"label 'maybe' is not a label of scitail; allowed: entails, neutral, or 0 to 1"
    ):
        load_task("scitail", other)


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("mnli", r"--data-dir takes a GLUE download \(a folder with MNLI/ in it\) too"),
        ("snli", r"--data-dir takes the official release \(a folder with snli_1\.0_train\.jsonl in it\) too"),
        ("scitail", r"the official release \(a folder with scitail_1\.0_train\.tsv in it\) too"),
    ],
)
def test_offline_and_not_in_the_cache(monkeypatch: pytest.MonkeyPatch, name: str, release: str) -> None:
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = str((TASKS[name].hub or ("",))[0])
    message = (
        rf"Could not load the data set {repository}.* for the task {name} from the Hugging Face hub: .*"
        rf"run: hf download {repository} --repo-type dataset --local-dir DIR, and give --data-dir DIR\. .*{release}"
    )
    with pytest.raises(UsageError, match=message):
        load_task(name)


def test_wikitext(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the hub's own names too, and from a copy of the repository, with several shards."""
    root = tmp_path / "wikitext"
    folder = root / "wikitext-103-raw-v1"
    put(folder / "train-00000-of-00002.parquet", [("",), (" = Title = \n",)], ("text",))
    put(folder / "train-00001-of-00002.parquet", [(" words \n",)], ("text",))
    put(folder / "validation-00000-of-00001.parquet", [(" others \n",)], ("text",))
    for spec in ("wikitext-103", "wikitext-103-raw-v1"):
        assert list(corpora.load_corpus(spec, "train", root).lines) == [" = Title = ", " words "]
        assert list(corpora.load_corpus(spec, "validation", folder).lines) == [" others "]
    with pytest.raises(
        UsageError, match=r"has no wikitext-2-raw-v1/train-\*\.parquet for the corpus wikitext-2; --data"
    ):
        corpora.load_corpus("wikitext-2", "train", root)
    called = []
    monkeypatch.setattr(hub, "load_hub", lambda *arguments: called.append(arguments[:2]) or {})
    for spec in ("wikitext-103", "wikitext-103-raw-v1", "wikitext-2", "wikitext-2-raw-v1"):
        with pytest.raises(ContentError, match="has no column 'text' in a split 'train'"):
            corpora.load_corpus(spec, "train")
    name = "Salesforce/wikitext"
    assert called == [(name, "wikitext-103-raw-v1")] * 2 + [(name, "wikitext-2-raw-v1")] * 2


def test_a_transfer_from_a_copy_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many as there are labelled examples can be asked for, and no more."""
    model = str(make_model(tmp_path / "model", head="mlm+pooler"))
    words = ["transfer", model, "--task", "snli", "--data-dir", str(snli(tmp_path / "copy")), "--steps", "1", "--quiet"]
    app([*words, "--train-size", "3", "--out", str(tmp_path / "run")], standalone_mode=False)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["unlabelled_examples"] == {"train": 1, "validation": 1}
    assert (result["train_examples"], result["validation_examples"]) == (3, {"validation": 2})
    settings = {"learning_rate": 3e-4, "batch_size": 32, "max_length": 128, "eval_steps": 500}
    assert {name: result[name] for name in settings} == settings
    assert "rows without a label, left out: 1 of train, 1 of validation" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--train-size 4 asks for more than the 3 training examples there are"):
        app([*words, "--train-size", "4", "--out", str(tmp_path / "other")], standalone_mode=False)
    assert not (tmp_path / "other").exists()
