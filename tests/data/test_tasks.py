"""Tasks: the registry, GLUE folders with their quirks, the hub path through real Parquet files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from winning_tickets.data import hub
from winning_tickets.data.glue import FILES, LAYOUTS
from winning_tickets.data.loading import load_task
from winning_tickets.data.readers import fingerprint
from winning_tickets.data.records import METRICS_OF, Split, Task, TaskData
from winning_tickets.data.tasks import TASKS, get_task
from winning_tickets.runs.errors import ContentError, UsageError

GLUE = Path(__file__).resolve().parents[3] / "shared" / "data" / "glue"
needs_glue = pytest.mark.skipif(not GLUE.is_dir(), reason="the real GLUE files are not beside this repository")

MNLI_COLUMNS = "index promptID pairID genre s1_binary s2_binary s1_parse s2_parse sentence1 sentence2 label1"
STSB_COLUMNS = "index genre filename year old_index source1 source2 sentence1 sentence2 score"
MNLI_HEADER = MNLI_COLUMNS.split()
HEADERS: dict[str, list[str] | None] = {
    "cola": None,
    "sst2": ["sentence", "label"],
    "mrpc": ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
    "stsb": STSB_COLUMNS.split(),
    "qqp": ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
    "mnli": [*MNLI_HEADER, "gold_label"],
    "qnli": ["index", "question", "sentence", "label"],
    "rte": ["index", "sentence1", "sentence2", "label"],
    "wnli": ["index", "sentence1", "sentence2", "label"],
}
GLUE_TASKS = sorted(HEADERS)
HUB: dict[str, tuple[str, str | None] | None] = {
    **{name: ("nyu-mll/glue", name) for name in GLUE_TASKS},
    "snli": ("stanfordnlp/snli", None),
    "scitail": ("allenai/scitail", "tsv_format"),
    "pydocs": None,
}
WORD_LABELS = {"mnli", "qnli", "rte"}


def made_up(task: Task, n: int = 4) -> list[tuple[tuple[str, ...], Any, str]]:
    """Rows of texts, the label as it must come out, and the label as GLUE files write it."""
    rows = []
    for index in range(n):
        texts = tuple(f'row {index} of "{column}\u2028 kept' for column in task.text_columns)
        if task.is_regression:
            rows.append((texts, index * 1.25, f"{index * 1.25:.3f}"))
        else:
            label = index % len(task.labels)
            rows.append((texts, label, task.labels[label] if task.name in WORD_LABELS else str(label)))
    return rows


def write_tsv(path: Path, task: Task, rows: list[tuple[tuple[str, ...], Any, str]]) -> None:
    """One file of a GLUE download, quirks included."""
    header, layout = HEADERS[task.name], LAYOUTS[task.name]
    names = header or list(layout.header or ())
    if task.name == "mnli" and "dev" in path.name:
        header = names = [*MNLI_HEADER, "label2", "label3", "gold_label"]
    lines = [] if header is None else ["\t".join(header)]
    for texts, _, label in rows:
        cells = dict.fromkeys(names, "x") | dict(zip(layout.texts, texts, strict=True)) | {layout.label: label}
        lines.append("\t".join(cells[name] for name in names))
    mark = "\ufeff" if task.name == "mrpc" else ""
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(mark + "\n".join(lines) + "\n", encoding="utf-8", newline="")


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    """A GLUE download of made-up rows."""
    for name in GLUE_TASKS:
        task = TASKS[name]
        for split in ("train", *task.validation_splits):
            write_tsv(tmp_path / str(task.folder) / FILES[split], task, made_up(task))
    return tmp_path


def test_the_peak_rate_of_a_task() -> None:
    """The task's own, else that of the profile; a tuned rate is never below the paper's."""
    rte, squad, pydocs = (TASKS[name] for name in ("rte", "squad", "pydocs"))
    assert [rte.peak_rate(profile, 384, 200) for profile in ("tuned", "paper", "code")] == [1e-4, 2e-5, 2e-5]
    assert rte.peak_rate("tuned", 1024, 50_000) == 2e-5
    assert [rte.peak_rate(profile, 384, 200, 0.7) for profile in ("tuned", "paper")] == [2e-4, 2e-5]
    assert [squad.peak_rate(profile, 768, 11_000) for profile in ("tuned", "paper")] == [3e-5, 3e-5]
    assert {pydocs.peak_rate(profile, width, 9) for profile in ("tuned", "paper") for width in (64, 768)} == {1e-4}


def test_registry_is_consistent() -> None:
    """Names, metrics and numbers are those of the papers."""
    assert {name: TASKS[name].hub for name in HUB} == HUB
    for name, task in TASKS.items():
        assert task.name == name
        assert set(task.metrics) <= set(METRICS_OF[task.kind])
        assert len(task.text_columns) in (1, 2)
        assert task.citation
        assert task.licence
    primary = {name: TASKS[name].metrics[0] for name in ("mnli", "sst2", "cola", "stsb", "mrpc", "rte")}
    assert primary == {
        "mnli": "accuracy",
        "sst2": "accuracy",
        "cola": "matthews",
        "stsb": "pearson",
        "mrpc": "accuracy",
        "rte": "accuracy",
    }
    on_the_hub = [TASKS[name] for name, hub_name in HUB.items() if hub_name]
    numbers = {(t.paper_rate, t.batch_size, t.max_length, t.epochs) for t in on_the_hub}
    assert numbers == {(2e-5, 32, 128, 3)}
    assert {task.name for task in TASKS.values() if task.learning_rate is not None} == {"pydocs"}
    assert {task.name for task in on_the_hub if task.eval_steps == 500} == {"mnli", "snli"}
    assert [task.name for task in on_the_hub if task.is_regression] == ["stsb"]
    assert TASKS["snli"].labels == TASKS["mnli"].labels == ("entailment", "neutral", "contradiction")
    assert TASKS["scitail"].labels == ("entails", "neutral")


def test_unknown_task_names_the_closest() -> None:
    with pytest.raises(UsageError, match=r"Unknown task 'sts-b'\. Did you mean 'stsb'.*--train-file"):
        get_task("sts-b")


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_every_folder_reads_back(glue: Path, name: str) -> None:
    """Texts come back to the character: quotes are not quotes, and U+2028 ends no line."""
    task = TASKS[name]
    data = load_task(name, glue)
    assert data.source == "folder"
    assert tuple(data.validation) == task.validation_splits
    for split in (data.train, *data.validation.values()):
        assert list(zip(*split.texts, strict=True)) == [texts for texts, _, _ in made_up(task)]
        assert split.labels == [label for _, label, _ in made_up(task)]
        assert {type(label) for label in split.labels} == {float if task.is_regression else int}


def test_folder_is_found_in_any_case_and_directly(glue: Path) -> None:
    (glue / "CoLA").rename(glue / "cola")
    fingerprints = {load_task("cola", path).fingerprint for path in (glue, str(glue), glue / "cola")}
    assert len(fingerprints) == 1


def test_fingerprint_follows_the_contents() -> None:
    task = TASKS["cola"]
    one = TaskData.of(task, Split((["a", "b"],), [0, 1]), {"validation": Split((["c"],), [0])}, "hub")
    same = TaskData.of(task, Split((["a", "b"],), [0, 1]), {"validation": Split((["c"],), [0])}, "folder")
    moved = TaskData.of(task, Split((["a"],), [0]), {"validation": Split((["b", "c"],), [1, 0])}, "hub")
    relabelled = TaskData.of(task, Split((["a", "b"],), [1, 0]), {"validation": Split((["c"],), [0])}, "hub")
    assert one.fingerprint == same.fingerprint
    assert len({one.fingerprint, moved.fingerprint, relabelled.fingerprint}) == 3
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert len(one.fingerprint) == 32


def test_missing_paths_say_what_is_there(glue: Path) -> None:
    with pytest.raises(UsageError, match="There is no folder .*nowhere; --data-dir takes a GLUE download"):
        load_task("cola", glue / "nowhere")
    for file in (glue / "CoLA").iterdir():
        file.unlink()
    (glue / "CoLA").rmdir()
    with pytest.raises(UsageError, match=r"has no folder CoLA for the task cola.*found MNLI, MRPC"):
        load_task("cola", glue)


def test_only_the_first_dev_set_of_a_task_must_be_there(glue: Path) -> None:
    whole = load_task("mnli", glue)
    (glue / "MNLI" / "dev_mismatched.tsv").unlink()
    data = load_task("mnli", glue)
    assert data.validation == {"validation_matched": whole.validation["validation_matched"]}
    assert data.task == whole.task
    assert data.fingerprint != whole.fingerprint
    (glue / "MNLI" / "dev_matched.tsv").unlink()
    with pytest.raises(UsageError, match=r"MNLI lacks dev_matched\.tsv of the task mnli; found train\.tsv"):
        load_task("mnli", glue)


def test_wrong_columns_name_found_and_expected(glue: Path) -> None:
    (glue / "SST-2" / "dev.tsv").write_text("text\tlabel\nfine\t1\n", encoding="utf-8")
    with pytest.raises(ContentError, match=r"dev\.tsv, line 2 lacks the columns sentence: found text, label, expected"):
        load_task("sst2", glue)


def test_short_rows_name_file_and_line(glue: Path) -> None:
    with (glue / "QQP" / "train.tsv").open("a", encoding="utf-8") as handle:
        handle.write("1\t2\t3\tonly a question?\n")
    with pytest.raises(ContentError, match=r"train\.tsv, line 6: found 4 columns, expected 6 .*Repair or delete"):
        load_task("qqp", glue)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        (
            "sst2",
            "fine\t2",
            r"train\.tsv, line 2: label '2' is not .* sst2; allowed: negative, positive, or 0 to 1",
        ),
        (
            "rte",
            "0\ta\tb\tmaybe",
            "line 2: label 'maybe' is not a label of rte; allowed: entailment, not_entail",
        ),
        ("stsb", "\t".join(["x"] * 9 + ["5.5"]), r"line 2: label '5\.5' is not a score from 0 to 5"),
        ("stsb", "\t".join(["x"] * 9 + ["nan"]), r"line 2: label 'nan' is not a score from 0 to 5"),
    ],
)
def test_labels_outside_the_set(glue: Path, name: str, row: str, message: str) -> None:
    path = glue / str(TASKS[name].folder) / "train.tsv"
    header = path.read_text(encoding="utf-8").split("\n")[0]
    path.write_text(f"{header}\n{row}\n", encoding="utf-8")
    with pytest.raises(ContentError, match=message):
        load_task(name, glue)


def test_unlabelled_rows_are_left_out(glue: Path) -> None:
    (glue / "SST-2" / "dev.tsv").write_text("sentence\tlabel\nsee\t-1\nkept\t1\n", encoding="utf-8")
    assert load_task("sst2", glue).validation["validation"] == Split((["kept"],), [1])
    (glue / "SST-2" / "dev.tsv").write_text("sentence\tlabel\nsee\t-1\n", encoding="utf-8")
    with pytest.raises(ContentError, match=r"dev\.tsv holds no labeled row"):
        load_task("sst2", glue)
    (glue / "SST-2" / "dev.tsv").write_text("", encoding="utf-8")
    with pytest.raises(ContentError, match=r"dev\.tsv is empty"):
        load_task("sst2", glue)


def test_pydocs_takes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pydocs is built in and reads no folder"):
        load_task("pydocs", tmp_path)


@needs_glue
@pytest.mark.parametrize(
    ("name", "train", "validation"),
    # The published MRPC has 3,668 training rows; the copy beside this repository has one fewer.
    [
        ("cola", 8551, 1043),
        ("sst2", 67349, 872),
        ("mrpc", 3667, 408),
        ("rte", 2490, 277),
        ("stsb", 5749, 1500),
    ],
)
def test_real_row_counts(name: str, train: int, validation: int) -> None:
    data = load_task(name, GLUE)
    assert (len(data.train), len(data.validation["validation"])) == (train, validation)
    assert all(text.strip() for split in (data.train, data.validation["validation"]) for text in split.texts[0])


@needs_glue
def test_real_quirks() -> None:
    """What a reader that honours quotes, or takes CoLA's first row as a header, would get wrong."""
    mrpc = load_task("mrpc", GLUE)
    assert mrpc.train.texts[0][0].startswith('Amrozi accused his brother , whom he called " the witness "')
    assert mrpc.validation["validation"].texts[1][0].startswith('" The foodservice pie business does not')
    cola = load_task("cola", GLUE)
    assert cola.train.texts[0][0] == "Our friends won't buy this analysis, let alone the next one we propose."
    assert load_task("stsb", GLUE).train.labels[:3] == [5.0, 3.8, 3.8]
    assert load_task("rte", GLUE).train.labels[:3] == [1, 0, 0]


