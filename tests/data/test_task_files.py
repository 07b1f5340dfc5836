"""Task files: MT-DNN's definitions, our keys in addition, and all mistakes reported at once."""

import re

import pytest

from winning_tickets.data.mtdnn import load_defined_task
from winning_tickets.data.records import METRICS_OF
from winning_tickets.data.task_files import TaskDefinition, load_definitions, task_of
from winning_tickets.models.heads import num_outputs
from winning_tickets.runs.errors import ContentError, UsageError

# The keys and values of the definitions that MT-DNN users have; made-up tasks.
FILE = """
reviews:
  data_format: PremiseOnly
  dropout_p: 0.05
  metric_meta:
  - ACC
  - MCC
  loss: CeCriterion
  kd_loss: MseCriterion
  adv_loss: SymKlCriterion
  n_class: 2
  task_type: Classification
claims:
  data_format: PremiseAndOneHypothesis
  labels:
  - against
  - neither
  - for
  metric_meta: [ACC, F1]
  n_class: 3
  split_names: [train, matched_dev, mismatched_dev, matched_test, mismatched_test]
  task_type: Classification
alike:
  data_format: PremiseAndOneHypothesis
  metric_meta: [Spearman, Pearson]
  n_class: 1
  loss: MseCriterion
  adv_loss: MseCriterion
  task_type: Regression
names:
  data_format: Seqence
  dropout_p: 0.3
  labels: [O, B-PER, I-PER, X, CLS, SEP]
  metric_meta: [SeqEval]
  n_class: 6
  loss: SeqCeCriterion
  split_names: [train, dev]
  task_type: SequenceLabeling
answers:
  data_format: CLUE_SPAN
  metric_meta: [EmF1]
  task_type: Span
  loss: SpanCeCriterion
  n_class: 2
"""


