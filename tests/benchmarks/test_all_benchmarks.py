"""The one command for all benchmarks: every script has its row and its file, and what it measures is what it says."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
HELPERS = {"utilisation", "all", "bench", "gpu", "gpu_python", "in_graph", "interleave", "memory", "registry", "texts"}
KEYS = {"device", "threads", "rounds", "ms_a_step", "ratios", "intervals_95", "seconds", "machine", "versions"}
FEW = {"rounds": 2, "warm_up": 1, "in_a_row": 1, "device": "cpu", "threads": 0}


def test_every_script_is_in_the_registry():
    from registry import BENCHMARKS as REGISTERED

    assert {benchmark.script for benchmark in REGISTERED} == {path.stem for path in BENCHMARKS.glob("*.py")} - HELPERS
    names = [benchmark.name for benchmark in REGISTERED]
    rows = [row.name for benchmark in REGISTERED for row in benchmark.rows]
    assert len(set(names)) == len(names)
    assert len(set(rows)) == len(rows)
    assert all(benchmark.rows for benchmark in REGISTERED)


def test_a_row_of_each_kind():
    from all import HEAD, cells
    from registry import Row

    result = {
        "ms_a_step": {"mask": 1234.4, "dense": 99.96},
        "ratios": {"mask_over_dense": 1.2344},
        "intervals_95": {"mask_over_dense": [1.1, 1.3]},
        "seconds_each": {"save": 0.5, "savez": 2.0},
        "peak_ratios": {"kd": 1.1501},
        "rate": {"ours": 2_000_000.0},
    }
    beside = cells(Row("step", ratio="mask_over_dense", asked=1.2), result)
    assert beside == ["step", "1,234 ms", "100 ms", "1.234 [1.100, 1.300]", "≤1.2: **no**"]
    assert len(beside) == len(HEAD)
    faster = cells(Row("step", ratio="mask_over_dense", ours="rate.ours", unit="x/s", asked=1.2, at_least=True), result)
    assert faster == ["step", "2,000,000 x/s", "100 x/s", "1.234 [1.100, 1.300]", "≥1.2: yes"]
    seconds = cells(Row("save", ours="seconds_each.save", beside="seconds_each.savez", asked=0.5), result)
    assert seconds == ["save", "0.5 s", "2 s", "", "≤0.5 s: yes"]
    assert cells(Row("peak", share="peak_ratios.kd", asked=1.15), result)[3:] == ["1.150", "≤1.15: **no**"]
    assert cells(Row("peak", share="peak_ratios.kd"), result)[3:] == ["1.150", ""]
    assert cells(Row("no", ours="seconds.browser", asked=10.0), result)[1:] == [
        "",
        "",
        "",
        "≤10 s: not measured",
    ]


def test_the_table_has_what_lies_in_the_folder(tmp_path):
    from all import chosen_by, table

    assert table(tmp_path, chosen_by(None)).count("\n") == 2
    (tmp_path / "compact.json").write_text(json.dumps({"ratios": {"reached_of_promised": 0.9}}))
    assert [line.split(" | ")[0] for line in table(tmp_path, chosen_by("compact")).splitlines()[2:]] == [
        "| share of the promised speed-up"
    ]
    (tmp_path / "compact.json").unlink()
    (tmp_path / "start_time.json").write_text(
        json.dumps({"seconds_each": {"import": 0.1, "help": 0.6, "python": 0.02}})
    )
    assert table(tmp_path, chosen_by("compact,start_time")) == (
        "| what | ours | beside | ratio [95 %] | asked, met |\n"
        "|---|---:|---:|---:|---|\n"
        "| import winning_tickets | 0.1 s | 0.02 s |  | ≤0.5 s: yes |\n"
        "| tickets --help | 0.6 s | 0.02 s |  | ≤0.5 s: **no** |\n"
    )


def test_unknown_benchmarks_are_named():
    from all import chosen_by

    with pytest.raises(SystemExit, match=r"There is no benchmark speed; there are mask_step, hold_step, "):
        chosen_by("compact,speed")


def test_a_benchmark_that_fails_is_reported_and_leaves_no_file(tmp_path, capfd):
    from all import run_one
    from registry import Benchmark

    assert not run_one(Benchmark("wrong", "start_time", (), ("--no-such-option",), ()), tmp_path, True, "cpu")
    assert "wrong failed with exit code 2." in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", ["ours", "topk", "kthvalue"])
def test_all_ways_of_selecting_agree_without_ties(way):
    import select_top

    bench = select_top.SelectionBench(argparse.Namespace(scores=5000, sparsity=0.6, **FEW))
    assert int(bench.mask(way).sum()) == 2000
    assert torch.equal(bench.mask(way), bench.mask("ours"))
    assert int(bench.mask(f"{way}_ties").sum()) == (2000 if way != "kthvalue" else pytest.approx(2000, abs=10))


def test_selection_is_timed():
    import select_top

    found = select_top.report(argparse.Namespace(scores=5000, sparsity=0.6, **FEW))
    assert set(found) > KEYS
    assert set(found["ms_a_step"]) == set(select_top.VARIANTS)
    assert set(found["ratios"]) == set(select_top.PAIRS)


def test_ticket_files_are_timed_and_weighed(tmp_path):
    import ticket_files

    found = ticket_files.report(argparse.Namespace(shape="tiny", folder=tmp_path, **FEW))
    assert set(found) > KEYS
    assert found["weights"] == 500 * 32 + 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert found["bytes_over_packed"] == found["bytes"] / (found["weights"] / 8)
    assert set(found["seconds_each"]) == {"save", "load", "apply", "savez", "loadz", "multiply"}
    assert list(tmp_path.iterdir()) == []


def test_padding_variants_see_the_same_examples():
    import padding_step

    options = argparse.Namespace(shape="tiny", batch=4, length=48, dropout=0.0, bf16=False, **FEW)
    bench = padding_step.PaddingBench(options)
    for short, full in zip(*bench.texts.values(), strict=True):
        width = short["input_ids"].shape[1]
        assert full["input_ids"].shape == (4, 48)
        assert torch.equal(full["input_ids"][:, :width], short["input_ids"])
        assert not full["attention_mask"][:, width:].any()
    assert 0 < bench.share < 1
    for variant in padding_step.VARIANTS:
        bench.make(variant)()


def test_grouped_and_random_batches_have_the_same_lengths_on_average():
    import grouping_step

    options = argparse.Namespace(shape="tiny", batch=8, length=48, dropout=0.0, bf16=False, **FEW)
    bench = grouping_step.GroupingBench(options)
    for variant, shapes in bench.shapes.items():
        assert [len(lengths) for lengths in shapes] == [8] * bench.batches
        padding = [len(lengths) * max(lengths) - sum(lengths) for lengths in shapes]
        assert (sum(padding) < 8 * bench.batches * 3) == variant.endswith("grouped")
    bench.make("mnli_grouped")()


def test_tokenizing_is_timed_and_its_peak_measured(tmp_path):
    import tokenizing

    options = argparse.Namespace(text=None, tokenizer=None, speed_megabytes=0.05, **FEW)
    found = tokenizing.speed(options, tmp_path)
    assert set(found) > KEYS
    options = argparse.Namespace(tokenizer=str(tmp_path / "tokenizer"), peak_of=str(tmp_path / "speed.txt"))
    alone = tokenizing.one_size(options)
    assert alone["tokens"] == found["tokens"] > 5000
    assert alone["peak_bytes"] >= 0


def test_a_text_is_repeated_to_a_size_in_whole_lines(tmp_path):
    from texts import repeat_to

    repeat_to(tmp_path / "text", ["ab", "é"], 17)  # three and three bytes
    assert (tmp_path / "text").read_text(encoding="utf-8") == "ab\né\n" * 2 + "ab\n"


def test_slow_and_heavy_modules_are_found():
    import start_time

    imported = start_time.modules()
    assert {"winning_tickets.cli", "pydantic", "typer"} < set(imported)
    assert list(imported.values()) == sorted(imported.values(), reverse=True)
    assert not set(start_time.HEAVY) & set(imported)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_everything_runs_at_its_tiny_size(tmp_path):
    from registry import BENCHMARKS as REGISTERED

    command = [sys.executable, str(BENCHMARKS / "all.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"table.md"} | {f"{b.name}.json" for b in REGISTERED}
    for file in tmp_path.glob("*.json"):
        assert {"machine", "versions"} < set(json.loads(file.read_text()))
    missing = [line for line in done.stdout.splitlines() if "not measured" in line]
    assert [line.split("|")[1].strip() for line in missing] == ["its page: opened in a browser"]  # no HTML is asked for
    assert done.stdout == (tmp_path / "table.md").read_text()
