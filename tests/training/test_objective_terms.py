"""Terms of objectives against naive loops in float64; sums of them, searches with them, and what is refused."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import math
from decimal import Decimal
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForMaskedLM

from samples.batches import batch_of, labels_of
from samples.tiny_models import CONFIGS, TEXT, make_model
from winning_tickets import EvaluateConfig, Runtime, SearchConfig, Ticket, evaluate, search
from winning_tickets.config import OBJECTIVE_NAMES, TERM_NAMES, parse_objective, profile_values
from winning_tickets.config.objective import canonical_objective, paper_objective
from winning_tickets.models.lm_head import head_without_decoder, untie_decoder
from winning_tickets.models.loading import load_plm, prunable_names
from winning_tickets.models.twin import make_twin
from winning_tickets.pruning import mask_training as mask_training_module
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.identity import run_id
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.training.objectives import terms
from winning_tickets.training.objectives.base import Outputs, TermSettings
from winning_tickets.training.objectives.pretraining import PretrainingObjective, check_attention_maps, run_encoder
from winning_tickets.training.objectives.terms import (
    attention_sum,
    contrastive_sum,
    kd_squared_sum,
    kd_sum,
    logits_sum,
)
from winning_tickets.training.parallel import shard_batch

QUIET = Runtime(quiet=True)
SETTINGS = TermSettings(temperature=0.2, logits_temperature=2.0)
TERMS = {name: term for name, term in terms.TERMS.items() if name != "clm"}  # those of encoders
ALL = dict.fromkeys(TERMS, 1.0)


# --- the sum as it is written


def weights():
    positive = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
    names = st.sampled_from([{"mlm"}, {"clm"}]).map(lambda other: [name for name in TERM_NAMES if name not in other])
    values = positive | st.integers(1, 10**6).map(float)
    return names.flatmap(lambda known: st.dictionaries(st.sampled_from(known), values, min_size=1))


@settings(deadline=None)
@given(weights())
def test_a_canonical_sum_reads_back_exactly(terms):
    text = canonical_objective(terms)
    assert parse_objective(text) == terms
    assert list(parse_objective(text)) == [name for name in TERM_NAMES if name in terms]
    assert SearchConfig(model="m", objective=text).objective == text


@settings(deadline=None)
@given(weights(), st.randoms(use_true_random=False), st.sampled_from("+,"), st.sampled_from(["", " "]))
def test_order_separators_spaces_and_ones_do_not_matter(terms, random, separator, space):
    parts = [f"{name}{space}:{space}{Decimal(weight):f}" for name, weight in terms.items()]
    random.shuffle(parts)
    config = SearchConfig(model="m", objective=f"{space}{separator}{space}".join(parts))
    assert config.objective == canonical_objective(terms)


@settings(deadline=None)
@given(st.text(alphabet="kdmlatenio:+,0.5e- ", max_size=12))
def test_any_other_text_is_refused_and_never_crashes(text):
    try:
        terms = parse_objective(text)
    except UsageError:
        assert SearchConfig(model="m", objective=text).objective == text
    else:
        assert terms
        assert all(weight > 0 and math.isfinite(weight) for weight in terms.values())


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("kd", "kd"),
        ("mlm", "mlm"),
        ("mlm+kd", "mlm+kd"),
        ("kd+mlm", "mlm+kd"),
        ("mlm:1,kd:1.0", "mlm+kd"),
        ("mlm:1,kd:2", "mlm+kd:2"),
        ("kd:0.5+attention:1", "kd:0.5+attention"),
        ("kd:1e-7", "kd:0.0000001"),
        ("kd:1e20", "kd:100000000000000000000"),
        (" logits , contrastive:3", "contrastive:3+logits"),
    ],
)
def test_equal_sums_share_a_form_and_an_id(text, canonical):
    config = SearchConfig(model="m", objective=text)
    assert config.objective == canonical
    assert run_id(config, "x") == run_id(SearchConfig(model="m", objective=canonical), "x")
    assert (run_id(config, "x") == run_id(SearchConfig(model="m"), "x")) == (canonical == "kd")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "kdd",
            "Unknown objective 'kdd'. Did you mean 'kd'? Known: attention, clm, contrastive, kd, logits, mlm. An",
        ),
        ("atention:2", "Did you mean 'attention'?"),
        ("kd+kd:2", "The objective 'kd+kd:2' names kd twice; give it one weight, such as kd:2."),
        ("kd:0", "The weight '0' of kd in the objective 'kd:0' is not a positive number; write kd:0.5, or leave"),
        ("kd:-1", "The weight '-1' of kd"),
        ("kd:nan", "The weight 'nan' of kd"),
        ("kd:inf", "The weight 'inf' of kd"),
        ("kd:", "The weight '' of kd"),
        ("kd:two", "The weight 'two' of kd"),
        (
            "",
            "The objective '' has an empty term; write a sum of mlm, clm, kd, attention, contrastive, logits",
        ),
        ("kd++mlm", "has an empty term"),
    ],
)
def test_impossible_sums(tmp_path, text, problem):
    with pytest.raises(UsageError) as caught:
        parse_objective(text)
    assert problem in str(caught.value)
    with pytest.raises(UsageError) as caught:
        search(SearchConfig(model="m", corpus="pydocs", objective=text, save_at=(999,)), tmp_path / "t", QUIET)
    assert problem in str(caught.value)
    assert "--save-at 999 is outside" in str(caught.value)  # all problems at once


def test_all_problems_of_a_sum_come_at_once():
    with pytest.raises(UsageError) as caught:
        parse_objective("kdd+kd:0+mlm")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("objective", "paper"),
    [
        *zip(OBJECTIVE_NAMES, OBJECTIVE_NAMES, strict=True),
        ("mlm:2", "mlm+kd"),
        ("mlm+logits", "mlm+kd"),
        ("mlm+kd+attention", "mlm+kd"),
        ("kd:2", "kd"),
        ("attention", "kd"),
        ("contrastive+logits", "kd"),
    ],
)
def test_other_sums_take_the_profile_of_the_nearest_objective_of_the_paper(objective, paper):
    assert paper_objective(objective) == paper
    for profile, method in itertools.product(("tuned", "paper", "code"), ("mask-training", "magnitude")):
        assert profile_values(profile, method, objective) == profile_values(profile, method, paper)


# --- terms against naive loops


def naive(name, student, teacher, batch):
    """The sum of one term, position by position, from whole Hugging Face models; differentiable."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    ours = student(**inputs, output_attentions=True, output_hidden_states=True)
    with torch.no_grad():
        theirs = teacher(**inputs, output_attentions=True, output_hidden_states=True)
    kept = [(row, int(place)) for row, mask in enumerate(batch["attention_mask"]) for place in mask.nonzero()]
    labels = labels_of(batch)
    masked = (labels != -100).nonzero().tolist()
    total = torch.zeros((), dtype=torch.float64)
    if name == "mlm":
        for row, place in masked:
            total = total - ours.logits[row, place].log_softmax(-1)[labels[row, place]]
    if name == "kd":
        for a, b in zip(ours.hidden_states[1:], theirs.hidden_states[1:], strict=True):
            for row, place in kept:
                total = total + (1 - torch.cosine_similarity(a[row, place], b[row, place], dim=0)) / len(
                    ours.attentions
                )
    if name == "attention":
        for p, q in zip(theirs.attentions, ours.attentions, strict=True):
            for (row, place), head in itertools.product(kept, range(p.shape[1])):
                for key in range(p.shape[3]):
                    if p[row, head, place, key] > 0:
                        one, other = p[row, head, place, key], q[row, head, place, key]
                        total = total + one * (one / other).log() / (len(ours.attentions) * p.shape[1])
    if name == "contrastive":
        means = []
        for output in (ours, theirs):
            rows = [[output.hidden_states[-1][row, place] for r, place in kept if r == row] for row in range(3)]
            means.append([torch.stack(states).mean(0) for states in rows])
        for row in range(3):
            cosines = [torch.cosine_similarity(means[0][row], other, dim=0) / 0.2 for other in means[1]]
            total = total + torch.stack(cosines).exp().sum().log() - cosines[row]
    if name == "logits":
        for row, place in masked:
            p, q = ((each.logits[row, place] / 2.0).softmax(-1) for each in (theirs, ours))
            total = total + (p * (p / q).log()).sum()
    return total


