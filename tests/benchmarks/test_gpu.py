"""The measurements of a GPU: each part runs at tiny sizes on a CPU, steps run on a pretend GPU, the table is right."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tools.pretend_gpu import PretendGPU

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
TINY = {"shape": "tiny", "batch": 2, "length": 16, "dropout": 0.0, "bf16": False, "train_embeddings": False}
FEW = {"rounds": 2, "warm_up": 1, "in_a_row": 2, "threads": 0}


@pytest.mark.parametrize(
    ("script", "bench"),
    [
        ("mask_step", "MaskBench"),
        ("hold_step", "HoldBench"),
        ("importance", "ImportanceBench"),
        ("sharing_step", "SharingBench"),
        ("compact", "CompactBench"),
    ],
)
def test_every_variant_takes_steps_on_a_pretend_gpu(script: str, bench: str) -> None:
    import importlib

    module = importlib.import_module(script)
    with PretendGPU() as gpu:
        made = getattr(module, bench)(argparse.Namespace(**TINY, device="cuda"))
        for variant in module.VARIANTS:
            step = made.make(variant)
            with gpu.counting() as counts:
                step()
                step()
            assert counts.numbers[0] > 50, variant


def test_a_step_of_tickets_sharing_reads_nothing() -> None:
    import sharing_step

    with PretendGPU() as gpu:
        bench = sharing_step.SharingBench(argparse.Namespace(**TINY, device="cuda"))
        for variant in sharing_step.VARIANTS:
            step = bench.make(variant)
            step()
            with gpu.counting() as counts:
                step()
            ours = [place for place in counts.syncs + counts.uploads if "objectives" not in place]
            assert ours == [], counts.report()


def test_packed_matrices_are_those_of_the_ticket(tmp_path: Path) -> None:
    import semi_structured

    found = semi_structured.report(argparse.Namespace(**TINY, **FEW, device="cpu"))
    assert found["distance"] == 0.0
    assert not found["kernels"]
    assert set(found["ms_a_step"]) == {"dense"}
    weight = torch.ones(32, 64, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="more than 2 weights in some 4"):
        semi_structured.packed(weight)


def facts(name: str) -> dict[str, Any]:
    return {"device": name, "devices": [{"name": name}], "torch": "2.13.0", "built_for_cuda": "13.0"}


def test_the_table_has_what_follows_from_the_times() -> None:
    from gpu import markdown, rows

    steps = {
        "shape": {"batch": 16, "length": 512},
        "ms_a_step": {"dense": 20.0, "kd_mask": 16.0},
        "model_flops_a_step": {"dense": 5e12, "kd_mask": 4e12},
        "product_flops_a_second": 800e12,
        "peak_bytes": {"dense": 4e9, "kd_mask": 3e9},
    }
    whole = {"ms_a_step": 16.5, "peak_bytes": 5e9}
    found = {"device": facts("NVIDIA H200"), "mask_step": steps, "search_kd": whole}
    search, dense, mask = rows(found)
    assert search["paper_seconds"] == pytest.approx(363.0)
    assert (dense["paper_seconds"], dense["of_product"]) == (None, pytest.approx(0.3125))
    assert mask["tokens_a_second"] == pytest.approx(512_000)
    assert mask["of_peak"] == pytest.approx(0.25278, rel=1e-4)
    tests = {"passed": 30, "skipped": ["a::b: one device"], "failed": []}
    page = markdown(found | {"tests": tests}, {"hold_step": "not done after 90 seconds"})
    assert "NVIDIA H200 (1 devices), torch 2.13.0, CUDA 13.0." in page
    assert "Tests: 30 passed, 1 skipped, 0 failed." in page
    assert "- skipped: a::b: one device" in page
    assert "| mask step, KD | 16.00 | 512,000 | 31% | 25% | 5.9 min | 3.00 GB |" in page
    assert "| whole search, KD | 16.50 | 496,485 | 30% | 25% | 6.0 min | 5.00 GB |" in page
    assert "- hold_step failed: not done after 90 seconds" in page
    assert rows({}) == []


def test_every_variant_has_a_name() -> None:
    import hold_step
    import mask_step
    import semi_structured
    from gpu import NAMES, PARTS

    assert set(NAMES["mask_step"]) == set(mask_step.VARIANTS)
    assert set(NAMES["hold_step"]) == set(hold_step.VARIANTS)
    assert set(NAMES["semi_structured"]) == set(semi_structured.PAIRS["dense_over_sparse"])
    assert set(NAMES) < set(PARTS)


def test_outcomes_of_tests_are_read(tmp_path: Path) -> None:
    from gpu import outcomes

    report = tmp_path / "tests.xml"
    report.write_text(
        '<testsuites><testsuite time="3.5"><testcase classname="tests.gpu.test_a" name="one"/>'
        '<testcase classname="tests.gpu.test_a" name="two"><failure message="assert 1 == 2&#10;more"/></testcase>'
        '<testcase classname="tests.gpu.test_b" name="three"><skipped message="one device"/></testcase>'
        "</testsuite></testsuites>"
    )
    assert outcomes(report) == {
        "passed": 1,
        "failed": ["test_a::two: assert 1 == 2"],
        "skipped": ["test_b::three: one device"],
        "seconds": 3.5,
    }


def test_a_program_that_fails_or_takes_too_long_is_reported(tmp_path: Path) -> None:
    from gpu import Plan

    plan = Plan("cpu", True, tmp_path)
    assert plan.run(["-c", "print(3)"], 30) == "3\n"
    with pytest.raises(RuntimeError, match="exit code 1: ValueError: no"):
        plan.run(["-c", "raise ValueError('no')"], 30)
    with pytest.raises(RuntimeError, match=r"not done after 0 seconds"):
        plan.run(["-c", "import time; time.sleep(20)"], 0.3)
    plan = Plan("cpu", True, tmp_path, minutes=0)
    with pytest.raises(RuntimeError, match="no time was left"):
        plan.run(["-c", "print(3)"], 30)
    assert "$ python -c print(3)" in (tmp_path / "log.txt").read_text()


class TestPython:
    """The search for a Python."""

    def test_requirements_are_compared_by_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import gpu_python

        monkeypatch.setattr(gpu_python, "requirements", lambda: ["torch>=2.6", "transformers>=5.20,<6", "pytest"])
        good = {"torch": "2.11.0+cu130", "transformers": "5.21.0", "pytest": "9.2.0"}
        assert gpu_python.missing(good) == []
        assert gpu_python.missing(good | {"torch": "2.5.1"}) == ["torch>=2.6"]
        assert gpu_python.missing(good | {"transformers": "6.0.0"}) == ["transformers>=5.20,<6"]
        assert gpu_python.missing({"torch": "3"}) == ["transformers>=5.20,<6", "pytest"]

    def test_this_python_is_used_as_it_is(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        import gpu_python

        assert {"torch>=2.6", "safetensors>=0.5", "pytest"} <= set(gpu_python.requirements())
        here = gpu_python.probe(sys.executable)
        assert gpu_python.missing(here["versions"]) == []
        monkeypatch.setattr(gpu_python, "probe", lambda python: here)
        assert gpu_python.find(tmp_path / "venv", None, needs_device=False) == sys.executable
        assert not (tmp_path / "venv").exists()

    def test_reasons_are_said_in_words(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        import gpu_python

        found = {"torch": "2.13.0+cpu", "built_for": None, "devices": 0, "versions": {}, "paths": []}
        monkeypatch.setattr(gpu_python, "probe", lambda python: found)
        monkeypatch.setattr(gpu_python, "has_gpu", lambda: False)
        with pytest.raises(SystemExit, match="no GPU that can be used: there is no NVIDIA device in /dev"):
            gpu_python.find(tmp_path / "venv", None, needs_device=True)
        found |= {"torch": "2.13.0", "built_for": "13.0"}
        with pytest.raises(SystemExit, match=r"torch 2\.13\.0, built for CUDA 13\.0, finds no device; does nvidia-smi"):
            gpu_python.find(tmp_path / "venv", None, needs_device=True)
        monkeypatch.setattr(sys, "version_info", (3, 10))
        with pytest.raises(SystemExit, match="Python 3.11 or newer is needed"):
            gpu_python.find(tmp_path / "venv", None, needs_device=True)

    @pytest.mark.slow
    def test_a_virtual_environment_inherits_what_is_there(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import gpu_python

        monkeypatch.setattr(gpu_python, "missing", lambda found: [])
        here = gpu_python.probe(sys.executable)
        python = gpu_python.make(tmp_path / "venv", here, inherits=True, wheels=None)
        assert gpu_python.probe(python)["torch"] == here["torch"]


@pytest.mark.slow
def test_everything_runs_on_a_cpu_at_tiny_sizes(tmp_path: Path) -> None:
    words = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(tmp_path), "--device", "cpu", "--quick"]
    done = subprocess.run([*words, "--minutes", "30"], capture_output=True, text=True, check=False)
    log = (tmp_path / "log.txt").read_text()[-3000:]
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{log}"
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["failed"] == {}
    assert found["parts"]["tests"]["failed"] == []
    assert found["parts"]["tests"]["passed"] > 30
    assert {row["what"] for row in found["table"]} >= {"whole search, KD", "mask step, KD", "fine-tuning, dense"}
    assert done.stdout == (tmp_path / "gpu.md").read_text()
