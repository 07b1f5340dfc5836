"""`export --format masked`: an ordinary Hugging Face folder whose pruned weights are zeros.

The other formats start from the same two: a ticket on its base model, and the model of a transfer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from winning_tickets.deploy.source import Export, Source, copy_files, files_in
from winning_tickets.models.compact import compact_
from winning_tickets.models.compact_layers import MODEL_FILE, PREFIX
from winning_tickets.models.loading import (
    CLASSES,
    PLM,
    base_hash,
    load_mlm_head,
    resolve,
    tensor_hash,
    untie_decoder,
    weight_hashes,
)
from winning_tickets.models.weights import content_hash, pretrained
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.files import inside, read_json, read_object
from winning_tickets.tickets.files import is_ticket
from winning_tickets.tickets.target import Target
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.fine_tuned import FineTunedModel, is_fine_tuned, open_fine_tuned
from winning_tickets.training.predict import TaskInfo, save_folder, save_model
from winning_tickets.training.shared_model import ENCODER, SharedModel, find_shared, is_shared

SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
MASKED_NOTE = (
    "The pruned weights are stored as zeros: the files are as large, and the model as fast, as the dense one. "
    "The ticket itself takes one bit a weight."
)


@dataclass(frozen=True)
class OnBase:
    """A ticket and its base model, not yet put together.

    Attributes:
        target: what the user named.
        ticket: checked against the base.
        encoder: the base without head.
        plm: the base with its MLM head where it or the ticket has one and a head was asked for, else the encoder.
        facts: provenance.
    """

    target: Target
    ticket: Ticket
    encoder: PLM
    plm: PLM
    facts: dict[str, Any]

    @classmethod
    def load(cls, source: Source, with_head: bool = True) -> OnBase:
        """Find the ticket, load its base.

        Args:
            source: names a ticket.
            with_head: whether an MLM head is wanted where there is one.

        Raises:
            UsageError: `--seed` was given, or the base is not found.
            ContentError: the ticket is damaged, or for other weights.
        """
        if source.seed is not None:
            raise UsageError(f"--seed {source.seed} chooses a model of a transfer, and {source.name} is a ticket.")
        target = Target.find(source.name, source.base)
        ticket = target.ticket
        assert ticket is not None
        encoder = target.load()
        ticket.check(encoder.encoder, source.allow_other_weights)
        masked_lm = target.load("mlm") if with_head else encoder
        has_head = with_head and (masked_lm.has_mlm_head or ticket.mlm_head is not None)
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
        return cls(target, ticket, encoder, plm, facts)

    def put_on(self) -> dict[str, Tensor]:
        """Zero the pruned weights of `plm`.

        Returns:
            Tensors that the checkpoint has beside those of `plm`: the pooler of a model with an MLM head.
        """
        has_head = self.facts["mlm_head"] is not None
        _mask(self.plm, self.ticket, has_head)
        return _pooler(self.plm, self.encoder, self.ticket) if has_head else {}


def masked(source: Source) -> Export:
    """An ordinary Hugging Face folder whose pruned weights are zero."""
    if is_ticket(source.name):
        return _masked_ticket(source)
    return _masked_fine_tuned(source)


def _masked_ticket(source: Source) -> Export:
    """A ticket on its base model: with MLM head where the checkpoint or the ticket has one, else the plain encoder."""
    base = OnBase.load(source)

    def fill(staging: Path) -> dict[str, Any]:
        extra = base.put_on()
        save_folder(base.plm.model, base.plm.tokenizer, staging, extra)
        copy_sentence_modules(base.target.model, base.target.revision, staging)
        return {}

    return Export(base.facts, fill, MASKED_NOTE)


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
    names = [file for file in SENTENCE_FILES if (where / file).is_file()]
    for module in _modules(where / SENTENCE_FILES[0]):
        if module and inside(where, module).is_dir():  # modules without settings have no folder
            names += [f"{module}/{name}" for name in files_in(where / module)]
    copy_files(where, names, folder)


def _modules(file: Path) -> list[str]:
    """Folders of the modules of a sentence-transformers model."""
    found = read_json(file, "list of modules")
    modules = found if isinstance(found, list) else [found]
    paths = [module.get("path") if isinstance(module, dict) else None for module in modules]
    if not all(isinstance(path, str) for path in paths):
        raise ContentError(f"The list of modules {file} is not one of sentence-transformers; it was edited.")
    return [str(path) for path in paths]


def _local_folder(name: str, revision: str | None) -> Path:
    """Where the small files of a model are on this machine; those of a hub model are in the hub's cache."""
    where = resolve(name)
    if Path(where).is_dir():
        return Path(where)
    from huggingface_hub import snapshot_download

    patterns = [*SENTENCE_FILES, "[0-9]*_*/*.json", "[0-9]*_*/*.safetensors"]
    return Path(snapshot_download(where, revision=revision, allow_patterns=patterns))


