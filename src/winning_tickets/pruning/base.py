"""Prepare a search (settings, model, matrices in scope, data, run id), and load the sources that it trains on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from winning_tickets.config import (
    COUNT_FIELDS,
    MODEL_DROPOUT,
    PRETRAINED,
    Level,
    ResolvedSearch,
    Runtime,
    SearchConfig,
    parse_start,
)
from winning_tickets.data.batches import ENDLESS, CorpusBatches
from winning_tickets.data.corpora import CorpusText, load_corpus
from winning_tickets.data.encode import make_collator, train_subset
from winning_tickets.data.loading import load_task
from winning_tickets.data.mixing import MixedBatches, TaskBatches
from winning_tickets.data.records import TaskData
from winning_tickets.data.segments import parse_segments
from winning_tickets.data.user_files import load_files
from winning_tickets.models.architectures import matrices_of, prunable_views
from winning_tickets.models.heads import choose_doc_stride, choose_max_length, load_for_task, seeded_loader
from winning_tickets.models.loading import (
    PLM,
    choose_device,
    load_plm,
    prunable_names,
    round_weights_,
    set_dropout,
    untie_decoder,
)
from winning_tickets.models.structure import Structure, structure_of
from winning_tickets.models.twin import make_twin
from winning_tickets.models.weights import content_hash, load_start_weights
from winning_tickets.pruning.importance import ImportanceSource, unit_counts
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.identity import run_id
from winning_tickets.runs.progress import Advance, progress
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.selection import Computed, check_finite, count_true, keep_counts, keep_top
from winning_tickets.tickets.ticket import Ticket, search_settings_of
from winning_tickets.training.execution import check_compiler
from winning_tickets.training.multitask import JointObjective, SharedEncoder
from winning_tickets.training.objectives.base import Batch, Objective, TermSettings
from winning_tickets.training.objectives.pretraining import PretrainingObjective, check_attention_maps
from winning_tickets.training.objectives.task import TaskObjective
from winning_tickets.training.objectives.terms import (
    check_mlm_tokenizer,
    lm_head_of,
    needs_lm_head,
    needs_of,
    needs_teacher,
)
from winning_tickets.training.predict import encode_split
from winning_tickets.training.trainer import (
    Callback,
    Checkpoints,
    StepLog,
    TicketTrainer,
    run_training,
    trainer_arguments,
)

TEXT_LEARNING_RATE = 5e-5
"""Peak learning rate if a source is text: transformers' default, which the released BERT-tickets code keeps."""


@dataclass(frozen=True)
class RankedWeights:
    """The weights whose magnitudes are ranked, by matrix."""

    weights: Mapping[str, Tensor]
    source: str | None = None  # as the ticket records it; None for the pre-trained weights
    hash: str | None = None  # of the content, if the weights were read from a file or folder


