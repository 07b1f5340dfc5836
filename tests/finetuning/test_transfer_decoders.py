"""Fine-tuning of decoders with a ticket held: on text, and on labels through the last token; what is refused."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from samples.tiny_decoders import DECODERS, byte_tokenizer, make_decoder
from samples.tiny_models import TEXT
from winning_tickets import (
    EvaluateConfig,
    Runtime,
    SearchConfig,
    ShareConfig,
    TransferConfig,
    evaluate,
    export,
    measure,
    predict,
    search,
    share,
    transfer,
)
from winning_tickets.config import Smart
from winning_tickets.models.architectures import prunable_views
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.errors import UsageError

QUIET = Runtime(quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoders")
    (folder / "text.txt").write_text("\n".join(TEXT))
    rows = [f"{'warm' if index % 2 else 'cold'} {'and wet ' * (index % 3)}day,{index % 2}" for index in range(16)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return folder


def ticketed(folder, kind):
    """A tiny decoder of a family and a ticket of it."""
    if not (folder / f"{kind}-ticket").exists():
        make_decoder(folder / kind, kind)
        config = SearchConfig(model=str(folder / kind), method="magnitude", sparsity=0.5)
        search(config, folder / f"{kind}-ticket", QUIET)
    return folder / f"{kind}-ticket"


def on_labels(folder, target, **settings):
    files = {"train_file": str(folder / "rows.csv"), "validation_file": str(folder / "rows.csv")}
    return TransferConfig(target=str(target), batch_size=4, steps=3, **files, **settings)


@pytest.mark.parametrize("kind", DECODERS)
def test_labels_with_a_ticket_held_exported_and_loaded(folder, tmp_path, kind):
    ticket = ticketed(folder, kind)
    result = transfer(on_labels(folder, ticket, save_model=True, learning_rate=1e-3), tmp_path / "run", QUIET)
    assert result["metrics"]["accuracy"]["final"]["values"]
    export(tmp_path / "run", "masked", tmp_path / "e")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "e").eval()
    names = list(json.loads((ticket / "ticket.json").read_text())["shapes"])
    zeros = sum(int((view == 0).sum()) for view in prunable_views(model.base_model, names).values())
    assert zeros == pytest.approx(0.5 * sum(view.numel() for view in prunable_views(model.base_model, names).values()))
    # A padded batch gives what each text gives alone: the head reads the last token that is no padding.
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "e")
    texts = ["warm day", "cold and wet and wet day"]
    with torch.no_grad():
        together = model(**tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")).logits
        alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    assert torch.allclose(together, alone, atol=1e-4)
    found = predict(tmp_path / "run", [(text,) for text in texts], runtime=QUIET)["predictions"]
    assert [one["label"] for one in found] == [str(int(label)) for label in alone.argmax(-1)]


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_text_with_a_ticket_held(folder, tmp_path, kind):
    ticket, corpus = ticketed(folder, kind), str(folder / "text.txt")
    settings = {"task": "clm", "corpus": corpus, "max_length": 16, "batch_size": 4, "steps": 12, "learning_rate": 3e-3}
    config = TransferConfig(target=str(ticket), save_model=True, **settings)
    result = transfer(config, tmp_path / "run", QUIET)
    metrics = result["metrics"]
    model = str(tmp_path / "run" / "seed-0" / "model")
    asked = EvaluateConfig(target=model, objectives=("clm",), corpus=corpus, segments="packed:16")
    after = evaluate(asked, QUIET)
    assert metrics["clm_loss"]["final"]["values"] == [after["clm_loss"]]
    assert metrics["accuracy"]["final"]["values"] == [after["clm_accuracy"]]
    before = evaluate(asked.model_copy(update={"target": str(ticket)}), QUIET)
    assert after["clm_loss"] < before["clm_loss"]
    plm = load_plm(model, head="clm")
    names = list(json.loads((ticket / "ticket.json").read_text())["shapes"])
    assert all(float((view == 0).float().mean()) == 0.5 for view in prunable_views(plm.encoder, names).values())
    AutoModelForCausalLM.from_pretrained(model).generate(torch.tensor([[5, 6]]), max_new_tokens=2, pad_token_id=0)
    # A ticket whose word embeddings are masked leaves the output embeddings dense.
    config = SearchConfig(model=str(folder / kind), method="magnitude", sparsity=0.5, scope="encoder+embeddings")
    search(config, tmp_path / "all", QUIET)
    transfer(TransferConfig(target=str(tmp_path / "all"), save_model=True, **settings), tmp_path / "more", QUIET)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "more" / "seed-0" / "model")
    dense = AutoModelForCausalLM.from_pretrained(folder / kind)
    assert torch.equal(model.get_output_embeddings().weight, dense.get_output_embeddings().weight)
    assert float((model.get_input_embeddings().weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)


def test_sizes_and_speed_are_measured(folder):
    found = measure(str(ticketed(folder, "gpt2")), (1,), (8,), repeats=1, runtime=QUIET)
    assert found["parameters"]["encoder"] > found["parameters"]["non_zero"]


def test_what_is_refused(folder, tmp_path):
    ticketed(folder, "gpt2")
    gpt2 = str(folder / "gpt2")
    with pytest.raises(
        UsageError, match="Tickets are shared by encoders, and .*gpt2 is a decoder; fine-tune it on each"
    ):
        share(ShareConfig(model=gpt2, tasks=("pydocs", "pydocs2")[:1], tickets={}, steps=1), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match="--smart is for encoders, and .*gpt2 is a decoder; leave it out"):
        transfer(on_labels(folder, gpt2, smart=Smart()), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match="gpt2 is a decoder.*not mlm"):
        transfer(TransferConfig(target=gpt2, task="mlm", corpus=str(folder / "text.txt")), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match="--format onnx (is for encoders|needs)"):
        export(folder / "gpt2-ticket", "onnx", tmp_path / "out")
    make_decoder(folder / "bare")
    byte_tokenizer(end=False).save_pretrained(folder / "bare")
    with pytest.raises(UsageError, match="bare has neither a padding nor an end-of-text token"):
        transfer(on_labels(folder, folder / "bare"), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()
