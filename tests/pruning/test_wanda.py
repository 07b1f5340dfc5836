"""Wanda: weights times the norms of their inputs, against a loop over single texts."""

import json

import pytest
import torch

from samples.batches import plain
from samples.learning import QUIET, corpus_of
from samples.tiny_models import make_model
from winning_tickets import SearchConfig, search, search_all
from winning_tickets.config import load_config_file
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.data.corpora import load_corpus
from winning_tickets.data.token_cache import tokenize
from winning_tickets.models.architectures import prunable_views, split_name
from winning_tickets.models.loading import load_plm
from winning_tickets.pruning.search import check_search
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.identity import run_id
from winning_tickets.tickets.selection import pruned_count

EMBEDDINGS = "embeddings.word_embeddings.weight"


def wanda(model, corpus, **fields):
    defaults = {"sparsity": 0.5, "batch_tokens": 64, "segments": "lines:24", "calibration_batches": 3}
    return SearchConfig.of(model=model, method="wanda", corpus=corpus, **(defaults | fields))


def naive_importance(model, corpus, names):
    """|W_ij| * ||x_j||, the inputs gathered text by text without padding, each token apart."""
    plm = load_plm(model)
    batches = CorpusBatches(
        tokenize(load_corpus(corpus, "train", None), plm.tokenizer),
        plm.tokenizer,
        segments="lines:24",
        batch_tokens=64,
        n_batches=3,
        seed=0,
        shuffle=True,
        mlm_probability=None,
    )
    seen = {split_name(name).parameter: [] for name in names}
    for parameter, inputs in seen.items():
        module = plm.encoder.get_submodule(parameter.removesuffix(".weight"))
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, given, inputs=inputs: inputs.extend(given[0][0]))
    plm.model.eval()
    with torch.no_grad():
        for index in range(3):
            batch = plain(batches[index])
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                plm.encoder(ids[mask.bool()][None])
    scores = {}
    for name, weight in prunable_views(plm.encoder, names).items():
        inputs = seen[split_name(name).parameter]
        norms = torch.stack(inputs).norm(dim=0) if inputs else torch.ones(weight.shape[1])
        scores[name] = weight.abs() * norms
    return scores


@pytest.mark.parametrize("kind", ["bert", "modernbert", "albert"])
def test_it_keeps_the_best_of_each_row(tmp_path, kind):
    model, corpus = str(make_model(tmp_path / "m", kind)), corpus_of(tmp_path)
    found = search(wanda(model, corpus, sparsity=0.3), tmp_path / "t", QUIET)
    assert found.info.method == "wanda"
    for name, scores in naive_importance(model, corpus, list(found.masks)).items():
        gone = pruned_count(scores.shape[1], 0.3)
        assert (~found.masks[name]).sum(1).tolist() == [gone] * scores.shape[0]
        best = scores.argsort(dim=1, descending=True, stable=True)[:, : scores.shape[1] - gone]  # padding's row is zero
        expected = torch.zeros_like(found.masks[name]).scatter_(1, best, True)
        assert int((expected != found.masks[name]).sum()) <= 2, name  # neighbours may swap by rounding
        if "embeddings" in name:
            assert torch.equal(expected, found.masks[name])  # magnitude, row by row


def test_inputs_matter_and_so_does_the_row(tmp_path):
    model, corpus = str(make_model(tmp_path / "m")), corpus_of(tmp_path)
    by_row = search(wanda(model, corpus), tmp_path / "row", QUIET)
    by_matrix = search(wanda(model, corpus, ranking="matrix"), tmp_path / "matrix", QUIET)
    magnitude = search(
        SearchConfig(model=model, method="magnitude", sparsity=0.5, ranking="row"), tmp_path / "m1", QUIET
    )
    assert by_row.sparsity == by_matrix.sparsity == magnitude.sparsity == 0.5
    assert torch.equal(by_row.masks[EMBEDDINGS], magnitude.masks[EMBEDDINGS])
    assert by_row.id not in (by_matrix.id, magnitude.id)
    assert {len(set(mask.sum(1).tolist())) for mask in by_row.masks.values()} == {1}
    assert max(len(set(mask.sum(1).tolist())) for mask in by_matrix.masks.values()) > 1


