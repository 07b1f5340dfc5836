"""The sources of searches that learn from text and tasks: a model, an objective and batches for each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from winning_tickets.config.search import TrainingSearch
from winning_tickets.config.weight_training import ImpSearch, SourceSearch
from winning_tickets.data.batches import ENDLESS, CorpusBatches
from winning_tickets.data.encode import make_collator, train_subset
from winning_tickets.data.mixing import MixedBatches, TaskBatches
from winning_tickets.data.records import TaskData
from winning_tickets.data.segments import parse_segments
from winning_tickets.models.heads import choose_doc_stride, choose_max_length, load_for_task, seeded_loader
from winning_tickets.models.loading import PLM, load_plm, untie_decoder
from winning_tickets.pruning.preparation import PreparedSearch
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.multitask import JointObjective, SharedEncoder
from winning_tickets.training.objectives.base import Objective
from winning_tickets.training.objectives.pretraining import PretrainingObjective
from winning_tickets.training.objectives.task import TaskObjective
from winning_tickets.training.predict import encode_split

TEXT_LEARNING_RATE = 5e-5
"""Peak learning rate if a source is text: transformers' default, which the released BERT-tickets code keeps."""


@dataclass(frozen=True)
class TrainingSource:
    """One source of a method that trains weights: text with an MLM or CLM head, or a task with a head of its own."""

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
    parts: dict[str, TrainingSource]  # by name: `mlm`, `clm` or that of a task
    epochs: int  # passes over the sources in a round, if no length is configured

    def dataset(self, config: SourceSearch, n_steps: int) -> MixedBatches:
        """Return the batches of the given number of steps."""
        batches = {name: part.batches for name, part in self.parts.items()}
        sizes = {name: part.size for name, part in self.parts.items()}
        return MixedBatches(batches, sizes, config.mixing, n_steps, config.seed)

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
    text = config.text_term
    found = {} if text is None else {text: _text_source(prepared, text)}
    found |= {data.task.name: _task_source(prepared, data) for data in prepared.tasks}
    model = SharedEncoder({name: source.plm.model for name, source in found.items()})
    if text is not None:
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


def _text_source(prepared: PreparedSearch[SourceSearch], term: str) -> TrainingSource:
    config = prepared.config
    plm = _load_seeded(config, head=term, require_mlm_head=True)
    cut = parse_segments(config.segments)
    examples = config.batch_tokens // cut.longest if cut.form == "packed" else None
    steps = config.source_steps
    if isinstance(config, ImpSearch) and steps is None and config.round_examples is not None and examples is not None:
        steps = math.ceil(config.round_examples / examples)
    known = steps and steps * len(config.sparsities)
    batches = prepared.batches(ENDLESS, predicts=True, plm=plm, at_most_batches=known)
    objective = PretrainingObjective({term: 1.0}, plm.architecture)
    return TrainingSource(plm, objective, config.terms[term], batches, max(1, round(batches.steps_of_a_pass)), examples)


def _task_source(prepared: PreparedSearch[SourceSearch], data: TaskData) -> TrainingSource:
    config, task = prepared.config, data.task
    plm = load_for_task(partial(_load_seeded, config), task)
    length = choose_max_length(config.max_length, task, plm)
    split = train_subset(data.train, config.train_size, config.seed)
    examples = encode_split(plm, split, length, task.kind, choose_doc_stride(None, task, length))
    batch_size = config.batch_size or task.batch_size
    by_length = config.group_by_length
    batches = TaskBatches(examples, make_collator(plm.tokenizer), batch_size, config.seed, by_length=by_length)
    return TrainingSource(plm, TaskObjective(task.kind), config.terms["task"], batches, batches.per_epoch, batch_size)


def _load_seeded(config: SourceSearch, **options: Any) -> PLM:
    """Load the model; a fresh head depends on the seed alone, not on the other sources."""
    load = seeded_loader(partial(load_plm, config.model, revision=config.revision, layers=config.layers), config.seed)
    return load(**options)
