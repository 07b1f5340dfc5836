"""Fitting an MLM head: an ordinary folder comes out, the encoder stays, a killed run goes on to the same bits."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from tiny_models import CONFIGS, TEXT, make_model
from winning_tickets import (
    EvaluateConfig,
    FitHeadConfig,
    Runtime,
    SearchConfig,
    evaluate,
    fit_head,
    search,
)
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.data.cache import tokenise
from winning_tickets.data.corpora import load_corpus
from winning_tickets.errors import UsageError
from winning_tickets.fit_head import start_from_unigrams
from winning_tickets.plm import load_plm
from winning_tickets.rundir import read_log
from winning_tickets.train import StepLog

QUIET = Runtime(quiet=True)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXT))
    return str(path)


def settings(model, corpus, **fields):
    defaults = {"steps": 5, "batch_tokens": 64, "segments": "packed:16"}
    return FitHeadConfig.of(model=str(model), corpus=corpus, **(defaults | fields))


def weights_of(folder):
    return AutoModelForMaskedLM.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("train_encoder", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_ordinary_masked_lm_folder_comes_out(tmp_path, corpus, kind, train_encoder):
    base = make_model(tmp_path / "base", kind, head="none")
    result = fit_head(settings(base, corpus, train_encoder=train_encoder), tmp_path / "out", QUIET)
    plm = load_plm(str(tmp_path / "out"), head="mlm", require_mlm_head=True)
    assert result == json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["final"]["perplexity"] == pytest.approx(math.exp(result["final"]["mlm_loss"]))
    assert not (tmp_path / "out" / ".scratch").exists()
    assert not (tmp_path / "out" / ".model").exists()
    # The bias of the decoder is the part that a careless save loses.
    bias = plm.model.get_submodule(plm.architecture.mlm_decoder).bias
    assert float(bias.detach().std()) > 0.1
    before, after = load_plm(str(base)).encoder, plm.encoder
    moved = {
        name: not torch.equal(value, dict(after.named_parameters())[name])
        for name, value in before.named_parameters()
        if "pooler" not in name
    }
    assert any(moved.values()) == train_encoder


def test_tickets_of_the_base_fit_and_mlm_works_from_the_folder(tmp_path, corpus):
    base = make_model(tmp_path / "base", head="none")
    search(SearchConfig(model=str(base), method="magnitude"), tmp_path / "ticket", QUIET)
    fitted = fit_head(settings(base, corpus), tmp_path / "out", QUIET)
    measured = evaluate(
        EvaluateConfig(
            target=str(tmp_path / "ticket"),
            base=str(tmp_path / "out"),
            objectives=("mlm", "kd"),
            corpus=corpus,
            segments="packed:16",
        ),
        QUIET,
    )
    assert measured["mlm_loss"] > 0
    again = evaluate(
        EvaluateConfig(target=str(tmp_path / "out"), objectives=("mlm",), corpus=corpus, segments="packed:16"), QUIET
    )
    assert again["mlm_loss"] == fitted["final"]["mlm_loss"]
    found = search(
        SearchConfig(
            model=str(tmp_path / "out"),
            objective="mlm+kd",
            corpus=corpus,
            steps=2,
            batch_tokens=64,
            segments="packed:16",
        ),
        tmp_path / "mlm-ticket",
        QUIET,
    )
    assert found.mlm_head is not None


def test_training_lowers_the_loss(tmp_path, corpus):
    base = make_model(tmp_path / "base", head="none")
    result = fit_head(settings(base, corpus, steps=60, learning_rate=5e-3), tmp_path / "out", QUIET)
    assert result["final"]["mlm_loss"] < result["start"]["mlm_loss"] - 0.3
    assert result["trained_parameters"] < 32 * 32 + 200  # the transform and vectors, not the tied decoder


def test_the_head_starts_from_the_frequencies_of_the_corpus(tmp_path, corpus):
    plm = load_plm(str(make_model(tmp_path / "base", head="none")), head="mlm")
    stream = tokenise(load_corpus(corpus, "train", None), plm.tokenizer)
    start_from_unigrams(plm, stream)
    counts = np.bincount(np.asarray(stream.tokens), minlength=len(plm.tokenizer)) + 1
    bias = plm.model.cls.predictions.decoder.bias.detach().numpy()
    assert np.allclose(np.exp(bias), counts / counts.sum(), atol=1e-6)
    assert plm.model.cls.predictions.bias is plm.model.cls.predictions.decoder.bias


def test_the_steps_are_those_of_a_plain_loop(tmp_path, corpus):
    """The same batches through transformers' own loss and torch's own AdamW."""
    base = make_model(tmp_path / "base", head="none")
    config = settings(base, corpus, train_encoder=True, warmup_ratio=0.0, weight_decay=0.0)
    fit_head(config, tmp_path / "out", QUIET)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        plm = load_plm(str(base), head="mlm")
    stream = tokenise(load_corpus(corpus, "train", None), plm.tokenizer)
    start_from_unigrams(plm, stream)
    batches = CorpusBatches(
        stream,
        plm.tokenizer,
        segments="packed:16",
        batch_tokens=64,
        n_batches=5,
        seed=0,
        shuffle=True,
        mlm_probability=0.15,
    )
    model = plm.model.eval()
    encoder = {id(p) for p in plm.encoder.parameters()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if id(p) in encoder], "lr": 1e-4},
            {"params": [p for p in model.parameters() if id(p) not in encoder], "lr": 1e-3},
        ],
        weight_decay=0.0,
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    for step, record in enumerate(read_log(tmp_path / "out")):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (5 - step) / 5
        loss = model(**batches[step]).loss
        assert record["mlm"] == pytest.approx(float(loss.detach()), rel=1e-5)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("train_encoder", [False, True])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, corpus, monkeypatch, train_encoder):
    base = make_model(tmp_path / "base", head="none")
    config = settings(base, corpus, train_encoder=train_encoder)
    whole = fit_head(config, tmp_path / "whole", QUIET)

    class Killed(BaseException):
        pass

    original = StepLog.on_step_end

    def dies(self, args, state, control, **kwargs):
        if state.global_step == 4:
            raise Killed
        return original(self, args, state, control, **kwargs)

    monkeypatch.setattr(StepLog, "on_step_end", dies)
    with pytest.raises(Killed):
        fit_head(config, tmp_path / "killed", Runtime(quiet=True, checkpoint_steps=1))
    monkeypatch.undo()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    resumed = fit_head(config, tmp_path / "killed", QUIET)
    assert resumed["final"] == whole["final"]
    expected = weights_of(tmp_path / "whole")
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(tmp_path / "killed").items())
    assert [record["step"] for record in read_log(tmp_path / "killed")] == [1, 2, 3, 4, 5]


def test_a_finished_run_is_not_done_again_and_another_is_refused(tmp_path, corpus):
    base = make_model(tmp_path / "base", head="none")
    first = fit_head(settings(base, corpus), tmp_path / "out", QUIET)
    stamp = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    assert fit_head(settings(base, corpus), tmp_path / "out", QUIET) == first
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(UsageError, match="holds another run"):
        fit_head(settings(base, corpus, steps=6), tmp_path / "out", QUIET)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="holds files that are not a run of this tool"):
        fit_head(settings(base, corpus), tmp_path / "foreign", QUIET)


def test_the_head_does_not_depend_on_global_random_numbers(tmp_path, corpus):
    base = make_model(tmp_path / "base", head="none")
    torch.manual_seed(1)
    fit_head(settings(base, corpus), tmp_path / "a", QUIET)
    torch.manual_seed(2)
    fit_head(settings(base, corpus), tmp_path / "b", QUIET)
    a, b = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_what_cannot_be_fitted_is_refused(tmp_path, corpus):
    with_head = make_model(tmp_path / "mlm")
    with pytest.raises(UsageError, match="has a trained MLM head already; see how good it is with tickets evaluate"):
        fit_head(settings(with_head, corpus), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match=r"needs --corpus(.|\n)*--steps 0 is impossible"):
        fit_head(FitHeadConfig(model="m", steps=0), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match="--mlm-probability 1.5 is outside"):
        fit_head(settings(with_head, corpus, mlm_probability=1.5), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()
