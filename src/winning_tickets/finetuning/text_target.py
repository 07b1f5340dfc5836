"""Text as a target of fine-tuning: language modeling on a corpus, measured on its held-out part.

Masked language modeling (MLM, for encoders) is the eleventh task of the BERT tickets (Chen et al. 2020); its metric is
the accuracy at masked tokens. Modeling of the next token (CLM) is for decoders.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from winning_tickets.config import EvaluateConfig, Runtime, TransferConfig
from winning_tickets.data.batches import ENDLESS, CorpusBatches
from winning_tickets.data.corpora import CorpusText, load_corpus
from winning_tickets.data.metrics import beats_one_answer
from winning_tickets.data.readers import fingerprint
from winning_tickets.data.records import Split, Task, TaskData
from winning_tickets.data.tasks import TEXT_TASKS
from winning_tickets.evaluation.evaluate import average_terms
from winning_tickets.finetuning.prepared_task import PreparedTask
from winning_tickets.models.heads import choose_max_length
from winning_tickets.models.lm_head import separate_decoder
from winning_tickets.models.loading import PLM
from winning_tickets.runs.errors import TrainingError
from winning_tickets.tickets.masking import modes
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.objectives.terms import predicted_tokens

MLM_PROBABILITY = 0.15
_OF_EXAMPLES = (  # settings of a transfer that are about labeled examples, their head or their padding
    *("task_file", "train_file", "validation_file", "text_columns", "label_column", "metric", "kind", "from_task"),
    *("fresh_head", "head_dropout", "doc_stride", "padding", "group_by_length", "select_on", "smart"),
)
_OF_TEXT = ("corpus", "max_tokens")


def text_problems(config: TransferConfig) -> list[str]:
    """Return a message for each setting that does not fit text as a target, or that needs it and has another target."""
    fields = TransferConfig.model_fields
    given = [name for name in (*_OF_EXAMPLES, *_OF_TEXT) if getattr(config, name) != fields[name].default]
    if config.task not in TEXT_TASKS:
        return [
            f"{config.option_of(name)} needs --task mlm or clm, which learn from text."
            for name in given
            if name in _OF_TEXT
        ]
    problems = [
        f"{'--smart' if name == 'smart' else config.option_of(name)} is for labeled examples, and --task "
        f"{config.task} learns from text; leave it out."
        for name in given
        if name in _OF_EXAMPLES
    ]
    if config.corpus is None:
        problems.append(
            f"--task {config.task} needs --corpus: pydocs, wikitext-103, wikipedia:20231101.en, a file or a folder."
        )
    return problems


@dataclass(frozen=True)
class TextTarget:
    """The text that a transfer learns from, and the text that it is measured on."""

    task: Task
    train: CorpusText
    held_out: CorpusText

    @classmethod
    def find(cls, config: TransferConfig) -> TextTarget | None:
        """Load the corpus of a transfer; return None if it learns from labeled examples."""
        if config.task not in TEXT_TASKS:
            return None
        corpus = str(config.corpus)
        return cls(
            TEXT_TASKS[str(config.task)],
            *(load_corpus(corpus, split, config.data_dir) for split in ("train", "validation")),
        )

    def prepare(self, config: TransferConfig, plm: PLM) -> PreparedTask:
        """Tokenize the text; training examples are segments, and validation examples are tokens to predict."""
        length, size = choose_max_length(config.max_length, self.task, plm), config.batch_size or self.task.batch_size
        segments = self.batches(config, plm, config.seeds[0], length)
        measured = self._measured(config, plm, length)
        found = (predicted_tokens(measured[index])[0] for index in range(len(measured)))
        predicted = [token for tokens in found for token in tokens.tolist()]
        data = TaskData(
            self.task,
            Split((), []),
            {"validation": Split((), predicted)},
            fingerprint([self.train.fingerprint, self.held_out.fingerprint]),
            "files",
        )
        return PreparedTask(
            data=data,
            validation={},
            selection={},
            train_examples=segments.segments or 0,
            train_windows=None,
            batch_size=size,
            max_length=length,
            doc_stride=None,
            steps_per_epoch=math.ceil(segments.steps_of_a_pass),
        )

    def batches(self, config: TransferConfig, plm: PLM, seed: int, length: int) -> CorpusBatches:
        """Return the endless training batches of a seed."""
        return CorpusBatches.read(
            self.train,
            plm.tokenizer,
            config.steps,
            plm.end_of_text,
            segments=f"packed:{length}",
            batch_tokens=(config.batch_size or self.task.batch_size) * length,
            n_batches=ENDLESS,
            seed=seed,
            shuffle=True,
            mlm_probability=None if plm.architecture.causal else MLM_PROBABILITY,
            train_size=config.train_size,
            train_size_seed=config.train_size_seed,
        )

    def _measured(self, config: TransferConfig, plm: PLM, length: int) -> CorpusBatches:
        """Return the held-out segments, masked as `tickets evaluate` masks them."""
        asked = EvaluateConfig(target="")
        return CorpusBatches.read(
            self.held_out,
            plm.tokenizer,
            end=plm.end_of_text,
            segments=f"packed:{length}",
            batch_tokens=max(asked.batch_tokens, length),
            n_batches=None,
            seed=asked.seed,
            shuffle=False,
            mlm_probability=None if plm.architecture.causal else MLM_PROBABILITY,
            max_tokens=config.max_tokens,
        )

    def evaluation(
        self, config: TransferConfig, prepared: PreparedTask, plm: PLM, runtime: Runtime
    ) -> Callable[[], dict[str, Any]]:
        """Return a function that measures the accuracy at predicted tokens, and the loss, on held-out text."""
        batches, name = self._measured(config, plm, prepared.max_length), self.task.name
        labels, quiet = prepared.data.validation["validation"].labels, runtime.model_copy(update={"quiet": True})

        def measure() -> dict[str, Any]:
            with modes(plm.model, training=False), torch.no_grad():
                found = average_terms(plm, None, batches, [name], device=plm.model.device, runtime=quiet)
            metrics = {"accuracy": found[f"{name}_accuracy"], f"{name}_loss": found[f"{name}_loss"]}
            if not math.isfinite(metrics[f"{name}_loss"]):
                raise TrainingError("The model's outputs are not finite; lower --learning-rate.")
            return {"evaluation": metrics, "degenerate": not beats_one_answer(self.task, metrics, labels)}

        return measure


def keep_decoder_dense(plm: PLM, ticket: Ticket | None) -> None:
    """Give the decoder a dense, frozen matrix of its own if a ticket masks the word embeddings that it shares."""
    masked = ticket is not None and plm.architecture.word_embeddings in ticket.masks
    separate_decoder(plm, masked=masked)
    if masked:
        plm.model.get_submodule(plm.architecture.lm_decoder).weight.requires_grad_(False)
