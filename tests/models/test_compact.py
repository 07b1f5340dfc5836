"""Compact exports: smaller matrices that compute what the masked model computes, reloaded in every way."""

import copy
import importlib
import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
)

from samples.structured_tickets import gates_of, structured_ticket, tiny
from samples.tiny_models import CONFIGS, TEXT, make_model
from winning_tickets import (
    EvaluateConfig,
    Runtime,
    SearchConfig,
    Ticket,
    TransferConfig,
    evaluate,
    export,
    predict,
    search,
    transfer,
)
from winning_tickets.models.architectures import ARCHITECTURES, split_name
from winning_tickets.models.compact import compact_, load_compact
from winning_tickets.models.loading import load_plm
from winning_tickets.models.modeling_compact import COMPACT, WAYS_OUT
from winning_tickets.models.structure import gated, structure_of
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo

QUIET = Runtime(quiet=True)
UNEVEN = [kind for kind in CONFIGS if not ARCHITECTURES[kind].shared_layers]
IDS = torch.arange(5, 25).view(2, 10)
PADDED = torch.tensor([[1] * 10, [1] * 7 + [0] * 3])


def parts(model):
    """The two projections that gates sit at, for each layer: of the context, and out of the FFN."""
    encoder = model.base_model
    matrices = ARCHITECTURES[model.config.model_type].layer_matrices(encoder)
    return [
        [encoder.get_submodule(split_name(layer[role][0]).parameter.removesuffix(".weight")) for role in ("AO", "FO")]
        for layer in matrices
    ]


def with_gates(model, gates):
    """The oracle: the full model, contexts, neurons and FFN outputs multiplied by 0 where a gate is closed."""
    model = copy.deepcopy(model)
    for index, (output, second) in enumerate(parts(model)):
        width = output.in_features // 4
        layer = gates.get(f"layers.{index}.layer", torch.tensor([True]))
        heads = gates.get(f"layers.{index}.heads", torch.ones(4, dtype=torch.bool)) & layer
        neurons = gates.get(f"layers.{index}.neurons", torch.ones(second.in_features, dtype=torch.bool))
        context = heads.repeat_interleave(width)
        output.register_forward_pre_hook(lambda m, args, g=context: (args[0] * g,))
        second.register_forward_pre_hook(lambda m, args, g=neurons: (args[0] * g,))
        second.register_forward_hook(lambda m, args, out, g=layer: out * g)
    return model


