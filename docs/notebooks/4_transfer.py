# %% [markdown]
# # Notebook 4: transfer with several seeds
#
# Does a ticket fine-tune as well as the whole model? One seed says little, so each model is fine-tuned three times. The
# task `pydocs` asks which of 20 modules of Python's library a passage of the documentation describes.
#
# Three tickets prune 60 % of MiniLM: at random, by magnitude, and by 20 steps of mask training.

# %%
import matplotlib.pyplot as plt
import pandas as pd

import winning_tickets as wt

model = "builtin:minilm"
tickets = {
    "random": wt.search(model, method="random", sparsity=0.6),
    "magnitude": wt.search(model, method="magnitude", sparsity=0.6),
    "mask training": wt.search(model, corpus="pydocs", sparsity=0.6, steps=20, batch_tokens=1024, quiet=True),
}

# %% [markdown]
# Forty steps of 16 short passages are about a quarter of an epoch. A result is a dict with attributes; the mean and the
# standard deviation over seeds are there.

# %%
settings = dict(
    task="pydocs",
    seeds=(0, 1, 2),
    steps=40,
    batch_size=16,
    max_length=32,
    learning_rate=5e-4,
    warmup_ratio=0.1,
    quiet=True,
)
runs = {name: wt.transfer(start, **settings) for name, start in {"dense": model, **tickets}.items()}
accuracy = {name: run.metrics["accuracy"]["final"] for name, run in runs.items()}
for name, final in accuracy.items():
    print(f"{name:15} {final['mean']:.3f} ± {final['std']:.3f}")

# %%
figure, axes = plt.subplots(figsize=(5, 2.4), layout="constrained")
for name, final in accuracy.items():
    axes.plot(final["values"], [name] * 3, "o", alpha=0.7)
axes.set(xlabel="accuracy, one dot a seed", xlim=(0, None))
axes.invert_yaxis()

# %% [markdown]
# Read the distances against the spread of the dots. The random ticket loses nearly everything, far more than the seeds
# differ. Magnitude pruning loses less, and differs more between seeds. The dots of mask training lie close to those of
# the dense model: three seeds do not tell them apart.
#
# Every run is also a data frame with a row for each seed, and has a figure of its own.

# %%
pd.concat([run.to_frame() for run in runs.values()], ignore_index=True)

# %% [markdown]
# The KD loss, measured in seconds and without fine-tuning, puts the tickets into the same order.

# %%
{
    name: round(wt.evaluate(one, corpus="pydocs", max_tokens=2000, quiet=True).kd_loss, 3)
    for name, one in tickets.items()
}

# %% [markdown]
# Data of your own are a `Dataset`, a DataFrame or a list of rows. The label column may hold words.

# %%
rows = [{"text": f"{adjective} {noun}", "label": label}
        for label, adjectives in {"good": ["fine", "great", "lovely"], "bad": ["dull", "awful", "poor"]}.items()
        for adjective in adjectives for noun in ["book", "film", "song", "talk"]]  # fmt: skip
start = tickets["mask training"]
mine = wt.transfer(start, train=rows[::2], validation=rows[1::2], seeds=(0, 1), steps=20, quiet=True)
mine

# %% [markdown]
# With `out="runs/mine"` the runs are kept, resume after a stop, and
# [paired gains and winning tickets](../how_to/analyse_tickets.md) compare many of them.
