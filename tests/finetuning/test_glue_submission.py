"""Files for the GLUE server: names, numbers, words and scores as it wants them, and what is missing is said."""

import csv
import json
import re

import pytest
import torch
from typer.testing import CliRunner

from samples.tiny_models import TEXT, make_model
from winning_tickets.cli import app
from winning_tickets.data.glue import SERVER_FILES, read_tests
from winning_tickets.data.tasks import TASKS
from winning_tickets.finetuning.glue_submission import ALL_FILES, glue_submission
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.training.predict import predict
from winning_tickets.training.saved_model import TaskInfo, save_folder

HEADERS = {
    "cola": ("index", "sentence"),
    "sst2": ("index", "sentence"),
    "mrpc": ("index", "#1 ID", "#2 ID", "#1 String", "#2 String"),
    "stsb": ("index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2"),
    "qqp": ("id", "question1", "question2"),
    "mnli": ("index", "promptID", "pairID", "genre", "sentence1", "sentence2"),
    "qnli": ("index", "question", "sentence"),
    "rte": ("index", "sentence1", "sentence2"),
    "wnli": ("index", "sentence1", "sentence2"),
}
"""Of the test files as the download has them."""


def put_tests(folder, name, count=6):
    """Made-up test files of a task."""
    task, header = TASKS[name], HEADERS[name]
    for number, file in enumerate(SERVER_FILES[name].values()):
        rows = [header, *([str(i), *["x"] * (len(header) - 1)] for i in range(count))]
        for i, row in enumerate(rows[1:]):
            for column in range(1, 1 + len(task.text_columns)):
                row[-column] = TEXT[(i + column + number) % 6]
        path = folder / str(task.folder) / file
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("".join("\t".join(row) + "\n" for row in rows))


@pytest.fixture
def save(tmp_path):
    """Saves a tiny model with a head of a task, as a transfer does."""
    make_model(tmp_path / "base", head="none")

    def make(name, labels=None, called=None, bias=None):
        task = TASKS[name]
        torch.manual_seed(0)
        labels = task.labels if labels is None else labels
        plm = load_plm(str(tmp_path / "base"), head="classification", num_labels=len(labels) or 1)
        plm.model.config.id2label = dict(enumerate(labels)) if labels else plm.model.config.id2label
        texts = [[TEXT[i] for i in range(6)], [TEXT[(i + 1) % 6] for i in range(6)]][: len(task.text_columns)]
        with torch.no_grad():
            logits = plm.model.eval()(**plm.tokenizer(*texts, padding=True, return_tensors="pt")).logits
            plm.model.classifier.bias.sub_(logits.mean(0))  # predictions of several classes
            if bias is not None:
                plm.model.classifier.bias.fill_(bias)
        folder = tmp_path / (called or name)
        save_folder(plm.model, plm.tokenizer, folder)
        TaskInfo(called or name, task.text_columns, tuple(labels), 32, None, 0.0, task.kind, None).write(folder)
        return folder

    return make


def table(path):
    with path.open(newline="") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_every_task_in_one_submission(tmp_path, save):
    runs = []
    for name in SERVER_FILES:
        put_tests(tmp_path / "glue", name)
        runs.append(save(name))
    (tmp_path / "glue" / "diagnostic").mkdir()
    (tmp_path / "glue" / "diagnostic" / "diagnostic.tsv").write_text(f"index\tsentence1\tsentence2\n0\t{TEXT[0]}\tno\n")
    result = glue_submission(runs, tmp_path / "glue", tmp_path / "out")
    assert (result["missing"], result["notes"]) == ([], [])
    names = {"CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI", "AX"}
    assert {path.stem for path in (tmp_path / "out").glob("*.tsv")} == names == set(ALL_FILES)
    for name in names:
        header, *rows = table(tmp_path / "out" / f"{name}.tsv")
        assert header == ["index", "prediction"]
        assert [int(index) for index, _ in rows] == list(range(1 if name == "AX" else 6))
        told = {value for _, value in rows}
        if name == "STS-B":
            assert all(re.fullmatch(r"[0-5]\.\d{3}", value) and float(value) <= 5 for value in told)
        elif name in ("MNLI-m", "MNLI-mm", "AX"):
            assert told <= {"entailment", "neutral", "contradiction"}
        elif name in ("RTE", "QNLI"):
            assert told <= {"entailment", "not_entailment"}
        else:
            assert told <= {"0", "1"}
        assert result["files"][f"{name}.tsv"]["rows"] == len(rows)


