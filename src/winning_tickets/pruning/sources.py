"""The sources of searches that learn from text and tasks: a model, an objective and batches for each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from winning_tickets.config import MODEL_DROPOUT
from winning_tickets.config.search import LogitsSearch, TeacherSearch, TrainingSearch
from winning_tickets.config.weight_training import ImpSearch, SourceSearch
from winning_tickets.data.batches import ENDLESS, CorpusBatches
from winning_tickets.data.encode import make_collator, train_subset
from winning_tickets.data.mixing import MixedBatches, TaskBatches
from winning_tickets.data.records import TaskData
from winning_tickets.data.segments import parse_segments
from winning_tickets.models.heads import choose_doc_stride, choose_max_length, load_for_task, seeded_loader
from winning_tickets.models.lm_head import untie_decoder
from winning_tickets.models.loading import PLM, load_plm, set_dropout
from winning_tickets.models.twin import make_twin
from winning_tickets.pruning.preparation import PreparedSearch, loading_of
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.multitask import JointObjective, SharedEncoder
from winning_tickets.training.objectives.base import Objective, TermSettings
from winning_tickets.training.objectives.pretraining import PretrainingObjective
from winning_tickets.training.objectives.task import TaskObjective
from winning_tickets.training.objectives.terms import needs_lm_head, needs_teacher
from winning_tickets.training.predict import encode_split

TEXT_LEARNING_RATE = 5e-5
"""Peak learning rate if a source is text: transformers' default, which the released BERT-tickets code keeps."""


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

    def dataset(self, config: SourceSearch, n_steps: int) -> MixedBatches:
        """Return the batches of the given number of steps."""
        batches = {name: part.batches for name, part in self.parts.items()}
        sizes = {name: part.size for name, part in self.parts.items()}
        return MixedBatches(batches, sizes, config.mixing, n_steps, seed=config.seed)

    def round_steps(self, config: ImpSearch) -> int:
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


def load_sources(prepared: PreparedSearch[SourceSearch]) -> Sources:
    """Load a model for each source, put all heads on one encoder, and tokenize."""
    config = prepared.config
    terms = config.text_terms
    text = None if not terms else next(iter(terms)) if len(terms) == 1 else "text"
    found = {} if text is None else {text: _text_source(prepared, terms)}
    found |= {data.task.name: _task_source(prepared, data) for data in prepared.tasks}
    model = SharedEncoder({name: source.plm.model for name, source in found.items()})
    if isinstance(config, TeacherSearch) and config.student_dropout not in (None, MODEL_DROPOUT):
        set_dropout(model.base_model, config.student_dropout)
    if text is not None and needs_lm_head(terms):
        # With word embeddings in scope, the decoder is untied: it keeps the dense matrix, frozen, and gets no gradient.
        plm = found[text].plm
        embeddings = plm.architecture.word_embeddings
        untie_decoder(plm, prepared.loaded[embeddings].clone() if embeddings in prepared.loaded else None)
    objectives = {name: source.objective for name, source in found.items()}
    objective = JointObjective(objectives, {name: source.weight for name, source in found.items()})
    epochs = max((data.task.epochs for data in prepared.tasks), default=1)
    rate = config.learning_rate if isinstance(config, TrainingSearch) else None
    sources = Sources(model, objective, rate or TEXT_LEARNING_RATE, found, epochs)
    if rate is None and text is None:
        steps = sources.round_steps(config) if isinstance(config, ImpSearch) else config.source_steps
        assert steps is not None  # only those of a round may follow from the data
        width: int = prepared.plm.model.config.hidden_size
        sources.learning_rate = prepared.tasks[0].task.peak_rate(config.profile, width, steps)
    return sources


def _text_source(prepared: PreparedSearch[SourceSearch], terms: Mapping[str, float]) -> TrainingSource:
    config, predicts = prepared.config, needs_lm_head(terms)
    plm = _load_seeded(config, **loading_of(terms))
    cut = parse_segments(config.segments)
    examples = config.batch_tokens // cut.longest if cut.form == "packed" else None
    steps = config.source_steps
    if isinstance(config, ImpSearch) and steps is None and config.round_examples is not None and examples is not None:
        steps = math.ceil(config.round_examples / examples)
    known = steps and steps * len(config.sparsities)
    batches = prepared.batches(ENDLESS, predicts=predicts, plm=plm, at_most_batches=known)
    teacher, settings = None, None
    if isinstance(config, TeacherSearch):
        settings = term_settings(config)
        if needs_teacher(terms):  # all of its weights are copies, as all of the student's are trained
            plm.model.to(prepared.device)
            teacher = make_twin(plm.model, {}, [name for name, _ in plm.model.named_parameters()])
            teacher.train(bool(config.teacher_dropout))
    objective = PretrainingObjective(terms, plm.architecture, teacher, settings)
    return TrainingSource(plm, objective, 1.0, batches, max(1, round(batches.steps_of_a_pass)), examples)


def term_settings(config: TeacherSearch) -> TermSettings:
    """Return the settings of the terms of an objective."""
    return TermSettings(
        kd_layers=config.kd_layers,
        count_padding=config.kd_padding == "counted",
        temperature=config.temperature,
        logits_temperature=config.logits_temperature,
        logits_top_k=config.logits_top_k if isinstance(config, LogitsSearch) else None,
    )


def _task_source(prepared: PreparedSearch[SourceSearch], data: TaskData) -> TrainingSource:
    config, task = prepared.config, data.task
    plm = load_for_task(partial(_load_seeded, config), task)
    length = choose_max_length(config.max_length, task, plm)
    split = train_subset(data.train, config.train_size, config.seed)
    examples = encode_split(plm, split, length, task.kind, doc_stride=choose_doc_stride(None, task, length))
    batch_size = config.batch_size or task.batch_size
    by_length = config.group_by_length
    batches = TaskBatches(examples, make_collator(plm.tokenizer), batch_size, config.seed, by_length=by_length)
    return TrainingSource(plm, TaskObjective(task.kind), config.terms["task"], batches, batches.per_epoch, batch_size)


def _load_seeded(config: SourceSearch, **options: Any) -> PLM:
    """Load the model; a fresh head depends on the seed alone, not on the other sources."""
    load = seeded_loader(partial(load_plm, config.model, revision=config.revision, layers=config.layers), config.seed)
    return load(**options)
