"""Names that are not what was wanted: missing folders, runs, unfinished runs, base models that have moved."""

import json

import pytest

from samples.tiny_models import TEXT, make_model
from winning_tickets import (
    EvaluateConfig,
    Runtime,
    SearchConfig,
    Ticket,
    TransferConfig,
    evaluate,
    predict,
    search,
    transfer,
)
from winning_tickets.models.loading import load_plm, resolve_model
from winning_tickets.runs.directory import RunDirectory, missing
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.files import write_json
from winning_tickets.studies.analysis.masks import base_model_of
from winning_tickets.tickets.target import Target

QUIET = Runtime(quiet=True)
UNFINISHED = "is a run of tickets {} that has not finished; run the same command again."


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder_of_a_run(path, verb, finished=False):
    run = RunDirectory.claim(path, verb, "id-1", {})
    if finished:
        run.finish({})
    return str(path)


@pytest.mark.parametrize("read", [resolve_model, Ticket.from_pretrained])
def test_a_mistyped_folder_is_not_looked_for_on_the_hub(here, monkeypatch, read):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)  # would be called
    for name in ("kd", "imp", ".hidden"):
        (here / "tickets" / name).mkdir(parents=True)
    (here / "tickets" / "file").write_text("")
    (here / "empty").mkdir()
    for name, message in (
        ("tickets/inp", "There is no folder tickets/inp; tickets/ has imp, kd. Did you mean 'tickets/imp'?"),
        ("tickets/file", "There is no folder tickets/file; tickets/ has imp, kd."),
        ("empty/kd", "There is no folder empty/kd; empty/ has no folders."),
    ):
        if name == "tickets/file" and read != resolve_model:
            message = "tickets/file is not a ticket: it has no ticket.json. Make one with tickets search."
        with pytest.raises(UsageError) as raised:
            read(name)
        assert str(raised.value) == message
    assert resolve_model("google/bert") == "google/bert"
    make_model(here / "google" / "electra")
    assert resolve_model("google/bert") == "google/bert"
    for name in ("./nowhere", "/nowhere", "tickets/imp/nowhere", "nowhere"):
        assert missing(name) is None


def test_a_transfer_tells_of_a_mistyped_folder_before_it_fetches_data(here):
    (here / "tickets" / "imp").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"There is no folder tickets/inp; .* Did you mean 'tickets/imp'\?"):
        transfer(TransferConfig(target="tickets/inp", task="rte"), here / "out", QUIET)


def test_many_folders_are_not_all_listed(here):
    for number in range(10):
        (here / "runs" / f"r{number}").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"runs/ has r0, r1, r2, r3, r4, r5, r6, r7, \.\.\.\.$"):
        resolve_model("runs/nothing-like-them")


def test_what_the_hub_did_not_give_may_have_been_meant_as_a_folder(here):
    with pytest.raises(UsageError, match="find the model bert-x: there is no such folder here, and the hub did not"):
        load_plm("bert-x")


@pytest.mark.parametrize(
    "read",
    [
        Ticket.from_pretrained,
        lambda path: predict(path, [("x",)]),
        lambda path: evaluate(EvaluateConfig(target=path, corpus="corpus.txt"), QUIET),
    ],
)
@pytest.mark.parametrize(("verb", "command"), [("search", "search"), ("transfer-seed", "transfer")])
def test_an_unfinished_run_is_recognised(here, read, verb, command):
    with pytest.raises(UsageError) as raised:
        read(folder_of_a_run(here / "run", verb))
    assert str(raised.value) == f"{here / 'run'} {UNFINISHED.format(command)}"


def test_a_run_is_no_model_and_names_those_that_it_has(here):
    bare = folder_of_a_run(here / "bare", "transfer", finished=True)
    with pytest.raises(UsageError, match="bare is a run of tickets transfer, not a model, and none was saved in it.$"):
        Target.find(bare).load()
    for seed in (1, 0):
        make_model(here / "kd" / f"seed-{seed}" / "model")
    write_json(here / "kd" / "config.json", {"verb": "transfer", "id": "id-1", "config": {}})
    with pytest.raises(UsageError) as raised:
        Target.find("kd").load()
    assert str(raised.value) == (
        "kd is a run of tickets transfer, not a model, and it has kd/seed-0/model, kd/seed-1/model; give one of these."
    )
    assert Target.find("kd/seed-0/model").load().name == "kd/seed-0/model"


def test_a_ticket_whose_base_model_has_moved_says_so(here, monkeypatch):
    make_model(here / "minilm")
    search(SearchConfig.of(model="minilm", method="magnitude", sparsity=0.5), "kd", QUIET)
    (here / "corpus.txt").write_text("\n".join(TEXT))
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    settings = EvaluateConfig(target="../kd", corpus="../corpus.txt")
    message = (
        r"The base model of the ticket \.\./kd was minilm, and it was not found\. Say where it is now with --base\. "
        "Could not find the model minilm: there is no such folder here"
    )
    with pytest.raises(UsageError, match=message):
        evaluate(settings, QUIET)
    with pytest.raises(UsageError, match=r"ticket x was minilm, and it was not found\. Give it\. Could not find"):
        base_model_of(Ticket.from_pretrained("../kd"), "x", None, "Give it.")
    with pytest.raises(UsageError, match=r"^There is no model folder \./gone"):
        evaluate(settings.model_copy(update={"base": "./gone"}), QUIET)
    found = evaluate(settings.model_copy(update={"base": "../minilm"}), QUIET)
    assert found["sparsity"] == json.loads((here / "kd" / "ticket.json").read_text())["sparsity"]
