"""The mask optimiser against a naive re-implementation of the papers' arithmetic, step by step."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from samples.tickets import CONFIG, QUERY
from winning_tickets.config import SearchConfig
from winning_tickets.pruning.mask_optimizer import BertAdam, MaskOptimizer, _ascending, initial_scores, rank_scores
from winning_tickets.runs.errors import ContentError
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.tickets.selection import keep_top

NAMES = (QUERY, "encoder.layer.1.output.dense.weight", "embeddings.word_embeddings.weight")
TUNED = SearchConfig(model="m", learning_rate=2e-3, head_learning_rate=1e-3).resolved()


def variant(**fields):
    return TUNED.model_copy(update=fields)


def papers(**fields):
    """A variant with the optimizer of the papers."""
    return variant(adam_beta1=0.9, adam_beta2=0.999, **fields)


def absolute(weights):
    return {name: weight.abs() for name, weight in weights.items()}


def scores_at_first(weights, init, update, seed):
    keep = partial(keep_top, sparsity=0.6, ranking=update.ranking)
    return initial_scores(absolute(weights), init, keep, update.ranking, top=0.02, seed=seed)


def make(update, init="plateau", seed=0):
    torch.manual_seed(seed)
    model = BertModel(BertConfig(**CONFIG, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    parameters = dict(model.named_parameters())
    for name in NAMES:
        parameters[name].requires_grad_(True)
    masked = MaskedWeights(model, NAMES)
    scores = scores_at_first(masked.dense_weights, init, update, seed)
    masked.write(keep_top(scores, 0.6, update.ranking, weights=masked.dense_weights, pattern=update.n_of_m))
    return model, masked, MaskOptimizer(masked, scores, {}, update)


def loss_of(model, step):
    ids = torch.randint(1, 50, (3, 6), generator=torch.Generator().manual_seed(step))
    target = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(100 + step))
    return (model(ids).last_hidden_state - target).square().mean()


def naive_search(update, steps, init="plateau"):
    """The same search as masked products in the graph: W * M with a straight-through gradient for the scores."""
    model, masked, _ = make(update, init)
    dense = {name: value.clone() for name, value in masked.dense_weights.items()}
    scores = scores_at_first(dense, init, update, 0)
    moments = {name: (torch.zeros_like(s), torch.zeros_like(s)) for name, s in scores.items()}
    key = torch.abs if update.rank_by == "absolute" else (lambda s: s)
    masks = keep_top({n: key(s) for n, s in scores.items()}, 0.6, update.ranking, dense, pattern=update.n_of_m)
    threshold = dict.fromkeys(NAMES, update.phi)
    history = []
    for step in range(1, steps + 1):
        product = {name: (dense[name] * masks[name].float()).requires_grad_(True) for name in NAMES}
        with torch.nn.utils.stateless._reparametrize_module(model, product):
            loss = loss_of(model, step)
            grads = torch.autograd.grad(loss, list(product.values()))
        straight = {name: g * dense[name] for name, g in zip(NAMES, grads, strict=True)}
        if update.clip == "global":
            norm = torch.stack([g.norm() for g in straight.values()]).norm()
            straight = {n: g * min(1.0, update.max_grad_norm / (norm + 1e-6)) for n, g in straight.items()}
        elif update.clip == "tensor":
            straight = {n: g * min(1.0, update.max_grad_norm / (g.norm() + 1e-6)) for n, g in straight.items()}
        for name, g in straight.items():
            mean, square = moments[name]
            first, second = update.betas
            mean.mul_(first).add_(g, alpha=1 - first)
            square.mul_(second).add_(g * g, alpha=1 - second)
            lr, decay = update.learning_rate, update.weight_decay
            if update.optimizer == "bertadam":
                scores[name] -= lr * (mean / (square.sqrt() + update.adam_epsilon) + decay * scores[name])
            else:
                scores[name] *= 1 - lr * decay
                root = (square / (1 - second**step)).sqrt() + update.adam_epsilon
                scores[name] -= lr * (mean / (1 - first**step)) / root
        keys = {n: key(s) for n, s in scores.items()}
        early = update.cadence == "before"
        if (early and step == 1) or (step + early) % update.reselect_steps == 0:
            masks = keep_top(keys, 0.6, update.ranking, weights=dense, pattern=update.n_of_m)
            for name in NAMES:
                count = int(0.6 * keys[name].numel() + 1e-9)
                threshold[name] = keys[name].reshape(-1).sort().values[count - 1]
        else:
            masks = {n: keys[n] > threshold[n] for n in NAMES}
        history.append((loss.item(), {n: m.clone() for n, m in masks.items()}))
    return history


@pytest.mark.parametrize(
    ("update", "init"),
    [
        (TUNED, "rank"),
        (variant(ranking="global"), "rank"),
        (variant(ranking="row"), "rank"),
        (variant(pattern="2:4"), "rank"),
        (papers(pattern="1:8", rank_by="absolute"), "plateau"),
        (papers(rank_by="absolute", clip="global", max_grad_norm=0.01), "plateau"),
        (papers(reselect_steps=3, clip="global"), "plateau"),
        (
            papers(
                optimizer="bertadam",
                adam_epsilon=1e-6,
                weight_decay=0.01,
                clip="tensor",
                max_grad_norm=0.01,
                reselect_steps=4,
                cadence="before",
            ),
            "plateau",
        ),
    ],
    ids=["tuned", "global", "row", "2:4", "1:8", "paper", "code-mlm", "code-kd"],
)
def test_every_step_equals_the_naive_search(update, init):
    model, masked, optimizer = make(update, init)
    for step, (expected_loss, expected_masks) in enumerate(naive_search(update, 8, init), start=1):
        loss = loss_of(model, step)
        assert loss.item() == pytest.approx(expected_loss, rel=1e-5)
        loss.backward()
        optimizer.step()
        for name, mask in optimizer.masks().items():
            different = int((mask != expected_masks[name]).sum())
            assert different <= 2, (step, name)  # two entries may swap where scores are equal to the last bit
            parameter, dense = masked.parameters[name].detach(), masked.dense_weights[name]
            assert torch.equal(parameter, torch.where(mask, dense, 0.0))
        model.zero_grad()


def test_weights_never_change_and_masks_do():
    model, masked, optimizer = make(TUNED, "rank")
    before, start = copy.deepcopy(masked.dense_weights), optimizer.masks()
    for step in range(5):
        loss_of(model, step).backward()
        optimizer.step()
        model.zero_grad()
    assert all(torch.equal(before[name], masked.dense_weights[name]) for name in NAMES)
    masks = optimizer.masks()
    assert any(not torch.equal(start[name], masks[name]) for name in NAMES)
    for mask in masks.values():
        assert mask.numel() - int(mask.sum()) == mask.numel() * 6 // 10


@pytest.mark.parametrize("kind", ["adamw", "adamw-hf", "bertadam"])
def test_moments_are_there_before_the_first_step_and_a_step_makes_no_others(kind):
    model, _, optimizer = make(variant(optimizer=kind))
    before = optimizer.state_dict()["moments"]
    assert set(before) == set(NAMES)
    assert all(float(moments[one].abs().max()) == 0 for moments in before.values() for one in ("exp_avg", "exp_avg_sq"))
    places = {name: moments["exp_avg"].data_ptr() for name, moments in before.items()}
    loss_of(model, 0).backward()
    optimizer.step()
    after = optimizer.state_dict()["moments"]
    assert {name: moments["exp_avg"].data_ptr() for name, moments in after.items()} == places
    assert all(int(moments["step"]) == 1 and float(moments["exp_avg"].abs().max()) > 0 for moments in after.values())


@pytest.mark.parametrize("update", [TUNED, variant(pattern="2:4")], ids=["tuned", "2:4"])
def test_a_saved_state_continues_bit_for_bit(update):
    model, _, optimizer = make(update, "rank")
    for step in range(3):
        loss_of(model, step).backward()
        optimizer.step()
        model.zero_grad()
    state = copy.deepcopy(optimizer.state_dict())
    other_model, _, other = make(update, "rank")
    other.load_state_dict(state)
    for step in range(3, 6):
        for m, o in ((model, optimizer), (other_model, other)):
            loss_of(m, step).backward()
            o.step()
            m.zero_grad()
    for name in NAMES:
        assert torch.equal(optimizer.scores[name], other.scores[name])
        assert torch.equal(optimizer.masks()[name], other.masks()[name])


@pytest.mark.parametrize(("fields", "size"), [({"ranking": "row"}, 16), ({"pattern": "3:8"}, 8)])
def test_groups_stay_exact_at_every_step(fields, size):
    model, _, optimizer = make(variant(**fields), "plateau")
    start = optimizer.masks()
    kept = int(start[QUERY].view(-1, size)[0].sum())
    for step in range(6):
        loss_of(model, step).backward()
        optimizer.step()
        model.zero_grad()
        masks = optimizer.masks()
        for name in (QUERY, NAMES[2]):
            assert set(masks[name].view(-1, size).sum(1).tolist()) == {kept}
        assert all(torch.equal(mask, masks[name]) for name, mask in optimizer.masks(exact=True).items())
    assert any(not torch.equal(start[name], masks[name]) for name in NAMES)


def test_rank_scores_put_the_threshold_in_the_middle_of_a_dense_scale():
    weights = {"w": torch.tensor([[0.1, -0.4], [0.2, -0.3]])}
    scores = rank_scores(absolute(weights), "matrix", 0.02)["w"]
    assert scores.reshape(-1).tolist() == pytest.approx([0.0, 0.02, 0.02 / 3, 0.04 / 3])
    equal = rank_scores({"w": torch.ones(4)}, "matrix", 0.02)["w"]
    assert equal.tolist() == sorted(equal.tolist(), reverse=True)  # of equal weights the lower index survives


def test_plateau_scores_are_those_of_equation_5():
    weights = {"w": torch.tensor([0.1, -0.4, 0.2, -0.3])}
    scores = initial_scores(absolute(weights), "plateau", partial(keep_top, sparsity=0.5), "matrix", top=0.02, seed=0)
    assert scores["w"].tolist() == pytest.approx([0.0, 0.02, 0.0, 0.02])


@pytest.mark.parametrize("corrected", [True, False])
def test_decay_makes_weights_smaller(corrected):
    weight = nn.Parameter(torch.full((3,), 2.0))
    optimizer = BertAdam(
        [{"params": [weight], "lr": 0.5}], betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.1, correct_bias=corrected
    )
    weight.grad = torch.zeros(3)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.full((3,), 2.0 * (1 - 0.5 * 0.1)))


def test_a_checkpoint_of_scores_has_the_settings_of_groups_and_not_their_parameters():
    groups = make(TUNED)[2].state_dict()["param_groups"]
    assert groups
    assert all("lr" in group and "params" not in group for group in groups)


@pytest.mark.parametrize("threshold", ["reached", "exceeded"])
def test_between_adjustments_the_thresholds_decide(threshold):
    model, masked, optimizer = make(variant(threshold=threshold, reselect_steps=5), "rank")
    at_first = optimizer.state_dict()["thresholds"].tolist()
    for name, found in zip(NAMES, at_first, strict=True):
        kept = masked.parameters[name].detach() != 0
        score = optimizer.scores[name].detach()
        assert found == float(score[kept].min() if threshold == "reached" else score[~kept].max())
    for step in range(2):
        loss_of(model, step).backward()
        optimizer.step()
        model.zero_grad()
    assert optimizer.state_dict()["thresholds"].tolist() == at_first
    for (name, mask), found in zip(optimizer.masks().items(), at_first, strict=True):
        score = optimizer.scores[name].detach()
        assert torch.equal(mask, score >= found if threshold == "reached" else score > found)
    assert any(int(mask.sum()) != masked.kept[name] for name, mask in optimizer.masks().items())


@pytest.mark.parametrize("update", [TUNED, variant(reselect_steps=4)], ids=["tuned", "thresholds"])
def test_reading_a_ticket_changes_nothing(update):
    model, masked, optimizer = make(update, "rank")
    for step in range(2):
        loss_of(model, step).backward()
        optimizer.step()
        model.zero_grad()
    state = copy.deepcopy(optimizer.state_dict())
    inside = {name: parameter.detach().clone() for name, parameter in masked.parameters.items()}
    exact = optimizer.masks(exact=True)
    assert {name: int(mask.sum()) for name, mask in exact.items()} == masked.kept
    assert all(torch.equal(parameter, inside[name]) for name, parameter in masked.parameters.items())
    again = optimizer.state_dict()
    assert (again["thresholds"] is None) == (update is TUNED)
    assert update is TUNED or torch.equal(again["thresholds"], state["thresholds"])
    different = sum(int((mask != exact[name]).sum()) for name, mask in optimizer.masks().items())
    assert (different == 0) == (update is TUNED)


def test_thresholds_start_at_phi_only_between_two_plateaus():
    plateaus, ranks = (make(variant(reselect_steps=4), init)[2] for init in ("plateau", "rank"))
    assert plateaus.state_dict()["thresholds"].tolist() == pytest.approx([0.01] * 3)
    assert all(abs(found - 0.01) > 1e-5 for found in ranks.state_dict()["thresholds"].tolist())


def test_the_state_of_another_version_is_refused_in_words():
    optimizer, threshold = make(TUNED, "rank")[2], make(variant(reselect_steps=4), "rank")[2]
    old = copy.deepcopy(optimizer.state_dict()) | {"thresholds": [0.01, 0.01, 0.01]}
    for state in (old, threshold.state_dict(), old | {"thresholds": None, "scores": {}}):
        with pytest.raises(ContentError, match="another version of winning-tickets.* Start again with --force"):
            optimizer.load_state_dict(state)


@pytest.mark.parametrize("clip", ["none", "global", "tensor"])
def test_a_norm_that_was_asked_for_is_that_of_the_step_and_changes_nothing_else(clip):
    (model, _, asked), (other, _, plain) = (make(variant(clip=clip, max_grad_norm=0.01), "rank") for _ in range(2))
    for step in range(3):
        for one in (model, other):
            loss_of(one, step).backward()
        products = [asked.masked.gradient(name) * asked.masked.dense_weights[name] for name in NAMES]
        norm = asked.gradient_norm()
        assert norm.dim() == 0
        assert float(norm) == pytest.approx(float(torch.cat([g.reshape(-1) for g in products]).norm()), rel=1e-6)
        asked.step()
        plain.step()
        assert clip != "global" or float(asked.grad_norm) == float(plain.grad_norm) == float(norm)
    for name in NAMES:
        assert torch.equal(asked.scores[name], plain.scores[name])


def test_a_gradient_that_was_dropped_is_not_applied_later():
    model, _, optimizer = make(TUNED, "rank")
    before = copy.deepcopy(optimizer.scores)
    for drop in (model.zero_grad, optimizer.zero_grad):
        loss_of(model, 0).backward()
        optimizer.gradient_norm()
        drop()
        optimizer.step()
    assert all(torch.equal(before[name], score) for name, score in optimizer.scores.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_order_of_values_is_that_of_a_stable_sort_from_the_end(dtype):
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(500, generator=generator) * 3).round().to(dtype)
    values[::7] = -0.0
    expected = sorted(range(500), key=lambda i: (float(values[i]), -i))
    assert _ascending(values).tolist() == expected