def pruned_model(folder, kind):
    """A model with a random half of its weights pruned, a dense decoder, and all matrices in want of gradients."""
    plm = load_plm(str(make_model(folder / "m", kind)), head="mlm", attention="eager")
    plm.model.eval()
    masked = MaskedWeights(plm.encoder, prunable_names(plm))
    untie_decoder(plm, masked.dense_weights[plm.architecture.word_embeddings])
    generator = torch.Generator().manual_seed(1)
    masked.write({n: torch.rand(w.shape, generator=generator) > 0.5 for n, w in masked.dense_weights.items()})
    return plm, masked


def objective_of(plm, masked, terms):
    teacher = make_twin(plm.model, masked.dense_weights, head_without_decoder(plm))
    return PretrainingObjective(terms, plm.architecture, teacher, SETTINGS)


COUNTS = {"mlm": "masked", "kd": "tokens", "attention": "tokens", "contrastive": "segments", "logits": "masked"}


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra", "deberta-v2", "modernbert"])
def test_a_term_and_its_gradient_are_those_of_a_naive_loop(tmp_path, kind, name):
    plm, masked = pruned_model(tmp_path, kind)
    batch = batch_of()
    student = copy.deepcopy(plm.model).double()
    teacher = AutoModelForMaskedLM.from_pretrained(tmp_path / "m", attn_implementation="eager", dtype=torch.float64)
    objective = objective_of(plm, masked, {name: 1.0})
    found = objective(plm.model, batch)[name]
    expected = naive(name, student, teacher.eval(), batch)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert float(found.detach()) > 0.01
    found.backward()
    expected.backward()
    parameters = dict(student.base_model.named_parameters())
    for parameter in {n.split("[")[0] for n in prunable_names(plm)}:
        ours, theirs = plm.encoder.get_parameter(parameter).grad, parameters[parameter].grad
        assert (ours is None) == (theirs is None), parameter
        if ours is not None:
            assert torch.allclose(ours.double(), theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()) + 1e-7)
    sizes = {"masked": len(batch["masked_ids"]), "tokens": batch["attention_mask"].sum(), "segments": 3}
    assert int(objective.counts(batch)[name]) == int(sizes[COUNTS[name]])


