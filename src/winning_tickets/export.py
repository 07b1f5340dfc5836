"""Taking a model away: a ticket or a fine-tuned ticket as a folder that any Hugging Face program loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from winning_tickets.errors import ContentError, UsageError, unknown
from winning_tickets.evaluate import Target
from winning_tickets.files import build_directory, read_json, write_json
from winning_tickets.identity import digest
from winning_tickets.plm import PLM, base_hash, load_mlm_head, resolve, tensor_hash, untie_decoder, weight_hashes
from winning_tickets.predict import TaskInfo, find_model, save_folder
from winning_tickets.provenance import versions
from winning_tickets.ticket import Ticket, is_ticket

EXPORT_FILE = "export.json"
SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
NOTE = (
    "The pruned weights are stored as zeros: the files are as large, and the model as fast, as the dense one. "
    "The ticket itself takes one bit a weight."
)


@dataclass(frozen=True)
class Source:
    """What is exported: a ticket on its base model, or a fine-tuned model.

    Attributes:
        name: as the user gave it.
        base: where a ticket's base model is now, if not where it was.
        allow_other_weights: put the ticket on weights it was not made for.
        seed: which model of a transfer; None takes the first one saved.
    """

    name: str
    base: str | None
    allow_other_weights: bool
    seed: int | None


@dataclass(frozen=True)
class Export:
    """What is about to be written.

    Attributes:
        facts: provenance; together with the format they are the identity of the export.
        fill: writes the model into an empty folder.
    """

    facts: dict[str, Any]
    fill: Callable[[Path], None]


def export(
    target: Path | str,
    format: str,  # noqa: A002 - the name of the option
    out: Path | str,
    *,
    base: str | None = None,
    allow_other_weights: bool = False,
    seed: int | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write a model that others load.

    Args:
        target: a ticket, or a transfer that was run with `--save-model` (or one of its seeds).
        format: a key of `FORMATS`.
        out: a directory that is absent or empty, or holds this very export.
        base: where a ticket's base model is now, if not where it was.
        allow_other_weights: put the ticket on weights it was not made for.
        seed: which model of a transfer; None takes the first one saved.
        force: replace another export in `out`.

    Returns:
        What is stored in `export.json`, with `out` and a `note` about size and speed.

    Raises:
        UsageError: unknown format, no such target, a foreign `out`.
        ContentError: a damaged ticket or model, or one for other weights.
        TrainingError: the file system refused; nothing is left half-written.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    out = Path(out)
    wanted = FORMATS[format](Source(str(target), base, allow_other_weights, seed))
    identity = f"export-{format}-{digest(wanted.facts)}"
    body = {"verb": "export", "id": identity, "format": format, **wanted.facts, "versions": versions(), "note": NOTE}
    stored = _claim(out, identity, force)
    if stored is not None:
        return stored | {"out": str(out)}

    def fill(staging: Path) -> None:
        wanted.fill(staging)
        write_json(staging / EXPORT_FILE, body)

    if out.exists():
        shutil.rmtree(out)
    build_directory(out, fill)
    return body | {"out": str(out)}


def _claim(out: Path, identity: str, force: bool) -> dict[str, Any] | None:
    """The stored description where `out` is this very export already; None where it may be written.

    Raises:
        UsageError: `out` is a file or holds something else; it was left untouched.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        found: dict[str, Any] = json.loads((out / EXPORT_FILE).read_text(encoding="utf-8"))
        known = str(found["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--out {out} holds files that are not an export of this tool; it was left untouched. "
            "Give a directory that is absent or empty."
        ) from error
    if force:
        return None
    if known == identity:
        return found
    raise UsageError(
        f"--out {out} holds another export ({known}), this one is {identity}; it was left untouched. "
        "Give another directory, or --force to replace that export."
    )


def _masked(source: Source) -> Export:
    """An ordinary Hugging Face folder whose pruned weights are zero."""
    if is_ticket(source.name):
        return _masked_ticket(source)
    if source.base is not None:
        raise UsageError(f"--base goes with a ticket, and {source.name} is not one.")
    return _fine_tuned(source)


def _masked_ticket(source: Source) -> Export:
    """A ticket on its base model: with MLM head where the checkpoint or the ticket has one, else the plain encoder."""
    if source.seed is not None:
        raise UsageError(f"--seed {source.seed} chooses a model of a transfer, and {source.name} is a ticket.")
    target = Target.find(source.name, source.base)
    ticket = target.ticket
    assert ticket is not None
    encoder = target.load()
    ticket.check(encoder.encoder, source.allow_other_weights)
    masked_lm = target.load("mlm")
    has_head = masked_lm.has_mlm_head or ticket.mlm_head is not None
    plm = masked_lm if has_head else encoder
    facts = {
        "ticket_id": ticket.id,
        "model_class": type(plm.model).__name__,
        "base": {
            "name": target.model,
            "revision": target.revision,
            "layers": target.layers,
            "hash": base_hash(weight_hashes(encoder.encoder)),
        },
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        "mlm_head": ("base" if ticket.mlm_head is None else "ticket") if has_head else None,
    }

    def fill(staging: Path) -> None:
        _mask(plm, ticket, has_head)
        save_folder(plm.model, plm.tokenizer, staging, _pooler(plm, encoder, ticket) if has_head else None)
        copy_sentence_modules(target.model, target.revision, staging)

    return Export(facts, fill)


def _mask(plm: PLM, ticket: Ticket, has_head: bool) -> None:
    """Zero the pruned weights; an MLM decoder tied to masked embeddings gets the dense matrix for its own."""
    if has_head:
        if ticket.mlm_head is not None:
            load_mlm_head(plm, ticket.mlm_head)
        embeddings = plm.encoder.get_parameter(plm.architecture.word_embeddings)
        decoder = plm.model.get_submodule(plm.architecture.mlm_decoder)
        if plm.architecture.word_embeddings in ticket.masks and decoder.weight is embeddings:
            untie_decoder(plm, embeddings.detach().clone())
            if decoder.bias is not None:
                # Without the tie, transformers saves a shared bias under its other name only and then loads zeros.
                decoder.bias = nn.Parameter(decoder.bias.detach().clone())
            plm.model.config.tie_word_embeddings = False
    ticket.apply_(plm.model, allow_other_weights=True)  # checked before anything was loaded twice


def _pooler(plm: PLM, encoder: PLM, ticket: Ticket) -> dict[str, Tensor]:
    """The checkpoint's pooler under the names of a ForMaskedLM model, which has none; pre-training files hold both."""
    if not encoder.has_pooler:
        return {}
    ticket.apply_(encoder.model, allow_other_weights=True)
    prefix = plm.model.base_model_prefix
    parameters = encoder.encoder.named_parameters()
    return {f"{prefix}.{name}": value.detach() for name, value in parameters if name.startswith("pooler.")}


def copy_sentence_modules(name: str, revision: str | None, folder: Path) -> None:
    """Copy what makes a sentence-transformers model of an encoder: its list of modules, pooling and so on.

    Args:
        name: the base model.
        revision: its hub revision.
        folder: where the encoder was saved; left as it is where the base is no sentence-transformers model.
    """
    where = _local_folder(name, revision)
    if not (where / SENTENCE_FILES[0]).is_file():
        return
    for file in SENTENCE_FILES:
        if (where / file).is_file():
            shutil.copyfile(where / file, folder / file)
    for module in read_json(where / SENTENCE_FILES[0], "list of modules"):
        path = module["path"]
        if path and (where / path).is_dir():  # modules without settings have no folder
            shutil.copytree(where / path, folder / path)


def _local_folder(name: str, revision: str | None) -> Path:
    """Where the small files of a model are on this machine; those of a hub model are in the hub's cache."""
    where = resolve(name)
    if Path(where).is_dir():
        return Path(where)
    from huggingface_hub import snapshot_download

    patterns = [*SENTENCE_FILES, "[0-9]*_*/*.json", "[0-9]*_*/*.safetensors"]
    return Path(snapshot_download(where, revision=revision, allow_patterns=patterns))


def _fine_tuned(source: Source) -> Export:
    """The saved model of a transfer, whose pruned weights are zero already."""
    folder = find_model(source.name, source.seed)
    info = TaskInfo.read(folder)
    config = read_json(folder / "config.json", "model configuration")
    facts = {
        "ticket_id": info.ticket_id,
        "model_class": next(iter(config.get("architectures") or [None])),
        "task": info.task,
        "sparsity": info.sparsity,
        "weights": _weights_digest(folder),
    }

    def fill(staging: Path) -> None:
        shutil.copytree(folder, staging, dirs_exist_ok=True)

    return Export(facts, fill)


def _weights_digest(folder: Path) -> str:
    """A hash that tells fine-tuned models apart, and makes sure that the weights can be read."""
    try:
        return base_hash(
            {
                name: tensor_hash(value)
                for path in sorted(folder.glob("*.safetensors"))
                for name, value in load_file(path).items()
            }
        )
    except (SafetensorError, OSError) as error:
        raise ContentError(
            f"The weights in {folder} cannot be read ({error}); run tickets transfer with --save-model again."
        ) from error


FORMATS: dict[str, Callable[[Source], Export]] = {"masked": _masked}
