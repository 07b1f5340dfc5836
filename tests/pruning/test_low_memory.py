"""Searches in little memory: short types of weights, scores and moments, some matrices, one layer after the other."""

from pathlib import Path

import pytest
import torch

from samples.tiny_decoders import make_decoder
from samples.tiny_models import TEXT
from winning_tickets import Runtime, SearchConfig, Ticket, search
from winning_tickets.models.loading import load_plm, tensor_hash
from winning_tickets.pruning.block_wise import output_of_layer
from winning_tickets.pruning.low_precision import LowPrecisionAdamW, round_at_random
from winning_tickets.pruning.memory import memory_plan
from winning_tickets.runs.directory import read_log
from winning_tickets.runs.errors import Interrupted, UsageError

QUIET = Runtime(quiet=True)
SHORT = {"score_dtype": "bfloat16", "moment_dtype": "bfloat16"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    (folder / "text.txt").write_text("\n".join(TEXT))
    for kind in ("gpt2", "llama"):
        make_decoder(folder / kind, kind)
    return folder


def configured(folder, kind="llama", **settings):
    fixed = {"method": "mask-training", "objective": "kd", "sparsity": 0.5, "corpus": str(folder / "text.txt")}
    fixed |= {"segments": "packed:16", "batch_tokens": 64, "steps": 4, "learning_rate": 1e-3, "score_init": "rank"}
    return SearchConfig(model=str(folder / kind), **fixed | settings)


def test_random_rounding_keeps_the_mean():
    generator = torch.Generator().manual_seed(0)
    value = 1.01
    rounded = round_at_random(torch.full((100_000,), value), torch.bfloat16, generator).float()
    assert len(rounded.unique()) == 2
    assert rounded.mean() == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.6, 0.8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_short_moments_take_the_steps_of_adamw(dtype, betas):
    """Exactly in float32, else nearly, also where gradients differ by orders of magnitude."""
    torch.manual_seed(0)
    size = torch.logspace(-6, 0, 3000)
    exact, short = (torch.nn.Parameter(torch.zeros(3000)) for _ in range(2))
    reference = torch.optim.AdamW([exact], lr=1e-3, betas=betas, weight_decay=0.1, fused=True)
    ours = LowPrecisionAdamW(
        [{"params": [short], "lr": 1e-3}], betas=betas, epsilon=1e-8, weight_decay=0.1, moments=dtype, seed=0
    )
    for _ in range(40):
        exact.grad = (torch.randn(3000) + 1) * size
        short.grad = exact.grad.clone()
        reference.step()
        ours.step()
    error = (short - exact).abs() / exact.abs().mean()
    assert error.mean() < {torch.float32: 1e-5, torch.bfloat16: 0.01}[dtype]
    assert short.abs().max() < 1.5 * exact.abs().max()


def test_no_update_of_a_short_score_is_lost():
    """Each step is a tenth of the distance between two neighbors in bfloat16."""
    score = torch.nn.Parameter(torch.ones(10_000, dtype=torch.bfloat16))
    optimizer = LowPrecisionAdamW(
        [{"params": [score], "lr": 2**-7 / 10}],
        betas=(0.9, 0.999),
        epsilon=1e-8,
        weight_decay=0.0,
        moments=torch.bfloat16,
        seed=0,
    )
    for _ in range(20):
        score.grad = -torch.ones_like(score)
        optimizer.step()
    assert score.detach().float().mean() == pytest.approx(1 + 20 * 2**-7 / 10, rel=1e-3)


def test_weights_in_bfloat16_are_those_of_the_checkpoint(folder, tmp_path):
    """The ticket names the checkpoint, whether that is stored in float32 or in bfloat16, and is as sparse."""
    short = load_plm(str(folder / "llama"), head="clm", dtype=torch.bfloat16)
    short.model.save_pretrained(tmp_path / "short")
    short.tokenizer.save_pretrained(tmp_path / "short")
    for model in (str(folder / "llama"), str(tmp_path / "short")):
        config = configured(folder, weights_dtype="bfloat16", **SHORT).model_copy(update={"model": model})
        ticket = search(config, tmp_path / f"t-{len(model)}", QUIET)
        plm = load_plm(model)
        assert ticket.apply_(plm.model) is plm.model
        assert ticket.sparsity == 0.5
    assert tensor_hash(torch.ones(3, dtype=torch.bfloat16)) == tensor_hash(torch.ones(3))


@pytest.mark.parametrize("settings", [SHORT, {"block_wise": True}, {"block_wise": True, **SHORT}])
def test_an_interrupted_search_gives_the_same_ticket(folder, tmp_path, settings, monkeypatch):
    from winning_tickets.training.trainer import StopOnSignal

    config = configured(folder, steps=6, **settings)
    whole = search(config, tmp_path / "whole", QUIET)
    original = StopOnSignal.on_step_end

    def stop(self, trainer):
        if trainer.step == 4:
            self.received = 15
        original(self, trainer)

    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "on_step_end", stop)
        with pytest.raises(Interrupted):
            search(config, tmp_path / "again", QUIET)
    again = search(config, tmp_path / "again", QUIET)
    assert [record["step"] for record in read_log(tmp_path / "again")] == [1, 2, 3, 4, 5, 6]
    assert again.id == whole.id


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_layers_take_turns(folder, tmp_path, kind):
    """Each is nearer to the dense layer at its end, only one has gradients, and the log says which one is trained."""
    seen = []

    from winning_tickets.pruning.mask_optimizer import MaskOptimizer

    original = MaskOptimizer.step

    def step(self, closure=None):
        seen.append(set(self.scores))
        original(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskOptimizer, "step", step)
        ticket = search(configured(folder, kind, block_wise=True, steps=5), tmp_path / "t", QUIET)
    layers = [record["layer"] for record in read_log(tmp_path / "t")]
    first, second = ("h.0", "h.1") if kind == "gpt2" else ("layers.0", "layers.1")
    assert layers == [first] * 2 + [second] * 3
    assert [{name[: len(first)] for name in names} for names in seen] == [{layer} for layer in layers]
    assert all(found == 0.5 for found in ticket.sparsity_by_matrix().values())


