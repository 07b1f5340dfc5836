"""Measuring: operations against those of a formula, turns in their order, sizes, and words that fit the numbers."""

import importlib
import json

import numpy as np
import pytest
import torch
from transformers import AutoModel

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
    measure,
    search,
    transfer,
)
from winning_tickets.cli.plans import plan_evaluate
from winning_tickets.deploy.measure import forward_flops
from winning_tickets.models.architectures import ARCHITECTURES
from winning_tickets.models.compact import compact_
from winning_tickets.models.loading import PLM, load_plm
from winning_tickets.runs.errors import UsageError

QUIET = Runtime(quiet=True, device="cpu")
measuring = importlib.import_module("winning_tickets.deploy.measure")


def as_plm(kind, model):
    return PLM(model, None, ARCHITECTURES[kind], "tiny", None, None, False)


# Totals by formula: of one text of 16 tokens, of three of 6, and of two of 10 in a compact model.
BY_FORMULA = {
    "bert": (886784, 932352, 395776),
    "roberta": (886784, 932352, 395776),
    "xlm-roberta": (886784, 932352, 395776),
    "camembert": (886784, 932352, 395776),
    "electra": (901120, 944640, 412160),
    "distilbert": (884736, 926208, 391680),
    "mpnet": (886784, 932352, 395776),
    "albert": (903168, 950784, None),
    "deberta-v2": (1179648, 1233408, 551424),
    "modernbert": (1081344, 1147392, 445440),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_operations_are_those_of_the_formula(kind):
    plm = as_plm(kind, tiny(kind))
    assert (forward_flops(plm, 1, 16), forward_flops(plm, 3, 6)) == BY_FORMULA[kind][:2]


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if not ARCHITECTURES[kind].shared_layers])
def test_operations_of_a_compact_model(kind):
    model = tiny(kind)
    full = forward_flops(as_plm(kind, model), 2, 10)
    compact_(model, gates_of(model))
    assert forward_flops(as_plm(kind, model), 2, 10) == BY_FORMULA[kind][2] < 0.7 * full


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("deberta-v2", {"share_att_key": False}, 1379328),
        ("deberta-v2", {"share_att_key": False, "pos_att_type": ["p2c"], "position_buckets": -1}, 11283456),
        ("deberta-v2", {"relative_attention": False, "pos_att_type": []}, 1059840),
        ("deberta-v2", {"conv_kernel_size": 3}, 1502208),
        ("albert", {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2}, 2850816),
    ],
)
def test_operations_of_settings_that_are_seldom_used(kind, fields, expected):
    assert forward_flops(as_plm(kind, tiny(kind, **fields)), 2, 10) == expected


def test_positions_that_are_parameters_are_counted_and_stay_trained():
    """Without a norm of relative positions, DeBERTa's embedding of them is a parameter that enters a module."""
    with_norm, without = (tiny("deberta-v2", norm_rel_ebd=name) for name in ("layer_norm", "none"))
    assert forward_flops(as_plm("deberta-v2", without), 2, 10) == forward_flops(as_plm("deberta-v2", with_norm), 2, 10)
    assert all(parameter.requires_grad for parameter in without.parameters())


def test_operations_of_bert_base():
    plm = as_plm("bert", AutoModel.from_config(type(CONFIGS["bert"](60))()))
    layers = 12 * (8 * 128 * 768**2 + 4 * 128 * 768 * 3072 + 4 * 128 * 128 * 768)
    assert forward_flops(plm, 1, 128) == layers + 2 * 768**2


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_counting_leaves_attention_and_gradients_as_they_were(kind):
    plm = as_plm(kind, tiny(kind))
    before = plm.encoder.config._attn_implementation
    forward_flops(plm, 2, 4)
    assert plm.encoder.config._attn_implementation == before != "eager"
    assert all(parameter.grad is None for parameter in plm.encoder.parameters())


def test_models_take_turns(monkeypatch):
    clock = iter(np.cumsum([0, 1] * 100))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    calls = []
    passes = [lambda: calls.append("A"), lambda: calls.append("B")]
    seconds = measuring.take_turns(passes, 3, torch.device("cpu"), bf16=False)
    assert "".join(calls) == "AB" * (measuring.WARM_UPS + 3)
    assert seconds.tolist() == [[1, 1]] * 3


def test_spread_is_the_median_and_the_quartiles():
    assert measuring.spread(np.array([5.0, 1, 2, 4, 3])) == {"median": 3, "lower_quartile": 2, "upper_quartile": 4}


