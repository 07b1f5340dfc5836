"""The Hugging Face hub: fetching files from it and pushing files to it, with one sentence for each error."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from winning_tickets.runs.errors import UsageError

REACH_SECONDS = 3.5  # longest wait for a sign of life of the hub


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turn an error of the hub's client into one sentence that begins with `what`."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    # The first of the bases is HTTP's own error; a RuntimeError is the failed upload of one file.
    errors = (*HfHubHTTPError.__bases__, EntryNotFoundError, HFValidationError, RuntimeError)
    try:
        yield
    except errors as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
        raise UsageError(f"{what}: {_reason(cause)}") from error


def _reason(error: BaseException) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the token is not valid, or the repository is private or absent; log in with hf auth login."
    if status == 403:
        return "your token may not write there; give a repository of your own, or a token with write access."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{(lines or [type(error).__name__])[-1 if status else 0].rstrip('.')}."


def reach(what: str) -> None:
    """Raise a UsageError unless the hub answers within `REACH_SECONDS`; its own client tries for much longer."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        raise UsageError(f"{what}: HF_HUB_OFFLINE is set; unset it.")
    failures: list[Exception] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=REACH_SECONDS)
        except Exception as error:  # of any layer: names, TLS, proxies
            failures.append(error)

    # A thread, because looking up the name has no limit of time.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    if thread.is_alive() or failures:
        why = str(failures[0]).partition("\n")[0].rstrip(".") if failures else f"no answer in {REACH_SECONDS:g} s"
        raise UsageError(f"{what}: {constants.ENDPOINT} cannot be reached ({why}); check the network.")


def fetch(repo: str, patterns: Sequence[str], what: str, **options: Any) -> Path:
    """Return the folder in the hub's cache with those files of a repository whose names match."""
    # `options` are the revision, token and cache folder.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    unreachable: UsageError | None = None
    try:
        reach(what)
    except UsageError as error:  # files in the cache may be enough
        unreachable = error
    with told(what):
        try:
            return Path(
                snapshot_download(
                    repo, allow_patterns=list(patterns), local_files_only=unreachable is not None, **options
                )
            )
        except LocalEntryNotFoundError:
            if unreachable is not None:
                raise unreachable from None
            raise


def push(
    repo: str,
    files: Mapping[str, Path | bytes],
    message: str,
    private: bool | None,
    token: str | None,
    revision: str | None,
) -> dict[str, Any]:
    """Write files to a model repository in one commit, and create the repository if needed."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    with told(f"Could not push to {repo}"):
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(repo, operations, commit_message=message, revision=revision)
    return {"repo": repo, "url": str(commit.repo_url), "commit": commit.oid, "files": sorted(files)}


def check_access(repo: str, token: str | None) -> str:
    """Return the full name of a repository that is about to be written; log-in, name and network are checked."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import validate_repo_id

    what = f"Could not push to {repo}"
    with told(what):
        validate_repo_id(repo)
    if token is None and get_token() is None:
        raise UsageError(f"{what}: you are not logged in; run hf auth login, or set HF_TOKEN.")
    reach(what)
    if "/" in repo:
        return repo
    with told(what):
        return f"{HfApi(token=token).whoami()['name']}/{repo}"
