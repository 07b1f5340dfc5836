"""Fine-tuning with a teacher, and with another dropout: the loss, its effect, the run's identity, refusals."""

import importlib
import json
import shutil

import pytest
import torch
from torch.nn import functional

from samples.tiny_models import make_model
from samples.tiny_tasks import tasks_fixture
from winning_tickets import Runtime, TransferConfig, transfer
from winning_tickets.data.tasks import TASKS
from winning_tickets.finetuning.setup import prepare_transfer
from winning_tickets.finetuning.teacher import Teacher
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.directory import read_log
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.saved_model import TaskInfo, find_model, load_fine_tuned

transfer_module = importlib.import_module("winning_tickets.finetuning.transfer")
QUIET = Runtime(quiet=True)
_tiny_tasks = tasks_fixture()


@pytest.fixture(scope="module")
def ticket(ticket_path):
    return str(ticket_path)


def settings(target, task="sst2", **fields):
    return TransferConfig(target=target, task=task, steps=3, batch_size=8, learning_rate=1e-3, **fields)


@pytest.fixture(scope="module", params=["sst2", "stsb", "squad"])
def dense(request, bert, tmp_path_factory):
    """The task, and the folder of the dense model fine-tuned on it."""
    path = tmp_path_factory.mktemp("dense") / "run"
    transfer(settings(bert, request.param, save_model=True), path, QUIET)
    return request.param, path


def test_the_loss_is_that_of_the_task_and_the_distances(dense, ticket):
    name, path = dense
    config = settings(ticket, name, teacher=str(path), teacher_weight=0.5, teacher_states=True, dropout=0.0)
    prepared = prepare_transfer(config, QUIET)
    student = prepared.load(0)
    student.model.eval()
    objective = prepared.teacher.objective(prepared.task, config)
    batch = transfer_module._learning(prepared, student, 0)[0][0]
    with torch.no_grad():
        found, counts = objective(student.model, batch), objective.counts(batch)

    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        ours = student.model(**inputs, output_hidden_states=True)
        theirs = load_fine_tuned(find_model(path), TaskInfo.read(find_model(path))).model.eval()
        theirs = theirs(**inputs, output_hidden_states=True)
    real = batch["attention_mask"].bool()
    rows = len(real)
    if name == "sst2":
        wanted = functional.cross_entropy(ours.logits, batch["labels"])
        kl = theirs.logits.softmax(-1) * (theirs.logits.log_softmax(-1) - ours.logits.log_softmax(-1))
        outputs = kl.sum() / rows
    elif name == "stsb":
        wanted = functional.mse_loss(ours.logits.squeeze(-1), batch["labels"])
        outputs = functional.mse_loss(ours.logits, theirs.logits)
    else:
        starts, ends = batch["labels"].unbind(-1)
        wanted = functional.cross_entropy(ours.start_logits, starts) + functional.cross_entropy(ours.end_logits, ends)
        wanted, outputs = wanted / 2, 0
        for mine, other in ((ours.start_logits, theirs.start_logits), (ours.end_logits, theirs.end_logits)):
            mine, other = (each.masked_fill(~real, -torch.inf).log_softmax(-1) for each in (mine, other))
            outputs += (other.exp() * (other - mine).masked_fill(~real, 0)).sum() / rows / 2
    layers = zip(ours.hidden_states[1:], theirs.hidden_states[1:], strict=True)
    states = [(1 - torch.cosine_similarity(mine, other, dim=-1))[real].sum() / real.sum() for mine, other in layers]

    assert objective.weights == {"loss": 1.0, "teacher_logits": 0.5, "teacher_states": 0.5}
    means = {part: float(value / counts[part]) for part, value in found.items()}
    assert means["loss"] == pytest.approx(float(wanted), rel=1e-4)
    assert means["teacher_logits"] == pytest.approx(float(outputs), rel=1e-3, abs=1e-7)
    assert means["teacher_states"] == pytest.approx(float(torch.stack(states).mean()), rel=1e-3)


def test_a_teacher_gets_the_segments_that_its_student_does_not_read(tmp_path, bert):
    transfer(settings(bert, "stsb", save_model=True), tmp_path / "dense", QUIET)
    path = make_model(tmp_path / "student", "distilbert")
    written = json.loads((path / "tokenizer_config.json").read_text())
    names = {"model_input_names": ["input_ids", "attention_mask"]}  # as those of DistilBERT
    (path / "tokenizer_config.json").write_text(json.dumps(written | names))
    config = settings(str(path), "stsb", teacher=str(tmp_path / "dense"), dropout=0.0)
    prepared = prepare_transfer(config, QUIET)
    student = prepared.load(0)
    student.model.eval()
    batch = transfer_module._learning(prepared, student, 0)[0][0]
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        found = prepared.teacher.objective(prepared.task, config)(student.model, batch)["teacher_logits"]
        theirs = prepared.teacher.plm.model(**inputs).logits
        without = prepared.teacher.plm.model(**inputs | {"token_type_ids": None}).logits
        ours = student.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert set(batch["token_type_ids"].unique().tolist()) == {0, 1}
    assert not torch.allclose(theirs, without)
    assert found == pytest.approx(float(functional.mse_loss(ours, theirs, reduction="sum")), rel=1e-4)
    assert "token_type_ids" not in prepared.validation["validation"].columns


