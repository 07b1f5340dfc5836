"""Tiny models and data made in code for the scale `smoke`: random weights, learnable labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForMaskedLM, BertConfig, PreTrainedTokenizerFast, RobertaConfig
from transformers.utils import logging as transformers_logging

from winning_tickets.data.glue import LAYOUTS, SERVER_FILES, GlueLayout
from winning_tickets.data.records import Task
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import unknown
from winning_tickets.runs.files import build_directory

SUBJECTS = ("the cat", "a dog", "birds", "she", "rain", "he")
VERBS = ("sat", "slept", "sang", "fell")
PLACES = ("on the mat", "over the hill", "in the tall tree", "by the window", "on the roof", "in the house")
TRAIN, VALIDATION = 48, 24
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def sentences() -> list[str]:
    """Return all sentences of the tiny data; neighbors differ in their subject."""
    return [f"{subject} {verb} {place}" for place, verb, subject in product(PLACES, VERBS, SUBJECTS)]


def tiny_folder(name: str, parent: Path) -> Path:
    """Return the folder of a tiny model or data set, created on first use, also by two processes at once."""
    if name not in MAKERS:
        raise unknown("tiny model or data set", name, MAKERS)
    folder = parent / name
    if not folder.is_dir():
        try:
            build_directory(folder, MAKERS[name])
        except Exception:
            if not folder.is_dir():  # another process was faster
                raise
        for stale in parent.glob(f".{name}.*.tmp"):  # of processes that were killed or were slower
            shutil.rmtree(stale, ignore_errors=True)
    return folder


def _bert(seed: int) -> Callable[[Path], None]:
    return lambda folder: _model(folder, BertConfig(**_SIZES, vocab_size=len(_vocabulary()), pad_token_id=0), seed)


def _roberta(folder: Path) -> None:
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    _model(folder, RobertaConfig(**_SIZES, vocab_size=len(_vocabulary()), **ids, max_position_embeddings=514), 0)


def _model(folder: Path, config: BertConfig | RobertaConfig, seed: int) -> None:
    config.initializer_range = 0.3  # larger than usual, so that pruning changes the outputs visibly
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForMaskedLM.from_config(config, trust_remote_code=False).save_pretrained(folder)
    tokenizer: Any = _tokenizer()
    tokenizer.save_pretrained(folder)


def _vocabulary() -> dict[str, int]:
    words = sorted({word for sentence in sentences() for word in sentence.split()})
    letters = sorted({letter for word in words for letter in word})
    longer = [word for word in words if len(word) > 1]
    tokens = [*_SPECIAL, *letters, *(f"##{letter}" for letter in letters), *longer]
    return {token: number for number, token in enumerate(tokens)}


def _tokenizer() -> PreTrainedTokenizerFast:
    ids = _vocabulary()
    backend = Tokenizer(WordPiece(ids, unk_token="[UNK]"))
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
    """Write a corpus with one line in four for validation."""
    lines = sentences()
    for name, valid in (("train", False), ("valid", True)):
        chosen = [line for number, line in enumerate(lines) if (number % 4 == 3) == valid]
        (folder / f"{name}.txt").write_text("\n".join(chosen) + "\n", encoding="utf-8")


def _glue(folder: Path) -> None:
    """Write files as of a download of GLUE, SNLI, SciTail and SQuAD; labels follow from the first words."""
    for name, layout in LAYOUTS.items():
        task = TASKS[name]
        inside = folder / str(task.folder)
        inside.mkdir()
        for offset, split in enumerate(("train", *task.validation_splits)):
            rows = list(_rows(task, TRAIN if split == "train" else VALIDATION, offset))
            path = inside / layout.files[split]
            text = _jsonl(layout, rows) if path.suffix == ".jsonl" else _tsv(layout, rows)
            path.write_text(text, encoding="utf-8")
        for offset, file in enumerate(SERVER_FILES.get(name, {}).values()):
            tests = enumerate(_rows(task, VALIDATION, offset))
            lines = [["index", *layout.texts], *([str(place), *texts] for place, (texts, _) in tests)]
            (inside / file).write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    squad = folder / "squad"
    squad.mkdir()
    for name, count, offset in (("train", TRAIN, 0), ("dev", VALIDATION, 1)):
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
    "bert": _bert(0),
    "bert-other": _bert(1),
    "roberta": _roberta,
    "text": _text,
    "glue": _glue,
}
"""Functions that write a model or data set, by the name after `tiny:`."""
