"""Searches from the outside: every method on every architecture, resumed, refused, interrupted."""

import json
import os
import signal

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, BertForMaskedLM

from samples.settings import read_by_method
from samples.tiny_models import CONFIGS, TEXT, make_model
from winning_tickets import EvaluateConfig, Runtime, SearchConfig, Ticket, evaluate, search
from winning_tickets.config import METHODS, OBJECTIVE_NAMES
from winning_tickets.config.mask_training import MaskTraining
from winning_tickets.models.architectures import prunable_views
from winning_tickets.pruning import mask_training as mask_training_module
from winning_tickets.runs.errors import ContentError, Interrupted, TicketsWarning, TrainingError, UsageError
from winning_tickets.tickets.selection import pruned_count

QUIET = Runtime(quiet=True)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXT))
    return str(path)


@pytest.fixture
def bert(tmp_path):
    return str(make_model(tmp_path / "bert", head="mlm+pooler"))


def training(model, corpus, **fields):
    defaults = {"sparsity": 0.5, "steps": 4, "batch_tokens": 64, "segments": "packed:16", "learning_rate": 2e-3}
    return read_by_method(model=model, corpus=corpus, **(defaults | fields))


ALIKE = ("xlm-roberta", "camembert")  # their MLM heads are that of RoBERTa


