"""Controls of a search: random tickets that match another's counts, magnitudes of other weights."""

import shutil
import sys

import pytest
import torch

from samples.settings import read_by_method
from samples.tiny_models import CONFIGS, make_model
from winning_tickets import Runtime, SearchConfig, Ticket, cli, search
from winning_tickets.models.architectures import matrices_of, prunable_views
from winning_tickets.models.loading import load_plm, prunable_names
from winning_tickets.models.weights import (
    StateInfo,
    content_hash,
    copy_encoder_weights,
    reinitialize,
    save_state,
    shuffle_within,
)
from winning_tickets.pruning.search import search_all
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.tickets.selection import keep_counts, pruned_count

QUIET = Runtime(quiet=True)


def model_of(tmp_path, kind="bert", **options):
    return str(make_model(tmp_path / kind, kind, **options))


def counts(ticket):
    return {name: int(mask.sum()) for name, mask in ticket.masks.items()}


def magnitude(model, out, **fields):
    return search(SearchConfig(model=model, method="magnitude", **fields), out, QUIET)


def ids_of(out):
    return (out / "config.json").read_text()


@pytest.mark.parametrize("counted", [0, 1, 7, 24])
def test_counts_are_exact_and_ties_go_to_the_lower_index(counted):
    scores = {"a": torch.tensor([[0.0, 1.0, 1.0, 2.0]]).repeat(2, 3)}
    (kept,) = keep_counts(scores, {"a": counted}).values()
    order = sorted(range(24), key=lambda i: (-float(scores["a"].reshape(-1)[i]), i))
    assert kept.shape == (2, 12)
    assert kept.reshape(-1).nonzero().reshape(-1).tolist() == sorted(order[:counted])


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("sparsity", [0.29, 0.9])
def test_a_matched_random_ticket_has_the_counts_of_every_matrix(tmp_path, kind, sparsity):
    model = model_of(tmp_path, kind)
    like = magnitude(model, tmp_path / "like", sparsity=sparsity, ranking="global", scope="encoder")
    assert len({round(value, 3) for value in like.sparsity_by_matrix().values()}) > 3
    found = {}
    for seed in (0, 1):
        config = SearchConfig(model=model, method="random", like=str(tmp_path / "like"), seed=seed)
        found[seed] = search(config, tmp_path / f"out-{seed}", QUIET)
        assert search_all(config, tmp_path / f"out-{seed}", QUIET)[like.sparsity].id == found[seed].id  # opened again
    assert counts(found[0]) == counts(found[1]) == counts(like)
    assert len({found[0].id, found[1].id, like.id}) == 3
    info = found[0].info
    assert (info.parents, info.scope, info.config["sparsity"]) == ((like.id,), "encoder", like.sparsity)
    assert info.config["like"] == "magnitude"  # no path of this machine in a description
    for name, mask in found[0].masks.items():  # uniform: overlap with the ticket is that of chance
        density, total = counts(like)[name] / mask.numel(), mask.numel()
        overlap = int((mask & like.masks[name]).sum()) / total
        assert overlap == pytest.approx(density**2, abs=5 * (density * (1 - density) / total**0.5) + 1 / total)


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "magnitude"},
        {"method": "wanda", "corpus": "pydocs"},
        {"method": "snip", "corpus": "pydocs", "steps": 1},
        {"method": "movement", "corpus": "pydocs", "steps": 2},
        {"corpus": "pydocs", "steps": 3},
        {"corpus": "pydocs", "steps": 3, "profile": "paper"},
        {"corpus": "pydocs", "steps": 3, "profile": "paper", "score_init": "random"},
        {"corpus": "pydocs", "steps": 12, "block_wise": True},
    ],
    ids=str,
)
def test_every_method_can_match_the_counts_of_a_ticket(tmp_path, fields):
    model = model_of(tmp_path)
    like = magnitude(model, tmp_path / "like", sparsity=0.6, ranking="global", scope="encoder")
    assert len({round(value, 3) for value in like.sparsity_by_matrix().values()}) > 3
    config = read_by_method(model=model, like=str(tmp_path / "like"), batch_tokens=512, **fields)
    ticket = search(config, tmp_path / "out", QUIET)
    assert counts(ticket) == counts(like)
    assert ticket.sparsity == ticket.info.config["sparsity"] == like.sparsity
    assert (ticket.info.scope, ticket.info.config["ranking"], ticket.info.parents) == ("encoder", "matrix", (like.id,))