@pytest.mark.parametrize("error", ["cosine", "mse"])
def test_kd_of_some_layers_compares_these_only(error):
    teacher, student = states_of(0), [state.requires_grad_() for state in states_of(1)]
    mask = batch_of()["attention_mask"]
    chosen = TermSettings(kd_error=error, kd_layers=(1, 3))
    found = terms.TERMS["kd"].sum(
        Outputs(states=tuple(student)), Outputs(states=teacher), {"attention_mask": mask}, chosen
    )
    distance = {"cosine": kd_sum, "mse": kd_squared_sum}[error]
    expected = sum(distance((student[at],), (teacher[at],), mask) for at in (0, 2)) / 2
    torch.testing.assert_close(found, expected)
    found.backward()
    assert [state.grad is None or not state.grad.any() for state in student] == [False, True, False]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_student_that_is_the_teacher_has_nothing_to_learn_from_it(tmp_path, kind):
    plm, masked = pruned_model(tmp_path, kind)
    masked.write({name: torch.ones_like(weight).bool() for name, weight in masked.dense_weights.items()})
    with torch.no_grad():
        sums = objective_of(plm, masked, ALL)(plm.model, batch_of())
    assert [float(sums[name]) for name in ("kd", "attention", "logits")] == [0.0, 0.0, 0.0]
    assert float(sums["contrastive"]) > 0  # segments resemble each other in the dense model too


