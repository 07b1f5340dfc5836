"""The formats of `export` that are Hugging Face folders: masked, compact and encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from winning_tickets.config import ExportConfig
from winning_tickets.deploy.source import Export, copy_files, files_in
from winning_tickets.deploy.stored_weights import StoredWeights
from winning_tickets.models import lm_head, loading
from winning_tickets.models.architectures import ARCHITECTURES
from winning_tickets.models.compact import compact_
from winning_tickets.models.loading import PLM, ModelNotFound, base_hash, resolve_model
from winning_tickets.models.modeling_compact import WAYS_OUT
from winning_tickets.models.weights import content_hash, copy_encoder_weights
from winning_tickets.runs import memory
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.files import inside, read_json, read_object, write_json
from winning_tickets.tickets.cards import model_facts
from winning_tickets.tickets.target import Target
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.fine_tuned import FineTunedModel, pretrained_name
from winning_tickets.training.saved_model import HELD_TICKET, save_folder
from winning_tickets.training.shared_model import ENCODER
from winning_tickets.training.source import FineTunedSource, SharedSource, Source, TicketSource, open_fine_tuned

SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
MASKED_NOTE = (
    "The pruned weights are stored as zeros in matrices of full size, so the model is as fast as the dense one. "
    "The ticket itself takes one bit per weight."
)
UNPRUNED_NOTE = "The model has no ticket, so none of its weights were pruned."


@dataclass(frozen=True)
class PrunedModel:
    """A model with its pruned weights at zero: a ticket on its base model, or a fine-tuned model."""

    facts: dict[str, Any]
    load: Callable[[], tuple[PLM, dict[str, Tensor]]]  # the model, and tensors that its class lacks: the pooler
    add_files: Callable[[Path], None]  # writes what belongs next to the weights
    card: dict[str, Any]  # facts for a model card
    checkpoint: StoredWeights  # the weights that it is made from
    checkpoint_name: str
    stored: StoredWeights  # with the types that an export gets
    fine_tuned: FineTunedModel | None = None
    causal: bool = False  # a decoder

    @property
    def origin(self) -> dict[str, Any]:
        """The pre-trained model of a fine-tuned one."""
        return {} if self.fine_tuned is None else _origin_of(self.fine_tuned)

    def export(self, fill: Callable[[Path], dict[str, Any]], note: str, **about: Any) -> Export:
        """Return an export of this model in the types of its checkpoint, or in those that were asked for."""
        own: dict[str, Any] = {"facts": self.facts | self.stored.facts, "card": self.card}
        own |= {"checkpoint": self.checkpoint, "checkpoint_name": self.checkpoint_name}
        return Export(**{**own, "fill": fill, "note": note, "dtypes": " and ".join(self.stored.types), **about})

    def save(self, plm: PLM, folder: Path, extra: Mapping[str, Tensor] | None = None) -> None:
        """Save the model, its tokenizer, and what belongs next to the weights."""
        save_converted(plm.model, plm.tokenizer, folder, self.stored, extra=extra)
        self.add_files(folder)


def save_converted(
    model: Any, tokenizer: Any, folder: Path, stored: StoredWeights, *, extra: Mapping[str, Tensor] | None = None
) -> None:
    """Save a model and its tokenizer with floats of these types; the configuration names the main one."""
    save_folder(model, tokenizer, folder, stored.convert_(model, extra))
    if stored.main_type is not None:  # of several types, transformers names that of the first tensor
        config = folder / "config.json"
        write_json(config, read_object(config, "model configuration") | {"dtype": stored.main_type})


def _origin_of(model: FineTunedModel) -> dict[str, Any]:
    """Return the pre-trained model of a fine-tuned one for `export.json`; it is no part of an export's identity."""
    if model.model == str(model.folder):
        return {}
    held = None if model.ticket is None else model.ticket.base
    about = {"revision": held and held.revision, "layers": held and held.layers, "hash": model.base}
    return {"base": {"name": model.model, **about}}


