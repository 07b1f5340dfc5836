"""Tickets, exports and fine-tuned models by their hub ids, with the real client and a stand-in for the hub."""

import json
import socket
import time

import pytest
from huggingface_hub import constants
from transformers import AutoModel

import winning_tickets as wt
from samples.hub_server import TOKEN, Repo
from samples.tiny_models import TEXT
from samples.tiny_shared import make_shared
from winning_tickets.runs import hub
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets import cards

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")  # of the client's own uploads
FILES = ("ticket.json", "ticket.safetensors")
QUIET = dict(quiet=True, device="cpu")
SIZES = dict(batches=(1,), lengths=(8,), repeats=1, threads=1, runtime=wt.Runtime(quiet=True))


def without_names(result, *names):
    return {key: value for key, value in result.items() if key not in ("target", "model", "out", "versions", *names)}


def test_a_ticket_by_its_hub_id(online, made, tmp_path):
    folder = made["folder"] / "ticket"
    wt.push(folder, "me/ticket")
    kept = wt.evaluate("me/ticket", corpus=made["text"], max_tokens=200, **QUIET)
    assert without_names(kept) == without_names(made["kept"])
    assert kept.target == "me/ticket"
    settings = dict(task="rte", data_dir=made["glue"], steps=1, batch_size=8, seeds=(0, 1), **QUIET)
    scores = wt.transfer("me/ticket", **settings)
    assert scores.metrics == made["scores"]["metrics"]
    found = wt.measure("me/ticket", **SIZES)
    assert (found.kind, found.ticket_bytes) == ("ticket", sum((folder / name).stat().st_size for name in FILES))
    one = wt.export("me/ticket", "masked", tmp_path / "a")
    assert one.id == wt.export(folder, "masked", tmp_path / "b").id
    assert wt.compare("me/ticket", folder).kept_jaccard[0][1] == 1
    assert wt.analysis.similarity(["me/ticket", folder]).ids == [made["ticket"].id] * 2
    settings = dict(tasks=("rte", "cola"), data_dir=made["glue"], steps=1, batch_size=8, save_model=False, **QUIET)
    shared = wt.share(tickets={"rte": "me/ticket"}, **settings)
    assert shared.tasks["rte"]["ticket_id"] == made["ticket"].id


def test_a_fine_tuned_model_by_its_hub_id(online, made, tmp_path):
    run = made["folder"] / "run"
    wt.push(run, "me/rte")
    texts = [(TEXT[0], TEXT[1])]
    assert wt.predict("me/rte", texts).predictions == wt.predict(run, texts).predictions
    settings = dict(corpus=made["text"], max_tokens=200, **QUIET)
    found, expected = wt.evaluate("me/rte", **settings), wt.evaluate(str(run / "seed-0" / "model"), **settings)
    assert without_names(found) == without_names(expected)
    assert found.ticket_id == made["ticket"].id
    assert wt.export("me/rte", "masked", tmp_path / "a").weights == wt.export(run, "masked", tmp_path / "b").weights
    assert wt.measure("me/rte", **SIZES).parameters == wt.measure(str(run), **SIZES).parameters
    settings = dict(task="rte", data_dir=made["glue"], steps=1, batch_size=8, **QUIET)
    again = wt.transfer("me/rte", **settings)
    assert again.metrics == wt.transfer(str(run), **settings).metrics
    assert again.head == "kept"
    with pytest.raises(UsageError, match="--seed 1 chooses among the seeds of a run"):
        wt.predict("me/rte", texts, seed=1)


def test_exports_by_their_hub_ids(online, made, tmp_path):
    wt.export(made["folder"] / "ticket", "masked", tmp_path / "masked")
    wt.push(tmp_path / "masked", "me/masked")
    settings = dict(corpus=made["text"], max_tokens=200, **QUIET)
    found, expected = wt.evaluate("me/masked", **settings), wt.evaluate(str(tmp_path / "masked"), **settings)
    assert without_names(found) == without_names(expected)
    assert found.base == made["bert"]  # from its export.json, so that its loss is not that against itself
    assert found.model == "me/masked"


