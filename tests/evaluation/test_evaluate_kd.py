"""KD loss as the paper defines it and as the released program reports it, against naive loops over the models."""

import sys

import numpy as np
import pytest
import torch
from transformers import AutoModel

from samples import tiny_models
from samples.batches import plain
from samples.tiny_models import CONFIGS, TEXT
from winning_tickets import EvaluateConfig, Runtime, SearchConfig, Ticket, evaluate, search
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.data.corpora import load_corpus
from winning_tickets.data.token_cache import tokenize
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.errors import UsageError

QUIET = Runtime(quiet=True)
ARTICLES = "\n".join(
    line
    for i in range(5)
    for line in (f" = title {i} = ", " ".join(TEXT[:3]), TEXT[i], " = = more = = ", " ".join(TEXT[:2]))
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model of every architecture, a magnitude ticket of it, and a corpus with sections."""
    root = tmp_path_factory.mktemp("evaluate")
    (root / "articles.txt").write_text(ARTICLES)
    tickets = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "TEXT", [ARTICLES])
        for kind in CONFIGS:
            tickets[kind] = str(root / f"{kind}-ticket")
            model = str(tiny_models.make_model(root / kind, kind))
            search(SearchConfig(model=model, method="magnitude", sparsity=0.6), tickets[kind], QUIET)
    return tickets, str(root / "articles.txt")


def naive(ticket, corpus, error, counted, masked_tokens):
    """Every row alone through two models; the mean over layers, then over positions."""
    found = Ticket.from_pretrained(ticket)
    teacher = AutoModel.from_pretrained(found.base.name).eval()
    student = found.apply_(AutoModel.from_pretrained(found.base.name)).eval()
    tokenizer = load_plm(found.base.name).tokenizer
    batches = CorpusBatches(
        tokenize(load_corpus(corpus, "validation"), tokenizer),
        tokenizer,
        segments="sections:40",
        batch_tokens=120,
        n_batches=None,
        seed=42,
        shuffle=False,
        mlm_probability=None,
        masked_tokens=masked_tokens,
    )
    total, count, second, padding = 0.0, 0, 0, 0
    for index in range(len(batches)):
        batch = plain(batches[index])
        types = batch.pop("token_type_ids")
        second += int(types.sum())
        padding += int((batch["attention_mask"] == 0).sum())
        if getattr(teacher.config, "type_vocab_size", 0) > 1:
            batch["token_type_ids"] = types
        with torch.no_grad():
            ours, theirs = (m(**batch, output_hidden_states=True).hidden_states[1:] for m in (student, teacher))
        for row in range(len(types)):
            for position in range(types.shape[1]):
                if not counted and not batch["attention_mask"][row, position]:
                    continue
                count += 1
                pairs = [(a[row, position], b[row, position]) for a, b in zip(ours, theirs, strict=True)]
                if error == "mse":
                    total += sum(float((a - b).square().mean()) for a, b in pairs) / len(pairs)
                else:
                    total += sum(float(1 - torch.cosine_similarity(a, b, dim=0)) for a, b in pairs) / len(pairs)
    assert second > 0
    assert padding > 0
    return total / count, count


@pytest.mark.parametrize(
    ("kind", "error", "counted", "masked_tokens"),
    [
        ("bert", "cosine", False, 0),
        ("bert", "mse", False, 0),
        ("bert", "cosine", True, 0),
        ("bert", "mse", True, 1),  # what the released program reports
        ("roberta", "mse", True, 1),
        ("distilbert", "cosine", False, 0),
        ("electra", "mse", False, 0),
    ],
)
def test_kd_loss(made, kind, error, counted, masked_tokens):
    tickets, corpus = made
    config = EvaluateConfig(
        target=tickets[kind],
        corpus=corpus,
        segments="sections:40",
        batch_tokens=120,
        kd_loss=error,
        kd_padding="counted" if counted else "ignored",
        kd_masked_tokens=masked_tokens,
    )
    result = evaluate(config, QUIET)
    expected, count = naive(tickets[kind], corpus, error, counted, masked_tokens)
    assert result["kd_loss"] == pytest.approx(expected, rel=1e-4)
    assert result["tokens"] == count
    assert (result["kd_distance"], result["kd_padding"], result["kd_masked_tokens"]) == (
        error,
        "counted" if counted else "ignored",
        masked_tokens,
    )


def test_each_choice_changes_the_number(made):
    tickets, corpus = made
    choices = ({}, {"kd_loss": "mse"}, {"kd_padding": "counted"}, {"kd_masked_tokens": 1})
    losses = [
        evaluate(EvaluateConfig(target=tickets["bert"], corpus=corpus, segments="sections:40", **choice), QUIET)[
            "kd_loss"
        ]
        for choice in choices
    ]
    assert len({round(loss, 6) for loss in losses}) == 4


def test_two_ways_to_corrupt_the_text_are_refused_together(made):
    tickets, corpus = made
    config = EvaluateConfig(target=tickets["bert"], corpus=corpus, objectives=("kd", "mlm"), kd_masked_tokens=1)
    with pytest.raises(UsageError, match="cannot be used with --objective mlm or logits; measure them apart"):
        evaluate(config, QUIET)
    with pytest.raises(UsageError, match="--kd-masked-tokens -1 is impossible; it must be at least 0"):
        EvaluateConfig.of(target="m", kd_masked_tokens=-1)


def test_nothing_is_said_of_kd_where_it_is_not_measured(made):
    tickets, corpus = made
    result = evaluate(EvaluateConfig(target=tickets["bert"], corpus=corpus, objectives=("mlm",)), QUIET)
    assert (result["kd_distance"], result["kd_padding"], result["kd_masked_tokens"]) == (None, None, None)


def test_cosines_that_differ_by_rounding_only_are_constant(tmp_path, monkeypatch):
    module = sys.modules["winning_tickets.evaluation.evaluate"]
    # So many pairs that some cosines round differently on every CPU.
    first = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    sides = iter((first, first * 0.3))  # every cosine is 1, but for its last bits
    monkeypatch.setattr(module, "embed", lambda *_, **__: next(sides))
    rows = [f"a {i},b {i},{i}" for i in range(64)]
    (tmp_path / "pairs.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]))
    config = EvaluateConfig(target="m", objectives=("similarity",), pairs_file=str(tmp_path / "pairs.csv"))
    assert 0 < np.ptp(torch.cosine_similarity(first, first * 0.3).numpy()) < 1e-6
    found = module.similarity(config, None, torch.device("cpu"), QUIET)
    assert (found["similarity_pearson"], found["similarity_spearman"], found["pairs"]) == (0.0, 0.0, 64)
