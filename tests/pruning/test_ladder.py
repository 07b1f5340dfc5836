"""The ladder: several sparsities from one search."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samples.settings import read_by_method
from samples.tiny_models import TEXT
from winning_tickets import Runtime, SearchConfig, Ticket, search, search_all
from winning_tickets.cli import show
from winning_tickets.pruning import mask_training as mask_training_module
from winning_tickets.pruning.mask_training import decay, level_at, sparsity_levels
from winning_tickets.pruning.search import kept_inside
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.selection import pruned_count

QUIET = Runtime(quiet=True)
RUNGS = (0.3, 0.5, 0.8)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpora") / "corpus.txt"
    path.write_text("\n".join(TEXT))
    return str(path)


def climbing(model, corpus, **fields):
    defaults = {"sparsity": RUNGS, "steps": 4, "rung_steps": 2, "batch_tokens": 64, "segments": "packed:16"}
    return read_by_method(model=model, corpus=corpus, **(defaults | {"learning_rate": 2e-3} | fields))


@given(st.lists(st.integers(0, 99), min_size=1, max_size=6, unique=True), st.integers(1, 50), st.integers(1, 50))
def test_rungs_follow_each_other_and_every_step_belongs_to_one(percents, steps, rung_steps):
    given_ = tuple(percent / 100 for percent in percents)
    config = SearchConfig(model="m", sparsity=given_, steps=steps, rung_steps=rung_steps)
    rungs = sparsity_levels(config)
    assert [rung.sparsity for rung in rungs] == sorted(given_) == list(config.sparsities)
    assert rungs[-1].end == config.total_steps == steps + (len(given_) - 1) * rung_steps
    for step in range(config.total_steps):
        rung = rungs[level_at(rungs, step)]
        assert rung.start <= step < rung.end
    assert level_at(rungs, config.total_steps) == len(rungs) - 1


def test_half_the_steps_by_default_and_one_rung_is_a_plain_search():
    config = SearchConfig(model="m", sparsity=(0.9, 0.5, 0.7), steps=5)
    assert (config.sparsities, config.steps_of_a_rung, config.total_steps) == ((0.5, 0.7, 0.9), 3, 11)
    assert SearchConfig(model="m", sparsity=[0.6]) == SearchConfig(model="m", sparsity=0.6)


def test_the_rate_decays_to_zero_inside_every_rung():
    rungs = sparsity_levels(SearchConfig(model="m", sparsity=(0.5, 0.6, 0.7), steps=4, rung_steps=2))
    factor = decay(rungs, 0, None)
    assert [factor(step) for step in range(8)] == [1.0, 0.75, 0.5, 0.25, 1.0, 0.5, 1.0, 0.5]
    warm = decay(rungs, 2, None)
    assert [warm(step) for step in range(5)] == [0.0, 0.5, 1.0, 0.5, 1.0]
    long = decay(rungs, 0, 8)
    assert [long(step) for step in range(5)] == [1.0, 0.875, 0.75, 0.625, 1.0]


def test_the_rate_of_a_plain_search_is_the_trainers_linear_decay():
    from transformers import get_linear_schedule_with_warmup

    ours = decay(sparsity_levels(SearchConfig(model="m", steps=20)), 4, None)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, 4, 20).lr_lambdas[0]
    assert [ours(step) for step in range(21)] == [theirs(step) for step in range(21)]


@pytest.mark.parametrize("ranking", ["matrix", "global"])
@pytest.mark.parametrize("method", ["random", "magnitude", "mask-training"])
def test_every_rung_has_exactly_its_sparsity(tmp_path, corpus, bert, method, ranking):
    tickets = search_all(climbing(bert, corpus, method=method, ranking=ranking), tmp_path / "out", QUIET)
    assert list(tickets) == list(RUNGS)
    for sparsity, ticket in tickets.items():
        stored = Ticket.from_pretrained(tmp_path / "out" / f"sparsity-{sparsity:.2f}")
        assert stored.id == ticket.id
        assert stored.info.config["sparsity"] == sparsity
        if ranking == "global":
            assert ticket.pruned == pruned_count(ticket.total, sparsity)
        else:
            for mask in ticket.masks.values():
                assert mask.numel() - int(mask.sum()) == pruned_count(mask.numel(), sparsity)


@pytest.mark.parametrize("objective", ["kd", "mlm+kd"])
def test_the_first_rung_is_the_dedicated_search_and_the_others_start_from_it(tmp_path, corpus, bert, objective):
    # `activation` would take norms over eight batches of the ladder, but over the four that there are alone.
    config = climbing(bert, corpus, objective=objective, train_embeddings=True, score_init="rank")
    tickets = search_all(config, tmp_path / "ladder", QUIET)
    alone = search(config.model_copy(update={"sparsity": RUNGS[0]}), tmp_path / "alone", QUIET)
    assert {n: m.tolist() for n, m in tickets[RUNGS[0]].masks.items()} == {
        n: m.tolist() for n, m in alone.masks.items()
    }
    cold = search(config.model_copy(update={"sparsity": RUNGS[1], "steps": 2}), tmp_path / "cold", QUIET)
    assert tickets[RUNGS[1]].id != cold.id


def test_the_result_says_what_the_ladder_cost_and_whether_it_is_nested(tmp_path, corpus, bert):
    search_all(climbing(bert, corpus), tmp_path / "trained", QUIET)
    result = json.loads((tmp_path / "trained" / "result.json").read_text())
    assert (result["steps"], result["steps_of_separate_searches"]) == (8, 12)
    printed = result | {"out": "out"}
    assert "\n8 steps; separate searches would take 12\n" in show.search(printed, list("abc"))
    printed["steps_of_separate_searches"] = None  # as of iterative pruning
    assert "\n8 steps\n" in show.search(printed, list("abc"))
    assert [rung["folder"] for rung in result["rungs"]] == ["sparsity-0.30", "sparsity-0.50", "sparsity-0.80"]
    assert [rung["steps"] for rung in result["rungs"]] == [4, 6, 8]
    inside = [rung["kept_inside_previous"] for rung in result["rungs"]]
    assert inside[0] is None
    assert all(0.5 < share <= 1 for share in inside[1:])
    assert result["nested"] == (inside[1:] == [1.0, 1.0])
    search_all(climbing(bert, corpus, method="magnitude"), tmp_path / "omp", QUIET)
    result = json.loads((tmp_path / "omp" / "result.json").read_text())
    assert result["nested"] is True
    assert result["steps"] is None


def test_kept_inside_counts_what_both_keep(tmp_path, bert):
    pair = search_all(SearchConfig(model=bert, method="random", sparsity=(0.2, 0.6)), tmp_path / "t", QUIET)
    low, high = pair.values()
    assert kept_inside(high, low) == 1.0
    assert kept_inside(low, high) == pytest.approx((high.total - high.pruned) / (low.total - low.pruned))


@pytest.fixture(scope="module", params=["tuned", "code"])
def whole(request, tmp_path_factory, corpus, bert):
    """A ladder that nothing interrupts: its configuration, its folder and its tickets."""
    fields = {"reselect_steps": 3, "step_offset": 0} if request.param == "code" else {}
    config = climbing(bert, corpus, profile=request.param, save_at=(5,), **fields)
    folder = tmp_path_factory.mktemp("ladder") / "whole"
    return config, folder, search_all(config, folder, QUIET)


# After 5 and 7 steps inside a rung, after 4 and 6 at the very end of one.
@pytest.mark.parametrize("kept", [3, 4, 5, 6, 7])
def test_a_killed_ladder_resumes_to_the_same_bits(tmp_path, monkeypatch, whole, kept):
    config, folder, expected = whole

    class Killed(BaseException):
        pass

    original = mask_training_module.MaskSearch.record

    def record(self):
        if self.optimizer.steps == kept + 1:
            raise Killed
        return original(self)

    monkeypatch.setattr(mask_training_module.MaskSearch, "record", record)
    with pytest.raises(Killed):
        search_all(config, tmp_path / "killed", Runtime(quiet=True, checkpoint_steps=kept))
    monkeypatch.undo()
    resumed = search_all(config, tmp_path / "killed", QUIET)
    assert {s: t.id for s, t in resumed.items()} == {s: t.id for s, t in expected.items()}
    step = Ticket.from_pretrained(tmp_path / "killed" / "step-000005")
    assert step.id == Ticket.from_pretrained(folder / "step-000005").id
    assert step.info.config["sparsity"] == RUNGS[1]


def test_a_finished_ladder_is_not_climbed_again(tmp_path, corpus, bert, monkeypatch):
    config = climbing(bert, corpus, method="magnitude")
    first = search_all(config, tmp_path / "out", QUIET)
    before = (tmp_path / "out" / "result.json").stat().st_mtime_ns
    again = search_all(config, tmp_path / "out", QUIET)
    assert [t.id for t in again.values()] == [t.id for t in first.values()]
    assert (tmp_path / "out" / "result.json").stat().st_mtime_ns == before


def test_what_cannot_be_climbed_is_refused(tmp_path, corpus, bert):
    with pytest.raises(UsageError, match="search finds one ticket and was given 3 sparsities; use search_all"):
        search(climbing(bert, corpus), tmp_path / "a", QUIET)
    with pytest.raises(UsageError, match=r"Sparsity 1\.0 is outside \[0, 1\)"):
        search_all(climbing(bert, corpus, sparsity=(0.5, 1.0)), tmp_path / "b", QUIET)
    with pytest.raises(UsageError, match="--rung-steps 0 is impossible"):
        search_all(climbing(bert, corpus, rung_steps=0), tmp_path / "c", QUIET)
    with pytest.raises(UsageError, match="--save-at 9 is outside the search of 8 steps"):
        search_all(climbing(bert, corpus, save_at=(9,)), tmp_path / "d", QUIET)
    with pytest.raises(UsageError, match="give at least one sparsity"):
        SearchConfig.of(model=bert, sparsity=())
    assert not any((tmp_path / name).exists() for name in "abcd")
