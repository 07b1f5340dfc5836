# %% [markdown]
# # Notebook 3: a sparse sentence encoder
#
# The model is a `SentenceTransformer` in memory; the ticket is searched on the sentences that it will have to encode.

# %%
from sentence_transformers import SentenceTransformer

import winning_tickets as wt
from winning_tickets.models.loading import resolve_model

folder = resolve_model("builtin:minilm")  # or the id of any model of the hub
model = SentenceTransformer(folder, device="cpu")

questions = [
    "How do I reset my password?", "The parcel has not arrived.", "Can I change the delivery address?",
    "The invoice shows a wrong amount.", "I want to cancel my subscription.", "The app crashes when it starts.",
]  # fmt: skip
texts = [f"{question} {answer}" for question in questions for answer in questions]
ticket = wt.search(model, corpus=texts, sparsity=0.5, steps=4, segments="lines", batch_tokens=512, quiet=True)
ticket

# %% [markdown]
# What is left of the similarities? Pearson's correlation of cosines and scores, for the dense model and for the ticket.

# %%
pairs = [
    {"sentence1": "I forgot my password", "sentence2": questions[0], "score": 0.9},
    {"sentence1": "my package is late", "sentence2": questions[1], "score": 0.8},
    {"sentence1": "you charged me too much", "sentence2": questions[3], "score": 0.8},
    {"sentence1": "it closes after the first screen", "sentence2": questions[5], "score": 0.7},
    {"sentence1": "I moved to another street", "sentence2": questions[4], "score": 0.2},
    {"sentence1": "thank you very much", "sentence2": questions[1], "score": 0.0},
]
asked = dict(objectives=("similarity",), pairs_file=pairs, quiet=True)
dense, sparse = wt.evaluate(model, **asked), wt.evaluate(ticket, model, **asked)
dense.similarity_pearson, sparse.similarity_pearson

# %% [markdown]
# Use it: `apply_` sets the pruned weights to zero, and the model encodes as always.

# %%
ticket.apply_(model)
found = model.similarity(model.encode(["where is my order"]), model.encode(questions))[0]
sorted(zip(found.tolist(), questions, strict=True), reverse=True)[:3]

# %% [markdown]
# `wt.export` saves a ticket as a sentence-transformers folder, with pooling and normalization;
# [the guide](../how_to/with_other_libraries.md#sentence-transformers) also trains it with `TicketCallback`.
