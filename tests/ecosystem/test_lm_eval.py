"""The EleutherAI evaluation harness: tasks from local files, on dense models and tickets of decoders."""

import json
import math

import pytest
import torch
import yaml

from samples.tiny_decoders import make_decoder
from samples.tiny_models import make_model
from winning_tickets import EvaluateConfig, Runtime, SearchConfig, evaluate, search
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.errors import ContentError, UsageError

QUIET = Runtime(quiet=True)
QUESTIONS = [
    {"question": "The sun is", "choices": [" hot", " green and square"], "answer": 0},
    {"question": "Water is", "choices": [" an old friend of mine", " wet"], "answer": 1},
    {"question": "Grass is", "choices": [" green", " made of stone, they say"], "answer": 0},
]


@pytest.fixture(autouse=True)
def _harness(library):
    return library("lm_eval")


@pytest.fixture
def folder(tmp_path):
    """Tasks of a folder: choices, and the perplexity of a text."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "questions.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tasks / "questions.jsonl")}}}
    common |= {"test_split": "test", "metadata": {"version": 1}}
    choices = common | {
        "task": "our_questions",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tasks / "questions.yaml").write_text(yaml.safe_dump(choices))
    make_decoder(tmp_path / "llama")
    return tmp_path


def likelihood(model, tokenizer, prompt, choice):
    """The logarithm of a choice's probability, by the plain model."""
    first, ids = (tokenizer(text, return_tensors="pt")["input_ids"] for text in (prompt, prompt + choice))
    logs = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
    return float(logs.detach()[first.shape[1] - 1 :].sum())


@torch.no_grad()
def expected_accuracy(plm):
    right = [
        max((0, 1), key=lambda place: likelihood(plm.model, plm.tokenizer, one["question"], one["choices"][place]))
        == one["answer"]
        for one in QUESTIONS
    ]
    return sum(right) / len(right)


def measured(folder, target, **settings):
    config = EvaluateConfig(
        target=str(target), harness_tasks=("our_questions",), tasks_dir=str(folder / "tasks"), **settings
    )
    return evaluate(config, QUIET)


def test_scores_are_those_of_the_plain_model(folder):
    result = measured(folder, folder / "llama")
    plm = load_plm(str(folder / "llama"), head="clm")
    assert result["tasks"]["our_questions"]["acc"] == pytest.approx(expected_accuracy(plm))
    assert result["task_examples"] == {"our_questions": 3}
    assert result["kd_loss"] is None
    assert measured(folder, folder / "llama", limit=2)["task_examples"] == {"our_questions": 2}


def test_a_ticket_is_measured_with_its_masks_on(folder):
    ticket = search(SearchConfig(model=str(folder / "llama"), method="magnitude", sparsity=0.9), folder / "t", QUIET)
    plm = load_plm(str(folder / "llama"), head="clm")
    dense = [likelihood(plm.model, plm.tokenizer, "The sun is", choice) for choice in QUESTIONS[0]["choices"]]
    ticket.apply_(plm.model)
    pruned = [likelihood(plm.model, plm.tokenizer, "The sun is", choice) for choice in QUESTIONS[0]["choices"]]
    assert not any(math.isclose(one, other) for one, other in zip(dense, pruned, strict=True))
    assert measured(folder, folder / "t")["tasks"]["our_questions"]["acc"] == pytest.approx(expected_accuracy(plm))


def test_what_is_refused(folder):
    make_model(folder / "bert")
    (folder / "tasks" / "questions.jsonl").unlink()
    with pytest.raises(UsageError, match="bert is an encoder, which predicts masked tokens"):
        measured(folder, folder / "bert")
    with pytest.raises(ContentError, match="The harness could not run our_questions"):
        measured(folder, folder / "llama")
    config = EvaluateConfig(target=str(folder / "llama"), harness_tasks=("our_question",))
    with pytest.raises(UsageError, match="Unknown task of the harness 'our_question'"):
        evaluate(config, QUIET)
