"""SMART and soft labels: projections in closed form, gradients where they belong, the same dropout in every pass."""

import math

import pytest
import torch

from samples.tiny_models import TEXT, make_model
from winning_tickets.config import Smart
from winning_tickets.data.encode import make_collator
from winning_tickets.data.records import Split, Task
from winning_tickets.data.tasks import TASKS
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.objectives import smart as module
from winning_tickets.training.objectives.smart import SmartObjective, normalize, project
from winning_tickets.training.objectives.task import DISTANCES, TaskObjective
from winning_tickets.training.predict import encode_split

CLASSES = Task("moods", ("text",), ("bad", "good", "neutral"), ("accuracy",))
SCORES = Task("scores", ("text",), (), ("pearson",), kind="regression")
NORMS = {"inf": torch.inf, "l2": 2, "l1": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("smart") / "m", head="none")


def loaded(folder, task, dropout=0.0):
    """A model in training mode, and a batch of texts of different lengths."""
    torch.manual_seed(0)
    plm = load_plm(str(folder), head="classification", num_labels=len(task.labels) or 1)
    texts = [TEXT[i] + " and" * i for i in range(6)]
    labels = [i / 2 for i in range(6)] if task.is_regression else [i % 3 for i in range(6)]
    encoded = encode_split(plm, Split((texts,), labels), 32)
    plm.model.train()
    for part in plm.model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = dropout
    return plm.model, make_collator(plm.tokenizer)([encoded[i] for i in range(6)])


def smart(task, **settings):
    return SmartObjective(TaskObjective(task.kind), task, Smart(**settings))


def vector_norms(values, settings):
    rows = values if settings.level == "token" else values.flatten(1)
    return torch.linalg.vector_norm(rows, NORMS[settings.norm], dim=-1)


@pytest.mark.parametrize("level", ["token", "sentence"])
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_have_norm_one_and_zeros_stay(norm, level):
    settings = Smart(norm=norm, level=level)
    gradient = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)) * 1e-6
    gradient[1] = 0
    found = normalize(gradient, settings)
    assert torch.allclose(vector_norms(found, settings)[0], torch.tensor(1.0))
    assert not found[1].any()
    assert torch.equal(found.sign(), gradient.sign())


@pytest.mark.parametrize("level", ["token", "sentence"])
@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_the_nearest_point_of_the_ball(norm, level):
    """A convex set: no point of the ball makes an acute angle with the way from the projection to the outside."""
    settings = Smart(norm=norm, level=level, radius=0.7)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    found = project(noise, settings)
    assert (vector_norms(found, settings) <= 0.7 + 1e-12).all()
    inside = project(noise * 1e-3, settings)
    assert torch.equal(inside, noise * 1e-3)
    for _ in range(200):
        other = torch.randn(noise.shape, generator=generator, dtype=torch.float64)
        other = other * (0.7 / vector_norms(other, settings).view(4, -1, 1))
        product = (noise - found) * (other - found)
        rows = product if level == "token" else product.flatten(1)
        assert (rows.sum(-1) <= 1e-9).all()


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("inf", [0.5, -0.5, 0.25, 0.0]),
        ("l2", [3 * 0.5 / math.sqrt(13.0625), -2 * 0.5 / math.sqrt(13.0625), 0.25 * 0.5 / math.sqrt(13.0625), 0.0]),
        ("l1", [0.5, 0.0, 0.0, 0.0]),
    ],
)
def test_projection_in_numbers(norm, expected):
    found = project(torch.tensor([[[3.0, -2.0, 0.25, 0.0]]]), Smart(norm=norm, radius=0.5))
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-5)  # float32 against double precision
    assert project(
        torch.tensor([[[2.0, -1.5, 0.1]]]), Smart(norm="l1", radius=1.0)
    ).flatten().tolist() == pytest.approx([0.75, -0.25, 0.0])