def test_several_sparsities_are_nested_and_come_from_one_look_at_the_corpus(tmp_path):
    model, corpus = str(make_model(tmp_path / "m")), corpus_of(tmp_path)
    found = search_all(wanda(model, corpus, sparsity=(0.3, 0.6)), tmp_path / "t", QUIET)
    assert json.loads((tmp_path / "t" / "result.json").read_text())["nested"] is True
    for name, mask in found[0.6].masks.items():
        assert not bool((mask & ~found[0.3].masks[name]).any())


def test_the_text_and_its_length_are_part_of_it(tmp_path):
    model, corpus = str(make_model(tmp_path / "m")), corpus_of(tmp_path)
    ids = {
        search(wanda(model, corpus, **fields), tmp_path / str(index), QUIET).id
        for index, fields in enumerate([{}, {"calibration_batches": 1}, {"seed": 1}])
    }
    assert len(ids) == 3


def test_an_unset_ranking_is_the_methods_own_and_moves_no_other_id():
    assert SearchConfig(model="m", method="wanda", corpus="c").ranking == "row"
    assert SearchConfig(model="m", method="wanda", corpus="c", ranking="matrix").ranking == "matrix"
    for method, same in (("magnitude", "matrix"), ("wanda", "row")):
        plain, written = SearchConfig(model="m", method=method), SearchConfig(model="m", method=method, ranking=same)
        assert run_id(plain, "x") == run_id(written, "x")
    rankings = {run_id(SearchConfig(model="m", method="wanda", ranking=r), "x") for r in ("row", "matrix", "global")}
    assert len(rankings) == 3


def test_a_corpus_is_needed():
    with pytest.raises(UsageError, match="--method wanda needs --corpus: pydocs, wikitext-103"):
        check_search(SearchConfig(model="m", method="wanda"))
    with pytest.raises(UsageError, match=r"--calibration-batches 0 is impossible; it must be at least 1"):
        SearchConfig.of(model="m", method="wanda", corpus="c", calibration_batches=0)


def test_the_command_line(tmp_path, tickets):
    model, out = make_model(tmp_path / "m"), tmp_path / "t"
    code, printed, err = tickets(
        *("search", model, "--method", "wanda", "--corpus", corpus_of(tmp_path), "--segments", "lines:24"),
        *("--batch-tokens", "64", "--calibration-batches", "2", "--sparsity", "0.5", "--out", out, "--json"),
    )
    assert code == 0
    assert json.loads(printed)["sparsity"] == 0.5
    assert "norms of the inputs: 2/2" in err
    config = load_config_file(out / "config.json")["config"]
    assert (config["ranking"], config["calibration_batches"]) == ("row", 2)


def test_a_ladder_of_masks_keeps_every_row_exact(tmp_path):
    model, corpus = str(make_model(tmp_path / "m")), corpus_of(tmp_path)
    config = SearchConfig(
        model=model,
        corpus=corpus,
        ranking="row",
        sparsity=(0.3, 0.5),
        steps=2,
        batch_tokens=64,
        segments="packed:16",
        learning_rate=2e-3,
    )
    for sparsity, ticket in search_all(config, tmp_path / "t", QUIET).items():
        for mask in ticket.masks.values():
            assert (~mask).sum(1).tolist() == [pruned_count(mask.shape[1], sparsity)] * mask.shape[0]
    with pytest.raises(UsageError, match=r"--ranking row selects at every step, and reselect_steps is 100 \(pro"):
        check_search(SearchConfig(model=model, corpus=corpus, ranking="row", profile="code"))
