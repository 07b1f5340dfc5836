"""Saved fine-tuned models: their description, saving and finding them, predictions for new texts."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from winning_tickets.config import Runtime
from winning_tickets.config.objective import TEXT_NAMES
from winning_tickets.data.encode import Array, EncodedSplit, make_collator
from winning_tickets.data.examples import is_text
from winning_tickets.data.readers import read_rows
from winning_tickets.data.records import Kind, Split, Task
from winning_tickets.data.rows import rows_of
from winning_tickets.data.unknown_words import check_words
from winning_tickets.models import modeling_compact
from winning_tickets.models.device import choose_device
from winning_tickets.models.given import GivenModel
from winning_tickets.models.heads import KINDS, head_of, num_outputs
from winning_tickets.models.loading import PLM, is_onnx, load_plm, reads_segments
from winning_tickets.models.modeling_compact import COMPACT
from winning_tickets.models.onnx_runtime import load_onnx
from winning_tickets.runs import memory
from winning_tickets.runs.directory import refuse_unfinished, remote_code_facts
from winning_tickets.runs.errors import ContentError, UsageError, shown
from winning_tickets.runs.files import read_json, write_json
from winning_tickets.runs.hub import local, not_local
from winning_tickets.runs.results import RESULT, SuperResult, read_result
from winning_tickets.tickets.files import is_run_of, is_ticket
from winning_tickets.tickets.masking import modes
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.objectives.task import model_inputs, task_logits

MODEL_FOLDER = "model"
TASK_FILE = "task.json"
HELD_TICKET = Path("held") / "ticket"
"""Place of a saved model's ticket; a folder with a ticket directly in it would count as a ticket itself."""
SHARED_PLACES = ("shared.json", f"{MODEL_FOLDER}/shared.json", f"seed-*/{MODEL_FOLDER}/shared.json")
"""Places of the description of a shared model, which belongs to several tasks."""
BATCH_TOKENS = 8192  # padded tokens per forward pass without gradients
BATCH_TOKENS_ON_CPU = 1024  # there larger batches leave the processor's cache, and take longer


@dataclass(frozen=True)
class TaskInfo:
    """Task of a saved model; stored next to it as `task.json`."""

    task: str
    text_columns: tuple[str, ...]
    labels: tuple[str, ...]  # empty for regression and spans
    max_length: int  # tokens per text, or per window over it
    ticket_id: str | None  # None for a dense model
    sparsity: float
    kind: Kind
    doc_stride: int | None  # tokens from one window to the next; None without windows

    @classmethod
    def of(cls, task: Task, max_length: int, doc_stride: int | None, ticket_id: str | None, *, sparsity: float) -> Self:
        columns, labels = task.text_columns, task.labels
        return cls(task.name, columns, labels, max_length, ticket_id, sparsity, task.kind, doc_stride)

    @classmethod
    def read(cls, folder: Path) -> Self:
        content = read_json(folder / TASK_FILE, "task description")
        try:
            lists = {key: tuple(content[key]) for key in ("text_columns", "labels")}
            info = TypeAdapter(cls).validate_python(content | lists)
            if len(info.text_columns) not in (1, 2):
                raise ValueError(f"{len(info.text_columns)} text columns")
            return info
        except (TypeError, KeyError, ValueError) as error:
            reason = str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, found {first['input']!r}"
            raise ContentError(
                f"{folder / TASK_FILE} is not a task description ({reason}); it was edited. "
                "Run tickets transfer with --save-model again."
            ) from error

    def write(self, folder: Path) -> None:
        write_json(folder / TASK_FILE, asdict(self))


