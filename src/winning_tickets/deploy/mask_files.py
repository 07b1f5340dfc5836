"""The `mask.pt` files of the papers' released code: reading them as tickets, and writing tickets as such files.

BERT-tickets writes `bert.encoder.layer.0.attention.self.query.weight_mask` with floats, as do TAMT's one-shot and
iterative pruning; TAMT's mask training writes `...query.weight` with bools. No file names its model.
"""

from __future__ import annotations

import difflib
import pickle
import re
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from winning_tickets.config import ExportConfig, ImportConfig
from winning_tickets.config.deploy import IMPORTED
from winning_tickets.deploy.source import Export
from winning_tickets.models.architectures import ARCHITECTURES, join_parts, split_name
from winning_tickets.models.loading import PLM, load_plm, prunable_names
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import ContentError, UsageError, page, unknown
from winning_tickets.runs.files import save_tensors, sha256
from winning_tickets.runs.identity import digest
from winning_tickets.runs.provenance import versions
from winning_tickets.tickets.cards import ticket_facts
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.own_masks import PARTIAL, check_own_method
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.source import Source

MASK_PT = "mask.pt"
# torch has no error of its own for a damaged file; reading one may raise any of these.
_DAMAGED = (
    *(OSError, EOFError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, AssertionError),
    struct.error,
)
SHOWN = 3
"""Number of names or values that a message gives as examples."""

_PITFALLS = page("how_to/use_the_papers_masks.md#pitfalls")


@dataclass(frozen=True)
class Convention:
    """Names and type of the masks of a code base."""

    ending: str  # of a mask's name, in place of the `.weight` of its weight's name
    dtype: torch.dtype  # type of written masks; masks of any type with the values 0 and 1 are read


CONVENTIONS = {"bert-tickets": Convention(".weight_mask", torch.float32), "tamt": Convention(".weight", torch.bool)}


@dataclass(frozen=True)
class MaskFile:
    """Content of a file, under the names of the encoder's parameters."""

    masks: dict[str, Tensor]  # bool, True = kept
    convention: str
    prefix: str  # of the file's names, such as `bert.`; may be empty
    sha256: str


def import_mask(config: ImportConfig, out: Path | str, *, force: bool = False) -> dict[str, Any]:
    """Make a ticket from a `mask.pt`, and return its `result.json`; see `api.deploy_verbs.import_mask`."""
    file, method, revision = Path(config.file), config.method, config.revision
    if not file.is_file():
        raise UsageError(f"There is no mask file {file}; give the path of a mask.pt.")
    check_own_method(method)
    plm = load_plm(config.base, revision=revision, with_tokenizer=False)
    found = read_masks(file, plm)
    scope = _scope(found.masks, plm)
    names = prunable_names(plm, scope)
    masks = {name: split_name(name).of(found.masks[split_name(name).parameter]) for name in names}
    facts = {"file_sha256": found.sha256, "convention": found.convention, "prefix": found.prefix}
    info = TicketInfo(
        method=method,
        scope=scope,
        config=facts,
        applies_to=BaseModelInfo.of(plm.encoder, plm.name, plm.model.config.model_type, revision, layers=None),
    )
    ticket = Ticket(masks, info)
    named = {} if method == IMPORTED else {"method": method}
    run_id = f"import-mask-{digest(facts | named | {'base': ticket.base.hash})}"
    result = {
        "verb": "import-mask",
        "run_id": run_id,
        "ticket_id": ticket.id,
        "method": info.method,
        "scope": scope,
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        **facts,
        "model": plm.name,
        "base_hash": ticket.base.hash,
        "versions": versions(),
    }
    with RunDirectory.claim(Path(out), "import-mask", run_id, facts | named | {"base": plm.name}, force=force) as run:
        if run.status != "done":
            ticket.save_pretrained(run.path)
            run.finish(result)
        return run.result() | {"out": str(out)}


