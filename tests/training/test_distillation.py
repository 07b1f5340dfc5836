"""The losses of a recovery: zero for equal models, the definitions by hand, heads of every kind."""

import copy
import types

import pytest
import torch
from torch.nn import functional

from samples.tiny_models import make_model
from winning_tickets.models.loading import load_plm
from winning_tickets.training.objectives.distillation import Distillation, HeadProbe, similarity_sum

BATCH = {"input_ids": torch.tensor([[2, 9, 11, 3], [2, 8, 3, 0], [2, 7, 3, 0]])}
BATCH["attention_mask"] = (BATCH["input_ids"] != 0).long()
PARTS = {"states": 1.0, "pooled": 1.0, "similarity": 1.0}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return load_plm(str(make_model(tmp_path_factory.mktemp("m") / "bert", "bert", "none"))), None


def test_a_model_is_no_distance_from_itself(bert):
    plm = bert[0]
    plm.model.eval()
    objective = Distillation(PARTS, plm.architecture, plm.model, [0, 1])
    for name, value in objective(plm.model, BATCH).items():
        assert abs(value.item()) < 1e-5, name
    assert {name: int(count) for name, count in objective.counts(BATCH).items()} == {
        "states": 10,
        "pooled": 3,
        "similarity": 3,
    }


def test_the_parts_are_what_their_definitions_say(bert):
    plm = bert[0]
    other = copy.deepcopy(plm.model).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    with torch.no_grad():
        found = Distillation(PARTS, plm.architecture, plm.model.eval(), [1, 1])(other, BATCH)
        first = Distillation({"pooled": 1.0}, plm.architecture, plm.model, [0, 1], pooling="cls")(other, BATCH)
    with torch.no_grad():
        ours, theirs = (one(**BATCH, output_hidden_states=True).hidden_states[1:] for one in (other, plm.model))
    mask = BATCH["attention_mask"].bool()
    states = [1 - functional.cosine_similarity(mine[mask], theirs[1][mask]) for mine in ours]
    torch.testing.assert_close(found["states"], torch.stack(states).mean(0).sum(), rtol=1e-4, atol=1e-5)
    means = [
        torch.stack([row[keep].mean(0) for row, keep in zip(last[-1], mask, strict=True)]) for last in (ours, theirs)
    ]
    pooled = 1 - functional.cosine_similarity(*means)
    torch.testing.assert_close(found["pooled"], pooled.sum(), rtol=1e-4, atol=1e-5)
    cosines = [functional.cosine_similarity(one[:, None], one[None], dim=-1) for one in means]
    torch.testing.assert_close(found["similarity"], (cosines[0] - cosines[1]).square().sum() / 2)
    own = 1 - functional.cosine_similarity(ours[-1][:, 0], theirs[-1][:, 0])
    torch.testing.assert_close(first["pooled"], own.sum(), rtol=1e-4, atol=1e-5)


def test_one_text_alone_has_no_similarity():
    one = torch.ones(1, 4, requires_grad=True)
    assert similarity_sum(one, one.detach()).item() == 0.0


class Head:
    """A model that returns given logits."""

    config = types.SimpleNamespace()

    def __init__(self, logits):
        self.logits = logits

    def __call__(self, **inputs):
        states = (torch.ones(3, 4, 2), torch.ones(3, 4, 2))
        spans = self.logits.dim() == 3 and self.logits.shape[-1] == 2
        found = {"hidden_states": states, "logits": self.logits}
        if spans:
            found |= {"start_logits": self.logits[..., 0], "end_logits": self.logits[..., 1]}
        return type("Output", (dict,), {"__getattr__": dict.__getitem__})(found)


SHAPES = {"classification": (3, 5), "regression": (3, 1), "multilabel": (3, 4), "tokens": (3, 4, 5), "span": (3, 4, 2)}


@pytest.mark.parametrize("head", SHAPES)
def test_heads_are_compared_where_there_is_no_padding(head):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(SHAPES[head], generator=generator) for _ in range(2))

    def distance(student, teacher):
        objective = Distillation({"logits": 1.0}, None, Head(teacher), [0], head)
        return float(objective(Head(student), BATCH)["logits"])

    least, most = distance(theirs, theirs), distance(ours, theirs)
    assert most > least
    if head != "multilabel":  # whose cross-entropy has the entropy of the teacher in it
        assert abs(least) < 1e-5
    if len(SHAPES[head]) == 3:
        changed = ours.clone()
        changed[1, 3] += 7.0  # a padded position
        assert distance(changed, theirs) == pytest.approx(most, rel=1e-5)


@pytest.mark.parametrize("head", SHAPES)
def test_a_probe_of_a_head_has_gradients(head):
    logits = torch.randn(SHAPES[head], generator=torch.Generator().manual_seed(0)).requires_grad_()
    HeadProbe(head, 0)(Head(logits), BATCH)["logits"].backward()
    assert bool(logits.grad.abs().sum() > 0)
