"""The data of task files: MT-DNN's TSV and JSONL, soft labels, GLUE folders; and a transfer from end to end."""

import json
import re

import pytest
from typer.testing import CliRunner

from samples.tiny_models import TEXT, make_model
from winning_tickets import Runtime, TransferConfig, transfer
from winning_tickets.cli import app
from winning_tickets.data.mtdnn import load_defined_task
from winning_tickets.data.task_files import load_definitions
from winning_tickets.finetuning.setup import prepare_transfer
from winning_tickets.models.heads import load_for_task
from winning_tickets.runs.errors import ContentError, UsageError

ONE = "t: {task_type: Classification, data_format: PremiseOnly, labels: [bad, good]}"
PAIR = "t: {task_type: Classification, data_format: PremiseAndOneHypothesis, n_class: 3}"
SCORE = "t: {task_type: Regression, data_format: PremiseAndOneHypothesis}"
WORDS = "t: {task_type: SequenceLabeling, data_format: Seqence, labels: [O, B-X, I-X, X, CLS, SEP], n_class: 6}"


@pytest.fixture
def load(tmp_path):
    """Writes a task file and data files, and reads the first task."""

    def read(definition, files, data_dir="."):
        (tmp_path / "tasks.yml").write_text(definition)
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            rows = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
            (tmp_path / name).write_text(rows)
        (first,) = load_definitions(tmp_path / "tasks.yml")
        return load_defined_task(first, tmp_path / "tasks.yml", None if data_dir is None else str(tmp_path / data_dir))

    return read


def tsv(*rows):
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def test_one_text(load):
    data = load(
        ONE,
        {
            "t_train.tsv": tsv((7, "good", "a fine day"), (8, "0", 'a "poor one'), (9, 1, "well")),
            "t_dev.tsv": tsv((1, "bad", "no")),
        },
    )
    assert data.train.texts == (["a fine day", 'a "poor one', "well"],)
    assert data.train.labels == [1, 0, 1]
    assert data.validation["validation"].labels == [0]
    assert (data.task.labels, data.source, data.train.soft) == (("bad", "good"), "files", None)


def test_two_texts_and_numbers_as_labels(load):
    data = load(
        PAIR,
        {
            "t_train.tsv": tsv((0, 0, "p", "h"), (1, 2, "q", "i"), (2, 1, "r", "j")),
            "t_dev.jsonl": [{"uid": "5", "label": 2, "premise": "x", "hypothesis": "y"}],
        },
    )
    assert data.train.texts == (["p", "q", "r"], ["h", "i", "j"])
    assert data.train.labels == [0, 2, 1]
    assert data.validation["validation"].texts == (["x"], ["y"])
    assert data.task.labels == ("0", "1", "2")


def test_scores_and_soft_scores(load):
    files = {
        "t_train.tsv": tsv((0, 2.5, "p", "h", 2.25), (1, "0", "q", "i", "0.5")),
        "t_dev.tsv": tsv((0, 5, "p", "h", 4.5)),
    }
    data = load(SCORE, files)
    assert data.train.labels == [2.5, 0.0]
    assert data.train.soft == [(2.25,), (0.5,)]
    assert data.validation["validation"].soft is None


def test_words(load):
    files = {
        "t_train.tsv": tsv((0, "['B-X', 'O', 'I-X']", "['Ada', \"isn't\", 'here']")),
        "t_dev.json": [{"uid": 1, "label": ["O", 1], "premise": ["a", "b"]}],
    }
    data = load(WORDS, files)
    assert data.train.texts == ([["Ada", "isn't", "here"]],)
    assert data.train.labels == [[1, 0, 2]]
    assert data.validation["validation"].labels == [[0, 1]]
    assert data.task.labels == ("O", "B-X", "I-X")


def test_soft_labels(load):
    files = {
        "t_train.tsv": tsv((0, "good", "a", "[0.25, 0.75]"), (1, "bad", "b", "1 0"), (2, "bad", "c", "0.5,0.5")),
        "t_dev.tsv": tsv((0, "bad", "a")),
    }
    data = load(ONE, files)
    assert data.train.soft == [(0.25, 0.75), (1.0, 0.0), (0.5, 0.5)]
    other = load(ONE, {**files, "t_train.tsv": files["t_train.tsv"].replace("0.25, 0.75", "0.3, 0.7")})
    assert other.fingerprint != data.fingerprint


