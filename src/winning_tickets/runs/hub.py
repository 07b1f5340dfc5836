"""The Hugging Face hub: whether it answers, fetching files from it and pushing files to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from winning_tickets.runs.directory import missing
from winning_tickets.runs.errors import UsageError

_ABSENT = "is not on this machine, and"
_AWAY = "the Hugging Face hub cannot be reached"


@cache
def unreachable(repository: str, kind: str) -> str | None:
    """Return why a repository cannot be read, in words; None if it is on this machine or the hub has it."""
    return None if is_cached(repository, kind) else newest_revision(repository, kind)[1] or None


@cache
def hub_is_away(repository: str, kind: str) -> str | None:
    """Return why the hub gives no answer about a repository; None if it answers or HF_HUB_OFFLINE is set."""
    import huggingface_hub

    reason = "" if huggingface_hub.constants.HF_HUB_OFFLINE else newest_revision(repository, kind)[1]
    return reason if _AWAY in reason else None


def newest_revision(repository: str, kind: str) -> tuple[str | None, str]:
    """Return the newest revision that the hub has, or None and why there is no answer."""
    about, reason = _ask(repository, kind)
    return getattr(about, "sha", None), reason


def _ask(repository: str, kind: str) -> tuple[Any, str]:
    """Return what the hub says about a repository, or None and why there is no answer."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return None, f"{_ABSENT} HF_HUB_OFFLINE is set"
    try:
        timeout = huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT
        return huggingface_hub.HfApi().repo_info(repository, repo_type=kind, timeout=timeout), ""
    except (HfHubHTTPError, OfflineModeIsEnabled, ValueError) as error:
        return None, f"{_ABSENT} the Hugging Face hub does not give it ({type(error).__name__})"
    except Exception as error:  # the HTTP library of huggingface_hub has its own errors of the network
        return None, f"{_ABSENT} {_AWAY} ({type(error).__name__})"


_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
SAVED = ("ticket.json", "task.json", "shared.json", "export.json")
"""Files that tell the tickets, fine-tuned models and exports of this library from plain models."""


def local(name: Path | str) -> str:
    """Return the folder in the hub's cache for the hub id of a ticket, fine-tuned model or export; keep other names.

    The hub id of a plain model is kept, because transformers loads it. A `Path` is never a hub id.
    """
    text = str(name)
    return (_saved_folder(text) or text) if may_be_id(name) else text


def may_be_id(name: Path | str) -> bool:
    """Return whether a name has the form of a hub id, and is no folder or file here."""
    text = str(name)
    is_path = isinstance(name, Path) or _ID.fullmatch(text) is None or Path(text).exists()
    return not is_path and missing(text) is None


@cache
def _saved_folder(repository: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    # A hub that gave no answer once is not waited for again.
    about = None if hub_is_away(repository, "model") else _ask(repository, "model")[0]
    if about is not None:
        names = {one.rfilename for one in about.siblings or ()}
        return str(fetch(repository, ["*"], f"Could not load {repository}")) if names.intersection(SAVED) else None
    cached = (try_to_load_from_cache(repository, file) for file in SAVED)
    return next((str(Path(file).parent) for file in cached if isinstance(file, str)), None)


def not_local(name: Path | str) -> str:
    """Return the end of an error message for a name that is no local folder: why the hub has none; empty for a path."""
    if isinstance(name, Path) or _ID.fullmatch(name) is None or missing(name) is not None:
        return ""
    reason = hub_is_away(name, "model") or _ask(name, "model")[1]
    return f" It {reason}." if reason else f" The repository {name} of the hub has none."


def is_cached(repository: str, kind: str) -> bool:
    """Return whether the cache of the hub, or that of data sets, has some version of a repository."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"{kind}s--{repository.replace('/', '--')}" / "snapshots"
    if folder.is_dir() and any(folder.iterdir()):
        return True
    prepared = Path(constants.HF_HOME) / "datasets" / repository.replace("/", "___")
    return kind == "dataset" and prepared.is_dir()


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn an error of the hub's client into a UsageError of one sentence that begins with `what`."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    # The first base class is the error of the HTTP library; a RuntimeError is the failed upload of one file.
    errors = (*HfHubHTTPError.__bases__, EntryNotFoundError, HFValidationError, RuntimeError)
    try:
        yield
    except errors as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
        raise UsageError(f"{what}: {_reason(cause)}") from error


GATED = "ask for access on its page, then log in with hf auth login, or set HF_TOKEN."


def _reason(error: BaseException) -> str:
    from huggingface_hub.errors import GatedRepoError

    if isinstance(error, GatedRepoError):
        return f"the repository is gated; {GATED}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the token is not valid, or the repository is private or absent; log in with hf auth login."
    if status == 403:
        return "your token may not write there; give a repository of your own, or a token with write access."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{(lines or [type(error).__name__])[-1 if status else 0].rstrip('.')}."


def reach(what: str) -> None:
    """Raise a UsageError unless the hub answers once within HF_HUB_ETAG_TIMEOUT; its client tries several times."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        raise UsageError(f"{what}: HF_HUB_OFFLINE is set; unset it.")
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # of any layer: DNS, TLS, proxies
        why = str(error).partition("\n")[0].rstrip(".")
        raise UsageError(f"{what}: {constants.ENDPOINT} cannot be reached ({why}); check the network.") from error


def fetch(repo: str, patterns: Sequence[str], what: str, **options: Any) -> Path:
    """Download the files of a repository whose names match `patterns`; return their folder in the hub's cache."""
    # `options` are the revision, token and cache folder.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    away: UsageError | None = None
    try:
        reach(what)
    except UsageError as error:  # files in the cache may be enough
        away = error
    with hub_errors(what):
        try:
            return Path(
                snapshot_download(repo, allow_patterns=list(patterns), local_files_only=away is not None, **options)
            )
        except LocalEntryNotFoundError:
            if away is not None:
                raise away from None
            raise


def push(
    repo: str,
    files: Mapping[str, Path | bytes],
    message: str,
    *,
    private: bool | None,
    token: str | None,
    revision: str | None,
) -> dict[str, Any]:
    """Write files to a model repository in one commit, and create the repository if needed."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    with hub_errors(f"Could not push to {repo}"):
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(repo, operations, commit_message=message, revision=revision)
    _saved_folder.cache_clear()
    return {"repo": repo, "url": str(commit.repo_url), "commit": commit.oid, "files": sorted(files)}


def check_access(repo: str, token: str | None) -> str:
    """Check login, name and network before a push to a repository; return the full name of the repository."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import validate_repo_id

    what = f"Could not push to {repo}"
    with hub_errors(what):
        validate_repo_id(repo)
    if token is None and get_token() is None:
        raise UsageError(f"{what}: you are not logged in; run hf auth login, or set HF_TOKEN.")
    reach(what)
    if "/" in repo:
        return repo
    with hub_errors(what):
        return f"{HfApi(token=token).whoami()['name']}/{repo}"