@pytest.fixture
def parquet_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of Parquet files with exactly the hub's columns, read by the same load_dataset call."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path


def write_parquet(folder: Path, task: Task, drop: str | None = None) -> Task:
    """Made-up rows as hub files; returns the task with its hub id pointing there."""
    import datasets

    (folder / "data").mkdir(parents=True)
    for split in ("train", *task.validation_splits, "test"):
        rows = made_up(task)
        columns: dict[str, list[Any]] = {
            name: [texts[index] for texts, _, _ in rows] for index, name in enumerate(task.text_columns)
        }
        columns["label"] = [value for _, value, _ in rows] if split != "test" else [-1] * len(rows)
        columns["idx"] = list(range(len(rows)))
        if split == "train":
            columns["label"][-1] = -1.0 if task.is_regression else -1
        columns.pop(drop or "", None)
        datasets.Dataset.from_dict(columns).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return dataclasses.replace(task, hub=(str(folder), None))


@pytest.mark.parametrize("name", ["cola", "stsb", "qqp", "mnli", "qnli"])
def test_hub_columns(parquet_hub: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    task = write_parquet(parquet_hub / name, TASKS[name])
    monkeypatch.setitem(TASKS, name, task)
    data = load_task(name)
    rows = made_up(task)
    assert data.source == "hub"
    assert tuple(data.validation) == task.validation_splits
    assert list(zip(*data.train.texts, strict=True)) == [texts for texts, _, _ in rows[:-1]]
    assert data.train.labels == [label for _, label, _ in rows[:-1]]
    for split in data.validation.values():
        assert split.labels == [label for _, label, _ in rows]


def test_hub_content_errors(parquet_hub: Path) -> None:
    lacking = write_parquet(parquet_hub / "lacking", TASKS["mrpc"], drop="sentence2")
    with pytest.raises(ContentError, match="split 'train' lacks the columns sentence2: found sentence1, label, idx"):
        hub.read_hub(lacking)
    other = dataclasses.replace(lacking, text_columns=("sentence1",), validation_splits=("validation_matched",))
    with pytest.raises(ContentError, match="has no split 'validation_matched'; found train, validation, test"):
        hub.read_hub(other)


@pytest.mark.parametrize("failure", [ConnectionError("no route"), FileNotFoundError("gone"), ValueError("no config")])
def test_hub_failures_name_the_way_out(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    import datasets

    def fail(*arguments: Any) -> None:
        assert arguments == ("nyu-mll/glue", "cola")
        raise failure

    monkeypatch.setattr(datasets, "load_dataset", fail)
    expected = rf"Could not load the data set nyu-mll/glue \(cola\) for the task cola .*{failure}.*--data-dir .*CoLA/"
    with pytest.raises(UsageError, match=expected):
        load_task("cola")
