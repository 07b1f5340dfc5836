"""Metrics of fixed predictions against the formulas that the official scripts of GLUE and SQuAD v1.1 compute."""

import json
import math
import re
import string
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from winning_tickets.data.metrics import combine_splits
from winning_tickets.data.records import Split
from winning_tickets.data.squad import read_articles, squad_metrics
from winning_tickets.data.tasks import TASKS
from winning_tickets.models.heads import KINDS


def accuracy(found, right):
    return Fraction(sum(a == b for a, b in zip(found, right, strict=True)), len(right))


def f1(found, right):
    """Of class 1: the harmonic mean of precision and recall."""
    both = sum(a == b == 1 for a, b in zip(found, right, strict=True))
    return Fraction(2 * both, max(1, sum(found) + sum(right)))


def matthews(found, right):
    counts = Counter(zip(found, right, strict=True))
    tp, tn, fp, fn = counts[1, 1], counts[0, 0], counts[1, 0], counts[0, 1]
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0


def pearson(found, right):
    left, other = ([Fraction(value) for value in values] for values in (found, right))
    left, other = ([value - sum(values) / len(values) for value in values] for values in (left, other))
    scale = sum(value**2 for value in left) * sum(value**2 for value in other)
    return float(sum(a * b for a, b in zip(left, other, strict=True))) / math.sqrt(scale) if scale else 0.0


def ranks(values):
    """Places counted from 1; equal values share the mean of theirs."""
    return [Fraction(2 * sum(b < a for b in values) + sum(b == a for b in values) + 1, 2) for a in values]


def spearman(found, right):
    return pearson(ranks(found), ranks(right))


ORACLES = {"accuracy": accuracy, "f1": f1, "matthews": matthews, "pearson": pearson, "spearman": spearman}
OFFICIAL = {
    "cola": ["matthews"],
    "sst2": ["accuracy"],
    "mrpc": ["accuracy", "f1"],
    "stsb": ["pearson", "spearman"],
    "qqp": ["accuracy", "f1"],
    "mnli": ["accuracy_matched", "accuracy_mismatched"],
    "qnli": ["accuracy"],
    "rte": ["accuracy"],
    "wnli": ["accuracy"],
}
"""Which numbers the GLUE benchmark reports (Wang et al. 2019, Table 1)."""


def fixed(seed, count, task):
    """The same pseudo-random labels and predictions on every machine: right about two times in three."""
    state, labels, found = seed, [], []
    for _ in range(count):
        state = (1103515245 * state + 12345) % 2**31
        first, second, third = state >> 8 & 255, state >> 16 & 255, state >> 24 & 127
        if task.is_regression:
            labels.append(first % 26 / 5)
            found.append(float(np.float32(labels[-1] * 0.7 + second % 8 / 4)))  # with ties
        else:
            labels.append(first % len(task.labels))
            found.append(labels[-1] if third % 3 else second % len(task.labels))
    return found, labels


def score(task, found, labels):
    """What a fine-tuning reports where the model's head gives these predictions."""
    if task.is_regression:
        outputs = [np.array([value], dtype=np.float32) for value in found]
    else:
        outputs = list(np.eye(len(task.labels), dtype=np.float32)[found] - 0.5)
    return KINDS[task.kind].score(task, outputs, None, Split(([""] * len(labels),), labels))


def test_the_nine_tasks_report_what_glue_reports():
    hub = {name for name, task in TASKS.items() if task.hub is not None and task.hub[0] == "nyu-mll/glue"}
    assert set(OFFICIAL) == hub


@pytest.mark.parametrize("name", OFFICIAL)
def test_glue_metrics_are_the_formulas(name):
    task = TASKS[name]
    splits = {split: fixed(7 + place, 211 + 60 * place, task) for place, split in enumerate(task.validation_splits)}
    values = combine_splits(task, {split: score(task, *pair)[0] for split, pair in splits.items()})
    assert sorted(values) == sorted(OFFICIAL[name])
    expected = {}
    for split, (found, labels) in splits.items():
        suffix = split.removeprefix("validation")
        expected |= {metric + suffix: float(ORACLES[metric](found, labels)) for metric in task.metrics}
    assert values == pytest.approx(expected, rel=1e-12)
    assert all(0.3 < value < 0.99 for value in values.values())  # the predictions are neither perfect nor chance
    assert len(set(values.values())) == len(values)


