"""The ticket: masks and gates of one model, its files, its description, and the settings of its search."""

from __future__ import annotations

import functools
import hashlib
import html
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from winning_tickets.config import COUNT_FIELDS, METHODS, SearchConfig
from winning_tickets.models.architectures import ARCHITECTURES, join_parts, split_name
from winning_tickets.models.encoders import Encoder, find_encoder, part_like, whole
from winning_tickets.models.layers import check_absent, check_layer, check_parameter
from winning_tickets.models.loading import tensor_hash
from winning_tickets.models.removal import Removed, remove_closed_
from winning_tickets.models.structure import Structure, count_units, expand_gates
from winning_tickets.runs import memory
from winning_tickets.runs.ambient import neutral
from winning_tickets.runs.errors import ContentError, UsageError, shown, unknown
from winning_tickets.runs.escapes import printable
from winning_tickets.runs.files import sha256, write_bytes
from winning_tickets.runs.identity import write_checked
from winning_tickets.runs.locks import hold
from winning_tickets.runs.provenance import versions
from winning_tickets.tickets import files
from winning_tickets.tickets.cards import publish, ticket_facts, write_card
from winning_tickets.tickets.files import HEAD_FILE, INFO_FILE, MASK_FILE, BaseModelInfo, TicketInfo
from winning_tickets.tickets.masking import rows_here
from winning_tickets.tickets.own_masks import check_own_method, check_settings, own_masks, plm_of
from winning_tickets.tickets.selection import RANKINGS, Ranking, count_true, keep_top, write_masked_

_SAVE_SECONDS = 120.0  # longest wait for another process that saves in the same folder