@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        pytest.param(kind, name, marks=[pytest.mark.slow] if name == "mlm" and kind in ALIKE else [])
        for kind in CONFIGS
        for name in OBJECTIVE_NAMES
        if "+" not in name or kind in ("bert", "modernbert")
    ],
)
def test_mask_training_lowers_its_own_loss_on_every_architecture(tmp_path, corpus, kind, objective):
    model = str(make_model(tmp_path / "model", kind))
    short = training(model, corpus, objective=objective, steps=1, learning_rate=1e-9, score_init="rank")
    start = search(short, tmp_path / "start", QUIET)
    ticket = search(training(model, corpus, objective=objective, steps=30), tmp_path / "ticket", QUIET)
    wanted = ("kd", "mlm")
    before, after = (
        evaluate(
            EvaluateConfig(target=str(tmp_path / t), objectives=wanted, corpus=corpus, segments="packed:16"), QUIET
        )
        for t in ("start", "ticket")
    )
    parts = objective.split("+")
    assert sum(after[f"{part}_loss"] for part in parts) < sum(before[f"{part}_loss"] for part in parts)
    assert (ticket.mlm_head is not None) == ("mlm" in objective)
    assert after["mlm_head"] == ("ticket" if "mlm" in objective else "base")
    assert {n: m.shape for n, m in ticket.masks.items()} == {n: m.shape for n, m in start.masks.items()}
    for mask in ticket.masks.values():
        assert mask.numel() - int(mask.sum()) == pruned_count(mask.numel(), 0.5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_masked_model_equals_zeroed_weights(tmp_path, kind):
    path = make_model(tmp_path / "model", kind)
    ticket = search(SearchConfig(model=str(path), method="magnitude", sparsity=0.6), tmp_path / "t", QUIET)
    by_hand = AutoModel.from_pretrained(path)
    for weight in prunable_views(by_hand, ticket.masks).values():
        threshold = weight.abs().reshape(-1).sort().values[int(weight.numel() * 0.6) - 1]
        weight[weight.abs() <= threshold] = 0.0
    masked = ticket.apply_(AutoModelForMaskedLM.from_pretrained(path))
    ids = torch.arange(5, 25).view(2, 10)
    with torch.no_grad():
        assert torch.equal(masked.base_model(ids).last_hidden_state, by_hand(ids).last_hidden_state)


@pytest.mark.parametrize("method", sorted({*METHODS} - {"importance"}))
@pytest.mark.parametrize("scope", ["encoder+embeddings", "encoder", "encoder+embeddings+pooler"])
@pytest.mark.parametrize("ranking", ["matrix", "global"])
@pytest.mark.parametrize("sparsity", [0.0, 0.29, 0.9])
def test_the_sparsity_is_exact_in_every_scope(tmp_path, corpus, bert, method, scope, ranking, sparsity):
    fields = {"round_steps": 1} if method == "imp" else {}
    config = training(bert, corpus, method=method, scope=scope, ranking=ranking, sparsity=sparsity, steps=2, **fields)
    ticket = search(config, tmp_path / "t", QUIET)
    assert ("embeddings.word_embeddings.weight" in ticket.masks) == ("embeddings" in scope)
    assert ("pooler.dense.weight" in ticket.masks) == ("pooler" in scope)
    assert len(ticket.masks) == 12 + ("embeddings" in scope) + ("pooler" in scope)
    counts = {name: mask.numel() - int(mask.sum()) for name, mask in ticket.masks.items()}
    if ranking == "matrix":
        assert counts == {name: pruned_count(mask.numel(), sparsity) for name, mask in ticket.masks.items()}
    else:
        assert sum(counts.values()) == pruned_count(ticket.total, sparsity)
    assert ticket.pruned == sum(counts.values())


def test_a_global_ranking_compares_weights_that_are_comparable_and_an_empty_matrix_is_named(tmp_path, corpus):
    """Weights times input norms are larger than weights alone, and the embeddings have no inputs."""
    model, embeddings = str(make_model(tmp_path / "bert", head="mlm+pooler")), "embeddings.word_embeddings.weight"
    loud = Runtime(device="cpu")
    default = training(model, corpus, ranking="global", sparsity=0.7, steps=1)
    magnitude = SearchConfig(model=model, method="magnitude", ranking="global", sparsity=0.7)
    found, ranked = search(default, tmp_path / "default", loud), search(magnitude, tmp_path / "magnitude", loud)
    assert default.resolved().score_init == "rank"
    assert torch.equal(found.masks[embeddings], ranked.masks[embeddings])
    for name, fields in {"trained": {"score_init": "activation"}, "wanda": {"method": "wanda"}}.items():
        config = training(model, corpus, ranking="global", sparsity=0.7, steps=1, **fields)
        warning = f"the ticket at 70 % sparsity keeps less than 0.30% of 1 of 13 matrices: {embeddings}. Rank in"
        with pytest.warns(TicketsWarning, match=warning):
            assert not search(config, tmp_path / name, loud).masks[embeddings].any()
        search(config, tmp_path / name, loud)  # is opened again


def test_a_pooler_that_the_checkpoint_lacks_is_never_masked(tmp_path, corpus):
    model = str(make_model(tmp_path / "no-pooler"))
    with pytest.raises(UsageError, match="asks for a pooler, and .* has none; use a scope without it"):
        search(training(model, corpus, scope="encoder+pooler"), tmp_path / "t", QUIET)
    ticket = search(training(model, corpus, profile="code"), tmp_path / "u", QUIET)
    assert ticket.info.scope == "encoder+embeddings"
    assert "pooler.dense.weight" not in ticket.masks


@pytest.mark.parametrize("profile", ["tuned", "paper", "code"])
@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
def test_a_killed_search_resumes_to_the_same_bits(tmp_path, corpus, bert, monkeypatch, profile, objective):
    config = training(bert, corpus, objective=objective, steps=6, profile=profile, save_at=(2, 5))
    whole = search(config, tmp_path / "whole", QUIET)

    class Killed(BaseException):
        pass

    original = mask_training_module.MaskSearch.record

    def record(self):
        if self.optimizer.steps == 5:
            raise Killed
        return original(self)

    monkeypatch.setattr(mask_training_module.MaskSearch, "record", record)
    with pytest.raises(Killed):
        search(config, tmp_path / "killed", Runtime(quiet=True, checkpoint_steps=3))
    monkeypatch.undo()
    assert not (tmp_path / "killed" / "ticket.json").exists()
    resumed = search(config, tmp_path / "killed", QUIET)
    assert resumed.id == whole.id
    for step in ("step-000002", "step-000005"):
        assert (
            Ticket.from_pretrained(tmp_path / "killed" / step).id
            == Ticket.from_pretrained(tmp_path / "whole" / step).id
        )
    if whole.mlm_head is not None:
        assert all(torch.equal(value, resumed.mlm_head[name]) for name, value in whole.mlm_head.items())
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, config.resolved().total_steps + 1))
    assert not (tmp_path / "killed" / ".scratch").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_search_after_a_checkpoint(tmp_path, corpus, bert, monkeypatch, number, code):
    config = training(bert, corpus, steps=6)
    whole = search(config, tmp_path / "whole", QUIET)
    original = mask_training_module.MaskSearch.record

    def record(self):
        if self.optimizer.steps == 2:
            os.kill(os.getpid(), number)
        return original(self)

    monkeypatch.setattr(mask_training_module.MaskSearch, "record", record)
    with pytest.raises(
        Interrupted, match="after step 2 of 6; a checkpoint is in .* Run the same command again"
    ) as caught:
        search(config, tmp_path / "out", QUIET)
    assert caught.value.exit_code == code
    monkeypatch.undo()
    assert search(config, tmp_path / "out", QUIET).id == whole.id


def test_a_finished_search_is_not_done_again(tmp_path, corpus, bert, monkeypatch):
    config = training(bert, corpus)
    first = search(config, tmp_path / "t", QUIET)
    monkeypatch.setattr(MaskTraining, "finder", "nothing:searches_again")
    assert search(config, tmp_path / "t", QUIET).id == first.id
    with pytest.raises(UsageError, match="holds another run"):
        search(training(bert, corpus, seed=1), tmp_path / "t", QUIET)


