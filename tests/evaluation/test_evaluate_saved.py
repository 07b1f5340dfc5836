"""Saved weights without a ticket: compared with the model they were made from, or the user is asked for it."""

from __future__ import annotations

import importlib.util
import json

import pytest
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner

from samples.tiny_models import TEXT, make_model
from winning_tickets import EvaluateConfig, Runtime, SearchConfig, TransferConfig, evaluate, export, measure, search
from winning_tickets.cli import app, show
from winning_tickets.finetuning.transfer import transfer
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.files import read_json

QUIET = Runtime(quiet=True, device="cpu")
ONNX = importlib.util.find_spec("onnxscript") is not None


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, a ticket, a fine-tuned run with it, and a plain folder with zeros of nobody knows where."""
    folder = tmp_path_factory.mktemp("saved")
    model = str(make_model(folder / "bert", head="none"))
    (folder / "corpus.txt").write_text("\n".join(TEXT * 4))
    (folder / "pairs.csv").write_text(
        "text1,text2,score\n" + "".join(f"{TEXT[i]},{TEXT[i + 1]},{i}.5\n" for i in range(4))
    )
    (folder / "rows.csv").write_text("text,label\n" + "".join(f"{TEXT[i]},{i % 2}\n" for i in range(6)))
    search(SearchConfig(model=model, method="magnitude", sparsity=0.6), folder / "ticket", QUIET)
    rows = str(folder / "rows.csv")
    config = TransferConfig(
        target=str(folder / "ticket"), train_file=rows, validation_file=rows, steps=1, save_model=True
    )
    transfer(config, folder / "run", QUIET)
    export(folder / "ticket", "masked", folder / "masked")
    plain = AutoModel.from_pretrained(folder / "masked")
    plain.save_pretrained(folder / "plain")
    AutoTokenizer.from_pretrained(folder / "bert").save_pretrained(folder / "plain")
    return folder


def kd(place, target, **fields):
    config = EvaluateConfig(target=str(place / target), corpus=str(place / "corpus.txt"), segments="lines", **fields)
    return evaluate(config, QUIET)


def test_an_export_of_a_ticket_is_compared_with_its_base(place):
    expected, found = kd(place, "ticket"), kd(place, "masked")
    assert found["kd_loss"] == pytest.approx(expected["kd_loss"], rel=1e-5) != 0
    assert (found["sparsity"], found["ticket_id"]) == (expected["sparsity"], expected["ticket_id"])
    assert found["base_hash"] == expected["base_hash"]
    assert f"compared with {place / 'bert'}" in show.evaluation(found)


def test_a_fine_tuned_model_knows_the_base_of_its_ticket(place):
    for target in ("run", "run/seed-0", "run/seed-0/model"):
        found = kd(place, target)
        assert found["kd_loss"] > 0
        assert (found["base"], round(found["sparsity"], 2)) == (str(place / "bert"), 0.6)


def test_an_export_of_the_encoder_knows_the_base(place):
    export(place / "run", "encoder", place / "encoder")
    found = kd(place, "encoder")
    assert found["kd_loss"] == pytest.approx(kd(place, "run")["kd_loss"], rel=1e-5)
    assert (found["base"], round(found["sparsity"], 2)) == (str(place / "bert"), 0.6)


def test_a_base_that_nothing_is_compared_with_is_refused(place):
    fields = {"objectives": ("similarity",), "pairs_file": str(place / "pairs.csv"), "base": str(place / "bert")}
    with pytest.raises(UsageError, match="--base names .* which --objective similarity does not read; leave it out"):
        evaluate(EvaluateConfig(target=str(place / "masked"), **fields), QUIET)


def test_zeros_of_unknown_origin_ask_for_the_base(place):
    with pytest.raises(
        UsageError, match=r"plain has 60% zeros in its matrices, and no ticket .* name that with --base"
    ):
        kd(place, "plain")
    found = kd(place, "plain", base=str(place / "bert"))
    assert found["kd_loss"] == pytest.approx(kd(place, "ticket")["kd_loss"], rel=1e-5)
    assert found["sparsity"] == pytest.approx(0.6, abs=0.01)


def test_a_dense_model_says_that_it_is_compared_with_itself(place):
    found = kd(place, "bert")
    assert found["kd_loss"] == pytest.approx(0, abs=1e-6)
    assert (found["base"], found["sparsity"]) == (None, 0.0)
    assert "compared with itself, as it is a dense model" in show.evaluation(found)


def test_a_base_of_another_shape_is_refused(place, tmp_path):
    other = make_model(tmp_path / "small", layers=1) if "layers" in make_model.__code__.co_varnames else None
    if other is None:
        pytest.skip("the tiny models have one depth")
    with pytest.raises(UsageError, match="1 layers and .* cannot be compared"):
        kd(place, "plain", base=str(other))


def test_a_result_is_kept_and_replaced_only_by_force(place, tmp_path):
    fields = {"objectives": ("kd",), "corpus": str(place / "corpus.txt"), "segments": "lines"}
    config = EvaluateConfig(target=str(place / "bert"), **fields)
    kept = evaluate(config, QUIET, out=tmp_path / "kept")
    assert read_json(tmp_path / "kept" / "result.json", "result") == kept
    assert kept.items() >= evaluate(config, QUIET).items()
    with pytest.raises(UsageError, match="holds this evaluation already; --force measures again"):
        evaluate(config, QUIET, out=tmp_path / "kept")
    again = EvaluateConfig(target=str(place / "bert"), max_tokens=40, **fields)
    with pytest.raises(UsageError, match="holds another run"):
        evaluate(again, QUIET, out=tmp_path / "kept")
    assert evaluate(again, QUIET, out=tmp_path / "kept", force=True)["tokens"] < kept["tokens"]
    listed = CliRunner().invoke(app, ["runs", str(tmp_path), "--json"]).stdout
    assert [(run["verb"], run["status"]) for run in json.loads(listed)["runs"]] == [("evaluate", "done")]


@pytest.mark.parametrize("format_", ["compact", *(["onnx"] if ONNX else [])])
def test_structured_exports(place, tmp_path, format_):
    config = SearchConfig(model=str(place / "bert"), method="importance", selection="random", prune_heads=(2,))
    search(config, tmp_path / "heads", QUIET)
    export(tmp_path / "heads", format_, tmp_path / "out")
    pairs = {"objectives": ("similarity",), "pairs_file": str(place / "pairs.csv")}
    one, other = (evaluate(EvaluateConfig(target=str(tmp_path / name), **pairs), QUIET) for name in ("heads", "out"))
    assert one["similarity_pearson"] == pytest.approx(other["similarity_pearson"], abs=1e-4)
    assert other["base"] == str(place / "bert")
    fields = {"corpus": str(place / "corpus.txt"), "segments": "lines"}
    losses = EvaluateConfig(target=str(tmp_path / "out"), **fields)
    if format_ == "compact":
        dense = evaluate(EvaluateConfig(target=str(tmp_path / "heads"), **fields), QUIET)
        assert evaluate(losses, QUIET)["kd_loss"] == pytest.approx(dense["kd_loss"], rel=1e-4)
    else:
        with pytest.raises(UsageError, match="is an ONNX export, of which --objective similarity"):
            evaluate(losses, QUIET)
    result = measure(str(tmp_path / "out"), (1,), (8,), repeats=2, threads=1, runtime=QUIET)
    assert result["kind"] == ("model" if format_ == "compact" else "onnx")
    assert result["shapes"][0]["speedup"]["median"] > 0
    assert result["bytes_on_disk"] > 0
    assert "times as fast" in show.measurement(result)