def test_logits_as_soft_labels(load):
    rows = [
        {"label": "good", "premise": "a", "softlabel": [-3, 2.5]},
        {"label": "bad", "premise": "b", "softlabel": [1, 1]},
    ]
    files = {"t_train.jsonl": rows, "t_dev.jsonl": rows}
    data = load(ONE.replace("}", ", soft_labels: logits}"), files)
    assert data.train.soft == [(-3.0, 2.5), (1.0, 1.0)]
    message = (
        "t_train.jsonl, line 1: soft labels -3, 2.5 are not probabilities, which sum to 1. If they are logits, write"
    )
    with pytest.raises(ContentError, match=message):
        load(ONE, files)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0\tgood\ta\t0.2 0.3 0.5", "found 3 soft labels (0.2 0.3 0.5), and t needs 2, one for each class."),
        ("0\tgood\ta\t0.5 half", "soft labels must be numbers, found '0.5 half'."),
        ("0\tgood\ta\t[0.5, 0.5", "soft labels must be numbers, found '[0.5, 0.5'."),
        ("0\tgood\ta\t0.5 0.6", "soft labels 0.5, 0.6 are not probabilities, which sum to 1."),
        ("0\tgood\ta\t1.5 -0.5", "soft labels 1.5, -0.5 are not probabilities"),
        ("0\tgood\ta", "found 3 columns, expected 4 (uid, label, premise, softlabel)."),
    ],
)
def test_soft_labels_that_cannot_be(load, row, message):
    files = {"t_train.tsv": f"0\tbad\tx\t0.5 0.5\n{row}\n", "t_dev.tsv": "0\tbad\ta\n"}
    with pytest.raises(ContentError, match=re.escape(f"t_train.tsv, line 2: {message}")):
        load(ONE, files)


def test_symmetric_kl_needs_probabilities_above_zero(load):
    files = {"t_train.tsv": "0\tbad\tx\t1 0\n", "t_dev.tsv": "0\tbad\ta\n"}
    with pytest.raises(
        ContentError, match="line 1: soft labels 1, 0: the symmetric KL of a probability of 0 is infinite"
    ):
        load(ONE.replace("}", ", kd_loss: SymKlCriterion}"), files)


def test_soft_labels_are_for_all_rows_or_none(load):
    rows = [{"label": "bad", "premise": "a", "softlabel": [1, 0]}, {"label": "good", "premise": "b"}]
    both = {"t_train.jsonl": rows, "t_dev.jsonl": rows[1:]}
    with pytest.raises(ContentError, match="line 2: some rows have soft labels and others have none"):
        load(ONE, both)
    with pytest.raises(ContentError, match="line 2: some rows have soft labels and others have none"):
        load(ONE, both | {"t_train.jsonl": rows[::-1]})


@pytest.mark.parametrize(
    ("definition", "row", "message"),
    [
        (ONE, "0\tok\ta", "label 'ok' is not a label of t; allowed: bad, good, or 0 to 1."),
        (ONE, "0\t2\ta", "label '2' is not a label of t; allowed: bad, good, or 0 to 1."),
        (ONE, "0\t0.5\ta", "label '0.5' is not a label of t"),
        (PAIR, "0\t3\ta\tb", "label '3' is not a label of t; allowed: 0, 1, 2."),
        (ONE, "0\tgood\t ", "column 'premise' must be a text, found ' '."),
        (ONE, "0\tgood", "found 2 columns, expected 3 (uid, label, premise, and perhaps softlabel)."),
        (PAIR, "0\t1\ta", "found 3 columns, expected 4 (uid, label, premise, hypothesis, and perhaps softlabel)."),
        (SCORE, "0\tmuch\ta\tb", "label 'much' is not a number."),
        (SCORE, "0\tnan\ta\tb", "label 'nan' is not a number."),
        (WORDS, "0\t['O']\t['a', 'b']", "found 2 words and 1 labels; each word needs one, and a row one word."),
        (WORDS, "0\t['O', 'B-Y']\t['a', 'b']", "label 'B-Y' is not a label of t; allowed: O, B-X, I-X, or 0 to 5."),
        (WORDS, "0\t['CLS']\t['a']", "label 'CLS' is not a label of t"),
        (WORDS, "0\t['O']\ta", "column 'premise' must be a list of words, found 'a'."),
        (WORDS, "0\t['O']\t['\\ud800']", "column 'premise' must be a list of words, found \"['\\\\ud800']\"."),
        (WORDS, "0\t__import__('os')\t['a']", "column 'label' must be a list of labels, found \"__import__('os')\"."),
    ],
)
def test_rows_that_cannot_be_read(load, definition, row, message):
    with pytest.raises(ContentError, match=re.escape(f"t_train.tsv, line 2: {message}")):
        load(definition, {"t_train.tsv": f"\n{row}\n", "t_dev.tsv": "x\n"})


