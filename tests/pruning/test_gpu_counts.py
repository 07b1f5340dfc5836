"""What a step launches on a GPU and how often it waits: counted on a pretend one, with bounds that may only fall.

A launch costs the host some microseconds and a sync makes it wait for the device, so these numbers decide whether a GPU
is kept busy. They do not depend on the width of a model, only on its layers: 12, as in BERT-base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM
from transformers.utils import logging as transformers_logging

from samples.batches import batch_of
from samples.tiny import tiny_tokenizer
from samples.tiny_decoders import make_decoder
from samples.tiny_models import TEXT
from tools.pretend_gpu import Counts, PretendGPU
from winning_tickets import search_all
from winning_tickets.config import Runtime, SearchConfig
from winning_tickets.models.loading import load_plm
from winning_tickets.models.structure import structure_of
from winning_tickets.pruning.importance import DEFINITIONS, add_up, close_gates, random_unit_scores
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.training.objectives.task import TaskObjective

MODEL = ("training/objectives/pretraining.py", "training/trainer.py")
"""Files whose lines run forward and backward passes: what they launch is the model's, and a record of the step."""
OWN_LAUNCHES = 160  # of a step with kd: loss, optimizer, selection and write of 12 layers; 8 for each size of a matrix
STEPS = 4
WARM = 2  # steps that may allocate or miss a band

BOUNDS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    # name: settings, and the most launches, syncs and uploads of a step
    "kd": ({"objective": "kd"}, (1200, 2, 8)),
    "mlm": ({"objective": "mlm"}, (1000, 3, 8)),
    "mlm+kd": ({"objective": "mlm+kd"}, (1250, 3, 10)),
    "kd, code": ({"objective": "kd", "profile": "code", "reselect_steps": 1}, (2400, 2, 10)),
    "2:4": ({"objective": "kd", "pattern": "2:4", "scope": "encoder"}, (1200, 2, 4)),
    "row": ({"objective": "kd", "ranking": "row", "scope": "encoder"}, (1400, 2, 4)),
    "global": ({"objective": "kd", "ranking": "global"}, (1200, 2, 8)),
    "gates": ({"objective": "kd", "prune_heads": (6,), "prune_ffns": (3,)}, (1050, 2, 0)),
}


