"""Tickets, exports and fine-tuned models on a stand-in for the hub: pushed by the real client and loaded again."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from huggingface_hub import ModelCard, constants
from transformers import AutoModel, AutoModelForSequenceClassification

from samples.hub_server import TOKEN, Repo, hub
from samples.tiny_models import make_model
from samples.tiny_shared import make_shared
from winning_tickets import (
    FitHeadConfig,
    Runtime,
    SharedModel,
    Ticket,
    export,
    fit_head,
    push,
)
from winning_tickets.config.builtin_models import BUILTINS
from winning_tickets.deploy.export import FORMATS
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.tickets import cards

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")  # of the client's own uploads
QUIET = Runtime(quiet=True, device="cpu")


def card_of(server, repo):
    return ModelCard(server.repos[repo].files["README.md"].decode())


def test_a_ticket_goes_to_the_hub_and_comes_back(online, made):
    url = made["ticket"].push_to_hub("me/ticket", private=True)
    assert url == f"{online.url}/me/ticket"
    assert online.repos["me/ticket"].private
    assert set(online.repos["me/ticket"].files) == {"ticket.json", "ticket.safetensors", "README.md"}
    back = Ticket.from_pretrained("me/ticket")
    assert back.id == made["ticket"].id
    assert all(torch.equal(mask, back.masks[name]) for name, mask in made["ticket"].masks.items())
    model = AutoModel.from_pretrained(made["bert"])
    assert back.apply_(model) is model


def test_the_card_has_what_the_hub_shows(online, made):
    runs = [made["folder"] / "kept.json", made["folder"] / "run"]
    result = push(made["folder"] / "ticket", "me/ticket", results=runs, message="mine")
    assert online.repos["me/ticket"].messages == ["mine"]
    assert result["files"] == ["README.md", "ticket.json", "ticket.safetensors"]
    card = card_of(online, "me/ticket")
    found = {one.metric_type: one for one in card.data.eval_results}
    assert found["kd_loss"].metric_value == made["kept"]["kd_loss"]
    assert found["accuracy"].metric_value == made["scores"]["metrics"]["accuracy"]["final"]["mean"]
    assert (found["accuracy"].dataset_type, found["accuracy"].dataset_config) == ("nyu-mll/glue", "rte")
    assert found["accuracy"].metric_name.startswith("accuracy, mean of 2 seeds, standard deviation 0.")
    assert {"winning-tickets", "ticket", "magnitude"} <= set(card.data.tags)
    assert f"| kd_loss | {made['kept']['kd_loss']:.4f} |" in card.text
    assert "| sparsity | 50.00 %, " in card.text
    assert "| `encoder.layer.*.output.dense.weight` | 50.00 % |" in card.text
    assert 'Ticket.from_pretrained("me/ticket")' in card.text
    assert str(made["folder"]) not in str(card)  # no path of this machine
    # A new result replaces the earlier one of its measure.
    push(made["folder"] / "ticket", "me/ticket", results=runs)
    assert len(card_of(online, "me/ticket").data.eval_results) == len(found)


def test_the_license_of_the_base_is_on_the_card(online, made, tmp_path):
    base = "org/base"
    online.repos[base] = Repo()
    online.repos[base].files["README.md"] = b"---\nlicense: mit\n---\n"
    info = made["ticket"].info.model_copy(
        update={"applies_to": made["ticket"].base.model_copy(update={"name": base, "revision": "main", "layers": 2})}
    )
    Ticket(made["ticket"].masks, info).push_to_hub("me/ticket")
    card = card_of(online, "me/ticket")
    assert (card.data.license, card.data.base_model) == ("mit", base)
    assert 'AutoModel.from_pretrained("org/base", revision="main", num_hidden_layers=2)' in card.text
    facts = cards.base_facts("builtin:minilm")
    assert (facts["base"], facts["license"]) == (BUILTINS["minilm"].hub, "apache-2.0")


def test_an_export_is_loaded_from_the_hub(online, made, tmp_path):
    export(made["folder"] / "ticket", "masked", tmp_path / "export")
    assert "with the pruned weights at zero" in (tmp_path / "export" / "README.md").read_text()
    push(tmp_path / "export", "me/model")
    card = card_of(online, "me/model")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "fill-mask")
    loaded = AutoModel.from_pretrained("me/model")
    expected = AutoModel.from_pretrained(tmp_path / "export").state_dict()
    same = {name: torch.equal(value, expected[name]) for name, value in loaded.state_dict().items()}
    assert all(equal for name, equal in same.items() if not name.startswith("pooler."))  # it has none


def test_a_fine_tuned_run_is_pushed_with_its_scores(online, made):
    result = push(made["folder"] / "run", "me/rte", seed=1)
    assert {"config.json", "model.safetensors", "task.json", "held/ticket/ticket.json"} <= set(result["files"])
    card = card_of(online, "me/rte")
    (accuracy,) = [one for one in card.data.eval_results if one.metric_type == "accuracy"]
    assert accuracy.metric_value == made["scores"]["metrics"]["accuracy"]["final"]["values"][1]
    assert card.data.pipeline_tag == "text-classification"
    assert AutoModelForSequenceClassification.from_pretrained("me/rte").config.num_labels == 2
    assert "AutoModelForSequenceClassification" in card.text


def test_a_shared_model_is_pushed(online, made, tmp_path):
    folder = make_shared(tmp_path / "shared", made["bert"], ["rte", "cola"], {})
    with pytest.raises(ContentError, match=r"has no README\.md; write one, or save the model again"):
        push(folder, "me/shared")
    cards.write_card(folder, cards.model_facts("shared", made["bert"], None, ["rte", "cola"]))
    push(folder, "me/shared")
    assert 'load_task("rte")' in card_of(online, "me/shared").text
    copy = tmp_path / "copy"
    for name, content in online.repos["me/shared"].files.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    assert SharedModel.open(copy).load_task("cola").model.config.num_labels == 2


def test_a_model_with_a_fitted_head_is_pushed(online, made, tmp_path):
    plain = make_model(tmp_path / "plain", head="none")
    config = FitHeadConfig(model=str(plain), corpus=made["text"], steps=1, batch_tokens=128, max_tokens=100)
    result = fit_head(config, tmp_path / "head", QUIET)
    found = push(tmp_path / "head", "me/head")
    assert not {"result.json", "metrics.jsonl", "fit_head.json"} & set(found["files"])
    measured = {one.metric_type: one.metric_value for one in card_of(online, "me/head").data.eval_results}
    assert measured["mlm_loss"] == result["final"]["mlm_loss"]


@pytest.mark.parametrize("format_", ["mask-pt", "encoder"])
def test_every_export_has_a_card(made, tmp_path, format_):
    source = made["folder"] / ("run" if format_ == "encoder" else "ticket")
    export(source, format_, tmp_path / "export")
    card = cards.read_card(tmp_path / "export")
    assert card.data["winning_tickets"]["kind"] == format_
    assert cards._is_ours(card)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_has_words_for_its_card(format_):
    assert f"{format_.capitalize()} of bert" in cards.make_card({"kind": format_, "base": "bert"})


def test_a_card_that_somebody_edited_stays(online, made, tmp_path):
    made["ticket"].save_pretrained(tmp_path / "ticket")
    path = tmp_path / "ticket" / "README.md"
    path.write_text(path.read_text() + "\nWhat I found out.\n")
    made["ticket"].save_pretrained(tmp_path / "ticket")
    assert "What I found out." in path.read_text()
    push(tmp_path / "ticket", "me/ticket", results=[made["folder"] / "kept.json"])
    card = card_of(online, "me/ticket")
    assert "What I found out." in card.text
    assert "kd_loss" in {one.metric_type for one in card.data.eval_results}
    path.write_text("No metadata at all.\n")
    made["ticket"].save_pretrained(tmp_path / "ticket")
    assert path.read_text() == "No metadata at all.\n"


def test_results_of_another_ticket_are_refused(online, made, tmp_path):
    (tmp_path / "other.json").write_text(json.dumps(made["kept"] | {"ticket_id": "another"}))
    (tmp_path / "dense.json").write_text(json.dumps(made["kept"] | {"ticket_id": None}))
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(ContentError, match="has results of the ticket another, and this is"):
        push(made["folder"] / "ticket", "me/ticket", results=[tmp_path / "other.json"])
    with pytest.raises(ContentError, match="has results of a run without a ticket, and this is"):
        push(made["folder"] / "ticket", "me/ticket", results=[tmp_path / "dense.json"])
    with pytest.raises(ContentError, match=r"none\.json has no scores"):
        push(made["folder"] / "ticket", "me/ticket", results=[tmp_path / "none.json"])
    assert online.repos == {}


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        ("me/ticket", None, "Could not push to me/ticket: you are not logged in; run hf auth login, or set HF_TOKEN."),
        ("me/ticket", "hf_wrong", r"Could not push to me/ticket: the token is not valid, or the repository is private"),
        ("them/ticket", TOKEN, "Could not push to them/ticket: your token may not write there; give a repository of"),
        ("a/b/c", TOKEN, "Could not push to a/b/c: Repo id must be in the form"),
    ],
)
def test_a_refusal_is_one_sentence(online, made, monkeypatch, repo, token, message):
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match=message) as told:
        made["ticket"].push_to_hub(repo)
    assert "\n" not in str(told.value)
    assert online.repos == {}


def test_a_repository_that_somebody_else_has_is_refused(online, made):
    online.repos["them/ticket"] = Repo()
    with pytest.raises(UsageError, match=r"your token may not write there; .*write access\.$"):
        made["ticket"].push_to_hub("them/ticket")


def test_a_short_name_is_the_users_own(online, made):
    assert push(made["folder"] / "ticket", "ticket")["repo"] == "me/ticket"
    assert 'Ticket.from_pretrained("me/ticket")' in card_of(online, "me/ticket").text


def test_without_network_it_is_refused_within_five_seconds(online, made, monkeypatch, tmp_path):
    made["ticket"].push_to_hub("me/ticket")
    Ticket.from_pretrained("me/ticket")  # into the cache
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
        with pytest.raises(UsageError, match=r"push to me/ticket: http.* cannot be reached \(.*\); check the network"):
            made["ticket"].push_to_hub("me/ticket")
        with pytest.raises(UsageError, match=r"no ticket folder me/other, and the hub .*cannot be reached"):
            Ticket.from_pretrained("me/other")
        assert Ticket.from_pretrained("me/ticket").id == made["ticket"].id
    assert time.monotonic() - began < 5


def test_a_private_ticket_needs_the_token(online, made, monkeypatch, tmp_path):
    made["ticket"].push_to_hub("me/ticket", private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="the hub did not have it: the token is not valid, or the repository is priv"):
        Ticket.from_pretrained("me/ticket")
    there = Ticket.from_pretrained("me/ticket", token=TOKEN, cache_dir=tmp_path / "mine")
    assert there.id == made["ticket"].id
    assert (tmp_path / "mine" / "models--me--ticket").is_dir()


def test_what_cannot_be_pushed(online, made, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has nothing to push: it is no ticket and no export"):
        push(tmp_path / "empty", "me/x")
    with pytest.raises(UsageError, match="There is no folder"):
        push(tmp_path / "nowhere", "me/x")
    with pytest.raises(UsageError, match="--seed 3 chooses among the seeds"):
        push(tmp_path / "empty", "me/x", seed=3)


@pytest.mark.slow
def test_the_environment_names_the_hub(made, tmp_path):
    with hub() as server:
        where = {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        words = ["push", made["folder"] / "ticket", "me/ticket", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "winning_tickets", *map(str, words)],
            env=os.environ | where | {"HF_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert (result["verb"], result["url"]) == ("push", f"{server.url}/me/ticket")
        assert "ticket.safetensors" in server.repos["me/ticket"].files


def test_the_command_line_pushes(online, made, tickets):
    words = ("push", made["folder"] / "ticket", "me/ticket", "--results", made["folder"] / "kept.json", "--private")
    code, out, _ = tickets(*words, "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["verb"], result["url"]) == ("push", f"{online.url}/me/ticket")
    assert online.repos["me/ticket"].private
    assert tickets(*words)[1] == f"Pushed 3 files to {online.url}/me/ticket.\n"


def test_the_command_line_says_what_is_wrong(made, tickets, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    code, out, err = tickets("push", made["folder"] / "ticket", "me/ticket")
    assert (code, out) == (2, "")
    assert err == "Error: Could not push to me/ticket: you are not logged in; run hf auth login, or set HF_TOKEN.\n"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    _, _, err = tickets("push", made["folder"] / "ticket", "me/ticket")
    assert err == "Error: Could not push to me/ticket: HF_HUB_OFFLINE is set; unset it.\n"
