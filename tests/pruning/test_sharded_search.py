"""`tickets search --shard`: two processes that share every matrix find the ticket of one, which may end their runs."""

import gc
import json
import os
import shutil
import signal
import sys

import pytest
import torch

from samples.launch import Launch, launched
from samples.learning import QUIET, Killed, corpus_of, killed_after, learning, without_dropout
from samples.settings import read_by_method
from samples.tiny_decoders import make_decoder
from samples.tiny_models import make_model
from winning_tickets import SearchConfig, Ticket, TransferConfig, transfer
from winning_tickets.cli import main
from winning_tickets.config import Runtime
from winning_tickets.models.lm_head import untie_decoder
from winning_tickets.models.loading import load_plm, outline, prunable_names
from winning_tickets.pruning.mask_optimizer import MaskOptimizer
from winning_tickets.pruning.memory import memory_plan
from winning_tickets.pruning.search import search, search_all
from winning_tickets.pruning.sharded import check_matrices, check_sharding, sharded_modules
from winning_tickets.runs.directory import RunDirectory, read_log
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.trainer import checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")  # forks
SHARDED = Runtime(quiet=True, shard=True, checkpoint_steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    without_dropout(make_model(folder / "bert", head="mlm+pooler"))
    for kind in ("qwen2", "gpt2"):
        make_decoder(folder / kind, kind)
    corpus_of(folder)
    return folder


def configured(folder, model, **fields):
    fields = {"sparsity": 0.5, "learning_rate": 1e-3} | fields
    return learning(str(folder / model), "mask-training", str(folder / "corpus.txt"), **fields)


def encoder(folder, **fields):
    """Two sparsities of an encoder, with its head and its word embeddings, whose gradients are clipped together."""
    settings = {"objective": "mlm:1,kd:2,attention:1", "sparsity": (0.5, 0.7), "rung_steps": 2, "clip": "global"}
    return configured(folder, "bert", **settings | {"train_embeddings": True} | fields)


def decoder(folder, **fields):
    """A decoder whose output embeddings are tied to word embeddings without a mask."""
    return configured(folder, "qwen2", **{"objective": "clm+kd+logits", "save_at": (1,)} | fields)


def same_up_to_rounding(found, expected, moved=1e-3):
    """Whole batches against half batches, and sums in another order, may move a few weights across the threshold."""
    assert found.masks.keys() == expected.masks.keys()
    different = sum(int((found.masks[name] != mask).sum()) for name, mask in expected.masks.items())
    assert different <= expected.total * moved
    assert found.info.config == expected.info.config
    for name, value in (expected.mlm_head or {}).items():
        torch.testing.assert_close(found.mlm_head[name], value, rtol=1e-5, atol=1e-5)


def bytes_held():
    """Bytes of all floats that are in memory, each storage once."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor) and not hasattr(one, "to_local")]
    storages = [one.untyped_storage() for one in tensors if one.is_floating_point()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def held_at_a_step(folder, rank):
    """In a launched process: write what is in memory in the second step, when there are gradients."""
    original = MaskOptimizer.gradient_norm

    def gradient_norm(self):
        if self.steps == 1:
            (folder / f"held-{rank}").write_text(str(bytes_held()))
        return original(self)

    MaskOptimizer.gradient_norm = gradient_norm


def test_two_processes_find_the_tickets_of_one_and_hold_a_half_each(folder, tmp_path):
    def work(rank):
        search_all(encoder(folder), tmp_path / "encoder", SHARDED)
        held_at_a_step(tmp_path, rank)
        checkpointing = SHARDED.model_copy(update={"gradient_checkpointing": True})
        search_all(decoder(folder), tmp_path / "decoder", checkpointing)

    ended = launched(tmp_path, work)
    assert [one.out for one in ended] == ["", ""]
    for name, config in (("encoder", encoder(folder)), ("decoder", decoder(folder))):
        expected = search_all(config, tmp_path / "one" / name, QUIET)
        for sparsity, ticket in expected.items():
            inside = f"sparsity-{sparsity:.2f}" if len(expected) > 1 else "."
            same_up_to_rounding(Ticket.from_pretrained(tmp_path / name / inside), ticket)
        ours, theirs = (json.loads((at / name / "result.json").read_text()) for at in (tmp_path, tmp_path / "one"))
        assert ours["run_id"] == theirs["run_id"]
        for one, other in zip(read_log(tmp_path / name), read_log(tmp_path / "one" / name), strict=True):
            for key in config.terms:
                assert one[key] == pytest.approx(other[key], rel=1e-4, abs=1e-5)
    first, last = (Ticket.from_pretrained(tmp_path / "decoder" / inside) for inside in ("step-000001", "."))
    moved = sum(int((first.masks[name] != mask).sum()) for name, mask in last.masks.items())
    assert moved > 20  # a search that moves nothing would prove nothing
    planned = memory_plan(decoder(folder).resolved(), 2)
    for rank in range(2):
        # Without what is gathered in a pass; there are also some numbers, such as steps, that the plan does not count.
        assert int((tmp_path / f"held-{rank}").read_text()) == pytest.approx(
            planned["at_once"] - planned["gathered"], rel=0.01
        )


def stopped_after(step, number):
    """In a launched process: a signal to itself at the end of a step."""
    original = RunDirectory.log

    def log(self, record):
        original(self, record)
        if record["step"] == step:
            os.kill(os.getpid(), number)

    RunDirectory.log = log


def test_a_run_may_be_begun_and_finished_by_two_processes_or_by_one(folder, tmp_path):
    config = encoder(folder)

    def stopped(rank):
        if rank == 1:
            stopped_after(3, signal.SIGTERM)
        search_all(config, tmp_path / "again", SHARDED)

    ended = Launch(tmp_path, stopped).wait()
    assert [one.code for one in ended] == [143, 143]
    assert ended[0].err.startswith("Stopped by SIGTERM after step 3 of 6; a checkpoint is in")
    assert [path.name for path in checkpoints(tmp_path / "again" / ".scratch")] == ["checkpoint-3"]
    shutil.copytree(tmp_path / "again", tmp_path / "alone")
    with killed_after(3), pytest.raises(Killed):
        search_all(config, tmp_path / "begun", Runtime(quiet=True, checkpoint_steps=2))

    def resumed(rank):
        for name in ("again", "whole", "begun"):
            search_all(config, tmp_path / name, SHARDED)

    launched(tmp_path, resumed)
    alone = search_all(config, tmp_path / "alone", QUIET)
    for sparsity, ticket in alone.items():
        inside = f"sparsity-{sparsity:.2f}"
        again, whole = (Ticket.from_pretrained(tmp_path / name / inside) for name in ("again", "whole"))
        assert again.id == whole.id
        assert all(torch.equal(again.mlm_head[name], value) for name, value in whole.mlm_head.items())
        for other in (ticket, Ticket.from_pretrained(tmp_path / "begun" / inside)):
            same_up_to_rounding(other, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"objective": "kd", "ranking": "global"},
        {"objective": "clm", "ranking": "row"},
        {"objective": "clm", "pattern": "2:4"},
        {"objective": "logits", "scope": "encoder+embeddings", "train_embeddings": True, "clip": "tensor"},
        {"objective": "kd", "profile": "paper", "segments": "packed:16", "student_dropout": 0.0},
        {"objective": "clm+kd", "score_init": "random"},
    ],
    ids=lambda fields: "-".join(str(value) for value in fields.values()),
)
def test_every_way_to_select(folder, tmp_path, fields):
    config = decoder(folder, **fields)
    if "pattern" in fields:
        config = SearchConfig.of(**config.model_dump(exclude={"sparsity"}, exclude_unset=True))
    launched(tmp_path, lambda rank: search(config, tmp_path / "two", SHARDED))
    same_up_to_rounding(Ticket.from_pretrained(tmp_path / "two"), search(config, tmp_path / "one", QUIET))


@pytest.mark.slow
def test_bfloat16(folder, tmp_path):
    how = {"bf16": True, "gradient_checkpointing": True}
    launched(tmp_path, lambda rank: search(decoder(folder), tmp_path / "two", SHARDED.model_copy(update=how)))
    one = search(decoder(folder), tmp_path / "one", QUIET.model_copy(update=how))
    same_up_to_rounding(Ticket.from_pretrained(tmp_path / "two"), one, moved=1e-2)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other_one_with_a_message(folder, tmp_path):
    def work(rank):
        if rank == 1:
            stopped_after(3, signal.SIGKILL)
        search_all(encoder(folder), tmp_path / "run", SHARDED)

    ended = Launch(tmp_path, work).wait()
    assert [one.code for one in ended] == [1, -9]
    assert ended[0].err.startswith("Another process of this run ended without a message")
    assert [path.name for path in checkpoints(tmp_path / "run" / ".scratch")] == ["checkpoint-2"]


REFUSED = {
    "one process": ({}, {}, 1, "among the processes of a launch, and there is one: start several with torchrun"),
    "imp": ({"method": "imp", "objective": "mlm"}, {}, 2, "this search is --method imp; leave --shard out"),
    "magnitude": ({"method": "magnitude"}, {}, 2, "this search is --method magnitude"),
    "gates": ({"level": (40,), "scope": "encoder"}, {}, 2, "this search with --level or counts trains gates"),
    "layer by layer": ({"block_wise": True}, {}, 2, "in float32, and --block-wise saves memory in another way"),
    "short weights": ({"weights_dtype": "bfloat16"}, {}, 2, "--weights-dtype bfloat16 saves memory in another way"),
    "short moments": ({"moment_dtype": "bfloat16"}, {}, 2, "--moment-dtype bfloat16 saves"),
    "compiled": ({}, {"torch_compile": True}, 2, "--compile is for models that are whole in each process"),
    "bfloat16": ({}, {"bf16": True}, 2, "--bf16 with --shard needs --gradient-checkpointing"),
    "few segments": (
        {"segments": "packed:512", "batch_tokens": 2048},
        {},
        8,
        "may hold 4 of packed:512; raise it to at least 4096",
    ),
    "a device": ({}, {"device": "meta"}, 2, "--device meta"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_sharded_is_refused_before_anything_is_loaded(monkeypatch, case):
    fields, how, processes, message = REFUSED[case]
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    config = read_by_method(**{"model": "m", "method": "mask-training", "corpus": "pydocs"} | fields)
    with pytest.raises(UsageError, match=message):
        check_sharding(config.resolved(), Runtime(shard=True, **how))


def test_models_that_cannot_be_sharded_are_refused(folder, monkeypatch):
    def check(name, processes=2):
        plm = load_plm(str(folder / name))
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        check_matrices(plm, dict.fromkeys(prunable_names(plm, "encoder"), torch.Size((32, 32))))

    check("qwen2")
    with pytest.raises(UsageError, match=r"gpt2 stores h.0.attn.c_attn.weight.T\[0/3\] inside a larger parameter"):
        check("gpt2")
    with pytest.raises(UsageError, match="has 32 rows for 31 processes, which leaves some without any; use fewer"):
        check("bert", 31)
    make_model(folder / "albert", "albert")
    with pytest.raises(UsageError, match="albert applies the same layer several times"):
        check("albert")


def test_word_embeddings_that_compute_logits_stay_whole(folder):
    whole = outline(str(folder / "qwen2"), "clm")
    assert sharded_modules(whole) == ["layers.0", "layers.1"]
    untie_decoder(whole, whole.encoder.embed_tokens.weight.detach())
    assert sharded_modules(whole) == ["embed_tokens", "layers.0", "layers.1"]
    assert sharded_modules(outline(str(folder / "qwen2"))) == ["embed_tokens", "layers.0", "layers.1"]


def test_the_plan_counts_the_share_of_a_process(folder):
    one, four = (memory_plan(decoder(folder).resolved(), count) for count in (1, 4))
    for name in ("dense_weights", "scores", "moments", "gradients"):
        assert four[name] == one[name] / 4
    layers = sum(parameter.numel() for parameter in outline(str(folder / "qwen2")).encoder.layers.parameters())
    assert four["model"] == one["model"] - 4 * layers * 3 / 4
    assert four["teacher"] == layers
    assert "teacher" not in one
    assert memory_plan(decoder(folder, objective="clm").resolved(), 4)["teacher"] == 0


def test_what_trains_no_masks_is_refused_in_python(folder, tmp_path):
    (tmp_path / "rows.csv").write_text("sentence,label\n" + "a dog barks,0\na cat sleeps,1\n" * 4)
    rows = str(tmp_path / "rows.csv")
    config = TransferConfig(target=str(folder / "bert"), train_file=rows, validation_file=rows, steps=1)
    with pytest.raises(UsageError, match="--shard is for tickets search by mask training, and nothing is sharded here"):
        transfer(config, tmp_path / "run", Runtime(quiet=True, shard=True))


def test_the_command_says_the_share_of_a_process_or_that_there_is_one(folder, monkeypatch, capsys):
    words = ["search", str(folder / "qwen2"), "--objective", "clm", "--corpus", str(folder / "corpus.txt"), "--shard"]
    words += ["--segments", "packed:16", "--batch-tokens", "64", "--out", "x", "--dry-run", "--json"]

    def run():
        monkeypatch.setattr(sys, "argv", ["tickets", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    code, printed = run()
    assert code == 2
    assert printed.err.startswith("Error: --shard divides a model among the processes of a launch, and there is one")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    code, printed = run()
    assert code == 0, printed.err
    assert json.loads(printed.out)["plan"]["memory_bytes"]["teacher"] == 0
