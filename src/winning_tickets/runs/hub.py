"""The Hugging Face hub: whether it can be reached, and what this machine has of it."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

SECONDS = 4.0
"""Time that the hub has to answer; name servers that do not answer count too."""


@cache
def unreachable(repository: str, kind: str) -> str | None:
    """Return why a repository cannot be read, in words; None if it is on this machine or the hub has it."""
    return None if is_cached(repository, kind) else newest_revision(repository, kind)[1] or None


@cache
def hub_is_away(repository: str, kind: str) -> str | None:
    """Return why the hub gives no answer about a repository; None if it answers, or is not to be asked."""
    import huggingface_hub

    reason = "" if huggingface_hub.constants.HF_HUB_OFFLINE else newest_revision(repository, kind)[1]
    return reason if _AWAY in reason else None


_ABSENT = "is not on this machine, and"
_AWAY = "the Hugging Face hub cannot be reached"


def newest_revision(repository: str, kind: str) -> tuple[str | None, str]:
    """Return the newest revision that the hub has, or None and why there is no answer."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return None, "is not on this machine, and HF_HUB_OFFLINE is set"
    answers: list[tuple[str | None, str]] = []

    def ask() -> None:
        try:
            answers.append((huggingface_hub.HfApi().repo_info(repository, repo_type=kind, timeout=SECONDS).sha, ""))
        except (HfHubHTTPError, OfflineModeIsEnabled, ValueError) as error:
            answers.append((None, f"{_ABSENT} the Hugging Face hub does not give it ({_name(error)})"))
        except Exception as error:  # the HTTP library of huggingface_hub has its own errors of the network
            answers.append((None, f"{_ABSENT} {_AWAY} ({_name(error)})"))

    # A thread, as no time limit of a request covers the name servers.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS + 0.5)
    return answers[0] if answers else (None, f"{_ABSENT} {_AWAY} (no answer)")


def _name(error: Exception) -> str:
    return type(error).__name__


def is_cached(repository: str, kind: str) -> bool:
    """Return whether the cache of the hub, or that of data sets, has some version of a repository."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"{kind}s--{repository.replace('/', '--')}" / "snapshots"
    if folder.is_dir() and any(folder.iterdir()):
        return True
    prepared = Path(constants.HF_HOME) / "datasets" / repository.replace("/", "___")
    return kind == "dataset" and prepared.is_dir()
