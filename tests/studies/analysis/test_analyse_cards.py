"""Dataset cards: counts by hand, of every kind of task, files of one's own, real data."""

import json

import pytest

from samples.tiny_tasks import task_data
from winning_tickets.data.records import Split, Task, TaskData
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.studies.analysis.data_cards import card
from winning_tickets.studies.analysis.kinds import ANALYSES

cards = ANALYSES["cards"]


def test_a_card_by_hand():
    train = Split((["a b", "A  b", "c", "d e f"], ["x", "x", "y z", ""]), [1, 0, 1, 1])
    dev = Split((["a b", "c", "new"], ["X", "y z", "w"]), [1, 0, 0])
    task = Task("mine", ("first", "second"), ("no", "yes"), ("accuracy", "f1"), licence="mine")
    found = card(TaskData.of(task, train, {"validation": dev}, "files", unlabelled={"train": 2}), {"T": 9})
    first, second = found["splits"]
    assert (first["split"], first["examples"], first["unlabelled"]) == ("train", 4, 2)
    assert first["labels"] == {"no": 1, "yes": 3}
    assert first["words"] == {"min": 3, "median": 3, "mean": 3, "max": 3}
    assert first["repeated"] == 1  # the second, case and spaces apart
    assert second["words"] == {"min": 2, "median": 3, "mean": 8 / 3, "max": 3}
    assert found["majority"]["label"] == "yes"
    assert found["majority"]["scores"] == {"validation": {"accuracy": pytest.approx(1 / 3), "f1": pytest.approx(0.5)}}
    # "a b, x" was trained on with both labels, "c, y z" only with the other one.
    assert found["in_train"] == {"validation": {"examples": 2, "other_label": 1}}
    assert (found["test"], found["licence"], found["columns"]) == ({"T": 9}, "mine", ["first", "second"])


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_card(name):
    data = task_data(name)
    found = card(data)
    json.dumps(found, allow_nan=False)
    assert [split["split"] for split in found["splits"]] == ["train", *data.validation]
    train = found["splits"][0]
    assert train["examples"] == 36
    classes = data.task.kind == "classification"
    assert (sum(train["labels"].values()) == 36) if classes else train["labels"] is None
    assert (train["scores"] is not None) == data.task.is_regression
    assert (found["majority"] is not None) == classes
    assert found["fingerprint"] == data.fingerprint


def test_words_and_sets_of_classes():
    words = Task("ner", ("words",), ("O", "B"), ("f1",), "tokens")
    split = Split(([["Ann", "slept"], ["no"]],), [[1, 0], [0]])
    found = card(TaskData.of(words, split, {"validation": split}, "files"))
    assert found["splits"][0]["labels"] == {"O": 2, "B": 1}
    assert found["splits"][0]["words"] == {"min": 1, "median": 1.5, "mean": 1.5, "max": 2}
    sets = Task("topics", ("text",), ("a", "b", "c"), ("micro_f1",), "multilabel")
    split = Split((["x", "y"],), [(1.0, 0.0, 1.0), (1.0, 0.0, 0.0)])
    found = card(TaskData.of(sets, split, {"validation": split}, "files"))
    assert found["splits"][0]["labels"] == {"a": 2, "b": 0, "c": 1}
    assert found["majority"] is None
    assert found["in_train"] == {"validation": {"examples": 2, "other_label": 0}}


def files_of(folder):
    (folder / "train.tsv").write_text("text\tlabel\ngood film\tpos\nbad film\tneg\nfine\tpos\n")
    (folder / "dev.tsv").write_text("text\tlabel\ngood  Film\tneg\nnew\tpos\n")
    return folder / "train.tsv", folder / "dev.tsv"