def find_pruned(source: Source, config: ExportConfig, *, with_head: bool = True) -> PrunedModel:
    """Find the model to export; a ticket's base gets its MLM head only if `with_head`."""
    if isinstance(source, TicketSource):
        return _ticket_on_base(source, config, with_head=with_head)
    return _fine_tuned(source, config)


def _ticket_on_base(source: Source, config: ExportConfig, *, with_head: bool) -> PrunedModel:
    if config.seed is not None:
        raise UsageError(f"--seed {config.seed} chooses a model of a transfer, and {source.where} is a ticket.")
    target = Target.find(source.where, config.base)
    ticket = target.ticket
    assert ticket is not None
    encoder = target.load()
    ticket.check(encoder.encoder, allow_other_weights=config.allow_other_weights)
    with_head = with_head and _has_lm_class(encoder)
    masked_lm = target.load("lm") if with_head else encoder
    has_head = with_head and (masked_lm.has_mlm_head or ticket.mlm_head is not None)
    plm = masked_lm if has_head else encoder
    facts = {
        "ticket_id": ticket.id,
        "model_class": type(plm.model).__name__,
        "base": {
            "name": encoder.name,
            "revision": target.revision,
            "layers": target.layers,
            "hash": base_hash(loading.weight_hashes(encoder.encoder)),
        },
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        "mlm_head": ("base" if ticket.mlm_head is None else "ticket") if has_head else None,
    }

    def load() -> tuple[PLM, dict[str, Tensor]]:
        _mask(plm, ticket, has_head=has_head)
        return plm, _pooler(plm, encoder, ticket) if has_head else {}

    card = model_facts("", encoder.name, ticket, model_class=str(facts["model_class"]))
    copy_more = partial(copy_sentence_modules, target.model, target.revision)
    checkpoint = StoredWeights.of(target.model, target.revision)
    stored, causal = checkpoint.chosen(config.dtype), plm.architecture.causal
    return PrunedModel(facts, load, copy_more, card, checkpoint, encoder.name, stored, causal=causal)


def _has_lm_class(plm: PLM) -> bool:
    """Return whether there is a class of the model with a language-model head; trusted code may bring none."""
    import transformers

    config, name = plm.model.config, loading.CLASSES["clm" if plm.architecture.causal else "mlm"]
    return type(config) in getattr(transformers, name)._model_mapping or name in getattr(config, "auto_map", {})


def _fine_tuned(source: Source, config: ExportConfig) -> PrunedModel:
    if config.base is not None:
        raise UsageError(f"--base needs a ticket, and {source.where} is not one.")
    model = open_fine_tuned(source, config.task, config.seed)
    if model.shared is None:
        saved = read_object(model.folder / "config.json", "model configuration")
        causal = getattr(ARCHITECTURES.get(str(saved.get("model_type"))), "causal", False)
        model_class, weights = next(iter(saved.get("architectures") or [None])), _hash_weights(model.folder)
        folder = model.folder
    else:
        plm, causal, folder = model.load(), False, model.shared.path / ENCODER
        model_class, weights = type(plm.model).__name__, content_hash(plm.model.state_dict())
    info = model.info
    facts = {"model_class": model_class, "weights": weights}
    facts |= {"ticket_id": info.ticket_id, "task": info.task, "sparsity": info.sparsity}
    card = model_facts("", model.model, model.ticket, [info.task], model_class=str(model_class))
    checkpoint = StoredWeights.in_folder(folder)
    stored = checkpoint.chosen(config.dtype)
    return PrunedModel(
        facts, lambda: (model.load(), {}), info.write, card, checkpoint, str(folder), stored, model, causal
    )