def test_a_speedup_is_the_median_ratio_of_neighbours():
    plm = as_plm("bert", tiny("bert"))
    seconds = np.array([[1.0, 2.0], [10.0, 40.0], [2.0, 6.0]])  # the machine was busy in the second turn
    result = measuring._summary([plm, plm], 4, 8, seconds)
    assert result["speedup"] == {"median": 3, "lower_quartile": 2.5, "upper_quartile": 3.5}
    assert result["latency_seconds"]["median"] == 2
    assert result["dense_latency_seconds"]["median"] == 6
    assert result["texts_per_second"]["median"] == 2
    assert result["flops_ratio"] == 1


@pytest.fixture
def ticket(tmp_path):
    model = make_model(tmp_path / "m", head="none")
    search(SearchConfig(model=str(model), method="magnitude"), tmp_path / "t", QUIET)
    return tmp_path / "t"


def test_scattered_zeros_promise_nothing(tmp_path, ticket):
    result = measure(str(ticket), (1, 2), (4, 8), repeats=2, runtime=QUIET)
    assert [(shape["batch"], shape["length"]) for shape in result["shapes"]] == [(1, 4), (1, 8), (2, 4), (2, 8)]
    assert {shape["flops_ratio"] for shape in result["shapes"]} == {1}
    assert "No speed-up is to be expected: 60.0% of the weights are zeros" in result["expectation"]
    assert (result["kind"], result["repeats"], result["device"]) == ("ticket", 2, "cpu")
    encoder = load_plm(str(tmp_path / "m")).encoder
    total = sum(parameter.numel() for parameter in encoder.parameters())
    assert result["parameters"]["all"] == result["parameters"]["encoder"] == total
    pruned = Ticket.from_pretrained(ticket).apply_(load_plm(str(tmp_path / "m")).model)
    assert result["parameters"]["non_zero"] == sum(int((parameter != 0).sum()) for parameter in pruned.parameters())
    assert result["dense"]["parameters"]["encoder"] == total
    assert result["bytes_on_disk"] == (tmp_path / "m" / "model.safetensors").stat().st_size
    assert result["ticket_bytes"] == sum(path.stat().st_size for path in ticket.iterdir() if path.name != "README.md")
    export(ticket, "masked", tmp_path / "e")
    masked = measure(str(tmp_path / "e"), (1,), (4,), repeats=1, runtime=QUIET)
    assert masked["parameters"] == result["parameters"]
    assert masked["expectation"] == result["expectation"]
    assert masked["ticket_bytes"] is None


def test_a_compact_export_is_measured_beside_the_full_size(tmp_path):
    structured_ticket(make_model(tmp_path / "m", head="none"), tmp_path / "t")
    exported = export(tmp_path / "t", "compact", tmp_path / "e")
    result = measure(str(tmp_path / "e"), (2,), (8,), repeats=1, runtime=QUIET)
    assert result["parameters"]["encoder"] == exported["parameters"]["compact"]
    assert result["dense"]["parameters"]["encoder"] == exported["parameters"]["dense"]
    (shape,) = result["shapes"]
    assert shape["flops_ratio"] == shape["dense_flops"] / shape["flops"] > 1.5
    assert f"takes {shape['flops_ratio']:.2f} to {shape['flops_ratio']:.2f} times as many" in result["expectation"]


def test_a_dense_model_is_measured_alone(tmp_path):
    result = measure(str(make_model(tmp_path / "m")), (1,), (4,), repeats=1, runtime=QUIET)
    assert result["dense"] is None
    assert "speedup" not in result["shapes"][0]
    assert result["expectation"] == "The model is dense: there is nothing to compare it with."
    assert result["parameters"]["all"] > result["parameters"]["non_zero"]


def test_a_run_is_measured_by_its_saved_model(tmp_path, ticket):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"{t},{'ab'[i % 2]}\n" for i, t in enumerate(TEXT)))
    file = str(tmp_path / "train.csv")
    config = TransferConfig(
        target=str(ticket), train_file=file, validation_file=file, seeds=(0,), steps=2, save_model=True
    )
    transfer(config, tmp_path / "run", QUIET)
    for folder in ("run", "run/seed-0"):
        result = measure(str(tmp_path / folder), (1,), (4,), repeats=1, runtime=QUIET)
        assert (result["kind"], result["dense"] is None) == ("run", False)
        head = 2 * 32 + 2
        assert result["parameters"]["all"] == result["parameters"]["encoder"] + head


