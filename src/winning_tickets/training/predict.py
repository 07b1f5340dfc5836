"""Outputs and predictions of a fine-tuned model for new texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from winning_tickets.config import Runtime
from winning_tickets.config.objective import TEXT_NAMES
from winning_tickets.data.encode import Array, EncodedSplit, make_collator
from winning_tickets.data.examples import is_text
from winning_tickets.data.readers import read_rows
from winning_tickets.data.records import Kind, Split
from winning_tickets.data.rows import rows_of
from winning_tickets.data.unknown_words import check_words
from winning_tickets.models.device import choose_device
from winning_tickets.models.given import GivenModel
from winning_tickets.models.heads import KINDS
from winning_tickets.models.loading import PLM, reads_segments
from winning_tickets.runs import memory
from winning_tickets.runs.directory import remote_code_facts
from winning_tickets.runs.errors import ContentError, UsageError, shown
from winning_tickets.tickets.masking import modes
from winning_tickets.training.objectives.task import model_inputs, task_logits
from winning_tickets.training.saved_model import TASK_FILE, TaskInfo, find_model, load_fine_tuned

BATCH_TOKENS = 8192  # padded tokens per forward pass without gradients
BATCH_TOKENS_ON_CPU = 1024  # there larger batches leave the processor's cache, and take longer


def encode_split(
    plm: PLM,
    split: Split,
    max_length: int,
    kind: Kind = "classification",
    *,
    doc_stride: int | None = None,
    teacher: PLM | None = None,
    any_words: bool = False,
) -> EncodedSplit:
    """Tokenize a split, and keep only the columns that the model accepts, or a teacher that has the same tokens.

    Texts that the tokenizer knows few words of are refused, unless `any_words`.
    """
    # The tokenizer of a student without segments, such as DistilBERT, does not number those of its teacher.
    reader = teacher if teacher is not None and reads_segments(teacher.model) else plm
    max_length = min(max_length, reader.tokenizer.model_max_length)
    encoded = KINDS[kind].encode(split, reader.tokenizer, max_length, doc_stride or max_length)
    if not any_words:
        ids = chain.from_iterable(encoded.columns.get("input_ids", ()))
        check_words(ids, reader.tokenizer, f"the texts for {plm.name}")
    columns = dict(encoded.columns)
    # Some checkpoints pair a tokenizer that numbers the segments with a model that has no segments.
    if not reads_segments(reader.model):
        columns.pop("token_type_ids", None)
    return EncodedSplit(columns, encoded.labels, encoded.owners, encoded.places)


def predict_split(plm: PLM, split: EncodedSplit, *, bf16: bool = False) -> list[Array]:
    """Return the outputs of a model with a head, without dropout, in batches of similar lengths."""
    # For each item, in the order of the split: `(outputs,)`, or `(tokens, outputs)` without padding; float32.
    pad = make_collator(plm.tokenizer)
    device = plm.model.device
    lengths = [len(ids) for ids in split.columns["input_ids"]]
    result: list[Array] = [np.empty(0)] * len(split)
    with modes(plm.model, training=False), torch.no_grad():
        most = min(BATCH_TOKENS, BATCH_TOKENS_ON_CPU) if device.type == "cpu" else BATCH_TOKENS
        for chosen in _by_length(lengths, most):
            batch = pad([split[index] for index in chosen])
            inputs = {name: value.to(device) for name, value in model_inputs(plm.model, batch).items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = task_logits(plm.model(**inputs))
            for index, row in zip(chosen, logits.float().cpu().numpy(), strict=True):
                result[index] = row if row.ndim == 1 else row[: lengths[index]]
    return result


def _by_length(lengths: list[int], most: int) -> Iterator[list[int]]:
    """Yield batches of indices by rising length, each of at most so many padded tokens."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > most:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def predict(
    run: Path | str,
    texts: Any,
    seed: int | None = None,
    runtime: Runtime | None = None,
    *,
    text_columns: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Label texts, or rows with columns of texts, by a fine-tuned model; see `api.deploy_verbs.predict`."""
    predictor = Predictor.find(run, seed)
    info = predictor.info
    examples = _examples(texts, predictor.columns(text_columns))
    _check_texts(examples, info)
    predictor.load(runtime or Runtime())
    found = predictor.predict(examples)
    return {
        "task": info.task,
        "model": str(predictor.folder),
        "ticket_id": info.ticket_id,
        "predictions": [{"text": list(texts), **one} for texts, one in zip(examples, found, strict=True)],
        **remote_code_facts(),
    }


def _examples(texts: Any, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the texts of each example, from texts, tuples of texts, rows in memory or the path of a file of rows."""
    texts = [texts] if isinstance(texts, str) else texts
    has_columns = isinstance(texts, Mapping) or hasattr(texts, "columns") or hasattr(texts, "select_columns")
    if isinstance(texts, Iterable) and not has_columns:
        texts = list(texts)
        if all(isinstance(one, str | tuple | list) for one in texts):
            return [(one,) if isinstance(one, str) else tuple(one) for one in texts]
    rows = read_rows(texts) if isinstance(texts, Path) else rows_of(texts, "texts")
    return [texts_of_row(where, cells, columns) for where, cells in rows]