def test_attention_survives_probabilities_of_zero():
    theirs = torch.tensor([[[[0.25, 0.75, 0.0]]]])
    ours = torch.tensor([[[[1.0, 0.0, 0.0]]]], requires_grad=True)
    found = attention_sum((ours,), (theirs,), torch.ones(1, 1))
    found.backward()
    assert math.isfinite(float(found.detach()))
    assert bool(ours.grad.isfinite().all())


def test_the_temperature_divides():
    ours, theirs = torch.randn(4, 10), torch.randn(4, 10)
    assert torch.equal(logits_sum(ours, theirs, 3.0), logits_sum(ours / 3.0, theirs / 3.0, 1.0))
    states = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    hot, cold = (float(contrastive_sum(*states, torch.ones(2, 3), t)) for t in (100.0, 0.05))
    assert hot == pytest.approx(2 * math.log(2), abs=0.05)
    assert cold != pytest.approx(hot, abs=0.05)


def test_the_cosines_of_contrastive_are_not_rounded_to_bfloat16():
    states = torch.randn(4, 3, 64), torch.randn(4, 3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive_sum(*states, torch.ones(4, 3), 0.05)
    assert torch.equal(found, contrastive_sum(*states, torch.ones(4, 3), 0.05))


def states_of(seed, rows=3, length=9, hidden=16, layers=3):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, length, hidden, generator=generator) for _ in range(layers))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("apart", [1.0, 1e-2, 1e-4])
def test_the_gradient_of_kd_is_that_of_cosines_in_float64(padded, apart):
    attention = batch_of()["attention_mask"] if padded else None
    teacher = states_of(0)
    student = tuple(state + apart * noise for state, noise in zip(teacher, states_of(1), strict=True))
    found = [state.clone().requires_grad_() for state in student]
    exact = [state.double().requires_grad_() for state in student]
    (3 * kd_sum(tuple(found), teacher, attention)).backward()
    kept = torch.ones(3, 9) if attention is None else attention
    for ours, theirs in zip(exact, teacher, strict=True):
        distance = 1 - torch.cosine_similarity(ours, theirs.double(), dim=-1)
        (3 * (distance * kept).sum() / len(student)).backward()
    for ours, theirs in zip(found, exact, strict=True):
        assert not ours.grad[kept == 0].any()
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-6)


def test_kd_leaves_out_layers_without_gradient_and_keeps_the_type_of_the_states():
    teacher = states_of(0)
    student = [state.bfloat16() for state in states_of(1)]
    student[1].requires_grad_()
    kd_sum(tuple(student), teacher, None).backward()
    assert student[0].grad is None
    assert student[1].grad.dtype == torch.bfloat16
    assert not torch.equal(student[1].grad, torch.zeros_like(student[1]))


def test_states_of_zero_have_a_finite_distance_and_gradient():
    zero = torch.zeros(1, 2, 4, requires_grad=True)
    for other in (torch.zeros(1, 2, 4), torch.ones(1, 2, 4)):
        found = kd_sum((zero,), (other,), None)
        found.backward()
        assert math.isfinite(float(found.detach()))
        assert bool(zero.grad.isfinite().all())


@pytest.mark.parametrize("distance", [kd_sum, kd_squared_sum])
def test_padding_does_not_count(distance):
    student, teacher, mask = states_of(0), states_of(1), batch_of()["attention_mask"]
    alone = [[s[row : row + 1, : int(mask[row].sum())] for s in (*student, *teacher)] for row in range(3)]
    expected = sum(float(distance(tuple(row[:3]), tuple(row[3:]), None)) for row in alone)
    assert float(distance(student, teacher, mask)) == pytest.approx(expected, rel=1e-6)
    whole = torch.ones_like(mask)
    assert float(distance(student, teacher, whole)) == pytest.approx(float(distance(student, teacher, None)), rel=1e-6)


