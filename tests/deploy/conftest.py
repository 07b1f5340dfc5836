"""The stand-in for the hub, and something of each kind to push to it."""

import json

import pytest
from huggingface_hub import constants

from samples.hub_server import TOKEN, hub
from winning_tickets import EvaluateConfig, Runtime, SearchConfig, TransferConfig, evaluate, search, transfer
from winning_tickets.studies.tiny import tiny_folder

QUIET = Runtime(quiet=True, device="cpu")


@pytest.fixture
def online(tmp_path, monkeypatch):
    """The hub, for the client in this process."""
    with hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # which knows its hub for good
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A ticket, an evaluation of it, a transfer and its export."""
    folder = tmp_path_factory.mktemp("made")
    bert, glue, text = (str(tiny_folder(name, folder)) for name in ("bert", "glue", "text"))
    ticket = search(SearchConfig(model=bert, method="magnitude", sparsity=0.5), folder / "ticket", QUIET)
    kept = evaluate(EvaluateConfig(target=str(folder / "ticket"), corpus=text, max_tokens=200), QUIET)
    (folder / "kept.json").write_text(json.dumps(kept))
    config = TransferConfig(
        target=str(folder / "ticket"), task="rte", data_dir=glue, steps=1, batch_size=8, save_model=True, seeds=(0, 1)
    )
    scores = transfer(config, folder / "run", QUIET)
    return {
        "folder": folder,
        "bert": bert,
        "glue": glue,
        "text": text,
        "ticket": ticket,
        "kept": kept,
        "scores": scores,
    }
