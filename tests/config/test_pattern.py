"""N:M patterns: exact in every group, refused where they cannot be, the same run however they are written."""

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samples.learning import QUIET, corpus_of
from samples.naive_selection import naive_keep
from samples.settings import read_by_method
from samples.tiny_models import CONFIGS, make_model
from winning_tickets import SearchConfig, search
from winning_tickets.config import Pattern, load_config_file
from winning_tickets.models.architectures import prunable_views
from winning_tickets.models.loading import load_plm
from winning_tickets.pruning.search import check_search
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.identity import run_id
from winning_tickets.tickets.selection import keep_top
from winning_tickets.tickets.ticket import describe

METHODS = ("random", "magnitude", "wanda", "mask-training")


def counts_by_group(mask, size):
    return set(mask.view(-1, size).sum(1).tolist())


def pruning(model, corpus, method="magnitude", pattern="2:4", **fields):
    small = {"steps": 3, "batch_tokens": 64, "segments": "packed:16", "learning_rate": 2e-3, "calibration_batches": 2}
    return read_by_method(model=model, corpus=corpus, method=method, pattern=pattern, **(small | fields))


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    of=st.integers(1, 20),
    groups=st.integers(1, 6),
    values=st.sampled_from([2, 5, 1000]),  # how many different scores: few make ties
    weighted=st.booleans(),
    kind=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_each_group_is_that_of_a_sort(data, of, groups, values, weighted, kind):
    keep = data.draw(st.integers(1, of))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    scores = torch.randint(-values, values, (2, groups * of), generator=generator).to(kind)
    weights = torch.randint(-2, 3, (2, groups * of), generator=generator).float()
    mask = keep_top({"m": scores}, 0.5, weights={"m": weights} if weighted else None, pattern=Pattern(keep, of))["m"]
    assert mask.shape == scores.shape
    rows = (scores.view(-1, of).tolist(), (weights if weighted else torch.zeros_like(weights)).view(-1, of).tolist())
    expected = [naive_keep(row, sizes, of - keep) for row, sizes in zip(*rows, strict=True)]
    assert mask.view(-1, of).tolist() == expected


def test_more_groups_than_are_compared_at_a_time():
    scores = torch.rand(2100, 64, generator=torch.Generator().manual_seed(0))
    mask = keep_top({"m": scores}, 0.5, pattern=Pattern(2, 4))["m"]
    best = scores.view(-1, 4).topk(2).indices
    assert torch.equal(mask.view(-1, 4), torch.zeros(33600, 4, dtype=torch.bool).scatter_(1, best, True))


@pytest.mark.parametrize("text", ["2:4:8", "4:2", "0:4", "2/4", "-1:4", "2:", "", "02:4", "2: 4"])
def test_what_is_no_pattern(text):
    with pytest.raises(
        UsageError, match=rf"The pattern '{re.escape(text)}' is not N:M with 1 <= N <= M; 2:4 keeps 2 of"
    ):
        check_search(SearchConfig(model="m", method="magnitude", pattern=text))


@pytest.mark.parametrize(("text", "sparsity"), [("2:4", 0.5), ("1:3", 2 / 3), ("3:10", 0.7), ("1:1", 0.0)])
def test_a_pattern_says_its_sparsity(text, sparsity):
    assert str(Pattern.parse(text)) == text
    config = SearchConfig(model="m", method="magnitude", pattern=text)
    assert (config.sparsities, config.resolved().scope, config.n_of_m) == ((sparsity,), "encoder", Pattern.parse(text))
    check_search(config)


