"""What `accelerate launch` asks for by the environment: used, said and recorded, or refused; never ignored."""

import importlib.util
import json
import logging
import os
import subprocess
import sys

import pytest
import torch

from winning_tickets import Runtime, TransferConfig, transfer
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory, execution_of, read_log
from winning_tickets.runs.errors import UsageError
from winning_tickets.studies.tiny import tiny_folder
from winning_tickets.training import execution


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return {name: str(tiny_folder(name, folder)) for name in ("bert", "glue", "text")}


@pytest.fixture
def config(tiny):
    return TransferConfig(target=tiny["bert"], task="rte", data_dir=tiny["glue"], steps=2, batch_size=4)


def test_its_precision_is_used_said_and_recorded(tiny, config, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "winning_tickets")
    plain = transfer(config, tmp_path / "plain", Runtime(quiet=True, device="cpu"))
    asked = transfer(config, tmp_path / "asked", Runtime(quiet=True, device="cpu", bf16=True))
    assert caplog.messages == []
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    launched = transfer(config, tmp_path / "launched", Runtime(quiet=True, device="cpu"))
    assert caplog.messages == ["Using bfloat16, as accelerate launch --mixed_precision bf16 asks."]
    assert launched["precision"] == asked["precision"] == "bf16"
    assert "precision" not in plain
    losses = {}
    for name in ("plain", "asked", "launched"):
        seed = tmp_path / name / "seed-0"
        losses[name] = [record["loss"] for record in read_log(seed) if "loss" in record]
        stored = json.loads((seed / "result.json").read_text())
        assert stored.get("precision") == (None if name == "plain" else "bf16")
    assert losses["plain"] != losses["asked"] == losses["launched"]


def test_a_run_of_two_precisions_records_both(tmp_path):
    run = RunDirectory.claim(tmp_path / "run", "verb", "id-1", {})
    run.log({"step": 1, "loss": 1.0, "learning_rate": 0.1, "precision": "bf16"})
    run.log({"step": 1, "evaluation": {}})
    assert execution_of(run.path) == {"precision": "bf16"}
    run.log({"step": 2, "loss": 1.0, "learning_rate": 0.1, "compiled": True})
    run.finish({"verb": "verb"})
    assert run.result() == {"verb": "verb", "precision": "bf16 and float32", "compiled": True}


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_USE_FSDP", "true", "asked for FSDP .* Start the processes with torchrun"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "asked for DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "asked for Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "asked for a parallelism configuration"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "--mixed_precision fp16; use bf16, or no for float32"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend INDUCTOR; leave that out, and give --compile"),
    ],
)
def test_what_is_not_done_is_refused(config, tmp_path, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=message):
        transfer(config, tmp_path / "run", Runtime(quiet=True, device="cpu"))
    assert not (tmp_path / "run").exists()


def test_what_asks_for_nothing_is_silent(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "winning_tickets")
    for variable, value in (("USE_FSDP", "false"), ("MIXED_PRECISION", "no"), ("DYNAMO_BACKEND", "NO")):
        monkeypatch.setenv(f"ACCELERATE_{variable}", value)
    distributed.check_launcher()
    assert caplog.messages == []
    assert not Runtime().bf16


@pytest.mark.parametrize(("local", "gpu"), [("0", 0), ("3", 3), ("5", 1)])
def test_each_process_takes_a_gpu_of_its_own_whatever_was_initialized(monkeypatch, local, gpu):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", local)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert distributed._backend() == "cpu:gloo,cuda:nccl"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "6")
    assert distributed._backend() == "gloo"  # NCCL lets no processes share a GPU
    assert taken == [gpu, gpu]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_what_cannot_compile_is_refused_before_any_work(config, tmp_path, monkeypatch):
    monkeypatch.setattr(execution.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"--compile needs a C\+\+ compiler on a CPU"):
        transfer(config, tmp_path / "run", Runtime(quiet=True, device="cpu", torch_compile=True))
    monkeypatch.setattr(execution, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--compile needs the package triton on a GPU"):
        execution.check_compiler(Runtime(torch_compile=True))
    assert not (tmp_path / "run").exists()


def test_only_search_and_transfer_compile(tiny, tickets, tmp_path):
    code, _, err = tickets(
        "share", "--tasks", "rte", "--model", tiny["bert"], "--out", str(tmp_path / "a"), "--compile"
    )
    assert code == 2
    assert "--compile" in err
    words = (
        "search",
        tiny["bert"],
        "--corpus",
        tiny["text"],
        "--heads",
        "2",
        "--out",
        str(tmp_path / "b"),
        "--compile",
    )
    code, _, err = tickets(*words)
    assert code == 2
    assert "--compile is for masks of weights" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--mixed_precision", "bf16"), 0, "Using bfloat16"),
        (("--mixed_precision", "bf16", "--multi_gpu", "--num_processes", "2"), 0, "Using bfloat16"),
        (("--mixed_precision", "no"), 0, None),
        (("--mixed_precision", "fp16"), 2, "use bf16, or no for float32"),
        (("--use_fsdp", "--num_processes", "2"), 2, "asked for FSDP"),
    ],
    ids=["bf16", "bf16 twice", "no", "fp16", "fsdp"],
)
def test_accelerate_launch_itself(tiny, tmp_path, options, code, said):
    words = ("transfer", tiny["bert"], "--task", "rte", "--data-dir", tiny["glue"], "--steps", "2", "--batch-size", "4")
    words += ("--device", "cpu", "--out", str(tmp_path / "run"))
    launch = ("-m", "accelerate.commands.launch", "--cpu", *options, "-m", "winning_tickets", *words)
    if "--num_processes" in options:
        launch = tuple(word for word in launch if word != "--cpu")
    ended = subprocess.run([sys.executable, *launch], capture_output=True, text=True, timeout=240, check=False)
    assert (said or "") in ended.stderr
    if code == 0:
        assert ended.returncode == 0, ended.stderr
        result = json.loads((tmp_path / "run" / "seed-0" / "result.json").read_text())
        assert result.get("precision") == ("bf16" if said else None)
        assert result["machine"].get("processes", 1) == (2 if "2" in options else 1)
    else:
        assert ended.returncode != 0
        assert not (tmp_path / "run").exists()