def test_equal_counts_leave_the_choice_inside_a_matrix_to_the_method(tmp_path):
    model = model_of(tmp_path)
    like = magnitude(model, tmp_path / "like", sparsity=0.6, ranking="global")
    again = search(SearchConfig(model=model, method="magnitude", like=str(tmp_path / "like")), tmp_path / "m", QUIET)
    assert all(torch.equal(mask, like.masks[name]) for name, mask in again.masks.items())
    trained = {"model": model, "corpus": "pydocs", "batch_tokens": 512, "steps": 3, "seed": 1}
    found = search(SearchConfig(**trained, like=str(tmp_path / "like")), tmp_path / "k", QUIET)
    assert any(not torch.equal(mask, like.masks[name]) for name, mask in found.masks.items())
    # The counts of a uniform ticket are those of its sparsity: the search is the one without a ticket to match.
    magnitude(model, tmp_path / "uniform", sparsity=0.6)
    plain = search(SearchConfig(**trained, sparsity=0.6), tmp_path / "plain", QUIET)
    matched = search(SearchConfig(**trained, like=str(tmp_path / "uniform")), tmp_path / "matched", QUIET)
    assert all(torch.equal(mask, plain.masks[name]) for name, mask in matched.masks.items())


def test_of_the_ticket_the_masks_count_and_not_the_place(tmp_path):
    model = model_of(tmp_path)
    magnitude(model, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    magnitude(model, tmp_path / "c", ranking="global")
    runs = {}
    for name in "abc":
        out = tmp_path / f"of-{name}"
        search(SearchConfig(model=model, method="random", like=str(tmp_path / name)), out, QUIET)
        runs[name] = ids_of(out)
    assert runs["a"] == runs["b"] != runs["c"]
    assert '"id": "random-like-' in runs["a"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "imp"}, "--method imp does not read --like; it needs --method random, magnitude, wanda,"),
        ({"sparsity": 0.5}, "--sparsity contradicts --like, which takes the counts of each matrix from a ticket"),
        ({"ranking": "global"}, "--ranking contradicts --like"),
        ({"pattern": "2:4"}, "--pattern contradicts --like"),
        (
            {"scope": "encoder"},
            "--scope encoder contradicts --like .*, whose scope is encoder.embeddings; leave it out.",
        ),
        ({"weights_from": "reinit"}, "--method random does not read --weights-from; it needs --method magnitude."),
        ({"like": "nowhere/at/all"}, "There is no ticket nowhere/at/all"),
    ],
)
def test_what_contradicts_a_ticket_to_match(tmp_path, fields, message):
    model = model_of(tmp_path)
    magnitude(model, tmp_path / "like")
    fields = {"method": "random", "like": str(tmp_path / "like")} | fields
    with pytest.raises(UsageError, match=message) as caught:
        search(model, tmp_path / "out", QUIET, **fields)
    assert str(caught.value).count("--sparsity") == ("sparsity" in fields)
    assert not (tmp_path / "out").exists()


def test_a_ticket_of_other_layers_cannot_be_matched(tmp_path):
    model = model_of(tmp_path)
    magnitude(model, tmp_path / "like", layers=1)
    config = SearchConfig(model=model, method="random", like=str(tmp_path / "like"))
    with pytest.raises(
        ContentError, match="layer.1.* is not masked there and 32x32 in the model. Give a ticket of this"
    ):
        search(config, tmp_path / "out", QUIET)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(("word", "expected"), [("reinit", reinitialize), ("shuffle-within", shuffle_within)])
def test_magnitudes_of_other_weights(tmp_path, kind, word, expected):
    model = model_of(tmp_path, kind)
    ticket = magnitude(model, tmp_path / "t", weights_from=word, sparsity=0.6, seed=3)
    plm = load_plm(model)
    for name, weight in matrices_of(expected(plm, 3), prunable_names(plm)).items():
        order = weight.abs().reshape(-1).sort(stable=True).values
        mask = ticket.masks[name]
        pruned = pruned_count(weight.numel(), 0.6)
        assert mask.numel() - int(mask.sum()) == pruned
        assert float(weight[mask].abs().min()) >= float(order[pruned - 1])
        assert float(weight[~mask].abs().max()) <= float(order[pruned - 1])
    assert ticket.info.scores_from == f"{word}, seed 3"
    ticket.check(plm.encoder)  # it belongs to the model's own weights
    assert ticket.id != magnitude(model, tmp_path / "plain", sparsity=0.6, seed=3).id