@pytest.mark.parametrize("kind", CONFIGS)
def test_without_padding_no_mask_gives_the_bits_of_a_mask_of_ones(tmp_path, kind):
    plm = load_plm(str(make_model(tmp_path / "m", kind)), head="mlm")
    batch, needs = batch_of(padded=False), {"states", "logits"}
    ones = batch | {"attention_mask": torch.ones_like(batch["input_ids"])}
    plm.model.eval()
    with torch.no_grad():
        without, with_ones = (run_encoder(plm.model, each, needs, plm.architecture) for each in (batch, ones))
    assert all(map(torch.equal, without.states, with_ones.states))
    assert torch.equal(without.logits, with_ones.logits)


@pytest.fixture
def without_autocast(monkeypatch):
    """The device `meta` has no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


@pytest.mark.usefixtures("without_autocast")
@pytest.mark.parametrize("kind", CONFIGS)
def test_nothing_is_read_back_from_the_device(tmp_path, kind):
    """Tensors of the device `meta` have no values: a number, a shape or a branch that depends on some is an error."""
    plm = load_plm(str(make_model(tmp_path / "m", kind)), head="mlm", attention="eager")
    plm.model.to("meta")
    objective = PretrainingObjective(ALL, plm.architecture, make_twin(plm.model, {}), SETTINGS)
    batch = batch_of(padded=False)
    counts = objective.counts(batch)
    sums = objective(plm.model, {name: value.to("meta") for name, value in batch.items()})
    sum(value / counts[name] for name, value in sums.items()).backward()
    assert all(count.device.type == "cpu" for count in counts.values())


@pytest.mark.usefixtures("without_autocast")
def test_padding_is_left_out_without_reading_it():
    states = [state.to("meta").requires_grad_() for state in (*states_of(0), *states_of(1))]
    maps = [torch.rand(3, 2, 9, 9, device="meta", requires_grad=True) for _ in range(2)]
    mask = torch.ones(3, 9, dtype=torch.long, device="meta")
    for distance in (kd_sum, kd_squared_sum):
        distance(tuple(states[:3]), tuple(states[3:]), mask).backward()
    attention_sum(tuple(maps[:1]), tuple(maps[1:]), mask).backward()
    contrastive_sum(states[0], states[1], mask, 0.05).backward()


# --- sums of terms


def gradients(plm):
    found = {n: p.grad.clone() for n, p in plm.encoder.named_parameters() if p.grad is not None}
    plm.model.zero_grad()
    return found


def test_a_sum_is_the_weighted_sum_of_its_terms(tmp_path):
    plm, masked = pruned_model(tmp_path, "bert")
    batch = batch_of()
    expected, values = {}, {}
    chosen = dict(zip(TERMS, (1.0, 0.5, 3.0, 0.25, 2.0), strict=True))
    for name, weight in chosen.items():
        found = objective_of(plm, masked, {name: 1.0})(plm.model, batch)[name]
        values[name] = float(found.detach())
        (weight * found).backward()
        for parameter, gradient in gradients(plm).items():
            expected[parameter] = expected.get(parameter, 0) + gradient
    objective = objective_of(plm, masked, chosen)
    sums = objective(plm.model, batch)
    assert {name: float(value.detach()) for name, value in sums.items()} == pytest.approx(values, rel=1e-5)
    sum(objective.weights[name] * value for name, value in sums.items()).backward()
    found = gradients(plm)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize(
    ("name", "expected"), [("mlm", [True]), *((n, [False, True]) for n in (*TERMS, "all") if n != "mlm")]
)
def test_one_pass_of_the_student_and_at_most_one_of_the_teacher(tmp_path, name, expected):
    plm, masked = pruned_model(tmp_path, "bert")
    passes = []
    objective = objective_of(plm, masked, {name: 1.0} if name in TERMS else ALL)
    for model in (plm.model, objective.teacher):
        model.base_model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    objective(plm.model, batch_of())
    assert passes == expected


@pytest.mark.parametrize("kind", CONFIGS)
def test_micro_batches_add_up_except_for_contrastive(tmp_path, kind):
    plm, masked = pruned_model(tmp_path, kind)
    objective = objective_of(plm, masked, ALL)
    batch = batch_of()
    parts = [shard_batch(batch, row, 3) for row in range(3)]
    with torch.no_grad():
        whole, counts = objective(plm.model, batch), objective.counts(batch)
        sums = [objective(plm.model, part) for part in parts]
    for name in ("mlm", "kd", "attention", "logits"):
        assert float(sum(each[name] for each in sums)) == pytest.approx(float(whole[name]), rel=1e-4)
    for name, count in counts.items():
        assert sum(int(objective.counts(part)[name]) for part in parts) == int(count)
    assert [float(each["contrastive"]) for each in sums] == [0.0, 0.0, 0.0]  # a segment alone has no negatives
    assert float(whole["contrastive"]) > 0.1
    objective(plm.model, parts[0])["contrastive"].backward()
    assert all(float(gradient.abs().max()) == 0 for gradient in gradients(plm).values())


def test_the_teacher_keeps_the_head_that_the_student_had_before_it_trained(tmp_path):
    plm, masked = pruned_model(tmp_path, "bert")
    batch = batch_of()
    objective = objective_of(plm, masked, {"logits": 1.0})

    def logits(model):
        with torch.no_grad():
            return run_encoder(model, batch, {"logits"}, plm.architecture).logits

    before = logits(objective.teacher)
    assert objective.teacher.cls.predictions.decoder.weight is plm.model.cls.predictions.decoder.weight
    with torch.no_grad():
        for name, parameter in plm.model.cls.named_parameters():
            if name != "predictions.decoder.weight":
                parameter.add_(1.0)
    assert torch.equal(logits(objective.teacher), before)
    moving = make_twin(plm.model, masked.dense_weights)
    assert not torch.allclose(logits(moving), before)


# --- searches and evaluations


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model, a corpus, and one search for every term and for some sums."""
    root = tmp_path_factory.mktemp("terms")
    (root / "corpus.txt").write_text("\n".join(TEXT))
    make_model(root / "bert")
    make_model(root / "headless", head="none")
    return root


