"""Files of one's own from the training to the labels of new rows, as a user types the commands."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import shutil
from pathlib import Path

import pytest

from samples.tiny_models import TEXT, make_model

LABELS = ("bug", "praise", "question")
SHORT = ("--steps", "3", "--learning-rate", "1e-3", "--quiet")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model, and CSV files with an umlaut, a line break and a row without a label."""
    folder = tmp_path_factory.mktemp("own")
    make_model(folder / "bert", head="mlm+pooler")
    rows = [(TEXT[i % 6], LABELS[i % 3]) for i in range(24)]
    rows[1] = ("a line\nand another", "praise")
    rows[4] = (TEXT[4], "")
    for name, some in {"train": rows, "dev": [(f"{text} again", label) for text, label in rows[6:18]]}.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("body", "category"), *some])
    (folder / "new.csv").write_text('id,body\n7,"the Rückgabe, please"\n8,"two\nlines"\n9,a cat sat\n')
    return folder


@pytest.fixture
def tickets(tickets, monkeypatch, place):
    """Run a command line in the folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(place)
    return tickets


FILES = ("--train-file", "train.csv", "--validation-file", "dev.csv", "--text-columns", "body")
FILES += ("--label-column", "category")


@pytest.fixture
def trained(tickets, place) -> Path:
    """A fine-tuned run, made once."""
    words = ("transfer", "bert", *FILES, "--drop-unlabelled", "--metric", "macro_f1", "--task-name", "support")
    code, _, err = tickets(*words, *SHORT, "--save-model", "--out", "run", "--json")
    assert (code, err) == (0, "")
    return place / "run"


def test_classes_confusion_and_rows_left_out(tickets, trained):
    result = json.loads((trained / "result.json").read_text())
    assert (result["task"], result["primary_metric"], result["labels"]) == ("support", "macro_f1", list(LABELS))
    assert result["unlabelled_examples"] == {"train": 1, "validation": 0}
    table = result["confusion"]["validation"]
    assert [sum(row) for row in table] == [4, 4, 4]
    scores = result["classes"]["validation"]
    assert scores["bug"]["examples"] == 4
    mean = sum(one["f1"] for one in scores.values()) / 3
    assert result["metrics"]["macro_f1"]["final"]["mean"] == pytest.approx(mean)
    words = ("transfer", "bert", *FILES, "--drop-unlabelled", "--metric", "macro_f1", "--task-name", "support")
    _, out, _ = tickets(*words, *SHORT, "--save-model", "--out", "run")
    assert "rows without a label, left out: 1 of train" in out
    assert any(line.split()[:2] == ["2", "praise"] for line in out.splitlines())


def test_a_model_that_learned_nothing_comes_with_advice(tickets):
    words = ("transfer", "bert", *FILES, "--drop-unlabelled", "--steps", "1", "--learning-rate", "1e-9", "--quiet")
    _, out, _ = tickets(*words, "--out", "flat")
    assert "Warning: With seed 0 the final model is no better than one answer for all examples" in out
    assert "the most frequent class alone has an accuracy of 33.3%" in out
    assert "--learning-rate" in out


def test_a_missing_label_is_refused_with_its_line(tickets, place):
    code, out, err = tickets("transfer", "bert", *FILES, *SHORT, "--out", "refused")
    assert (code, out) == (1, "")
    assert "train.csv, line 7: column 'category'" in err
    assert "--drop-unlabelled" in err
    assert not (place / "refused").exists()


def test_every_row_of_a_file_is_labeled(tickets, trained, place):
    code, out, err = tickets("predict", "run", "--input", "new.csv", "--out", "p.csv", "--probabilities", "--quiet")
    assert (code, err) == (0, "")
    assert out.startswith("3 rows of new.csv labeled in p.csv: ")
    rows = list(csv.DictReader(io.StringIO((place / "p.csv").read_text(), newline="")))
    assert [row["id"] for row in rows] == ["7", "8", "9"]
    assert rows[0]["body"] == "the Rückgabe, please"
    assert rows[1]["body"] == "two\nlines"
    assert list(rows[0])[2:] == ["prediction", "probability", *(f"p({label})" for label in LABELS)]
    # The same as the labels of single texts.
    texts = [word for row in rows for word in ("--text", row["body"])]
    single = json.loads(tickets("predict", "run", *texts, "--json")[1])["predictions"]
    assert [row["prediction"] for row in rows] == [item["label"] for item in single]
    assert [float(row["probability"]) for row in rows] == pytest.approx(
        [max(item["scores"].values()) for item in single], abs=1e-4
    )
    # Other formats and other names of the columns.
    (place / "other.jsonl").write_text('{"n": 1, "words": "a cat sat"}\n{"n": 2, "words": "a dog"}\n')
    words = ("predict", "run", "--input", "other.jsonl", "--text-columns", "words", "--quiet")
    assert tickets(*words, "--out", "p.tsv")[0] == 0
    assert (place / "p.tsv").read_text().splitlines()[0] == "n\twords\tprediction\tprobability"
    assert tickets(*words, "--out", "p.jsonl")[0] == 0
    first = json.loads((place / "p.jsonl").read_text().splitlines()[0])
    assert (first["n"], list(first)[2:]) == (1, ["prediction", "probability"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("run", "--input", "nowhere.csv", "--out", "x.csv"), 2, "There is no file nowhere.csv"),
        (("run", "--input", "new.csv"), 2, "--input new.csv needs --out"),
        (("run", "new.csv"), 2, "Did you mean --input new.csv?"),
        (("run", "--out", "x.csv", "--text", "a"), 2, "--out needs --input"),
        (("run", "--input", "new.csv", "--text", "a", "--out", "x.csv"), 2, "exclude each other"),
        (("run", "--input", "new.csv", "--out", "new.csv"), 2, "is there already"),
        (("run", "--input", "new.csv", "--out", "x.xlsx"), 2, "none of the suffixes .csv, .tsv, .jsonl"),
        (("run", "--input", "new.csv", "--out", "x.csv", "--text-columns", "txt"), 2, "lacks the columns txt"),
        (("run", "--input", "new.csv", "--out", "x.csv", "--text-columns", "id,body"), 2, "names 2 column(s)"),
        (("run", "--input", "new.csv", "--out", "x.tsv"), 1, "which a tsv cannot"),
        (("run", "--input", "blank.csv", "--out", "x.csv"), 1, "blank.csv, line 3: column 'body' must be a text"),
    ],
)
def test_mistakes_of_files(tickets, trained, place, words, code, message):
    (place / "blank.csv").write_text("body,id\na,1\n ,2\n")
    found, out, err = tickets("predict", *words)
    assert (found, out) == (code, ""), err
    assert message in err
    assert not (place / "x.csv").exists()
    assert not (place / "x.tsv").exists()


def test_exports_label_as_the_run_does(tickets, trained, place):
    tickets("predict", "run", "--input", "new.csv", "--out", "by-run.jsonl", "--force", "--quiet")
    expected = [json.loads(line) for line in (place / "by-run.jsonl").read_text().splitlines()]
    formats = ["masked"] + (["onnx"] if importlib.util.find_spec("onnxscript") else [])
    for name in formats:
        code, _, err = tickets("export", "run", "--format", name, "--out", f"as-{name}")
        assert code == 0, err
        code, _, err = tickets("predict", f"as-{name}", "--input", "new.csv", "--out", f"{name}.jsonl", "--quiet")
        assert (code, err) == (0, "")
        rows = [json.loads(line) for line in (place / f"{name}.jsonl").read_text().splitlines()]
        assert [row["prediction"] for row in rows] == [row["prediction"] for row in expected]
        assert [row["probability"] for row in rows] == pytest.approx([row["probability"] for row in expected], abs=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime")
def test_an_onnx_folder_is_no_model_to_train_and_a_damaged_one_is_named(tickets, place):
    folder = place / "as-onnx"
    if not folder.exists():
        pytest.skip("the export was not made")
    code, _, err = tickets("transfer", "as-onnx", *FILES, "--drop-unlabelled", *SHORT, "--out", "never")
    assert code == 2
    assert "is an ONNX export, without weights for PyTorch" in err
    (folder / "model.onnx").write_bytes(b"no onnx")
    code, _, err = tickets("predict", "as-onnx", "--text", "a cat")
    assert code == 1
    assert "onnxruntime cannot read" in err


def test_two_files_are_two_tasks_in_averages(tickets, trained):
    words = ("transfer", "bert", *FILES, "--drop-unlabelled", *SHORT)
    for name in ("first", "second"):
        assert tickets(*words, "--task-name", name, "--out", name)[0] == 0
    code, out, err = tickets("analyse", "average", "first", "second", "--json")
    assert (code, list(json.loads(out)["tasks"])) == (0, ["first", "second"]), err
    for name in ("a", "b"):
        assert tickets(*words, "--out", name)[0] == 0
    code, _, err = tickets("analyse", "average", "a", "b")
    assert code == 2
    assert "Tasks of your own files get their names by --task-name." in err


def test_a_bad_name_of_a_task(tickets):
    code, _, err = tickets("transfer", "bert", *FILES, *SHORT, "--task-name", "a b", "--out", "x")
    assert code == 2
    assert "--task-name 'a b' is not a name" in err
    code, _, err = tickets("transfer", "bert", "--task", "rte", *SHORT, "--task-name", "mine", "--out", "x")
    assert code == 2
    assert "--task-name needs --train-file" in err


def test_sharing_and_super_tickets_on_files(tickets, place):
    shared = ("share", "--model", "bert", "--train-file", "support=train.csv", "--train-file", "second=dev.csv")
    shared += ("--validation-file", "support=dev.csv,second=dev.csv", "--text-columns", "body")
    shared += ("--label-column", "category", "--metric", "second=macro_f1", "--drop-unlabelled", *SHORT)
    code, out, err = tickets(*shared, "--out", "shared", "--json")
    assert (code, err) == (0, "")
    tasks = json.loads(out)["tasks"]
    assert [(name, task["primary_metric"]) for name, task in tasks.items()] == [
        ("support", "accuracy"),
        ("second", "macro_f1"),
    ]
    # The same from a task file.
    (place / "tasks.yml").write_text(
        "".join(
            f"{name}: {{train_file: {file}.csv, validation_file: dev.csv, text_columns: [body], "
            f"label_column: category, drop_unlabelled: true{metric}}}\n"
            for name, file, metric in (("support", "train", ""), ("second", "dev", ", metric: macro_f1"))
        )
    )
    words = ("share", "--model", "bert", "--task-file", "tasks.yml", "--tasks", "support,second", *SHORT)
    code, out, err = tickets(*words, "--out", "shared-2", "--json")
    assert (code, err) == (0, "")
    again = json.loads(out)["tasks"]
    assert {name: task["metrics"] for name, task in again.items()} == {
        name: task["metrics"] for name, task in tasks.items()
    }
    code, _, err = tickets("share", "--model", "bert", "--tasks", "rte", "--metric", "f1", "--out", "x")
    assert code == 2
    assert "--metric needs --train-file" in err

    words = ("super", "bert", *FILES, "--drop-unlabelled", "--level", "50%", "--selections", "winning")
    code, out, err = tickets(*words, *SHORT, "--select-on", "0.5", "--seeds", "0", "--save-model", "--out", "sup")
    assert code == 0, err
    assert out.startswith("local, accuracy on the rest of the dev set")
    # Its super ticket labels files, and so does a compact model of it.
    (best,) = (place / "sup").glob("winning/*/*")
    assert tickets("export", best, "--format", "compact", "--out", "sup-compact")[0] == 0
    for run in ("sup", "sup-compact"):
        code, out, err = tickets("predict", run, "--input", "new.csv", "--out", f"{run}.csv", "--quiet")
        assert (code, err) == (0, "")
    assert (place / "sup.csv").read_text() == (place / "sup-compact.csv").read_text()
    for model in (place / "sup").glob("winning/**/model"):
        shutil.rmtree(model)
    code, _, err = tickets("predict", "sup", "--text", "a cat")
    assert code == 2
    assert "tickets transfer sup/super-ticket --save-model" in err
