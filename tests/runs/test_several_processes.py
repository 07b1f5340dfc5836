"""Two processes give what one gives with the same batches: masks, losses, metrics; one writes; both end together."""

import importlib
import json
import os
import signal
import sys
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from samples.launch import Launch, launched
from samples.learning import QUIET, corpus_of, learning, with_tiny_tasks, without_dropout
from samples.tiny_models import make_model
from samples.tiny_tasks import task_data, transfers_read
from winning_tickets import SearchConfig, ShareConfig, Ticket, TransferConfig, hold, share, transfer
from winning_tickets.cli import main
from winning_tickets.config import Runtime
from winning_tickets.pruning.search import search, search_all
from winning_tickets.runs.directory import RunDirectory, read_log
from winning_tickets.runs.errors import TrainingError
from winning_tickets.runs.progress import scalars
from winning_tickets.training.parallel import nonempty, shard_batch
from winning_tickets.training.trainer import TicketTrainer, checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")  # forks
BOTH = {"objective": "kd,mlm", "sparsity": (0.5, 0.7), "steps": 4, "rung_steps": 2, "learning_rate": 1e-3}
CLOSE = 1e-5
"""Between losses, or weights, of one process and of two, whose sums round differently."""


@pytest.fixture
def bert(tmp_path):
    return without_dropout(make_model(tmp_path / "bert", head="mlm+pooler"))


@pytest.fixture(autouse=True)
def _tiny_tasks(monkeypatch):
    with_tiny_tasks(monkeypatch)
    transfers_read(monkeypatch)


@pytest.fixture
def training(bert, tmp_path):
    """A ladder of mask training with both objectives."""
    return learning(bert, "mask-training", corpus_of(tmp_path), **BOTH)


def tickets_of(path):
    """All files of tickets in a run, by name."""
    kinds = ("*.safetensors", "ticket.json")
    return {str(file.relative_to(path)): file.read_bytes() for kind in kinds for file in sorted(path.rglob(kind))}


def losses_of(path):
    """The numbers of the records of a run, without times."""
    return [
        {key: value for key, value in scalars(record).items() if key != "seconds"} | {"step": record["step"]}
        for record in read_log(path)
    ]


def check_close(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=CLOSE, abs=CLOSE)


def forbid_writing(folder):
    """From here on this process must not touch a folder."""
    changes = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate")

    def hook(event, arguments):
        writes = event in changes or (event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        if writes and str(arguments[0]).startswith(str(folder)):
            sys.stderr.write(f"{event} {arguments[0]}\n")

    sys.addaudithook(hook)


@contextmanager
def rows_in_turn():
    """One process computes what two compute: the rows of the one, then those of the other."""
    original = TicketTrainer.training_step

    def training_step(self, inputs):
        parts = [nonempty(shard_batch(inputs, rank, 2)) for rank in range(2)]
        sums = [original(self, part) for part in parts if part]
        return {name: sum(found.get(name, 0.0) for found in sums) for name in {name: 0 for one in sums for name in one}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TicketTrainer, "training_step", training_step)
        yield


def both(tmp_path, verb, *arguments):
    """What two processes make of a verb, in `both`, and what one does that takes their rows in turn, in `turn`."""
    launched(tmp_path, lambda rank: verb(*arguments, tmp_path / "both", QUIET))
    with rows_in_turn():
        verb(*arguments, tmp_path / "turn", QUIET)
    return tmp_path / "both", tmp_path / "turn"


def test_mask_training_gives_the_same_tickets_and_one_process_writes(training, tmp_path, monkeypatch):
    out = tmp_path / "together" / "run"
    monkeypatch.setenv("WINNING_TICKETS_CACHE", str(tmp_path / "together" / "cache"))

    def work(rank):
        if rank == 1:
            forbid_writing(tmp_path / "together")
        search_all(training, out, Runtime(checkpoint_steps=2))

    ended = launched(tmp_path, work)
    assert [(one.out, one.err) for one in ended] == [("", "")] * 2
    alone = search_all(training, tmp_path / "alone", QUIET)
    for sparsity, ticket in alone.items():
        other = Ticket.from_pretrained(out / f"sparsity-{sparsity:.2f}")
        # Whole batches against half batches: rounding may move a few weights across the threshold.
        different = sum(int((other.masks[name] != mask).sum()) for name, mask in ticket.masks.items())
        assert different <= ticket.total * 1e-3
        for name, value in ticket.mlm_head.items():
            torch.testing.assert_close(other.mlm_head[name], value, rtol=CLOSE, atol=CLOSE)
    check_close(losses_of(out), losses_of(tmp_path / "alone"))
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in (tmp_path / "alone").iterdir())