def _names(bounds: Iterable[str], others: Iterable[str]) -> list[Any]:
    """Parameters of a test; the others, which are much like one of the rest, are slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in others else []) for name in bounds]


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


@pytest.mark.parametrize("name", _names(BOUNDS, ["mlm", "mlm+kd", "kd, code", "2:4", "row", "global"]))
def test_a_step_of_mask_training(
    model: Path, tmp_path: Path, steps: list[Counts], name: str, record_property: Callable[[str, object], None]
) -> None:
    settings, most = BOUNDS[name]
    check_steps(model / "model", model / "corpus.txt", tmp_path / "out", steps, settings, most, record_property)


DECODER_BOUNDS: dict[str, tuple[str, dict[str, Any], tuple[int, int, int]]] = {
    # name: family, settings, and the most launches, syncs and uploads of a step
    "llama, kd": ("llama", {"objective": "kd"}, (2232, 2, 1)),
    "llama, kd, 2:4": ("llama", {"objective": "kd", "pattern": "2:4"}, (2216, 1, 0)),
    "gpt_neox, kd": ("gpt_neox", {"objective": "kd"}, (1516, 2, 1)),
    "gpt_neox, kd, 2:4": ("gpt_neox", {"objective": "kd", "pattern": "2:4"}, (1511, 1, 0)),
    "llama, clm": ("llama", {"objective": "clm"}, (1554, 2, 2)),
    "gpt2, clm+kd+logits": ("gpt2", {"objective": "clm+kd+logits"}, (1385, 2, 2)),
}


@pytest.mark.parametrize("name", _names(DECODER_BOUNDS, [name for name in DECODER_BOUNDS if name != "llama, kd"]))
def test_a_step_of_a_decoder(
    model: Path, tmp_path: Path, steps: list[Counts], name: str, record_property: Callable[[str, object], None]
) -> None:
    """As few syncs as a step of an encoder has; rotations and norms of 12 layers launch more, masks do not."""
    kind, settings, most = DECODER_BOUNDS[name]
    layers = {"n_layer": 12, "resid_pdrop": 0.0} if kind == "gpt2" else {"num_hidden_layers": 12}
    folder = make_decoder(tmp_path / kind, kind, **layers)
    check_steps(folder, model / "corpus.txt", tmp_path / "out", steps, settings, most, record_property)


def check_steps(
    folder: Path,
    corpus: Path,
    out: Path,
    steps: list[Counts],
    settings: dict[str, Any],
    most: tuple[int, int, int],
    record_property: Callable[[str, object], None],
) -> None:
    """Search with a model, and hold the counts of its steps against their bounds."""
    levels = {} if "prune_heads" in settings or "pattern" in settings else {"sparsity": 0.6}
    config = SearchConfig(
        model=str(folder),
        method="mask-training",
        corpus=str(corpus),
        segments="packed:16",
        batch_tokens=64,
        steps=STEPS,
        learning_rate=1e-4,
        **levels,
        **settings,
    )
    search_all(config, out, Runtime(device="cuda", quiet=True))
    # The first region is step 2, and the last one goes on after the training.
    whole = steps[WARM - 1 : -1]
    assert whole
    record_property("launches_syncs_uploads", [counts.numbers for counts in whole])
    for kind, (bound, *found) in enumerate(zip(most, *(counts.numbers for counts in whole), strict=True)):
        worst = whole[found.index(max(found))]
        assert max(found) <= bound, f"{('launches', 'syncs', 'uploads')[kind]}\n{worst.report()}"
    if settings["objective"] == "kd" and set(settings) <= {"objective", "pattern", "scope"}:
        own = [sum(n for place, n in one.launches.items() if not place.startswith(MODEL)) for one in whole]
        record_property("launches_of_loss_and_masks", own)
        assert max(own) <= OWN_LAUNCHES, whole[own.index(max(own))].report()


def test_importances_are_read_at_the_end(model: Path) -> None:
    """Sums and samples once for each definition and unit, losses once for up to 16 batches, whatever the data."""
    plm = load_plm(str(model / "model"), head="classification")
    structure, objective = structure_of(plm), TaskObjective("classification")
    units = ("heads", "ffns", "layers")
    batches = [batch_of(seed) | {"labels": torch.tensor([0, 1, 1])} for seed in range(3)]
    expected = add_up(plm.model, structure, objective, batches, units=units).finish({})
    with PretendGPU() as gpu:
        plm.model.to("cuda")
        with gpu.counting() as counts:
            sums = add_up(plm.model, structure, objective, batches, units=units)
        with gpu.counting() as last:
            found = sums.finish({})
    ours = [number for place, number in (counts.syncs + counts.uploads).items() if place.startswith("pruning/")]
    assert ours == [1], counts.report()
    assert last.numbers[1] == len(DEFINITIONS) * len(units) + len(units) + 1, last.report()
    for definition, values in expected.values.items():
        for unit, value in values.items():
            torch.testing.assert_close(found.values[definition][unit], value, rtol=1e-5, atol=1e-9)


def test_choosing_gates_reads_nothing(model: Path) -> None:
    structure = structure_of(load_plm(str(model / "model")))
    scores = random_unit_scores(structure, ("heads", "neurons"), seed=0)
    expected = close_gates(scores, {"heads": 7, "neurons": 100}, structure, min_heads_per_layer=1)
    with PretendGPU() as gpu:
        there = {unit: value.to("cuda") for unit, value in scores.items()}
        with gpu.counting() as counts:
            found = close_gates(there, {"heads": 7, "neurons": 100}, structure, min_heads_per_layer=1)
        assert counts.numbers[1:] == (0, 0), counts.report()
        assert all(torch.equal(found[name].cpu(), gate) for name, gate in expected.items())