def test_a_nan_loss_stops_names_the_step_and_keeps_the_last_good_state(tmp_path, corpus, bert, monkeypatch):
    from winning_tickets.training.objectives.pretraining import PretrainingObjective

    original = PretrainingObjective.__call__
    calls = []

    def poisoned(self, model, batch):
        calls.append(1)
        sums = original(self, model, batch)
        return {name: value * float("nan") for name, value in sums.items()} if len(calls) == 3 else sums

    monkeypatch.setattr(PretrainingObjective, "__call__", poisoned)
    with pytest.raises(
        TrainingError, match=r"not finite at step 3 \(kd = nan\).* the last good state, after step 2, is kept"
    ):
        search(training(bert, corpus), tmp_path / "t", QUIET)
    state = torch.load(tmp_path / "t" / ".scratch" / "checkpoint-2", weights_only=True)["optimizer"]
    assert all(bool(score.isfinite().all()) for score in state["scores"].values())
    assert not (tmp_path / "t" / "result.json").exists()


def test_a_full_disk_while_checkpointing_keeps_the_previous_one(tmp_path, corpus, bert, monkeypatch):
    original = torch.save

    def full(value, path, *args, **kwargs):
        if value["step"] == 4:
            raise OSError(28, "No space left on device")
        return original(value, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="No space left on device.* The previous checkpoint is intact"):
        search(training(bert, corpus, steps=8), tmp_path / "t", Runtime(quiet=True, checkpoint_steps=2))
    assert [path.name for path in (tmp_path / "t" / ".scratch").iterdir()] == ["checkpoint-2"]
    monkeypatch.undo()
    whole = search(training(bert, corpus, steps=8), tmp_path / "whole", QUIET)
    assert search(training(bert, corpus, steps=8), tmp_path / "t", QUIET).id == whole.id


def test_no_mlm_head_is_refused_with_the_way_out(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(BertForMaskedLM, "from_pretrained", None)  # the header of the weights is enough
    model = str(make_model(tmp_path / "headless", head="none"))
    with pytest.raises(UsageError, match=r"has no trained MLM head .* Use --objective kd, .* tickets fit-head"):
        search(training(model, corpus, objective="mlm"), tmp_path / "t", QUIET)
    assert not (tmp_path / "t").exists()


def test_layers_keeps_the_first_and_the_ticket_remembers(tmp_path, corpus, bert):
    ticket = search(training(bert, corpus, layers=1), tmp_path / "t", QUIET)
    assert {name.split(".")[2] for name in ticket.masks if name.startswith("encoder")} == {"0"}
    result = evaluate(EvaluateConfig(target=str(tmp_path / "t"), corpus=corpus, segments="lines"), QUIET)
    assert result["kd_loss"] > 0
    with pytest.raises(UsageError, match="--layers 3 is impossible: .* has 2 layers"):
        search(training(bert, corpus, layers=3), tmp_path / "u", QUIET)


def test_a_corpus_shorter_than_a_segment_is_refused(tmp_path, bert):
    short = tmp_path / "short.txt"
    short.write_text("the cat\n")
    with pytest.raises(ContentError, match="shorter than one segment"):
        search(training(bert, str(short), segments="packed:64"), tmp_path / "t", QUIET)
    assert not (tmp_path / "t").exists(), "nothing was begun"


def test_an_unknown_architecture_says_how_to_add_it(tmp_path, corpus):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bloom"}')
    with pytest.raises(UsageError, match=r"Unknown architecture 'bloom'.*write one entry of ARCHITECTURES"):
        search(training(str(folder), corpus), tmp_path / "t", QUIET)


def test_dense_has_no_kd_loss_and_evaluation_is_repeatable(corpus, bert):
    config = EvaluateConfig(target=bert, objectives=("kd", "mlm"), corpus=corpus, segments="packed:16")
    first, second = evaluate(config, QUIET), evaluate(config, QUIET)
    assert first["kd_loss"] == 0.0
    assert first["mlm_loss"] == second["mlm_loss"]
    assert first["tokens_by_objective"]["mlm"] < first["tokens_by_objective"]["kd"]


def test_batch_size_does_not_change_the_kd_loss(tmp_path, corpus, bert):
    search(SearchConfig(model=bert, method="magnitude", sparsity=0.5), tmp_path / "t", QUIET)
    losses = [
        evaluate(
            EvaluateConfig(target=str(tmp_path / "t"), corpus=corpus, segments="lines", batch_tokens=tokens), QUIET
        )["kd_loss"]
        for tokens in (128, 300, 5000)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