def test_predictions_are_those_of_predict(tmp_path, save):
    put_tests(tmp_path / "glue", "rte")
    put_tests(tmp_path / "glue", "cola")
    runs = [save("rte"), save("cola")]
    glue_submission(runs, tmp_path / "glue", tmp_path / "out")
    for run, name, file in zip(runs, ("rte", "cola"), ("RTE", "CoLA"), strict=True):
        test = read_tests(TASKS[name], tmp_path / "glue")[file]
        expected = [item["label"] for item in predict(run, list(zip(*test.texts, strict=True)))["predictions"]]
        if name == "cola":
            expected = [str(TASKS["cola"].labels.index(label)) for label in expected]
        assert len(set(expected)) == 2
        assert [value for _, value in table(tmp_path / "out" / f"{file}.tsv")[1:]] == expected


def test_rows_come_in_the_order_of_their_index(tmp_path, save):
    folder = tmp_path / "glue" / "RTE"
    folder.mkdir(parents=True)
    rows = {2: TEXT[2], 0: TEXT[0], 10: TEXT[4], 1: TEXT[1]}
    (folder / "test.tsv").write_text(
        "index\tsentence1\tsentence2\n" + "".join(f"{i}\t{text}\tshe\n" for i, text in rows.items())
    )
    run = save("rte")
    glue_submission([run], tmp_path / "glue", tmp_path / "out")
    found = table(tmp_path / "out" / "RTE.tsv")[1:]
    assert [index for index, _ in found] == ["0", "1", "2", "10"]
    told = predict(run, [(rows[int(index)], "she") for index, _ in found])["predictions"]
    assert [value for _, value in found] == [item["label"] for item in told]


@pytest.mark.parametrize(("bias", "expected"), [(100.0, "5.000"), (-100.0, "0.000")])
def test_scores_stay_between_0_and_5(tmp_path, save, bias, expected):
    put_tests(tmp_path / "glue", "stsb")
    glue_submission([save("stsb", bias=bias)], tmp_path / "glue", tmp_path / "out")
    assert {value for _, value in table(tmp_path / "out" / "STS-B.tsv")[1:]} == {expected}


def test_labels_of_a_task_file(tmp_path, save):
    """Another order of classes, the name `sst` of SST-2, and classes that have numbers for names."""
    for name in ("mnli", "rte", "sst2"):
        put_tests(tmp_path / "glue", name)
    turned = save("rte", ("not_entailment", "entailment"))
    glue_submission([turned], tmp_path / "glue", tmp_path / "one")
    usual = save("rte")
    glue_submission([usual], tmp_path / "glue", tmp_path / "two")
    swap = {"entailment": "not_entailment", "not_entailment": "entailment"}
    one, two = (table(tmp_path / out / "RTE.tsv")[1:] for out in ("one", "two"))
    assert [swap[value] for _, value in one] == [value for _, value in two]

    numbered = save("sst2", ("0", "1"), called="sst")
    result = glue_submission([numbered], tmp_path / "glue", tmp_path / "three")
    assert {value for _, value in table(tmp_path / "three" / "SST-2.tsv")[1:]} <= {"0", "1"}
    assert result["files"]["SST-2.tsv"]["task"] == "sst2"
    message = "has the labels 0, 1, and rte of GLUE has entailment, not_entailment; name them in the task file"
    with pytest.raises(ContentError, match=message):
        glue_submission([save("rte", ("0", "1"))], tmp_path / "glue", tmp_path / "four")


def test_what_is_missing_is_said(tmp_path, save):
    put_tests(tmp_path / "glue", "mnli")
    run = save("mnli")
    result = glue_submission([run], tmp_path / "glue", tmp_path / "out")
    assert list(result["files"]) == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    assert result["missing"] == [f"{name}.tsv" for name in ALL_FILES if not name.startswith("MNLI")]
    assert result["notes"] == [
        "The diagnostic set (AX, diagnostic/diagnostic.tsv) is not in --data-dir, so AX.tsv was not written."
    ]


