"""Tickets from tickets: set algebra against Python's own sets, perturbations that keep every count."""

import json
from decimal import Decimal

import pytest
import torch

from samples.tiny_models import make_model
from winning_tickets import Runtime, SearchConfig, Ticket, search
from winning_tickets.models.loading import load_plm
from winning_tickets.models.structure import structure_of
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.tickets.algebra import OPERATIONS, combine, perturb, save_combined, save_perturbed

QUIET = Runtime(quiet=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Random tickets a, b, c of one model; others of another model, of fewer layers and of another scope."""
    folder = tmp_path_factory.mktemp("algebra")
    model, other = (str(make_model(folder / f"model-{seed}", seed=seed)) for seed in (0, 1))
    for name, fields in {
        "a": {"seed": 0},
        "b": {"seed": 1, "sparsity": 0.5},
        "c": {"seed": 2, "sparsity": 0.3},
        "other": {"model": other},
        "scope": {"scope": "encoder"},
        "magnitude": {"method": "magnitude", "ranking": "global"},
        "pattern": {"method": "magnitude", "pattern": "2:4"},
    }.items():
        search(SearchConfig.of(**({"model": model, "method": "random"} | fields)), folder / name, QUIET)
    return folder


@pytest.fixture
def ticket(world):
    return lambda name: Ticket.from_pretrained(world / name)


def kept(ticket):
    """All kept places, as Python's own set."""
    return {(name, int(i)) for name, mask in ticket.masks.items() for i in mask.reshape(-1).nonzero().reshape(-1)}


def counts(ticket):
    return {name: int(mask.sum()) for name, mask in ticket.masks.items()}


@pytest.mark.parametrize("names", ["ab", "ba", "abc"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_operations_are_those_of_sets(ticket, operation, names):
    parents = [ticket(name) for name in names]
    result = combine(operation, parents)
    expected = getattr(set, operation)(*map(kept, parents))
    assert kept(result) == expected
    assert 0 < len(expected) == result.total - result.pruned
    assert list(result.masks) == list(parents[0].masks)
    assert result.info.parents == tuple(parent.id for parent in parents)
    assert (result.info.method, result.info.scope) == (operation, "encoder+embeddings")
    assert result.info.config == {"of": ["random"] * len(names)}
    assert result.base == parents[0].base


def test_what_cannot_be_combined(ticket):
    with pytest.raises(UsageError, match=r"Unknown operation 'onion'. Did you mean 'union'\?"):
        combine("onion", [ticket("a"), ticket("b")])
    with pytest.raises(UsageError, match="There is nothing to combine: 1 ticket was given, expected two or more"):
        combine("union", [ticket("a")])
    with pytest.raises(
        ContentError, match="Ticket 1 was made for the weights of .*model-0, ticket 3 for other weights, of"
    ):
        combine("union", [ticket("a"), ticket("b"), ticket("other")])
    with pytest.raises(ContentError, match="ticket 1 and ticket 2 have different scopes: ticket 1 masks embeddings"):
        combine("union", [ticket("a"), ticket("scope")])
    with pytest.raises(ContentError, match="The difference of these 2 tickets keeps no weight, so it is no ticket"):
        combine("difference", [ticket("a"), ticket("a")])


@pytest.mark.parametrize("fraction", [0.0, 1e-4, 0.001, 0.05, 0.29, 1 / 3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_perturbation_keeps_every_count_and_moves_the_exact_number(ticket, fraction, seed):
    parent = ticket("a")
    result = perturb(parent, fraction, seed)
    assert counts(result) == counts(parent)
    for name, mask in parent.masks.items():
        moved = int((mask & ~result.masks[name]).sum())
        assert moved == int(int(mask.sum()) * Decimal(str(fraction)))
        assert moved == int((~mask & result.masks[name]).sum())
    assert (result.id == parent.id) == (fraction in (0.0, 1e-4))  # 1e-4 of a few hundred weights is none


def test_a_perturbation_is_seeded_nested_and_names_its_parent(ticket):
    parent = ticket("magnitude")
    small, large = perturb(parent, 0.1, 4), perturb(parent, 0.3, 4)
    assert small.id == perturb(parent, 0.1, 4).id != perturb(parent, 0.1, 5).id
    assert kept(parent) - kept(small) < kept(parent) - kept(large)
    assert kept(small) - kept(parent) < kept(large) - kept(parent)
    info = small.info
    assert (info.method, info.parents, info.seed) == ("perturb", (parent.id,), 4)
    assert (info.config["of"], info.config["fraction"], info.config["ranking"]) == ("magnitude", 0.1, "global")


def test_a_perturbation_keeps_the_head_and_drops_the_pattern(ticket):
    parent = ticket("pattern")
    parent.mlm_head = {"cls.bias": torch.ones(2)}
    result = perturb(parent, 0.2, 0)
    assert torch.equal(result.mlm_head["cls.bias"], torch.ones(2))
    assert parent.info.config["pattern"] == "2:4"
    assert "pattern" not in result.info.config


def test_structured_tickets_are_refused(world, ticket):
    structure = structure_of(load_plm(ticket("a").base.name))
    gates = {"layers.0.heads": torch.tensor([True, False])}
    gated = Ticket({}, ticket("scope").info, gates=gates, structure=structure)
    for make in (lambda: combine("union", [ticket("scope"), gated]), lambda: perturb(gated, 0.1, 0)):
        with pytest.raises(ContentError, match=r"\(random\) prunes whole heads, .*Give tickets of single weights"):
            make()


def test_impossible_fractions(ticket):
    for fraction in (-0.1, 1.01, float("nan")):
        with pytest.raises(UsageError, match=r"--fraction .* is outside \[0, 1\]; it is the share of kept weights"):
            perturb(ticket("a"), fraction, 0)
    with pytest.raises(
        UsageError, match=r"it would move \d+ weights of embeddings.word_.*, which has \d+ pruned places"
    ):
        perturb(ticket("c"), 0.9, 0)


def test_saved_ones_open_again_and_runs_follow_the_contract_of_out(world, tmp_path, ticket):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds files that are not a run of this tool; it was left untouched"):
        save_combined("union", [world / "a", world / "b"], tmp_path / "foreign", force=True)
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["notes.txt"]
    result = save_combined("union", [world / "a", world / "b"], tmp_path / "out")
    opened = Ticket.from_pretrained(tmp_path / "out")
    assert opened.id == combine("union", [ticket("a"), ticket("b")]).id == result["ticket_id"]
    assert (result["pruned"], result["sparsity"]) == (opened.pruned, opened.sparsity)
    when = (tmp_path / "out" / "ticket.json").stat().st_mtime_ns
    assert save_combined("union", [world / "a", world / "b"], tmp_path / "out") == result
    assert (tmp_path / "out" / "ticket.json").stat().st_mtime_ns == when
    with pytest.raises(UsageError, match="holds another run"):
        save_perturbed(world / "a", 0.1, 0, tmp_path / "out")
    save_perturbed(world / "a", 0.1, 0, tmp_path / "out", force=True)
    assert Ticket.from_pretrained(tmp_path / "out").info.method == "perturb"
    with pytest.raises(UsageError, match="holds another run"):
        save_perturbed(world / "a", 0.2, 0, tmp_path / "out")


def test_a_derived_ticket_is_one_like_any_other(tickets, world, tmp_path):
    code, out, err = tickets(
        "mask", "combine", "intersection", world / "a", world / "b", "--out", tmp_path / "core", "--json"
    )
    result = json.loads(out)
    assert (code, err, result["method"], result["out"]) == (0, "", "intersection", str(tmp_path / "core"))
    code, out, _ = tickets(
        "mask", "perturb", tmp_path / "core", "--fraction", "0.1", "--seed", "3", "--out", tmp_path / "p"
    )
    assert code == 0
    assert out.startswith("perturb ticket ")
    assert f"of {result['ticket_id']}\n" in out
    code, out, _ = tickets("inspect", tmp_path / "p", "--json")
    shown = json.loads(out)
    assert (shown["parents"], shown["sparsity"]) == ([result["ticket_id"]], result["sparsity"])
    code, out, _ = tickets("compare", tmp_path / "core", tmp_path / "p", "--json")
    assert 0.7 < json.loads(out)["kept_jaccard"][0][1] < 0.9


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("mask", "combine", "onion", "a", "b"), 2, "Unknown operation 'onion'"),
        (("mask", "combine", "union", "a"), 2, "There is nothing to combine"),
        (("mask", "combine", "union", "a", "other"), 1, "Combine tickets of one model"),
        (("mask", "combine", "union", "a", "./nowhere"), 2, "There is no ticket ./nowhere"),
        (("mask", "perturb", "a", "--fraction", "2"), 2, "--fraction 2.0 is outside [0, 1]"),
    ],
)
def test_errors_leave_stdout_empty_and_nothing_behind(tickets, world, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(world)
    found, out, err = tickets(*words, "--out", tmp_path / "out", "--json")
    assert (found, out) == (code, "")
    assert message in err
    assert not (tmp_path / "out").exists()
