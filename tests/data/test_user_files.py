"""The user's own files: formats, inference, and a clear error for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from winning_tickets.data.examples import is_missing
from winning_tickets.data.records import Split
from winning_tickets.data.rows import rows_of
from winning_tickets.data.user_files import load_files
from winning_tickets.runs import memory
from winning_tickets.runs.errors import ContentError, UsageError

CSV = 'text,label\n"Good, really ""good""\nand long",yes\nBad,no\n'
TSV = 'text\tlabel\n"Good" start\tyes\nBad\tno\n'


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def both(folder: Path, name: str, content: str, **options: Any) -> Any:
    path = put(folder, name, content)
    return load_files(path, path, options.pop("text_columns", None), **options)


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("a.csv", CSV, 'Good, really "good"\nand long'),
        ("a.tsv", TSV, '"Good" start'),
        ("a.TSV", "\ufeff" + TSV.replace("\n", "\r\n"), '"Good" start'),
        ("a.jsonl", jsonl({"text": "Good", "label": "yes"}, {"text": "Bad", "label": "no"}), "Good"),
    ],
)
def test_formats(tmp_path: Path, name: str, content: str, first: str) -> None:
    data = both(tmp_path, name, content)
    assert data.train == Split(([first, "Bad"],), [1, 0])
    assert data.validation == {"validation": data.train}
    assert (data.task.name, data.task.labels, data.task.metrics) == ("local", ("no", "yes"), ("accuracy",))
    assert data.source == "files"
    assert not data.task.is_regression


def test_classes_come_from_the_training_file_and_sort_as_numbers(tmp_path: Path) -> None:
    train = put(tmp_path, "train.csv", "text,label\na,10\nb,9\nc,-1\n")
    validation = put(tmp_path, "valid.jsonl", jsonl({"text": "d", "label": 9}))
    data = load_files(train, str(validation), None)
    assert data.task.labels == ("-1", "9", "10")
    assert data.train.labels == [2, 1, 0]
    assert data.validation["validation"].labels == [1]


@pytest.mark.parametrize(
    ("labels", "metric", "metrics", "regression"),
    [
        (["1.5", "2", "3"], None, ("pearson", "spearman"), True),
        (["1", "2", "3"], None, ("accuracy",), False),
        (["1", "2", "3"], "pearson", ("pearson", "spearman"), True),
        (["1", "2", "3"], "spearman", ("spearman", "pearson"), True),
        (["3.11", "3.12", "3.13"], "accuracy", ("accuracy",), False),
        (["a", "b", "c"], "f1", ("f1", "accuracy"), False),
        (["a", "b", "c"], "macro_f1", ("macro_f1", "accuracy"), False),
        (["a", "b", "c"], "micro_f1", ("micro_f1", "accuracy"), False),
        (["a", "b", "nan"], "matthews", ("matthews", "accuracy"), False),
    ],
)
def test_scores_or_classes(
    tmp_path: Path, labels: list[str], metric: str | None, metrics: tuple[str, ...], regression: bool
) -> None:
    content = "text,label\n" + "".join(f"t{label},{label}\n" for label in labels)
    data = both(tmp_path, "a.csv", content, metric=metric)
    assert data.task.metrics == metrics
    assert data.task.is_regression is regression
    assert data.train.labels == ([float(label) for label in labels] if regression else [0, 1, 2])


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("text,label,id", ("text",)),
        ("label,sentence", ("sentence",)),
        ("sentence1,sentence2,label", ("sentence1", "sentence2")),
        ("hypothesis,premise,label", ("premise", "hypothesis")),
        ("question,sentence,label", ("question", "sentence")),
        ("text1,text2,label", ("text1", "text2")),
    ],
)
def test_text_columns_are_found(tmp_path: Path, header: str, found: tuple[str, ...]) -> None:
    names = header.split(",")
    rows = [",".join(f"{name} {row}" for name in names) for row in range(2)]
    data = both(tmp_path, "a.csv", "\n".join([header, *rows]))
    assert data.task.text_columns == found
    assert data.train.texts == tuple([f"{name} 0", f"{name} 1"] for name in found)


@pytest.mark.parametrize("header", ["body,label", "text,sentence,label", "text,premise,hypothesis,label"])
def test_text_columns_that_cannot_be_told(tmp_path: Path, header: str) -> None:
    row = ",".join("x" for _ in header.split(","))
    message = f"Cannot tell the text columns of .*: found {header.replace(',', ', ')}.*--text-columns"
    with pytest.raises(UsageError, match=message):
        both(tmp_path, "a.csv", f"{header}\n{row}\n")


def test_named_columns(tmp_path: Path) -> None:
    data = both(
        tmp_path, "a.csv", "b,a,y\n1,2,u\n3,4,v\n", text_columns=["a", "b"], label_column="y", metric="accuracy"
    )
    assert data.train == Split((["2", "4"], ["1", "3"]), [0, 1])
    with pytest.raises(UsageError, match="--text-columns takes one or two columns, found 3"):
        both(tmp_path, "a.csv", CSV, text_columns=["a", "b", "c"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,y\na,b\n", r"line 2 lacks the columns label: found text, y, expected text, label"),
        ("a.csv", "text,label\na,b,c\n", r"line 2: found 3 columns, expected 2"),
        ("a.csv", "text,label,text\na,b,c\n", "line 1: the column name 'text' appears twice"),
        ("a.tsv", "text\tlabel\na\tb\tc\n", r"line 2: found 3 columns, expected 2"),
        ("a.csv", "text,label\n  ,b\n", r"line 2: column 'text' must be a text, found '  '"),
        ("a.csv", "text,label\na,\nb,c\n", r"line 2: column 'label' must be a class or a number, found ''"),
        ("a.csv", "text,label\na,b\nc,b\n", r"has one class only \(b\); at least two are needed"),
        ("a.csv", "text,label\n", "is empty: it holds no example"),
        ("a.csv", "", "is empty: it holds no example"),
        ("a.jsonl", "\n\n", "is empty: it holds no example"),
        ("a.jsonl", '{"text": "a"\n', r"line 1: not valid JSON"),
        ("a.jsonl", "[1]\n", r"line 1: expected one object per line, found list"),
        ("a.jsonl", jsonl({"text": 3, "label": 0}), r"line 1: column 'text' must be a text, found 3"),
        ("a.jsonl", jsonl({"text": "a", "label": None}), r"line 1: column 'label' must be a class .* found None"),
        ("a.jsonl", jsonl({"text": "a", "label": 0}, {"text": "b"}), r"line 2 lacks the columns label: found text"),
    ],
)
def test_content_errors(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(ContentError, match=message):
        both(tmp_path, name, content)


def test_validation_labels_outside_the_set(tmp_path: Path) -> None:
    train = put(tmp_path, "train.tsv", TSV)
    validation = put(tmp_path, "valid.tsv", TSV + "Odd\tmaybe\n")
    with pytest.raises(ContentError, match=r"valid\.tsv, line 4: label 'maybe' is not in .*; allowed: no, yes"):
        load_files(train, validation, None)
    with pytest.raises(ContentError, match=r"train\.tsv, line 2: label 'yes' is not a number"):
        load_files(train, validation, None, metric="pearson")


def test_usage_errors(tmp_path: Path) -> None:
    good = put(tmp_path, "good.csv", CSV)
    with pytest.raises(UsageError, match=r"There is no file .*none\.csv"):
        load_files(good, tmp_path / "none.csv", None)
    with pytest.raises(UsageError, match=r"a\.xlsx has none of the suffixes \.csv, \.tsv, \.jsonl"):
        both(tmp_path, "a.xlsx", CSV)
    with pytest.raises(UsageError, match=r"Unknown metric 'acuracy'\. Did you mean 'accuracy'"):
        load_files(good, good, None, metric="acuracy")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match=r"Cannot read .*folder\.csv"):
        load_files(tmp_path / "folder.csv", good, None)


def test_scored_pairs(tmp_path: Path) -> None:
    """What `evaluate --pairs-file` reads."""
    content = jsonl({"sentence1": "a", "sentence2": "b", "score": 4}, {"sentence1": "c", "sentence2": "d", "score": 1})
    data = both(tmp_path, "pairs.jsonl", content, label_column="score", metric="pearson")
    assert data.validation["validation"] == Split((["a", "c"], ["b", "d"]), [4.0, 1.0])


def test_sets_of_classes(tmp_path: Path) -> None:
    """A list, or one text with bars; no class at all is fine."""
    lists = jsonl({"text": "a", "label": ["fun", "old"]}, {"text": "b", "label": []}, {"text": "c", "label": ["sad"]})
    data = both(tmp_path, "a.jsonl", lists, kind="multilabel")
    assert data.train == Split((["a", "b", "c"],), [(1.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
    assert (data.task.labels, data.task.kind) == (("fun", "old", "sad"), "multilabel")
    assert data.task.metrics == ("micro_f1", "macro_f1", "exact_match")
    assert not data.task.is_regression
    bars = both(tmp_path, "b.csv", "text,label\na,old| fun\nb,\nc,sad\n", kind="multilabel")
    assert (bars.train, bars.fingerprint) == (data.train, data.fingerprint)
    numbers = jsonl({"text": "a", "label": [10, 9]}, {"text": "b", "label": "9|1"})
    assert both(tmp_path, "c.jsonl", numbers, kind="multilabel").task.labels == ("1", "9", "10")
    chosen = both(tmp_path, "a.jsonl", lists, kind="multilabel", metric="exact_match")
    assert chosen.task.metrics == ("exact_match", "micro_f1", "macro_f1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            jsonl({"text": "a", "label": ["x", None]}),
            r"line 1: column 'label' must be a list of classes, or cl",
        ),
        ("a.jsonl", jsonl({"text": "a", "label": 1.5}), r"classes with '\|' between them, found 1\.5"),
        ("a.csv", "text,label\na,x\nb,x||y\n", r"line 3: column 'label' must be a list of classes.*found 'x\|\|y'"),
        ("a.csv", "text,label\na,\nb,\n", r"a\.csv has no label in the column 'label'"),
    ],
)
def test_wrong_sets_of_classes(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(ContentError, match=message):
        both(tmp_path, name, content, kind="multilabel")


def test_a_class_that_the_training_file_lacks(tmp_path: Path) -> None:
    train, dev = put(tmp_path, "a.csv", "text,label\na,x|y\n"), put(tmp_path, "b.csv", "text,label\na,x\nb,y|z\n")
    with pytest.raises(ContentError, match=r"b\.csv, line 3: label 'z' is not in the training file; allowed: x, y"):
        load_files(train, dev, None, kind="multilabel")


def test_classes_in_a_message_are_in_one_line(tmp_path: Path) -> None:
    train = put(tmp_path, "a.csv", 'text,label\na,"x\ny"\nb,z\n')
    dev = put(tmp_path, "b.csv", "text,label\na,other\n")
    with pytest.raises(ContentError, match=r"allowed: x y, z\.$"):
        load_files(train, dev, None)


def test_the_kind_can_be_said(tmp_path: Path) -> None:
    """Whole numbers as scores, fractions as names."""
    numbers = "text,label\na,1\nb,2\n"
    assert both(tmp_path, "a.csv", numbers, kind="regression").train.labels == [1.0, 2.0]
    assert both(tmp_path, "a.csv", numbers, kind="regression").task.metrics == ("pearson", "spearman")
    assert both(tmp_path, "a.csv", numbers, kind="regression", metric="spearman").task.metrics[0] == "spearman"
    assert both(tmp_path, "b.csv", "text,label\na,1.5\nb,2.5\n", kind="classification").task.labels == ("1.5", "2.5")
    with pytest.raises(UsageError, match=r"Unknown metric 'pearson'.*accuracy"):
        both(tmp_path, "a.csv", numbers, kind="classification", metric="pearson")


def test_a_missing_label_names_the_first_line_of_its_row(tmp_path: Path) -> None:
    content = 'text,label\n"one\ntwo",a\n"three\nfour\nfive",\nsix,b\n'
    with pytest.raises(ContentError, match="a.csv, line 4: column 'label' must be a class .* --drop-unlabelled"):
        both(tmp_path, "a.csv", content)


def test_rows_without_a_label_are_dropped_and_counted(tmp_path: Path) -> None:
    train = put(tmp_path, "train.csv", "text,label\none,a\ntwo,\nthree,b\nfour,  \n")
    dev = put(tmp_path, "dev.jsonl", jsonl({"text": "five", "label": None}, {"text": "six", "label": "b"}))
    data = load_files(train, dev, None, task_name="mine", drop_unlabelled=True)
    assert data.task.name == "mine"
    assert data.train == Split((["one", "three"],), [0, 1])
    assert data.validation["validation"] == Split((["six"],), [1])
    assert data.unlabelled == {"train": 2, "validation": 1}


def test_an_id_as_label_gets_a_remark(tmp_path: Path) -> None:
    train = put(tmp_path, "train.csv", "text,id\n" + "".join(f"t{i},{i}\n" for i in range(299)))
    dev = put(tmp_path, "dev.csv", "text,id\nt,7\n")
    data = load_files(train, dev, ("text",), label_column="id")
    assert data.remarks == ("The column 'id' has 299 classes in 299 training examples: is it the label column?",)
    put(tmp_path, "dev.csv", "text,id\nt,999\n")
    with pytest.raises(ContentError) as caught:
        load_files(train, dev, ("text",), label_column="id")
    assert "29 and 269 more. With 299 classes: is this the label column?" in str(caught.value)


def test_the_same_texts_in_both_files_get_a_remark(tmp_path: Path) -> None:
    (remark,) = both(tmp_path, "a.csv", "text,label\na,x\nb,y\n").remarks
    assert "same texts as the training file" in remark


def test_cells_without_a_value_are_no_class(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": ["x", float("nan"), "y"]})
    whole = pd.DataFrame({"text": ["a", "b", "c"], "label": pd.array([0, None, 1], dtype="Int64")})
    for data, classes in ((frame, ("x", "y")), (whole, ("0", "1"))):
        with memory.given("memory:rows-1", rows_of(data, "train")) as name:
            with pytest.raises(ContentError, match="train, row 1: column 'label' must be a class or a number, found"):
                load_files(name, name, None)
            found = load_files(name, name, None, drop_unlabelled=True)
        assert (found.task.labels, found.train.labels) == (classes, [0, 1])
        assert found.unlabelled == {"train": 1, "validation": 1}
    for missing in (float("nan"), pd.NA, pd.NaT):
        assert is_missing(missing)
    with pytest.raises(ContentError, match=r"a.jsonl, line 2: column 'label' must be a class or a number, found nan"):
        both(tmp_path, "a.jsonl", jsonl({"text": "a", "label": 1}, {"text": "b", "label": float("nan")}))


@pytest.mark.parametrize("form", [None, "numpy", "torch", "pandas"])
def test_the_format_of_a_data_set_changes_no_label(form: str | None) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    found = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).with_format(form)
    assert [row for _, row in rows_of(found, "train")] == [{"text": "a", "label": "yes"}, {"text": "b", "label": "no"}]
    plain = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}).with_format(form)
    assert [str(row["label"]) for _, row in rows_of(plain, "train")] == ["1", "0"]


def test_rows_that_cannot_be_told(tmp_path: Path) -> None:
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})})
    with pytest.raises(UsageError, match="train is a DatasetDict of splits; give a file, a Dataset"):
        rows_of(splits, "train")
    with pytest.raises(UsageError, match="train is a dict of splits"):
        rows_of({name: pd.DataFrame({"text": ["a"]}) for name in ("train", "validation")}, "train")
    twice = pd.DataFrame([["a", 1, 0]], columns=["text", "label", "label"])
    with pytest.raises(UsageError, match="train has several columns of the name label; rename or drop all but one"):
        rows_of(twice, "train")
    with pytest.raises(UsageError, match="train is a Series; give a file"):
        rows_of(pd.Series(["a", "b"]), "train")


@pytest.mark.parametrize("kind", ["mlm", "clm", "tagging"])
def test_kinds_that_files_cannot_have(tmp_path: Path, kind: str) -> None:
    message = f"Unknown kind '{kind}'.*Known: classification, multilabel, regression, span, tokens"
    with pytest.raises(UsageError, match=message):
        both(tmp_path, "a.csv", CSV, kind=kind)


def test_a_cell_of_csv_may_be_very_long(tmp_path: Path) -> None:
    long = "word " * 40_000
    assert both(tmp_path, "a.csv", f"text,label\n{long},x\nb,y\n").train.texts == ([long, "b"],)


@pytest.mark.parametrize("kind", [None, "tokens"])
def test_half_a_surrogate_pair_is_no_text(kind: Any) -> None:
    cell, label = ("a \ud800", "x") if kind is None else (["a", "\ud800"], ["x", "y"])
    with (
        memory.given("memory:rows-1", rows_of([{"text": cell, "label": label}], "train")) as name,
        pytest.raises(ContentError, match=r"train, row 0: column 'text' must be a .*, found .*\\ud800"),
    ):
        load_files(name, name, ("text",), kind=kind)
