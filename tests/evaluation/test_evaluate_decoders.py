"""Perplexity, next-token loss, agreement and similarity of decoders, against loops on plain transformers."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from samples.tiny_decoders import make_decoder
from samples.tiny_models import TEXT, make_model
from winning_tickets import EvaluateConfig, Result, Runtime, SearchConfig, evaluate, export, search
from winning_tickets.cli import show
from winning_tickets.runs.errors import UsageError

QUIET = Runtime(quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoders")
    (folder / "text.txt").write_text(" = Title = \n\n" + "\n".join(TEXT[:9]) + "\n")
    make_decoder(folder / "llama", begin=True)
    make_model(folder / "bert")
    file = make_decoder(folder / "short") / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 16}))
    search(SearchConfig(model=str(folder / "llama"), method="magnitude", sparsity=0.5), folder / "ticket", QUIET)
    return folder


def measured(folder, target, *objectives, **settings):
    fields = {"target": str(folder / target), "objectives": objectives, "corpus": str(folder / "text.txt")}
    return evaluate(EvaluateConfig(**fields | settings), QUIET)


@pytest.mark.parametrize("target", ["llama", "ticket"])
@pytest.mark.parametrize(("length", "stride"), [(16, 16), (16, 5), (100, 100), (128, None)])
def test_perplexity_is_that_of_the_usual_loop(folder, target, length, stride):
    model = AutoModelForCausalLM.from_pretrained(folder / "llama").eval()
    if target == "ticket":
        from winning_tickets import Ticket

        Ticket.from_pretrained(folder / "ticket").apply_(model)
    text = (folder / "text.txt").read_text().removesuffix("\n")
    ids = AutoTokenizer.from_pretrained(folder / "llama")(text, return_tensors="pt").input_ids
    assert ids[0, 0] == 1  # the tokenizer begins the text
    # The loop of the transformers documentation: labels of the overlap are -100.
    total, counted, previous = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride or length):
        end = min(begin + length, ids.shape[1])
        window = ids[:, begin:end]
        labels = window.clone()
        labels[:, : -(end - previous)] = -100
        scored = int((labels[:, 1:] != -100).sum())
        if scored:
            with torch.no_grad():
                total += float(model(window, labels=labels).loss) * scored
        counted, previous = counted + scored, end
        if end == ids.shape[1]:
            break
    found = measured(folder, target, "perplexity", max_length=length, stride=stride, batch_tokens=64)
    assert found["perplexity_tokens"] == counted
    assert found["perplexity"] == pytest.approx(math.exp(total / counted), rel=1e-4)
    words = len(text.split())
    assert found["word_perplexity"] == pytest.approx(math.exp(total / counted * ids.shape[1] / words), rel=1e-3)


def test_text_without_spaces_has_no_perplexity_per_word(folder, tmp_path):
    (tmp_path / "text.txt").write_text("catdog" * 500)
    found = measured(folder, "llama", "perplexity", corpus=str(tmp_path / "text.txt"))
    assert found["perplexity"] > 1
    assert found["word_perplexity"] is None
    assert json.loads(json.dumps(found, allow_nan=False))["word_perplexity"] is None
    assert show.evaluation(found).endswith("\n  word_perplexity: too large for a number")
    assert "word_perplexity" not in show.evaluation(measured(folder, "llama", "clm", segments="packed:16"))


def test_the_losses_of_a_ticket_are_measured_against_its_dense_model(folder):
    dense = measured(folder, "llama", "clm", "kd", "logits", "agreement", segments="packed:16")
    assert dense["kd_loss"] == pytest.approx(0, abs=1e-6)
    assert dense["logits_loss"] == pytest.approx(0, abs=1e-6)
    assert dense["greedy_agreement"] == 1.0
    found = measured(folder, "ticket", "clm", "kd", "logits", "agreement", segments="packed:16")
    assert found["logits_loss"] > 0.01
    assert found["kd_loss"] > 0.01
    assert 0 < found["greedy_agreement"] < 1
    alone = measured(folder, "ticket", "clm", segments="packed:16")
    assert alone["clm_loss"] == found["clm_loss"] != dense["clm_loss"]
    assert alone["clm_accuracy"] == found["clm_accuracy"]
    assert found["mlm_loss"] is found["perplexity"] is None
    assert found["tokens_by_objective"]["clm"] == found["tokens_by_objective"]["kd"] * 15 / 16
    json.dumps(found, allow_nan=False)


def test_the_table_of_a_decoder_has_what_was_measured(folder):
    found = Result(measured(folder, "llama", "clm", "perplexity", "agreement", segments="packed:16"), "evaluate")
    row = found.to_frame().loc[0]
    for name in ("clm_loss", "clm_accuracy", "greedy_agreement", "perplexity", "word_perplexity"):
        assert row[name] == found[name]
    assert found.plot().axes[0].get_xticklabels()[0].get_text() == "clm loss"


def test_masked_embeddings_leave_the_output_embeddings_dense(folder, tmp_path):
    make_decoder(tmp_path / "tied", "qwen2")
    config = SearchConfig(model=str(tmp_path / "tied"), method="magnitude", sparsity=0.5, scope="encoder+embeddings")
    search(config, tmp_path / "ticket", QUIET)
    export(tmp_path / "ticket", "masked", tmp_path / "exported")
    found, expected = (
        evaluate(
            EvaluateConfig(
                target=str(tmp_path / name),
                objectives=objectives,
                corpus=str(folder / "text.txt"),
                max_length=32,
                segments="packed:16",
            ),
            QUIET,
        )
        for name, objectives in (("ticket", ("perplexity",)), ("exported", ("perplexity", "clm")))
    )
    assert found["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-5)


def test_texts_of_several_lengths_are_padded_with_the_end_of_text(folder, tmp_path):
    (tmp_path / "pairs.csv").write_text(
        "sentence1,sentence2,score\nthe cat,the dog sat,1\na,rain fell on the roof,3\nbirds,birds,5\n"
    )
    config = EvaluateConfig(
        target=str(folder / "llama"),
        objectives=("similarity",),
        pairs_file=str(tmp_path / "pairs.csv"),
        batch_tokens=512,
    )
    together = evaluate(config, QUIET)
    alone = evaluate(config.model_copy(update={"batch_tokens": 1}), QUIET)
    assert together["similarity_pearson"] == pytest.approx(alone["similarity_pearson"], abs=1e-4)


REFUSED = {
    "an encoder": ("bert", ("perplexity",), {}, "bert is an encoder.*not clm or perplexity"),
    "mlm": ("llama", ("mlm",), {}, "llama is a decoder.*not mlm"),
    "clm": ("bert", ("clm",), {}, "bert is an encoder"),
    "both": ("llama", ("clm", "mlm"), {}, "give one of them"),
    "too long a window": ("llama", ("perplexity",), {"max_length": 129}, "llama reads 2 to 128 tokens"),
    "more than the tokenizer": ("short", ("perplexity",), {"max_length": 17}, "short reads 2 to 16 tokens"),
    "a gap": ("llama", ("perplexity",), {"max_length": 8, "stride": 9}, "--stride is at most --max-length"),
    "no text": ("llama", ("perplexity",), {"corpus": None}, "--objective perplexity needs --corpus"),
    "no split": ("llama", ("clm",), {"corpus": "pydocs", "split": "test"}, "has no test split"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_evaluation_refuses(folder, name):
    target, objectives, settings, message = REFUSED[name]
    config = EvaluateConfig(
        **{"target": str(folder / target), "objectives": objectives, "corpus": str(folder / "text.txt")} | settings
    )
    with pytest.raises(UsageError, match=message):
        evaluate(config, QUIET)


def test_rows_of_the_hub_are_joined_as_is_usual(tmp_path):
    from datasets import Dataset

    from winning_tickets.data.corpora import load_corpus, load_text

    (tmp_path / "wikitext-2-raw-v1").mkdir()
    rows = ["", " = Title = \n", "", " The cat . \n", ""]
    Dataset.from_dict({"text": rows}).to_parquet(str(tmp_path / "wikitext-2-raw-v1" / "test-00000-of-00001.parquet"))
    assert load_text("wikitext-2", "test", tmp_path) == "\n\n".join(rows)
    assert list(load_corpus("wikitext-2", "test", tmp_path).lines) == [" = Title = ", " The cat . "]


def test_tasks_of_the_harness_are_refused_without_it(folder, monkeypatch):
    """With the harness: tests/ecosystem/test_lm_eval.py."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = EvaluateConfig(target=str(folder / "llama"), harness_tasks=("piqa",))
    assert config.objectives == ()
    with pytest.raises(UsageError, match=r"--tasks needs the EleutherAI evaluation harness: pip install"):
        evaluate(config, QUIET)
    with pytest.raises(UsageError, match=r"--limit is about --tasks; name tasks"):
        measured(folder, "llama", "perplexity", limit=3)