def save_folder(model: Any, tokenizer: Any, folder: Path, extra: Mapping[str, torch.Tensor] | None = None) -> None:
    """Save a model and its tokenizer as an ordinary Hugging Face folder."""
    # `extra` holds tensors of the checkpoint, by name, that the model's class does not have.
    # Only transformers' own classes can save tensors under the names of older checkpoints.
    original = not hasattr(model.config, COMPACT)
    try:
        state = {**model.state_dict(), **(extra or {})}
        model.save_pretrained(folder, state_dict=state, save_original_format=original)
        tokenizer.save_pretrained(folder)
        if hasattr(model.config, COMPACT):  # also where the class is the ordinary one, and transformers saves no code
            shutil.copyfile(modeling_compact.__file__, folder / Path(modeling_compact.__file__).name)
            modeling_compact.refuse_plain_classes(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from error  # safetensors has an error of its own for a full disk


def save_model(plm: PLM, info: TaskInfo, ticket: Ticket | None, folder: Path) -> None:
    """Save a fine-tuned model with its task, and with the ticket that further fine-tuning holds."""
    save_folder(plm.model, plm.tokenizer, folder)
    info.write(folder)
    if ticket is not None:
        ticket.save_pretrained(folder / HELD_TICKET)


def find_model(run: Path | str, seed: int | None = None) -> Path:
    """Return the folder of a fine-tuned model."""
    # `run` is the folder of a transfer, one of its `seed-N`, a super run, or a saved model or export, also by its hub
    # id; without a seed the first model is taken.
    path = Path(local(run))
    if is_run_of(path, "super") and (path / RESULT).is_file():
        return _model_of_super(path, seed)
    if is_ticket(path):
        word = shlex.quote(str(path))
        raise UsageError(f"{path} is a ticket, not a fine-tuned model; run tickets transfer {word} --save-model first.")
    if not path.is_dir():
        raise UsageError(
            f"There is no run {path}; give the --out of a tickets transfer with --save-model.{not_local(run)}"
        )
    if (found := find_saved(path, TASK_FILE, seed)) is not None:
        return found
    if any(next(path.glob(place), None) for place in SHARED_PLACES):
        raise UsageError(
            f"{path} is a model that several tasks share; take one of them out first: tickets export "
            f"{shlex.quote(str(path))} --format masked --task NAME --out DIR."
        )
    refuse_unfinished(path)
    raise UsageError(f"{path} has no saved model; run tickets transfer with --save-model.")


def _model_of_super(path: Path, seed: int | None) -> Path:
    """Return the folder of a fine-tuned model of the super ticket of a run of `tickets super`."""
    folders = [path / name for name in read_result(path, SuperResult).super_ticket.runs]
    found = [model for folder in folders if (model := find_saved(folder, TASK_FILE, seed)) is not None]
    if not found:
        raise UsageError(
            f"{path} kept no fine-tuned model of its super ticket, which is {path}/super-ticket. Fine-tune it once "
            f"more: tickets transfer {shlex.quote(f'{path}/super-ticket')} --save-model with the same task; or give "
            "tickets super --save-model next time."
        )
    return found[0]


def find_saved(path: Path, description: str, seed: int | None = None) -> Path | None:
    """Find the folder of a saved model with a description of this name: a path, its `model`, or that of a seed."""
    for folder in (path, path / MODEL_FOLDER):
        if (folder / description).is_file():
            if seed is not None:
                raise UsageError(f"--seed {seed} chooses among the seeds of a run, and {path} is a single model.")
            return folder
    # A run with several seeds; those that are not finished do not count.
    found = {}
    for folder in path.glob("seed-*"):
        number = folder.name.removeprefix("seed-")
        if number.isdecimal() and (folder / RESULT).is_file() and (folder / MODEL_FOLDER / description).is_file():
            found[int(number)] = folder / MODEL_FOLDER
    if not found:
        return None
    if seed is not None and seed not in found:
        raise UsageError(
            f"{path} has no model of seed {seed}; there are those of {', '.join(map(str, sorted(found)))}."
        )
    return found[min(found) if seed is None else seed]


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


def load_fine_tuned(folder: Path, info: TaskInfo) -> PLM:
    """Load a saved model with the head of its task."""
    if is_onnx(folder):
        return load_onnx(folder)
    return load_plm(str(folder), head=head_of(info.kind), num_labels=num_outputs(info.kind, info.labels))


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
