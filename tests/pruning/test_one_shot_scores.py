"""Scores that need gradients: SNIP and movement, against naive loops."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from samples.batches import plain
from samples.learning import QUIET, Killed, corpus_of, killed_after, learning, with_tiny_tasks, without_dropout
from samples.tiny_models import make_model
from winning_tickets import Runtime, Ticket
from winning_tickets.models.architectures import prunable_views
from winning_tickets.pruning import preparation as base_module
from winning_tickets.pruning import search as search_module
from winning_tickets.pruning.preparation import prepare_search
from winning_tickets.pruning.search import search, search_all
from winning_tickets.pruning.sources import load_sources
from winning_tickets.runs.errors import ContentError
from winning_tickets.tickets.selection import keep_top

METHODS = ("magnitude", "random", "wanda", "snip", "movement", "imp", "mask-training")
BOTH = {"objective": "mlm+task:0.5", "tasks": ("rte",)}


def naive_loss(sources, batch):
    weights, models = sources.objective.weights, sources.model.models
    return sum(weights[name] * models[name](**plain(part)).loss for name, part in batch.items())


@pytest.mark.parametrize("kind", ["bert", "modernbert", "albert", "deberta-v2"])
@pytest.mark.parametrize("fields", [{"objective": "mlm"}, BOTH, BOTH | {"mixing": "proportional"}])
def test_snip_is_the_gradient_times_the_weight(tmp_path, monkeypatch, kind, fields):
    with_tiny_tasks(monkeypatch)
    config = learning(str(make_model(tmp_path / "m", kind)), "snip", corpus_of(tmp_path), sparsity=(0.3, 0.7), **fields)
    found = search_all(config, tmp_path / "out", QUIET)
    prepared = prepare_search(config, QUIET)
    sources = load_sources(prepared)
    sources.model.eval()
    dataset = sources.dataset(config, config.steps)
    (sum(naive_loss(sources, dataset[step]) for step in range(config.steps)) / config.steps).backward()
    encoder = sources.model.base_model
    weights = prunable_views(encoder, prepared.weights)
    parameters = dict(encoder.named_parameters())
    for _name, parameter in parameters.items():  # gradients take the place of the weights, to be viewed part by part
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    gradients = prunable_views(encoder, prepared.weights)
    scores = {name: (weights[name] * gradients[name]).abs() for name in weights}
    for sparsity, ticket in found.items():
        expected = keep_top(scores, sparsity, weights=weights)
        wrong = sum(int((expected[name] != mask).sum()) for name, mask in ticket.masks.items())
        assert wrong <= 4  # neighbours of the threshold, by rounding
        assert ticket.info.method == "snip"


def of(method, tmp_path, **fields):
    """A short search; its model has no dropout."""
    model, corpus = str(without_dropout(make_model(tmp_path / "m"))), corpus_of(tmp_path)
    with_text = {} if method in ("magnitude", "random", "wanda") else {"objective": "mlm"}
    return learning(model, method, corpus, **({"sparsity": 0.5} | with_text | fields))


@pytest.mark.parametrize("score_device", ["cpu", "meta"])
def test_scores_and_weights_are_ranked_on_the_device_of_the_run(tmp_path, monkeypatch, score_device):
    """Wherever the scores of a method come from; tensors without data stand for those of a GPU."""
    prepared = prepare_search(of("magnitude", tmp_path), QUIET)
    prepared.device = torch.device("meta")
    ranked = []
    monkeypatch.setattr(base_module, "keep_top", lambda scores, *rest, **options: ranked.append((scores, rest)) or {})
    prepared.keep({name: view.to(score_device) for name, view in prepared.loaded.items()}, 0.5)
    ((scores, (_, _, weights)),) = ranked
    assert {values.device.type for values in (*scores.values(), *weights.values())} == {"meta"}


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_the_search_are_still_the_pre_trained_ones_after_it(tmp_path, monkeypatch, method):
    found = []
    prepare = search_module.prepare_search
    monkeypatch.setattr(search_module, "prepare_search", lambda *a: found.append(prepare(*a)) or found[-1])
    length = {"round_steps": 2, "sparsity": (0.3, 0.5)} if method == "imp" else {}
    config = of(method, tmp_path, **length)
    before = {name: view.clone() for name, view in prepare(config, QUIET).loaded.items()}
    search_all(config, tmp_path / "out", QUIET)
    (prepared,) = found
    assert before.keys() == prepared.weights.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in prepared.weights.items())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_model_with_weights_that_are_no_numbers_is_refused_with_the_name(tmp_path, bad):
    config = of("magnitude", tmp_path)
    weights = load_file(Path(config.model) / "model.safetensors")
    name = next(key for key in weights if key.endswith("encoder.layer.1.output.dense.weight"))
    weights[name][2, 3] = bad
    save_file(weights, Path(config.model) / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ContentError, match="The weights of encoder.layer.1.output.dense.weight in .* contain NaN"):
        search(config, tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fields", [{"objective": "mlm"}, BOTH])
def test_movement_adds_up_what_fine_tuning_does(tmp_path, monkeypatch, fields):
    with_tiny_tasks(monkeypatch)
    config = learning(
        without_dropout(make_model(tmp_path / "m")),
        "movement",
        corpus_of(tmp_path),
        sparsity=0.5,
        learning_rate=1e-3,
        **fields,
    )
    found = search(config, tmp_path / "out", QUIET)
    prepared = prepare_search(config, QUIET)
    sources = load_sources(prepared)
    sources.model.eval()
    dataset = sources.dataset(config, config.steps)
    trained = [p for p in sources.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    parameters = dict(sources.model.base_model.named_parameters())
    scores = {name: torch.zeros_like(weight) for name, weight in prepared.weights.items()}
    for step in range(4):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (4 - step) / 4
        optimizer.zero_grad()
        naive_loss(sources, dataset[step]).backward()
        torch.nn.utils.clip_grad_norm_(sources.model.parameters(), 1.0)
        for name, score in scores.items():
            score -= parameters[name].detach() * parameters[name].grad
        optimizer.step()
    expected = keep_top(scores, 0.5, weights=prepared.weights)
    wrong = sum(int((expected[name] != mask).sum()) for name, mask in found.masks.items())
    assert wrong <= found.total * 1e-3
    # The base stays what it was: the ticket is for the pre-trained weights.
    found.check(prepared.plm.encoder)
    assert found.info.step == 4


def test_movement_goes_on_to_the_same_bits(tmp_path):
    model, corpus = str(make_model(tmp_path / "m")), corpus_of(tmp_path)
    config = learning(model, "movement", corpus, sparsity=0.5, steps=6)
    whole = search(config, tmp_path / "whole", QUIET)
    with killed_after(3), pytest.raises(Killed):
        search(config, tmp_path / "parts", Runtime(quiet=True, checkpoint_steps=2))
    again = search(config, tmp_path / "parts", QUIET)
    assert all(torch.equal(mask, again.masks[name]) for name, mask in whole.masks.items())
    assert Ticket.from_pretrained(tmp_path / "parts").id == whole.id
