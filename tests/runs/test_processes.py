"""Processes of one run: what they agree on, who works, and how one takes the others along when it fails."""

import importlib
import json
import os
import signal
import time

import pytest
import torch

from samples.launch import Launch, launched
from winning_tickets.runs import distributed
from winning_tickets.runs.distributed import described, error_of
from winning_tickets.runs.errors import ContentError, Interrupted, TicketsError, TrainingError, UsageError
from winning_tickets.training.parallel import all_reduce_gradients, nonempty, shard_batch

pytestmark = pytest.mark.usefixtures("one_thread")  # forks


def test_one_process_needs_no_others():
    with distributed.together():
        assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
        assert distributed.on_main(lambda: (1, 2)) == (1, 2)
        assert distributed.main_first(lambda: 7) == 7
        assert distributed.all_reduce_max(3) == 3
        assert distributed.all_reduce_sums([0.1, 0.2]) == [0.1, 0.2]
        assert distributed.all_gather("a") == ["a"]
        distributed.check_same("a", "run")


def test_several_agree(tmp_path):
    def work(rank):
        with distributed.together():
            assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (rank, 3, rank == 0)
            assert distributed.on_main(lambda: {"from": os.environ["RANK"]}) == {"from": "0"}
            assert distributed.all_reduce_max(10 + rank) == 12
            assert distributed.all_reduce_sums([0.5, rank]) == [1.5, 3.0]
            assert distributed.all_gather(f"r{rank}") == ["r0", "r1", "r2"]
            tensor = torch.full((3,), float(rank))
            distributed.all_reduce_(tensor)
            assert tensor.tolist() == [3.0] * 3
            made = distributed.main_first(lambda: (tmp_path / "cache").read_text() if rank else _written(tmp_path))
            assert made == "made"
            with distributed.together():
                assert distributed.world_size() == 3
        with distributed.together():  # a second run of the same processes
            assert distributed.on_main(lambda: 5) == 5
        assert distributed.world_size() == 1

    launched(tmp_path, work, 3)


def _written(folder):
    (folder / "cache").write_text("made")
    return "made"


def test_the_main_process_works_as_if_it_were_alone(tmp_path):
    def inner():
        assert distributed.world_size() == 1
        with distributed.together():
            return distributed.on_main(lambda: distributed.all_reduce_max(4))

    def work(rank):
        with distributed.together():
            assert distributed.on_main(inner) == 4
            assert distributed.world_size() == 2

    launched(tmp_path, work)


def test_processes_that_the_caller_has_connected_stay_connected_when_one_fails(tmp_path):
    @distributed.together()
    def fail(rank):
        assert distributed.on_main(lambda: 4) == 4
        if rank == 1:
            raise UsageError("Nobody else knows.")
        distributed._group.wait_for_outcome("never")

    def work(rank):
        torch.distributed.init_process_group("gloo")
        for _ in range(2):
            with pytest.raises(TicketsError, match="Nobody else knows"):
                fail(rank)
        with distributed.together():
            assert distributed.all_reduce_max(rank) == 1
        torch.distributed.destroy_process_group()

    launched(tmp_path, work)


@pytest.mark.parametrize("kind", [UsageError, ContentError, TrainingError])
def test_all_raise_what_the_main_process_met(tmp_path, kind):
    def fail():
        raise kind("The disk is full.")

    def work(rank):
        with distributed.together():
            with pytest.raises(kind, match="The disk is full") as caught:
                distributed.on_main(fail)
            assert caught.value.of_all
            assert distributed.all_reduce_max(rank) == 1  # they go on together

    launched(tmp_path, work)


def test_a_failure_of_one_ends_all_with_its_message_and_code(tmp_path):
    def work(rank):
        with distributed.together():
            if rank == 1:
                raise UsageError("Nobody else knows.")
            distributed.all_reduce_sums([1.0])

    ended = Launch(tmp_path, work).wait()
    assert [one.code for one in ended] == [2, 2]
    assert ended[0].err == "Nobody else knows.\n"


def test_a_failure_ends_those_that_wait_for_the_main_process(tmp_path):
    def work(rank):
        with distributed.together():
            if rank == 0:
                raise KeyError("a bug")
            distributed.on_main(lambda: None)

    ended = Launch(tmp_path, work).wait()
    assert [one.code for one in ended] == [1, 1]
    assert ended[1].err == "Process 0 failed with KeyError: 'a bug'.\n"


def test_a_process_that_is_killed_ends_all(tmp_path, monkeypatch):
    for wait in ("_REASON_SECONDS", "_END_SECONDS"):
        monkeypatch.setattr(distributed, wait, 0.5)

    def work(rank):
        with distributed.together():
            distributed.all_reduce_max(1)
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            distributed.all_reduce_max(1)

    ended = Launch(tmp_path, work).wait()
    assert [one.code for one in ended] == [1, -9]
    assert "Another process of this run ended without a message" in ended[0].err
    assert "resumes from the last checkpoint" in ended[0].err