@pytest.fixture
def write(tmp_path):
    def put(text, name="tasks.yml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return put


def refused(path, *lines, names=None):
    with pytest.raises(UsageError) as caught:
        load_definitions(path, names)
    assert str(caught.value).splitlines() == [f"{path}, {line}" for line in lines]


def test_definitions_as_mt_dnn_has_them(write):
    found = {definition.name: definition for definition in load_definitions(write(FILE))}
    assert list(found) == ["reviews", "claims", "alike", "names", "answers"]
    assert [found[name].kind for name in found] == [
        "classification",
        "classification",
        "regression",
        "tokens",
        "span",
    ]
    assert found["claims"].validation_splits == {
        "validation_matched": "matched_dev",
        "validation_mismatched": "mismatched_dev",
    }
    assert found["alike"].validation_splits == {"validation": "dev"}
    assert found["alike"].train_split == "train"


def test_records(write):
    found = {definition.name: task_of(definition) for definition in load_definitions(write(FILE))}
    reviews, claims, alike, names, answers = found.values()
    assert (reviews.labels, reviews.text_columns, reviews.metrics) == (
        ("0", "1"),
        ("premise",),
        ("accuracy", "matthews"),
    )
    assert (reviews.head_dropout, reviews.soft_loss, reviews.adversarial_loss) == (0.05, "mse", "symmetric-kl")
    assert (claims.labels, claims.text_columns) == (("against", "neither", "for"), ("premise", "hypothesis"))
    assert (claims.metrics, claims.soft_loss, claims.head_dropout) == (("accuracy", "f1"), "kl", None)
    assert claims.validation_splits == ("validation_matched", "validation_mismatched")
    assert (alike.kind, alike.labels, alike.metrics) == ("regression", (), ("spearman", "pearson"))
    assert (alike.soft_loss, alike.adversarial_loss) == ("mse", "mse")
    assert (names.labels, names.metrics) == (("O", "B-PER", "I-PER"), ("f1", "accuracy"))
    assert (names.text_columns, names.soft_loss) == (("words",), None)
    assert (answers.metrics, answers.max_length, answers.doc_stride) == (("f1", "exact_match"), 384, 128)
    assert (answers.learning_rate, answers.paper_rate) == (None, 3e-5)
    for task in found.values():
        assert set(task.metrics) <= set(METRICS_OF[task.kind])
        assert num_outputs(task.kind, task.labels) == {"answers": 2, "alike": 1}.get(task.name, len(task.labels))


def test_keys_of_ours(write):
    text = """
mine:
  task_type: Classification
  data_format: PremiseOnly
  labels: [1, 2]
  data: folder
  train_size: 100
  weight: 2
  ticket: tickets/mine
  learning_rate: 0.001
other: {task_type: Regression, data_format: PremiseOnly, train_size: 0.5%, soft_labels: logits}
"""
    mine, other = load_definitions(write(text))
    assert (mine.labels, mine.data, mine.train_size, mine.weight) == (("1", "2"), "folder", "100", 2.0)
    assert (mine.ticket, task_of(mine).learning_rate, task_of(mine).train_size) == ("tickets/mine", 1e-3, "100")
    assert (other.train_size, other.weight, task_of(other).learning_rate) == ("0.5%", 1.0, None)
    assert (task_of(mine).metrics, task_of(other).metrics) == (("accuracy",), ("pearson", "spearman"))
    with pytest.raises(ValueError, match="frozen"):
        mine.weight = 3.0


def test_only_the_tasks_that_are_wanted_must_be_supported(write):
    text = FILE + "ranks: {task_type: Ranking, data_format: PremiseAndMultiHypothesis}\n"
    path = write(text)
    assert [task.name for task in load_definitions(path, ["alike", "claims"])] == ["alike", "claims"]
    refused(
        path,
        "task ranks: Unknown task_type 'Ranking'. Known: Classification, Regression, SeqenceLabeling, "
        "SequenceLabeling, Span, SpanClassification.",
    )
    refused(
        path,
        "Unknown task 'claim'. Did you mean 'claims'? Known: alike, answers, claims, names, ranks, reviews.",
        names=["claim"],
    )


def test_all_problems_at_once(write):
    text = """
a:
  task_typ: Classification
b:
  task_type: Clasification
c:
  task_type: Classification
  data_fromat: PremiseOnly
  n_class: two
d:
  task_type: Classification
  data_format: PremiseOnly
  labels: [x, y]
  n_class: 3
  loss: NsKlCriterion
  adv_loss: SymKlCriteron
  metric_meta: [AUC]
  dropout_p: 1
  weight: 0
  learning_rate: -1
  train_size: 10 %
  split_names: [train, test]
e: 7
"""
    known = ", ".join(sorted(field for field in TaskDefinition.model_fields if field != "name"))
    refused(
        write(text),
        f"task a: Unknown key 'task_typ'. Did you mean 'task_type'? Known: {known}.",
        "task a: the key task_type is missing.",
        "task b: Unknown task_type 'Clasification'. Did you mean 'Classification' or 'SpanClassification'? "
        "Known: Classification, Regression, SeqenceLabeling, SequenceLabeling, Span, SpanClassification.",
        f"task c: Unknown key 'data_fromat'. Did you mean 'data_format' or 'data'? Known: {known}.",
        "task c: n_class: input should be a valid integer, unable to parse string as an integer (found 'two').",
        "task d: Unknown loss 'NsKlCriterion'. Did you mean 'CeCriterion'? Known: CeCriterion.",
        "task d: Unknown adv_loss 'SymKlCriteron'. Did you mean 'SymKlCriterion' or 'KlCriterion' or 'MseCriterion'? "
        "Known: KlCriterion, MseCriterion, SymKlCriterion.",
        "task d: Unknown metric_meta 'AUC'. Did you mean 'ACC'? Known: ACC, F1, MCC.",
        "task d: n_class 3 contradicts the 2 labels.",
        "task d: split_names train, test: expected one with 'train' in its name and one or more with 'dev'.",
        "task d: dropout_p 1.0 is outside [0, 1).",
        "task d: weight 0.0 is impossible; it must be above 0.",
        "task d: learning_rate -1.0 is impossible; it must be above 0.",
        "task d: train_size 10 % is not a size; use a number of examples such as 1000, or a percentage such as 10%.",
        "task e: expected keys and values such as task_type: Classification, found 7.",
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("task_type: Classification, n_class: 2", "data_format is missing; Classification takes PremiseOnly or "),
        ("task_type: Regression, data_format: Sequence", "Unknown data_format 'Sequence'."),
        ("task_type: Classification, data_format: PremiseOnly", "n_class and labels are missing; Classification needs"),
        ("task_type: Classification, data_format: PremiseOnly, n_class: 1", "n_class 1 is impossible; Classification"),
        ("task_type: Regression, data_format: PremiseOnly, n_class: 2", "n_class 2 cannot be used with Regression"),
        ("task_type: Regression, data_format: PremiseOnly, labels: [a, b]", "labels cannot be used with Regression"),
        (
            "task_type: Regression, data_format: PremiseOnly, kd_loss: KlCriterion",
            "Unknown kd_loss 'KlCriterion'. Did you mean 'MseCriterion'? Known: MseCriterion.",
        ),
        (
            "task_type: Span, kd_loss: KlCriterion",
            "kd_loss needs one class or score per text, not Span; remove it.",
        ),
        ("task_type: SequenceLabeling, n_class: 5", "labels are missing; labels of words need names."),
        ("task_type: Classification, data_format: PremiseOnly, labels: [a, a, b]", "labels: a comes twice."),
        (
            "task_type: Classification, data_format: PremiseOnly, labels: [yes, 'no']",
            "labels: YAML reads yes, on or true as a truth value; put it in quotes.",
        ),
        (
            "task_type: Classification, data_format: PremiseOnly, labels: [null, a]",
            "labels: YAML reads null, ~ or an empty entry as no value; put it in quotes, or remove it.",
        ),
        (
            "train_file: a.csv, validation_file: b.csv, kind: mlm",
            "kind: input should be 'classification', 'regression', 'multilabel', 'tokens' or 'span' (found 'mlm').",
        ),
        (
            "task_type: Classification, data_format: PremiseOnly, n_class: 2, data: {train: a.tsv, dv: b.tsv}",
            "data lacks a file for dev.",
        ),
        (
            "task_type: Classification, data_format: PremiseOnly, n_class: 2, data: {train: a, dev: b, dv: b}",
            "Unknown split in data 'dv'. Did you mean 'dev'? Known: dev, test, train.",
        ),
        (
            "task_type: Classification, data_format: PremiseOnly, n_class: 2, soft_labels: odds",
            "soft_labels: input should be 'probabilities' or 'logits' (found 'odds').",
        ),
    ],
)
def test_impossible_definitions(write, fields, message):
    with pytest.raises(UsageError, match=re.escape(f"tasks.yml, task t: {message}")):
        load_definitions(write(f"t: {{{fields}}}"))


