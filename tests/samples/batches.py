"""Batches for objectives."""

import torch


def batch_of(seed=0, rows=3, length=9, padded=True):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (rows, length), generator=generator)
    attention = torch.ones_like(ids)
    if padded:
        attention[1, 5:] = 0
        attention[2, 7:] = 0
    labels = torch.where((torch.rand(rows, length, generator=generator) < 0.4) & (attention == 1), ids, -100)
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}