def test_a_shared_model_by_its_hub_id(online, made, tmp_path):
    folder = make_shared(tmp_path / "shared", made["bert"], ["rte", "cola"], {})
    cards.write_card(folder, cards.model_facts("shared", made["bert"], None, ["rte", "cola"]))
    wt.push(folder, "me/shared")
    one, other = (
        wt.export(name, "masked", tmp_path / out, task="rte") for name, out in (("me/shared", "a"), (folder, "b"))
    )
    assert one.weights == other.weights


def test_the_command_line_takes_hub_ids(online, tickets, made):
    wt.push(made["folder"] / "ticket", "me/ticket")
    wt.push(made["folder"] / "run", "me/rte")
    code, out, err = tickets("inspect", "me/ticket", "--json")
    assert (code, json.loads(out)["id"]) == (0, made["ticket"].id), err
    code, out, err = tickets("predict", "me/rte", "--text", f"{TEXT[0]}\t{TEXT[1]}", "--json")
    assert (code, json.loads(out)["ticket_id"]) == (0, made["ticket"].id), err
    words = ("--corpus", made["text"], "--max-tokens", "200", "--quiet", "--json")
    code, out, err = tickets("evaluate", "me/ticket", *words)
    assert (code, json.loads(out)["kd_loss"]) == (0, made["kept"]["kd_loss"]), err


def test_what_the_hub_does_not_have(online, made, monkeypatch):
    with pytest.raises(UsageError, match=r"There is no run me/no; .* the Hugging Face hub does not give it \(Repos"):
        wt.predict("me/no", ["x"])
    wt.push(made["folder"] / "ticket", "me/ticket", private=True)
    monkeypatch.delenv("HF_TOKEN")
    hub._saved_folder.cache_clear()
    with pytest.raises(UsageError, match="Could not find the model me/ticket: .*the hub did not give it"):
        wt.measure("me/ticket", **SIZES)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub._saved_folder.cache_clear()
    assert wt.measure("me/ticket", **SIZES).kind == "ticket"


def test_without_network_the_cache_is_enough(online, made, monkeypatch, tmp_path):
    wt.push(made["folder"] / "run", "me/rte")
    expected = wt.predict("me/rte", [(TEXT[0], TEXT[1])]).predictions
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        hub._saved_folder.cache_clear()
        assert wt.predict("me/rte", [(TEXT[0], TEXT[1])]).predictions == expected
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub._saved_folder.cache_clear()
    assert wt.predict("me/rte", [(TEXT[0], TEXT[1])]).predictions == expected
    with pytest.raises(UsageError, match=r"There is no run me/other; .* is not on this machine, and HF_HUB_OFFLINE is"):
        wt.predict("me/other", ["x"])
    assert time.monotonic() - began < 5
    assert str(tmp_path / "hub") in wt.predict("me/rte", [(TEXT[0], TEXT[1])]).model  # of the environment


def test_paths_are_not_looked_up(online, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    for name in ("runs/b", "./x/y", "~/x", "/x/y", tmp_path / "x", "bert", "a/b/c"):
        assert hub.local(name) == str(name)
    assert online.asked == []


def test_a_ticket_is_held_by_its_name(online, made):
    wt.push(made["folder"] / "ticket", "me/ticket")
    for name in ("me/ticket", made["folder"] / "ticket", str(made["folder"] / "ticket")):
        model = AutoModel.from_pretrained(made["bert"])
        with wt.held(model, name):
            assert made["ticket"].is_applied_to(model)
        assert wt.TicketCallback(name).ticket.id == made["ticket"].id


def test_a_gated_repository_says_what_to_do(online, made):
    wt.push(made["folder"] / "ticket", "me/ticket")
    online.repos["me/model"] = Repo()
    online.repos["me/model"].files["config.json"] = b"{}"
    for repo in online.repos.values():
        repo.gated = True
    advice = "the repository is gated; ask for access on its page, then log in with hf auth login, or set HF_TOKEN"
    with pytest.raises(UsageError, match=f"There is no ticket folder me/ticket, .*: {advice}"):
        wt.Ticket.from_pretrained("me/ticket")
    with pytest.raises(UsageError, match=f"Could not load me/ticket: {advice}"):
        wt.evaluate("me/ticket", corpus=made["text"], **QUIET)
    with pytest.raises(UsageError, match=f"Could not load the model me/model: {advice}"):
        wt.search("me/model", method="magnitude", sparsity=0.5)
