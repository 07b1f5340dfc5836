"""What `shrink` starts from: the dense model with its head, the text to learn from, and held-out text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from winning_tickets.config.shrink import ShrinkConfig
from winning_tickets.data.batches import ENDLESS, CorpusBatches
from winning_tickets.data.corpora import CorpusText, load_corpus
from winning_tickets.data.encode import EncodedSplit, make_collator
from winning_tickets.data.loading import load_task
from winning_tickets.data.mixing import TaskBatches, task_order
from winning_tickets.data.readers import fingerprint
from winning_tickets.data.user_files import load_texts
from winning_tickets.deploy.formats import sentence_modules
from winning_tickets.finetuning.prepared_task import PreparedTask, prepare_task
from winning_tickets.models.heads import KINDS
from winning_tickets.models.loading import PLM, load_plm, outline, resolve_model
from winning_tickets.models.vocabulary import tokens_to_keep
from winning_tickets.pruning.importance import ImportanceModel
from winning_tickets.runs.directory import MARKER
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.files import read_object
from winning_tickets.runs.hub import is_cached
from winning_tickets.training.fine_tuned import FineTunedModel
from winning_tickets.training.objectives.base import Batch, Objective
from winning_tickets.training.objectives.distillation import HeadKind, HeadProbe
from winning_tickets.training.objectives.pretraining import StateProbe
from winning_tickets.training.predict import encode_split
from winning_tickets.training.saved_model import TaskInfo
from winning_tickets.training.source import FineTunedSource, find_source

HELD_OUT_PART = 20  # one in this many lines is held out if a corpus has no validation part
_HELD_OUT_EXAMPLES = 512  # number of held-out examples of a task's training set, but at most a tenth of it
_POOLING = Path("1_Pooling") / "config.json"
_HEADS: dict[str, HeadKind] = {
    "ForMaskedLM": "mlm",
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "tokens",
    "ForQuestionAnswering": "span",
}


@dataclass(frozen=True)
class ShrinkSource:
    """The dense model and its data."""

    plm: PLM  # with its head
    head: HeadKind | None
    pooling: Literal["mean", "cls"]  # pooling of sentence embeddings
    losses: dict[str, float]  # losses of the recovery, with their weights
    batches: Any  # training batches, by index
    held_out: list[Batch]
    tokens: Sequence[np.ndarray[Any, Any]]  # tokens of all texts, including held-out ones
    fingerprint: str  # of the text or the examples
    info: TaskInfo | None = None  # None unless the model is fine-tuned
    task: PreparedTask | None = None

    @classmethod
    def find(cls, config: ShrinkConfig) -> ShrinkSource:
        """Load the model and open its text or task."""
        source = find_source(config.model)
        if isinstance(source, FineTunedSource):
            return _fine_tuned(config, source)
        plm, head = _load(config)
        weights = {"states": 1.0, "logits": 1.0} if head is not None else {"states": 1.0, "pooled": 1.0}
        with sentence_modules(config.model, config.revision) as modules:
            pooling = _pooling(modules)
            if modules is not None:
                weights |= {"similarity": 1.0}
        return _on_text(config, plm, head, pooling, losses=weights)

    @cached_property
    def vocabulary(self) -> list[int]:
        """The tokens that the texts need."""
        used = set().union(*(np.unique(tokens).tolist() for tokens in self.tokens))
        return tokens_to_keep(self.plm.tokenizer, used)

    @property
    def outputs(self) -> str:
        """The outputs that the importances are about, in words, for tickets and files."""
        return f"the {'states' if self.head in (None, 'mlm') else 'predictions'} of {self.plm.name}"

    def probe(self, seed: int) -> Objective:
        """Return the loss whose derivatives are the importances of units."""
        if self.head is None or self.head == "mlm":
            return StateProbe(self.plm.architecture, seed)
        return HeadProbe(self.head, seed)


def _load(config: ShrinkConfig) -> tuple[PLM, HeadKind | None]:
    """Load a model with the head that its checkpoint has."""
    plain = load_plm(config.model, revision=config.revision)
    kind = next(iter(plain.model.config.architectures or [None]), None)
    head = next((found for suffix, found in _HEADS.items() if kind is not None and kind.endswith(suffix)), None)
    if head is None:
        return plain, None
    if head == "mlm":
        plm = load_plm(config.model, head="mlm", revision=config.revision)
        return (plm, "mlm") if plm.has_mlm_head else (plain, None)
    outputs = plain.model.config.num_labels
    if head == "classification":
        types: dict[Any, HeadKind] = {"multi_label_classification": "multilabel", "regression": "regression"}
        head = types.get(plain.model.config.problem_type, "regression" if outputs == 1 else "classification")
    assert head != "mlm"
    return load_plm(config.model, head=KINDS[head].head, num_labels=outputs, revision=config.revision), head


def _pooling(folder: Path | None) -> Literal["mean", "cls"]:
    """Return how a sentence-transformers model pools hidden states into an embedding; by default the mean."""
    if folder is None or not (folder / _POOLING).is_file():
        return "mean"
    settings = read_object(folder / _POOLING, "pooling")
    return "cls" if settings.get("pooling_mode_cls_token") or settings.get("pooling_mode") == "cls" else "mean"


def _on_text(
    config: ShrinkConfig,
    plm: PLM,
    head: HeadKind | None,
    pooling: Literal["mean", "cls"],
    *,
    losses: dict[str, float],
    **about: Any,
) -> ShrinkSource:
    if config.text is None:
        raise UsageError(
            "shrink needs text to learn from: --corpus pydocs, wikitext-103, task:NAME, a text file or a folder; "
            "--train-file with texts in columns; or --task."
        )
    train, held_out = _texts(config, config.text)
    losses = config.weights or losses

    def cut(corpus: CorpusText, seed: int, count: int, at_most: int | None = None) -> CorpusBatches:
        return CorpusBatches.read(
            corpus,
            plm.tokenizer,
            at_most,
            plm.end_of_text,
            segments=config.cut,
            batch_tokens=config.batch_tokens,
            n_batches=count,
            seed=seed,
            shuffle=True,
            mlm_probability=0.15 if head == "mlm" and "logits" in losses else None,
        )

    batches = cut(train, config.seed, ENDLESS, config.most_batches)
    aside = cut(held_out, config.seed + 1, max(1, config.max_tokens // config.batch_tokens))
    return ShrinkSource(
        plm,
        head,
        pooling,
        losses,
        batches,
        [aside[index] for index in range(len(aside))],
        [batches.stream.tokens, aside.stream.tokens],
        f"{train.fingerprint}+{held_out.fingerprint}",
        **about,
    )


def _texts(config: ShrinkConfig, text: str) -> tuple[CorpusText, CorpusText]:
    """Return the text to learn from and the held-out text; they have no line in common."""
    if config.train_file is None:
        train = load_corpus(text, "train", config.data_dir)
    else:
        lines = dict.fromkeys(chain.from_iterable(load_texts(config.train_file, config.text_columns)))
        train = CorpusText.of(text, "train", lambda: lines)
    if config.validation is not None:
        return train, load_corpus(config.validation, "validation", config.data_dir)
    held_out = train if config.train_file is not None else load_corpus(text, "validation", config.data_dir)
    if held_out.fingerprint != train.fingerprint:
        return train, held_out
    # A stream has held out some texts itself, so the text here has a known number of lines.
    if len(train.lines) < 2:
        raise UsageError(f"The corpus {text} has one line, so none can be held out; give --validation, or more text.")
    part = min(HELD_OUT_PART, len(train.lines))

    def some(name: str, chosen: Callable[[int], bool]) -> CorpusText:
        def read() -> Iterator[str]:
            return (line for number, line in enumerate(train.lines) if chosen(number))

        return CorpusText.of(text, name, read, train.cache)

    return some("train", lambda line: line % part != 0), some("validation", lambda line: line % part == 0)


def _fine_tuned(config: ShrinkConfig, source: FineTunedSource) -> ShrinkSource:
    """Open a model that `transfer` saved; by default it learns from the texts of its task, without their labels."""
    model = source.open()
    plm, info = model.load(), model.info
    task = _task(config, model, plm)
    losses = config.weights or {"states": 1.0, "logits": 1.0}
    if config.corpus is not None:
        return _on_text(config, plm, info.kind, "mean", losses=losses, info=info, task=task)
    if config.validation is not None:
        raise UsageError("--validation is held out of --corpus; examples of a task are held out of its training set.")
    if config.train_file is not None:
        texts = load_texts(config.train_file, config.text_columns or info.text_columns)
        if len(texts) != len(info.text_columns):
            raise UsageError(
                f"--text-columns names {len(texts)} column(s), and the task {info.task} has {len(info.text_columns)}."
            )
        split, identity = KINDS[info.kind].unlabelled(texts), fingerprint(chain.from_iterable(texts))
    else:
        assert task is not None
        split, identity = task.data.train, task.data.fingerprint
    encoded = encode_split(plm, split, info.max_length, info.kind, doc_stride=info.doc_stride)
    batches, held_out = example_batches(plm, encoded, config.batch_tokens, config.seed)
    return ShrinkSource(
        plm,
        info.kind,
        "mean",
        losses,
        batches,
        held_out,
        [np.fromiter(chain.from_iterable(encoded.columns["input_ids"]), np.int64)],
        identity,
        info,
        task,
    )


def example_batches(plm: PLM, encoded: EncodedSplit, tokens: int, seed: int) -> tuple[TaskBatches, list[Batch]]:
    """Return endless batches of a task's examples, of about `tokens` tokens each, and batches of held-out examples."""
    if len(encoded) < 2:
        raise UsageError(
            f"There is {len(encoded)} training example, so none can be held out; give two or more, better hundreds."
        )
    order = task_order(seed, 0, len(encoded))
    aside = set(order[: min(_HELD_OUT_EXAMPLES, max(1, len(encoded) // 10))].tolist())
    train, held_out = (
        _subset(encoded, [index for index in range(len(encoded)) if (index in aside) == inside])
        for inside in (False, True)
    )
    collate = make_collator(plm.tokenizer)
    lengths = [len(ids) for ids in train.columns["input_ids"]]
    size = max(2, round(tokens / (sum(lengths) / max(1, len(lengths)))))
    rest = TaskBatches(held_out, collate, size, seed)
    return (
        TaskBatches(train, collate, size, seed, by_length=True),
        [rest[index] for index in range(rest.per_epoch)],
    )


def _task(config: ShrinkConfig, model: FineTunedModel, plm: PLM) -> PreparedTask | None:
    """Return the task of a fine-tuned model; None if only the user's own text was given."""
    if (model.folder.parent / MARKER).is_file() and model.shared is None:  # the model's run says where its data are
        data = ImportanceModel.find(Path(config.model), config.data_dir).data
    elif config.data_dir is None and (config.corpus or config.train_file):
        return None
    else:
        data = load_task(model.info.task, config.data_dir)
    return prepare_task(plm, data, data.train, max_length=model.info.max_length, doc_stride=model.info.doc_stride)


def _subset(split: EncodedSplit, chosen: Sequence[int]) -> EncodedSplit:
    columns = {name: [values[index] for index in chosen] for name, values in split.columns.items()}
    return EncodedSplit(columns, [split.labels[index] for index in chosen])


def dense_shape(config: ShrinkConfig) -> Any:
    """Return the configuration of the dense model, without its weights; None if the model is not on this machine."""
    source = find_source(config.model)
    name = str(source.open().folder) if isinstance(source, FineTunedSource) else config.model
    try:
        where = resolve_model(name)
        is_here = Path(where).is_dir() or is_cached(where, "model")
        return outline(name, revision=config.revision).model.config if is_here else None
    except UsageError:  # the model is not found, or its run says why it is refused
        return None
