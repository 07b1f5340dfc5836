"""Tickets of sentence-transformers: search, training with its Trainer and evaluators, exports with all modules."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import winning_tickets as wt
from samples.sentence_models import make_sentence_transformer
from samples.structured_tickets import structured_ticket
from samples.tickets import QUERY
from samples.tiny_models import TEXT, make_model
from winning_tickets import (
    Runtime,
    SearchConfig,
    Ticket,
    TicketCallback,
    TransferConfig,
    export,
    hold,
    search,
    transfer,
)
from winning_tickets.models.loading import resolve_model

QUIET = Runtime(quiet=True)


@pytest.fixture
def st(library):
    return library("sentence_transformers")


@pytest.fixture
def found(sentence_model, tmp_path):
    """The folder of a sentence-transformer, and a ticket of it."""
    ticket = search(SearchConfig(model=str(sentence_model), method="magnitude", sparsity=0.6), tmp_path / "t", QUIET)
    return sentence_model, ticket


@pytest.fixture
def pairs(st):
    from datasets import Dataset

    scores = [(index * 7 % 10) / 10 for index in range(12)]
    return Dataset.from_dict({"sentence1": TEXT[:12], "sentence2": TEXT[1:13], "score": scores})


def test_a_search_reads_its_folder(sentence_model, tmp_path, st):
    (tmp_path / "text.txt").write_text("\n".join(TEXT), encoding="utf-8")
    config = SearchConfig(
        model=str(sentence_model), corpus=str(tmp_path / "text.txt"), steps=2, batch_tokens=128, sparsity=0.5
    )
    ticket = search(config, tmp_path / "t", QUIET)
    model = ticket.apply_(st.SentenceTransformer(str(sentence_model)))
    assert ticket.is_applied_to(model)
    dense = st.SentenceTransformer(str(sentence_model)).encode(TEXT[:4])
    pruned = model.encode(TEXT[:4])
    assert not np.allclose(dense, pruned)
    assert 0 < (dense * pruned).sum(1).min() < 1, "embeddings have length 1"


def test_its_trainer_and_evaluators(found, pairs, st, tmp_path):
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    folder, ticket = found
    model = st.SentenceTransformer(str(folder))
    before = model[0].auto_model.get_parameter(QUERY).detach().clone()
    evaluator = EmbeddingSimilarityEvaluator(pairs["sentence1"], pairs["sentence2"], pairs["score"], name="dev")
    settings = st.SentenceTransformerTrainingArguments(
        str(tmp_path / "out"),
        max_steps=4,
        eval_steps=2,
        eval_strategy="steps",
        learning_rate=1e-2,
        weight_decay=0.1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
    )
    trainer = st.SentenceTransformerTrainer(
        model,
        settings,
        train_dataset=pairs,
        eval_dataset=pairs,
        loss=st.sentence_transformer.losses.CosineSimilarityLoss(model),
        evaluator=evaluator,
        callbacks=[TicketCallback(ticket)],
    )
    assert ticket.is_applied_to(model), "before the training, so that an evaluation measures the ticket"
    ticketed = evaluator(model)["dev_pearson_cosine"]
    assert ticketed != evaluator(st.SentenceTransformer(str(folder)))["dev_pearson_cosine"]
    trainer.train()
    scores = [entry["eval_dev_pearson_cosine"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(scores) == 2
    assert scores[-1] > ticketed, "it learns under the ticket"
    assert ticket.is_applied_to(model)
    kept = ticket.masks[QUERY]
    assert not torch.equal(model[0].auto_model.get_parameter(QUERY).detach()[kept], before[kept])
    model.save(str(tmp_path / "saved"))
    assert ticket.is_applied_to(st.SentenceTransformer(str(tmp_path / "saved")))


def test_a_loop_of_ones_own_around_its_encoder(found, st):
    folder, ticket = found
    model = st.SentenceTransformer(str(folder), device="cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    held = hold(model, ticket, optimizer)
    for _ in range(2):
        features = model.preprocess(TEXT[:4]) if hasattr(model, "preprocess") else model.tokenize(TEXT[:4])
        model(features)["sentence_embedding"].square()[:, 0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    held.remove()
    assert ticket.is_applied_to(model)


def test_a_transfer_of_its_ticket(found, tmp_path):
    rows = "".join(f"{text},{index % 2}\n" for index, text in enumerate(TEXT[:8]))
    (tmp_path / "train.csv").write_text("sentence,label\n" + rows, encoding="utf-8")
    config = TransferConfig(
        target=str(tmp_path / "t"),
        train_file=str(tmp_path / "train.csv"),
        validation_file=str(tmp_path / "train.csv"),
        steps=2,
    )
    result = transfer(config, tmp_path / "run", QUIET)
    assert 0 <= result["metrics"]["accuracy"]["final"]["mean"] <= 1


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet"])
@pytest.mark.parametrize("form", ["masked", "compact"])
def test_exports_have_all_modules(st, tmp_path, form, kind):
    folder = make_sentence_transformer(tmp_path / "st", kind)
    ticket = structured_ticket(folder, tmp_path / "t")
    export(tmp_path / "t", form, tmp_path / "e")
    expected = ticket.apply_(st.SentenceTransformer(str(folder)))
    loaded = st.SentenceTransformer(str(tmp_path / "e"), trust_remote_code=form == "compact")
    assert [type(one).__name__ for one in loaded] == ["Transformer", "Pooling", "Normalize"]
    assert loaded.max_seq_length == expected.max_seq_length == 24
    found = loaded.encode([*TEXT[:3], " ".join(TEXT)])  # the last is longer than the maximum
    np.testing.assert_allclose(found, expected.encode([*TEXT[:3], " ".join(TEXT)]), atol=1e-5)
    np.testing.assert_allclose((found**2).sum(1), 1, rtol=1e-5)
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (loaded, expected)]
    assert (sizes[0] < sizes[1]) == (form == "compact")


def test_a_model_in_memory_is_exported_with_its_modules(st, tmp_path):
    model = st.SentenceTransformer(str(make_sentence_transformer(tmp_path / "st", "bert")))
    model[0].auto_model.name_or_path = ""  # as if it had been built in memory
    before = model.encode(TEXT[:3])
    ticket = wt.search(model, method="magnitude", sparsity=0.5)
    wt.export(ticket, "masked", tmp_path / "e", base=model)
    loaded = st.SentenceTransformer(str(tmp_path / "e"))
    assert [type(one).__name__ for one in loaded] == ["Transformer", "Pooling", "Normalize"]
    np.testing.assert_array_equal(model.encode(TEXT[:3]), before)
    np.testing.assert_allclose(loaded.encode(TEXT[:3]), ticket.apply_(model).encode(TEXT[:3]), atol=1e-5)


ENCODE = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], backend="onnx", model_kwargs={"provider": "CPUExecutionProvider"})
texts = json.loads(sys.argv[2])
names = [type(module).__name__ for module in model]
print("RESULT" + json.dumps([type(model[0].auto_model).__name__, names, model.encode(texts).tolist()]))
"""