def test_magnitudes_of_a_state_and_of_a_folder(tmp_path):
    model = model_of(tmp_path)
    other = load_plm(str(make_model(tmp_path / "other", head="none", seed=4)))
    save_state(tmp_path / "s.safetensors", other.encoder, info=StateInfo(base_hash="another", what="a test"))
    found = [
        magnitude(model, tmp_path / name, weights_from=str(tmp_path / path))
        for name, path in (("by-state", "s.safetensors"), ("by-folder", "other"))
    ]
    plain = magnitude(str(tmp_path / "other"), tmp_path / "plain")
    for ticket in found:
        assert all(torch.equal(mask, plain.masks[name]) for name, mask in ticket.masks.items())
        assert ticket.base.hash != plain.base.hash
        assert ticket.info.scores_from == f"weights {content_hash(copy_encoder_weights(other))}"
    shutil.copy(tmp_path / "s.safetensors", tmp_path / "copy.safetensors")
    magnitude(model, tmp_path / "copied", weights_from=str(tmp_path / "copy.safetensors"))
    assert ids_of(tmp_path / "copied").split('"config"')[0] == ids_of(tmp_path / "by-state").split('"config"')[0]
    assert ids_of(tmp_path / "copied").split('"config"')[0] != ids_of(tmp_path / "plain").split('"config"')[0]


def test_pretrained_spelled_out_is_the_old_run(tmp_path):
    model = model_of(tmp_path)
    magnitude(model, tmp_path / "a")
    magnitude(model, tmp_path / "b", weights_from="pretrained")
    assert ids_of(tmp_path / "a") == ids_of(tmp_path / "b")
    assert Ticket.from_pretrained(tmp_path / "a").info.scores_from is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights_from": "reinnit"}, "--weights-from: There are no weights 'reinnit'. Did you mean 'reinit'"),
        ({"weights_from": "reinit", "method": "snip"}, "--method snip does not read --weights-from"),
    ],
)
def test_impossible_weights(tmp_path, fields, message):
    with pytest.raises(UsageError, match=message):
        search(model_of(tmp_path), tmp_path / "out", QUIET, **({"method": "magnitude"} | fields))
    assert not (tmp_path / "out").exists()


def test_weights_of_another_size(tmp_path):
    model = model_of(tmp_path)
    state = tmp_path / "s.safetensors"
    plm = load_plm(model)
    save_state(state, plm.encoder.encoder.layer[0], info=StateInfo(base_hash="x", what="a layer"))
    with pytest.raises(
        ContentError, match="The model has no parameter embeddings.word_embeddings.weight; is it another"
    ):
        magnitude(model, tmp_path / "out", weights_from=str(state))
    plm.encoder.embeddings.word_embeddings.weight = torch.nn.Parameter(torch.ones(3, 32))
    save_state(state, plm.encoder, info=StateInfo(base_hash="x", what="a cut model"))
    with pytest.raises(
        ContentError, match=r"does not fit .*: embeddings.word_embeddings.weight has shape \(3, 32\) there"
    ):
        magnitude(model, tmp_path / "out", weights_from=str(state))
    assert prunable_views(load_plm(model).encoder, ["embeddings.word_embeddings.weight"])


def test_the_command_line(tmp_path, monkeypatch, capsys):
    model = model_of(tmp_path)
    for words in (("--method", "magnitude", "--weights-from", "reinit", "--ranking", "global", "--out", tmp_path / "a"),
                  ("--method", "random", "--like", tmp_path / "a", "--out", tmp_path / "b")):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["tickets", "search", model, *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
    assert "all encoder parameters are pruned; saved in" in capsys.readouterr().out
    first, second = (Ticket.from_pretrained(tmp_path / name) for name in "ab")
    assert counts(first) == counts(second)
    assert first.id != second.id