def zeroed(model, gates):
    """The same in weights: rows of the values, columns of the neurons, the whole of an FFN."""
    model = copy.deepcopy(model)
    encoder = model.base_model
    matrices = ARCHITECTURES[model.config.model_type].layer_matrices(encoder)
    for index, ((output, second), layer) in enumerate(zip(parts(model), matrices, strict=True)):
        whole = gates.get(f"layers.{index}.layer", torch.tensor([True]))
        heads = gates.get(f"layers.{index}.heads", torch.ones(4, dtype=torch.bool)) & whole
        neurons = gates.get(f"layers.{index}.neurons", torch.ones(second.in_features, dtype=torch.bool)) & whole
        rows = heads.repeat_interleave(output.in_features // 4)
        part = split_name(layer["V"][0])
        for name in (part.parameter, part.parameter.replace("weight", "bias")):
            if name in dict(encoder.named_parameters()):
                part.of(encoder.get_parameter(name).detach())[~rows] = 0
        second.weight.detach()[:, ~neurons] = 0
        if not whole and second.bias is not None:
            second.bias.detach().zero_()
    return model


@torch.no_grad()
def everything(model, **inputs):
    out = model.eval()(IDS, attention_mask=PADDED, output_hidden_states=True, **inputs)
    return {key: value for key, value in out.items() if value is not None}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        for one, other in zip(*((v if isinstance(v, tuple) else (v,)) for v in (found[key], value)), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", UNEVEN)
@pytest.mark.parametrize("loader", [AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification])
def test_gates_are_cut_out_for_real(kind, loader):
    model = tiny(kind, loader)
    gates = gates_of(model)
    expected = everything(with_gates(model, gates))
    before, has_bias = sum(p.numel() for p in model.parameters()), parts(model)[0][1].bias is not None
    compact = compact_(model, gates)
    assert_same(everything(model), expected)
    neurons = int(gates["layers.0.neurons"].sum())
    assert [(layer["heads"], layer["neurons"]) for layer in compact["layers"]] == [
        ([1, 3], neurons),
        ([], 0),
        ([0, 1, 2, 3], 0),
    ]
    assert [layer["ffn"] for layer in compact["layers"]] == [True, False, has_bias]
    hidden, width, factor = 32, len(gates["layers.0.neurons"]), 3 if kind == "modernbert" else 2
    gone = before - sum(p.numel() for p in model.parameters())
    assert gone >= 6 * 4 * 8 * hidden + (3 * width - neurons) * factor * hidden


@pytest.mark.parametrize("kind", UNEVEN)
def test_zeros_that_contribute_nothing_are_cut_out(kind):
    model = tiny(kind)
    gates = gates_of(model)
    masked = zeroed(model, gates)
    expected = everything(masked)
    assert_same(expected, everything(with_gates(model, gates)))
    compact = compact_(masked)
    has_bias = parts(model)[0][1].bias is not None
    assert [len(layer["heads"]) for layer in compact["layers"]] == [2, 0, 4]
    assert [layer["ffn"] for layer in compact["layers"]] == [True, False, has_bias]
    assert_same(everything(masked), expected)
    assert compact["layers"] == masked.config.winning_tickets_compact["layers"]


@pytest.mark.parametrize("kind", UNEVEN)
def test_attention_maps_of_the_heads_that_are_left(kind):
    model = tiny(kind)
    model.set_attn_implementation("eager")
    gates = gates_of(model)
    expected = everything(with_gates(model, gates), output_attentions=True)["attentions"]
    compact_(model, gates)
    found = everything(model, output_attentions=True)["attentions"]
    assert [maps.shape[1] for maps in found] == [2, 0, 4]
    for one, other, heads in zip(found, expected, ([1, 3], [], [0, 1, 2, 3]), strict=True):
        torch.testing.assert_close(one, other[:, heads], atol=1e-5, rtol=0)


@pytest.mark.parametrize("fields", [{}, {"share_att_key": False}, {"share_att_key": False, "pos_att_type": ["p2c"]}])
def test_deberta_projects_positions_with_the_heads_that_are_left(fields):
    model = tiny("deberta-v2", **fields)
    gates = gates_of(model)
    expected = everything(with_gates(model, gates))
    compact_(model, gates)
    assert_same(everything(model), expected)


def test_a_compact_model_trains_like_the_masked_one():
    model = tiny("bert")
    gates = gates_of(model)
    masked = with_gates(model, gates)
    compact_(model, gates)
    for network in (model, masked):
        network(IDS, attention_mask=PADDED).last_hidden_state.square().sum().backward()
    for name in ("embeddings.word_embeddings.weight", "encoder.layer.1.attention.output.dense.bias"):
        one, other = (network.get_parameter(name).grad for network in (model, masked))
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    kept = torch.tensor([1, 3]).repeat_interleave(8) * 8 + torch.arange(8).repeat(2)
    one, other = (
        network.get_parameter("encoder.layer.0.attention.self.query.weight").grad for network in (model, masked)
    )
    torch.testing.assert_close(one, other[kept], atol=1e-4, rtol=1e-4)


def test_what_cannot_be_made_compact():
    with pytest.raises(UsageError, match="All layers of AlbertModel apply the same stored weights"):
        compact_(tiny("albert"))
    model = tiny("bert")
    with pytest.raises(UsageError, match="Nothing can be removed: no head, neuron or FFN is pruned as a whole"):
        compact_(model)
    assert not hasattr(model.config, COMPACT)
    compact_(model, gates_of(model))
    with pytest.raises(UsageError, match="is a compact export, whose layers differ in size; start from the full model"):
        compact_(model, gates_of(model))


@pytest.mark.parametrize("kind", UNEVEN)
def test_gates_of_a_ticket_are_exported(tmp_path, kind):
    model = make_model(tmp_path / "m", kind, head="none")
    plm = load_plm(str(model))
    base = BaseModelInfo.of(plm.encoder, str(model), plm.model.config.model_type, None, layers=None)
    info = TicketInfo(method="test", scope="encoder", config={}, applies_to=base)
    gates = {
        "layers.0.heads": torch.tensor([False, True]),
        "layers.0.ffn": torch.tensor([False]),
        "layers.1.layer": torch.tensor([False]),
    }
    ticket = Ticket({}, info, None, gates, structure=structure_of(plm))
    ticket.save_pretrained(tmp_path / "t")
    result = export(tmp_path / "t", "compact", tmp_path / "e")
    assert result["layers"] == [
        {"heads": 1, "neurons": 0, "ffn": False},
        {"heads": 0, "neurons": 0, "ffn": False},
    ]
    with gated(plm.encoder, structure_of(plm), gates):
        expected = everything(plm.model)
    assert_same(everything(load_compact(tmp_path / "e")), expected)


@pytest.fixture
def remote_code(tmp_path, monkeypatch):
    """Code of model folders is copied to a folder of this test."""
    utils = importlib.import_module("transformers.dynamic_module_utils")
    monkeypatch.setattr(utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", UNEVEN)
@pytest.mark.parametrize("head", ["mlm", "none"])
def test_an_export_is_reloaded_by_us_and_by_transformers_alone(tmp_path, remote_code, kind, head):
    model = make_model(tmp_path / "m", kind, head)
    ticket = structured_ticket(model, tmp_path / "t")
    result = export(tmp_path / "t", "compact", tmp_path / "e")
    sizes = [(layer["heads"], layer["neurons"]) for layer in result["layers"]]
    assert sizes == [(0, 0), (1, 32)]
    assert result["parameters"]["compact"] < result["parameters"]["dense"]
    before, after = (f"{result['parameters'][size]:,}" for size in ("dense", "compact"))
    assert f"{after} of the encoder's {before} parameters are left. Other pruned weights are zeros." in result["note"]
    assert result["ticket_id"] == ticket.id
    expected = everything(ticket.apply_(AutoModel.from_pretrained(model)))
    for loaded in (load_compact(tmp_path / "e"), AutoModel.from_pretrained(tmp_path / "e", trust_remote_code=True)):
        found = everything(loaded)
        if head == "mlm":  # those have no pooler, and get a random one
            found.pop("pooler_output", None)
            expected.pop("pooler_output", None)
        else:
            assert sum(p.numel() for p in loaded.parameters()) == result["parameters"]["compact"]
        assert_same(found, expected)
    if head == "mlm":
        reloaded, report = AutoModelForMaskedLM.from_pretrained(
            tmp_path / "e", trust_remote_code=True, output_loading_info=True
        )
        assert not any(report.values())
        full = load_plm(str(model), head="mlm")
        ticket.apply_(full.model)
        assert_same(everything(reloaded), everything(full.model))
        assert_same(everything(load_compact(tmp_path / "e", head="mlm")), everything(full.model))
    assert AutoTokenizer.from_pretrained(tmp_path / "e")(TEXT[0]) == AutoTokenizer.from_pretrained(model)(TEXT[0])


@pytest.mark.parametrize("kind", UNEVEN)
def test_a_compact_model_that_is_saved_again_loads_everywhere(tmp_path, remote_code, kind):
    """With any head, and again after transformers loaded it without this package."""
    structured_ticket(make_model(tmp_path / "m", kind), tmp_path / "t")
    export(tmp_path / "t", "compact", tmp_path / "e")
    first = load_compact(tmp_path / "e", head="mlm")
    first.save_pretrained(tmp_path / "mlm")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "mlm", trust_remote_code=True)
    again.save_pretrained(tmp_path / "again")
    classifier = load_compact(tmp_path / "e", head="classification")
    classifier.save_pretrained(tmp_path / "classifier")
    loads = [
        (AutoModelForMaskedLM, "mlm", first),
        (AutoModelForMaskedLM, "again", first),
        (AutoModel, "mlm", first.base_model),
        (AutoModelForSequenceClassification, "classifier", classifier),
    ]
    for loader, name, expected in loads:
        found = everything(loader.from_pretrained(tmp_path / name, trust_remote_code=True))
        found.pop("pooler_output", None)  # not in every head's class, and random then
        assert_same(found, {key: value for key, value in everything(expected).items() if key in found})
    assert_same(everything(copy.deepcopy(first)), everything(first))


def test_a_pooler_stays_beside_the_mlm_head(tmp_path):
    model = make_model(tmp_path / "m", "bert", "mlm+pooler")
    ticket = structured_ticket(model, tmp_path / "t")
    export(tmp_path / "t", "compact", tmp_path / "e")
    assert_same(everything(load_compact(tmp_path / "e")), everything(ticket.apply_(AutoModel.from_pretrained(model))))


def test_a_fine_tuned_model_keeps_its_head_and_its_labels(tmp_path, remote_code):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"{t},{'abc'[i % 3]}\n" for i, t in enumerate(TEXT)))
    structured_ticket(make_model(tmp_path / "m"), tmp_path / "t")
    file = str(tmp_path / "train.csv")
    config = TransferConfig(
        target=str(tmp_path / "t"), train_file=file, validation_file=file, seeds=(0,), steps=2, save_model=True
    )
    transfer(config, tmp_path / "run", QUIET)
    result = export(tmp_path / "run", "compact", tmp_path / "e")
    assert [layer["heads"] for layer in result["layers"]] == [0, 1]
    masked = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "seed-0" / "model")
    remote = AutoModelForSequenceClassification.from_pretrained(tmp_path / "e", trust_remote_code=True)
    ours = load_compact(tmp_path / "e", head="classification")
    for loaded in (remote, ours):
        assert loaded.config.id2label == {0: "a", 1: "b", 2: "c"}
        assert_same(everything(loaded), everything(masked))
    texts = [(text,) for text in TEXT[:3]]
    one, other = (predict(folder, texts, runtime=QUIET) for folder in (tmp_path / "e", tmp_path / "run"))
    for p, q in zip(one["predictions"], other["predictions"], strict=True):
        assert p["scores"] == pytest.approx(q["scores"], abs=1e-5)  # a label could change where two scores are equal