def test_jsonl_that_cannot_be_read(load):
    def message_of(row):
        with pytest.raises(ContentError) as caught:
            load(ONE, {"t_train.jsonl": [row], "t_dev.jsonl": [row]})
        return str(caught.value)

    tokens = {"uid": "0", "label": 1, "token_id": [101, 102], "type_id": [0, 0]}
    assert "it holds tokens of one tokenizer (token_id) and no text; give the TSV that it was made" in message_of(
        tokens
    )
    assert "line 1 lacks the columns premise: found uid, label, expected premise, label." in message_of(
        {"uid": 0, "label": 1}
    )
    assert "label True is not a label of t" in message_of({"label": True, "premise": "a"})


def test_labels_that_are_never_trained_on(load):
    files = {"t_train.tsv": tsv((0, "good", "a")), "t_dev.tsv": tsv((0, "good", "a"), (1, "bad", "b"))}
    with pytest.raises(ContentError, match=r"t_dev.tsv, line 2: label 'bad' never occurs in .*t_train.tsv"):
        load(ONE, files)
    words = {
        "t_train.tsv": tsv((0, "['O']", "['a']")),
        "t_dev.tsv": tsv((0, "['O', 'I-X']", "['a', 'b']")),
    }
    with pytest.raises(ContentError, match=r"t_dev.tsv, line 1: label 'I-X' never occurs in .*t_train.tsv"):
        load(WORDS, words)


def test_several_validation_sets_and_named_files(load):
    definition = (
        "t: {task_type: Classification, data_format: PremiseOnly, n_class: 2, "
        "split_names: [train, a_dev, b_dev, test], data: {train: x/one.tsv, a_dev: x/two.tsv, b_dev: x/three.tsv}}"
    )
    files = {"x/one.tsv": "0\t0\tp\n0\t1\tq\n", "x/two.tsv": "0\t1\tr\n", "x/three.tsv": "0\t0\ts\n"}
    data = load(definition, files, None)
    assert {name: split.texts for name, split in data.validation.items()} == {
        "validation_a": (["r"],),
        "validation_b": (["s"],),
    }
    assert data.task.validation_splits == ("validation_a", "validation_b")


def test_files_that_are_not_there(load, tmp_path):
    with pytest.raises(UsageError, match=r"has no t_train.tsv\|.jsonl\|.json, where the task t of .*tasks.yml looks"):
        load(ONE, {"other.tsv": "x"})
    with pytest.raises(UsageError, match=r"has t_train.tsv and no t_dev.tsv, nor .jsonl or .json"):
        load(ONE, {"t_train.tsv": "0\tgood\ta\n"})
    with pytest.raises(UsageError, match=r"There is no folder .*nowhere, where the task t of"):
        load(ONE, {}, "nowhere")
    with pytest.raises(
        UsageError, match=r"has no data: give it a folder with t_train.tsv\|.jsonl\|.json in it as data:"
    ):
        load(ONE, {}, None)
    with pytest.raises(UsageError, match=r"There is no file .*gone.tsv"):
        load(ONE.replace("}", ", data: {train: gone.tsv, dev: gone.tsv}}"), {})
    for name in ('"gone\\0.tsv"', '"gone\\0.jsonl"'):
        with pytest.raises(UsageError, match=r"Cannot read '.*gone\\x00.*': this cannot be the name of a file"):
            load(ONE.replace("}", f", data: {{train: {name}, dev: {name}}}}}"), {})
    with pytest.raises(UsageError, match="There is no folder .*where the task t of"):
        load(ONE.replace("}", ', data: "a\\0b"}'), {})
    with pytest.raises(ContentError, match=r"t_train.tsv is empty: it holds no example"):
        load(ONE, {"t_train.tsv": "\n", "t_dev.tsv": ""})


