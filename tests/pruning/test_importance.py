"""Importance of heads, FFNs, neurons and layers against one backward pass a sample; levels with exact counts."""

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from samples.structures import SEPARATE
from samples.tiny_models import CONFIGS
from winning_tickets import Runtime, SearchConfig, Ticket
from winning_tickets.config import Level
from winning_tickets.models.architectures import ARCHITECTURES
from winning_tickets.models.loading import PLM
from winning_tickets.models.structure import UNITS, count_units, gated, structure_of
from winning_tickets.pruning.importance import (
    DEFINITIONS,
    Importance,
    add_up,
    close_gates,
    random_unit_scores,
    unit_counts,
)
from winning_tickets.runs.errors import TrainingError, UsageError
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.training.objectives.pretraining import StateProbe
from winning_tickets.training.objectives.task import TaskObjective

QUIET = Runtime(quiet=True)
ALL_UNITS = ("heads", "ffns", "neurons", "layers")
LENGTHS = (9, 4, 7, 12, 5, 6, 8, 10)


def classifier(kind, dtype=torch.float64):
    config = CONFIGS[kind](60)
    config.initializer_range = 0.3
    config.num_labels = 3
    for name, value in {"num_hidden_layers": 3, "num_attention_heads": 4}.items():
        setattr(config, name, value)
    if kind == "modernbert":
        config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).to(dtype)
    return PLM(model, None, ARCHITECTURES[kind], kind, None, None, False)


def samples():
    generator = torch.Generator().manual_seed(3)
    return [(torch.randint(5, 60, (length,), generator=generator), index % 3) for index, length in enumerate(LENGTHS)]


def batches_of(chosen, size):
    """Padded batches in order, the last one perhaps shorter."""
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        length = max(len(ids) for ids, _ in part)
        ids = torch.stack([torch.nn.functional.pad(ids, (0, length - len(ids))) for ids, _ in part])
        mask = torch.stack([(torch.arange(length) < len(ids)).long() for ids, _ in part])
        yield {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([label for _, label in part])}


def token_gradients(plm, structure, ids, label, unit):
    """The oracle: one sample, unpadded, a real gate for every token; `(seq, layers, n)`."""
    shape = (1, len(ids), structure.per_layer(unit))
    gates = [torch.ones(shape, dtype=torch.float64, requires_grad=True) for _ in structure.layers]
    named = {f"layers.{layer}.{UNITS[unit]}": gate for layer, gate in enumerate(gates)}
    plm.model.eval()
    with gated(plm.encoder, structure, named):
        logits = plm.model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits
    torch.nn.functional.cross_entropy(logits, torch.tensor([label])).backward()
    return torch.stack([gate.grad[0] for gate in gates], dim=1)


def naive(plm, structure, chosen, size, unit):
    """Every definition from gradients of single samples, in the words of the papers and the released program."""
    found = [token_gradients(plm, structure, ids, label, unit) for ids, label in chosen]
    groups = [found[start : start + size] for start in range(0, len(found), size)]
    count = len(groups)
    return {
        "token": sum(g.abs().sum(0) for g in found) / len(found),
        "sample": sum(g.sum(0).abs() for g in found) / len(found),
        "batch": sum(sum(g.sum(0) for g in group).abs() for group in groups) / len(found),
        "released": sum(
            (count - place) * sum(g.abs().sum(0) for g in group) / len(group) for place, group in enumerate(groups)
        )
        / count,
    }


@pytest.mark.parametrize("kind", SEPARATE)
def test_every_definition_agrees_with_one_backward_pass_a_sample(kind):
    plm = classifier(kind)
    structure = structure_of(plm)
    sums = add_up(plm.model, structure, TaskObjective("classification"), batches_of(samples(), 3), units=ALL_UNITS)
    found = sums.finish({})
    for unit in ALL_UNITS:
        expected = naive(plm, structure, samples(), 3, unit)
        assert set(expected) == set(DEFINITIONS)
        for definition, value in expected.items():
            assert value.min() > 0 or unit == "neurons"
            torch.testing.assert_close(found.values[definition][unit], value, rtol=1e-5, atol=1e-12)
    assert len({float(found.values[definition]["heads"].sum()) for definition in DEFINITIONS}) == 4
    kept = torch.stack([token_gradients(plm, structure, *one, "heads").sum(0) for one in samples()])
    torch.testing.assert_close(found.samples["heads"].double(), kept, rtol=1e-4, atol=1e-6)
    assert "neurons" not in found.samples