@pytest.mark.parametrize("structured", [False, True])
def test_the_onnx_export_is_a_backend(tmp_path, st, library, structured):
    """Optimum, which reads it, needs transformers 4, so it runs in an environment of its own (make test-ecosystem)."""
    library("onnxruntime")
    library("onnxscript")
    # A tokenizer of a class that transformers 4 knows.
    folder = resolve_model("builtin:minilm")
    if structured:
        config = SearchConfig(
            model=folder, layers=1, method="importance", prune_heads=(6,), prune_ffns=(0,), corpus="pydocs", steps=1
        )
    else:
        config = SearchConfig(model=folder, layers=1, method="magnitude", sparsity=0.6)
    ticket = search(config, tmp_path / "t", QUIET)
    export(tmp_path / "t", "onnx", tmp_path / "onnx")
    names = {one.name for one in (tmp_path / "onnx").iterdir()}
    assert {"model.onnx", "modules.json", "1_Pooling"} <= names
    export(tmp_path / "t", "masked", tmp_path / "masked")
    expected = st.SentenceTransformer(str(tmp_path / "masked"), device="cpu").encode(TEXT[:5])
    assert ticket.pruned > 0
    python = os.environ.get("OPTIMUM_PYTHON")
    if not python or not Path(python).exists():
        pytest.skip("OPTIMUM_PYTHON names no Python with sentence-transformers 5 and optimum-onnx; make test-ecosystem")
    outcome = subprocess.run(
        [python, "-c", ENCODE, tmp_path / "onnx", json.dumps(TEXT[:5])],
        capture_output=True,
        text=True,
        timeout=200,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert "RESULT" in outcome.stdout, outcome.stderr[-2000:]
    runner, modules, found_there = json.loads(outcome.stdout.partition("RESULT")[2])
    assert runner == "ORTModelForFeatureExtraction"
    assert modules == [type(one).__name__ for one in st.SentenceTransformer(str(tmp_path / "masked"), device="cpu")]
    np.testing.assert_allclose(found_there, expected, atol=1e-4)


def test_a_cross_encoder(st, tmp_path):
    from sentence_transformers import CrossEncoder

    folder = make_model(tmp_path / "m", head="none")
    ticket = search(SearchConfig(model=str(folder), method="magnitude"), tmp_path / "t", QUIET)
    model = CrossEncoder(str(folder), num_labels=1, device="cpu")
    dense = model.predict([TEXT[:2]])
    Ticket.from_pretrained(tmp_path / "t").apply_(model)
    assert ticket.is_applied_to(model)
    assert not np.allclose(model.predict([TEXT[:2]]), dense)
