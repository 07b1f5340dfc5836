"""Iterative pruning that follows the dense model: against a naive loop, resumed, and with other terms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cosine_similarity

from samples.batches import plain
from samples.learning import QUIET, Killed, corpus_of, killed_after, learning, with_tiny_tasks
from samples.tiny_models import make_model
from winning_tickets import Runtime
from winning_tickets.cli.plans import plan_search
from winning_tickets.config import SearchConfig
from winning_tickets.models.architectures import prunable_views
from winning_tickets.pruning.preparation import prepare_search
from winning_tickets.pruning.search import check_search, search_all
from winning_tickets.pruning.sources import load_sources
from winning_tickets.report.costs import cost_of, size_of
from winning_tickets.runs.directory import read_log
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.selection import keep_top


@pytest.fixture
def bert(tmp_path):
    return str(make_model(tmp_path / "bert", head="none"))


def naive(config):
    """Prune, train to follow the dense states, prune by magnitude, rewind: the masks by sparsity."""
    prepared = prepare_search(config, QUIET)
    dataset = load_sources(prepared).dataset(config, 8)
    dense = prepared.plm.encoder.eval()
    names, found, masks, step = list(prepared.weights), {}, None, 0
    student = copy.deepcopy(dense)
    for sparsity in config.sparsities:
        if masks is not None:
            student = copy.deepcopy(dense)  # rewound
            views = prunable_views(student, names)
            optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=0.0)
            for place in range(4):
                for name, view in views.items():
                    view.mul_(masks[name])
                optimizer.param_groups[0]["lr"] = 1e-2 * (4 - place) / 4
                batch = plain(dataset[step]["kd"])
                ours = student(**batch, output_hidden_states=True).hidden_states[1:]
                theirs = dense(**batch, output_hidden_states=True).hidden_states[1:]
                pairs = zip(ours, theirs, strict=True)
                errors = torch.stack([1 - cosine_similarity(a, b.detach(), -1) for a, b in pairs]).mean(0)
                optimizer.zero_grad()
                (errors * batch["attention_mask"]).sum().div(batch["attention_mask"].sum()).backward()
                for name, mask in masks.items():
                    student.get_parameter(name).grad.mul_(mask)
                torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
                optimizer.step()
                step += 1
            for name, view in views.items():
                view.mul_(masks[name])
        weights = {n: v.abs() for n, v in prunable_views(student, names).items()}
        kept = masks or {}
        scores = {n: torch.where(kept[n], v, -1.0) if n in kept else v for n, v in weights.items()}
        found[sparsity] = masks = keep_top(scores, sparsity, config.ranking)
    return found


@pytest.mark.parametrize("ranking", ["matrix", "global"])
def test_the_tickets_are_those_of_a_plain_loop(tmp_path, bert, ranking):
    fields = {"objective": "kd", "learning_rate": 1e-2, "ranking": ranking}
    config = learning(bert, "imp", corpus_of(tmp_path), **fields)
    found, expected = search_all(config, tmp_path / "out", QUIET), naive(config)
    assert list(found) == [0.2, 0.5, 0.8] == list(expected)
    magnitude = SearchConfig.of(model=bert, method="magnitude", sparsity=[0.2, 0.8], ranking=ranking)
    first, last = search_all(magnitude, tmp_path / "omp", QUIET).values()
    assert all(torch.equal(mask, first.masks[name]) for name, mask in found[0.2].masks.items())
    assert any(not torch.equal(mask, last.masks[name]) for name, mask in found[0.8].masks.items())
    for sparsity, ticket in found.items():
        wrong = sum(int((expected[sparsity][name] != mask).sum()) for name, mask in ticket.masks.items())
        assert wrong <= ticket.total * 2e-3  # rounding moves a few weights across the threshold
    losses = [record["kd"] for record in read_log(tmp_path / "out")]
    assert len(losses) == 8
    assert losses[0] > 1e-4  # pruned before the first round


@pytest.mark.parametrize("objective", ["kd", "kd+mlm", "kd+task", "kd:0.5+mlm+task", "logits", "contrastive"])
def test_sums_of_terms_resume_with_the_same_bits(tmp_path, monkeypatch, objective):
    with_tiny_tasks(monkeypatch)
    head = "none" if objective in ("kd", "kd+task", "contrastive") else "mlm+pooler"
    fields = {"objective": objective, "tasks": ("rte",) if "task" in objective else (), "learning_rate": 1e-2}
    config = learning(str(make_model(tmp_path / "m", head=head)), "imp", corpus_of(tmp_path), **fields)
    whole = search_all(config, tmp_path / "whole", QUIET)
    last = read_log(tmp_path / "whole")[-1]["step"]
    assert last == (
        12 if config.terms.keys() & {"mlm", "task"} else 8
    )  # only what follows the dense model prunes first
    with killed_after(6), pytest.raises(Killed):
        search_all(config, tmp_path / "parts", Runtime(quiet=True, checkpoint_steps=3))
    again = search_all(config, tmp_path / "parts", QUIET)
    assert [ticket.id for ticket in again.values()] == [ticket.id for ticket in whole.values()]


@pytest.mark.parametrize("kind", ["mpnet", "modernbert"])
def test_models_of_other_architectures_follow_themselves(tmp_path, kind):
    model = str(make_model(tmp_path / "m", kind))
    found = search_all(
        learning(model, "imp", corpus_of(tmp_path), objective="kd", round_steps=2), tmp_path / "o", QUIET
    )
    assert list(found) == [0.2, 0.5, 0.8]


def test_profiles_prune_first_and_leave_the_dropout_of_other_objectives():
    def of(**fields):
        return SearchConfig.of(model="m", method="imp", corpus="c", round_steps=2, **fields).resolved()

    for profile, dropout, ranking in (("tuned", 0.0, "matrix"), ("paper", -1.0, "global"), ("code", -1.0, "global")):
        found = of(profile=profile, objective="kd")
        assert (found.prune_first, found.student_dropout, found.ranking) == (True, dropout, ranking)
    assert (of(objective="mlm").student_dropout, of(objective="mlm").prune_first) == (None, False)
    assert (of(objective="kd,mlm").student_dropout, of(objective="kd,mlm").prune_first) == (0.0, False)


@pytest.mark.parametrize("given", [False, True])
def test_the_objective_has_the_settings_of_mask_training(tmp_path, bert, given):
    fields = {"teacher_dropout": True, "kd_padding": "counted", "kd_layers": (2,), "logits_top_k": 3} if given else {}
    sources = load_sources(prepare_search(learning(bert, "imp", corpus_of(tmp_path), objective="kd", **fields), QUIET))
    objective = sources.parts["kd"].objective
    assert objective.teacher.training == given
    assert (objective.settings.count_padding, objective.settings.kd_layers) == (given, (2,) if given else ())
    with pytest.raises(UsageError, match="is no layer of the model"):
        prepare_search(learning(bert, "imp", corpus_of(tmp_path), objective="kd", kd_layers=(99,)), QUIET)


def test_the_plan_counts_the_teacher_and_one_round_less(tmp_path, bert):
    config = learning(bert, "imp", corpus_of(tmp_path), objective="kd")
    plan = plan_search(config, QUIET)
    assert (plan.numbers["rounds"], plan.numbers["total_steps"]) == (2, 8)
    size = size_of("builtin:minilm")
    mlm = config.model_copy(update={"objective": "mlm", "prune_first": True})
    assert cost_of(config, size).tokens > cost_of(mlm, size).tokens
    with pytest.raises(UsageError, match="--objective kd, which prunes first, with one sparsity trains nothing"):
        check_search(learning(bert, "imp", "c", objective="kd", sparsity=0.5))
    with pytest.raises(UsageError, match="Unknown objective 'kd'"):
        check_search(learning(bert, "movement", "c", objective="kd", sparsity=0.5))