def test_single_precision_agrees_too():
    plm = classifier("bert", torch.float32)
    structure = structure_of(plm)
    sums = add_up(plm.model, structure, TaskObjective("classification"), batches_of(samples(), 3))
    found = sums.finish({}).values
    expected = naive(classifier("bert"), structure, samples(), 3, "heads")
    for definition in DEFINITIONS:
        torch.testing.assert_close(found[definition]["heads"], expected[definition], rtol=1e-4, atol=1e-9)


def test_the_order_of_samples_does_not_matter_where_it_must_not():
    plm = classifier("bert", torch.float32)
    structure = structure_of(plm)

    def values(chosen, size):
        objective = TaskObjective("classification")
        return add_up(plm.model, structure, objective, batches_of(chosen, size), units=ALL_UNITS).finish({}).values

    first, second = values(samples(), 3), values([samples()[i] for i in (5, 2, 7, 0, 3, 1, 6, 4)], 2)
    for definition in ("token", "sample"):
        for unit in ALL_UNITS:
            scale = first[definition][unit].max()
            # Batches of other sizes and padding are rounded differently in float32.
            torch.testing.assert_close(first[definition][unit], second[definition][unit], rtol=1e-5, atol=1e-5 * scale)
    for definition in ("batch", "released"):
        assert not torch.allclose(first[definition]["heads"], second[definition]["heads"], rtol=1e-3)


def test_tokens_are_kept_on_request_and_add_up_to_their_samples():
    plm = classifier("bert")
    structure = structure_of(plm)
    found = add_up(
        plm.model, structure, TaskObjective("classification"), batches_of(samples(), 3), keep_tokens=True
    ).finish({})
    assert found.lengths.tolist() == [9, 9, 9, 12, 12, 12, 10, 10]
    starts = [0, *found.lengths.cumsum(0).tolist()]
    for unit, tokens in found.tokens.items():
        added = torch.stack([tokens[a:b].sum(0) for a, b in itertools.pairwise(starts)])
        torch.testing.assert_close(added, found.samples[unit], rtol=1e-4, atol=1e-5)
    assert tuple(found.tokens["heads"].shape) == (83, 3, 4)


def test_the_model_is_left_as_it_was():
    plm = classifier("bert")
    plm.model.train()
    frozen = next(plm.model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in plm.model.state_dict().items()}
    add_up(plm.model, structure_of(plm), TaskObjective("classification"), batches_of(samples(), 4))
    assert plm.model.training
    assert all(torch.equal(value, before[name]) for name, value in plm.model.state_dict().items())
    assert [p.requires_grad for p in plm.model.parameters()].count(False) == 1
    assert not frozen.requires_grad
    assert all(parameter.grad is None for parameter in plm.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in plm.model.modules())


def test_a_loss_that_is_not_finite_is_refused():
    plm = classifier("bert")
    with torch.no_grad():
        plm.model.classifier.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match="The loss is nan, so there are no importances"):
        add_up(plm.model, structure_of(plm), TaskObjective("classification"), batches_of(samples(), 4))


def test_heads_are_compared_after_their_layer_is_normalised():
    structure = structure_of(classifier("bert"))
    heads, ffns = torch.tensor([[3.0, 4.0, 0.0, 0.0]] * 3), torch.tensor([[1.0], [2.0], [9.0]])
    found = Importance({"sample": {"heads": heads, "ffns": ffns}}, {}, structure, {})
    assert found.scores("sample", "heads")[0].tolist() == pytest.approx([0.6, 0.8, 0.0, 0.0])
    assert found.scores("sample", "ffns").tolist() == [[1.0], [2.0], [9.0]]
    with pytest.raises(UsageError, match="importance of neurons was not computed, only that of heads, ffns"):
        found.scores("sample", "neurons")


def test_the_kd_probe_measures_how_far_states_move():
    """Its mean absolute derivative is the length of the first-order move of the normalised states, by differences."""
    plm = classifier("bert")
    structure = structure_of(plm)
    batch = next(batches_of(samples()[:1] * 400, 400))  # one text, 400 directions
    del batch["labels"]

    def states(gate):
        with gated(plm.encoder, structure, {"layers.1.heads": gate}), torch.no_grad():
            one = {name: value[:1] for name, value in batch.items()}
            found = plm.encoder(**one, output_hidden_states=True).hidden_states[1:]
        return torch.stack([torch.nn.functional.normalize(state, dim=-1) for state in found])

    plm.model.eval()
    lengths = []
    for head in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[head] = 1e-5
        lengths.append(float((states(1 + step) - states(1 - step)).norm()) / 2e-5 / 3**0.5)
    probe = StateProbe(plm.architecture, 0)
    sums = add_up(plm.model, structure, probe, [batch], units=("heads",))
    found = sums.finish({}).values["sample"]["heads"][1] * LENGTHS[0] * (torch.pi / 2) ** 0.5
    assert found.tolist() == pytest.approx(lengths, rel=0.15)


