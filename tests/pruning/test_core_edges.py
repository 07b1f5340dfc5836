"""Details of the core that a changed comparison, operator or constant alters and no other test notices."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from learning import QUIET, corpus_of, learning, without_dropout
from test_compact import tiny
from test_mask_optimizer import TUNED, make, variant
from test_masking import classifier
from test_task_tickets import TASKS, shared, structured, unstructured
from test_ticket import make_ticket
from tiny_models import make_model
from torch import nn
from winning_tickets.compact import compact_
from winning_tickets.errors import ContentError, UsageError
from winning_tickets.importance import Importance
from winning_tickets.mask_optimizer import BertAdam
from winning_tickets.membership import pieces_of
from winning_tickets.objectives import TaskObjective
from winning_tickets.objectives.pretraining import PretrainingObjective
from winning_tickets.plm import load_plm
from winning_tickets.search import imp as imp_module
from winning_tickets.search import search_all
from winning_tickets.sharing_results import weight_remaining
from winning_tickets.sharing_setup import check
from winning_tickets.task_tickets import TaskTickets

from winning_tickets import TicketCallback, hold
from winning_tickets.config import ShareConfig

sharing = importlib.import_module("winning_tickets.sharing")


def test_one_head_is_removed_from_a_model_that_is_whole_otherwise():
    model = tiny("bert")
    compact = compact_(model, {"layers.1.heads": torch.tensor([True, True, False, True])})
    assert [layer["heads"] for layer in compact["layers"]] == [[0, 1, 2, 3], [0, 1, 3], [0, 1, 2, 3]]


def test_one_neuron_is_removed_from_a_model_that_is_whole_otherwise():
    model = tiny("bert")
    width = model.config.intermediate_size
    compact = compact_(model, {"layers.2.neurons": torch.arange(width) > 0})
    assert [layer["neurons"] for layer in compact["layers"]] == [width, width, width - 1]


def test_a_ticket_goes_onto_other_weights_only_when_a_run_resumes():
    ticket = make_ticket(classifier(seed=0))
    other = classifier(seed=1)
    with pytest.raises(ContentError, match="weights"):
        TicketCallback(ticket).on_train_begin(None, SimpleNamespace(global_step=0), None, model=other)
    TicketCallback(ticket).on_train_begin(None, SimpleNamespace(global_step=1), None, model=other)
    TicketCallback(ticket, True).on_train_begin(None, SimpleNamespace(global_step=0), None, model=other)


@pytest.mark.parametrize("corrected", [True, False])
def test_decay_makes_weights_smaller(corrected):
    weight = nn.Parameter(torch.full((3,), 2.0))
    optimizer = BertAdam([{"params": [weight], "lr": 0.5}], 1e-8, 0.1, corrected)
    weight.grad = torch.zeros(3)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.full((3,), 2.0 * (1 - 0.5 * 0.1)))


def test_the_weight_that_remains_is_counted_of_each_task_and_of_all():
    model, structure = shared()
    encoder = model.base_model
    made = {"rte": unstructured(model, structure, 0), "cola": structured(structure, 1)}
    tickets = TaskTickets(encoder, made, allow_other_weights=True)
    remaining, of_each = weight_remaining(encoder, tickets, list(TASKS))
    total = sum(parameter.numel() for parameter in encoder.parameters())
    for task in TASKS:
        closed = sum(int((~mask).sum()) for mask in tickets.selections.get(task, {}).values())
        assert of_each[task] == pytest.approx((total - closed) / total)
    assert of_each["stsb"] == remaining == 1
    assert 0 < of_each["cola"] < 1


def test_a_checkpoint_of_scores_has_the_settings_of_groups_and_not_their_parameters():
    groups = make(TUNED)[2].state_dict()["param_groups"]
    assert groups
    assert all("lr" in group and "params" not in group for group in groups)


def test_masked_tokens_that_are_predicted_are_counted(tmp_path):
    plm = load_plm(str(make_model(tmp_path / "bert", head="mlm")), head="mlm")
    plm.model.eval()
    ids = torch.arange(5, 29).view(2, 12)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = plm.model(**batch).logits.argmax(-1)  # right
    labels[0, ::2] = -100  # not masked
    labels[1, :5] += 1  # wrong
    _, correct = PretrainingObjective({"mlm": 1.0}, plm.architecture).forward(plm.model, {**batch, "labels": labels})
    assert int(correct) == 6 + 7


def test_tickets_of_other_weights_are_refused_unless_allowed():
    encoder, ticket = classifier(seed=0).base_model, make_ticket(classifier(seed=1))
    with pytest.raises(ContentError, match="weights"):
        TaskTickets(encoder, {"rte": ticket})
    TaskTickets(encoder, {"rte": ticket}, allow_other_weights=True)
    with pytest.raises(ContentError, match="weights"):
        hold(classifier(seed=0), ticket)
    hold(classifier(seed=0), ticket, allow_other_weights=True)


@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_an_impossible_rate_of_single_tasks_is_refused(value):
    with pytest.raises(UsageError, match="--single-learning-rate .* is impossible"):
        check(ShareConfig(tasks=("rte",), model="m", tickets="auto", level={"rte": 50}, single_learning_rate=value))


def test_the_dropout_of_a_shared_model_may_be_0():
    check(ShareConfig(tasks=("rte",), model="m", dropout_p={"rte": 0.0}))


def test_between_adjustments_an_entry_that_reached_the_threshold_is_kept():
    _, masked, optimizer = make(variant(threshold="reached", reselect_steps=5))
    optimizer.reselect(exact=False)
    for (name, score), threshold in zip(optimizer.scores.items(), optimizer.state_dict()["thresholds"], strict=True):
        assert torch.equal(masked.masks[name], score.view_as(masked.masks[name]) >= threshold)


def test_a_parameter_of_one_row_is_cut_by_columns():
    masks = {"a": torch.tensor([[True, False, True]]), "b": torch.tensor([[True, True, False]])}
    pieces = pieces_of((1, 3), ("a", "b"), masks)
    assert {tuple(sorted(piece.tasks)): piece.length for piece in pieces} == {("a", "b"): 1, ("a",): 1, ("b",): 1}


def test_the_loss_of_a_task_counts_once():
    assert TaskObjective("classification").weights == {"loss": 1.0}


def test_the_id_of_an_importance_has_16_digits():
    assert len(Importance({}, {}, None, {}).id) == 16


def test_sharing_uses_the_runtime_it_is_given(monkeypatch, tmp_path):
    class Seen(Exception):  # noqa: N818
        pass

    def prepare(config, runtime):
        assert runtime is QUIET
        raise Seen

    monkeypatch.setattr(sharing, "prepare", prepare)
    with pytest.raises(Seen):
        sharing.share(None, tmp_path / "out", QUIET)


@pytest.fixture(scope="module")
def imp(tmp_path_factory):
    """A function that runs two rounds of iterative pruning and returns the last mask."""
    folder = tmp_path_factory.mktemp("imp")
    model, corpus = without_dropout(make_model(folder / "bert", head="mlm+pooler")), corpus_of(folder)

    def run(out, **fields):
        config = learning(model, "imp", corpus, sparsity=(0.2, 0.5), learning_rate=1e-2, round_steps=2, **fields)
        return search_all(config, out, QUIET)[0.5].masks

    return run


def test_rewinding_to_step_0_is_rewinding_to_the_start_and_noise_is_not(imp, tmp_path):
    start = imp(tmp_path / "start", rewind="pretrained")
    first = imp(tmp_path / "first", rewind="step:0")
    noise = imp(tmp_path / "noise", rewind="noise:2")
    assert all(torch.equal(mask, first[name]) for name, mask in start.items())
    assert not all(torch.equal(mask, noise[name]) for name, mask in start.items())


def test_iterative_pruning_decays_weights_as_configured(imp, tmp_path, monkeypatch):
    seen = []
    trainer = imp_module.TicketTrainer

    def noting(*args, **kwargs):
        seen.append(kwargs["args"].weight_decay)
        return trainer(*args, **kwargs)

    monkeypatch.setattr(imp_module, "TicketTrainer", noting)
    imp(tmp_path / "out", weight_decay=0.25)
    assert seen == [0.25]
