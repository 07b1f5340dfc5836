# %% [markdown]
# # Notebook 2: my own pruning method against the library's
#
# A method is anything that makes masks. This one divides each column of a matrix by its norm, and then keeps the
# largest entries of each row. Its masks become a ticket that is measured like all others.

# %%
import pandas as pd
import torch

import winning_tickets as wt

model = dict(model="builtin:minilm", layers=2)
magnitude = wt.search(**model, method="magnitude", sparsity=0.6)
wanda = wt.search(**model, method="wanda", corpus="pydocs", sparsity=0.6, quiet=True)

# %% [markdown]
# The dense weights come from a plain Hugging Face model; `magnitude.masks` says which matrices belong to the scope.

# %%
from winning_tickets.models.loading import load_plm

encoder = load_plm("builtin:minilm", layers=2).model


def keep_largest_of_each_row(weight, sparsity):
    """True for the largest entries of each row, after each column is divided by its norm."""
    score = weight.abs() / weight.norm(dim=0, keepdim=True).clamp_min(1e-12)
    pruned = int(sparsity * weight.shape[1])
    mask = torch.ones_like(weight, dtype=torch.bool)
    return mask.scatter(1, score.argsort(dim=1)[:, :pruned], False)


with torch.no_grad():
    masks = {name: keep_largest_of_each_row(encoder.get_parameter(name), 0.6) for name in magnitude.masks}
mine = wt.Ticket.from_masks(masks, encoder, method="column-normed rows")
mine

# %% [markdown]
# The same measurement for all three, on the same text.

# %%
tickets = {"magnitude": magnitude, "wanda": wanda, "mine": mine}
kept = {
    name: wt.evaluate(ticket, encoder if ticket is mine else None, corpus="pydocs", max_tokens=8000, quiet=True)
    for name, ticket in tickets.items()
}
pd.Series({name: one.kd_loss for name, one in kept.items()}, name="KD loss").to_frame()

# %% [markdown]
# Where do the masks differ? One number per pair; 0.25 is what two random masks of this sparsity share.

# %%
wt.compare(*tickets.values()).to_frame()