def test_the_folder_needs_no_package_of_ours(tmp_path):
    structured_ticket(make_model(tmp_path / "m", head="none"), tmp_path / "t")
    export(tmp_path / "t", "compact", tmp_path / "e")
    program = (
        "import sys; sys.modules['winning_tickets'] = None\n"
        "from transformers import AutoModel\n"
        f"model = AutoModel.from_pretrained({str(tmp_path / 'e')!r}, trust_remote_code=True)\n"
        "print(type(model).__name__, model.encoder.layer[1].attention.self.query.out_features)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    assert done.stdout.split() == ["CompactBertModel", "16"]


def test_without_its_own_code_the_folder_is_refused_rather_than_misread(tmp_path):
    structured_ticket(make_model(tmp_path / "m", head="none"), tmp_path / "t")
    export(tmp_path / "t", "compact", tmp_path / "e")
    for kind in (AutoModel, AutoModelForSequenceClassification, BertModel):
        with pytest.raises(KeyError) as error:
            kind.from_pretrained(tmp_path / "e")
        assert error.value.args == (WAYS_OUT,)
    for named in ("trust_remote_code=True", "onnx", "--uniform"):
        assert named in WAYS_OUT
    assert AutoConfig.from_pretrained(tmp_path / "e").num_hidden_layers == 2
    assert len(AutoTokenizer.from_pretrained(tmp_path / "e")) > 2


def test_a_compact_folder_is_saved_and_loaded_again(tmp_path):
    structured_ticket(make_model(tmp_path / "m", head="none"), tmp_path / "t")
    export(tmp_path / "t", "compact", tmp_path / "e")
    first = load_compact(tmp_path / "e")
    first.save_pretrained(tmp_path / "f")
    AutoTokenizer.from_pretrained(tmp_path / "e").save_pretrained(tmp_path / "f")
    assert_same(everything(load_compact(tmp_path / "f")), everything(first))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "deberta-v2", "modernbert"])
