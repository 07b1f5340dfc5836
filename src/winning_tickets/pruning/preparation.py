"""Prepare a search: load its model, the matrices in scope and its data, check that they fit, and compute its run id."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from winning_tickets.config import COUNT_FIELDS, PRETRAINED, Level, Runtime, SearchConfig, parse_start
from winning_tickets.config.mask_training import ScoreTraining
from winning_tickets.config.one_shot import MagnitudeSearch
from winning_tickets.config.search import (
    CountedSearch,
    ObjectiveSearch,
    RoundedWeights,
    TeacherSearch,
    TextSearch,
    WeightSearch,
)
from winning_tickets.config.structured import ImportanceSearch, UnitSearch
from winning_tickets.config.weight_training import SourceSearch
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.data.corpora import CorpusText, load_corpus
from winning_tickets.data.loading import load_task
from winning_tickets.data.records import TaskData
from winning_tickets.data.user_files import load_files
from winning_tickets.models.architectures import matrices_of, present_in, prunable_views
from winning_tickets.models.device import choose_device
from winning_tickets.models.loading import PLM, load_plm, prunable_names, round_weights_
from winning_tickets.models.structure import Structure, structure_of
from winning_tickets.models.weights import content_hash, load_start_weights
from winning_tickets.pruning.importance import ImportanceSource, fit_units
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.identity import run_id
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.selection import Computed, check_finite, count_true, keep_counts, keep_top
from winning_tickets.tickets.ticket import Ticket, search_settings_of
from winning_tickets.training.execution import check_compiler
from winning_tickets.training.objectives.pretraining import check_attention_maps
from winning_tickets.training.objectives.terms import check_mlm_tokenizer, lm_head_of, needs_lm_head, needs_of

Method = TypeVar("Method", bound=SearchConfig, covariant=True)
Given = TypeVar("Given", bound=SearchConfig)


@dataclass(frozen=True)
class RankedWeights:
    """The weights whose magnitudes are ranked, by matrix."""

    weights: Mapping[str, Tensor]
    source: str | None = None  # as the ticket records it; None for the pre-trained weights
    hash: str | None = None  # of the content, if the weights were read from a file or folder


@dataclass(kw_only=True)
class PreparedSearch(Generic[Method]):
    """A search with everything loaded, ready for its method."""

    config: Method  # resolved
    plm: PLM  # with an MLM head where the objective needs one
    loaded: dict[str, Tensor]  # matrices in scope, as views of the loaded model's memory
    ranked: RankedWeights  # the pre-trained weights, unless `weights_from` names others
    base: BaseModelInfo
    run_id: str
    device: torch.device
    all_parameters: int  # number of parameters of the encoder
    corpus: CorpusText | None = None
    tasks: tuple[TaskData, ...] = ()
    like: Ticket | None = None  # ticket of `--like`, whose counts of kept weights are matched
    importances: ImportanceSource | None = None  # of a search by importance
    _weights: dict[str, Tensor] | None = field(default=None, init=False)

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the matrices in scope, by name."""
        return {name: view.shape for name, view in self.loaded.items()}

    @property
    def weights(self) -> dict[str, Tensor]:
        """The pre-trained values of the matrices in scope, on the device of the run; no method changes them.

        If the loaded model is on that device, these are views of its memory. A method that changes the model therefore
        copies them first and passes the copies to `use_weights`.
        """
        if self._weights is None:
            self._weights = {name: view.to(self.device) for name, view in self.loaded.items()}
        return self._weights

    def use_weights(self, copies: Mapping[str, Tensor]) -> None:
        """Use these copies as `weights` from now on, so that a method may change the loaded model."""
        self._weights = {name: copies.get(name, view).to(self.device) for name, view in self.loaded.items()}

    def round_weights(self) -> None:
        """Round the weights of the encoder to bfloat16 once, for methods that train none of them.

        Otherwise each step of a training with `--bf16` rounds the same weights again.
        """
        round_weights_(self.plm.encoder, torch.bfloat16)
        inside = present_in(self.plm.encoder, self.loaded)
        views = prunable_views(self.plm.encoder, inside)
        self.loaded = {name: views.get(name, view).bfloat16() for name, view in self.loaded.items()}
        self.ranked, self._weights = replace(self.ranked, weights=self.loaded), None

    def keep_shapes_only(self) -> None:
        """Replace the whole matrices with tensors on the device `meta`: their memory is freed, their shapes stay."""
        self.loaded = {name: view.to("meta") for name, view in self.loaded.items()}
        self.ranked, self._weights = replace(self.ranked, weights=self.loaded), None

    def keep(self: PreparedSearch[WeightSearch], scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Return masks that keep the highest scores at a sparsity, by the configured ranking, rounding and pattern.

        With a ticket to match, each matrix keeps as many weights as in that ticket.
        """
        config = self.config
        placed = Computed(scores, lambda name: scores[name].to(self.device))
        weights = {name: self.weights[name] for name in scores}
        if self.like is not None:
            return keep_counts(placed, {name: count_true(self.like.masks[name]) for name in scores}, weights)
        return keep_top(
            placed, sparsity, config.ranking, weights, rounding=config.count_rounding, pattern=config.n_of_m
        )

    def ticket(self, masks: Mapping[str, Tensor], sparsity: float, step: int | None = None, head: Any = None) -> Ticket:
        """Make a ticket from masks; its description names its own sparsity only, not all those of the search."""
        config = self.config.model_dump(mode="json") | {"sparsity": sparsity}
        parents = () if self.like is None else (self.like.id,)
        info = _info(self.config, self.base, config, scores_from=self.ranked.source, parents=parents, step=step)
        return Ticket({name: masks[name].cpu() for name in self.loaded}, info, head)

    def gate_ticket(self, gates: Mapping[str, Tensor], structure: Structure, level: Level, **about: Any) -> Ticket:
        """Make a ticket from gates; its description names its own level only, and the sparsity of the matrices."""
        return make_gate_ticket(self.config, self.base, gates, structure, level=level, **about)

    def folder(self, run: RunDirectory, level: float | str) -> Path:
        """Return the folder of a ticket: the run itself, or one such as `sparsity-0.60` or `level-30` inside it."""
        return run.path if len(self.config.rungs) == 1 else run.path / self.config.rung_folder(level)

    def save_tickets(
        self: PreparedSearch[WeightSearch], run: RunDirectory, scores: Mapping[str, Tensor], step: int | None = None
    ) -> None:
        """Save the ticket of every sparsity; all come from the same scores, so they are nested."""
        for sparsity in self.config.sparsities:
            ticket = self.ticket(self.keep(scores, sparsity), sparsity, step)
            ticket.save_pretrained(self.folder(run, sparsity))

    def batches(
        self: PreparedSearch[TextSearch],
        n_batches: int,
        *,
        predicts: bool = False,
        masked_tokens: int = 0,
        plm: PLM | None = None,
        at_most_batches: int | None = None,
    ) -> CorpusBatches:
        """Return the first batches of the corpus, in the order of mask training, for `plm` (default: `self.plm`).

        With `predicts`, the batches of an encoder have masked tokens; a decoder predicts the next token instead.
        """
        assert self.corpus is not None
        plm, config = plm or self.plm, self.config
        masks = predicts and not plm.architecture.causal
        if masks:
            check_mlm_tokenizer(plm.tokenizer, plm.name)
        return CorpusBatches.read(
            self.corpus,
            plm.tokenizer,
            at_most_batches,
            end=plm.end_of_text,
            segments=config.segments,
            batch_tokens=config.batch_tokens,
            n_batches=n_batches,
            seed=config.seed,
            shuffle=True,
            mlm_probability=config.mlm_probability if masks and isinstance(config, ObjectiveSearch) else None,
            masked_tokens=masked_tokens,
            short_sequence_probability=config.short_sequence_probability,
            train_size=config.train_size,
        )


def make_gate_ticket(
    settings: SearchConfig,
    base: BaseModelInfo,
    gates: Mapping[str, Tensor],
    structure: Structure,
    *,
    level: Level,
    **about: Any,
) -> Ticket:
    """Make a ticket from gates that these resolved settings of a search describe."""
    own: dict[str, Any] = {COUNT_FIELDS[unit]: () for unit in COUNT_FIELDS}
    own |= {"level": () if level.percent is None else (level.percent,)}
    own |= {COUNT_FIELDS[unit]: (count,) for unit, count in (level.given or {}).items()}
    info = _info(settings, base, settings.model_copy(update=own).model_dump(mode="json"), **about)
    ticket = Ticket({}, info, gates={name: gate.cpu() for name, gate in gates.items()}, structure=structure)
    ticket.info = info.model_copy(update={"config": info.config | {"sparsity": ticket.sparsity}})
    return ticket


def _info(settings: SearchConfig, base: BaseModelInfo, config: dict[str, Any], **about: Any) -> TicketInfo:
    return TicketInfo(
        method=settings.method, scope=settings.scope, config=config, applies_to=base, seed=settings.seed, **about
    )


def prepare_search(config: Given, runtime: Runtime) -> PreparedSearch[Given]:
    """Load what a search needs and compute its run id."""
    # A ticket to match sets the scope and sparsity. Its path is not recorded: the new ticket names it as a parent.
    like = _load_ticket_to_match(config) if isinstance(config, CountedSearch) else None
    settings: Given = config.resolved()
    if like is not None:
        settings = settings.model_copy(update=_matched(like))

    # Data comes before the model, so that a missing file is reported at once.
    importances = ImportanceSource.find(settings) if isinstance(settings, ImportanceSearch) else None
    device = choose_device(runtime.device)
    if runtime.torch_compile:
        check_compiler(runtime)
    corpus = None
    if isinstance(settings, TextSearch) and settings.reads_corpus:
        corpus = load_corpus(str(settings.corpus), "train", settings.data_dir)
    tasks = load_tasks(settings) if isinstance(settings, SourceSearch) else ()

    plm, encoder, base = _load_models(settings)
    if config.scope is None:
        settings = settings.model_copy(update={"scope": _usual_scope(settings.scope, plm, encoder)})
    weights = prunable_views(encoder.encoder, prunable_names(encoder, settings.scope))
    check_finite({f"{name} in {settings.model}": weight for name, weight in weights.items()}, "weights")

    # Tickets, patterns, weights and importances that were named have to fit the matrices of the model.
    ranked = RankedWeights(weights)
    if like is not None:
        _check_match(like, weights, settings.model)
    if isinstance(settings, WeightSearch) and settings.n_of_m is not None:
        settings.n_of_m.check_shapes({name: weight.shape for name, weight in weights.items()})
    if isinstance(settings, MagnitudeSearch) and settings.weights_from != PRETRAINED:
        ranked = _load_ranked_weights(settings, encoder, weights)
    if isinstance(settings, UnitSearch):
        settings = settings.model_copy(update=fit_units(settings, structure_of(plm), importances, base.hash))

    # The id hashes the settings as the user gave them, and the content of every input.
    content = {"base": base.hash, "corpus": None if corpus is None else corpus.fingerprint}
    if importances is not None:
        content |= importances.content()
    if tasks:
        content["tasks"] = "+".join(data.fingerprint for data in tasks)
    prepared = PreparedSearch(
        config=settings,
        plm=plm,
        loaded=weights,
        ranked=ranked,
        base=base,
        run_id=_search_id(config, content, like, ranked),
        device=device,
        all_parameters=sum(parameter.numel() for parameter in encoder.encoder.parameters()),
        corpus=corpus,
        tasks=tasks,
        like=like,
        importances=importances,
    )
    if plm.architecture.causal and corpus is not None:  # refuse unsuitable text or segments before --out is made
        _check_text(prepared)
    return prepared


def _usual_scope(scope: str, plm: PLM, encoder: PLM) -> str:
    """Return the scope of a profile as it is for this model."""
    # By default only the layers of a decoder are pruned: its word embeddings are often tied to the output embeddings.
    if plm.architecture.causal:
        return "encoder"
    # A profile's scope includes a pooler, which many checkpoints lack.
    has_pooler = encoder.has_pooler and encoder.architecture.pooler in dict(encoder.encoder.named_parameters())
    return scope if has_pooler else scope.removesuffix("+pooler")


def _check_text(prepared: PreparedSearch[Any]) -> None:
    config = prepared.config
    masked = config.kd_masked_tokens if isinstance(config, ScoreTraining) else 0
    prepared.batches(1, predicts=needs_lm_head(config.terms.keys() - {"task"}), masked_tokens=masked)


def _load_models(settings: SearchConfig) -> tuple[PLM, PLM, BaseModelInfo]:
    """Return the model to search, a model with all matrices in scope (mostly the same one), and its description."""
    load = partial(load_plm, settings.model, revision=settings.revision, layers=settings.layers)
    terms = [term for term in settings.terms if term != "task"]
    predicts = bool(terms) and needs_lm_head(terms)
    plm = load(**loading_of(terms))
    if isinstance(settings, TeacherSearch):
        if "attention" in terms:
            check_attention_maps(plm.model)
        _check_compared_layers(settings, plm)
    # A ticket names the weights of the checkpoint, even if the search then rounds them. They are loaded in float32
    # first, which takes no more memory than the search.
    base = BaseModelInfo.of(
        plm.encoder, plm.name, plm.model.config.model_type, settings.revision, layers=settings.layers
    )
    # ForMaskedLM classes have no pooler: with a pooler in scope, the matrices are those of the plain encoder.
    encoder = plm
    if predicts and "pooler" in settings.scope:
        encoder = load(with_tokenizer=False)
    if isinstance(settings, RoundedWeights) and settings.weights_dtype == "bfloat16":
        for one in {id(plm): plm, id(encoder): encoder}.values():
            round_weights_(one.model, torch.bfloat16)
    return plm, encoder, base


def loading_of(terms: Collection[str]) -> dict[str, Any]:
    """Return the head that the terms need, and the attention implementation: only `eager` returns attention maps."""
    if not terms:
        return {}
    attention = "eager" if "attentions" in needs_of(terms) else None
    return {"head": lm_head_of(terms), "require_mlm_head": needs_lm_head(terms), "attention": attention}


def _check_compared_layers(settings: TeacherSearch, plm: PLM) -> None:
    """Refuse `kd_layers` that the model does not have, and a choice that leaves trained layers without a gradient."""
    if not settings.kd_layers:
        return
    last, total, found = settings.kd_layers[-1], plm.model.config.num_hidden_layers, f"{settings.model} has"
    if last > total:
        raise UsageError(f"--kd-layers {last} is no layer of the model: {found} {total}.")
    if last < total and set(settings.terms) == {"kd"}:
        raise UsageError(
            f"After layer {last}, the last of --kd-layers, layers would learn nothing, and {found} {total}; add "
            f"{total}, or another term to --objective."
        )


def _load_ticket_to_match(config: CountedSearch) -> Ticket | None:
    if config.like is None:
        return None
    like = Ticket.from_pretrained(config.like)
    if config.scope not in (None, like.info.scope):
        raise UsageError(
            f"--scope {config.scope} contradicts --like {config.like}, whose scope is {like.info.scope}; leave it out."
        )
    return like


def _matched(like: Ticket) -> dict[str, Any]:
    """Return the settings that a ticket to match gives."""
    found = search_settings_of(like)
    kind = " ".join(filter(None, (found["method"], found["search"].get("objective"))))
    return {"like": kind, "scope": like.info.scope, "sparsity": like.sparsity, "ranking": "matrix"}


def _check_match(like: Ticket, weights: Mapping[str, Tensor], model: str) -> None:
    """Refuse a ticket that does not cover the matrices in scope."""
    ours = {name: "x".join(map(str, weight.shape)) for name, weight in weights.items()}
    theirs = {name: "x".join(map(str, mask.shape)) for name, mask in like.masks.items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ContentError(
                f"The ticket of --like does not fit {model}: {name} is {theirs.get(name, 'not masked')} there and "
                f"{ours.get(name, 'not masked')} in the model. Give a ticket of this model, with the same --layers."
            )


def _load_ranked_weights(config: MagnitudeSearch, plm: PLM, weights: Mapping[str, Tensor]) -> RankedWeights:
    """Return the weights in scope that `--weights-from` names."""
    start = parse_start(config.weights_from)
    tensors = load_start_weights(start, plm, config.seed)
    found = matrices_of(tensors, list(weights))
    for name, weight in weights.items():
        if found[name].shape != weight.shape:
            raise ContentError(
                f"--weights-from {config.weights_from} does not fit {plm.name}: {name} has shape "
                f"{tuple(found[name].shape)} there and {tuple(weight.shape)} in the model."
            )
    if start.path is None:
        return RankedWeights(found, f"{config.weights_from}, seed {config.seed}")
    identity = content_hash(tensors)
    return RankedWeights(found, f"weights {identity}", identity)


def load_tasks(config: SourceSearch) -> tuple[TaskData, ...]:
    """Return the tasks of the objective: first those given by name, then the one of the user's own training file."""
    found = [load_task(name, config.data_dir) for name in config.tasks]
    if config.train_file is not None:
        # A search evaluates nothing: the training file stands in for the validation file, too.
        files = (config.train_file, config.train_file)
        found.append(load_files(*files, config.text_columns, label_column=config.label_column, kind=config.kind))
    return tuple(found)


def _search_id(config: SearchConfig, content: dict[str, str | None], like: Ticket | None, ranked: RankedWeights) -> str:
    """Return the run id; it depends on the content of tickets, states and folders, not on their paths."""
    how_many = list(map(str, config.rungs))
    if isinstance(config, WeightSearch) and config.n_of_m is not None:
        how_many = [str(config.n_of_m)]
    if isinstance(config, ImportanceSearch):
        how_many = [config.selection, *how_many]
        config = config.model_copy(update={"importance_from": None})
    if like is not None:
        config, content = config.model_copy(update={"like": None}), content | {"like": like.id}
        how_many = ["like", like.id]
    if ranked.hash is not None:
        config = config.model_copy(update={"weights_from": PRETRAINED})
        content = content | {"weights_from": ranked.hash}
    slug = "-".join([config.method, *([config.objective] if isinstance(config, ObjectiveSearch) else []), *how_many])
    return run_id(config, slug, **content)