def masked(source: Source, config: ExportConfig) -> Export:
    """Prepare an ordinary Hugging Face folder whose pruned weights are zero."""
    found = find_pruned(source, config)
    model = found.fine_tuned

    def fill(staging: Path) -> dict[str, Any]:
        if model is not None and model.shared is None and config.dtype is None:
            copy_files(model.folder, files_in(model.folder), staging)
            return found.origin
        plm, extra = found.load()
        found.save(plm, staging, extra)
        if model is not None and model.ticket is not None:
            model.ticket.save_pretrained(staging / HELD_TICKET)
        return found.origin

    return found.export(fill, UNPRUNED_NOTE if found.facts["ticket_id"] is None else MASKED_NOTE)


def _mask(plm: PLM, ticket: Ticket, *, has_head: bool) -> None:
    """Zero the pruned weights; an MLM decoder tied to masked embeddings gets its own dense matrix."""
    if has_head:
        if ticket.mlm_head is not None:
            lm_head.load_mlm_head(plm, ticket.mlm_head)
        lm_head.separate_decoder(plm, masked=plm.architecture.word_embeddings in ticket.masks)
    ticket.apply_(plm.model, allow_other_weights=True)  # checked when it was opened


def _pooler(plm: PLM, encoder: PLM, ticket: Ticket) -> dict[str, Tensor]:
    """Return the checkpoint's pooler, which a ForMaskedLM model lacks, under the names of such a model."""
    if not encoder.has_pooler:
        return {}
    ticket.apply_(encoder.model, allow_other_weights=True)
    prefix = plm.model.base_model_prefix
    parameters = encoder.encoder.named_parameters()
    return {f"{prefix}.{name}": value.detach() for name, value in parameters if name.startswith("pooler.")}


@contextmanager
def sentence_modules(name: str, revision: str | None) -> Iterator[Path | None]:
    """Yield the folder of a sentence-transformers model with its list of modules; None for other models."""
    given = memory.find(name)
    origin = name if given is None else given.origin
    with TemporaryDirectory() as scratch:
        if given is not None and given.is_sentence_transformer:
            given.module.save_pretrained(scratch)
            where = Path(scratch)
        else:
            try:
                where = _folder_of(origin, revision) if origin else Path(scratch)
            except (ModelNotFound, OSError):
                if given is None:
                    raise
                where = Path(scratch)  # what a model in memory was loaded from may be gone
        yield where if (where / SENTENCE_FILES[0]).is_file() else None


def _folder_of(name: str, revision: str | None) -> Path:
    """Return the folder of a model; the small files of a hub model are in the hub's cache."""
    source = resolve_model(name)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    patterns = [*SENTENCE_FILES, "[0-9]*_*/*.json", "[0-9]*_*/*.safetensors"]
    return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))


def copy_sentence_modules(name: str, revision: str | None, folder: Path) -> None:
    """Copy the list of modules, the pooling and so on of a sentence-transformers model; for other models nothing."""
    with sentence_modules(name, revision) as where:
        if where is None:
            return
        names = [file for file in SENTENCE_FILES if (where / file).is_file()]
        for module in _modules(where / SENTENCE_FILES[0]):
            if module and inside(where, module).is_dir():  # modules without settings have no folder
                names += [f"{module}/{name}" for name in files_in(where / module)]
        copy_files(where, names, folder)


def _modules(file: Path) -> list[str]:
    """Return the folders of the modules of a sentence-transformers model."""
    found = read_json(file, "list of modules")
    modules = found if isinstance(found, list) else [found]
    paths = [module.get("path") if isinstance(module, dict) else None for module in modules]
    if not all(isinstance(path, str) for path in paths):
        raise ContentError(f"The list of modules {file} is not one of sentence-transformers; it was edited.")
    return [str(path) for path in paths]


