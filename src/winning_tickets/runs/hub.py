"""The Hugging Face hub: whether it can be reached, and what this machine has of it."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import Literal

RepositoryKind = Literal["model", "dataset"]
SECONDS = 4.0
"""Time that the hub has to answer; name servers that do not answer count too."""


@cache
def unreachable(repository: str, kind: RepositoryKind) -> str | None:
    """Return why a repository cannot be read, in words; None if it is on this machine or the hub has it."""
    return None if is_cached(repository, kind) else _refusal(repository, kind)


@cache
def hub_is_away(repository: str, kind: RepositoryKind) -> str | None:
    """Return why the hub gives no answer about a repository; None if it answers, or is not to be asked."""
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return None
    reason = _refusal(repository, kind)
    return reason if reason is not None and "cannot be reached" in reason else None


@cache
def _refusal(repository: str, kind: RepositoryKind) -> str | None:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "is not on this machine, and HF_HUB_OFFLINE is set"
    answers: list[str | None] = []

    def ask() -> None:
        try:
            huggingface_hub.HfApi().repo_info(repository, repo_type=kind, timeout=SECONDS)
            answers.append(None)
        except (HfHubHTTPError, OfflineModeIsEnabled, ValueError) as error:
            answers.append(f"is not on this machine, and the Hugging Face hub does not give it ({_name(error)})")
        except Exception as error:  # the HTTP library of huggingface_hub has its own errors of the network
            answers.append(f"is not on this machine, and the Hugging Face hub cannot be reached ({_name(error)})")

    # A thread, as no time limit of a request covers the name servers.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS + 0.5)
    return answers[0] if answers else "is not on this machine, and the Hugging Face hub cannot be reached (no answer)"


def _name(error: Exception) -> str:
    return type(error).__name__


def is_cached(repository: str, kind: RepositoryKind) -> bool:
    """Return whether the cache of the hub, or that of data sets, has some version of a repository."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"{kind}s--{repository.replace('/', '--')}" / "snapshots"
    if folder.is_dir() and any(folder.iterdir()):
        return True
    prepared = Path(constants.HF_HOME) / "datasets" / repository.replace("/", "___")
    return kind == "dataset" and prepared.is_dir()