def read_masks(file: Path, plm: PLM) -> MaskFile:
    """Read a `mask.pt` with names, shapes and values checked against a model."""
    stored = _load(file)
    convention = _find_convention(file, stored)
    ending = CONVENTIONS[convention].ending
    shapes = {name: value.shape for name, value in plm.encoder.named_parameters()}
    # A file may have masks of all matrices in the widest scope of a family of models.
    pooler = plm.architecture.pooler
    prunable = [*prunable_names(plm, "encoder+embeddings"), *([] if pooler is None else [pooler])]
    possible = {split_name(name).parameter for name in prunable}
    prefix = f"{plm.model.base_model_prefix}."
    masks: dict[str, Tensor] = {}
    prefixes = set()
    for key, value in stored.items():
        name = key.removeprefix(prefix).removesuffix(ending) + ".weight"
        if name not in possible:
            known = sorted(f"{prefix}{one.removesuffix('.weight')}{ending}" for one in possible)
            raise _unknown_key(file, key, known, plm)
        if name in masks:
            raise ContentError(f"{file} has two masks of {name}, with and without {prefix} in front; leave one.")
        masks[name] = _as_mask(file, key, value, shapes[name])
        prefixes.add(key[: len(key) - len(key.removeprefix(prefix))])
    return MaskFile(masks, convention, max(prefixes), sha256(file))


def _load(file: Path) -> dict[str, Tensor]:
    """Load the tensors of a file by name; torch refuses whatever would have to run code."""
    try:
        with warnings.catch_warnings():  # of unusual pickles, which are then read or refused all the same
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = re.search(r"(?:GLOBAL|instruction|type|class) ([\w.]*[A-Za-z][\w.]*\.\w+)", str(error))
        what = f" (it asks for {needed[1]})" if needed else ""
        raise ContentError(
            f"{file} holds more than tensors{what} and could run any code when it is opened, so it was not read. "
            "A whole model (model.pt) is such a file; give the mask.pt next to it. If there is none and you "
            "trust the file, write its masks with your own script: torch.save({name: tensor, ...}, 'mask.pt')."
        ) from error
    except _DAMAGED as error:
        raise ContentError(f"{file} is not a file of torch.save, or it was cut off; copy it again.") from error
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        found = "nothing" if isinstance(content, dict) and not content else f"a {type(content).__name__}"
        raise ContentError(f"{file} holds {found}, expected a dictionary of masks by the names of matrices.")
    for key, value in content.items():
        if not isinstance(value, Tensor) or not _is_dense(value):
            raise ContentError(f"{file} has a {type(value).__name__} for {key}, expected a dense tensor of 0 and 1.")
    return content


def _is_dense(value: Tensor) -> bool:
    """Tell a tensor that stores all its entries from one that is sparse, nested, quantized or without data."""
    stored = value.layout is torch.strided and value.device.type == "cpu"
    return stored and not value.is_nested and not value.is_quantized


def _find_convention(file: Path, keys: Mapping[str, Any]) -> str:
    """Return the convention that all names of a file follow."""
    found: dict[str, str] = {}
    for key in keys:
        name = next((name for name, one in CONVENTIONS.items() if key.endswith(one.ending)), None)
        if name is None:
            endings = " or ".join(one.ending for one in CONVENTIONS.values())
            raise ContentError(f"{file} has {key}, which is not the name of a mask; those end in {endings}.")
        found.setdefault(name, key)
    if len(found) > 1:
        both = " and ".join(found.values())
        raise ContentError(f"{file} mixes the names of both code bases: {both}. Keep the masks only.")
    return next(iter(found))


def _unknown_key(file: Path, key: str, possible: Sequence[str], plm: PLM) -> ContentError:
    family = plm.model.config.model_type
    first = key.split(".")[0]
    if first in ARCHITECTURES and first != plm.model.base_model_prefix:
        return ContentError(
            f"{file} has {key}, a name of {first}, and {plm.name} is a {family} model; give the file's own --base."
        )
    close = difflib.get_close_matches(key, possible, n=SHOWN, cutoff=0.5)
    near = f" The closest names of {plm.name} are {', '.join(close)}." if close else ""
    return ContentError(
        f"{file} has {key}, which is no matrix of {plm.name} that can be pruned; is it the mask of another model?"
        f"{near} {_PITFALLS}"
    )