def test_keys_of_mt_dnn_that_are_not_supported(write):
    path = write("t: {task_type: Span, enable_san: false, actf: tanh, encoder_type: BERT}")
    keys = ("enable_san", "actf", "encoder_type")
    refused(path, *(f"task t: the key {key} of MT-DNN is not supported; remove it." for key in keys))


def test_a_name_that_cannot_be_part_of_a_file(write):
    with pytest.raises(
        UsageError, match=r"the name '../t' may hold letters, digits, dots, dashes and underscores only"
    ):
        load_definitions(write('"../t": {task_type: Span}'))


def test_what_comes_twice(write):
    text = "a: {task_type: Span}\nb:\n  task_type: Span\n  dropout_p: 0.1\n  task_type: Span\na: {task_type: Span}\n"
    refused(
        write(text),
        "lines 3 and 5: task b: the key task_type comes twice; keep one.",
        "lines 1 and 6: two tasks are named a; keep one.",
    )


@pytest.mark.parametrize("text", ["", "- a\n", "just words", "{}"])
def test_files_of_another_shape(write, text):
    with pytest.raises(UsageError, match=r"tasks.yml must map tasks to definitions"):
        load_definitions(write(text))


def test_files_that_cannot_be_read(write, tmp_path):
    with pytest.raises(UsageError, match=r"The task file .*tasks.yml is not valid YAML"):
        load_definitions(write("a: [1"))
    with pytest.raises(UsageError, match=r"There is no file .*none.yml"):
        load_definitions(tmp_path / "none.yml")
    (tmp_path / "latin.yml").write_bytes("a: é".encode("latin1"))
    with pytest.raises(ContentError, match="is not UTF-8"):
        load_definitions(tmp_path / "latin.yml")


def test_yaml_runs_nothing(write, tmp_path):
    with pytest.raises(UsageError, match="is not valid YAML"):
        load_definitions(write(f"a: !!python/object/apply:pathlib.Path.touch ['{tmp_path}/ran']"))
    assert not (tmp_path / "ran").exists()


def test_a_task_of_ones_own_files(tmp_path):
    (tmp_path / "train.csv").write_text("body,topic\na cat,x\na dog,y\nrain,\n")
    (tmp_path / "dev.csv").write_text("body,topic\na bird,y\n")
    (tmp_path / "tasks.yml").write_text(
        "support: {train_file: train.csv, validation_file: dev.csv, text_columns: body, label_column: topic,\n"
        "  metric: macro_f1, drop_unlabelled: true, weight: 2.0, learning_rate: 0.001}\n"
    )
    (definition,) = load_definitions(tmp_path / "tasks.yml")
    data = load_defined_task(definition, tmp_path / "tasks.yml")
    assert (data.task.name, data.task.labels, data.task.metrics) == ("support", ("x", "y"), ("macro_f1", "accuracy"))
    assert (data.task.weight, data.task.learning_rate) == (2.0, 0.001)
    assert data.unlabelled == {"train": 1, "validation": 0}
    (tmp_path / "tasks.yml").write_text("support: {train_file: train.csv, labelcolumn: topic}\n")
    refused(
        tmp_path / "tasks.yml",
        "task support: Unknown key 'labelcolumn'. Did you mean 'label_column' or 'text_columns'? Known: "
        "drop_unlabelled, dropout_p, kind, label_column, learning_rate, metric, text_columns, ticket, train_file, "
        "train_size, validation_file, weight.",
        "task support: the key validation_file is missing.",
    )