def test_the_contract_of_out(tmp_path, save):
    put_tests(tmp_path / "glue", "cola")
    put_tests(tmp_path / "glue", "rte")
    run, other = save("cola"), save("rte")
    first = glue_submission([run], tmp_path / "glue", tmp_path / "out")
    assert glue_submission([run], tmp_path / "glue", tmp_path / "out") == first
    with pytest.raises(UsageError, match=r"holds another run \(glue-submission"):
        glue_submission([other], tmp_path / "glue", tmp_path / "out")
    glue_submission([other], tmp_path / "glue", tmp_path / "out", force=True)
    assert [path.name for path in (tmp_path / "out").glob("*.tsv")] == ["RTE.tsv"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UsageError, match="it was left untouched"):
        glue_submission([run], tmp_path / "glue", tmp_path / "mine", force=True)


def test_refusals(tmp_path, save, shared_data):
    put_tests(tmp_path / "glue", "cola")
    run = save("cola")
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"cola and .*cola are both runs of cola; give one run per task"):
        glue_submission([run, run], tmp_path / "glue", out)
    with pytest.raises(
        UsageError, match=r"has no test.tsv, the test set of the task cola. The download of GLUE has it"
    ):
        glue_submission([run], shared_data / "glue", out)
    with pytest.raises(UsageError, match=r"glue.RTE has no test.tsv, the test set of the task rte"):
        glue_submission([save("rte")], tmp_path / "glue", out)
    with pytest.raises(UsageError, match="There is no folder"):
        glue_submission([run], tmp_path / "nowhere", out)
    with pytest.raises(UsageError, match="is a run of mine, not a task of the GLUE server: cola, sst2"):
        glue_submission([save("cola", called="mine")], tmp_path / "glue", out)
    info = TaskInfo.read(run)
    (run / "task.json").write_text(json.dumps({**info.__dict__, "text_columns": ["a", "b"]}))
    with pytest.raises(
        ContentError, match=r"predicts classification of 2 text\(s\), and cola of GLUE is classification"
    ):
        glue_submission([run], tmp_path / "glue", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "test.tsv is empty"),
        ("index\tsentence\n", "test.tsv is empty: it holds no example"),
        ("index\ttext\n0\ta\n", "test.tsv, line 2 lacks the columns sentence: found index, text"),
        ("sentence\na\n", "test.tsv, line 2 lacks the columns index"),
        ("index\tsentence\n0\ta\tb\n", "test.tsv, line 2: found 3 columns, expected 2"),
        ("index\tsentence\nzero\ta\n", "test.tsv, line 2: index must be a whole number, found 'zero'"),
        ("index\tsentence\n0\ta\n0\tb\n", "test.tsv: the column index has a number twice"),
    ],
)
def test_test_files_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "CoLA").mkdir()
    (tmp_path / "CoLA" / "test.tsv").write_text(content)
    with pytest.raises(ContentError, match=re.escape(message)):
        read_tests(TASKS["cola"], tmp_path)


def test_a_task_s_own_folder_will_do(tmp_path):
    put_tests(tmp_path, "rte")
    assert read_tests(TASKS["rte"], tmp_path / "RTE") == read_tests(TASKS["rte"], tmp_path)


def test_command_line(tmp_path, save):
    put_tests(tmp_path / "glue", "rte")
    run = str(save("rte"))
    out = str(tmp_path / "out")
    words = ["predict", run, "--glue-submission", out, "--data-dir", str(tmp_path / "glue")]
    told = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert json.loads(told.stdout)["files"]["RTE.tsv"]["rows"] == 6
    told = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "RTE.tsv: 6 predictions of" in told.stdout
    assert "The GLUE server wants these too: CoLA.tsv, SST-2.tsv" in told.stdout
    for wrong, message in (
        ([*words, "--text", "x"], "leave --text and --input out"),
        ([*words, "--text-pair", "x"], "leave --text and --input out"),
        ([*words, "--input", "x.csv"], "leave --text and --input out"),
        (words[:4], "--glue-submission needs --data-dir"),
        (["predict", run], "There is nothing to label: give --text, --input FILE, or --glue-submission DIR."),
        (
            ["predict", run, run, "--text", "x"],
            "Texts are labeled by one run, found 2. Several need --glue-submission.",
        ),
        (
            ["predict", run, "--text", "x", "--data-dir", "y"],
            "--data-dir and --force need --glue-submission; --force goes with --input",
        ),
        (["predict", run, "--text", "x", "--force"], "--data-dir and --force need --glue-submission"),
    ):
        with pytest.raises(UsageError, match=message):
            CliRunner().invoke(app, wrong, catch_exceptions=False)