def test_the_output_of_a_layer_is_that_of_the_whole_model(folder):
    plm = load_plm(str(folder / "llama"))
    batch = {"input_ids": torch.arange(3, 19).view(2, 8)}
    states = plm.model.base_model(**batch, output_hidden_states=True).hidden_states
    torch.testing.assert_close(output_of_layer(plm.model, batch, plm.architecture, "layers.0"), states[1])
    again = plm.model.base_model(**batch, output_hidden_states=True).hidden_states  # nothing is left in the model
    torch.testing.assert_close(again, states)


REFUSED = {
    "another objective": ({"block_wise": True, "objective": "clm"}, "--block-wise contradicts --objective clm"),
    "a ladder": ({"block_wise": True, "sparsity": (0.3, 0.5)}, "--block-wise contradicts several sparsities"),
    "global": ({"block_wise": True, "ranking": "global"}, "--block-wise contradicts --ranking global"),
    "few steps": ({"block_wise": True, "steps": 1}, "divides --steps 1 among 2 layers"),
    "another optimizer": ({"optimizer": "bertadam", **SHORT}, "--score-dtype bfloat16 needs --optimizer adamw"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(folder, tmp_path, name):
    settings, message = REFUSED[name]
    with pytest.raises(UsageError) as caught:
        search(configured(folder, **settings), tmp_path / "out", QUIET)
    assert message in str(caught.value)
    assert not (tmp_path / "out" / "ticket.json").exists()


def test_a_short_search_learns_what_a_long_one_learns(folder, tmp_path):
    """Most weights of the two tickets are the same, though a step of bfloat16 is coarse."""
    long = search(configured(folder, steps=10), tmp_path / "long", QUIET)
    short = search(configured(folder, steps=10, weights_dtype="bfloat16", **SHORT), tmp_path / "short", QUIET)
    same = [(long.masks[name] == mask).float().mean().item() for name, mask in short.masks.items()]
    assert sum(same) / len(same) > 0.9
    assert Ticket.from_pretrained(tmp_path / "short").id == short.id


TYPES = {
    "long": {},
    "short": {"weights_dtype": "bfloat16", **SHORT},
    "one layer": {"weights_dtype": "bfloat16", "block_wise": True, **SHORT},
}


@pytest.mark.parametrize("name", TYPES)
def test_the_plan_says_the_bytes_that_a_search_has(folder, tmp_path, name):
    """Counted by storage when the gradients are there; the plan does not load the model."""
    from winning_tickets.pruning.mask_optimizer import MaskOptimizer

    config = configured(folder, steps=2, **TYPES[name])
    planned = memory_plan(config.resolved())
    original, loaded, found = MaskOptimizer.step, [], {}

    def load(*args, **options):
        loaded.append(load_plm(*args, **options))
        return loaded[-1]

    def step(self, closure=None):
        (model,) = (plm.model for plm in loaded)
        held = {
            "model": list(model.parameters()),
            "dense_weights": [self.masked.flat],
            "scores": [self._flat],
            "moments": [value for state in self._inner.state.values() for key, value in state.items() if key != "step"],
            "gradients": [parameter.grad for parameter in model.parameters() if parameter.grad is not None],
        }
        found.update({key: sum(one.untyped_storage().nbytes() for one in set(ones)) for key, ones in held.items()})
        original(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskOptimizer, "step", step)
        patch.setattr("winning_tickets.pruning.preparation.load_plm", load)
        search(config, tmp_path / "t", QUIET)
    if name == "one layer":
        found["dense_weights"] = planned["dense_weights"]  # of which the optimizer sees a part
    # The scale of a block counts once more where a matrix ends inside it.
    assert {key: value for key, value in found.items() if key != "moments"} == {
        key: planned[key] for key in found if key != "moments"
    }
    assert found["moments"] == pytest.approx(planned["moments"], rel=0.02)


def test_a_search_without_enough_memory_is_refused_before_anything_is_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 20, "SC_PAGE_SIZE": 1000}[name])
    monkeypatch.setattr("winning_tickets.pruning.preparation.load_plm", None)
    with pytest.raises(UsageError, match="needs 0.0 GB for .* --weights-dtype bfloat16 or --score-dtype bfloat16"):
        search(configured(folder), tmp_path / "t", QUIET)
    assert not (tmp_path / "t").exists()