def test_a_folder_of_an_earlier_version_is_loaded(tmp_path, kind):
    """Its configuration names the matrices alone: equal parts, heads with keys of their own."""
    structured_ticket(make_model(tmp_path / "m", kind), tmp_path / "t")
    export(tmp_path / "t", "compact", tmp_path / "out")
    expected = load_compact(tmp_path / "out")(IDS).last_hidden_state
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    paths = config[COMPACT]["paths"]
    del paths["queries"]
    (paths["first"],), paths["projections"] = paths["first"], list(paths["projections"])
    (tmp_path / "out/config.json").write_text(json.dumps(config), encoding="utf-8")
    assert torch.equal(load_compact(tmp_path / "out")(IDS).last_hidden_state, expected)


def test_refusals(tmp_path):
    model = make_model(tmp_path / "m", head="none")
    with pytest.raises(UsageError, match="m is no compact export; make one with tickets export --format compact"):
        load_compact(model)
    with pytest.raises(UsageError, match="There is no model configuration at .*nowhere"):
        load_compact(tmp_path / "nowhere")
    structured_ticket(model, tmp_path / "t")
    export(tmp_path / "t", "compact", tmp_path / "e")
    with pytest.raises(UsageError, match="--layers 1 is impossible: .*e is a compact export, whose layers differ"):
        load_plm(str(tmp_path / "e"), layers=1)
    search(SearchConfig(model=str(model), method="magnitude"), tmp_path / "u", QUIET)
    with pytest.raises(UsageError, match="Nothing can be removed.*the zeros are scattered. Use --format masked"):
        export(tmp_path / "u", "compact", tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_other_verbs_take_the_folder_like_any_model(tmp_path, remote_code):
    (tmp_path / "corpus.txt").write_text("\n".join(TEXT))
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"{t},{'ab'[i % 2]}\n" for i, t in enumerate(TEXT)))
    structured_ticket(make_model(tmp_path / "m"), tmp_path / "t")
    losses = {}
    for name in ("masked", "compact"):
        export(tmp_path / "t", name, tmp_path / name)
        fields = {"objectives": ("mlm",), "corpus": str(tmp_path / "corpus.txt"), "segments": "lines"}
        losses[name] = evaluate(EvaluateConfig(target=str(tmp_path / name), **fields), QUIET)["mlm_loss"]
    assert losses["compact"] == pytest.approx(losses["masked"], abs=1e-5)
    file = str(tmp_path / "train.csv")
    config = TransferConfig(
        target=str(tmp_path / "compact"), train_file=file, validation_file=file, seeds=(0,), steps=2, save_model=True
    )
    transfer(config, tmp_path / "run", QUIET)
    folder = tmp_path / "run" / "seed-0" / "model"
    model = load_compact(folder, head="classification")
    assert model.base_model.encoder.layer[1].attention.self.num_attention_heads == 1
    remote = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    assert_same(everything(remote), everything(model))


def test_one_head_is_removed_from_a_model_that_is_whole_otherwise():
    model = tiny("bert")
    compact = compact_(model, {"layers.1.heads": torch.tensor([True, True, False, True])})
    assert [layer["heads"] for layer in compact["layers"]] == [[0, 1, 2, 3], [0, 1, 3], [0, 1, 2, 3]]


def test_one_neuron_is_removed_from_a_model_that_is_whole_otherwise():
    model = tiny("bert")
    width = model.config.intermediate_size
    compact = compact_(model, {"layers.2.neurons": torch.arange(width) > 0})
    assert [layer["neurons"] for layer in compact["layers"]] == [width, width, width - 1]
