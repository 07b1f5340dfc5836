"""What methods that train weights learn from: text through MLM, tasks through heads of their own, or several."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from winning_tickets.config import SearchConfig
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.data.encode import collate, train_subset
from winning_tickets.data.mixing import MixedBatches, TaskBatches
from winning_tickets.data.records import TaskData
from winning_tickets.data.segments import parse_segments
from winning_tickets.data.token_cache import tokenise
from winning_tickets.models.heads import load_for_task, text_length, window_stride, with_seed
from winning_tickets.models.loading import PLM, load_plm, untie_decoder
from winning_tickets.pruning.base import Prepared
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.multitask import JointObjective, SharedEncoder
from winning_tickets.training.objectives.base import Objective
from winning_tickets.training.objectives.pretraining import PretrainingObjective
from winning_tickets.training.objectives.task import TaskObjective
from winning_tickets.training.objectives.terms import check_mlm_tokenizer
from winning_tickets.training.predict import encode_for

MLM = "mlm"
MLM_LEARNING_RATE = 5e-5
"""Peak rate where text is among the sources (transformers' own default, which the BERT-tickets program left)."""
_ENDLESS = 2**62


@dataclass
class Sources:
    """One encoder, and all that it learns from.

    Attributes:
        model: the encoder under a head for each source.
        objective: the losses of the sources.
        learning_rate: peak rate, unless the configuration gives one.
        batches: whole batches of each source, by index.
        sizes: batches in a pass over each source.
        examples: examples, or segments, in a batch of each source; None where their number varies.
        epochs: passes over the largest source in a round, unless the configuration tells its length.
    """

    model: SharedEncoder
    objective: JointObjective
    learning_rate: float
    batches: dict[str, Any]
    sizes: dict[str, int]
    examples: dict[str, int | None]
    epochs: int

    def dataset(self, config: SearchConfig, n_steps: int) -> MixedBatches:
        """What each of so many steps sees."""
        return MixedBatches(self.batches, self.sizes, config.mixing, n_steps, config.seed)

    def round_steps(self, config: SearchConfig) -> int:
        """Optimiser steps of a round, from whatever unit it was given in.

        Raises:
            UsageError: examples are asked for where a step has no fixed number of them.
        """
        if config.round_steps is not None:
            return config.round_steps
        together = max if config.mixing == "sum" else sum
        if config.round_examples is not None:
            counts = [count for count in self.examples.values() if count is not None]
            if len(counts) < len(self.examples):
                raise UsageError(
                    f"--round-examples counts segments, and a step has no fixed number of {config.segments} ones; "
                    "give --round-steps, or --segments packed:128."
                )
            a_step = sum(counts) if config.mixing == "sum" else sum(counts) / len(counts)
            return max(1, round(config.round_examples / a_step))
        return math.ceil(float(config.round_epochs or self.epochs) * together(self.sizes.values()))


@dataclass
class _Parts:
    """What is gathered source by source."""

    models: dict[str, PLM] = field(default_factory=dict)
    objectives: dict[str, Objective] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    batches: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    examples: dict[str, int | None] = field(default_factory=dict)


def sources_of(prepared: Prepared) -> Sources:
    """Load a model for each source, put all heads on one encoder, and tokenise.

    Fresh heads are initialised from the seed, each alike whatever other sources there are. With word embeddings in
    scope the MLM decoder is untied and keeps the dense matrix, as in mask training; it then misses the gradient that
    a tied one would share.

    Raises:
        UsageError: no MLM head, no mask token, texts longer than the model reads.
        ContentError: the corpus is shorter than one segment.
    """
    config, parts = prepared.config, _Parts()
    if MLM in config.terms:
        _add_text(prepared, parts)
    for data in prepared.tasks:
        _add_task(prepared, data, parts)
    model = SharedEncoder({name: plm.model for name, plm in parts.models.items()})
    if MLM in parts.models:
        plm = parts.models[MLM]
        embeddings = plm.architecture.word_embeddings
        untie_decoder(plm, prepared.weights[embeddings].clone() if embeddings in prepared.weights else None)
    rate = MLM_LEARNING_RATE if MLM in parts.models else prepared.tasks[0].task.learning_rate
    return Sources(
        model,
        JointObjective(parts.objectives, parts.weights),
        config.learning_rate or rate,
        parts.batches,
        parts.sizes,
        parts.examples,
        max((data.task.epochs for data in prepared.tasks), default=1),
    )


def _add_text(prepared: Prepared, parts: _Parts) -> None:
    config = prepared.config
    assert prepared.corpus is not None
    plm = _loaded(config)(head="mlm", require_mlm_head=True)
    check_mlm_tokenizer(plm.tokenizer, plm.name)
    batches = CorpusBatches(
        tokenise(prepared.corpus, plm.tokenizer),
        plm.tokenizer,
        segments=str(config.segments),
        batch_tokens=int(config.batch_tokens or 0),
        n_batches=_ENDLESS,
        seed=config.seed,
        shuffle=True,
        mlm_probability=config.mlm_probability,
    )
    cut = parse_segments(str(config.segments))
    parts.models[MLM] = plm
    parts.objectives[MLM] = PretrainingObjective({MLM: 1.0}, plm.architecture)
    parts.weights[MLM] = config.terms[MLM]
    parts.batches[MLM] = batches
    parts.sizes[MLM] = max(1, round(batches.steps_of_a_pass))
    parts.examples[MLM] = int(config.batch_tokens or 0) // cut.longest if cut.form == "packed" else None


def _add_task(prepared: Prepared, data: TaskData, parts: _Parts) -> None:
    config, task = prepared.config, data.task
    plm = load_for_task(_loaded(config), task)
    length = text_length(config.max_length, task, plm)
    split = train_subset(data.train, config.train_size, config.seed)
    examples = encode_for(plm, split, length, task.kind, window_stride(None, task, length))
    batch_size = config.batch_size or task.batch_size
    batches = TaskBatches(examples, collate(plm.tokenizer), batch_size, config.seed)
    parts.models[task.name] = plm
    parts.objectives[task.name] = TaskObjective(task.kind)
    parts.weights[task.name] = config.terms["task"]
    parts.batches[task.name] = batches
    parts.sizes[task.name] = batches.per_epoch
    parts.examples[task.name] = batch_size


def _loaded(config: SearchConfig) -> Callable[..., PLM]:
    """Loads the model with a fresh head from the seed."""
    return with_seed(partial(load_plm, config.model, revision=config.revision, layers=config.layers), config.seed)