def test_files_of_ones_own(tmp_path, tickets):
    train, dev = files_of(tmp_path)
    command = ("analyse", "cards", "--train-file", train, "--validation-file", dev)
    code, out, _ = tickets(*command, "--json", "--out", tmp_path / "out")
    assert code == 0
    (found,) = json.loads(out)["cards"]
    assert found["splits"][0]["labels"] == {"neg": 1, "pos": 2}
    assert found["majority"] == {"label": "pos", "scores": {"validation": {"accuracy": 0.5}}}
    assert found["in_train"] == {"validation": {"examples": 1, "other_label": 1}}
    assert (tmp_path / "out" / "labels.csv").read_text().startswith("task,split,label,count,share\n")
    code, out, _ = tickets(*command)
    assert "| local |     3 | 2   |" in out


def test_a_task_file(tmp_path):
    files = "{train_file: films.csv, validation_file: films.csv}"
    (tmp_path / "tasks.yaml").write_text(f"films: {files}\nothers: {files}\n")
    (tmp_path / "films.csv").write_text("text,label\ngood film,pos\nbad,neg\n")
    found = cards(["films"], task_file=str(tmp_path / "tasks.yaml"))["cards"]
    assert [one["task"] for one in found] == ["films"]
    assert found[0]["splits"][0]["labels"] == {"neg": 1, "pos": 1}
    assert found[0]["in_train"] == {"validation": {"examples": 2, "other_label": 0}}


def test_labelled_examples_of_a_test_set_of_its_own_release_are_counted(tmp_path):
    for name in ("train", "dev", "test"):
        rows = [{"sentence1": "a", "sentence2": "b", "gold_label": label} for label in ("neutral", "entailment", "-")]
        (tmp_path / f"snli_1.0_{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (found,) = cards(["snli"], data_dir=str(tmp_path))["cards"]
    assert (found["test"], found["sizes"]["test"]) == ({"test": 2}, 2)
    (tmp_path / "snli_1.0_test.jsonl").unlink()
    assert cards(["snli"], data_dir=str(tmp_path))["cards"][0]["test"] is None


def test_test_sets_are_counted_where_they_are(tmp_path):
    folder = tmp_path / "RTE"
    folder.mkdir()
    header = "index\tsentence1\tsentence2"
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text(f"{header}\tlabel\n0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n")
    assert cards(["rte"], data_dir=str(tmp_path))["cards"][0]["test"] is None
    (folder / "test.tsv").write_text(f"{header}\n0\ta\tb\n1\ta\tb\n2\ta\tb\n")
    assert cards(["rte"], data_dir=str(tmp_path))["cards"][0]["test"] == {"RTE": 3}
    (folder / "test.tsv").write_text("index\tsentence\n0\ta\n")
    with pytest.raises(ContentError, match="sentence1"):
        cards(["rte"], data_dir=str(tmp_path))


def test_refusals(tmp_path, tickets):
    with pytest.raises(UsageError, match="Nothing was asked for; give --tasks rte,mrpc, a --task-file, or"):
        cards()
    with pytest.raises(UsageError, match="Give --tasks or files of your own, not both"):
        cards(["rte"], files={})
    with pytest.raises(UsageError, match="rtee"):
        cards(["rtee"], data_dir=str(tmp_path))
    code, out, err = tickets("analyse", "cards", "--train-file", "x.tsv")
    assert (code, out) == (2, "")
    assert "--train-file and --validation-file go together; one of them is missing." in err


@pytest.mark.slow
def test_the_real_numbers_of_table_9(shared_data):
    found = {one["task"]: one for one in cards(["rte", "mrpc", "cola"], data_dir=str(shared_data / "glue"))["cards"]}
    sizes = {task: [split["examples"] for split in one["splits"]] for task, one in found.items()}
    assert sizes["rte"] == [2490, 277]
    assert sizes["cola"] == [8551, 1043]
    assert found["rte"]["majority"]["scores"]["validation"]["accuracy"] == pytest.approx(146 / 277)
    assert found["cola"]["majority"]["scores"]["validation"] == {"matthews": 0.0}
