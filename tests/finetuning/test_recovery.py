"""A recovery has one commit point: killed at any write, it ends with the same weights, records and numbers."""

import copy
import shutil

import pytest
import torch

from samples.tiny_models import TEXT, make_model
from tools.kills import every_state
from winning_tickets import Runtime, ShrinkConfig
from winning_tickets.finetuning import recovery
from winning_tickets.finetuning.shrink import objective_of
from winning_tickets.finetuning.shrink_source import ShrinkSource
from winning_tickets.runs.directory import RunDirectory, read_log

LITTLE = {"batch_tokens": 32, "max_tokens": 64, "segments": "packed:8", "steps": 7, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """A function that recovers the same small model in a folder, and returns everything that comes of it."""
    world = tmp_path_factory.mktemp("world")
    (world / "corpus.txt").write_text("\n".join(TEXT))
    model = str(make_model(world / "bert", "bert", "none"))
    corpus = str(world / "corpus.txt")
    source = ShrinkSource.find(ShrinkConfig.of(model=model, corpus=corpus, speedup=(1.5,), **LITTLE))

    def recovered(folder, every, checkpoint_steps):
        config = ShrinkConfig.of(model=model, corpus=corpus, speedup=(1.5,), eval_steps=every, **LITTLE)
        small, run = copy.deepcopy(source.plm), RunDirectory(folder, "unfinished", "run")
        with torch.no_grad():
            for weight in small.encoder.encoder.parameters():
                weight.mul_(0.5)
        runtime = Runtime(quiet=True, device="cpu", checkpoint_steps=checkpoint_steps)
        objective = objective_of(source, [0, 1])
        facts = recovery.recover(
            config, small, objective, source.batches, held_out=source.held_out, run=run, runtime=runtime
        )
        weights = {name: value.clone() for name, value in small.model.state_dict().items()}
        files = sorted(path.name for path in run.scratch.iterdir())
        return weights, [*map(timeless, read_log(folder))], timeless(facts), files

    return recovered


def timeless(record):
    return {key: value for key, value in record.items() if key != "seconds"}


@pytest.mark.parametrize(("every", "checkpoint_steps"), [(2, 3), (3, 2)])
def test_a_kill_at_any_write_changes_nothing(train, tmp_path, monkeypatch, every, checkpoint_steps):
    measure = recovery.held_out_losses

    def shifted(*inputs, **how):
        return {"sum": abs(measure(*inputs, **how)["sum"] - 0.5)}

    monkeypatch.setattr(recovery, "held_out_losses", shifted)
    with every_state(tmp_path / "run", tmp_path / "copies") as states:
        weights, log, facts, files = train(tmp_path / "run", every, checkpoint_steps)
    assert facts["best_step"] == (4 if every == 2 else 3)  # between two checkpoints, and not at the end
    assert len(states) > 12
    for state in states:
        found, *others = train(state, every, checkpoint_steps)
        assert others == [log, facts, files], state.name
        assert all(torch.equal(found[name], value) for name, value in weights.items()), state.name
        shutil.rmtree(state)