def test_a_plan_of_a_large_model_loads_nothing(tmp_path):
    """The bytes of Llama 7B by the arithmetic of its shapes: 32 layers of 202 million weights, and the embeddings."""
    from transformers import LlamaConfig

    LlamaConfig().save_pretrained(tmp_path / "large")  # the default sizes are those of 7B
    config = SearchConfig(
        model=str(tmp_path / "large"), corpus="pydocs", weights_dtype="bfloat16", block_wise=True, **SHORT
    )
    planned = memory_plan(config.resolved())
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    assert planned["dense_weights"] == 32 * layer * 2
    assert planned["scores"] == layer * 2
    assert planned["model"] == (32 * (layer + 2 * 4096) + 32000 * 4096 + 4096) * 2
    assert planned["at_once"] < 30e9


def test_the_table_of_the_docs_is_the_plan(folder):
    page = Path(__file__).resolve().parents[2] / "docs" / "how_to" / "prune_a_decoder.md"
    (row,) = (line for line in page.read_text().splitlines() if line.startswith("| bytes per weight"))
    columns = ({}, {"weights_dtype": "bfloat16"}, {"score_dtype": "bfloat16"}, {"moment_dtype": "bfloat16"})
    settings, found = {}, []
    for column in columns:
        settings |= column
        planned = memory_plan(configured(folder, **settings).resolved())
        weights = planned["scores"] // (2 if "score_dtype" in settings else 4)
        outside = planned["model"] - weights * (2 if settings else 4)
        found.append(round((planned["at_once"] - outside) / weights, 2))
    assert found == [float(cell) for cell in row.split("|")[2:-1]]
