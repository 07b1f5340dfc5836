"""Every method of a search and every verb, tiny, on a CUDA device, by the command line that people use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from samples.commands import CASES, words_of
from winning_tickets import Ticket, search_all
from winning_tickets.cli import app
from winning_tickets.config import Runtime, SearchConfig
from winning_tickets.tickets.selection import keep_top

pytestmark = pytest.mark.gpu


def run(words: list[str]) -> Any:
    """In this process: CUDA starts once."""
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def losses(out: Path) -> list[float]:
    """All losses in the logs of a run."""
    files = sorted(out.rglob("metrics.jsonl"))
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [value for record in records for name, value in record.items() if name in ("kd", "mlm", "task")]


@pytest.mark.parametrize("case", CASES)
def test_every_method_and_every_verb_that_trains(
    device: str, world: dict[str, Path], tmp_path: Path, case: str
) -> None:
    found = run(words_of(case, world, tmp_path / "out", device))
    assert found
    assert all(0 <= value < 100 for value in losses(tmp_path / "out"))
    for path in tmp_path.rglob("ticket.json"):
        ticket = Ticket.from_pretrained(path.parent)
        assert 0 < ticket.pruned < ticket.total


@pytest.mark.parametrize("pattern", [{"pattern": "2:4"}, {"ranking": "row"}, {"ranking": "global"}], ids=str)
@pytest.mark.parametrize("bf16", [False, True])
def test_trained_masks_have_exact_counts(
    device: str, world: dict[str, Path], tmp_path: Path, pattern: dict[str, str], bf16: bool
) -> None:
    config = SearchConfig(
        model=str(world["bert"]),
        method="mask-training",
        objective="kd,mlm",
        corpus=str(world["text"]),
        scope="encoder",
        sparsity=0.5,
        steps=4,
        segments="packed:16",
        batch_tokens=64,
        learning_rate=1e-2,
        **pattern,
    )
    (ticket,) = search_all(config, tmp_path / "out", Runtime(device=device, bf16=bf16, quiet=True)).values()
    assert ticket.pruned == ticket.total // 2
    if "pattern" in pattern:
        assert all(bool((mask.view(-1, 4).sum(1) == 2).all()) for mask in ticket.masks.values())
    if pattern.get("ranking") == "row":
        assert all(bool((mask.sum(1) == mask.shape[1] // 2).all()) for mask in ticket.masks.values())


@pytest.fixture(scope="module")
def ticket(device: str, world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("made") / "ticket"
    run(words_of("magnitude", world, out, device))
    return str(out)


@pytest.mark.parametrize("objective", ["kd,mlm", "logits", "attention", "contrastive"])
def test_evaluate_agrees_with_the_cpu(device: str, world: dict[str, Path], ticket: str, objective: str) -> None:
    words = ["evaluate", ticket, "--objective", objective, "--corpus", str(world["text"]), "--segments", "packed:16"]
    words += ["--batch-tokens", "64", "--quiet", "--json"]
    here, there = run([*words, "--device", device]), run([*words, "--device", "cpu"])
    numbers = {name for name, value in there.items() if isinstance(value, float) and "seconds" not in name}
    assert any(name.endswith("_loss") for name in numbers)
    for name in numbers:
        assert here[name] == pytest.approx(there[name], rel=1e-3, abs=1e-5), name


def test_a_fine_tuned_model_is_used_and_measured(
    device: str, world: dict[str, Path], ticket: str, tmp_path: Path
) -> None:
    words = ["transfer", ticket, "--task", "rte", "--data-dir", str(world["glue"]), "--steps", "3", "--seeds", "0"]
    run([*words, "--save-model", "--out", str(tmp_path / "run"), "--device", device, "--quiet", "--json"])
    words = ["predict", str(tmp_path / "run"), "--text", "the cat sat", "--text-pair", "birds sang", "--json"]
    here, there = (run([*words, "--device", where])["predictions"][0] for where in (device, "cpu"))
    assert list(here["scores"].values()) == pytest.approx(list(there["scores"].values()), abs=1e-3)
    words = ["measure", ticket, "--batch", "1,4", "--length", "8", "--repeats", "3", "--device", device, "--json"]
    assert all(shape["latency_seconds"]["median"] > 0 for shape in run([*words, "--quiet"])["shapes"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "kind", [{"ranking": "matrix"}, {"ranking": "row"}, {"ranking": "global"}, {"pattern": (2, 4)}]
)
def test_a_selection_is_that_of_the_cpu_tie_for_tie(device: str, dtype: torch.dtype, kind: dict[str, Any]) -> None:
    from winning_tickets.config import Pattern

    if "pattern" in kind:
        kind = {"pattern": Pattern(*kind["pattern"])}
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        values = {n: torch.randn(48, 32 * n, generator=generator) for n in (1, 2, 3)}
        # Few values give many ties in the scores; every other time in the weights as well.
        scores = {str(n): (value * (1 + seed)).round().to(dtype) for n, value in values.items()}
        weights = {str(n): (value.flip(0) * 2).round() if seed % 2 else value.flip(0) for n, value in values.items()}
        expected = keep_top(scores, 0.5, weights=weights, **kind)
        there = [{name: value.to(device) for name, value in one.items()} for one in (scores, weights)]
        found = keep_top(there[0], 0.5, weights=there[1], **kind)
        assert all(torch.equal(found[name].cpu(), mask) for name, mask in expected.items()), seed