def test_what_a_pattern_implies_may_be_written_and_is_the_same_run():
    short = SearchConfig(model="m", method="wanda", pattern="2:4", corpus="c")
    long = SearchConfig(
        model="m", method="wanda", pattern="2:4", corpus="c", sparsity=0.5, scope="encoder", ranking="matrix"
    )
    assert run_id(short, "x") == run_id(long, "x")
    assert run_id(short, "x") != run_id(SearchConfig(model="m", method="wanda", sparsity=0.5, corpus="c"), "x")
    assert SearchConfig(**long.resolved().model_dump()).resolved() == long.resolved()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sparsity": 0.6}, "--sparsity 0.6 contradicts --pattern 2:4, which removes 0.5 of each group; leave --spars"),
        ({"sparsity": (0.5, 0.6)}, "--sparsity 0.5,0.6 contradicts --pattern 2:4"),
        (
            {"ranking": "global"},
            "--ranking global contradicts --pattern 2:4, whose groups are 4 consecutive weights; le",
        ),
        ({"ranking": "row"}, "--ranking row contradicts --pattern 2:4"),
        ({"scope": "encoder+embeddings"}, "--scope encoder+embeddings has word embeddings, and --pattern 2:4 is for"),
        (
            {"method": "imp"},
            "--method imp does not read --pattern; it needs --method random, magnitude, wanda, mask-training",
        ),
        (
            {"method": "mask-training", "reselect_steps": 5},
            "--pattern 2:4 selects at every step, and reselect_steps is 5 (profile tuned); use another profile",
        ),
        ({"method": "mask-training", "profile": "code"}, "reselect_steps is 100 (profile code)"),
    ],
)
def test_what_contradicts_a_pattern(fields, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        check_search(SearchConfig.of(**({"model": "m", "method": "magnitude", "pattern": "2:4"} | fields)))


def test_an_unquoted_pattern_in_a_file_is_explained(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("model: m\npattern: 2:4\n")
    with pytest.raises(UsageError, match=r"pattern: .*write it with quotes .* such as pattern: '2:4' \(found 124\)"):
        SearchConfig.of(**load_config_file(path))
    path.write_text("model: m\npattern: '2:4'\n")
    assert SearchConfig.of(**load_config_file(path)).sparsity == 0.5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", ["2:4", "3:8"])
def test_every_group_of_every_method_is_exact(tmp_path, method, pattern):
    model = str(make_model(tmp_path / "m", head="mlm+pooler"))
    found = search(pruning(model, corpus_of(tmp_path), method, pattern, scope="encoder+pooler"), tmp_path / "t", QUIET)
    keep, of = map(int, pattern.split(":"))
    assert len(found.masks) == 13
    assert {name: counts_by_group(mask, of) for name, mask in found.masks.items()} == {n: {keep} for n in found.masks}
    assert found.sparsity == 1 - keep / of


@pytest.mark.parametrize("kind", CONFIGS)
def test_parts_and_every_architecture(tmp_path, kind):
    model = str(make_model(tmp_path / "m", kind))
    found = search(pruning(model, corpus_of(tmp_path), "mask-training"), tmp_path / "t", QUIET)
    assert not any("embeddings" in name for name in found.masks)
    assert all(counts_by_group(mask, 4) == {2} for mask in found.masks.values())
    assert any("[0/3]" in name for name in found.masks) == (kind == "modernbert")


def test_magnitude_keeps_the_larger_half_of_each_group(tmp_path):
    model = str(make_model(tmp_path / "m"))
    found = search(pruning(model, None), tmp_path / "t", QUIET)
    for name, weight in prunable_views(load_plm(model).encoder, found.masks).items():
        groups, kept = weight.abs().view(-1, 4), found.masks[name].view(-1, 4)
        assert bool((groups[kept].view(-1, 2).amin(1) > groups[~kept].view(-1, 2).amax(1)).all()), name


@pytest.mark.parametrize(("init", "one_shot"), [("rank", "magnitude"), ("plateau", "magnitude"), ("random", "random")])
def test_training_starts_where_its_scores_do(tmp_path, init, one_shot):
    model, corpus = str(make_model(tmp_path / "m")), corpus_of(tmp_path)
    still = pruning(model, corpus, "mask-training", steps=1, learning_rate=1e-12, score_init=init)
    expected = search(pruning(model, corpus, one_shot), tmp_path / "one-shot", QUIET)
    assert search(still, tmp_path / "trained", QUIET).id == expected.id


def test_training_changes_the_masks(tmp_path):
    model, corpus = str(make_model(tmp_path / "m")), corpus_of(tmp_path)
    moved = search(pruning(model, corpus, "mask-training", steps=8, score_init="rank"), tmp_path / "t", QUIET)
    assert moved.id != search(pruning(model, corpus), tmp_path / "start", QUIET).id


def test_an_input_dimension_that_does_not_divide_is_named_and_nothing_is_written(tmp_path):
    model = str(make_model(tmp_path / "m"))  # 32 and 64 inputs
    message = (
        "The pattern 2:5 needs input dimensions that 5 divides; it does not divide those of "
        r"encoder.layer.0.attention.self.query.weight \(32\), .* and 8 more. Choose another pattern"
    )
    with pytest.raises(UsageError, match=message):
        search(pruning(model, None, pattern="2:5"), tmp_path / "t", QUIET)
    with pytest.raises(UsageError, match=r"does not divide those of b \(64\)\. Choose another pattern"):
        Pattern(1, 48).check_shapes({"a": (8, 48), "b": (48, 64)})
    assert not (tmp_path / "t").exists()


def test_the_command_line_and_inspect(tmp_path, tickets):
    model, out = make_model(tmp_path / "m"), tmp_path / "t"
    words = ("search", model, "--method", "magnitude", "--pattern", "2:4", "--quiet", "--json")
    code, printed, err = tickets(*words, "--out", out)
    assert (code, err) == (0, "")
    result = json.loads(printed)
    assert (result["sparsity"], result["scope"]) == (0.5, "encoder")
    assert result["run_id"].startswith("magnitude-2-4-")
    assert json.loads(tickets("inspect", out, "--json")[1])["pattern"] == "2:4"
    assert "  pattern: 2:4 along the input dimension\n" in tickets("inspect", out)[1]
    code, printed, err = tickets(*words, "--out", tmp_path / "u", "--sparsity", "0.6")
    assert (code, printed) == (2, "")
    assert "contradicts --pattern 2:4" in err
    plain = search(SearchConfig(model=str(model), method="magnitude", sparsity=0.5), tmp_path / "v", QUIET)
    assert describe(plain)["pattern"] is None


def test_a_pattern_beside_the_same_sparsity_without_one():
    scores = {"m": torch.tensor([[9.0, 8.0, 7.0, 6.0], [1.0, 2.0, 3.0, 4.0]])}
    assert keep_top(scores, 0.5)["m"].tolist() == [[True] * 4, [False] * 4]
    expected = [[True, True, False, False], [False, False, True, True]]
    assert keep_top(scores, 0.5, pattern=Pattern(2, 4))["m"].tolist() == expected
    assert keep_top(scores, 0.9, "global", pattern=Pattern(2, 4))["m"].tolist() == expected
