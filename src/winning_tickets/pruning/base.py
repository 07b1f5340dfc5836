"""What every method starts from: the loaded model, the dense matrices in scope, the identity of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from winning_tickets.config import COUNT_FIELDS, PRETRAINED, Level, Runtime, SearchConfig, parse_start
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.data.corpora import CorpusText, load_corpus
from winning_tickets.data.loading import load_task
from winning_tickets.data.records import TaskData
from winning_tickets.data.token_cache import tokenise
from winning_tickets.data.user_files import load_files
from winning_tickets.models.architectures import matrices_of, prunable_views
from winning_tickets.models.loading import PLM, choose_device, load_plm, prunable_names
from winning_tickets.models.structure import Structure, structure_of
from winning_tickets.models.weights import content_hash, start_weights
from winning_tickets.pruning.importance import Origin
from winning_tickets.pruning.levels import counts_of
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.identity import run_id
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.origin import origin
from winning_tickets.tickets.selection import keep_top
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.objectives.pretraining import check_attention_maps
from winning_tickets.training.objectives.terms import needs_mlm_head, needs_of


@dataclass(frozen=True)
class Ranked:
    """Weights whose magnitudes are ranked.

    Attributes:
        weights: by name of the matrix.
        source: what they are, for the ticket's description; None for the pre-trained ones.
        hash: of what was read from a file or folder; else None.
    """

    weights: Mapping[str, Tensor]
    source: str | None = None
    hash: str | None = None


def ticket_to_match(config: SearchConfig) -> Ticket | None:
    """The ticket of `--like`.

    Raises:
        UsageError: there is none, or `--scope` contradicts it.
        ContentError: it is damaged.
    """
    if config.like is None:
        return None
    like = Ticket.from_pretrained(config.like)
    if config.scope not in (None, like.info.scope):
        raise UsageError(
            f"--scope {config.scope} contradicts --like {config.like}, whose scope is {like.info.scope}; leave it out."
        )
    return like


def matched(config: SearchConfig, like: Ticket | None) -> SearchConfig:
    """The configuration with scope and sparsity of the ticket that is matched.

    Where the ticket lies is not worth keeping: a description names it among its parents, and here how it was found.
    """
    if like is None:
        return config
    found = origin(like)
    kind = " ".join(filter(None, (found["method"], found["search"].get("objective"))))
    return config.model_copy(update={"like": kind, "scope": like.info.scope, "sparsity": like.sparsity})


def check_match(like: Ticket | None, weights: Mapping[str, Tensor], model: str) -> None:
    """Make sure that a ticket covers the matrices in scope.

    Raises:
        ContentError: a matrix is missing on either side, or has another shape.
    """
    if like is None:
        return
    ours = {name: tuple(weight.shape) for name, weight in weights.items()}
    theirs = {name: tuple(mask.shape) for name, mask in like.masks.items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ContentError(
                f"The ticket of --like does not fit {model}: {name} is {_shape(theirs.get(name))} there and "
                f"{_shape(ours.get(name))} in the model. Give a ticket of this model, with the same --layers."
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not masked" if shape is None else "x".join(map(str, shape))


def ranked(config: SearchConfig, plm: PLM, weights: Mapping[str, Tensor]) -> Ranked:
    """The weights of `--weights-from` in scope.

    Args:
        config: of the search.
        plm: the pre-trained model.
        weights: its matrices in scope.

    Raises:
        UsageError: the model cannot be transformed so.
        ContentError: weights of another architecture, an unreadable state.
    """
    if config.weights_from == PRETRAINED:
        return Ranked(weights)
    start = parse_start(config.weights_from)
    tensors = start_weights(start, plm, config.seed)
    found = matrices_of(tensors, list(weights))
    for name, weight in weights.items():
        if found[name].shape != weight.shape:
            raise ContentError(
                f"--weights-from {config.weights_from} does not fit {plm.name}: {name} has shape "
                f"{tuple(found[name].shape)} there and {tuple(weight.shape)} in the model."
            )
    if start.path is None:
        return Ranked(found, f"{config.weights_from}, seed {config.seed}")
    identity = content_hash(tensors)
    return Ranked(found, f"weights {identity}", identity)


@dataclass
class Prepared:
    """Everything found outside, ready for a method.

    Attributes:
        config: the configuration with its profile filled in.
        plm: the model; with an MLM head where the objective needs one.
        weights: dense matrices in scope by name; they may share the model's memory, so read them before masking it.
        base: name and hashes of the weights.
        corpus: training text of a method that needs one.
        tasks: of a method that learns from tasks.
        run_id: identity of the run.
        device: where to compute.
        all_parameters: number of parameters of the encoder.
        ranked: the matrices whose magnitudes count; `weights`, unless the configuration names others.
        like: a ticket that says how many weights of each matrix are kept.
        origin: what importances of heads and FFNs are taken from.
    """

    config: SearchConfig
    plm: PLM
    weights: dict[str, Tensor]
    base: BaseModelInfo
    corpus: CorpusText | None
    tasks: tuple[TaskData, ...]
    run_id: str
    device: torch.device
    all_parameters: int
    ranked: Ranked
    like: Ticket | None
    origin: Origin

    def ticket(self, masks: Mapping[str, Tensor], sparsity: float, step: int | None = None, head: Any = None) -> Ticket:
        """A ticket of this search, its masks in the order of the scope; its configuration has its own sparsity."""
        info = TicketInfo(
            method=self.config.method,
            scope=str(self.config.scope),
            config=self.config.model_dump(mode="json") | {"sparsity": sparsity},
            applies_to=self.base,
            scores_from=self.ranked.source,
            parents=() if self.like is None else (self.like.id,),
            seed=self.config.seed,
            step=step,
        )
        return Ticket({name: masks[name].cpu() for name in self.weights}, info, head)

    def gate_ticket(self, gates: Mapping[str, Tensor], structure: Structure, level: Level, **about: Any) -> Ticket:
        """A ticket of gates; its configuration has its own level alone, and the sparsity of the matrices.

        Args:
            gates: by name, True = kept.
            structure: of the encoder.
            level: what it loses.
            about: more of a `TicketInfo`: `scores_from`, `parents`, `step`.
        """
        own: dict[str, Any] = {COUNT_FIELDS[unit]: () for unit in COUNT_FIELDS}
        own |= {"level": () if level.percent is None else (level.percent,)}
        own |= {COUNT_FIELDS[unit]: (count,) for unit, count in (level.given or {}).items()}
        info = TicketInfo(
            method=self.config.method,
            scope=str(self.config.scope),
            config=self.config.model_copy(update=own).model_dump(mode="json"),
            applies_to=self.base,
            seed=self.config.seed,
            **about,
        )
        ticket = Ticket({}, info, gates={name: gate.cpu() for name, gate in gates.items()}, structure=structure)
        ticket.info = info.model_copy(update={"config": info.config | {"sparsity": ticket.sparsity}})
        return ticket

    def keep(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """The masks of some scores at a sparsity, by the ranking, rounding and pattern of the configuration."""
        config = self.config
        return keep_top(
            scores,
            sparsity,
            config.ranking,
            weights=self.weights,
            rounding=config.count_rounding or "floor",
            pattern=config.n_of_m,
        )

    def batches(self, n_batches: int, mlm_probability: float | None = None, masked_tokens: int = 0) -> CorpusBatches:
        """The first batches of the corpus, in the order in which mask training would see them.

        Args:
            n_batches: how many.
            mlm_probability: fraction of tokens that are masked and labelled; None masks none.
            masked_tokens: tokens of each sequence that are corrupted though nothing predicts them.
        """
        assert self.corpus is not None
        return CorpusBatches(
            tokenise(self.corpus, self.plm.tokenizer),
            self.plm.tokenizer,
            segments=str(self.config.segments),
            batch_tokens=int(self.config.batch_tokens or 0),
            n_batches=n_batches,
            seed=self.config.seed,
            shuffle=True,
            mlm_probability=mlm_probability,
            masked_tokens=masked_tokens,
            short_sequence_probability=self.config.short_sequence_probability,
        )

    def folder(self, run: RunDirectory, rung: float | str) -> Path:
        """Where a ticket is saved: the run itself, or with several `sparsity-0.60`, or `level-30`, inside it."""
        if len(self.config.rungs) == 1:
            return run.path
        return run.path / self.config.rung_folder(rung)


def prepare(config: SearchConfig, runtime: Runtime) -> Prepared:
    """Load what a search needs and compute its identity.

    Raises:
        UsageError: missing model or corpus, no MLM head or no attention maps where the objective needs them, no GPU
            where one is asked for, a pattern that does not fit a matrix.
        ContentError: the model or the corpus is not usable.
    """
    like = ticket_to_match(config)
    filled = matched(config.resolved(), like)
    origin = Origin.find(config)
    device = choose_device(runtime.device)
    needs = config.needs
    terms = {name: weight for name, weight in config.terms.items() if name != "task"}
    needs_mlm = needs_mlm_head(terms)
    needs_maps = "attentions" in needs_of(terms)
    corpus = load_corpus(str(config.corpus), "train", config.data_dir) if config.reads_corpus else None
    tasks = _tasks(config) if needs.sources else ()
    plm = load_plm(
        config.model,
        head="mlm" if needs_mlm else "none",
        revision=config.revision,
        layers=config.layers,
        require_mlm_head=needs_mlm,
        attention="eager" if needs_maps else None,
    )
    if needs_maps:
        check_attention_maps(plm.model)
    scope = str(filled.scope)
    # ForMaskedLM has no pooler: a scope that includes it takes the encoder's matrices from the plain encoder.
    encoder = plm
    if needs_mlm and "pooler" in scope:
        encoder = load_plm(config.model, revision=config.revision, layers=config.layers)
    if config.scope is None and not _has_pooler(encoder):  # a profile's scope gives way to what there is
        scope = scope.removesuffix("+pooler")
        filled = filled.model_copy(update={"scope": scope})
    weights = prunable_views(encoder.encoder, prunable_names(encoder, scope))
    check_match(like, weights, config.model)
    if filled.n_of_m is not None:
        filled.n_of_m.check_shapes({name: weight.shape for name, weight in weights.items()})
    base = BaseModelInfo.of(plm.encoder, config.model, plm.model.config.model_type, config.revision, config.layers)
    scored = ranked(config, encoder, weights)
    if needs.structured:
        structure = structure_of(plm)
        counts_of(filled, structure)
        origin.check(structure, base.hash, filled)
        filled = filled.model_copy(update={"importance_from": origin.kind, "objective": origin.objective(config)})
    content = {"base": base.hash, "corpus": None if corpus is None else corpus.fingerprint, **origin.content()}
    if tasks:
        content["tasks"] = "+".join(data.fingerprint for data in tasks)
    identity = _identity(config, content, like, scored)
    total = sum(parameter.numel() for parameter in encoder.encoder.parameters())
    return Prepared(filled, plm, weights, base, corpus, tasks, identity, device, total, scored, like, origin)


def _identity(config: SearchConfig, content: dict[str, str | None], like: Ticket | None, scored: Ranked) -> str:
    """The id of the run; of a ticket, state or folder its content counts, not where it is."""
    how_many = [config.pattern] if config.pattern else list(map(str, config.rungs))
    if config.needs.structured:
        selection = [] if config.needs.gates else [config.selection]
        config, how_many = config.model_copy(update={"importance_from": None}), [*selection, *how_many]
    if like is not None:
        config, content = config.model_copy(update={"like": None}), content | {"like": like.id}
        how_many = ["like", like.id]
    if scored.hash is not None:
        config = config.model_copy(update={"weights_from": PRETRAINED})
        content = content | {"weights_from": scored.hash}
    slug = "-".join([config.method, *([config.objective] if config.needs.objective else []), *how_many])
    return run_id(config, slug, **content)


def _tasks(config: SearchConfig) -> tuple[TaskData, ...]:
    """The tasks of the objective, those with a name first."""
    found = [load_task(name, config.data_dir) for name in config.tasks]
    if config.train_file is not None:
        # Nothing is evaluated here: the training file stands for both.
        files = (config.train_file, config.train_file)
        found.append(load_files(*files, config.text_columns, label_column=config.label_column, kind=config.kind))
    return tuple(found)


def _has_pooler(plm: PLM) -> bool:
    return plm.has_pooler and plm.architecture.pooler in dict(plm.encoder.named_parameters())