@pytest.mark.parametrize("name", OFFICIAL)
def test_perfect_wrong_and_constant_predictions(name):
    """A constant has no correlation: SciPy says NaN there, which counts as 0, and the result says `degenerate`."""
    task = TASKS[name]
    _, labels = fixed(3, 50, task)
    classes = max(2, len(task.labels))
    cases = {"right": labels, "first": [0] * 50, "last": [1] * 50}
    cases["wrong"] = [-value for value in labels] if task.is_regression else [(v + 1) % classes for v in labels]
    for case, found in cases.items():
        values, degenerate = score(task, found, labels)
        assert values == pytest.approx({m: float(ORACLES[m](found, labels)) for m in task.metrics}, abs=1e-6)
        assert degenerate == (case in ("first", "last"))
        if case == "right":
            assert list(values.values()) == pytest.approx([1.0] * len(values))


def test_values_that_were_worked_out_by_hand():
    """tp 3, fp 1, fn 2, tn 4; and ranks 1, 2.5, 2.5, 4 beside 1, 2, 3, 4."""
    found, labels = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
    assert score(TASKS["mrpc"], found, labels)[0] == pytest.approx({"accuracy": 0.7, "f1": 2 / 3})
    assert score(TASKS["cola"], found, labels)[0] == pytest.approx({"matthews": 10 / math.sqrt(600)})
    values, _ = score(TASKS["stsb"], [0.0, 1.0, 1.0, 4.0], [0.0, 1.0, 2.0, 5.0])
    assert values == pytest.approx({"pearson": 11 / math.sqrt(9 * 14), "spearman": 4.5 / math.sqrt(4.5 * 5)})


def squad_words(text):
    text = "".join(" " if letter.isspace() else letter.lower() for letter in text if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_oracle(path, answer):
    """Percentages as the official script defines them: it reads the file itself, question by question."""
    exact, overlap, questions = 0, Fraction(0), 0
    for article in json.loads(path.read_text())["data"]:
        for paragraph in article["paragraphs"]:
            for row in paragraph["qas"]:
                texts = [given["text"] for given in row["answers"]]
                words, best = squad_words(answer(questions, texts, paragraph["context"])), Fraction(0)
                for truth in map(squad_words, texts):
                    common = sum((Counter(words) & Counter(truth)).values())
                    if common:
                        best = max(best, Fraction(2 * common, len(words) + len(truth)))
                exact += words in map(squad_words, texts)
                overlap += best
                questions += 1
    return {"exact_match": Fraction(exact, questions), "f1": overlap / questions}


PREDICTED = {
    "the first answer": lambda number, texts, context: texts[0],
    "the last one, dressed up": lambda number, texts, context: f" The {texts[-1].upper()}!",
    "its first half": lambda number, texts, context: texts[0][: len(texts[0]) // 2 + 1],
    "the first words of the text": lambda number, texts, context: context[: 10 + number % 40],
    "nothing": lambda number, texts, context: "",
    "a mixture": lambda number, texts, context: ("", texts[0], f"{texts[0]} {context[:9]}", "a the")[number % 4],
}


@pytest.mark.parametrize("case", PREDICTED)
def test_squad_metrics_of_fixed_predictions_on_the_real_questions(shared_data, case):
    path = shared_data / "squad" / "dev-v1.1.json"
    expected = squad_oracle(path, PREDICTED[case])
    split = read_articles(path)
    truths = [answers.texts for answers in split.labels]
    found = [
        PREDICTED[case](number, texts, context)
        for number, (texts, context) in enumerate(zip(truths, split.texts[1], strict=True))
    ]
    values = squad_metrics(found, truths)
    assert values == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-12)
    wanted = {"the first answer": 1.0, "the last one, dressed up": 1.0, "nothing": 0.0}
    assert values["exact_match"] == wanted.get(case, values["exact_match"])


@pytest.mark.parametrize(
    ("prediction", "truths", "exact", "f1_score"),
    [
        ("the Denver Broncos.", ["Denver Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos", "The Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos", "Broncos of Denver"], 0, 2 / 3),
        ("Denver Denver Broncos", ["Denver Broncos"], 0, 0.8),
        ("", ["Denver"], 0, 0),
        ("the", ["a"], 1, 0),  # nothing is left of either: equal, and no word in common
        ("24\u201310", ["24-10"], 0, 0),  # a dash is not ASCII punctuation and stays
        ("Santa Clara, California", ["Santa Clara", "Levi's Stadium"], 0, 0.8),
    ],
)
def test_squad_metrics_of_one_answer(prediction, truths, exact, f1_score):
    assert squad_metrics([prediction], [truths]) == pytest.approx({"exact_match": exact, "f1": f1_score})
