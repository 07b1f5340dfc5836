"""Fitting an MLM head: an ordinary folder comes out, the encoder stays, a killed run goes on to the same bits."""

import gc
import json
import math
import weakref
from importlib import import_module

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from samples.batches import plain
from samples.tiny_models import CONFIGS, TEXT, make_model
from winning_tickets import (
    EvaluateConfig,
    FitHeadConfig,
    Runtime,
    SearchConfig,
    Ticket,
    evaluate,
    fit_head,
    search,
)
from winning_tickets.cli import show
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.data.corpora import load_corpus
from winning_tickets.data.token_cache import tokenize
from winning_tickets.finetuning.fit_head import start_from_unigrams
from winning_tickets.models.loading import base_hash, load_plm, weight_hashes
from winning_tickets.runs.directory import read_log
from winning_tickets.runs.errors import ContentError, TrainingError, UsageError
from winning_tickets.runs.identity import run_id
from winning_tickets.training.trainer import StepLog

QUIET = Runtime(quiet=True)
MODULE = import_module("winning_tickets.finetuning.fit_head")


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXT))
    return str(path)


def settings(model, corpus, **fields):
    defaults = {"steps": 5, "batch_tokens": 64, "segments": "packed:16", "max_tokens": 10**6}
    return FitHeadConfig.of(model=str(model), corpus=corpus, **(defaults | fields))


def weights_of(folder):
    return AutoModelForMaskedLM.from_pretrained(folder).state_dict()


@pytest.fixture
def trained(monkeypatch):
    """The models of all fits of a test as they were in memory when they had been trained."""
    kept = []
    original = MODULE._save
    monkeypatch.setattr(MODULE, "_save", lambda plm, run: (kept.append(plm), original(plm, run)))
    return kept


def rewrite_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def logits_of(model):
    ids = torch.tensor([[2, 30, 4, 50, 3]])
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def test_the_trained_model_is_let_go_before_the_saved_one_is_measured(tmp_path, corpus, monkeypatch):
    kept, alive = [], []
    save, measure = MODULE._save, MODULE.evaluate
    monkeypatch.setattr(MODULE, "_save", lambda plm, run: (kept.append(weakref.ref(plm.model)), save(plm, run)))

    def measured(*arguments):
        gc.collect()
        alive.extend(one() is not None for one in kept)
        return measure(*arguments)

    monkeypatch.setattr(MODULE, "evaluate", measured)
    fit_head(settings(make_model(tmp_path / "base", "bert", head="none"), corpus), tmp_path / "out", QUIET)
    assert alive == [False]


@pytest.mark.parametrize("train_encoder", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_ordinary_masked_lm_folder_comes_out(tmp_path, corpus, trained, kind, train_encoder):
    base = make_model(tmp_path / "base", kind, head="none")
    result = fit_head(settings(base, corpus, train_encoder=train_encoder), tmp_path / "out", QUIET)
    assert result == json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["final"]["perplexity"] == pytest.approx(math.exp(result["final"]["mlm_loss"]))
    assert not (tmp_path / "out" / ".scratch").exists()
    (fitted,) = trained
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits_of(again), logits_of(fitted.model))
    # The bias of the decoder is the part that a careless save loses.
    assert float(fitted.model.get_submodule(fitted.architecture.lm_decoder).bias.detach().std()) > 0.1
    assert load_plm(str(tmp_path / "out"), head="mlm").has_mlm_head
    # The encoder, and with it the tied decoder, moves when it is told to and not otherwise.
    before = weight_hashes(load_plm(str(base)).encoder)
    after = weight_hashes(again.base_model)
    assert result["base_hash"] == base_hash(after)
    assert (before == after) != train_encoder
    decoder = again.get_submodule(fitted.architecture.lm_decoder)
    assert decoder.weight is again.get_input_embeddings().weight
    # A frozen encoder leaves no graph behind it: a step is a forward pass and the head.
    states = fitted.encoder(input_ids=torch.tensor([[2, 30, 3]])).last_hidden_state
    assert states.requires_grad == train_encoder


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind in ("bert", "roberta", "mpnet", "albert")])
@pytest.mark.parametrize("train_encoder", [False, True])
def test_the_pooler_of_the_checkpoint_is_kept(tmp_path, corpus, kind, train_encoder):
    base = make_model(tmp_path / "base", kind, head="none")
    fit_head(settings(base, corpus, train_encoder=train_encoder), tmp_path / "out", QUIET)
    poolers = [
        {name: value for name, value in AutoModel.from_pretrained(folder).named_parameters() if "pooler." in name}
        for folder in (base, tmp_path / "out")
    ]
    assert len(poolers[0]) == 2
    assert all(torch.equal(value, poolers[1][name]) for name, value in poolers[0].items())


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_decoder_that_is_not_tied_comes_back_too(tmp_path, corpus, trained, kind):
    base = make_model(tmp_path / "base", kind, head="none")
    rewrite_config(base, tie_word_embeddings=False)
    fit_head(settings(base, corpus), tmp_path / "out", QUIET)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits_of(again), logits_of(trained[0].model))