def _hash_weights(folder: Path) -> str:
    """Hash the weights of a fine-tuned model, which also shows that they can be read."""
    hashes: dict[str, str] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            hashes |= {name: loading.tensor_hash(value) for name, value in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ContentError(
            f"The weights in {folder} cannot be read ({error}); run tickets transfer with --save-model again."
        ) from error
    return base_hash(hashes)


COMPACT_NOTE = (
    "Pruned heads, neurons and FFNs are removed: {compact:,} of the encoder's {dense:,} parameters are left. Other "
    "pruned weights are zeros. tickets measure DIR reports its speed."
)
PLAIN_LOADING = "All layers are alike: it is an ordinary model, which AutoModel.from_pretrained(DIR) loads as it is."


def compact(source: Source, config: ExportConfig) -> Export:
    """Prepare a folder with smaller matrices, and the code that builds its uneven layers if it needs any."""
    found = find_pruned(source, config)
    plm, extra = found.load()
    before = sum(parameter.numel() for parameter in plm.encoder.parameters())
    made = compact_(plm.model)
    layers = made["layers"]
    sizes = {"dense": before, "compact": sum(parameter.numel() for parameter in plm.encoder.parameters())}
    facts = found.facts | {"layers": [layer | {"heads": len(layer["heads"])} for layer in layers], "parameters": sizes}

    def fill(staging: Path) -> dict[str, Any]:
        found.save(plm, staging, extra)
        return found.origin

    plain = bool(made.get("plain"))
    return found.export(
        fill,
        COMPACT_NOTE.format(**sizes),
        facts=facts | found.stored.facts,
        card=found.card | {"remote_code": not plain},
        loading=PLAIN_LOADING if plain else WAYS_OUT,
    )


ENCODER_NOTE = (
    "The encoder without its head. The encoder of a shared model has the weights of all tasks and no ticket; for one "
    "task alone use --format masked --task NAME."
)


def encoder(source: Source, config: ExportConfig) -> Export:
    """Prepare a folder of the encoder alone; for a shared model, of the weights that all tasks share."""
    if not isinstance(source, FineTunedSource):
        raise UsageError(
            f"--format encoder takes the encoder out of a transfer or share with its model, and {source.where} is not "
            "one; for a ticket use --format masked."
        )
    for option in ("task", "base"):
        if getattr(config, option) is not None:
            raise UsageError(f"--{option} cannot be used with --format encoder; leave it out.")
    if isinstance(source, SharedSource):
        shared = source.open_shared(config.seed)
        plm, base, tasks = shared.load_encoder(), pretrained_name(shared.path), shared.tasks
        origin: dict[str, Any] = {}
        if base != str(shared.path):
            origin = {"base": {"name": base, "revision": None, "layers": None, "hash": shared.base_hash}}
        facts: dict[str, Any] = {"ticket_id": None, "tasks": list(shared.tasks), "sparsity": 0.0}
    else:
        shared, model = None, source.open(seed=config.seed)
        plm, info = model.load(), model.info
        base, tasks, origin = model.model, (info.task,), _origin_of(model)
        facts = {"ticket_id": info.ticket_id, "task": info.task, "sparsity": info.sparsity}
    weights = copy_encoder_weights(plm)
    if not plm.has_pooler:  # a loaded one would be random
        weights = {name: value for name, value in weights.items() if not name.startswith("pooler.")}

    folder = model.folder if shared is None else shared.path / ENCODER
    checkpoint = StoredWeights.in_folder(folder)
    stored = checkpoint.chosen(config.dtype)

    def fill(staging: Path) -> dict[str, Any]:
        if shared is None or config.dtype is not None:
            save_converted(plm.encoder, plm.tokenizer, staging, stored)
        else:
            copy_files(shared.path / ENCODER, shared.encoder_files, staging)
        return origin

    facts |= {"model_class": type(plm.encoder).__name__, "weights": content_hash(weights)} | stored.facts
    card = model_facts("", base, None if shared is not None else model.ticket, tasks)
    types = " and ".join(stored.types)
    return Export(facts, fill, ENCODER_NOTE, card, checkpoint, str(folder), types)
