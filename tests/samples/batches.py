"""Batches for objectives."""

import torch


def batch_of(seed=0, rows=3, length=9, padded=True):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (rows, length), generator=generator)
    attention = torch.ones_like(ids)
    if padded:
        attention[1, 5:] = 0
        attention[2, 7:] = 0
    masked = (torch.rand(rows, length, generator=generator) < 0.4) & (attention == 1)
    positions = masked.flatten().nonzero().squeeze(1)
    batch = {"input_ids": ids, "masked_positions": positions, "masked_ids": ids.flatten()[positions]}
    return batch | ({"attention_mask": attention} if padded else {})


def labels_of(batch):
    """The ids to predict `(rows, length)`, -100 where nothing is predicted."""
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["masked_positions"]] = batch["masked_ids"]
    return labels


def plain(batch):
    """A batch as transformers takes it: always with an attention mask, and with `labels` where tokens are masked."""
    found = {"attention_mask": torch.ones_like(batch["input_ids"]), **batch}
    if "masked_positions" in batch:
        found["labels"] = labels_of(batch)
        del found["masked_positions"], found["masked_ids"]
    return found
