"""Iterative magnitude pruning: rounds, rewinding, resuming; against a naive loop."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samples.batches import plain
from samples.learning import QUIET, Killed, corpus_of, killed_after, learning, with_tiny_tasks, without_dropout
from samples.tiny_models import CONFIGS, TEXT, make_model
from winning_tickets import Runtime, SearchConfig, Ticket
from winning_tickets.config import parse_rewind
from winning_tickets.models.architectures import prunable_views
from winning_tickets.pruning import imp as imp_module
from winning_tickets.pruning import steps as steps_module
from winning_tickets.pruning.imp import Rounds
from winning_tickets.pruning.preparation import prepare_search
from winning_tickets.pruning.search import check_search, search, search_all
from winning_tickets.pruning.sources import load_sources
from winning_tickets.runs.directory import read_log
from winning_tickets.runs.errors import TrainingError, UsageError
from winning_tickets.tickets.selection import keep_top, pruned_count

BOTH = {"objective": "mlm+task:0.5", "tasks": ("rte",)}
EVERY_POLICY = ("pretrained", "step:2", "percent:75", "none", "noise:0.5", "reinit")


@pytest.fixture
def bert(tmp_path):
    return without_dropout(make_model(tmp_path / "bert", head="mlm+pooler"))


@given(st.integers(1, 6), st.integers(1, 9), st.booleans(), st.integers(0, 4), st.booleans())
def test_rounds_prune_after_every_training_and_train_after_no_last_pruning(count, steps, first, warmup, whole):
    if count == 1 and first:
        return
    rounds = Rounds([i / 10 for i in range(count)], steps, first)
    assert rounds.total == (count - first) * steps
    ends = [step for step in range(1, rounds.total + 1) if rounds.ends(step)]
    assert [rounds.pruned(step) for step in ends] == list(range(1 + first, count + 1))
    rate = rounds.rate(min(warmup, steps - 1), whole=whole)
    length = rounds.total if whole else steps
    assert all(rate(step) == rate(step % length) for step in range(rounds.total))
    assert rate(length - 1) > 0
    assert max(rate(step) for step in range(length)) <= 1


def test_rewind_policies_are_read_and_others_refused():
    assert [parse_rewind("step:12").step(100), parse_rewind("percent:5").step(200)] == [12, 10]
    assert (parse_rewind("noise").amount, parse_rewind("noise:2").amount) == (0.1, 2.0)
    for word in ("step", "step:-1", "step:x", "percent:101", "percent:1.2.3", "noise:0", "Pretrained", "none:1", ""):
        with pytest.raises(UsageError, match="is not a policy; use pretrained, step:K, percent:P"):
            parse_rewind(word)


def naive(config, policy):
    """Train, prune, rewind with nothing but torch: the masks by sparsity."""
    prepared = prepare_search(config, QUIET)
    sources = load_sources(prepared)
    model, encoder = sources.model, sources.model.base_model
    model.eval()
    dataset = sources.dataset(config, 12)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    names, masks, found, step = list(prepared.weights), None, {}, 0
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for sparsity in config.sparsities:
        for place in range(4):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * (4 - place) / 4
            optimizer.zero_grad()
            batch = dataset[step]
            sum(
                sources.objective.weights[n] * model.models[n](**plain(part)).loss for n, part in batch.items()
            ).backward()
            for name, mask in (masks or {}).items():
                dict(encoder.named_parameters())[name].grad.mul_(mask)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            for name, view in prunable_views(encoder, names).items():
                if masks is not None:
                    view.mul_(masks[name])
            if policy.startswith("step") and step == int(policy[5:]):
                start = {name: value.detach().clone() for name, value in model.named_parameters()}
        scores = {
            name: view.abs() if masks is None else torch.where(masks[name], view.abs(), -1.0)
            for name, view in prunable_views(encoder, names).items()
        }
        found[sparsity] = masks = keep_top(scores, sparsity, config.ranking)
        if policy != "none":
            for name, value in model.named_parameters():
                value.data.copy_(start[name])
        for name, view in prunable_views(encoder, names).items():
            view.mul_(masks[name])
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    return found


@pytest.mark.parametrize(
    ("policy", "fields", "ranking"),
    [
        ("pretrained", {}, "matrix"),
        ("pretrained", BOTH, "global"),
        ("pretrained", BOTH | {"mixing": "proportional"}, "matrix"),
        ("none", {}, "global"),
        ("none", BOTH, "matrix"),
        ("none", BOTH | {"mixing": "proportional"}, "global"),
        ("step:2", {}, "matrix"),
        ("step:2", {}, "global"),
        ("step:2", BOTH, "matrix"),
        ("step:2", BOTH | {"mixing": "proportional"}, "global"),
    ],
)
def test_the_tickets_are_those_of_a_plain_loop(tmp_path, monkeypatch, bert, policy, fields, ranking):
    with_tiny_tasks(monkeypatch)
    config = learning(
        bert, "imp", corpus_of(tmp_path), rewind=policy, learning_rate=1e-2, ranking=ranking, scope="encoder", **fields
    )
    found = search_all(config, tmp_path / "out", QUIET)
    expected = naive(config, policy)
    assert list(found) == [0.2, 0.5, 0.8] == list(expected)
    for sparsity, ticket in found.items():
        wrong = sum(int((expected[sparsity][name] != mask).sum()) for name, mask in ticket.masks.items())
        assert wrong <= ticket.total * 2e-3  # rounding moves a few weights across the threshold


@pytest.mark.parametrize("policy", EVERY_POLICY)
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_tickets_are_exact_and_nested_and_for_the_pretrained_weights(tmp_path, kind, policy):
    model = str(make_model(tmp_path / "m", kind))
    found = search_all(learning(model, "imp", corpus_of(tmp_path), rewind=policy), tmp_path / "out", QUIET)
    below = None
    for sparsity, ticket in found.items():
        assert all(int((~m).sum()) == pruned_count(m.numel(), sparsity) for m in ticket.masks.values())
        assert below is None or all((below.masks[name] | ~mask).all() for name, mask in ticket.masks.items())
        ticket.check(prepare_search(SearchConfig(model=model, method="magnitude"), QUIET).plm.encoder)
        below = ticket
    # The last pruning is the end: three trainings for three tickets.
    assert [record["step"] for record in read_log(tmp_path / "out")] == list(range(1, 13))
    assert sorted(path.name for path in (tmp_path / "out").glob("sparsity-*")) == [
        "sparsity-0.20", "sparsity-0.50", "sparsity-0.80"
    ]  # fmt: skip
    assert not (tmp_path / "out" / ".scratch").exists()


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_architecture_is_pruned_on_text_and_tasks(tmp_path, monkeypatch, kind):
    with_tiny_tasks(monkeypatch)
    config = learning(str(make_model(tmp_path / "m", kind)), "imp", corpus_of(tmp_path), round_steps=2, **BOTH)
    assert list(search_all(config, tmp_path / "out", QUIET)) == [0.2, 0.5, 0.8]


@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        pytest.param("pretrained", {}, marks=pytest.mark.slow),
        ("pretrained", {"rewind_scope": "prunable", "prune_first": True}),
        ("step:3", {}),
        ("step:3", {"rewind_scope": "prunable"}),
        pytest.param("step:3", {"reset_optimizer": False}, marks=pytest.mark.slow),
        pytest.param("step:3", {"prune_first": True}, marks=pytest.mark.slow),
        ("none", {"reset_optimizer": False}),
    ],
)
def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path, monkeypatch, policy, fields):
    with_tiny_tasks(monkeypatch)
    model, corpus = str(make_model(tmp_path / "m")), corpus_of(tmp_path)
    config = learning(model, "imp", corpus, rewind=policy, save_trained=True, learning_rate=1e-2, **BOTH, **fields)
    whole = search_all(config, tmp_path / "whole", QUIET)
    last = 8 if "prune_first" in fields else 12
    for step in (2, 4, 5, 7, last):
        with killed_after(step), pytest.raises(Killed):
            search_all(config, tmp_path / "parts", Runtime(quiet=True, checkpoint_steps=3))
    again = search_all(config, tmp_path / "parts", QUIET)
    assert [ticket.id for ticket in again.values()] == [ticket.id for ticket in whole.values()]
    for path in (tmp_path / "whole" / "states").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / "states" / path.name).read_bytes()
    assert [r["step"] for r in read_log(tmp_path / "parts")] == list(range(1, last + 1))


def weights_at_each_round(monkeypatch):
    """Parameters of everything that is trained, at the start of each round but the first."""
    kept = []
    original = imp_module.IterativePruning._rewind

    def rewind(self):
        before = {name: value.detach().clone() for name, value in self._model.named_parameters()}
        original(self)
        kept.append((before, {name: value.detach().clone() for name, value in self._model.named_parameters()}))

    monkeypatch.setattr(imp_module.IterativePruning, "_rewind", rewind)
    return kept


@pytest.mark.parametrize("scope", ["all", "encoder", "prunable"])
def test_rewinding_brings_back_what_it_should_and_leaves_the_rest(tmp_path, monkeypatch, bert, scope):
    with_tiny_tasks(monkeypatch)
    config = learning(bert, "imp", corpus_of(tmp_path), rewind_scope=scope, learning_rate=1e-2, **BOTH)
    start = {
        name: value.detach().clone()
        for name, value in load_sources(prepare_search(config, QUIET)).model.named_parameters()
    }
    kept = weights_at_each_round(monkeypatch)
    search_all(config, tmp_path / "out", QUIET)
    assert len(kept) == 2
    pruned = set(prepare_search(config, QUIET).weights)
    for before, after in kept:
        for name, value in after.items():
            source, rest = name.split(".", 2)[1:]
            inside = rest.startswith("bert.")
            back = {"all": True, "encoder": inside, "prunable": rest.removeprefix("bert.") in pruned and inside}[scope]
            assert torch.equal(value, start[name] if back else before[name]), (source, name)
        assert any(not torch.equal(before[name], start[name]) for name in start)


def test_none_rewinds_nothing(tmp_path, monkeypatch, bert):
    kept = weights_at_each_round(monkeypatch)
    search_all(learning(bert, "imp", corpus_of(tmp_path), rewind="none"), tmp_path / "out", QUIET)
    assert all(torch.equal(before[name], after[name]) for before, after in kept for name in before)


def test_a_rewinding_that_fails_is_noticed(tmp_path, monkeypatch, bert):
    """As in the released programs, where what is gone back to is the live weights."""
    monkeypatch.setattr(torch.Tensor, "clone", lambda self, **_: self)
    config = learning(bert, "imp", corpus_of(tmp_path), scope="encoder")
    with pytest.raises(TrainingError, match="Rewinding to pretrained did not restore the weights"):
        search_all(config, tmp_path / "out", QUIET)


def test_the_state_of_a_step_is_kept_and_equals_a_training_of_so_many_steps(tmp_path, bert):
    corpus = corpus_of(tmp_path)
    search_all(learning(bert, "imp", corpus, rewind="step:4", save_trained=True), tmp_path / "out", QUIET)
    states = sorted(path.name for path in (tmp_path / "out" / "states").iterdir())
    assert states == [
        "step-000004.safetensors", "trained-0.20.safetensors", "trained-0.50.safetensors", "trained-0.80.safetensors"
    ]  # fmt: skip
    state = imp_module.load_state(tmp_path / "out" / "states" / states[0])
    trained = imp_module.load_state(tmp_path / "out" / "states" / states[1])
    assert all(torch.equal(value, trained.tensors[name]) for name, value in state.tensors.items())
    assert set(state.heads) == set(trained.heads) != set()
    assert (state.info.step, state.info.base_hash) == (
        4,
        Ticket.from_pretrained(tmp_path / "out/sparsity-0.20").base.hash,
    )


def test_pruning_first_begins_with_the_magnitude_ticket(tmp_path, bert):
    found = search_all(learning(bert, "imp", corpus_of(tmp_path), prune_first=True), tmp_path / "out", QUIET)
    magnitude = search(SearchConfig(model=bert, method="magnitude", sparsity=0.2), tmp_path / "m", QUIET)
    assert all(torch.equal(mask, found[0.2].masks[name]) for name, mask in magnitude.masks.items())
    assert [ticket.info.step for ticket in found.values()] == [0, 4, 8]


@pytest.mark.parametrize(
    "fields", [{"reset_optimizer": False}, {"rate_horizon": "total"}, {"rewind": "none"}, {"rewind_scope": "prunable"}]
)
def test_the_choices_change_the_ticket_and_its_id(tmp_path, bert, fields):
    corpus = corpus_of(tmp_path)
    plain = learning(bert, "imp", corpus, learning_rate=1e-2)
    other = learning(bert, "imp", corpus, learning_rate=1e-2, **fields)
    first, second = (search_all(c, tmp_path / str(i), QUIET)[0.8] for i, c in enumerate((plain, other)))
    assert any(not torch.equal(mask, second.masks[name]) for name, mask in first.masks.items())
    assert prepare_search(plain, QUIET).run_id != prepare_search(other, QUIET).run_id


def test_files_of_ones_own_are_a_task(tmp_path, bert):
    train = tmp_path / "mine.tsv"
    train.write_text(
        "text\tlabel\n" + "\n".join(f"{text}\t{'odd' if i % 2 else 'even'}" for i, text in enumerate(TEXT))
    )
    config = learning(bert, "imp", train_file=str(train), objective="task", round_steps=None, round_epochs=0.5)
    search_all(config, tmp_path / "out", QUIET)
    assert len(read_log(tmp_path / "out")) == 3 * 3  # 36 texts are five batches of eight; half of them, rounded


def test_profiles_are_the_papers_choices():
    def chosen(profile, objective):
        config = SearchConfig(model="m", method="imp", objective=objective, profile=profile).resolved()
        return (
            config.scope,
            config.rewind,
            config.rewind_scope,
            config.rate_horizon,
            config.prune_first,
            config.ranking,
        )

    assert chosen("tuned", "mlm") == ("encoder+embeddings", "pretrained", "all", "round", False, "matrix")
    assert chosen("paper", "mlm") == ("encoder+pooler", "pretrained", "all", "round", False, "global")
    assert chosen("code", "task") == ("encoder+pooler", "pretrained", "encoder", "total", False, "global")
    assert chosen("code", "mlm") == ("encoder+pooler", "none", "encoder", "total", True, "global")


def test_what_cannot_work_is_refused_before_any_work():
    def refused(**fields):
        with pytest.raises(UsageError) as caught:
            check_search(SearchConfig.of(model="m", method="imp", **({"objective": "mlm", "corpus": "c"} | fields)))
        return str(caught.value)

    assert "needs the length of a round: --round-steps, --round-epochs or --round-examples" in refused()
    assert "--round-steps and --round-epochs contradict" in refused(round_steps=3, round_epochs=1)
    assert "is after the first round, which has 3 steps" in refused(round_steps=3, rewind="step:4")
    assert "is not a policy" in refused(round_steps=3, rewind="theta0")
    assert "that is --method magnitude" in refused(round_steps=3, prune_first=True, sparsity=0.5)


def test_the_summary_names_rounds(tmp_path, bert):
    search_all(learning(bert, "imp", corpus_of(tmp_path)), tmp_path / "out", QUIET)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["method"], result["nested"], result["steps"]) == ("imp", True, 12)
    assert [rung["steps"] for rung in result["rungs"]] == [4, 8, 12]


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
    trainer = steps_module.TicketTrainer

    def noting(*args, **kwargs):
        seen.append(kwargs["args"].weight_decay)
        return trainer(*args, **kwargs)

    monkeypatch.setattr(steps_module, "TicketTrainer", noting)
    imp(tmp_path / "out", weight_decay=0.25)
    assert seen == [0.25]


@pytest.mark.parametrize(
    ("whole", "horizon", "step", "factor"),
    [
        (True, None, 19, 1 / 20),  # two trainings of ten steps, decayed once
        (True, 60, 19, 41 / 60),  # the rate of a longer decay, as that of two epochs in TAMT
        (False, None, 19, 1 / 10),
        (False, 40, 10, 1.0),  # it starts again in each round and hardly decays, as in the released TAMT code
        (False, 40, 19, 31 / 40),
    ],
)
def test_a_decay_may_be_longer_than_the_search(whole, horizon, step, factor):
    rate = Rounds([0.1, 0.2, 0.3], 10, prune_first=True).rate(0, whole=whole, horizon=horizon)
    assert rate(step) == pytest.approx(factor)


def test_a_decay_follows_the_corpus(tmp_path, bert):
    """As that of mask training: over so many passes of the corpus at hand, and never shorter than the search."""
    rates = {}
    for passes in (0, 40, 80):
        config = learning(bert, "imp", corpus_of(tmp_path), schedule_passes=passes, rate_horizon="total")
        search_all(config, tmp_path / f"out-{passes}", QUIET)
        rates[passes] = [one["learning_rate"] for one in read_log(tmp_path / f"out-{passes}") if "learning_rate" in one]
    falls = {passes: own[0] - own[1] for passes, own in rates.items()}
    assert falls[0] > falls[40] == pytest.approx(2 * falls[80], rel=1e-6)


def test_a_decay_that_is_shorter_than_a_round_is_refused(tmp_path, bert):
    config = learning(bert, "imp", corpus_of(tmp_path), schedule_steps=2)
    with pytest.raises(UsageError, match="--schedule-steps 2 would leave training steps without a learning rate"):
        search_all(config, tmp_path / "out", QUIET)


def test_weights_of_close_sparsities_have_files_of_their_own(tmp_path, bert):
    config = learning(bert, "imp", corpus_of(tmp_path), sparsity=(0.301, 0.302), save_trained=True)
    search_all(config, tmp_path / "out", QUIET)
    names = sorted(path.name for path in (tmp_path / "out" / "states").glob("trained-*"))
    assert names == ["trained-0.301.safetensors", "trained-0.302.safetensors"]
