"""ONNX exports compute what PyTorch computes, for other batches and lengths than those they were made with."""

import functools
import importlib
import shutil

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from samples.structured_tickets import structured_ticket
from samples.tiny_models import CONFIGS, TEXT, make_model
from winning_tickets import Runtime, SearchConfig, export, measure, search
from winning_tickets.runs.errors import ContentError, UsageError

QUIET = Runtime(quiet=True)
onnx_export = importlib.import_module("winning_tickets.deploy.onnx")


@pytest.fixture
def runtime():
    """onnxruntime, with which a file is run; the warnings are the exporter's own."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    return pytest.importorskip("onnxruntime")


def outputs(runtime, folder, texts, length=None):
    """By name: what onnxruntime makes of texts, and how they were given."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding="max_length" if length else True, max_length=length, truncation=True)
    session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    inputs = {i.name: torch.tensor(batch.get(i.name, batch["attention_mask"])) for i in session.get_inputs()}
    if "token_type_ids" in inputs and "token_type_ids" not in batch:
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {name: value.numpy() for name, value in inputs.items()})
    return dict(zip(names, map(torch.from_numpy, found), strict=True)), inputs


def assert_same(runtime, folder, model):
    for texts, length in ((TEXT[:1], None), (TEXT[:3], None), (TEXT[:1], 40), (TEXT[:3], 40)):
        found, inputs = outputs(runtime, folder, texts, length)
        with torch.no_grad():
            expected = model.eval()(**inputs)
        real = inputs["attention_mask"].bool()
        for name, value in found.items():
            same = (value[real], expected[name][real]) if value.dim() == 3 else (value, expected[name])
            torch.testing.assert_close(*same, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def magnitude(tmp_path_factory):
    """A model by kind, made once: its folder, a ticket of single weights, its folder, and the latter's export."""

    @functools.cache
    def made(kind):
        folder = tmp_path_factory.mktemp(kind)
        model = make_model(folder / "m", kind, head="none")
        ticket = search(SearchConfig(model=str(model), method="magnitude"), folder / "t", QUIET)
        return model, ticket, folder / "e", export(folder / "t", "onnx", folder / "e")

    return made


@pytest.mark.parametrize(
    "kind", [kind if kind == "bert" else pytest.param(kind, marks=pytest.mark.slow) for kind in CONFIGS]
)
def test_every_architecture_runs_without_pytorch(runtime, magnitude, kind):
    model, ticket, folder, result = magnitude(kind)
    assert 0 < result["largest_difference"] < 1e-5
    assert result["bytes"] == (folder / "model.onnx").stat().st_size
    assert result["inputs"][:2] == ["input_ids", "attention_mask"]
    session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [value.shape for value in session.get_inputs()] == [["batch", "length"]] * len(result["inputs"])
    assert_same(runtime, folder, ticket.apply_(AutoModel.from_pretrained(model)))


def test_a_structured_ticket_becomes_smaller(tmp_path, runtime, magnitude):
    model, _, _, unstructured = magnitude("bert")
    ticket = structured_ticket(model, tmp_path / "t")
    result = export(tmp_path / "t", "onnx", tmp_path / "e")
    assert result["bytes"] < 0.9 * unstructured["bytes"]
    assert_same(runtime, tmp_path / "e", ticket.apply_(AutoModel.from_pretrained(model)))


@pytest.fixture
def nothing_traced(monkeypatch):
    """The exporter of PyTorch, which takes seconds, writes a word instead of the model; nothing can run it."""
    monkeypatch.setattr(onnx_export, "_export", lambda model, example, file: file.write_text("no model"))
    monkeypatch.setattr(onnx_export, "_largest_difference", lambda *args: 0.0)


def test_a_random_pooler_is_no_output(tmp_path, runtime, nothing_traced):
    model = make_model(tmp_path / "m", head="mlm")
    search(SearchConfig(model=str(model), method="magnitude"), tmp_path / "t", QUIET)
    result = export(tmp_path / "t", "onnx", tmp_path / "e")
    assert result["outputs"] == ["last_hidden_state"]
    assert "computes in float32, to which" not in result["note"]
    AutoModel.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(model)
    short = export(tmp_path / "t", "onnx", tmp_path / "f", allow_other_weights=True)
    assert "The file computes in float32, to which weights of a shorter type were converted." in short["note"]
    assert (short["dtype"], short["checkpoint"]["dtype"]) == ("float32", "bfloat16")


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, runtime, nothing_traced, monkeypatch):
    model = make_model(tmp_path / "m", head="none")
    search(SearchConfig(model=str(model), method="magnitude"), tmp_path / "t", QUIET)
    monkeypatch.setattr(onnx_export, "_largest_difference", lambda *args: float("nan"))
    with pytest.raises(ContentError, match="onnxruntime and PyTorch differ by nan .* at most 1e-04 .* nothing was"):
        export(tmp_path / "t", "onnx", tmp_path / "e")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "t"]