def training(world, objective, **fields):
    defaults = {"sparsity": 0.5, "steps": 3, "batch_tokens": 64, "segments": "packed:16", "learning_rate": 2e-3}
    options = defaults | {"model": str(world / "bert"), "corpus": str(world / "corpus.txt"), **fields}
    return SearchConfig.of(objective=objective, **options)


@pytest.mark.parametrize("objective", [*TERMS, "mlm+logits", "mlm:1,kd:2,attention:0.5,contrastive:0.1,logits:3"])
def test_every_term_searches_and_resumes_to_the_same_bits(tmp_path, world, monkeypatch, objective):
    config = training(world, objective)
    whole = search(config, tmp_path / "whole", QUIET)

    class Killed(BaseException):
        pass

    original = mask_training_module.MaskSearch.record

    def record(self):
        if self.optimizer.steps == 3:
            raise Killed
        return original(self)

    monkeypatch.setattr(mask_training_module.MaskSearch, "record", record)
    with pytest.raises(Killed):
        search(config, tmp_path / "killed", Runtime(quiet=True, checkpoint_steps=2))
    monkeypatch.undo()
    resumed = search(config, tmp_path / "killed", QUIET)
    assert resumed.id == whole.id
    assert (whole.mlm_head is not None) == ("mlm" in objective)
    if whole.mlm_head is not None:
        assert all(torch.equal(value, resumed.mlm_head[name]) for name, value in whole.mlm_head.items())
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [set(TERMS) & set(line) for line in lines] == [set(parse_objective(objective))] * 3


@pytest.mark.parametrize("name", TERMS)
def test_a_longer_search_lowers_its_own_term(tmp_path, world, name):
    losses = []
    for steps, rate in ((1, 1e-9), (20, 5e-4)):
        out = tmp_path / str(steps)
        fields = {"steps": steps, "learning_rate": rate, "batch_tokens": 256, "score_init": "rank"}
        search(training(world, name, **fields), out, QUIET)
        target = EvaluateConfig(
            target=str(out), objectives=(name,), corpus=str(world / "corpus.txt"), segments="packed:16"
        )
        losses.append(evaluate(target, QUIET)[f"{name}_loss"])
    assert losses[1] < losses[0]