@functools.cache
def classifier_structure():
    return structure_of(classifier("bert"))


PAPER_COUNTS = [14, 28, 43, 57, 72, 86, 100, 115]
REMAINING = [0.932, 0.864, 0.793, 0.725, 0.655, 0.587, 0.519, 0.449]


def test_bert_base_loses_what_the_paper_counts():
    with torch.device("meta"):
        model = BertModel(BertConfig())
    structure = structure_of(PLM(model, None, ARCHITECTURES["bert"], "bert-base", None, None, False))
    config = SearchConfig(model="m", method="importance", level=tuple(range(10, 90, 10))).resolved()
    scores = random_unit_scores(structure, ("heads", "ffns"), 0)
    info = TicketInfo(
        method="importance",
        scope="encoder",
        config={},
        applies_to=BaseModelInfo(name="x", model_type="bert", hash="0", tensors={}),
    )
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == 109_482_240
    remaining = []
    for place, (level, counts) in enumerate(unit_counts(config, structure)):
        assert (level.folder, counts) == (f"level-{place + 1}0", {"heads": PAPER_COUNTS[place], "ffns": place + 1})
        gates = close_gates(scores, counts, structure)
        found = count_units(gates, structure)
        assert (found["heads"]["pruned"], found["ffns"]["pruned"]) == (PAPER_COUNTS[place], place + 1)
        remaining.append(round(1 - Ticket({}, info, gates=gates, structure=structure).pruned / total, 3))
    assert remaining == REMAINING


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(0, 9), more=st.integers(0, 3), stay=st.integers(0, 1))
def test_counts_are_exact_nested_and_spare_what_must_stay(seed, count, more, stay):
    structure = classifier_structure()
    scores = {"heads": torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)).round(decimals=1)}
    few, many = (min(number, 12 - 3 * stay) for number in (count, count + more))
    closed = []
    for number in (few, many):
        gates = close_gates(scores, {"heads": number}, structure, stay)
        assert list(gates) == ["layers.0.heads", "layers.1.heads", "layers.2.heads"]
        kept = torch.stack(list(gates.values()))
        assert int((~kept).sum()) == number
        assert bool((kept.sum(1) >= stay).all())
        protected = scores["heads"].argmax(1)  # the first of equal ones
        assert stay == 0 or bool(kept[torch.arange(3), protected].all())
        pruned = scores["heads"][~kept]
        free = kept if stay == 0 else kept.index_put((torch.arange(3), protected), torch.tensor(False))
        assert pruned.numel() == 0 or int(free.sum()) == 0 or pruned.max() <= scores["heads"][free].min()
        closed.append(~kept)
    assert bool((closed[1] | ~closed[0]).all())


def test_random_draws_do_not_depend_on_what_else_is_drawn():
    structure = classifier_structure()
    together = random_unit_scores(structure, ALL_UNITS, 4)
    assert torch.equal(random_unit_scores(structure, ("ffns",), 4)["ffns"], together["ffns"])
    assert not torch.equal(random_unit_scores(structure, ("ffns",), 5)["ffns"], together["ffns"])
    counts = torch.zeros(3, 4)
    for seed in range(300):
        gates = close_gates(random_unit_scores(structure, ("heads",), seed), {"heads": 5}, structure)
        counts += ~torch.stack(list(gates.values()))
    assert bool(((counts / 300 - 5 / 12).abs() < 0.1).all())  # every head of every layer alike


def test_levels_of_other_units_and_folders():
    totals = {"heads": 384, "ffns": 24, "neurons": 1000, "layers": 24}
    assert Level(("heads", "ffns"), 10).counts(totals) == {"heads": 38, "ffns": 2}
    assert Level(("neurons", "layers"), 29).counts(totals) == {"neurons": 290, "layers": 6}
    folders = [Level(("heads",), percent).folder for percent in (5, 30, 2.5, 100)]
    assert folders == ["level-05", "level-30", "level-02.5", "level-100"]
    assert Level(("heads", "ffns"), given={"heads": 43, "ffns": 3}).folder == "heads-43-ffns-3"


def test_the_id_of_an_importance_has_16_digits():
    assert len(Importance({}, {}, None, {}).id) == 16