def test_a_decoder_without_bias_is_fitted_as_well(tmp_path, corpus):
    base = make_model(tmp_path / "base", "modernbert", head="none")
    rewrite_config(base, decoder_bias=False)
    assert fit_head(settings(base, corpus), tmp_path / "out", QUIET)["final"]["mlm_loss"] > 0


def test_the_numbers_are_those_of_evaluate(tmp_path, corpus):
    base = make_model(tmp_path / "base", head="none")
    fitted = fit_head(settings(base, corpus, segments="mixed:5-16", batch_tokens=70), tmp_path / "out", QUIET)
    measured = evaluate(EvaluateConfig(target=str(tmp_path / "out"), objectives=("mlm",), corpus=corpus), QUIET)
    assert fitted["final"]["mlm_loss"] == measured["mlm_loss"]
    assert fitted["final"]["mlm_accuracy"] == measured["mlm_accuracy"]
    assert (fitted["measured_tokens"], fitted["measured_segments"]) == (measured["tokens"], "packed:128")
    assert 5 * 5 <= fitted["tokens_seen"] <= 5 * 70
    packed = fit_head(settings(base, corpus, batch_tokens=70), tmp_path / "packed", QUIET)
    assert packed["tokens_seen"] == 5 * 4 * 16  # four whole segments fit


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
    # The other way round: what is found on the folder goes onto the model it was made from.
    search(SearchConfig(model=str(tmp_path / "out"), method="magnitude"), tmp_path / "of-fitted", QUIET)
    ticket = Ticket.from_pretrained(tmp_path / "of-fitted")
    ticket.apply_(load_plm(str(base)).model)
    of_base = Ticket.from_pretrained(tmp_path / "ticket")
    assert all(torch.equal(mask, ticket.masks[name]) for name, mask in of_base.masks.items())
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


def test_measuring_takes_a_share_of_the_training(tmp_path, corpus):
    base = make_model(tmp_path / "base", head="none")
    fitted = fit_head(settings(base, corpus, steps=40, max_tokens=None), tmp_path / "out", QUIET)
    asked = evaluate(
        EvaluateConfig(
            target=str(tmp_path / "out"),
            objectives=("mlm",),
            corpus=corpus,
            segments="packed:16",
            max_tokens=40 * 64 // 20,
        ),
        QUIET,
    )
    assert fitted["measured_tokens"] == asked["tokens"]


def test_measurements_on_the_way_change_nothing(tmp_path, corpus):
    base = make_model(tmp_path / "base", head="none")
    plain = fit_head(settings(base, corpus), tmp_path / "plain", QUIET)
    measured = fit_head(settings(base, corpus, eval_steps=2), tmp_path / "measured", QUIET)
    records = [record for record in read_log(tmp_path / "measured") if "validation" in record]
    assert [record["step"] for record in records] == [2, 4]
    losses = [plain["start"], *(record["validation"] for record in records), plain["final"]]
    assert len({value["mlm_loss"] for value in losses}) == 4
    assert measured["final"] == plain["final"]
    expected = weights_of(tmp_path / "plain")
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(tmp_path / "measured").items())


@pytest.mark.parametrize("eval_steps", [None, 1])
def test_outputs_that_are_not_finite_are_an_error(tmp_path, corpus, eval_steps):
    base = make_model(tmp_path / "base", head="none")
    diverging = settings(base, corpus, steps=2, learning_rate=1e38, eval_steps=eval_steps)
    with pytest.raises((TrainingError, ContentError), match="not finite|is nan; lower --learning-rate"):
        fit_head(diverging, tmp_path / "out", QUIET)


def test_a_perplexity_that_is_too_large_for_a_number_is_null(tmp_path, corpus):
    base = make_model(tmp_path / "base", head="none")
    found = fit_head(settings(base, corpus, steps=2, learning_rate=1e6, eval_steps=1), tmp_path / "out", QUIET)
    assert found["final"]["mlm_loss"] > 1000
    assert found["final"]["perplexity"] is None
    assert ", perplexity too large for a number, accuracy " in show.fitted_head(found | {"out": "out"})


