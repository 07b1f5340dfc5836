"""The same rows are the same task, whichever way they come in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from winning_tickets.data.records import TaskData
from winning_tickets.data.rows import rows_of
from winning_tickets.data.user_files import load_files
from winning_tickets.runs import memory
from winning_tickets.runs.errors import ContentError, UsageError

Rows = list[dict[str, Any]]


def rows(*labels: Any) -> Rows:
    return [{"text": f"text, number {number}", "label": label} for number, label in enumerate(labels)]


CONTENTS: dict[str, Rows] = {
    "classes": rows("no", "yes", "maybe", "yes"),
    "whole numbers": rows(10, 9, -1, 9),
    "whole numbers with gaps": rows(10, None, 9, -1, 9),
    "whole numbers as floats": rows(10.0, 9.0, -1.0, 9.0),
    "truth values": rows(True, False, True, False),
    "scores": rows(3.5, 2.0, 4.25, 0.0),
    "scores with gaps": rows(3.5, None, 2.0, 4.25),
    "numbers as text": rows("10", "9", "-1", "9"),
    "classes with gaps": rows("no", None, "yes", "no"),
}


def frame(kind: str | None = None, text: str | None = None) -> Callable[[Rows], Any]:
    def make(content: Rows) -> Any:
        found = pd.DataFrame(content)
        found = found if text is None else found.astype({"text": text})
        return found if kind is None else found.astype({"label": kind})

    return make


def frame_of_table(content: Rows, folder: Path) -> Any:
    """What a user has after `read_csv`: whole numbers are floats where there are gaps."""
    pd.DataFrame(content).convert_dtypes().to_csv(folder / "a.csv", index=False)
    return pd.read_csv(folder / "a.csv")


IN_MEMORY: dict[str, Callable[[Rows], Any]] = {
    "dicts": lambda content: content,
    "columns": lambda content: {name: [row[name] for row in content] for name in content[0]},
    "arrays": lambda content: {
        "text": np.array([row["text"] for row in content]),
        "label": np.array([row["label"] for row in content], dtype=object),
    },
    "numpy scalars": lambda content: [
        row if row["label"] is None else row | {"label": np.array(row["label"])[()]} for row in content
    ],
    "data set": lambda content: datasets.Dataset.from_list(content),
    "data set for numpy": lambda content: datasets.Dataset.from_list(content).with_format("numpy"),
    "frame": frame(),
    "frame of objects": frame("object"),
    "frame of categories": frame("category"),
    "frame of arrow strings": frame(text="string[pyarrow]"),
    "frame of best types": lambda content: pd.DataFrame(content).convert_dtypes(),
    "frame of arrow types": lambda content: pd.DataFrame(content).convert_dtypes(dtype_backend="pyarrow"),
}
FILES: dict[str, Callable[[Rows, Path], object]] = {
    "a.csv": lambda content, path: pd.DataFrame(content).convert_dtypes().to_csv(path, index=False),
    "b.csv": lambda content, path: pd.DataFrame(content, dtype=object).to_csv(path, index=False, sep=";"),
    "c.csv": lambda content, path: pd.DataFrame(content).to_csv(path, index=False, encoding="utf-16"),
    "a.tsv": lambda content, path: pd.DataFrame(content).to_csv(path, index=False, sep="\t"),
    "a.jsonl": lambda content, path: path.write_text("".join(json.dumps(row) + "\n" for row in content)),
    "b.jsonl": lambda content, path: pd.DataFrame(content).to_json(path, orient="records", lines=True),
    "a.parquet": lambda content, path: datasets.Dataset.from_list(content).to_parquet(path),
    "b.parquet": lambda content, path: pd.DataFrame(content).to_parquet(path),
}


def load(data: Any, **options: Any) -> TaskData:
    if isinstance(data, Path):
        return load_files(data, data, None, drop_unlabelled=True, **options)
    with memory.given("memory:rows", rows_of(data, "train")) as name:
        return load_files(name, name, None, drop_unlabelled=True, **options)


@pytest.mark.parametrize("name", CONTENTS)
def test_every_door_gives_the_same_task(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    content = CONTENTS[name]
    expected = load(content)
    found = {door: load(make(content)) for door, make in IN_MEMORY.items()}
    found["frame of a table"] = load(frame_of_table(content, tmp_path))
    for file, write in FILES.items():
        write(content, tmp_path / file)
        found[file] = load(tmp_path / file)
    for door, data in found.items():
        assert (door, data.task, data.fingerprint, data.unlabelled, data.remarks) == (
            door, expected.task, expected.fingerprint, expected.unlabelled, expected.remarks,
        )  # fmt: skip


def test_columns_without_names_have_their_numbers() -> None:
    table = pd.DataFrame([["good", "a"], ["bad", "b"]] * 4)
    with pytest.raises(UsageError, match="found 0, 1. Name one or two with --text-columns"):
        load(table)
    assert list(rows_of(table, "train")[0][1]) == ["0", "1"]


def test_whole_numbers_have_one_name() -> None:
    assert load(CONTENTS["whole numbers"]).fingerprint == load(CONTENTS["whole numbers as floats"]).fingerprint
    assert load(CONTENTS["whole numbers with gaps"]).task.labels == ("-1", "9", "10")


@pytest.mark.parametrize("kind", ["multilabel", "tokens"])
def test_lists_are_the_same_in_every_door(tmp_path: Path, kind: Any) -> None:
    content = [
        {"words": ["good", "film"], "text": "good film", "label": ["B-x", "O"]},
        {"words": ["bad"], "text": "bad", "label": ["O"]},
    ]
    expected = load(content, kind=kind)
    datasets.Dataset.from_list(content).to_parquet(tmp_path / "a.parquet")
    for data in (pd.read_parquet(tmp_path / "a.parquet"), datasets.Dataset.from_list(content), tmp_path / "a.parquet"):
        found = load(data, kind=kind)
        assert (found.task, found.fingerprint) == (expected.task, expected.fingerprint)


def test_names_of_classes_come_along_in_parquet(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    found = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    found.to_parquet(tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").task.labels == load(found).task.labels == ("no", "yes")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ContentError, match=r"Could not read .*b\.parquet as a Parquet file"):
        load(tmp_path / "b.parquet")


@pytest.mark.parametrize("text", ["nan", "None", "NULL", "NA", "<NA>"])
def test_a_missing_label_as_text_gets_a_remark(text: str) -> None:
    remarks = load(rows("no", text, "yes", text)).remarks[:1]
    assert remarks[0].startswith(f"The text {text!r} in the column 'label' is a class of its own (2 training examples)")
    assert "The other labels are numbers." in load(rows(3.5, text, 2.0)).remarks[0]


def test_decimal_commas_are_no_classes() -> None:
    message = r"the column 'label' seems to have numbers with a decimal comma, such as 3,5\. Write a point instead"
    with pytest.raises(ContentError, match=message):
        load(rows("3,5", "4", "2,25"))
    with pytest.raises(ContentError, match=r"label '3,5' is not a number\. Write a point before the decimals"):
        load(rows("3,5", "4", "2,25"), kind="regression")
    assert load(rows("3,5", "4"), kind="classification").task.labels == ("3,5", "4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["calm", "on", " ", "a"], r"a list of words, and word 3 of 4 is blank: ' ', found \['calm'"),
        ([*["x"] * 20, 5], r"and word 21 of 21 is 5, found"),
        ("calm on", r"must be a list of words, found 'calm on'"),
    ],
)
def test_the_word_that_is_no_word_is_named(words: Any, message: str) -> None:
    with pytest.raises(ContentError, match=message):
        load([{"words": words, "label": ["O"] * len(words)}, {"words": ["a"], "label": ["B-x"]}], kind="tokens")
