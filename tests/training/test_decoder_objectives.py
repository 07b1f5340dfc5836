"""Losses of decoders against those of transformers, and logits in chunks against logits at once."""

import pytest
import torch
from torch.nn.functional import kl_div

from samples.tiny_decoders import DECODERS, make_decoder
from winning_tickets.models.loading import load_plm, prunable_names
from winning_tickets.models.twin import make_twin
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.training.objectives import terms
from winning_tickets.training.objectives.base import TermSettings
from winning_tickets.training.objectives.pretraining import PretrainingObjective

IDS = torch.randint(2, 258, (3, 11), generator=torch.Generator().manual_seed(0))
PADDED = torch.ones_like(IDS)
PADDED[1, 7:] = 0
BATCHES = {"whole": {"input_ids": IDS}, "padded": {"input_ids": IDS, "attention_mask": PADDED}}
SETTINGS = TermSettings(logits_temperature=2.0)


def pair(path):
    """A pruned model with the dense one as its twin."""
    plm = load_plm(str(path), head="clm")
    plm.model.eval()
    masked = MaskedWeights(plm.encoder, prunable_names(plm, "encoder"))
    twin = make_twin(plm.model, masked.dense_weights)
    generator = torch.Generator().manual_seed(0)
    masked.write({name: torch.rand(w.shape, generator=generator) > 0.3 for name, w in masked.dense_weights.items()})
    return plm, twin


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("at_once", [2**25, 258 * 4 + 5], ids=["at once", "in chunks"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("kind", DECODERS)
def test_next_tokens_and_distributions_as_in_transformers(tmp_path, monkeypatch, kind, batch, at_once):
    plm, twin = pair(make_decoder(tmp_path / kind, kind))
    monkeypatch.setattr(terms, "LOGITS_AT_ONCE", at_once)
    names = ("clm", "logits", "accuracy", "agreement")
    objective = PretrainingObjective(dict.fromkeys(names, 1.0), plm.architecture, twin, SETTINGS)
    mask = batch.get("attention_mask")
    labels = IDS if mask is None else IDS.masked_fill(mask == 0, -100)
    counted = labels[:, 1:] != -100
    logits, theirs = (model(**batch).logits[:, :-1] for model in (plm.model, twin))
    loss = torch.nn.functional.cross_entropy(logits[counted], labels[:, 1:][counted], reduction="sum")
    assert torch.allclose(loss / counted.sum(), plm.model(**batch, labels=labels).loss, rtol=1e-5)
    divergence = kl_div(
        (logits[counted] / 2).log_softmax(-1),
        (theirs.detach()[counted] / 2).log_softmax(-1),
        reduction="sum",
        log_target=True,
    )
    (loss + divergence).backward()
    expected = gradients(plm.model)

    sums = objective(plm.model, batch)
    (sums["clm"] + sums["logits"]).backward()
    assert torch.allclose(sums["clm"], loss, rtol=1e-5)
    assert torch.allclose(sums["logits"], divergence, rtol=1e-4)
    assert {int(value) for value in objective.counts(batch).values()} == {int(counted.sum())}
    assert int(sums["accuracy"]) == int((logits.argmax(-1) == IDS[:, 1:])[counted].sum())
    same = (logits.argmax(-1) == theirs.argmax(-1))[counted].sum()
    assert 0 < int(sums["agreement"]) == int(same) < int(counted.sum())
    found = gradients(plm.model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], rtol=1e-3, atol=2e-4), name


def test_logits_of_a_whole_batch_are_never_in_memory(tmp_path, monkeypatch):
    plm, twin = pair(make_decoder(tmp_path / "m"))
    monkeypatch.setattr(terms, "LOGITS_AT_ONCE", 258 * 4)
    most = []
    plm.model.lm_head.register_forward_hook(lambda module, inputs, output: most.append(output.numel()))
    objective = PretrainingObjective({"clm": 1.0, "logits": 1.0}, plm.architecture, twin)
    sums = objective(plm.model, BATCHES["whole"])
    (sums["clm"] + sums["logits"]).backward()
    assert max(most) == 258 * 4
    assert sum(most) == 2 * 2 * 30 * 258  # of two terms, once in each pass


def test_the_most_probable_tokens_are_told_apart_and_the_rest_counts_as_one():
    """The divergence of K + 1 probabilities, finite with its gradient where the rest has next to none."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 20).double().unbind()
    counted = torch.tensor([1, 1, 0, 1, 1])
    ours, theirs = (logits.div(2).softmax(-1) for logits in (student, teacher))
    places = theirs.topk(3).indices
    grouped = [
        torch.cat([one.gather(-1, places), 1 - one.gather(-1, places).sum(-1, keepdim=True)], -1)
        for one in (ours, theirs)
    ]
    expected = ((grouped[1] * (grouped[1] / grouped[0]).log()).sum(-1) * counted).sum()
    torch.testing.assert_close(terms.logits_sum(student, teacher, 2.0, counted, top_k=3), expected)
    whole = terms.logits_sum(student, teacher, 2.0, counted)
    assert 0 < expected < whole
    torch.testing.assert_close(terms.logits_sum(student, teacher, 2.0, counted, top_k=20), whole)
    certain = torch.tensor([[100.0, 0.0, 0.0, 0.0]], requires_grad=True)
    loss = terms.logits_sum(certain, certain.detach().roll(1, -1), 1.0, top_k=1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(certain.grad).all()
