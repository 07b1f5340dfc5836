# %% [markdown]
# # Notebook 4: transfer with several seeds
#
# Does a ticket fine-tune as well as the whole model? One seed says little, so each is fine-tuned three times. The task
# `pydocs` asks which part of Python's library a sentence of its documentation comes from.

# %%
import pandas as pd

import winning_tickets as wt

settings = dict(task="pydocs", seeds=(0, 1, 2), steps=40, learning_rate=5e-4, quiet=True)
dense = wt.transfer("builtin:minilm", layers=2, **settings)
ticket = wt.search("builtin:minilm", layers=2, method="magnitude", sparsity=0.6)
sparse = wt.transfer(ticket, **settings)
pd.concat([dense.to_frame(), sparse.to_frame()], ignore_index=True)

# %% [markdown]
# Forty steps on two layers are far too few for this task of many classes: the scores are near chance, and the spread
# between seeds is as large as they are, so nothing can be said about the ticket. Give more `steps` or `epochs`.
#
# A result is a dict with attributes: the mean and the standard deviation over seeds are there.

# %%
for name, run in (("dense", dense), ("magnitude 60 %", sparse)):
    final = run.metrics["accuracy"]["final"]
    print(f"{name:15} {final['mean']:.3f} ± {final['std']:.3f}, seeds {final['values']}")

# %%
sparse.plot()

# %% [markdown]
# Data of your own are a `Dataset`, a DataFrame or a list of rows. The label column may hold words.

# %%
rows = [{"text": f"{adjective} {noun}", "label": label}
        for label, adjectives in {"good": ["fine", "great", "lovely"], "bad": ["dull", "awful", "poor"]}.items()
        for adjective in adjectives for noun in ["book", "film", "song", "talk"]]  # fmt: skip
mine = wt.transfer(ticket, train=rows, validation=rows[::2], seeds=(0, 1, 2), steps=20, learning_rate=1e-3, quiet=True)
mine

# %% [markdown]
# With `out="runs/mine"` the runs are kept, resume after a stop, and
# [paired gains and winning tickets](../how_to/analyse_tickets.md) compare many of them.
