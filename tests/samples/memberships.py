"""Parameters by the tasks that keep each entry."""

import torch

KINDS = ("adamw", "adamax", "adamax-mtdnn")


def by_entry(optimizer, name, parameter, field):
    """A field of the state, spread over the parameter's entries; zero where nothing has happened yet."""
    found = torch.zeros(parameter.shape or (1,), dtype=torch.float64)
    for part in optimizer.slices[name]:
        state = optimizer._inner.state.get(part.value, {})
        if state:
            value = torch.as_tensor(state[field], dtype=torch.float64).expand(part.value.shape)
            piece = part.piece
            if piece.index is None:
                piece.of(found).copy_(value)
            else:
                piece.put_(found, value)
    return found.view(parameter.shape)
