"""What methods learn from: one encoder under several heads, and the batches of several sources."""

import pytest
import torch

from samples.batches import plain
from samples.learning import QUIET, corpus_of, learning, with_tiny_tasks
from samples.tiny_models import CONFIGS, make_model
from winning_tickets import SearchConfig
from winning_tickets.pruning.preparation import prepare_search
from winning_tickets.pruning.search import check_search, search
from winning_tickets.pruning.sources import load_sources
from winning_tickets.runs.errors import UsageError

TRAINERS = ("imp", "movement", "snip")


@pytest.mark.parametrize("kind", CONFIGS)
def test_all_heads_are_on_one_encoder(tmp_path, monkeypatch, kind):
    with_tiny_tasks(monkeypatch)
    model = str(make_model(tmp_path / "m", kind))
    config = learning(model, "snip", corpus_of(tmp_path), objective="mlm+task", tasks=("rte", "stsb"), scope="encoder")
    sources = load_sources(prepare_search(config, QUIET))
    models = sources.model.models
    assert list(models) == ["mlm", "rte", "stsb"]
    assert all(model.base_model is sources.model.base_model for model in models.values())
    embeddings = sources.model.base_model.get_input_embeddings().weight
    decoder = models["mlm"].get_output_embeddings().weight
    assert (decoder is embeddings) == (kind not in ("electra", "albert") or decoder is embeddings)
    # Everything is one step of one optimiser: the loss of each source reaches the encoder and its own head only.
    batch = sources.dataset(config, 1)[0]
    for name in models:
        sources.model.zero_grad()
        sums = sources.objective(sources.model, {name: batch[name]})
        assert list(sums) == [name]
        sums[name].backward()
        reached = {n.split(".")[1] for n, p in sources.model.named_parameters() if p.grad is not None and p.grad.any()}
        inside = {id(p) for p in sources.model.base_model.parameters()}
        heads = {
            n
            for n, p in sources.model.named_parameters()
            if id(p) not in inside and p.grad is not None and p.grad.any()
        }
        assert reached
        assert all(n.startswith(f"models.{name}.") for n in heads)


def test_the_loss_is_that_of_each_model_alone(tmp_path, monkeypatch):
    with_tiny_tasks(monkeypatch)
    config = learning(
        str(make_model(tmp_path / "m")), "snip", corpus_of(tmp_path), objective="mlm:2+task:0.5", tasks=("rte", "mrpc")
    )
    sources = load_sources(prepare_search(config, QUIET))
    assert sources.objective.weights == {"mlm": 2.0, "mrpc": 0.5, "rte": 0.5}
    sources.model.eval()
    batch = sources.dataset(config, 1)[0]
    sums, counts = sources.objective(sources.model, batch), sources.objective.counts(batch)
    for name, model in sources.model.models.items():
        # A sum over its count against a mean: two orders of float32 sums.
        torch.testing.assert_close(sums[name] / counts[name], model(**plain(batch[name])).loss, rtol=1e-5, atol=1e-6)


def test_embeddings_in_scope_untie_the_decoder(tmp_path):
    config = learning(str(make_model(tmp_path / "m")), "snip", corpus_of(tmp_path))
    sources = load_sources(prepare_search(config, QUIET))
    decoder = sources.model.models["mlm"].get_output_embeddings().weight
    embeddings = sources.model.base_model.get_input_embeddings().weight
    assert torch.equal(decoder, embeddings)
    assert decoder is not embeddings
    assert not decoder.requires_grad


@pytest.mark.parametrize("method", TRAINERS)
def test_batches_of_tasks_have_similar_lengths_in_profile_tuned(tmp_path, monkeypatch, method):
    with_tiny_tasks(monkeypatch)
    model = str(make_model(tmp_path / "m"))

    def epoch_of(**fields):
        config = learning(model, method, None, objective="task", tasks=("mrpc",), batch_size=4, **fields)
        batches = load_sources(prepare_search(config, QUIET)).dataset(config, 9)
        masks = [batches[step]["mrpc"]["attention_mask"] for step in range(9)]
        texts = sorted(tuple(row[row > 0].tolist()) for step in range(9) for row in batches[step]["mrpc"]["input_ids"])
        return texts, sum(int((mask == 0).sum()) for mask in masks)

    (texts, padding), (same, more) = epoch_of(), epoch_of(group_by_length=False)
    assert texts == same
    assert padding < 0.7 * more
    assert epoch_of(profile="paper")[1] == more


def test_the_length_of_a_round_in_every_unit(tmp_path, monkeypatch):
    with_tiny_tasks(monkeypatch)  # 36 training examples: 5 batches of 8
    model, corpus = str(make_model(tmp_path / "m")), corpus_of(tmp_path)

    def steps(**fields):
        config = learning(model, "imp", corpus, **({"round_steps": None} | fields))
        return load_sources(prepare_search(config, QUIET)).round_steps(config)

    both = {"objective": "task", "tasks": ("rte", "mrpc")}
    assert steps(**both, round_steps=7) == 7
    assert steps(**both, round_epochs=2) == 10
    assert steps(**both, round_epochs=2, mixing="proportional") == 20
    assert steps(**both) == 15  # the tasks' own three epochs
    assert steps(**both, round_examples=160) == 10
    assert steps(**both, round_examples=160, mixing="proportional") == 20
    assert steps(objective="mlm", round_examples=40) == 10  # four segments of 16 tokens a step
    with pytest.raises(UsageError, match="--round-examples counts segments"):
        steps(objective="mlm", segments="lines", batch_tokens=512, round_examples=40)


@pytest.mark.parametrize("method", TRAINERS)
def test_what_cannot_be_learnt_from_is_refused_at_once(method):
    round_ = {"round_steps": 1} if method == "imp" else {}
    bad = SearchConfig.of(model="m", method=method, objective="mlm+task", tasks=("rt",), **round_)
    with pytest.raises(UsageError) as caught:
        check_search(bad)
    assert "needs --corpus" in str(caught.value)
    assert "rt" in str(caught.value)
    assert "rte" in str(caught.value)
    known = "The objective kd needs --corpus" if method == "imp" else "Unknown objective 'kd'"
    with pytest.raises(UsageError, match=known):
        check_search(SearchConfig.of(model="m", method=method, objective="kd", **round_))
    with pytest.raises(UsageError, match="needs --task"):
        check_search(SearchConfig.of(model="m", method=method, objective="task"))
    with pytest.raises(UsageError, match="uses no task"):
        check_search(SearchConfig.of(model="m", method=method, objective="mlm", corpus="c", tasks=("rte",), **round_))


def test_a_model_without_mlm_head_is_refused(tmp_path):
    model = str(make_model(tmp_path / "m", head="none"))
    with pytest.raises(UsageError, match="no trained MLM head"):
        search(learning(model, "snip", corpus_of(tmp_path), sparsity=0.5), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_tasks_given_mean_their_objective_and_their_order_nothing():
    config = SearchConfig.of(model="m", method="imp", tasks=("rte", "mrpc", "rte"))
    assert (config.objective, config.tasks) == ("task", ("mrpc", "rte"))
    assert config.sparsities == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert SearchConfig.of(model="m", method="imp").objective == "mlm"