def test_the_head_starts_from_the_frequencies_of_the_corpus(tmp_path, corpus):
    plm = load_plm(str(make_model(tmp_path / "base", head="none")), head="mlm")
    stream = tokenize(load_corpus(corpus, "train", None), plm.tokenizer)
    start_from_unigrams(plm, stream)
    counts = np.bincount(np.asarray(stream.tokens), minlength=len(plm.tokenizer)) + 1
    bias = plm.model.cls.predictions.decoder.bias.detach().numpy()
    assert np.allclose(np.exp(bias), counts / counts.sum(), atol=1e-6)
    assert plm.model.cls.predictions.bias is plm.model.cls.predictions.decoder.bias


def test_the_start_is_as_good_as_the_frequencies(tmp_path, corpus):
    """With embeddings as small as a real model's, the fresh transform adds little to the bias."""
    base = make_model(tmp_path / "base", head="none")
    model = AutoModel.from_pretrained(base)
    model.get_input_embeddings().weight.data *= 0.05
    model.save_pretrained(base)
    start = fit_head(settings(base, corpus, steps=1), tmp_path / "out", QUIET)["start"]["mlm_loss"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    stream = tokenize(load_corpus(corpus, "train", None), tokenizer)
    plm = load_plm(str(base), head="mlm")
    batches = MODULE._validation(settings(base, corpus), plm)
    targets = torch.cat([batches[i]["masked_ids"] for i in range(len(batches))]).numpy()
    counts = np.bincount(np.asarray(stream.tokens), minlength=len(tokenizer)) + 1
    unigram = float(-np.log(counts / counts.sum())[targets].mean())
    assert unigram < math.log(len(tokenizer)) - 0.5
    assert start == pytest.approx(unigram, abs=0.1)


@pytest.mark.parametrize("train_encoder", [False, True])
def test_the_steps_are_those_of_a_plain_loop(tmp_path, corpus, train_encoder):
    """The same batches through transformers' own loss and torch's own AdamW."""
    base = make_model(tmp_path / "base", head="none")
    config = settings(base, corpus, train_encoder=train_encoder, warmup_steps=2, weight_decay=0.1)
    fit_head(config, tmp_path / "out", QUIET)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        plm = load_plm(str(base), head="mlm")
    stream = tokenize(load_corpus(corpus, "train", None), plm.tokenizer)
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
    groups = []
    for name, parameter in model.named_parameters():
        in_encoder = name.startswith("bert.")
        parameter.requires_grad_(train_encoder or not in_encoder)
        decay = 0.0 if name.endswith("bias") or "LayerNorm" in name else 0.1
        groups.append({"params": [parameter], "lr": 1e-4 if in_encoder else 1e-3, "weight_decay": decay})
    optimizer = torch.optim.AdamW([group for group in groups if group["params"][0].requires_grad])
    rates = [group["lr"] for group in optimizer.param_groups]
    log = read_log(tmp_path / "out")
    assert len(log) == 5
    for step, (record, factor) in enumerate(zip(log, (0, 1 / 2, 1, 2 / 3, 1 / 3), strict=True)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        loss = model(**plain(batches[step])).loss
        assert record["mlm"] == pytest.approx(float(loss.detach()), rel=1e-5)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    saved = weights_of(tmp_path / "out")
    # A key's bias shifts all scores of a query alike: its gradient is rounding noise, which Adam scales up to its rate.
    far = {name for name, value in model.state_dict().items() if not torch.allclose(value, saved[name], atol=1e-6)}
    assert all(name.endswith("key.bias") for name in far)


@pytest.mark.parametrize("train_encoder", [False, True])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, corpus, monkeypatch, train_encoder):
    base = make_model(tmp_path / "base", head="none")
    config = settings(base, corpus, train_encoder=train_encoder)
    whole = fit_head(config, tmp_path / "whole", QUIET)

    class Killed(BaseException):
        pass

    original = StepLog.on_step_end

    def dies(self, trainer):
        if trainer.step == 4:
            raise Killed
        return original(self, trainer)

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


def test_a_run_killed_while_it_saved_goes_on(tmp_path, corpus, monkeypatch):
    base = make_model(tmp_path / "base", head="none")
    whole = fit_head(settings(base, corpus), tmp_path / "whole", QUIET)

    class Killed(BaseException):
        pass

    original = MODULE.load_plm

    def dies(name, **options):
        if name.endswith("model"):  # the read-back of the staging folder
            raise Killed
        return original(name, **options)

    monkeypatch.setattr(MODULE, "load_plm", dies)
    with pytest.raises(Killed):
        fit_head(settings(base, corpus), tmp_path / "out", QUIET)
    monkeypatch.undo()
    assert not (tmp_path / "out" / "config.json").exists()
    assert fit_head(settings(base, corpus), tmp_path / "out", QUIET)["final"] == whole["final"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in (tmp_path / "whole").iterdir()}


def test_a_model_that_does_not_come_back_is_not_kept(tmp_path, corpus, monkeypatch):
    base = make_model(tmp_path / "base", head="none")
    original = MODULE.save_folder

    def careless(model, tokenizer, folder, extra):
        with torch.no_grad():
            model.get_output_embeddings().bias += 1
        original(model, tokenizer, folder, extra)
        with torch.no_grad():
            model.get_output_embeddings().bias -= 2

    monkeypatch.setattr(MODULE, "save_folder", careless)
    with pytest.raises(ContentError, match="are not those that were trained, for example cls.predictions"):
        fit_head(settings(base, corpus), tmp_path / "out", QUIET)
    assert not (tmp_path / "out" / "config.json").exists()


def test_the_head_does_not_depend_on_global_random_numbers(tmp_path, corpus):
    base = make_model(tmp_path / "base", head="none")
    torch.manual_seed(1)
    fit_head(settings(base, corpus), tmp_path / "a", QUIET)
    torch.manual_seed(2)
    fit_head(settings(base, corpus), tmp_path / "b", QUIET)
    a, b = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    fit_head(settings(base, corpus, seed=1), tmp_path / "c", QUIET)
    name = "cls.predictions.transform.dense.weight"
    assert not torch.allclose(weights_of(tmp_path / "c")[name], a[name], atol=0.1)
    state = torch.get_rng_state()
    MODULE._with_fresh_head(settings(base, corpus))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_fitted_is_refused(tmp_path, corpus):
    with_head = make_model(tmp_path / "mlm")
    with pytest.raises(UsageError, match="has a trained MLM head; see tickets evaluate"):
        fit_head(settings(with_head, corpus), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match=r"needs --corpus(.|\n)*Unknown segments 'pages'"):
        fit_head(FitHeadConfig(model="m", segments="pages"), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match="--steps 0 is impossible; it must be at least 1"):
        settings(with_head, corpus, steps=0)
    with pytest.raises(UsageError, match="--mlm-probability 1.5 is impossible"):
        fit_head(settings(with_head, corpus, mlm_probability=1.5), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match="--warmup-steps 6 is more than the 5 steps"):
        fit_head(settings(with_head, corpus, warmup_steps=6), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match=r"--learning-rate -1 is impossible; .*\n--max-tokens 0 is impossible"):
        settings(with_head, corpus, learning_rate=-1, max_tokens=0)
    base = make_model(tmp_path / "base", head="none")
    with pytest.raises(UsageError, match="do not fit into batches of 8 tokens; raise --batch-tokens to at least 16"):
        fit_head(settings(base, corpus, batch_tokens=8), tmp_path / "out", QUIET)
    (tmp_path / "short.txt").write_text("the cat")
    with pytest.raises(ContentError, match="The corpus is shorter than one segment"):
        fit_head(settings(base, str(tmp_path / "short.txt")), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match="There is no file or folder .*nowhere"):
        fit_head(settings(base, str(tmp_path / "nowhere.txt")), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_the_identity_of_a_run_stays():
    assert run_id(FitHeadConfig(model="m"), "fit-head-m", base="b", corpus="c") == "fit-head-m-d1ea2d16939a"
    assert FitHeadConfig(model="m").warmup == 60
    assert FitHeadConfig(model="m", warmup_steps=0).warmup == 0


def test_the_command_line(tmp_path, corpus, tickets):
    base = make_model(tmp_path / "base", head="none")
    words = ["fit-head", base, "--corpus", corpus, "--steps", 2, "--batch-tokens", 64, "--segments", "packed:16"]
    words += ["--warmup-steps", 1, "--mlm-probability", 0.3, "--learning-rate", 1e-2, "--out", tmp_path / "out"]
    code, out, err = tickets(*words, "--dry-run", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["plan"]["warmup_steps"] == 1
    assert not (tmp_path / "out").exists()
    code, out, err = tickets(*words, "--quiet", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["steps"] == 2
    assert [record["learning_rate"] for record in read_log(tmp_path / "out")] == [0.0, 1e-2]
    code, out, err = tickets(*words)  # stored
    assert code == 0
    assert "base with an MLM head after 2 steps\n  untrained: MLM loss " in out
    code, out, err = tickets("fit-head", base, "--corpus", tmp_path / "nowhere", "--out", tmp_path / "other")
    assert (code, out) == (2, "")
    assert "There is no file or folder" in err
    assert not (tmp_path / "other").exists()
