"""Objectives against naive loops and against the Hugging Face models themselves."""

import pytest
import torch

from samples.batches import batch_of, labels_of
from samples.tiny_models import CONFIGS, make_model
from winning_tickets.models.loading import load_plm, prunable_names, set_dropout
from winning_tickets.models.twin import make_twin
from winning_tickets.pruning.one_shot import activation_importance, input_norms
from winning_tickets.tickets.masking import MaskedWeights, modes
from winning_tickets.training.objectives.pretraining import PretrainingObjective
from winning_tickets.training.objectives.task import TaskObjective
from winning_tickets.training.objectives.terms import kd_sum, lm_logits
from winning_tickets.training.parallel import shard_batch


@pytest.mark.parametrize("kind", CONFIGS)
def test_mlm_at_masked_positions_equals_the_whole_head(tmp_path, kind):
    plm = load_plm(str(make_model(tmp_path / "m", kind)), head="mlm")
    batch = batch_of()
    with modes(plm.model, training=False), torch.no_grad():
        labels = labels_of(batch)
        whole = plm.model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels)
        hidden = plm.model.base_model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        logits = lm_logits(plm.model, plm.architecture, hidden.flatten(0, 1).index_select(0, batch["masked_positions"]))
        objective = PretrainingObjective({"mlm": 1.0}, plm.architecture)
        total = objective(plm.model, batch)["mlm"]
    assert torch.allclose(logits, whole.logits[labels != -100], atol=1e-5)
    assert float(total / objective.counts(batch)["mlm"]) == pytest.approx(float(whole.loss), rel=1e-5)


def test_kd_is_one_minus_cosine_over_unpadded_tokens():
    torch.manual_seed(0)
    student = tuple(torch.randn(3, 9, 8) for _ in range(2))
    teacher = tuple(torch.randn(3, 9, 8) for _ in range(2))
    attention = batch_of()["attention_mask"]
    naive = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        for row in range(3):
            for position in range(9):
                if attention[row, position]:
                    a, b = ours[row, position], theirs[row, position]
                    naive += float(1 - a @ b / (a.norm() * b.norm())) / 2
    assert float(kd_sum(student, teacher, attention)) == pytest.approx(naive, rel=1e-5)
    assert float(kd_sum(teacher, teacher, attention)) == 0.0


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_sum_over_micro_batches_is_the_sum_over_the_batch(tmp_path, kind):
    plm = load_plm(str(make_model(tmp_path / "m", kind)), head="mlm")
    masked = MaskedWeights(plm.encoder, prunable_names(plm))
    masked.write({name: torch.rand(weight.shape) > 0.5 for name, weight in masked.dense_weights.items()})
    objective = PretrainingObjective(
        {"mlm": 1.0, "kd": 1.0}, plm.architecture, make_twin(plm.model, masked.dense_weights)
    )
    batch = batch_of()
    with modes(plm.model, training=False), torch.no_grad():
        whole = objective(plm.model, batch)
        parts = [objective(plm.model, shard_batch(batch, i, 3)) for i in range(3)]
    for name in ("mlm", "kd"):
        assert float(sum(part[name] for part in parts)) == pytest.approx(float(whole[name]), rel=1e-4)


def test_the_teacher_runs_without_dropout_unless_told(tmp_path):
    plm = load_plm(str(make_model(tmp_path / "m")))
    set_dropout(plm.model, 0.5)
    plm.model.train()
    clean = PretrainingObjective({"kd": 1.0}, plm.architecture, make_twin(plm.model, {}))
    noisy = PretrainingObjective({"kd": 1.0}, plm.architecture, make_twin(plm.model, {}).train())
    batch = batch_of()
    set_dropout(plm.model, 0.0)  # the teachers keep theirs
    with torch.no_grad():
        assert float(clean(plm.model, batch)["kd"]) == 0.0  # a student without dropout and without pruning
        first, second = (float(noisy(plm.model, batch)["kd"]) for _ in range(2))
    assert 0.0 < first != second
    assert all(module.training for module in plm.model.modules())
    assert not any(module.training for module in clean.teacher.modules())


@pytest.mark.parametrize("regression", [False, True])
def test_task_losses_are_those_of_the_library(tmp_path, regression):
    plm = load_plm(str(make_model(tmp_path / "m")), head="classification", num_labels=1 if regression else 3)
    plm.model.config.problem_type = "regression" if regression else "single_label_classification"
    batch = batch_of()
    labels = torch.tensor([0.5, 2.0, 1.0]) if regression else torch.tensor([0, 2, 1])
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    objective = TaskObjective("regression" if regression else "classification")
    with modes(plm.model, training=False), torch.no_grad():
        expected = plm.model(**inputs).loss
        found = objective(plm.model, inputs)["loss"] / objective.counts(inputs)["loss"]
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_input_norms_equal_a_naive_pass(tmp_path):
    plm = load_plm(str(make_model(tmp_path / "m")))
    name = "encoder.layer.0.attention.self.query.weight"
    batches = [batch_of(seed) for seed in range(2)]
    found = input_norms(plm.model, [name, "embeddings.word_embeddings.weight"], batches, torch.device("cpu"))
    assert set(found) == {name}
    plm.model.eval()
    squares = torch.zeros(32)
    with torch.no_grad():
        for batch in batches:
            embedded = plm.model.embeddings(batch["input_ids"])
            squares += embedded[batch["attention_mask"].bool()].square().sum(0)
    assert torch.allclose(found[name], squares.sqrt(), rtol=1e-5)
    weights = {name: torch.full((2, 32), -2.0), "other": torch.tensor([-3.0])}
    importance = activation_importance(weights, found)
    assert torch.allclose(importance[name], 2.0 * found[name].expand(2, 32))
    assert importance["other"].tolist() == [3.0]


def test_masked_tokens_that_are_predicted_are_counted(tmp_path):
    plm = load_plm(str(make_model(tmp_path / "bert", head="mlm")), head="mlm")
    plm.model.eval()
    ids = torch.arange(5, 29).view(2, 12)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = plm.model(**batch).logits.argmax(-1)  # right
    labels[0, ::2] = -100  # not masked
    labels[1, :5] += 1  # wrong
    positions = (labels != -100).flatten().nonzero().squeeze(1)
    batch |= {"masked_positions": positions, "masked_ids": labels.flatten()[positions]}
    correct = PretrainingObjective({"accuracy": 1.0}, plm.architecture)(plm.model, batch)["accuracy"]
    assert int(correct) == 6 + 7


def test_the_loss_of_a_task_counts_once():
    assert TaskObjective("classification").weights == {"loss": 1.0}
