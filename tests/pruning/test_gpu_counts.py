"""What a step launches on a GPU and how often it waits: counted on a pretend one, with bounds that may only fall.

A launch costs the host some microseconds and a sync makes it wait for the device, so these numbers decide whether a GPU
is kept busy. They do not depend on the width of a model, only on its layers: 12, as in BERT-base.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM
from transformers.utils import logging as transformers_logging

from samples.pretend_gpu import Counts, PretendGPU
from samples.tiny import tiny_tokenizer
from samples.tiny_models import TEXT
from winning_tickets import search_all
from winning_tickets.config import Runtime, SearchConfig
from winning_tickets.runs.directory import RunDirectory

STEPS = 6
WARM = 3  # steps that may allocate or miss a band

BOUNDS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    # name: settings, and the most launches, syncs and uploads of a step
    "kd": ({"objective": "kd"}, (3600, 380, 20)),
    "mlm": ({"objective": "mlm"}, (2800, 390, 20)),
    "mlm+kd": ({"objective": "mlm+kd"}, (3700, 390, 20)),
    "kd, code": ({"objective": "kd", "profile": "code"}, (4400, 390, 20)),
    "2:4": ({"objective": "kd", "pattern": "2:4", "scope": "encoder"}, (4000, 400, 20)),
    "row": ({"objective": "kd", "ranking": "row", "scope": "encoder"}, (4000, 400, 20)),
    "global": ({"objective": "kd", "ranking": "global"}, (2400, 40, 20)),
    "gates": ({"objective": "kd", "heads": (6,), "ffns": (3,)}, (2400, 20, 20)),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve layers that are tiny, without dropout."""
    folder = tmp_path_factory.mktemp("deep")
    tokenizer = tiny_tokenizer(TEXT)
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=12,
        num_attention_heads=2,
        intermediate_size=64,
        pad_token_id=0,
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertForMaskedLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "corpus.txt").write_text("\n".join(TEXT))
    return folder


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Counts]]:
    """The counts of each step: what happens between two records of the log."""
    found: list[Counts] = []
    original = RunDirectory.log
    with PretendGPU() as gpu:
        region = gpu.counting()

        def log(run: RunDirectory, record: dict[str, Any]) -> None:
            nonlocal region
            original(run, record)
            if found:
                region.__exit__(None, None, None)
            region = gpu.counting()
            found.append(region.__enter__())

        monkeypatch.setattr(RunDirectory, "log", log)
        yield found


@pytest.mark.parametrize("name", BOUNDS)
def test_a_step_of_mask_training(model: Path, tmp_path: Path, steps: list[Counts], name: str) -> None:
    settings, most = BOUNDS[name]
    levels = {} if "heads" in settings or "pattern" in settings else {"sparsity": 0.6}
    config = SearchConfig(
        model=str(model / "model"),
        method="mask-training",
        corpus=str(model / "corpus.txt"),
        segments="packed:16",
        batch_tokens=64,
        steps=STEPS,
        learning_rate=1e-4,
        **levels,
        **settings,
    )
    search_all(config, tmp_path / "out", Runtime(device="cuda", quiet=True))
    # The last region goes on after the training.
    whole = steps[WARM:-1]
    assert len(whole) == STEPS - WARM - 1
    for kind, (bound, *found) in enumerate(zip(most, *(counts.numbers for counts in whole), strict=True)):
        worst = whole[found.index(max(found))]
        assert max(found) <= bound, f"{('launches', 'syncs', 'uploads')[kind]} of {name}\n{worst.report()}"
