"""Tiny classifiers that hold a ticket."""

import torch
from transformers import BertConfig, BertForSequenceClassification

from samples.tickets import CONFIG


def classifier(seed=0):
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(**CONFIG))


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (4, 7), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 0, 1])}


def assert_exactly_zero(model, ticket):
    parameters = dict(model.base_model.named_parameters())
    for name, mask in ticket.masks.items():
        pruned = parameters[name].detach()[~mask]
        assert bool((pruned == 0).all())
        assert not bool(torch.signbit(pruned).any())
        assert bool((parameters[name].detach()[mask] != 0).any())