def test_answers(load):
    question = {"id": "1", "question": "Who ruled?", "answers": [{"text": "Rollo", "answer_start": 0}]}
    paragraph = {"context": "Rollo ruled Normandy.", "qas": [question]}
    squad = json.dumps({"data": [{"paragraphs": [paragraph]}]})
    data = load("t: {task_type: Span, split_names: [train, dev]}", {"t_train.json": squad, "t_dev.json": squad})
    assert (data.task.kind, data.train.texts) == ("span", (["Who ruled?"], ["Rollo ruled Normandy."]))


RTE = "rte: {task_type: Classification, data_format: PremiseAndOneHypothesis, labels: [not_entailment, entailment]}"
ROWS = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n"


def test_a_glue_folder_under_a_definition(load, tmp_path):
    files = {"RTE/train.tsv": ROWS, "RTE/dev.tsv": ROWS}
    data = load(RTE, files)
    assert (data.train.labels, data.task.labels) == ([1, 0], ("not_entailment", "entailment"))
    assert data.task.text_columns == ("premise", "hypothesis")
    assert data.source == "folder"
    plain = load(RTE.replace("labels: [not_entailment, entailment]", "n_class: 2"), files)
    assert (plain.train.labels, plain.task.labels) == ([0, 1], ("0", "1"))
    with pytest.raises(
        ContentError, match="has the labels yes, no, and the data of rte have entailment, not_entailment"
    ):
        load(RTE.replace("not_entailment, entailment", "'yes', 'no'"), files)
    with pytest.raises(
        UsageError, match=r"is classification of 1 text\(s\), and the data of rte are classification of 2"
    ):
        load(RTE.replace("PremiseAndOneHypothesis", "PremiseOnly"), files)


def test_mt_dnn_calls_sst2_sst(load):
    rows = "sentence\tlabel\nfine\t1\npoor\t0\n"
    definition = "sst: {task_type: Classification, data_format: PremiseOnly, n_class: 2}"
    data = load(definition, {"SST-2/train.tsv": rows, "SST-2/dev.tsv": rows})
    assert (data.task.name, data.train.labels, data.task.labels) == ("sst", [1, 0], ("0", "1"))


def test_real_data_under_a_definition(load, shared_data, tmp_path):
    (tmp_path / "glue").symlink_to(shared_data / "glue")
    data = load(RTE, {}, "glue")
    assert (len(data.train), len(data.validation["validation"])) == (2490, 277)


@pytest.fixture
def world(tmp_path):
    """A tiny model, a task file and its data, with soft labels."""
    rows = [(i, ("bad", "good")[i % 2], TEXT[i % 6], "0.9 0.1" if i % 2 == 0 else "0.1 0.9") for i in range(24)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "t_train.tsv").write_text(tsv(*rows))
    (tmp_path / "data" / "t_dev.tsv").write_text(tsv(*(row[:3] for row in rows[:8])))
    (tmp_path / "tasks.yml").write_text(
        ONE.replace("}", ", data: data, dropout_p: 0.25, train_size: 16, learning_rate: 0.002, kd_loss: KlCriterion}")
    )
    make_model(tmp_path / "model", head="none")
    return tmp_path


def settings(world, **fields):
    known = {"target": str(world / "model"), "task": "t", "task_file": str(world / "tasks.yml"), "steps": 6}
    return TransferConfig.of(**known | {"batch_size": 8} | fields)