def test_the_number_of_threads_is_put_back(tmp_path):
    before = torch.get_num_threads()
    model = str(make_model(tmp_path / "m"))
    assert measure(model, (1,), (4,), threads=before + 1, repeats=1, runtime=QUIET)["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_inputs_are_the_same_each_time_and_hold_no_padding():
    plm = as_plm("mpnet", tiny("mpnet"))
    first, second = (measuring.random_inputs(plm, 8, 64, torch.device("cpu"))["input_ids"] for _ in range(2))
    assert torch.equal(first, second)
    assert set(range(60)) - set(first.flatten().tolist()) == {plm.model.config.pad_token_id}


def test_what_cannot_be_measured(tmp_path):
    model = str(make_model(tmp_path / "m", "roberta"))
    for fields, message in (
        ({"batches": (1, 0)}, "--batch 0 is impossible; it must be at least 1"),
        ({"batches": (1.5,)}, "--batch: Input should be a valid integer"),
        ({"lengths": ()}, "--length: Tuple should have at least 1 item"),
        ({"repeats": 0}, "--repeats 0 is impossible"),
        ({"threads": 0}, "--threads 0 is impossible; it must be at least 1"),
        ({"lengths": (514,)}, "--length 514 is impossible: .*m takes texts of up to 513 tokens"),
        ({"base": "x"}, "--base needs a ticket"),
        ({"seed": 1}, "--seed 1 chooses a model of a transfer, and .*m is not one"),
    ):
        with pytest.raises(UsageError, match=message):
            measure(model, **{"batches": (1,), "lengths": (4,), "runtime": QUIET, **fields})
    with pytest.raises(UsageError, match="There is no model folder .*nowhere"):
        measure(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("option", [{"base": "bert"}, {"revision": "main"}, {"layers": 1}, {"seed": 0}])
def test_options_that_change_nothing_of_an_onnx_export_are_refused(tmp_path, option):
    (tmp_path / "model.onnx").touch()
    ((name, value),) = option.items()
    message = f"--{name} {value} cannot be used with .*, an ONNX export; leave it out"
    with pytest.raises(UsageError, match=message):
        measure(str(tmp_path), (1,), (4,), runtime=QUIET, **option)
    if name in ("revision", "layers"):
        config = EvaluateConfig(target=str(tmp_path), objectives=("similarity",), task="stsb", **option)
        for call in (evaluate, plan_evaluate):
            with pytest.raises(UsageError, match=message):
                call(config, QUIET)


def test_the_command_line(tmp_path, ticket, tickets):
    words = ("measure", str(ticket), "--batch", "1", "--length", "4", "--repeats", "1", "--device", "cpu", "--quiet")
    code, out, err = tickets(*words)
    assert (code, err) == (0, "")
    assert "1 x 4 tokens:" in out
    assert "times as fast" in out
    assert "No speed-up is to be expected" in out
    code, out, _ = tickets(*words, "--json")
    assert (code, json.loads(out)["shapes"][0]["length"]) == (0, 4)
    code, out, _ = tickets(*words, "--dry-run", "--json")
    assert json.loads(out)["plan"]["batches"] == [1]
    code, out, err = tickets("measure", str(ticket), "--batch", "two")
    assert (code, out) == (2, "")
    assert "--batch 'two' is not a list of whole numbers" in err


def latency(median, low=None, high=None):
    return {"median": median, "lower_quartile": low or median, "upper_quartile": high or median}


def test_turns_that_disagree_are_told():
    shapes = [
        {"batch": 1, "length": 8, "latency_seconds": latency(1.0, 0.9, 1.1)},
        {"batch": 2, "length": 8, "latency_seconds": latency(1.0, 0.9, 1.3)},
    ]
    (warning,) = measuring._disagreements(shapes, threads=2)
    assert "--threads 1" in warning
    assert "--threads" not in measuring._disagreements(shapes, threads=1)[0], "there is one thread already"
    assert warning.startswith("The turns of 2 x 8 disagree")
    assert "--threads 1" in warning
    assert measuring._disagreements(shapes[:1], threads=2) == []


def test_several_threads_that_wait_for_each_other_are_told(monkeypatch):
    plm = as_plm("bert", tiny("bert"))
    monkeypatch.setattr(measuring, "take_turns", lambda *_, **__: np.full((3, 1), 0.02))
    shape = {"batch": 1, "length": 8, "latency_seconds": latency(0.5)}
    before = torch.get_num_threads()
    (warning,) = measuring._compare_with_one_thread(plm, shape, 2)
    assert "One thread takes 20 ms for 1 x 8 tokens, and 2 threads take 500 ms" in warning
    assert warning.endswith("Measure with --threads 1.")
    assert measuring._compare_with_one_thread(plm, shape | {"latency_seconds": latency(0.021)}, 2) == []
    assert torch.get_num_threads() == before
