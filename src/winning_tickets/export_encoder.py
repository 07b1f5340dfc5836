"""`export --format encoder`: the encoder of a fine-tuned or shared model alone, as an ordinary Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from winning_tickets.errors import UsageError
from winning_tickets.export_source import Export, Source, copy_files
from winning_tickets.fine_tuned import is_fine_tuned, open_fine_tuned
from winning_tickets.plm import PLM
from winning_tickets.predict import save_folder
from winning_tickets.shared_model import ENCODER, SharedModel, find_shared, is_shared
from winning_tickets.states import content_hash, pretrained

NOTE = (
    "The encoder without its head. That of a shared model holds the weights of all tasks, and no ticket; a task "
    "alone comes with --format masked --task NAME."
)


def encoder(source: Source) -> Export:
    """The encoder alone; of a shared model the whole shared weights.

    Raises:
        UsageError: a ticket or a model that was not fine-tuned here, or `--task` or `--base` was given.
        ContentError: the model is damaged.
    """
    if not is_fine_tuned(source.name):
        raise UsageError(
            f"--format encoder takes the encoder out of a transfer or share with its model, and {source.name} is none; "
            "for a ticket use --format masked."
        )
    for option in ("task", "base"):
        if getattr(source, option) is not None:
            raise UsageError(
                f"--{option} does not go with --format encoder, which writes the encoder as it was fine-tuned."
            )
    return _shared(source) if is_shared(source.name) else _of_one_task(source)


def _shared(source: Source) -> Export:
    shared = SharedModel.open(find_shared(source.name, source.seed))
    facts = {"ticket_id": None, "tasks": list(shared.tasks), "sparsity": 0.0, **_about(shared.load_encoder())}

    def fill(staging: Path) -> dict[str, Any]:
        copy_files(shared.path / ENCODER, shared.encoder_files, staging)
        return {}

    return Export(facts, fill, NOTE)


def _of_one_task(source: Source) -> Export:
    model = open_fine_tuned(source.name, seed=source.seed)
    plm, info = model.load(), model.info
    facts = {"ticket_id": info.ticket_id, "task": info.task, "sparsity": info.sparsity, **_about(plm)}

    def fill(staging: Path) -> dict[str, Any]:
        save_folder(plm.encoder, plm.tokenizer, staging)
        return {}

    return Export(facts, fill, NOTE)


def _about(plm: PLM) -> dict[str, Any]:
    weights = pretrained(plm)
    if not plm.has_pooler:  # a loaded one would be random
        weights = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    return {"model_class": type(plm.encoder).__name__, "weights": content_hash(weights)}