@pytest.mark.parametrize(
    "fields",
    [
        {"objective": "kd"},
        pytest.param({"objective": "mlm:1,kd:2", "sparsity": (0.5, 0.7), "rung_steps": 2}, marks=pytest.mark.slow),
        pytest.param({"objective": "mlm", "profile": "code", "student_dropout": 0.0}, marks=pytest.mark.slow),
        pytest.param({"objective": "kd", "pattern": "2:4"}, marks=pytest.mark.slow),
        pytest.param({"objective": "kd", "ranking": "global", "segments": "mixed:6-16"}, marks=pytest.mark.slow),
        pytest.param({"objective": "kd", "level": (40,), "score_init": "random"}, marks=pytest.mark.slow),
        pytest.param({"objective": "kd", "batch_tokens": 16}, marks=pytest.mark.slow),  # one row a step
    ],
    ids=lambda fields: "-".join(str(value) for value in fields.values()),
)
def test_mask_training_is_that_of_one_process_to_the_bit(bert, tmp_path, fields):
    own = {"learning_rate": 1e-3} if "level" in fields else {"learning_rate": 1e-3, "sparsity": 0.5}
    config = learning(bert, "mask-training", corpus_of(tmp_path), **(own | fields))
    found, expected = both(tmp_path, search_all, config)
    assert tickets_of(found) == tickets_of(expected) != {}
    check_close(losses_of(found), losses_of(expected))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["imp", "movement"])
@pytest.mark.parametrize(
    "fields",
    [
        {"objective": "mlm"},
        {"objective": "mlm+task:0.5", "tasks": ("rte",)},
        {"objective": "mlm+task:0.5", "tasks": ("rte",), "mixing": "proportional", "batch_size": 1},
    ],
    ids=["mlm", "sum", "proportional"],
)
def test_methods_that_train_weights_are_those_of_one_process_to_the_bit(bert, tmp_path, method, fields):
    corpus = corpus_of(tmp_path)
    own = {"rewind": "step:2", "save_trained": True} if method == "imp" else {"sparsity": (0.3, 0.6)}
    found, expected = both(tmp_path, search_all, learning(bert, method, corpus, **fields, **own))
    assert tickets_of(found) == tickets_of(expected) != {}
    check_close(losses_of(found), losses_of(expected))


def test_what_trains_nothing_is_done_once(bert, tmp_path):
    config = SearchConfig(model=bert, method="magnitude", sparsity=(0.5, 0.6))

    def work(rank):
        if rank == 1:
            forbid_writing(tmp_path)
        tickets = search_all(config, tmp_path / "both", QUIET)
        assert [round(ticket.sparsity, 1) for ticket in tickets.values()] == [0.5, 0.6]
        again = search_all(config, tmp_path / "both", QUIET)
        assert [ticket.id for ticket in again.values()] == [ticket.id for ticket in tickets.values()]

    assert launched(tmp_path, work)[1].err == ""
    search_all(config, tmp_path / "turn", QUIET)
    assert tickets_of(tmp_path / "both") == tickets_of(tmp_path / "turn")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["random", "wanda", "snip", "importance"])
def test_every_method_that_trains_nothing(bert, tmp_path, method):
    fields = {"objective": "kd", "level": (25,)} if method == "importance" else {"sparsity": 0.5}
    config = learning(bert, method, corpus_of(tmp_path), **fields)
    launched(tmp_path, lambda rank: search_all(config, tmp_path / "both", QUIET))
    search_all(config, tmp_path / "turn", QUIET)
    assert tickets_of(tmp_path / "both") == tickets_of(tmp_path / "turn")


def fine_tuning(bert, folder, **fields):
    """On a ticket, ten examples in batches of three: the last batch of an epoch has fewer rows than processes."""
    ticket = folder / "ticket"
    if not ticket.exists():
        search(SearchConfig(model=bert, method="magnitude", sparsity=0.6), ticket, QUIET)
    defaults = {"epochs": 1, "train_size": "10", "batch_size": 3, "save_model": True, "head_dropout": 0.0}
    return TransferConfig(target=str(ticket), task="mrpc", learning_rate=1e-3, **(defaults | fields))


def check_same_results(found, expected):
    """Numbers of two transfers or shares, and their models."""
    for path in sorted(expected.rglob("result.json")):
        one, other = (json.loads((folder / path.relative_to(expected)).read_text()) for folder in (found, expected))
        for timed in ("train_seconds", "machine"):
            one.pop(timed, None), other.pop(timed, None)
        assert one == other
    for path in expected.rglob("*.safetensors"):
        one, other = load_file(found / path.relative_to(expected)), load_file(path)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in other), path