def test_the_temperatures_reach_the_search(tmp_path, world):
    for name, field in (("contrastive", "temperature"), ("logits", "logits_temperature")):
        configs = [training(world, name, steps=1, **values) for values in ({}, {field: 7.0})]
        losses = []
        for index, config in enumerate(configs):
            search(config, tmp_path / f"{name}-{index}", QUIET)
            text = (tmp_path / f"{name}-{index}" / "metrics.jsonl").read_text()
            losses.append(json.loads(text.splitlines()[0])[name])
        assert losses[0] != pytest.approx(losses[1], rel=0.01)
        assert run_id(configs[0], "x") != run_id(configs[1], "x")


def test_the_compared_layers_reach_the_search_and_equal_sets_are_one_run(tmp_path, world):
    # The tiny model has two layers.
    alike = [training(world, "kd", steps=1, kd_layers=layers) for layers in ((2, 1, 2), (1, 2))]
    configs = {"all": training(world, "kd", steps=1), "both": alike[0], "last": training(world, "kd", kd_layers=(2,))}
    losses = {}
    for name, config in configs.items():
        search(config, tmp_path / name, QUIET)
        losses[name] = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])["kd"]
    assert losses["all"] == losses["both"] != pytest.approx(losses["last"], rel=0.01)
    assert run_id(alike[0], "x") == run_id(alike[1], "x") != run_id(configs["last"], "x")


def test_layers_without_gradient_are_refused(tmp_path, world):
    with pytest.raises(UsageError, match="After layer 1, .* layers would learn nothing, and .* has 2; add 2"):
        search(training(world, "kd", kd_layers=(1,)), tmp_path / "refused", QUIET)
    assert not (tmp_path / "refused").exists()
    search(training(world, "mlm+kd", kd_layers=(1,)), tmp_path / "sum", QUIET)


def test_evaluate_measures_terms_together_as_it_does_apart(tmp_path, world):
    search(training(world, "mlm+kd"), tmp_path / "t", QUIET)
    options = {"corpus": str(world / "corpus.txt"), "segments": "lines", "batch_tokens": 300}

    def measured(target, *names, **more):
        return evaluate(EvaluateConfig(target=str(target), objectives=names, **options, **more), QUIET)

    together = measured(tmp_path / "t", *TERMS)
    for name in TERMS:
        alone = measured(tmp_path / "t", name)
        assert alone[f"{name}_loss"] == pytest.approx(together[f"{name}_loss"], rel=1e-5)
        assert [alone[f"{other}_loss"] for other in TERMS if other != name] == [None] * 4
    scored = together["tokens_by_objective"]
    assert scored["attention"] == scored["kd"] == together["tokens"] > scored["mlm"] == scored["logits"]
    assert scored["contrastive"] == len(TEXT)
    assert measured(tmp_path / "t", "contrastive")["tokens"] is None
    assert (together["temperature"], together["batch_tokens"]) == (0.05, 300)
    assert (alone["temperature"], alone["batch_tokens"]) == (None, None)
    assert measured(tmp_path / "t", "contrastive", temperature=1.0)["contrastive_loss"] != together["contrastive_loss"]
    # With the checkpoint's head the student speaks otherwise; the teacher never does.
    base = measured(tmp_path / "t", "logits", mlm_head="base")
    assert base["logits_loss"] != together["logits_loss"]
    dense = measured(world / "bert", *TERMS)
    assert [dense[f"{name}_loss"] for name in ("kd", "attention", "logits")] == [0.0, 0.0, 0.0]
    assert dense["contrastive_loss"] < together["contrastive_loss"]


# --- what is refused