@dataclass
class PreparedSearch:
    """A search with everything loaded, ready for its method."""

    config: ResolvedSearch
    plm: PLM  # with an MLM head where the objective needs one
    loaded: dict[str, Tensor]  # matrices in scope, as views of the loaded model's memory
    base: BaseModelInfo
    corpus: CorpusText | None
    tasks: tuple[TaskData, ...]
    run_id: str
    device: torch.device
    all_parameters: int  # number of parameters of the encoder
    ranked: RankedWeights  # the pre-trained weights, unless `weights_from` names others
    like: Ticket | None  # ticket of `--like`, whose counts of kept weights are matched
    importance_source: ImportanceSource
    _weights: dict[str, Tensor] | None = None

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

    def keep_shapes_only(self) -> None:
        """Replace the whole matrices with tensors on the device `meta`: their memory is freed, their shapes stay."""
        self.loaded = {name: view.to("meta") for name, view in self.loaded.items()}
        self.ranked, self._weights = replace(self.ranked, weights=self.loaded), None

    def keep(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
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
        info = self._info(config, scores_from=self.ranked.source, parents=parents, step=step)
        return Ticket({name: masks[name].cpu() for name in self.loaded}, info, head)

    def gate_ticket(self, gates: Mapping[str, Tensor], structure: Structure, level: Level, **about: Any) -> Ticket:
        """Make a ticket from gates; its description names its own level only, and the sparsity of the matrices."""
        own: dict[str, Any] = {COUNT_FIELDS[unit]: () for unit in COUNT_FIELDS}
        own |= {"level": () if level.percent is None else (level.percent,)}
        own |= {COUNT_FIELDS[unit]: (count,) for unit, count in (level.given or {}).items()}
        info = self._info(self.config.model_copy(update=own).model_dump(mode="json"), **about)
        ticket = Ticket({}, info, gates={name: gate.cpu() for name, gate in gates.items()}, structure=structure)
        ticket.info = info.model_copy(update={"config": info.config | {"sparsity": ticket.sparsity}})
        return ticket

    def _info(self, config: dict[str, Any], **about: Any) -> TicketInfo:
        method, scope, seed = self.config.method, self.config.scope, self.config.seed
        return TicketInfo(method=method, scope=scope, config=config, applies_to=self.base, seed=seed, **about)

    def folder(self, run: RunDirectory, level: float | str) -> Path:
        """Return the folder of a ticket: the run itself, or one such as `sparsity-0.60` or `level-30` inside it."""
        return run.path if len(self.config.rungs) == 1 else run.path / self.config.rung_folder(level)

    def save_tickets(self, run: RunDirectory, scores: Mapping[str, Tensor], step: int | None = None) -> None:
        """Save the ticket of every sparsity; all come from the same scores, so they are nested."""
        for sparsity in self.config.sparsities:
            ticket = self.ticket(self.keep(scores, sparsity), sparsity, step)
            ticket.save_pretrained(self.folder(run, sparsity))

    def batches(
        self,
        n_batches: int,
        predicts: bool = False,
        masked_tokens: int = 0,
        plm: PLM | None = None,
        at_most_batches: int | None = None,
    ) -> CorpusBatches:
        """Return the first batches of the corpus, in the order of mask training, for `plm` (default: `self.plm`).

        With `predicts`, the batches of an encoder have masked tokens; a decoder predicts the next token instead.
        """
        assert self.corpus is not None
        plm = plm or self.plm
        masks = predicts and not plm.architecture.causal
        if masks:
            check_mlm_tokenizer(plm.tokenizer, plm.name)
        return CorpusBatches.read(
            self.corpus,
            plm.tokenizer,
            at_most_batches,
            end=plm.end_of_text,
            segments=self.config.segments,
            batch_tokens=self.config.batch_tokens,
            n_batches=n_batches,
            seed=self.config.seed,
            shuffle=True,
            mlm_probability=self.config.mlm_probability if masks else None,
            masked_tokens=masked_tokens,
            short_sequence_probability=self.config.short_sequence_probability,
            train_size=self.config.train_size,
        )


def prepare_search(config: SearchConfig, runtime: Runtime) -> PreparedSearch:
    """Load what a search needs and compute its run id."""
    # A ticket to match sets the scope and sparsity. Its path is not recorded: the new ticket names it as a parent.
    like = _load_ticket_to_match(config)
    settings = config.resolved()
    if like is not None:
        found = search_settings_of(like)
        kind = " ".join(filter(None, (found["method"], found["search"].get("objective"))))
        about = {"like": kind, "scope": like.info.scope, "sparsity": like.sparsity, "ranking": "matrix"}
        settings = settings.model_copy(update=about)

    # Data comes before the model, so that a missing file is reported at once.
    importance_source = ImportanceSource.find(settings)
    device = choose_device(runtime.device)
    check_compiler(runtime)
    if runtime.torch_compile and settings.needs.gates:
        raise UsageError("--compile is for masks of weights: gates are hooks, which change from level to level.")
    if settings.block_wise and (runtime.torch_compile or runtime.gradient_checkpointing):
        option = "--compile" if runtime.torch_compile else "--gradient-checkpointing"
        raise UsageError(f"{option} is for whole models, and --block-wise runs a part of one; leave one of them out.")
    corpus = load_corpus(str(settings.corpus), "train", settings.data_dir) if settings.reads_corpus else None
    tasks = _load_tasks(settings) if settings.needs.sources else ()

    plm, encoder, base = _load_models(settings)
    # A profile's scope includes a pooler, which many checkpoints lack; a scope given by the user is not changed.
    has_pooler = encoder.has_pooler and encoder.architecture.pooler in dict(encoder.encoder.named_parameters())
    if config.scope is None and not has_pooler:
        settings = settings.model_copy(update={"scope": settings.scope.removesuffix("+pooler")})
    # By default only the layers of a decoder are pruned: its word embeddings are often tied to the output embeddings.
    if config.scope is None and plm.architecture.causal:
        settings = settings.model_copy(update={"scope": "encoder"})
    weights = prunable_views(encoder.encoder, prunable_names(encoder, settings.scope))
    check_finite({f"{name} in {settings.model}": weight for name, weight in weights.items()}, "weights")

    # Tickets, patterns, weights and importances that were named have to fit the matrices of the model.
    _check_match(like, weights, settings.model)
    if settings.n_of_m is not None:
        settings.n_of_m.check_shapes({name: weight.shape for name, weight in weights.items()})
    ranked = _load_ranked_weights(settings, encoder, weights)
    if settings.needs.structured:
        structure = structure_of(plm)
        unit_counts(settings, structure)
        importance_source.check(structure, base.hash, settings)
        about = {"importance_from": importance_source.kind, "objective": importance_source.objective(settings)}
        settings = settings.model_copy(update=about)

    # The id hashes the settings as the user gave them, and the content of every input.
    content = {"base": base.hash, "corpus": None if corpus is None else corpus.fingerprint}
    content |= importance_source.content()
    if tasks:
        content["tasks"] = "+".join(data.fingerprint for data in tasks)
    identity = _search_id(config, content, like, ranked)
    total = sum(parameter.numel() for parameter in encoder.encoder.parameters())
    prepared = PreparedSearch(
        settings, plm, weights, base, corpus, tasks, identity, device, total, ranked, like, importance_source
    )
    if plm.architecture.causal and corpus is not None:  # refuse unsuitable text or segments before --out is made
        prepared.batches(1, needs_lm_head(settings.terms.keys() - {"task"}), settings.kd_masked_tokens or 0)
    return prepared


def _load_models(settings: ResolvedSearch) -> tuple[PLM, PLM, BaseModelInfo]:
    """Return the model to search, a model with all matrices in scope (mostly the same one), and its description."""
    # The objective determines the head, and the attention implementation: only `eager` returns attention maps.
    terms = [name for name in settings.terms if name != "task"]
    predicts, needs_maps = needs_lm_head(terms), "attentions" in needs_of(terms)
    plm = load_plm(
        settings.model,
        head=lm_head_of(terms),
        revision=settings.revision,
        layers=settings.layers,
        require_mlm_head=predicts,
        attention="eager" if needs_maps else None,
    )
    if needs_maps:
        check_attention_maps(plm.model)
    _check_compared_layers(settings, plm)
    # A ticket names the weights of the checkpoint, even if the search then rounds them. They are loaded in float32
    # first, which takes no more memory than the search.
    base = BaseModelInfo.of(plm.encoder, plm.name, plm.model.config.model_type, settings.revision, settings.layers)
    # ForMaskedLM classes have no pooler: with a pooler in scope, the matrices are those of the plain encoder.
    encoder = plm
    if predicts and "pooler" in settings.scope:
        encoder = load_plm(settings.model, revision=settings.revision, layers=settings.layers, with_tokenizer=False)
    if settings.weights_dtype == "bfloat16":
        for one in {id(plm): plm, id(encoder): encoder}.values():
            round_weights_(one, torch.bfloat16)
    return plm, encoder, base


def _check_compared_layers(settings: ResolvedSearch, plm: PLM) -> None:
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


def _load_ticket_to_match(config: SearchConfig) -> Ticket | None:
    if config.like is None:
        return None
    like = Ticket.from_pretrained(config.like)
    if config.scope not in (None, like.info.scope):
        raise UsageError(
            f"--scope {config.scope} contradicts --like {config.like}, whose scope is {like.info.scope}; leave it out."
        )
    return like


def _check_match(like: Ticket | None, weights: Mapping[str, Tensor], model: str) -> None:
    """Refuse a ticket that does not cover the matrices in scope."""
    if like is None:
        return
    ours = {name: "x".join(map(str, weight.shape)) for name, weight in weights.items()}
    theirs = {name: "x".join(map(str, mask.shape)) for name, mask in like.masks.items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ContentError(
                f"The ticket of --like does not fit {model}: {name} is {theirs.get(name, 'not masked')} there and "
                f"{ours.get(name, 'not masked')} in the model. Give a ticket of this model, with the same --layers."
            )


def _load_ranked_weights(config: ResolvedSearch, plm: PLM, weights: Mapping[str, Tensor]) -> RankedWeights:
    """Return the weights in scope that are ranked: those of `--weights-from`, by default the pre-trained ones."""
    if config.weights_from == PRETRAINED:
        return RankedWeights(weights)
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


def _load_tasks(config: ResolvedSearch) -> tuple[TaskData, ...]:
    """Return the tasks of the objective: first those given by name, then the one of the user's own training file."""
    found = [load_task(name, config.data_dir) for name in config.tasks]
    if config.train_file is not None:
        # A search evaluates nothing: the training file stands in for the validation file, too.
        files = (config.train_file, config.train_file)
        found.append(load_files(*files, config.text_columns, label_column=config.label_column, kind=config.kind))
    return tuple(found)


def _search_id(config: SearchConfig, content: dict[str, str | None], like: Ticket | None, ranked: RankedWeights) -> str:
    """Return the run id; it depends on the content of tickets, states and folders, not on their paths."""
    how_many = [config.pattern] if config.pattern else list(map(str, config.rungs))
    if config.needs.structured:
        selection = [] if config.needs.gates else [config.selection]
        config, how_many = config.model_copy(update={"importance_from": None}), [*selection, *how_many]
    if like is not None:
        config, content = config.model_copy(update={"like": None}), content | {"like": like.id}
        how_many = ["like", like.id]
    if ranked.hash is not None:
        config = config.model_copy(update={"weights_from": PRETRAINED})
        content = content | {"weights_from": ranked.hash}
    slug = "-".join([config.method, *([config.objective] if config.needs.objective else []), *how_many])
    return run_id(config, slug, **content)


@dataclass(frozen=True)
class TrainingSource:
    """One source of a method that trains weights: text, with a head if a term needs it, or a task with its own head."""

    plm: PLM
    objective: Objective
    weight: float
    batches: CorpusBatches | TaskBatches
    size: int  # batches in a pass over the source
    examples: int | None  # examples or segments per batch; None where their number varies


@dataclass
class Sources:
    """One encoder, and all sources that it is trained on."""

    model: SharedEncoder  # the encoder under a head for each source
    objective: JointObjective
    learning_rate: float  # peak of the schedule
    parts: dict[str, TrainingSource]  # by name: that of a task, or for text the term, or `text` for several terms
    epochs: int  # passes over the sources in a round, if no length is configured

    def dataset(self, config: SearchConfig, n_steps: int) -> MixedBatches:
        """Return the batches of the given number of steps."""
        batches = {name: part.batches for name, part in self.parts.items()}
        sizes = {name: part.size for name, part in self.parts.items()}
        return MixedBatches(batches, sizes, config.mixing, n_steps, config.seed)

    def round_steps(self, config: SearchConfig) -> int:
        """Return the optimizer steps of a round, whose length is configured in steps, examples or epochs."""
        if config.round_steps is not None:
            return config.round_steps
        together = max if config.mixing == "sum" else sum
        if config.round_examples is not None:
            counts = [part.examples for part in self.parts.values() if part.examples is not None]
            if len(counts) < len(self.parts):
                raise UsageError(
                    f"--round-examples counts segments, and a step has no fixed number of {config.segments} ones; "
                    "give --round-steps, or --segments packed:128."
                )
            per_step = sum(counts) if config.mixing == "sum" else sum(counts) / len(counts)
            return max(1, round(config.round_examples / per_step))
        pass_steps = together(part.size for part in self.parts.values())
        return math.ceil(float(config.round_epochs or self.epochs) * pass_steps)


def load_sources(prepared: PreparedSearch) -> Sources:
    """Load a model for each source, put all heads on one encoder, and tokenize."""
    config = prepared.config
    terms = config.text_terms
    text = None if not terms else next(iter(terms)) if len(terms) == 1 else "text"
    found = {} if text is None else {text: _text_source(prepared, terms)}
    found |= {data.task.name: _task_source(prepared, data) for data in prepared.tasks}
    model = SharedEncoder({name: source.plm.model for name, source in found.items()})
    if config.student_dropout not in (None, MODEL_DROPOUT):
        set_dropout(model.base_model, config.student_dropout)
    if text is not None and needs_lm_head(terms):
        # With word embeddings in scope, the decoder is untied: it keeps the dense matrix, frozen, and gets no gradient.
        plm = found[text].plm
        embeddings = plm.architecture.word_embeddings
        untie_decoder(plm, prepared.loaded[embeddings].clone() if embeddings in prepared.loaded else None)
    objectives = {name: source.objective for name, source in found.items()}
    objective = JointObjective(objectives, {name: source.weight for name, source in found.items()})
    epochs = max((data.task.epochs for data in prepared.tasks), default=1)
    sources = Sources(model, objective, config.learning_rate or TEXT_LEARNING_RATE, found, epochs)
    if config.learning_rate is None and text is None:
        steps = sources.round_steps(config) if config.method == "imp" else config.steps
        width = model.base_model.config.hidden_size
        sources.learning_rate = prepared.tasks[0].task.peak_rate(config.profile, width, steps)
    return sources


def _text_source(prepared: PreparedSearch, terms: Mapping[str, float]) -> TrainingSource:
    config, predicts = prepared.config, needs_lm_head(terms)
    maps = {"attention": "eager"} if "attentions" in needs_of(terms) else {}
    plm = _load_seeded(config, head=lm_head_of(terms), require_mlm_head=predicts, **maps)
    cut = parse_segments(config.segments)
    examples = config.batch_tokens // cut.longest if cut.form == "packed" else None
    steps = config.steps if config.method != "imp" else config.round_steps
    if steps is None and config.round_examples is not None and examples is not None:
        steps = math.ceil(config.round_examples / examples)
    known = steps and steps * len(config.sparsities)
    batches = prepared.batches(ENDLESS, predicts=predicts, plm=plm, at_most_batches=known)
    teacher = None
    if needs_teacher(terms):  # all of its weights are copies, as all of the student's are trained
        plm.model.to(prepared.device)
        teacher = make_twin(plm.model, {}, [name for name, _ in plm.model.named_parameters()])
    objective = PretrainingObjective(terms, plm.architecture, teacher, term_settings(config))
    return TrainingSource(plm, objective, 1.0, batches, max(1, round(batches.steps_of_a_pass)), examples)


def term_settings(config: ResolvedSearch) -> TermSettings:
    """Return the settings of the terms of an objective."""
    return TermSettings(
        kd_layers=config.kd_layers,
        count_padding=config.kd_padding == "counted",
        temperature=config.temperature,
        logits_temperature=config.logits_temperature,
        logits_top_k=config.logits_top_k,
    )


def _task_source(prepared: PreparedSearch, data: TaskData) -> TrainingSource:
    config, task = prepared.config, data.task
    plm = load_for_task(partial(_load_seeded, config), task)
    length = choose_max_length(config.max_length, task, plm)
    split = train_subset(data.train, config.train_size, config.seed)
    examples = encode_split(plm, split, length, task.kind, choose_doc_stride(None, task, length))
    batch_size = config.batch_size or task.batch_size
    by_length = config.group_by_length
    batches = TaskBatches(examples, make_collator(plm.tokenizer), batch_size, config.seed, by_length=by_length)
    return TrainingSource(plm, TaskObjective(task.kind), config.terms["task"], batches, batches.per_epoch, batch_size)


def _load_seeded(config: ResolvedSearch, **options: Any) -> PLM:
    """Load the model; a fresh head depends on the seed alone, not on the other sources."""
    load = seeded_loader(partial(load_plm, config.model, revision=config.revision, layers=config.layers), config.seed)
    return load(**options)


def counted(batches: Any, advance: Advance) -> Iterator[Batch]:
    """Yield batches, and report the progress after each one."""
    for number, batch in enumerate(batches, start=1):
        yield batch
        advance(number, "")


def train_in_order(
    title: str,
    run: RunDirectory,
    runtime: Runtime,
    batches: Any,  # of all steps: a sequence
    learning: Mapping[str, Any],
    *,
    record: Callable[[], dict[str, Any]] = dict,
    before: Sequence[Callback] = (),
    after: Sequence[Callback] = (),
    **options: Any,
) -> None:
    """Train one step per batch, in order, or resume; the callbacks `before` and `after` enclose log and checkpoints."""
    steps = len(batches)
    with progress(title, steps, runtime.quiet) as advance:
        trainer = TicketTrainer(
            args=trainer_arguments(run.scratch, runtime, max_steps=steps, **learning),
            batches=batches,
            callbacks=[*before, StepLog(run, advance, record), Checkpoints(runtime), *after],
            **options,
        )
        run_training(trainer, run)
