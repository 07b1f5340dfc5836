# %% [markdown]
# # Notebook 5: a super ticket and a compact model
#
# `super_ticket` fine-tunes the whole model, ranks its heads and FFNs by importance, and fine-tunes what is left without
# the least important ones (winning) and, as a check, without the most important ones (losing). The task `pydocs` asks
# which module of Python's library a passage of the documentation describes.

# %%
from tempfile import mkdtemp

import winning_tickets as wt

work = mkdtemp()
found = wt.super_ticket(
    "builtin:minilm", f"{work}/super", task="pydocs", seeds=(0, 1), steps=40, learning_rates=(5e-4,), batch_sizes=(16,),
    max_length=32, level=(40,), selections=("winning", "losing"), importance_train_size="200", save_model=True,
    quiet=True,
)  # fmt: skip
found

# %%
found.plot()

# %% [markdown]
# The gap between the curves is what importance knows: both tickets have the same number of units, and only
# the choice of units differs. [Longer trainings on GLUE](../results/super_tickets/README.md) show the same.
#
# The fine-tuned super ticket is exported with smaller matrices. Its scores do not change.

# %%
best = found.super_ticket
exported = wt.export(f"{work}/super/{best['runs'][0]}", "compact", f"{work}/compact")
print(f"super ticket of level {best['level']:g} %; parameters of the encoder: {exported.parameters}")

# %%
wt.measure(f"{work}/compact", batches=(1, 8), lengths=(32,), repeats=5)

# %% [markdown]
# The folder is a classifier for new texts. [From a CSV to a compact
# classifier](../how_to/from_csv_to_a_compact_classifier.md) does the same with your own data on the command line.

# %%
texts = ["Return the square root of x.", "Open a connection to the server and send the request."]
answers = wt.predict(f"{work}/compact", [(text,) for text in texts])["predictions"]
[answer["label"] for answer in answers]