def test_attention_with_dropout_is_refused_before_any_work(tmp_path, world):
    told = "dropout removes parts of them: give --student-dropout 0 and teacher_dropout: false"
    for fields in ({"profile": "paper"}, {"student_dropout": 0.1}, {"teacher_dropout": True}):
        with pytest.raises(UsageError, match=told):
            search(training(world, "attention", **fields), tmp_path / "t", QUIET)
    assert not (tmp_path / "t").exists()
    search(training(world, "kd+attention", profile="paper", student_dropout=0.0), tmp_path / "t", QUIET)


def test_a_model_without_attention_maps_is_refused(tmp_path, world, monkeypatch):
    plm = load_plm(str(world / "bert"))
    assert plm.model.config._attn_implementation == "sdpa"
    with pytest.raises(UsageError, match=r"BertModel with sdpa attention gives no attention maps.* attention='eager'"):
        check_attention_maps(plm.model)
    mute = SimpleNamespace(config=None, device="cpu", base_model=lambda *_, **__: SimpleNamespace(attentions=None))
    with pytest.raises(UsageError, match="leave attention out of the objective"):
        check_attention_maps(mute)
    with pytest.raises(UsageError, match="gives no attention maps"):
        PretrainingObjective({"attention": 1.0}, plm.architecture, plm.model)(plm.model, batch_of())


@pytest.mark.parametrize(
    ("segments", "batch_tokens", "least"), [("packed:2048", 2048, 4096), ("lines", 200, 256), ("mixed", 255, 256)]
)
def test_batches_without_negatives_are_refused(tmp_path, world, segments, batch_tokens, least):
    told = (
        f"of {segments} batches of {batch_tokens} tokens may hold one alone; raise --batch-tokens to at least {least}"
    )
    fields = {"segments": segments, "batch_tokens": batch_tokens}
    for objective in ("contrastive", "mlm+contrastive:0.1"):
        with pytest.raises(UsageError, match=told):
            search(training(world, objective, **fields), tmp_path / "t", QUIET)
    target = EvaluateConfig(target=str(world / "bert"), corpus="pydocs", objectives=("contrastive",), **fields)
    with pytest.raises(UsageError, match=told):
        evaluate(target, QUIET)
    assert search(training(world, "contrastive", segments="mixed:6-16", batch_tokens=32), tmp_path / "t", QUIET)


def test_logits_need_a_trained_head(tmp_path, world):
    with pytest.raises(UsageError, match=r"has no trained MLM head .*Use --objective kd.* tickets fit-head"):
        search(training(world, "logits", model=str(world / "headless")), tmp_path / "t", QUIET)
    target = EvaluateConfig(target=str(world / "headless"), corpus="pydocs", objectives=("logits",), mlm_head="ticket")
    with pytest.raises(UsageError, match="has no trained MLM head"):
        evaluate(target, QUIET)


@pytest.mark.parametrize("field", ["temperature", "logits_temperature"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_impossible_temperatures(world, field, value):
    with pytest.raises(
        UsageError, match=f"{field.replace('_', '-')}(: Input should be a finite| .* is impossible; it must be above 0)"
    ):
        training(world, "contrastive", **{field: value})


def test_evaluations_without_text_are_refused(world):
    with pytest.raises(UsageError, match="--objective attention needs --corpus"):
        evaluate(EvaluateConfig(target=str(world / "bert"), objectives=("attention",)), QUIET)
    both = EvaluateConfig(target=str(world / "bert"), objectives=("logits",), corpus="pydocs", kd_masked_tokens=1)
    with pytest.raises(UsageError, match="--objective mlm or logits; measure them apart"):
        evaluate(both, QUIET)


def test_a_ticket_remembers_its_objective(tmp_path, world):
    search(training(world, "kd:2,attention"), tmp_path / "t", QUIET)
    assert Ticket.from_pretrained(tmp_path / "t").info.config["objective"] == "kd:2+attention"


def test_the_temperature_of_the_contrastive_term_is_0_05_unless_given():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (Outputs(torch.randn(3, 4, 8, generator=generator)) for _ in range(2))
    found = TERMS["contrastive"].sum(student, teacher, {}, TermSettings())
    assert torch.equal(found, contrastive_sum(student.last, teacher.last, None, 0.05))