def test_the_reason_why_a_model_cannot_be_written_is_told(tmp_path, runtime, magnitude, monkeypatch):
    def fail(*_, **__):
        raise torch.onnx.errors.OnnxExporterError("Failed to export.\nNext steps:") from ValueError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(
        ContentError, match=r"could not write this model as ONNX \(no such operator\); use --format mask"
    ):
        export(magnitude("bert")[1], "onnx", tmp_path / "e")


def test_the_extra_is_asked_for_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "NEEDED", ("json", "no_such_runtime"))
    with pytest.raises(UsageError, match=r"needs no_such_runtime: pip install '.*\[onnx\]'"):
        export(tmp_path / "nothing", "onnx", tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("wrong", ["other outputs", "no file"])
def test_an_int8_file_that_is_no_good_is_not_kept(tmp_path, runtime, magnitude, monkeypatch, wrong):
    """The float file is traced once for all tests of this model; only the quantizer is another."""
    folder, onnx = magnitude("bert")[2], importlib.import_module("onnx")

    def quantize_dynamic(whole, file, **_):
        if wrong == "no file":
            raise ValueError("cannot\nat all")
        model = onnx.load(whole)
        for one in model.graph.initializer:
            if len(one.dims) == 2 and one.data_type == onnx.TensorProto.FLOAT:
                one.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(one), one.name))
        onnx.save(model, file)

    shutil.copytree(folder, tmp_path / "e")
    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", quantize_dynamic)
    message = r"could not quantize my model \(cannot\); use the format onnx"
    if wrong == "other outputs":
        message = r"outputs of my model with int8 weights differ .* by \d+%.*, at most 50% is allowed; nothing"
    with pytest.raises(ContentError, match=message):
        onnx_export.write_int8(tmp_path / "e", "my model")


@pytest.mark.slow
def test_int8_is_smaller_close_and_measured(tmp_path, runtime, magnitude):
    _, _, _, whole = magnitude("bert")
    model = make_model(tmp_path / "m", head="none")
    ticket = structured_ticket(model, tmp_path / "t")
    result = export(tmp_path / "t", "onnx-int8", tmp_path / "e")
    assert result["largest_difference"] < 1e-5, "of the float model"
    assert result["bytes"] < result["int8"]["float_bytes"] < whole["bytes"]
    cosine = result["int8"]["cosine"]
    assert 0.98 < cosine["lowest"] <= cosine["mean"] < 1 - 1e-7
    found, inputs = outputs(runtime, tmp_path / "e", TEXT[:3])
    with torch.no_grad():
        expected = ticket.apply_(AutoModel.from_pretrained(model)).eval()(**inputs).last_hidden_state
    real = inputs["attention_mask"].bool()
    cosines = torch.nn.functional.cosine_similarity(found["last_hidden_state"][real], expected[real], dim=-1)
    assert cosines.min() > 0.98
    measured = measure(str(tmp_path / "e"), (1,), (8,), repeats=1, runtime=QUIET)
    assert measured["int8"] == result["int8"]
    assert measured["bytes_on_disk"] == result["bytes"]
    assert sorted(path.name for path in (tmp_path / "e").glob("*.onnx*")) == ["model.onnx"]
