"""A hub that does not answer: one message within seconds, and the cache where there is one."""

from __future__ import annotations

import time

import huggingface_hub
import pytest

from winning_tickets.data.hub import load_hub
from winning_tickets.models import loading
from winning_tickets.runs import hub
from winning_tickets.runs.errors import UsageError


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


def test_a_name_server_that_does_not_answer_is_not_waited_for(away, monkeypatch):
    monkeypatch.setattr(hub, "SECONDS", -0.4)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *_, **__: time.sleep(1))
    assert hub.hub_is_away("org/other", "model").endswith("cannot be reached (no answer)")


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