def test_weight_zero_is_the_plain_loss_to_the_bit(folder):
    model, batch = loaded(folder, CLASSES, dropout=0.1)
    plain = TaskObjective(CLASSES.kind)
    results = []
    for objective in (plain, smart(CLASSES, alpha=0.0)):
        torch.manual_seed(5)
        model.zero_grad()
        sums = objective(model, batch)
        assert set(sums) == set(objective.counts(batch)) == {"loss"}
        sums["loss"].backward()
        results.append((sums["loss"], [p.grad for p in model.parameters() if p.grad is not None], torch.rand(3)))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
    assert torch.equal(results[0][2], results[1][2])


def test_the_loss_itself_is_not_changed(folder):
    model, batch = loaded(folder, CLASSES, dropout=0.1)
    torch.manual_seed(5)
    plain = TaskObjective(CLASSES.kind)(model, batch)["loss"]
    torch.manual_seed(5)
    sums = smart(CLASSES)(model, batch)
    assert torch.equal(sums["loss"], plain)
    assert sums["smart"] >= 0
    assert model.training


@pytest.mark.parametrize("task", [CLASSES, SCORES], ids=lambda task: task.name)
@pytest.mark.parametrize("norm", NORMS)
def test_the_climb_beats_random_noise(folder, norm, task):
    model, batch = loaded(folder, task)
    settings = Smart(norm=norm, level="sentence", radius=1e-2, noise=1e-6, step_size=1e-1)
    objective = smart(task, **settings.model_dump())
    distance = DISTANCES["mse" if task.is_regression else "symmetric-kl"]
    with torch.no_grad():
        logits = objective._base.logits(model, batch)
    worst, random = [], []
    for seed in range(4):
        torch.manual_seed(seed)
        worst.append(objective(model, batch)["smart"].item())
        torch.manual_seed(seed)
        embeddings = model.get_input_embeddings()(batch["input_ids"])
        noise = torch.randn_like(embeddings) * batch["attention_mask"].unsqueeze(-1)
        noise = noise * (settings.radius / vector_norms(noise, settings)).view(-1, 1, 1)  # as long as it may be
        with torch.no_grad():
            moved = objective._perturbed(model, batch, noise, module._RandomState.now(torch.device("cpu")))
            random.append(float(distance.sum(moved, logits)))
    assert sum(worst) > 1.5 * sum(random)


def test_more_steps_climb_higher(folder):
    model, batch = loaded(folder, CLASSES)
    found = []
    for steps in (1, 4):
        torch.manual_seed(0)
        settings = {"steps": steps, "radius": 1.0, "noise": 1e-3, "step_size": 0.05, "norm": "l2"}
        found.append(smart(CLASSES, **settings)(model, batch)["smart"].item())
    assert found[1] > 2 * found[0]


def test_noise_stays_in_the_ball_and_off_the_padding(folder, monkeypatch):
    model, batch = loaded(folder, CLASSES)
    objective = smart(CLASSES, norm="l2", radius=0.03, noise=1.0, step_size=1.0)
    seen = []
    monkeypatch.setattr(objective, "_perturbed", lambda *args: seen.append(args[2].detach()) or original(*args))
    original = SmartObjective._perturbed.__get__(objective)
    objective(model, batch)
    padded = batch["attention_mask"] == 0
    assert padded.any()
    assert len(seen) == 2  # one step of the climb, and the distance at its end
    for noise in seen:
        assert not noise[padded].any()
        norms = torch.linalg.vector_norm(noise, dim=-1)[~padded]
        assert torch.allclose(norms, torch.tensor(0.03))