def test_a_main_process_that_is_killed_is_told_of_by_another(tmp_path):
    cli = importlib.import_module("winning_tickets.cli")

    def work(rank):
        def command(**options):
            with distributed.together():
                distributed.all_reduce_max(1)
                if rank == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                distributed.all_reduce_max(1)

        cli.app = command
        cli.main()

    ended = Launch(tmp_path, work).wait()
    assert [one.code for one in ended] == [-9, 1]
    assert "Error: Another process of this run ended without a message" in ended[1].err


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_signal_to_one_ends_all_with_its_code(tmp_path, stopped):
    def terminate(number, frame):
        raise SystemExit(128 + number)

    def work(rank):
        signal.signal(signal.SIGTERM, terminate)
        with distributed.together():
            distributed.all_reduce_max(1)
            (tmp_path / f"ready-{rank}").touch()
            if rank == stopped:
                time.sleep(60)
            distributed.on_main(lambda: 1)
            distributed.all_reduce_max(1)

    launch = Launch(tmp_path, work)
    while not (tmp_path / "ready-0").exists() or not (tmp_path / "ready-1").exists():
        time.sleep(0.01)
    launch.kill(signal.SIGTERM, [stopped])
    ended = launch.wait()
    assert [one.code for one in ended] == [143, 143]
    assert ended[1 - stopped].err == f"Process {stopped} was stopped.\n"


def test_processes_with_different_runs_are_refused_and_may_try_again(tmp_path):
    def work(rank):
        with pytest.raises(UsageError) as caught, distributed.together():
            distributed.check_same(f"run {rank}", "run")
        assert str(caught.value) == (
            "The processes of a launch do one run together, and the run of process 1 is run 1, that of process 0 run "
            "0. Give all the same options and files, or start different runs one by one."
        )
        with distributed.together():
            assert distributed.all_reduce_max(rank) == 1

    launched(tmp_path, work)


def test_a_launch_without_an_address_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for rank, missing in (("0", "MASTER_ADDR, MASTER_PORT"), ("", "RANK, MASTER_ADDR, MASTER_PORT")):
        monkeypatch.setenv("RANK", rank)
        refused = pytest.raises(UsageError, match=f"WORLD_SIZE is 2, and {missing} is not set")
        with refused, distributed.together():
            pass


@pytest.mark.parametrize("size", [None, "", "1", "some"])
def test_a_rank_alone_is_no_launch(monkeypatch, size):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    assert distributed.is_main()
    with distributed.together():
        assert distributed.world_size() == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not distributed.is_main()


def test_errors_cross_processes_as_what_they_are():
    for error in (UsageError("u"), ContentError("c"), TrainingError("t"), Interrupted(15, "stopped")):
        error.of_all = isinstance(error, TrainingError)
        again = error_of(json.loads(json.dumps(described(error, 0))))
        assert (type(again), str(again), again.exit_code, again.of_all) == (
            type(error),
            str(error),
            error.exit_code,
            error.of_all,
        )
    assert error_of(described(KeyboardInterrupt(), 0)).exit_code == 130
    assert isinstance(error_of(described(ValueError("x"), 1)), TicketsError)


def test_the_environment_is_hidden_and_comes_back(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with distributed.hidden_launch():
        assert "WORLD_SIZE" not in os.environ
        assert "LOCAL_RANK" not in os.environ
    assert os.environ["WORLD_SIZE"] == "1"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not distributed.continues_alone()
    assert "WORLD_SIZE" not in os.environ


def test_shares_are_the_rows_of_the_whole_batch():
    batch = {"input_ids": torch.arange(10).view(5, 2), "labels": torch.arange(5)}
    assert shard_batch(batch, 0, 1) is batch
    parts = [shard_batch(batch, rank, 3) for rank in range(3)]
    assert [part["labels"].tolist() for part in parts] == [[0, 3], [1, 4], [2]]
    assert parts[1]["input_ids"].tolist() == [[2, 3], [8, 9]]
    mixed = {"rte": batch, "cola": {"labels": torch.arange(1)}}
    own = shard_batch(mixed, 1, 3)
    assert list(own) == ["rte", "cola"]
    assert list(nonempty(own)) == ["rte"]
    assert nonempty(shard_batch({"cola": mixed["cola"]}, 1, 3)) == {}
    assert nonempty(shard_batch({"labels": torch.arange(1)}, 1, 3)) == {}
    assert nonempty(parts[2]) is parts[2]


def test_gradients_are_summed_and_what_nobody_used_keeps_none(tmp_path, monkeypatch):
    monkeypatch.setattr("winning_tickets.training.parallel._BUCKET", 5)

    def work(rank):
        parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (2, 4, 7, 1)]
        parameters.append(torch.nn.Parameter(torch.zeros(3, dtype=torch.float64)))
        for number, parameter in enumerate(parameters):
            parameter.grad = torch.full_like(parameter, 10.0 * number + rank)
        parameters[1].grad = None
        if rank == 1:
            parameters[2].grad = None
        with distributed.together():
            all_reduce_gradients(parameters + parameters[:1])
        assert parameters[1].grad is None
        found = [None if p.grad is None else p.grad.unique().item() for p in parameters]
        assert found == [1.0, None, 20.0, 61.0, 81.0]

    launched(tmp_path, work)