def test_transfer_is_that_of_one_process_to_the_bit(bert, tmp_path):
    found, expected = both(tmp_path, transfer, fine_tuning(bert, tmp_path))
    check_same_results(found, expected)
    check_close(losses_of(found / "seed-0"), losses_of(expected / "seed-0"))
    transfer(fine_tuning(bert, tmp_path), tmp_path / "alone", QUIET)
    check_close(losses_of(found / "seed-0"), losses_of(tmp_path / "alone" / "seed-0"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"task": "stsb", "optimizer": "adamax", "batch_size": 4, "epochs": 2},
        {"patience": 1, "eval_steps": 1, "epochs": 5, "learning_rate": 1e-9},
        {"seeds": (0, 1), "warmup_ratio": 0.5, "weight_decay": 0.1},
    ],
    ids=["stsb", "patience", "seeds"],
)
def test_transfers_of_every_kind(bert, tmp_path, fields):
    found, expected = both(tmp_path, transfer, fine_tuning(bert, tmp_path).model_copy(update=fields))
    check_same_results(found, expected)


@pytest.mark.slow
def test_sharing_is_that_of_one_process_to_the_bit(bert, tmp_path, monkeypatch):
    setup = importlib.import_module("winning_tickets.finetuning.sharing_setup")
    sizes = {"rte": 9, "mrpc": 5, "stsb": 4}
    monkeypatch.setattr(setup, "load_data", lambda config: task_data(config.task, sizes[config.task], 6))
    gates = {"prune_heads": (2,), "prune_ffns": (1,), "selection": "random", "method": "importance"}
    search(SearchConfig(model=bert, objective="kd", **gates), tmp_path / "rte", QUIET)
    config = ShareConfig(
        tasks=tuple(sizes), tickets={"rte": str(tmp_path / "rte")}, epochs=1, batch_size=4, learning_rate=1e-3
    )
    check_same_results(*both(tmp_path, share, config))


