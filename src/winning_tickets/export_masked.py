"""`export --format masked`: an ordinary Hugging Face folder whose pruned weights are zeros.

The other formats start from the same two: a ticket on its base model, and the model of a transfer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from winning_tickets.errors import ContentError, UsageError
from winning_tickets.evaluate import Target
from winning_tickets.export_source import Export, Source, copy_files, files_in
from winning_tickets.files import inside, read_json, read_object
from winning_tickets.fine_tuned import FineTunedModel, open_fine_tuned
from winning_tickets.plm import (
    PLM,
    base_hash,
    load_mlm_head,
    resolve,
    tensor_hash,
    untie_decoder,
    weight_hashes,
)
from winning_tickets.predict import TaskInfo, save_folder, save_model
from winning_tickets.states import content_hash
from winning_tickets.ticket import Ticket, is_ticket

SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
NOTE = (
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
    return _fine_tuned(source)


def _masked_ticket(source: Source) -> Export:
    """A ticket on its base model: with MLM head where the checkpoint or the ticket has one, else the plain encoder."""
    base = OnBase.load(source)

    def fill(staging: Path) -> dict[str, Any]:
        extra = base.put_on()
        save_folder(base.plm.model, base.plm.tokenizer, staging, extra)
        copy_sentence_modules(base.target.model, base.target.revision, staging)
        return {}

    return Export(base.facts, fill, NOTE)


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


def _fine_tuned(source: Source) -> Export:
    found = FineTuned.find(source)

    def fill(staging: Path) -> dict[str, Any]:
        if found.model.shared is None:
            copy_files(found.model.folder, files_in(found.model.folder), staging)
        else:
            plm = found.load()
            save_model(plm, found.info, found.model.ticket, staging)
        return {}

    return Export(found.facts, fill, NOTE)


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