def test_the_gradient_is_that_of_the_final_distance_only(folder):
    """With the noise known, automatic differentiation of the plain formula gives the same gradient."""
    model, batch = loaded(folder, CLASSES)
    objective = smart(CLASSES, radius=0.05, noise=0.02, step_size=0.05)
    torch.manual_seed(0)
    state = module._RandomState.now(torch.device("cpu"))
    with torch.no_grad():
        logits = objective._base.logits(model, batch)
    noise = objective._worst_noise(model, batch, logits, state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not noise.requires_grad
    clean = model(**{k: v for k, v in batch.items() if k != "labels"}).logits.log_softmax(-1)
    embedded = model.get_input_embeddings()(batch["input_ids"]) + noise
    rest = {k: v for k, v in batch.items() if k not in ("labels", "input_ids")}
    moved = model(inputs_embeds=embedded, **rest).logits.log_softmax(-1)
    expected = (clean.exp() * (clean - moved)).sum() + (moved.exp() * (moved - clean)).sum()
    parameters = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)
    torch.manual_seed(0)
    sums = objective(model, batch)
    found = torch.autograd.grad(sums["smart"], parameters, allow_unused=True)
    assert float(sums["smart"].detach()) == pytest.approx(float(expected.detach()), rel=1e-3)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_every_pass_has_the_same_dropout(folder):
    """Noise that is nothing moves nothing, though dropout is on; drawing anew would move the outputs a lot."""
    model, batch = loaded(folder, CLASSES, dropout=0.5)
    objective = smart(CLASSES, radius=1e-12)
    torch.manual_seed(0)
    assert objective(model, batch)["smart"].item() < 1e-8
    after = torch.rand(1)
    torch.manual_seed(0)
    assert objective(model, batch)["smart"].item() < 1e-8
    assert torch.equal(torch.rand(1), after)
    a, b = (objective._base.logits(model, batch) for _ in range(2))
    assert DISTANCES["symmetric-kl"].sum(a, b).item() > 1e-2


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert", "mpnet", "albert", "deberta-v2"])
def test_embeddings_as_inputs_are_the_same_model(tmp_path, kind):
    plm = load_plm(str(make_model(tmp_path / kind, kind, head="none")), head="classification", num_labels=3)
    plm.model.eval()
    encoded = encode_split(plm, Split(([*TEXT[:3], "cat"],), [0, 1, 2, 0]), 32)
    batch = make_collator(plm.tokenizer)([encoded[i] for i in range(4)])
    objective = smart(CLASSES)
    with torch.no_grad():
        logits = objective._base.logits(plm.model, batch)
        moved = objective._perturbed(plm.model, batch, torch.zeros(()), module._RandomState.now(torch.device("cpu")))
    assert torch.allclose(logits, moved, atol=1e-5)


def test_other_kinds_are_refused():
    message = "--smart needs one class or score per text; the task squad is span"
    with pytest.raises(UsageError, match=message):
        SmartObjective(TaskObjective("span"), TASKS["squad"], Smart())


def test_settings_that_cannot_be():
    with pytest.raises(UsageError) as refused:
        Smart.of(alpha=-1.0, steps=0, radius=0, noise=-1e-5)
    found = str(refused.value).splitlines()
    assert len(found) == 4
    assert found[0] == "--smart -1.0 is impossible; it must be at least 0."


LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
ODDS = torch.tensor([[0.7, 0.1, 0.2], [0.05, 0.05, 0.9]])


def test_the_symmetric_divergence_goes_both_ways():
    ours = LOGITS.softmax(-1)
    expected = (ODDS * (ODDS / ours).log()).sum() + (ours * (ours / ODDS).log()).sum()
    assert float(DISTANCES["symmetric-kl"].sum(LOGITS, ODDS.log() + 3)) == pytest.approx(float(expected), rel=1e-5)


def test_losses_add_up_over_micro_batches():
    """Sums and counts: the loss of a batch is that of its halves, whatever their sizes."""
    for name, distance in DISTANCES.items():
        whole = distance.sum(LOGITS, ODDS)
        parts = sum(distance.sum(LOGITS[i : i + 1], ODDS[i : i + 1]) for i in range(2))
        assert float(whole) == pytest.approx(float(parts), rel=1e-5), name  # another order of float32 sums
        assert distance.count(LOGITS) == 2 * distance.count(LOGITS[:1])