def killed_at(step):
    """In a launched process: `kill -9` at the end of a step."""
    original = RunDirectory.log

    def log(self, record):
        if record["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, record)

    RunDirectory.log = log


def test_a_run_that_was_killed_goes_on_in_one_process_or_in_two(training, tmp_path):
    def killed(rank):
        killed_at(4)
        search_all(training, tmp_path / "both", Runtime(quiet=True, checkpoint_steps=2))

    ended = Launch(tmp_path, killed).wait()
    assert [one.code for one in ended] == [-9, -9]
    scratch = tmp_path / "both" / ".scratch"
    (kept,) = checkpoints(scratch)
    assert (kept.name, len(torch.load(kept, weights_only=True)["random_states"])) == ("checkpoint-2", 2)
    launched(tmp_path, lambda rank: search_all(training, tmp_path / "both", QUIET))
    with rows_in_turn():
        search_all(training, tmp_path / "turn", QUIET)
    assert tickets_of(tmp_path / "both") == tickets_of(tmp_path / "turn")
    assert not list(tmp_path.glob("both/**/.*.tmp"))


@pytest.mark.slow
def test_dropout_differs_between_processes_and_resumes_with_its_own_numbers(tmp_path):
    bert = str(make_model(tmp_path / "with-dropout", head="mlm+pooler"))
    config = fine_tuning(bert, tmp_path, epochs=2, head_dropout=0.3)
    launched(tmp_path, lambda rank: transfer(config, tmp_path / "whole", QUIET))

    def killed(rank):
        killed_at(5)
        transfer(config, tmp_path / "again", Runtime(quiet=True, checkpoint_steps=2))

    assert [one.code for one in Launch(tmp_path, killed).wait()] == [-9, -9]
    launched(tmp_path, lambda rank: transfer(config, tmp_path / "again", QUIET))
    check_same_results(tmp_path / "again", tmp_path / "whole")


@pytest.mark.parametrize("stopped", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_to_one_process_stops_both_after_a_checkpoint(training, tmp_path, stopped):
    def work(rank):
        if rank == stopped:
            original = RunDirectory.log

            def log(self, record):
                original(self, record)
                if record["step"] == 3:
                    os.kill(os.getpid(), signal.SIGTERM)

            RunDirectory.log = log
        search_all(training, tmp_path / "both", QUIET)

    ended = Launch(tmp_path, work).wait()
    assert [one.code for one in ended] == [143, 143]
    assert ended[0].err.startswith("Stopped by SIGTERM after step 3 of 6; a checkpoint is in")
    assert [path.name for path in checkpoints(tmp_path / "both" / ".scratch")] == ["checkpoint-3"]


def test_a_loss_that_is_not_finite_in_one_process_fails_the_seed_in_both(bert, tmp_path):
    objective = importlib.import_module("winning_tickets.training.objectives.task").TaskObjective
    config = fine_tuning(bert, tmp_path).model_copy(update={"seeds": (0, 1)})

    def work(rank):
        original, calls = objective.__call__, []

        def call(self, model, batch):
            calls.append(1)
            sums = original(self, model, batch)
            bad = rank == 1 and len(calls) == 2
            return {name: value * float("nan") for name, value in sums.items()} if bad else sums

        objective.__call__ = call
        transfer(config, tmp_path / "both", QUIET)

    ended = Launch(tmp_path, work).wait()
    assert [one.code for one in ended] == [1, 1]
    assert ended[0].err == ended[1].err
    assert "1 of 2 seeds failed (0). Seed 0: The loss is not finite at step 2" in ended[0].err
    summary = json.loads((tmp_path / "both" / "result.json").read_text())
    assert (summary["seeds"], summary["failed_seeds"]) == ([1], [0])
    assert "not finite" in (tmp_path / "both" / "seed-0" / "error.json").read_text()


@pytest.mark.slow
def test_an_error_of_one_process_ends_both_and_the_run_goes_on_later(training, tmp_path):
    def work(rank):
        if rank == 1:
            original = TicketTrainer.training_step

            def training_step(self, inputs):
                if self.step == 3:
                    raise TrainingError("This process ran out of memory.")
                return original(self, inputs)

            TicketTrainer.training_step = training_step
        search_all(training, tmp_path / "both", Runtime(quiet=True, checkpoint_steps=2))

    ended = Launch(tmp_path, work).wait()
    assert [one.code for one in ended] == [1, 1]
    assert ended[0].err == "This process ran out of memory.\n"
    launched(tmp_path, lambda rank: search_all(training, tmp_path / "both", QUIET))


def test_a_full_disk_ends_both_alike(training, tmp_path):
    def work(rank):
        files = importlib.import_module("winning_tickets.runs.directory")

        def append(path, line):
            raise TrainingError("Could not write.")

        files.append_line = append
        search_all(training, tmp_path / "both", QUIET)

    ended = Launch(tmp_path, work).wait()
    assert [(one.code, one.err) for one in ended] == [(1, "Could not write.\n")] * 2


def test_the_contrastive_objective_needs_all_segments_in_one_process(bert, tmp_path):
    config = learning(bert, "mask-training", corpus_of(tmp_path), sparsity=0.5, objective="kd,contrastive")
    ended = Launch(tmp_path, lambda rank: search_all(config, tmp_path / "both", QUIET)).wait()
    assert [one.code for one in ended] == [2, 2]
    assert "The contrastive objective compares all segments of a batch" in ended[0].err
    assert not (tmp_path / "both").exists()


def command(*words):
    """In a launched process: the command line."""

    def work(rank):
        sys.argv = ["tickets", *map(str, words)]
        main()

    return work


def test_the_command_prints_one_object_and_leaves_other_verbs_to_the_main_process(bert, tmp_path):
    options = ("--method", "magnitude", "--sparsity", "0.5", "--json")
    ended = launched(tmp_path, command("search", bert, *options, "--out", tmp_path / "both"))
    assert json.loads(ended[0].out)["out"] == str(tmp_path / "both")
    assert (ended[1].out, ended[1].err) == ("", "")
    ended = launched(tmp_path, command("inspect", tmp_path / "both", "--json"))
    assert json.loads(ended[0].out)["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert (ended[1].out, ended[1].err) == ("", "")
    refused = Launch(tmp_path, command("search", bert, *options, "--out", tmp_path / "both", "--seed", "3")).wait()
    assert [one.code for one in refused] == [2, 2]
    assert refused[0].err.startswith("Error: --out")
    assert (refused[0].out, refused[1].out, refused[1].err) == ("", "", "")


def test_gradients_are_masked_before_ddp_adds_them_up(bert, tmp_path):
    ticket_path = tmp_path / "ticket"
    search(SearchConfig(model=bert, method="magnitude", sparsity=0.6), ticket_path, QUIET)
    kept = []

    def work(rank):
        from transformers import AutoModel

        dist = torch.distributed
        dist.init_process_group("gloo")
        model, ticket = AutoModel.from_pretrained(bert, add_pooling_layer=False), Ticket.from_pretrained(ticket_path)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        hold(model, ticket, optimizer)
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        for step in range(3):
            optimizer.zero_grad()
            ids = torch.full((2, 5), 5 + rank + step)
            wrapped(input_ids=ids).last_hidden_state.square().mean().backward()
            for name, mask in ticket.masks.items():
                assert not torch.count_nonzero(model.get_parameter(name).grad[~mask])
            optimizer.step()
        for name, mask in ticket.masks.items():
            mine = model.get_parameter(name).detach()
            assert not torch.count_nonzero(mine[~mask])
            others = [torch.empty_like(mine) for _ in range(2)]
            dist.all_gather(others, mine)
            assert torch.equal(*others)
        kept.append(wrapped)  # taking it apart may wait for a thread that waits for the interpreter

    launched(tmp_path, work)
