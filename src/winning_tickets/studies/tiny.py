"""Tiny models and data for the scale `smoke`; the data have labels that can be learned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)
from transformers.utils import logging as transformers_logging

from winning_tickets.data.glue import LAYOUTS, SERVER_FILES, GlueLayout
from winning_tickets.data.records import Task
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import unknown
from winning_tickets.runs.files import build_directory

SUBJECTS = ("the cat", "a dog", "birds", "she", "rain", "he")
VERBS = ("sat", "slept", "sang", "fell")
PLACES = ("on the mat", "over the hill", "in the tall tree", "by the window", "on the roof", "in the house")
SIZES = (48, 24)  # examples for training and for validation
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 514}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def sentences() -> list[str]:
    """Return all sentences of the tiny data; neighbors differ in their subject."""
    return [f"{subject} {verb} {place}" for place, verb, subject in product(PLACES, VERBS, SUBJECTS)]


def tiny_folder(name: str, parent: Path) -> Path:
    """Return the folder of a tiny model or data set, which is created on first use; several processes may do so."""
    make = MAKERS.get(name)
    if make is None:
        raise unknown("tiny model or data set", name, MAKERS)
    folder = parent / name
    if not folder.is_dir():
        try:
            build_directory(folder, make)
        except Exception:
            if not folder.is_dir():  # another process was faster
                raise
        for stale in parent.glob(f".{folder.name}.*.tmp"):  # left by processes that were killed or slower
            shutil.rmtree(stale, ignore_errors=True)
    return folder


def _bert(folder: Path, seed: int = 0) -> None:
    words = vocabulary(sentences())
    _model(folder, BertConfig(**_SIZES, vocab_size=len(words), pad_token_id=0), words, seed)


def _roberta(folder: Path) -> None:
    words = vocabulary(sentences())
    _model(folder, RobertaConfig(**_SIZES, **ROBERTA_IDS, vocab_size=len(words)), words, seed=0)


def _model(folder: Path, config: BertConfig | RobertaConfig, words: dict[str, int], seed: int) -> None:
    """Write a model with random weights, and its tokenizer."""
    config.initializer_range = 0.3  # larger than usual, so that pruning changes the outputs visibly
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForMaskedLM.from_config(config, trust_remote_code=False).save_pretrained(folder)
    make_tokenizer(words).save_pretrained(folder)


def vocabulary(texts: Iterable[str], letters: Iterable[str] = ()) -> dict[str, int]:
    """Return the word pieces of texts: their words, and the given letters or else those of the words."""
    words = sorted({word for text in texts for word in text.split()})
    letters = list(letters) or sorted({letter for word in words for letter in word})
    longer = [word for word in words if len(word) > 1]
    tokens = [*_SPECIAL, *letters, *(f"##{letter}" for letter in letters), *longer]
    return {token: number for number, token in enumerate(tokens)}


def make_tokenizer(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of lower-case words and their parts, with these ids."""
    backend = Tokenizer(WordPiece(ids, unk_token="[UNK]"))  # noqa: S106 - a token of a vocabulary
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **dict(zip(names, _SPECIAL, strict=True)),
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _text(folder: Path) -> None:
    """Write a corpus of lines, of which every fourth is for validation."""
    lines = sentences()
    for name, valid in (("train", False), ("valid", True)):
        chosen = [line for number, line in enumerate(lines) if (number % 4 == 3) == valid]
        (folder / f"{name}.txt").write_text("\n".join(chosen) + "\n", encoding="utf-8")


def write_glue(folder: Path, sizes: tuple[int, int] = SIZES) -> None:
    """Write files in the format of GLUE, SNLI, SciTail and SQuAD downloads; the first words determine the labels."""
    train, validation = sizes
    for name, layout in LAYOUTS.items():
        task = TASKS[name]
        inside = folder / str(task.folder)
        inside.mkdir()
        for offset, split in enumerate(layout.splits(task)):
            rows = list(_rows(task, train if split == "train" else validation, offset))
            path = inside / layout.files[split]
            text = _jsonl(layout, rows) if path.suffix == ".jsonl" else _tsv(layout, rows)
            path.write_text(text, encoding="utf-8")
        for offset, file in enumerate(SERVER_FILES.get(name, {}).values()):
            tests = enumerate(_rows(task, validation, offset))
            lines = [["index", *layout.texts], *([str(place), *texts] for place, (texts, _) in tests)]
            (inside / file).write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    squad = folder / "squad"
    squad.mkdir()
    for name, count, offset in (("train", train, 0), ("dev", validation, 1)):
        (squad / f"{name}-v1.1.json").write_text(json.dumps(_articles(count, offset)), encoding="utf-8")


def _rows(task: Task, count: int, offset: int) -> Iterable[tuple[list[str], str]]:
    for row in range(count):
        subject = (row + offset) % len(SUBJECTS)
        texts = [
            f"{SUBJECTS[(subject + column) % len(SUBJECTS)]} {VERBS[row // 6 % 4]} {PLACES[(row // 6 + column) % 6]}"
            for column in range(len(task.text_columns))
        ]
        if task.is_regression:
            yield texts, f"{subject:.1f}"  # subjects 0 to 5 are the scores
        else:
            yield texts, task.labels[subject % len(task.labels)]


def _tsv(layout: GlueLayout, rows: Iterable[tuple[list[str], str]]) -> str:
    header = layout.header or (*layout.texts, layout.label)
    lines = [] if layout.header else ["\t".join(header)]
    for texts, label in rows:
        cells = dict(zip(layout.texts, texts, strict=True)) | {layout.label: label}
        lines.append("\t".join(cells.get(column, "-") for column in header))
    return "\n".join(lines) + "\n"


def _jsonl(layout: GlueLayout, rows: Iterable[tuple[list[str], str]]) -> str:
    objects = (dict(zip(layout.texts, texts, strict=True)) | {layout.label: label} for texts, label in rows)
    return "".join(json.dumps(one) + "\n" for one in objects)


def _articles(count: int, offset: int) -> dict[str, object]:
    """Return JSON in the format of SQuAD, with questions about places."""
    paragraphs = []
    for row in range(count):
        subject, place = SUBJECTS[(row + offset) % 6], PLACES[(row // 6 + offset) % 6]
        context = f"{subject} {VERBS[row % 4]} {place}"
        answer = {"text": place, "answer_start": context.index(place)}
        question = {"id": f"{offset}-{row}", "question": f"the {subject}", "answers": [answer]}
        paragraphs.append({"context": context, "qas": [question]})
    return {"version": "1.1", "data": [{"title": "tiny", "paragraphs": paragraphs}]}


MAKERS: dict[str, Callable[[Path], None]] = {
    "bert": _bert,
    "bert-other": partial(_bert, seed=1),
    "roberta": _roberta,
    "text": _text,
    "glue": write_glue,
}
"""Functions that write a model or data set, by the name after `tiny:`."""