def _as_mask(file: Path, key: str, value: Tensor, shape: torch.Size) -> Tensor:
    if value.shape != shape:
        raise ContentError(
            f"{file} has a mask of shape {tuple(value.shape)} for {key}, whose weight has {tuple(shape)}; "
            "is it the mask of another model?"
        )
    if value.dtype == torch.bool:
        return value
    mask = value == 1
    strange = value[~mask & (value != 0)]
    if strange.numel():
        values = ", ".join(f"{one:g}" for one in torch.unique(strange)[:SHOWN].tolist())
        count = f"{strange.numel():,} entries"
        raise ContentError(
            f"{file} has {count} of {key} that are neither 0 nor 1, such as {values}; make masks of them. {_PITFALLS}"
        )
    return mask


def _scope(masks: Mapping[str, Tensor], plm: PLM) -> str:
    """Return the scope whose matrices are exactly those of the masks."""
    architecture = plm.architecture
    pooler = architecture.pooler is not None and architecture.pooler in masks
    if pooler and not plm.has_pooler:
        raise ContentError(f"The file has a mask of the pooler, which {plm.name} lacks; give a --base with a pooler.")
    scope = "encoder" + ("+embeddings" if architecture.word_embeddings in masks else "") + ("+pooler" if pooler else "")
    parameters = (split_name(name).parameter for name in prunable_names(plm, scope))
    missing = [name for name in parameters if name not in masks]
    if missing:
        shown = ", ".join(missing[:SHOWN])
        raise ContentError(
            f"The file lacks the masks of {len(missing)} of {len(missing) + len(masks)} matrices of {plm.name}: {shown}"
            f"{' ...' if len(missing) > SHOWN else ''}. Was it made for a smaller model, or cut off? Masks of some "
            f"matrices only become a ticket in Python, with Ticket.from_masks. {_PITFALLS}"
        )
    return scope


def mask_pt(source: Source, config: ExportConfig) -> Export:
    """Prepare a `mask.pt` with the masks of a ticket, as one of the code bases stores them."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    convention = config.convention or next(iter(CONVENTIONS))
    if convention not in CONVENTIONS:
        raise unknown("convention", convention, CONVENTIONS)
    if config.base is not None or config.allow_other_weights or config.seed is not None:
        raise UsageError(
            "--base, --allow-other-weights and --seed cannot be used with --format mask-pt; leave them out."
        )
    ticket = Ticket.from_pretrained(source.where)
    if ticket.bias_masks:
        raise UsageError(
            f"The ticket {source.where} prunes whole heads, neurons or FFNs with their biases, which a {MASK_PT} "
            "cannot store; use --format masked or compact."
        )
    if ticket.base.model_type not in CONFIG_MAPPING:
        raise UsageError(
            f"The ticket {source.where} is of {ticket.base.name}, a model with code of its own "
            f"({ticket.base.model_type}), whose names in a {MASK_PT} are not known; use --format masked."
        )
    # Names of the encoder begin with this inside a model that has a head.
    prefix = f"{MODEL_MAPPING[CONFIG_MAPPING[ticket.base.model_type]].base_model_prefix}."
    how = CONVENTIONS[convention]

    def fill(staging: Path) -> dict[str, Any]:
        masks = {
            f"{prefix}{name.removesuffix('.weight')}{how.ending}": mask.to(how.dtype)
            for name, mask in join_parts(ticket.masks).items()
        }
        save_tensors(masks, staging / MASK_PT)
        return {}

    facts = {
        "ticket_id": ticket.id,
        "convention": convention,
        "base": {"name": ticket.base.name, "revision": ticket.base.revision, "hash": ticket.base.hash},
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
    }
    return Export(facts, fill, _note(ticket, convention), ticket_facts(ticket))


def _note(ticket: Ticket, convention: str) -> str:
    parts = set(ticket.info.scope.split("+"))
    wanted = {"pooler"} if convention == "bert-tickets" else {"pooler", "embeddings"}
    note = f"{MASK_PT} holds masks, no weights; it belongs to {ticket.base.name}."
    if missing := sorted(wanted - parts):
        lacking = " and the ".join(missing)
        note += f" The paper's released code expects a mask of the {lacking} too, which this ticket lacks."
    if extra := sorted(parts - wanted - {"encoder", PARTIAL}):
        note += f" The released code skips the {' and the '.join(extra)}."
    return note
