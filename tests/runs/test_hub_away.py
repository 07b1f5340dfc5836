"""A hub that does not answer: one message within seconds, and the cache where there is one."""

from __future__ import annotations

import socket
import time

import huggingface_hub
import pytest

from winning_tickets.data.hub import load_hub
from winning_tickets.models import loading
from winning_tickets.runs import hub
from winning_tickets.runs.errors import UsageError

REPO_INFO = huggingface_hub.HfApi.repo_info


@pytest.fixture
def away(monkeypatch, tmp_path):
    """A hub whose port is closed, and an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path))

    def refuse(*_, **__):
        raise ConnectionError("closed")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    for cached in (hub.unreachable, hub.hub_is_away):
        cached.cache_clear()
    yield tmp_path
    for cached in (hub.unreachable, hub.hub_is_away):
        cached.cache_clear()


def test_a_model_of_the_hub_is_refused_at_once(away, capfd):
    start = time.monotonic()
    with pytest.raises(
        UsageError, match=r"Could not find the model org/name: .* cannot be reached \(ConnectionError\)"
    ):
        loading.load_plm("org/name")
    assert time.monotonic() - start < 5
    assert capfd.readouterr().err == ""


def test_data_of_the_hub_are_refused_at_once(away):
    with pytest.raises(UsageError, match=r"Could not load the data set org/data .*cannot be reached.*--data-dir DIR"):
        load_hub("org/data", None, "the task x", "")


def test_a_cached_model_is_read_without_the_hub(away):
    (away / "models--org--name" / "snapshots" / "abc").mkdir(parents=True)
    assert loading._access("org/name", "org/name") == {"local_files_only": True}
    assert hub.unreachable("org/name", "model") is None


def test_a_hub_that_never_answers_is_not_waited_for(away, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections
        api = huggingface_hub.HfApi(f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
        monkeypatch.setattr(type(api), "repo_info", REPO_INFO)
        start = time.monotonic()
        assert hub.hub_is_away("org/other", "model").endswith("cannot be reached (ReadTimeout)")
    assert time.monotonic() - start < 2


def test_a_hub_without_an_answer_is_asked_once_for_a_repository(away, monkeypatch):
    asked = []

    def refuse(_, repository, **__):
        asked.append(repository)
        raise ConnectionError("closed")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    assert hub.local("org/asked") == "org/asked"
    assert "cannot be reached" in hub.not_local("org/asked")
    with pytest.raises(UsageError, match="cannot be reached"):
        loading.load_plm("org/asked")
    assert asked == ["org/asked"]
