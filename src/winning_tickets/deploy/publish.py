"""Pushing a ticket, an export or a fine-tuned model to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from winning_tickets.deploy.export import EXPORT_FILE
from winning_tickets.deploy.source import files_in
from winning_tickets.runs.ambient import neutral
from winning_tickets.runs.directory import HEAD_MARKER, MARKER, METRICS, refuse_unfinished, stored_run
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.progress import TENSORBOARD_FOLDER
from winning_tickets.runs.results import RESULT, FitHeadResult, ShrinkResult, StoredResult, find_result
from winning_tickets.tickets.cards import CARD, publish, ticket_facts
from winning_tickets.tickets.files import FILES, find_ticket, is_run_of, is_ticket
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.saved_model import MODEL_FOLDER, TASK_FILE, find_model, find_saved
from winning_tickets.training.shared_model import SHARED_FILE

_OF_RUNS = (METRICS, RESULT, HEAD_MARKER)  # files of a run that stay here


@neutral()
def push(target: Path | str, repo: str, *, seed: int | None = None, **options: Any) -> dict[str, Any]:
    """Push a ticket, an export, or the model of a run to the Hugging Face hub, with its model card.

    Args:
        target: a ticket, an export, a transfer or share that has saved its models, a run of `shrink` or one of its
            models, or the folder of `fit_head`.
        repo: such as `me/ticket`; created if needed.
        seed: seed of the model in a run; None takes the first one saved.
        options: `results`: folders of transfers of this ticket, or files with what `tickets evaluate --json` printed,
            for the card; `private`: make a new repository private; `token`: by default that of `hf auth login` or
            `HF_TOKEN`; `revision`: branch, by default `main`; `message` of the commit.

    Returns:
        `repo`, `url`, `commit` and the names of the `files`.

    Raises:
        UsageError: no such target, no token, no network, or a repository of somebody else.
        ContentError: a damaged ticket, or results of another ticket.

    Example:
        >>> push("my-ticket", "me/ticket", results=["kept.json"])["url"]  # doctest: +SKIP
        'https://huggingface.co/me/ticket'
    """
    path = Path(target)
    if not path.is_dir():
        raise UsageError(f"There is no folder {target}; give a ticket, an export, or a run that has saved its model.")
    if is_ticket(path):
        if seed is not None:
            raise UsageError(f"--seed {seed} chooses a model of a run, and {path} is a ticket.")
        folder = find_ticket(path)
        names: Iterable[str] = [name for name in FILES if (folder / name).is_file()]
        facts = ticket_facts(Ticket.from_pretrained(folder))
    else:
        folder, facts = _find_model(path, seed), None
        names = [name for name in files_in(folder) if not _is_private(name)]
    return {"verb": "push", **publish(folder, names, repo, facts=facts, **options)}


def _find_model(path: Path, seed: int | None) -> Path:
    """Return the folder of an export, or of the model of a run."""
    if is_run_of(path, "super"):
        return find_model(path, seed)
    found = find_saved(path, TASK_FILE, seed) or find_saved(path, SHARED_FILE, seed)
    if found is not None:
        return found
    if seed is not None:
        raise UsageError(f"--seed {seed} chooses among the seeds of a run, and {path} is a single model.")
    if (path / EXPORT_FILE).is_file():
        return path
    result = find_result(path, StoredResult)
    if isinstance(result, ShrinkResult):
        models = [path / str(one.folder) / MODEL_FOLDER for one in result.models]
        if len(models) > 1:
            raise UsageError(f"{path} has {len(models)} models; push one of {', '.join(map(str, models))}.")
        return models[0]
    is_model = (path / "config.json").is_file() and stored_run(path / MARKER) is None
    if isinstance(result, FitHeadResult) or (is_model and (path / CARD).is_file()):
        return path
    refuse_unfinished(path)
    raise UsageError(
        f"{path} has nothing to push: it is no ticket and no export, and no run that has saved a model (--save-model)."
    )


def _is_private(name: str) -> bool:
    parts = Path(name).parts
    return name in _OF_RUNS or parts[0] == TENSORBOARD_FOLDER or any(part.startswith(".") for part in parts)
