"""Profiles: every conflict between the paper and its released programs, and their arithmetic step by step."""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from samples import tiny_models
from samples.batches import plain
from samples.reference_tamt import RECIPES, NaiveMaskTraining
from samples.tiny_models import TEXT
from winning_tickets import EvaluateConfig, Runtime, SearchConfig, Ticket, evaluate, search
from winning_tickets.config import OBJECTIVE_NAMES
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.data.corpora import load_corpus
from winning_tickets.data.token_cache import tokenize
from winning_tickets.pruning import mask_optimizer as mask_optimizer_module
from winning_tickets.pruning import mask_training as mask_training_module
from winning_tickets.pruning import preparation as base_module
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.masking import MaskedWeights

QUIET = Runtime(quiet=True)
STEPS = 8
PARAGRAPH = " ".join(TEXT[:4])  # 44 words: long enough for the first paragraph of a section
ARTICLES = "\n".join(
    line
    for index in range(6)
    for line in (f" = title {index} = ", PARAGRAPH, TEXT[index], " = = more = = ", PARAGRAPH, *TEXT[index : index + 3])
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "TEXT", [ARTICLES])  # so that the vocabulary has "="
        return str(tiny_models.make_model(tmp_path_factory.mktemp("models") / "bert", head="mlm+pooler"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpora") / "articles.txt"
    path.write_text(ARTICLES)
    return str(path)


def settings(folder, corpus, profile, objective, **fields):
    """A search small enough to step through: large rates, so that masks change; no dropout, whose stream is ours."""
    program = (profile, objective) == ("code", "kd")
    defaults = {
        "steps": STEPS + program,  # the released KD program stops one step early
        "sparsity": 0.6,
        "segments": "sections:32" if program else "packed:32",
        "batch_tokens": 96,
        "learning_rate": 4e-3,
        "head_learning_rate": 1e-3,
        "reselect_steps": 3,
        "max_grad_norm": 0.002,
        "student_dropout": 0.0,
    }
    return SearchConfig(model=folder, corpus=corpus, profile=profile, objective=objective, **(defaults | fields))


@dataclasses.dataclass
class Trace:
    """What a search did at each step."""

    batches: list
    states: list
    losses: list
    horizon: int
    ticket: object


def trace(config, out, monkeypatch):
    """Run a search and write down its batches, and its scores, masks and head after each step."""
    batches, states, horizons = {}, [], []

    class Recorded(base_module.CorpusBatches):
        def __getitem__(self, index):
            batches[index] = super().__getitem__(index)
            return dict(batches[index])

    original, horizon = mask_training_module.MaskSearch.record, mask_training_module.horizon

    def record(self):
        groups = (self.optimizer.scores, self.optimizer.masks(), self.optimizer.head)
        states.append(tuple({n: v.detach().clone() for n, v in group.items()} for group in groups))
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(base_module, "CorpusBatches", Recorded)
        patch.setattr(mask_training_module.MaskSearch, "record", record)
        patch.setattr(mask_training_module, "horizon", lambda *a: horizons.append(horizon(*a)) or horizons[-1])
        ticket = search(config, out, QUIET)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [{name: line[name] for name in config.objective.split("+")} for line in lines]
    return Trace([batches[index] for index in range(len(losses))], states, losses, horizons[0], ticket)


def oracle(config, recipe, found):
    return NaiveMaskTraining(
        config.model,
        config.objective,
        recipe,
        list(found.states[0][0]),
        sparsity=config.sparsity,
        rate=config.learning_rate,
        head_rate=config.head_learning_rate,
        horizon=found.horizon,
        interval=config.reselect_steps,
        norm=config.max_grad_norm,
    )


def differences(config, recipe, found):
    """For each step the largest difference of a score, a head weight, a loss (relative), and how many mask entries."""
    naive = oracle(config, recipe, found)
    result = []
    for batch, (scores, masks, head), losses in zip(found.batches, found.states, found.losses, strict=True):
        expected = naive.step(batch)
        assert expected.keys() == losses.keys()
        result.append(
            {
                "loss": max(abs(losses[name] / expected[name] - 1) for name in losses),
                "score": max(float((scores[name] - naive.scores[name]).abs().max()) for name in scores),
                "head": max((float((head[n] - naive.head[n].detach()).abs().max()) for n in head), default=0.0),
                "mask": sum(int((masks[name] != naive.masks[name]).sum()) for name in scores),
            }
        )
        assert head.keys() == naive.head.keys()
    return result


def agree(step):
    """Float32 rounding, against rates of 0.004 and a gap of 0.02; a mask may differ where a score lies on the edge."""
    return step["loss"] < 1e-5 and step["score"] < 5e-6 and step["head"] < 5e-6 and step["mask"] <= 2


@pytest.mark.parametrize(("profile", "objective"), RECIPES)
def test_every_step_is_that_of_the_naive_re_implementation(tmp_path, folder, corpus, monkeypatch, profile, objective):
    config = settings(folder, corpus, profile, objective)
    found = trace(config, tmp_path / "run", monkeypatch)
    assert len(found.losses) == STEPS
    steps = differences(config, RECIPES[profile, objective], found)
    assert all(map(agree, steps)), steps
    # The trace has both kinds of steps: after an adjustment the sparsity is exact, between adjustments it drifts.
    counts = [{name: int((~mask).sum()) for name, mask in masks.items()} for _, masks, _ in found.states]
    asked = {name: int(0.6 * mask.numel() + 1e-9) for name, mask in found.states[0][1].items()}
    adjusted = {1, 2, 5, 8} if (profile, objective) == ("code", "kd") else {3, 6}
    assert adjusted <= {step for step, count in enumerate(counts, start=1) if count == asked}
    drifting = {step for step, count in enumerate(counts, start=1) if count != asked}
    assert {4, 7} <= drifting <= set(range(1, STEPS + 1)) - adjusted
    assert bool(found.states[-1][2]) == ("mlm" in objective)


MUTATIONS = {
    ("code", "kd"): {
        "epsilon": 1e-8,
        "decay": 0.0,
        "clip": "all",
        "adam": "early",
        "adjusts": lambda step, interval: step % interval == 0,
        "padding_counts": False,
    },
    ("code", "mlm"): {"epsilon": 1e-6, "clip": "each", "adam": "torch", "at_least": True, "absolute": True},
    ("paper", "mlm+kd"): {"epsilon": 1e-6, "decay": 0.01, "at_least": False, "absolute": True},
}


@pytest.mark.parametrize(("profile", "objective"), MUTATIONS)
def test_the_comparison_notices_every_other_arithmetic(tmp_path, folder, corpus, monkeypatch, profile, objective):
    config = settings(folder, corpus, profile, objective)
    found = trace(config, tmp_path / "run", monkeypatch)
    recipe = RECIPES[profile, objective]
    for field, value in MUTATIONS[profile, objective].items():
        steps = differences(config, dataclasses.replace(recipe, **{field: value}), found)
        assert not all(map(agree, steps)), field
    shorter = dataclasses.replace(found, horizon=found.horizon - 1)
    assert not all(map(agree, differences(config, recipe, shorter)))


@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
@pytest.mark.parametrize("profile", ["paper", "code", "tuned"])
def test_dropout_of_student_and_teacher(tmp_path, folder, corpus, monkeypatch, profile, objective):
    seen = set()
    forward = torch.nn.Dropout.forward

    def noted(self, states):
        active = self.training and self.p > 0
        seen.add(("student" if torch.is_grad_enabled() else "teacher", active))
        return forward(self, states)

    monkeypatch.setattr(torch.nn.Dropout, "forward", noted)
    config = settings(folder, corpus, profile, objective, student_dropout=None, steps=2)
    search(config, tmp_path / "run", QUIET)
    noisy = profile != "tuned"
    expected = {("student", noisy)}
    if "kd" in objective:
        expected.add(("teacher", (profile, objective) == ("code", "kd")))
    # In `tuned` the activations are measured without dropout before the search.
    assert seen == expected | ({("teacher", False)} if profile == "tuned" else set())


def adjusted_steps(profile, objective, until):
    filled = SearchConfig(model="m", profile=profile, objective=objective).resolved()

    class Clock:
        selected_exactly = mask_optimizer_module.MaskOptimizer.selected_exactly

    clock = Clock()
    clock.config = filled
    steps = []
    for clock.steps in range(1, until + 1):
        if clock.selected_exactly:
            steps.append(clock.steps)
    return steps


def test_when_the_threshold_is_adjusted():
    assert adjusted_steps("code", "mlm", 3000) == [1000, 2000, 3000]
    assert adjusted_steps("code", "mlm+kd", 2500) == [1000, 2000]
    assert adjusted_steps("code", "kd", 400) == [1, 99, 199, 299, 399]
    assert adjusted_steps("paper", "kd", 5) == adjusted_steps("tuned", "kd", 5) == [1, 2, 3, 4, 5]


def test_the_released_kd_program_stops_one_step_early(folder, corpus):
    totals = {
        (profile, objective): SearchConfig(model="m", profile=profile, objective=objective, steps=17000)
        .resolved()
        .total_steps
        for profile in ("paper", "code", "tuned")
        for objective in OBJECTIVE_NAMES
    }
    assert totals.pop(("code", "kd")) == 16999
    assert set(totals.values()) == {17000}
    assert SearchConfig(model="m", profile="code", steps=1).resolved().total_steps == 1
    with pytest.raises(UsageError, match="--save-at 9 is outside the search of 8 steps"):
        search(settings(folder, corpus, "code", "kd", save_at=(9,)), "unused", QUIET)


@pytest.mark.parametrize("objective", ["kd", "mlm"])
def test_the_pooler_is_pruned_by_magnitude_and_never_trained(tmp_path, folder, corpus, objective):
    trained = search(settings(folder, corpus, "code", objective), tmp_path / "trained", QUIET)
    magnitude = search(
        SearchConfig(model=folder, method="magnitude", sparsity=0.6, profile="code", count_rounding="floor"),
        tmp_path / "magnitude",
        QUIET,
    )
    pooler = "pooler.dense.weight"
    assert torch.equal(trained.masks[pooler], magnitude.masks[pooler])
    query = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(trained.masks[query], magnitude.masks[query])
    assert pooler not in search(settings(folder, corpus, "paper", objective), tmp_path / "paper", QUIET).masks


def test_the_rate_decays_over_two_passes_whatever_the_steps(folder, corpus, tmp_path, monkeypatch):
    tokens = len(tiny_models.tiny_tokenizer([ARTICLES])(ARTICLES, add_special_tokens=False)["input_ids"])
    blocks = tokens // 30  # packed:32 without [CLS] and [SEP]
    for steps in (4, 6):
        found = trace(settings(folder, corpus, "paper", "mlm", steps=steps), tmp_path / str(steps), monkeypatch)
        assert found.horizon == 2 * math.ceil(blocks / 3)
        lines = (tmp_path / str(steps) / "metrics.jsonl").read_text().splitlines()
        rates = [json.loads(line)["learning_rate"] for line in lines]
        assert rates == pytest.approx([4e-3 * (1 - step / found.horizon) for step in range(steps)])
    passes = (
        ({"steps": 50}, 50),  # a longer search stretches it
        ({"schedule_steps": 5}, 5),
        ({"schedule_passes": 1}, math.ceil(blocks / 3)),
        ({"schedule_passes": 0}, None),
        ({"profile": "tuned"}, None),
    )
    dataset = SimpleNamespace(steps_of_a_pass=math.ceil(blocks / 3))
    for fields, expected in passes:
        config = settings(folder, corpus, **({"profile": "paper", "objective": "mlm"} | fields)).resolved()
        assert mask_training_module.horizon(config, dataset) == expected


def test_saving_on_the_way_changes_nothing(tmp_path, folder, corpus, monkeypatch):
    plain, saving = (
        trace(settings(folder, corpus, "code", "mlm", save_at=at), tmp_path / str(at), monkeypatch)
        for at in ((), (1, 4, 5))
    )
    assert plain.losses == saving.losses
    assert plain.ticket.id == saving.ticket.id
    saved = Ticket.from_pretrained(tmp_path / "(1, 4, 5)" / "step-000004")
    assert all(int((~m).sum()) == int(0.6 * m.numel() + 1e-9) for m in saved.masks.values())


@pytest.mark.parametrize(("kind", "first"), [("adamw", 1.0), ("adamw-hf", 1.0), ("bertadam", 0.1 / math.sqrt(0.001))])
def test_the_first_step_of_each_optimiser(kind, first):
    """Without bias correction the first step is more than three times the rate."""
    weight, score = torch.tensor([[2.0, 1.0]]), torch.tensor([[0.5, -0.5]])
    assert first_move(kind, weight, score, epsilon=1e-12, decay=0.0) == pytest.approx(first, rel=1e-4)


def test_epsilon_weighs_more_before_the_bias_correction():
    weight, score = torch.tensor([[2.0, 1.0]]), torch.tensor([[0.5, -0.5]])
    gradient = 2.0  # of a loss that is the weight itself, times the weight
    assert first_move("adamw", weight, score, 1.0, 0.0) == pytest.approx(gradient / (gradient + 1), rel=1e-4)
    early = gradient / (gradient + 1 / math.sqrt(0.001))
    assert first_move("adamw-hf", weight, score, 1.0, 0.0) == pytest.approx(early, rel=1e-4)


@pytest.mark.parametrize("kind", ["adamw", "adamw-hf", "bertadam"])
def test_decay_shrinks_the_scores(kind):
    weight, score = torch.tensor([[2.0, 1.0]]), torch.tensor([[0.5, -0.5]])
    without, with_decay = (first_move(kind, weight, score, 1e-12, decay) for decay in (0.0, 0.5))
    assert with_decay - without == pytest.approx(0.5 * 0.5, rel=0.02)  # decay times the score, in units of the rate


def first_move(kind, weight, score, epsilon, decay):
    """How far the first score goes down, in units of the learning rate, when the loss is the weight."""
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight.data = weight.clone()
    masked = MaskedWeights(layer, ["weight"])
    masked.write({"weight": torch.tensor([[True, False]])})
    filled = SearchConfig(
        model="m",
        learning_rate=1e-3,
        optimizer=kind,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=epsilon,
        weight_decay=decay,
    ).resolved()
    optimizer = mask_optimizer_module.MaskOptimizer(masked, {"weight": score.clone()}, {}, filled)
    layer.weight[0, 0].backward()
    optimizer.step()
    return float(score[0, 0] - optimizer.scores["weight"].detach()[0, 0]) / 1e-3


@pytest.mark.parametrize("chosen", ["base", "ticket", None])
def test_mlm_loss_with_the_original_head_or_the_trained_one(tmp_path, folder, corpus, chosen):
    ticket = search(settings(folder, corpus, "code", "mlm"), tmp_path / "ticket", QUIET)
    config = EvaluateConfig(
        target=str(tmp_path / "ticket"),
        corpus=corpus,
        objectives=("mlm",),
        segments="packed:32",
        batch_tokens=96,
        mlm_head=chosen,
    )
    result = evaluate(config, QUIET)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    parameters = dict(model.named_parameters())
    masked = {f"bert.{n}": m * parameters[f"bert.{n}"] for n, m in ticket.masks.items() if "pooler" not in n}
    trained = ticket.mlm_head if chosen != "base" else {}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batches = CorpusBatches(
        tokenize(load_corpus(corpus, "validation"), tokenizer),
        tokenizer,
        segments="packed:32",
        batch_tokens=96,
        n_batches=None,
        seed=42,
        shuffle=False,
        mlm_probability=0.15,
    )
    total = count = 0
    for index in range(len(batches)):
        batch = plain(batches[index])
        labels = batch.pop("labels")
        with torch.no_grad():
            # Of the head only the decoder's matrix is not trained: tied to the embeddings, dense.
            head = dict(trained)
            if head:
                head["cls.predictions.decoder.bias"] = head["cls.predictions.bias"]
            logits = torch.func.functional_call(model, masked | head, (), batch, tie_weights=False).logits
        total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
        count += int((labels != -100).sum())
    assert result["mlm_loss"] == pytest.approx(total / count, rel=1e-5)
    assert result["mlm_head"] == ("base" if chosen == "base" else "ticket")