def test_transfer_of_a_defined_task(world):
    result = transfer(settings(world, save_model=True), world / "run", Runtime(quiet=True))
    assert (result["task"], result["train_examples"], result["learning_rate"]) == ("t", 16, 0.002)
    assert (result["soft_labels"], result["smart"]) == (True, None)
    assert result["metrics"]["accuracy"]["final"]["mean"] >= 0.5
    log = [json.loads(line) for line in (world / "run" / "seed-0" / "metrics.jsonl").read_text().splitlines()]
    assert all(record["soft_loss"] > 0 for record in log if "evaluation" not in record)
    info = json.loads((world / "run" / "seed-0" / "model" / "task.json").read_text())
    assert (info["labels"], info["text_columns"]) == (["bad", "good"], ["premise"])
    assert transfer(settings(world, save_model=True), world / "run", Runtime(quiet=True)) == result


def test_the_definition_is_part_of_the_identity_and_its_place_is_not(world):
    first = prepare_transfer(settings(world), Runtime(quiet=True))
    moved = world / "elsewhere.yml"
    moved.write_text((world / "tasks.yml").read_text() + "\nother: {task_type: Ranking}\n")
    second = prepare_transfer(settings(world, task_file=str(moved)), Runtime(quiet=True))
    assert second.identity(second.config) == first.identity(first.config)
    moved.write_text((world / "tasks.yml").read_text().replace("0.25", "0.5"))
    third = prepare_transfer(settings(world, task_file=str(moved)), Runtime(quiet=True))
    assert third.identity(third.config) != first.identity(first.config)


def test_dropout_before_the_head(world):
    prepared = prepare_transfer(settings(world), Runtime(quiet=True))
    plm = load_for_task(prepared.target.load, prepared.task)
    inside = set(plm.encoder.modules())
    outside = [m.p for m in plm.model.modules() if type(m).__name__ == "Dropout" and m not in inside]
    assert outside == [0.25]
    assert {m.p for m in inside if type(m).__name__ == "Dropout"} == {0.1}


def test_smart_in_a_transfer(world):
    config = settings(world, smart={"alpha": 2.0, "radius": 0.01, "norm": "l2"})
    result = transfer(config, world / "smart", Runtime(quiet=True))
    assert result["smart"]["alpha"] == 2.0
    log = [json.loads(line) for line in (world / "smart" / "seed-0" / "metrics.jsonl").read_text().splitlines()]
    assert all(record["smart"] >= 0 for record in log if "evaluation" not in record)
    with pytest.raises(UsageError, match="--smart and --bf16 contradict each other"):
        transfer(config, world / "other", Runtime(quiet=True, bf16=True))
    with pytest.raises(UsageError, match="--smart -1.0 is impossible"):
        settings(world, smart={"alpha": -1.0})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task-file", "{file}"], "--task-file needs --task, the name of one of its tasks."),
        (["--task-file", "{file}", "--task", "tt"], "Unknown task 'tt'. Did you mean 't'?"),
        (["--task-file", "{file}.yml", "--task", "t"], "There is no file"),
        (["--task-file", "{file}", "--task", "t", "--smart", "-1"], "--smart -1.0 is impossible"),
        (["--task-file", "{file}", "--task", "t", "--label-column", "x"], "--label-column needs --train-file"),
    ],
)
def test_mistakes_on_the_command_line(world, words, message):
    given = [word.format(file=world / "tasks.yml") for word in words]
    words = ["transfer", str(world / "model"), *given, "--dry-run", "--out", str(world / "out")]
    with pytest.raises(UsageError, match=re.escape(message)):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_plan_takes_what_the_option_does_not_say_from_the_file(world):
    (world / "config.yml").write_text("smart: {alpha: 3, norm: l1}\n")
    words = ["transfer", str(world / "model"), "--task-file", str(world / "tasks.yml"), "--task", "t", "--smart", "0.5"]
    more = ["--config", str(world / "config.yml"), "--dry-run", "--json", "--out", str(world / "out")]
    plan = json.loads(CliRunner().invoke(app, words + more, catch_exceptions=False).stdout)["plan"]
    assert (plan["smart"]["alpha"], plan["smart"]["norm"], plan["task"]) == (0.5, "l1", "t")