@pytest.fixture(scope="module")
def teacher(bert, tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "run"
    transfer(settings(bert, save_model=True), path, QUIET)
    return path


def test_a_training_follows_its_teacher(tmp_path, ticket, teacher):
    losses = {}
    for weight in (1e-6, 10.0):
        config = settings(ticket, teacher=str(teacher), teacher_weight=weight).model_copy(update={"steps": 20})
        result = transfer(config, tmp_path / f"run-{weight}", QUIET)
        assert result["teacher"] == str(teacher)
        log = read_log(tmp_path / f"run-{weight}" / "seed-0")
        losses[weight] = [record["teacher_logits"] for record in log if "teacher_logits" in record][-1]
    assert losses[10.0] < 0.5 * losses[1e-6]


def test_the_content_of_a_teacher_counts_and_not_its_place(tmp_path, ticket, teacher):
    shutil.copytree(teacher, tmp_path / "moved")
    ids = [
        prepared.identity(prepared.config)
        for prepared in (
            prepare_transfer(settings(ticket, **fields), QUIET)
            for fields in ({"teacher": str(teacher)}, {"teacher": str(tmp_path / "moved")}, {})
        )
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({"dropout": 0.25}, 0.25), ({"dropout": "model"}, 0.1), ({}, 0.0), ({"profile": "paper"}, 0.1)],
)
def test_dropout_is_that_of_the_encoder(ticket, fields, expected):
    model = prepare_transfer(settings(ticket, **fields), QUIET).load(0).model
    assert {module.p for module in model.bert.modules() if isinstance(module, torch.nn.Dropout)} == {expected}
    assert model.dropout.p == 0.1


@pytest.mark.parametrize("value", ["1", "-0.1", "nan", "none", True])
def test_an_impossible_dropout_is_refused(value):
    with pytest.raises(UsageError, match="it must be a number from 0 to below 1, or model"):
        TransferConfig.of(target="m", task="rte", dropout=value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher_weight": 2.0}, "--teacher-weight needs --teacher"),
        ({"teacher_states": True}, "--teacher-states needs --teacher"),
        ({"teacher": "nowhere"}, "no run nowhere"),
        ({"teacher": "PARENT/runn"}, r"--teacher: There is no folder .*Did you mean"),
        ({"teacher": "TICKET"}, "is a ticket, not a fine-tuned model"),
        ({"teacher": "RUN", "smart": {}}, "--teacher and --smart contradict each other"),
        ({"teacher": "RUN", "task": "mnli"}, "was fine-tuned for sst2"),
        ({"teacher": "RUN", "task": "mlm", "corpus": "pydocs"}, "--teacher is for tasks with labels"),
    ],
)
def test_a_teacher_that_cannot_be_followed_is_refused(monkeypatch, tmp_path, ticket, teacher, fields, message):
    monkeypatch.chdir(teacher.parent.parent)
    places = {"RUN": str(teacher), "TICKET": ticket, "PARENT/runn": f"{teacher.parent.name}/runn"}
    fields = {name: places.get(value, value) if isinstance(value, str) else value for name, value in fields.items()}
    with pytest.raises(UsageError, match=message):
        transfer(settings(ticket, **{"task": "sst2"} | fields), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_another_shape_can_give_outputs_only(tmp_path, ticket, bert, teacher):
    student = load_plm(bert, layers=1)
    found = Teacher.find(str(teacher), TASKS["sst2"], student, with_states=False)
    assert not any(parameter.requires_grad for parameter in found.plm.model.parameters())
    with pytest.raises(UsageError, match=r"--teacher-states compares layer with layer: .* has 2 of width"):
        Teacher.find(str(teacher), TASKS["sst2"], student, with_states=True)


def test_a_teacher_with_other_tokens_is_refused(tmp_path, ticket, teacher, bert):
    student = load_plm(bert)
    student.tokenizer.add_tokens(["another"])
    with pytest.raises(UsageError, match="another vocabulary"):
        Teacher.find(str(teacher), TASKS["sst2"], student, with_states=False)