@dataclass(frozen=True)
class FineTuned:
    """The saved model of a transfer, or of a task of a shared model.

    Attributes:
        model: what was found.
        facts: provenance.
    """

    model: FineTunedModel
    facts: dict[str, Any]

    @property
    def info(self) -> TaskInfo:
        """Its task."""
        return self.model.info

    @classmethod
    def find(cls, source: Source) -> FineTuned:
        """Find it; nothing is loaded but to make sure that the weights can be read.

        Raises:
            UsageError: there is no saved model, not of this task, or `--base` was given.
            ContentError: it is damaged.
        """
        if source.base is not None:
            raise UsageError(f"--base goes with a ticket, and {source.name} is not one.")
        model = open_fine_tuned(source.name, source.task, source.seed)
        if model.shared is None:
            config = read_object(model.folder / "config.json", "model configuration")
            facts = {
                "model_class": next(iter(config.get("architectures") or [None])),
                "weights": _weights_digest(model.folder),
            }
        else:
            plm = model.load()
            facts = {"model_class": type(plm.model).__name__, "weights": content_hash(plm.model.state_dict())}
        info = model.info
        facts |= {"ticket_id": info.ticket_id, "task": info.task, "sparsity": info.sparsity}
        return cls(model, facts)

    def load(self) -> PLM:
        """The model with its task head, the weights that its ticket prunes at zero."""
        return self.model.load()


def _masked_fine_tuned(source: Source) -> Export:
    found = FineTuned.find(source)

    def fill(staging: Path) -> dict[str, Any]:
        if found.model.shared is None:
            copy_files(found.model.folder, files_in(found.model.folder), staging)
        else:
            plm = found.load()
            save_model(plm, found.info, found.model.ticket, staging)
        return {}

    return Export(found.facts, fill, MASKED_NOTE)


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


COMPACT_NOTE = (
    "Pruned heads, neurons and FFNs are gone: of the encoder's {dense:,} parameters {compact:,} are left. Other pruned "
    "weights are zeros. Load it with "
    "winning_tickets.load_compact(DIR), or without this package with AutoModel.from_pretrained(DIR, "
    "trust_remote_code=True); tickets measure DIR says how fast it is."
)


def compact(source: Source) -> Export:
    """A folder with smaller matrices and the code that builds its uneven layers.

    Raises:
        UsageError: nothing is pruned as a whole, or the architecture's layers share weights.
        ContentError: a damaged ticket or model, or a ticket for other weights.
    """
    return _ticket(source) if is_ticket(source.name) else _compact_fine_tuned(source)


def _ticket(source: Source) -> Export:
    base = OnBase.load(source)
    extra = base.put_on()
    sizes = _shrink(base.plm)

    def fill(staging: Path) -> dict[str, Any]:
        _save(base.plm, staging, extra)
        copy_sentence_modules(base.target.model, base.target.revision, staging)
        return {}

    return Export(base.facts | sizes, fill, COMPACT_NOTE.format(**sizes["parameters"]))


def _compact_fine_tuned(source: Source) -> Export:
    found = FineTuned.find(source)
    plm = found.load()
    sizes = _shrink(plm)

    def fill(staging: Path) -> dict[str, Any]:
        _save(plm, staging, {})
        found.info.write(staging)
        return {}

    return Export(found.facts | sizes, fill, COMPACT_NOTE.format(**sizes["parameters"]))


def _shrink(plm: PLM) -> dict[str, Any]:
    """Remove what contributes nothing; the sizes before and after."""
    before = _parameters(plm)
    layers = compact_(plm.model)["layers"]
    return {
        "layers": [layer | {"heads": len(layer["heads"])} for layer in layers],
        "parameters": {"dense": before, "compact": _parameters(plm)},
    }


def _parameters(plm: PLM) -> int:
    """Of the encoder."""
    return sum(parameter.numel() for parameter in plm.encoder.parameters())


def _save(plm: PLM, folder: Path, extra: dict[str, Tensor]) -> None:
    """Write the model; `auto_map` names the class of each kind of head in the code beside it."""
    config = plm.model.config
    classes = ((auto, getattr(transformers, auto)._model_mapping.get(type(config), None)) for auto in CLASSES.values())
    stem = Path(MODEL_FILE).stem
    config.auto_map = {auto: f"{stem}.{PREFIX}{found.__name__}" for auto, found in classes if found is not None}
    save_folder(plm.model, plm.tokenizer, folder, extra)


ENCODER_NOTE = (
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

    return Export(facts, fill, ENCODER_NOTE)


def _of_one_task(source: Source) -> Export:
    model = open_fine_tuned(source.name, seed=source.seed)
    plm, info = model.load(), model.info
    facts = {"ticket_id": info.ticket_id, "task": info.task, "sparsity": info.sparsity, **_about(plm)}

    def fill(staging: Path) -> dict[str, Any]:
        save_folder(plm.encoder, plm.tokenizer, staging)
        return {}

    return Export(facts, fill, ENCODER_NOTE)


def _about(plm: PLM) -> dict[str, Any]:
    weights = pretrained(plm)
    if not plm.has_pooler:  # a loaded one would be random
        weights = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    return {"model_class": type(plm.encoder).__name__, "weights": content_hash(weights)}
