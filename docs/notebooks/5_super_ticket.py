# %% [markdown]
# # Notebook 5: a super ticket and a compact model
#
# `super_ticket` fine-tunes the whole model, ranks its heads and FFNs by importance, and fine-tunes what is left without
# the least important ones. The winner becomes a model that is really smaller.

# %%
from tempfile import mkdtemp

import winning_tickets as wt

work = mkdtemp()
found = wt.super_ticket(
    "builtin:minilm", f"{work}/super", layers=2, task="pydocs", seeds=(0, 1), steps=20, level=(20, 40),
    selections=("winning", "losing"), importance_train_size="100", quiet=True,
)  # fmt: skip
found

# %%
found.plot()

# %% [markdown]
# Losing tickets lack the *most* important units: the gap between the curves says whether importance means something.
# Twenty steps on two layers are far too few: here
# every ticket, and the full model, gives nearly the same answers, and the curves are flat. Give more `steps`.
#
# The ticket of heads is exported with smaller matrices and measured next to the dense model, in turns.

# %%
ticket = wt.search("builtin:minilm", f"{work}/heads", layers=2, method="importance", corpus="pydocs", level=40,
                   steps=4, quiet=True)  # fmt: skip
wt.export(f"{work}/heads", "compact", f"{work}/compact")
wt.measure(f"{work}/compact", batches=(1, 8), lengths=(32,), repeats=5)

# %%
encoder = wt.load_compact(f"{work}/compact")
sum(parameter.numel() for parameter in encoder.parameters())