def texts_of_row(where: str, cells: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the texts of a row; `where` is its place, for messages."""
    if missing := [name for name in columns if name not in cells]:
        raise UsageError(
            f"{where} lacks the columns {', '.join(missing)}: found {', '.join(cells)}. Name the columns of the texts "
            "with --text-columns."
        )
    for name in columns:
        if not is_text(cells[name]) or not cells[name].strip():
            raise ContentError(f"{where}: column {name!r} must be a text, found {shown(cells[name])}.")
    return tuple(cells[name] for name in columns)


class Predictor:
    """A saved fine-tuned model that labels texts."""

    def __init__(self, folder: Path, info: TaskInfo) -> None:
        self.folder, self.info = folder, info
        self._bf16 = self._knows_words = False
        self._plm: PLM

    @classmethod
    def find(cls, run: Path | str, seed: int | None = None) -> Self:
        """Find the model of a run, or one in memory; its weights are not read yet."""
        if isinstance(given := memory.find(run), GivenModel):
            return cls(Path(run), _task_of(given))
        folder = find_model(run, seed)
        info = TaskInfo.read(folder)
        if info.kind in TEXT_NAMES:
            raise UsageError(
                f"{run} was fine-tuned with {info.kind.upper()}, which labels no texts; measure it with tickets "
                f"evaluate {folder} --objective {info.kind}."
            )
        return cls(folder, info)

    def columns(self, given: Sequence[str] | None) -> tuple[str, ...]:
        """Return the columns of rows that have the texts: those given, else those of the fine-tuning."""
        own = self.info.text_columns
        if given is not None and len(given) != len(own):
            raise UsageError(
                f"--text-columns names {len(given)} column(s), and the task {self.info.task} has {len(own)}: "
                f"{', '.join(own)}."
            )
        return tuple(given or own)

    def load(self, runtime: Runtime) -> None:
        """Load the model onto its device."""
        device = choose_device(runtime.device)
        self._plm, self._bf16 = load_fine_tuned(self.folder, self.info), runtime.bf16
        self._plm.model.to(device)

    def predict(self, texts: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
        """Return the prediction for each example; texts are encoded as the dev data of the fine-tuning were."""
        info, kind = self.info, KINDS[self.info.kind]
        split = kind.unlabelled(tuple([example[i] for example in texts] for i in range(len(info.text_columns))))
        known = self._knows_words  # a large file is not refused for a few rows in the middle
        encoded = encode_split(
            self._plm, split, info.max_length, info.kind, doc_stride=info.doc_stride, any_words=known
        )
        self._knows_words = True
        return kind.predict(predict_split(self._plm, encoded, bf16=self._bf16), encoded, split, info.labels)


_CLASSES = {"ForSequenceClassification": "classification", "ForTokenClassification": "tokens"}
"""The kind of a task, by the ending of the name of a model's class."""


def _task_of(given: GivenModel) -> TaskInfo:
    """Return the task of a model in memory: that of the folder it was loaded from, else what its configuration says."""
    if given.origin and (Path(given.origin) / TASK_FILE).is_file():
        return TaskInfo.read(Path(given.origin))
    config, name = given.model.config, type(given.model).__name__
    found: Any = next((kind for ending, kind in _CLASSES.items() if name.endswith(ending)), None)
    if found is None:
        raise UsageError(
            f"The {name} in memory is not a classifier, so it labels no texts; give one with a head for sequences or "
            "tokens, or the folder of a transfer with save_model."
        )
    if found == "classification" and config.num_labels == 1:
        found = "regression"
    elif found == "classification" and config.problem_type == "multi_label_classification":
        found = "multilabel"
    labels = () if found == "regression" else tuple(config.id2label[index] for index in range(config.num_labels))
    longest = given.load_tokenizer().model_max_length
    return TaskInfo(name, ("text",), labels, longest, None, 0.0, found, None)


def _check_texts(texts: Sequence[tuple[str, ...]], info: TaskInfo) -> None:
    columns = info.text_columns
    if not texts:
        raise UsageError(f"No text was given; the task {info.task} needs {' and '.join(columns)}.")
    for example in texts:
        if len(example) != len(columns):
            raise UsageError(
                f"The task {info.task} takes {len(columns)} text(s) per example ({', '.join(columns)}), found "
                f"{len(example)}: {' | '.join(example)!r}. Give pairs as first<TAB>second, or with --text-pair."
            )
        if not all(text.strip() for text in example):
            raise UsageError(f"An example has an empty text; the task {info.task} needs {' and '.join(columns)}.")