class Ticket:
    """A subnetwork of a pre-trained encoder. `from_masks` makes one of masks of your own.

    Args:
        masks: bool tensors by the encoder's own parameter names, or by parts of fused ones, True = kept.
        info: provenance.
        mlm_head: the trained MLM head (without decoder matrix), where the search trained one.
        gates: bool tensors, True = kept, on heads, FFNs, neurons and layers.
        structure: layers, heads and FFNs of the encoder; gates need it.

    Raises:
        UsageError: `info` is not a `TicketInfo`.
        ContentError: a mask is not a bool tensor, a gate does not fit, or there are neither masks nor gates.

    Example:
        >>> ticket = Ticket.from_pretrained("runs/kd60")
        >>> model = ticket.apply_(AutoModel.from_pretrained("bert-base-uncased"))
    """

    @neutral()
    def __init__(
        self,
        masks: Mapping[str, Tensor],
        info: TicketInfo,
        mlm_head: Mapping[str, Tensor] | None = None,
        gates: Mapping[str, Tensor] | None = None,
        *,
        structure: Structure | None = None,
    ) -> None:
        if not isinstance(info, TicketInfo):
            raise UsageError(
                f"info is a {type(info).__name__}, expected a TicketInfo; for masks of your own there is "
                "Ticket.from_masks(masks, model, method=...)."
            )
        if not masks and not gates:
            raise ContentError("A ticket needs at least one mask, found none.")
        for name, mask in masks.items():
            if mask.dtype != torch.bool:
                raise ContentError(f"The mask of {name} has type {mask.dtype}, expected torch.bool (True = kept).")
            if mask.is_meta:
                raise ContentError(f"The mask of {name} is on the device meta, without data; make it on another one.")
        if gates and structure is None:
            raise ContentError("A ticket with gates needs the structure of its encoder (structure=structure_of(plm)).")
        self.info = info
        self.mlm_head = dict(mlm_head) if mlm_head else None
        self.gates: dict[str, Tensor] = dict(gates or {})
        self.structure = structure if self.gates else None
        # A mask that was made in inference mode could not take part in a training.
        self._own = {name: mask.clone() if mask.is_inference() else mask for name, mask in masks.items()}
        if self.structure is not None:
            self.structure.check(self.gates)
            for name, mask in self._expanded[0].items() if self._own else ():
                if name in self._own and self._own[name].shape != mask.shape:
                    raise ContentError(
                        f"The mask of {name} has shape {tuple(self._own[name].shape)}, "
                        f"by its gates {tuple(mask.shape)}."
                    )

    def __repr__(self) -> str:
        what = f"{len(self.masks)} matrices"
        if self.structure is not None:
            units = count_units(self.gates, self.structure).items()
            what = " and ".join(f"{count['pruned']} of {count['total']} {unit}" for unit, count in units) + " pruned"
        return printable(f"Ticket({self.info.method}, sparsity={self.sparsity:.4f}, {what} of {self.base.name})")

    @neutral()
    def to_frame(self) -> Any:
        """Return a pandas data frame with one row for each matrix: its name, shape, weights, kept ones and sparsity."""
        import pandas as pd

        rows = [(name, tuple(mask.shape), mask.numel(), count_true(mask)) for name, mask in self.masks.items()]
        frame = pd.DataFrame(rows, columns=["matrix", "shape", "weights", "kept"])
        return frame.assign(sparsity=1 - frame["kept"] / frame["weights"])

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.to_frame().to_html(index=False, max_rows=20)}"

    @functools.cached_property
    @neutral()
    def _expanded(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the masks of matrices and of biases that follow from the gates."""
        return ({}, {}) if self.structure is None else expand_gates(self.gates, self.structure)

    @functools.cached_property
    @neutral()
    def masks(self) -> dict[str, Tensor]:
        """The masks of matrices by name, True = kept by masks and by gates."""
        if self.structure is None:
            return self._own
        # Gates mask every matrix of every layer, so that sparsities of structured tickets have one scope.
        own = {name: mask.cpu() for name, mask in self._own.items()}
        return own | {name: mask & own[name] if name in own else mask for name, mask in self._expanded[0].items()}

    @functools.cached_property
    def bias_masks(self) -> dict[str, Tensor]:
        """The masks of biases that gates prune, by name; they do not count in the sparsity."""
        return self._expanded[1]

    @functools.cached_property
    def prunes_only_units(self) -> bool:
        """Whether closed gates describe everything that the ticket prunes."""
        by_gates = self._expanded[0]
        return bool(by_gates) and all(
            name in by_gates and torch.equal(mask, by_gates[name]) for name, mask in self.masks.items()
        )

    def encoder_of(self, model: nn.Module) -> Encoder:
        """Find the encoder that this ticket fits best inside a model, which may be wrapped."""
        return find_encoder(model, [split_name(name).parameter for name in (*self.masks, *self.bias_masks)])

    def all_masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the masks of all matrices and biases, one for each part of a fused parameter."""
        present = self.encoder_of(model).places
        # Many head classes do not load the pooler; its mask is then left out.
        return {
            name: mask
            for name, mask in (self.masks | self.bias_masks).items()
            if split_name(name).parameter in present or not name.startswith("pooler.")
        }

    @property
    def base(self) -> BaseModelInfo:
        """The weights that the ticket belongs to."""
        return self.info.applies_to

    @property
    def total(self) -> int:
        """Number of weights in scope."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    @neutral()
    def pruned(self) -> int:
        """Number of weights removed."""
        return sum(mask.numel() - count_true(mask) for mask in self.masks.values())

    @property
    def sparsity(self) -> float:
        """Fraction of the weights in scope that is removed, in [0, 1)."""
        return self.pruned / self.total

    @neutral()
    def sparsity_by_matrix(self) -> dict[str, float]:
        """Return the fraction removed of each matrix."""
        return {name: 1 - count_true(mask) / mask.numel() for name, mask in self.masks.items()}

    @property
    @neutral()
    def id(self) -> str:
        """A hash of the masks, the gates and the weights they belong to."""
        state = hashlib.sha256(self.base.hash.encode())
        for kind in (self._own, self.gates):
            for name in sorted(kind):
                state.update(name.encode())
                state.update(files.pack(kind[name]).tobytes())
        return state.hexdigest()[:16]

    def __iter__(self) -> Iterator[str]:
        return iter(self.masks)

    @neutral()
    def masks_on(self, model: nn.Module) -> dict[str, Tensor]:
        """Return `all_masks` by parameter of a model's encoder: the parts of fused parameters are joined."""
        return join_parts(self.all_masks(model))

    @neutral()
    def check(self, model: Any, *, allow_other_weights: bool = False) -> None:
        """Check that the ticket fits a model's encoder: names, shapes and, without `allow_other_weights`, the weights.

        Raises:
            ContentError: a matrix is missing, is quantized, or has another shape or other values; the number of heads
                differs; or several encoders in the model fit.
        """
        encoder = self.encoder_of(model)
        # The same matrices can be cut into more or fewer heads, so the shapes do not tell.
        if self.structure is not None and encoder.num_heads not in (None, self.structure.num_heads):
            raise ContentError(
                f"The ticket was made for {self.structure.num_heads} heads per layer, and this model has "
                f"{encoder.num_heads}."
            )
        parameters = encoder.parameters
        for name, mask in self.all_masks(model).items():
            part = split_name(name)
            chain = encoder.chain(part.parameter)
            if part.parameter not in parameters:
                check_absent(name, chain)
                raise ContentError(
                    f"The ticket masks {name}, which this model does not have; is it another architecture?"
                )
            parameter = parameters[part.parameter]
            check_layer(part.parameter, chain)
            check_parameter(part.parameter, parameter)
            shape = part.of(torch.empty(parameter.shape, device="meta")).shape
            if shape != mask.shape:
                raise ContentError(
                    f"The ticket's mask of {name} has shape {tuple(mask.shape)}, the model's weight has {tuple(shape)}."
                )
        if allow_other_weights:
            return
        for name, expected in self.base.tensors.items():
            if name in parameters and tensor_hash(whole(parameters[name].detach())) != expected:
                dtype = parameters[name].dtype
                values = "other values" if dtype == torch.float32 else f"other values, in {dtype}"
                raise ContentError(
                    f"The ticket was made for the weights of {self.base.name}; here {name} holds {values}. "
                    "Load that model, or pass --allow-other-weights (allow_other_weights=True) if you mean it."
                )

    @neutral()
    @torch.no_grad()
    def is_applied_to(self, model: Any) -> bool:
        """Return whether the pruned weights of a model are zero already; False if nothing is pruned.

        Raises:
            ContentError: the ticket does not fit the model, see `check`.
        """
        self.check(model, allow_other_weights=True)
        parameters = self.encoder_of(model).parameters
        for name, mask in self.masks_on(model).items():
            weights = whole(parameters[name].detach())
            if torch.count_nonzero(weights.masked_fill(mask.to(weights.device), 0)):
                return False
        return self.pruned > 0

    @neutral()
    @torch.no_grad()
    def apply_(self, model: Any, *, allow_other_weights: bool = False) -> Any:
        """Set the pruned weights of a model to exactly +0.0, in place, and return the model.

        Args:
            model: any model with this encoder somewhere inside (AutoModel, ForSequenceClassification, a
                SentenceTransformer, a module of your own), also wrapped by DataParallel, DDP, `fully_shard`,
                `torch.compile` or PEFT.
            allow_other_weights: accept weights that the ticket was not made for.

        Raises:
            ContentError: see `check`.
        """
        self.check(model, allow_other_weights=allow_other_weights)
        parameters = self.encoder_of(model).parameters
        for name, mask in self.masks_on(model).items():
            here = rows_here(parameters[name])
            write_masked_(here, here, part_like(mask, parameters[name]).to(here.device))
        return model

    @neutral()
    def remove_units_(self, encoder: nn.Module) -> Removed | None:
        """Remove the pruned units from a checked encoder in place; return None, without a change, for other tickets.

        Other tickets prune single weights. Fine-tuning is faster without the units; `Removed.write_back_` then restores
        them as zeros.
        """
        if self.structure is None or not self.prunes_only_units:
            return None
        return remove_closed_(encoder, self.structure, self.gates)

    @neutral()
    def save_pretrained(self, directory: Path | str) -> None:
        """Write `ticket.safetensors`, `ticket.json`, a model card and, where there is one, `mlm_head.safetensors`.

        The masks take one bit per weight. The description is written last, so a folder with one is complete.

        Raises:
            UsageError: another process works in the directory for longer than two minutes.
            TrainingError: the file system refused to write; no incomplete ticket is left.
        """
        with hold(directory, patience=_SAVE_SECONDS):
            self._save(Path(directory))

    def _save(self, directory: Path) -> None:
        packed = {name: torch.from_numpy(files.pack(mask)) for name, mask in self._own.items()}
        packed |= {name: gate.cpu().to(torch.uint8) for name, gate in self.gates.items()}
        write_bytes(directory / MASK_FILE, to_bytes(packed))
        hashes = {MASK_FILE: sha256(directory / MASK_FILE)}
        if self.mlm_head:
            head = {name: value.detach().cpu().contiguous() for name, value in self.mlm_head.items()}
            write_bytes(directory / HEAD_FILE, to_bytes(head))
            hashes[HEAD_FILE] = sha256(directory / HEAD_FILE)
        info = self.info if self.info.versions else self.info.model_copy(update={"versions": versions()})
        body = {
            "format_version": files.FORMAT_VERSION,
            "id": self.id,
            "sparsity": self.sparsity,
            "pruned": self.pruned,
            "total": self.total,
            "shapes": {name: list(mask.shape) for name, mask in self._own.items()},
            "sparsity_by_matrix": self.sparsity_by_matrix(),
            "files": hashes,
            "info": info.model_dump(mode="json"),
        }
        if self.structure is not None:
            body |= {"gates": list(self.gates), "structure": self.structure.model_dump(mode="json")}
        write_card(directory, ticket_facts(self))
        write_checked(directory / INFO_FILE, body)

    def push_to_hub(self, repo: str, **options: Any) -> str:
        """Save the ticket in a repository of the Hugging Face hub, with a model card, and return its address.

        Args:
            repo: a repository such as `me/ticket`, which is created if needed.
            options: `results`, `private`, `token`, `revision` and `message`, see `push`.

        Raises:
            UsageError: no token, no network, or a repository that belongs to somebody else.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            names = [path.name for path in Path(folder).iterdir() if path.name in files.FILES]
            return str(publish(Path(folder), names, repo, **options)["url"])

    @classmethod
    @neutral()
    def from_masks(
        cls,
        masks: Mapping[str, Tensor],
        model: Any,
        *,
        method: str = "own",
        settings: Mapping[str, Any] | None = None,
        seed: int | None = None,
        revision: str | None = None,
    ) -> Self:
        """Make a ticket from masks that a method of your own found.

        Args:
            masks: bool tensors, True = kept, by the parameter names of the model or of its encoder. Masks of only some
                matrices are enough; the sparsity then counts the weights of these matrices.
            model: the weights that the masks are for: a model, a module with one inside, such as a SentenceTransformer,
                or the name of a model. It is not changed.
            method: the method's name, which tables and figures show.
            settings: settings of the method, such as `{"temperature": 0.5}`; they distinguish its variants in analyses.
            seed: seed of the method.
            revision: hub revision of a model that is given by name.

        Raises:
            UsageError: the method has the name of one of the library, a setting cannot be stored, or there is no such
                model.
            ContentError: a name, shape or type does not fit the model.

        Example:
            >>> name = "encoder.layer.0.attention.self.query.weight"
            >>> Ticket.from_masks({name: weight.abs() > weight.abs().median()}, model, method="above-median")
        """
        check_own_method(method)
        check_settings(settings or {})
        plm = plm_of(model, revision)
        own, scope = own_masks(masks, plm, model)
        base = BaseModelInfo.of(plm.encoder, plm.name, plm.model.config.model_type, revision, layers=None)
        config = dict(settings or {})
        return cls(own, TicketInfo(method=method, scope=scope, config=config, applies_to=base, seed=seed))

    @classmethod
    def from_scores(
        cls,
        scores: Mapping[str, Tensor],
        model: Any,
        sparsity: float,
        *,
        ranking: Ranking = "matrix",
        method: str = "own",
        settings: Mapping[str, Any] | None = None,
        seed: int | None = None,
        revision: str | None = None,
    ) -> Self:
        """Make a ticket that keeps the weights with the highest scores, exactly as many as the sparsity leaves.

        Args:
            scores: float tensors of the shapes of the weights, by the parameter names of the model or of its encoder.
            model: the weights that the scores are of, as for `from_masks`.
            sparsity: fraction of the scored weights that is removed, in [0, 1).
            ranking: `matrix` ranks inside each matrix, `row` inside each of its rows, `global` over all of them.
            method: the method's name, which tables and figures show.
            settings: settings of the method; `sparsity` and `ranking` are added.
            seed: seed of the method.
            revision: hub revision of a model that is given by name.

        Raises:
            UsageError: as `from_masks`, an impossible sparsity or an unknown ranking.
            ContentError: as `from_masks`, and a score that is NaN or infinite.

        Example:
            >>> scores = {name: weight.abs() * inputs[name] for name, weight in weights.items()}
            >>> Ticket.from_scores(scores, model, 0.7, method="scaled-magnitude")
        """
        if ranking not in RANKINGS:
            raise unknown("ranking", ranking, RANKINGS)
        for name, tensor in scores.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise ContentError(f"The scores of {name} must be a tensor of floats, found {shown(tensor)}.")
        masks = keep_top(scores, sparsity, ranking)
        facts = {"sparsity": sparsity, "ranking": ranking, **(settings or {})}
        return cls.from_masks(masks, model, method=method, settings=facts, seed=seed, revision=revision)

    @classmethod
    @neutral()
    def from_pretrained(
        cls,
        name: Path | str,
        revision: str | None = None,
        *,
        token: str | None = None,
        cache_dir: Path | str | None = None,
    ) -> Self:
        """Open a ticket from a folder or from the hub.

        Args:
            name: a folder, or a repository such as `me/ticket`.
            revision: branch, tag or commit of the repository.
            token: access token of the hub, for private repositories; by default that of `hf auth login` or `HF_TOKEN`.
            cache_dir: folder for downloads; by default that of `HF_HOME`.

        Raises:
            UsageError: there is no ticket there, or the folder holds several, which the message lists.
            ContentError: the ticket was cut off or edited.
        """
        if (given := memory.find(name)) is not None:
            ticket: Self = given
            return ticket
        directory = files.find_ticket(name, revision, token, cache_dir)
        body = files.read_info(directory)
        try:
            info = TicketInfo.model_validate(body["info"])
            with safe_open(directory / MASK_FILE, framework="numpy") as handle:
                masks = {key: files.unpack(handle.get_tensor(key), shape) for key, shape in body["shapes"].items()}
                gates = {key: torch.from_numpy(handle.get_tensor(key) != 0) for key in body.get("gates", ())}
            structure = Structure.model_validate(body["structure"]) if gates else None
            head = load_file(directory / HEAD_FILE) if HEAD_FILE in body["files"] else None
        except (SafetensorError, ValidationError, KeyError, TypeError, ValueError) as error:
            raise ContentError(f"The ticket {directory} cannot be read: {error}") from error
        try:
            return cls(masks, info, head, gates, structure=structure)
        except ContentError as error:
            raise ContentError(f"The ticket {directory} cannot be used: {error}") from error


def open_ticket(target: Ticket | Path | str) -> Ticket:
    """Return a given ticket, or load the one in a folder or of a hub id."""
    if not isinstance(target, Ticket | Path | str):
        raise UsageError(
            f"Found a {type(target).__name__} in place of a ticket; give a Ticket, its folder or its hub id."
        )
    return target if isinstance(target, Ticket) else Ticket.from_pretrained(target)


def names_of(targets: Iterable[Ticket | Path | str]) -> list[str]:
    """Return a name for each ticket: its path, or for one in memory its method, sparsity and, if needed, its id."""
    targets = list(targets)
    short = [f"{one.info.method} {one.sparsity:.0%}" if isinstance(one, Ticket) else str(one) for one in targets]
    return [
        f"{name} {one.id}" if isinstance(one, Ticket) and short.count(name) > 1 else name
        for name, one in zip(short, targets, strict=True)
    ]


def labels_of(
    paths: Sequence[Ticket | Path | str], given: Sequence[str] | None = None, option: str = "--labels"
) -> list[str]:
    """Return short names: the given ones, or else the names of the folders, with parents if names are equal."""
    if given is not None:
        if len(given) != len(paths) or len(set(given)) < len(given):
            raise UsageError(f"{option} must name each of the {len(paths)} paths differently, found: {','.join(given)}")
        return list(given)
    paths = names_of(paths)
    parts = [Path(path).resolve().parts if Path(path).exists() else Path(path).parts for path in paths]
    deepest = max(len(part) for part in parts)
    for depth in range(1, deepest):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def count_empty(mask: Tensor) -> dict[str, int]:
    """Return the numbers of output rows and of input columns of a mask that keep no weight."""
    kept = mask.reshape(mask.shape[0], -1)
    return {"rows": int((~kept.any(1)).sum()), "columns": int((~kept.any(0)).sum())}


def describe(ticket: Ticket) -> dict[str, Any]:
    """Return the facts that `tickets inspect` prints: exact sparsity, counts, each matrix, provenance."""
    info = ticket.info
    architecture = ARCHITECTURES.get(ticket.base.model_type)
    # Neurons are too many to list; their counts are among the units.
    gates = {name: gate for name, gate in ticket.gates.items() if not name.endswith(".neurons")}
    pruned_units = {name: (~gate).nonzero().flatten().tolist() for name, gate in gates.items()}
    return {
        "id": ticket.id,
        "method": info.method,
        "scope": info.scope,
        "pattern": info.config.get("pattern"),
        "units": None if ticket.structure is None else count_units(ticket.gates, ticket.structure),
        "pruned_units": None if ticket.structure is None else pruned_units,
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        "by_matrix": ticket.sparsity_by_matrix(),
        "empty": {name: count_empty(mask) for name, mask in ticket.masks.items()},
        "base": {"name": ticket.base.name, "revision": ticket.base.revision, "hash": ticket.base.hash},
        "layers": ticket.base.layers,
        "shared_layers": architecture is not None and architecture.shared_layers,
        "seed": info.seed,
        "step": info.step,
        "mlm_head": ticket.mlm_head is not None,
        "scores_from": info.scores_from,
        "parents": list(info.parents),
        "config": json.loads(json.dumps(info.config)),
        "versions": info.versions,
    }


_NO_KIND = {"method", "model", "revision", "layers", "sparsity", "seed", "data_dir", "save_at", "file_sha256"}
_NO_KIND |= {"level", *COUNT_FIELDS.values()}
"""Settings that do not distinguish kinds of tickets: paths, and settings that vary over a grid."""


def search_settings_of(ticket: Ticket | None) -> dict[str, Any]:
    """Return how a ticket was found: `method`, `search`, `search_seed` and `asked`; all are None for no ticket.

    `search` has the objective and the settings that differ from those of the profile, without sparsity, seed and paths,
    so that it is the same for tickets of several sparsities and seeds. `asked` has the level or the counts of pruned
    units of a structured ticket.
    """
    if ticket is None:
        return {"method": None, "search": None, "search_seed": None, "asked": None}
    info = ticket.info
    # The settings of the profile; levels and counts decide whether mask training trained gates.
    usual: dict[str, Any] = {}
    known = info.method in METHODS
    if known:
        named = ("profile", "objective", "level", *COUNT_FIELDS.values())
        given = {"method": info.method} | {name: info.config[name] for name in named if name in info.config}
        kind = SearchConfig.kind_of(given)
        given = {name: value for name, value in given.items() if name in kind.model_fields}
        usual = kind(model="", **given).resolved().model_dump(mode="json")
    # Tickets of earlier versions have the settings of all methods.
    search = {
        name: value
        for name, value in info.config.items()
        if name not in _NO_KIND and (name in usual or not known) and value not in (usual.get(name), None, [], ())
    }
    if "objective" in usual:
        search["objective"] = info.config["objective"]
    if "like" in search:
        search["like"] = True  # the ticket that was matched differs between sparsities
    asked = {name: info.config[name] for name in ("level", *COUNT_FIELDS.values()) if info.config.get(name)}
    return {"method": info.method, "search": search, "search_seed": info.seed, "asked": asked or None}
