"""Tiny models and data for the scales `smoke` and `miniature`; data have learnable labels, or are cut from a folder."""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)
from transformers.utils import logging as transformers_logging

from winning_tickets.data.glue import LAYOUTS, SERVER_FILES, GlueLayout, folders_of
from winning_tickets.data.readers import read_lines
from winning_tickets.data.records import Task
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import unknown
from winning_tickets.runs.files import build_directory
from winning_tickets.runs.identity import digest
from winning_tickets.runs.text import read_text

SUBJECTS = ("the cat", "a dog", "birds", "she", "rain", "he")
VERBS = ("sat", "slept", "sang", "fell")
PLACES = ("on the mat", "over the hill", "in the tall tree", "by the window", "on the roof", "in the house")
SIZES = (48, 24)  # examples for training and for validation
MORE_SIZES = (80, 40)
_SECTION = 12  # sentences of a section
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PRETRAINING_STEPS, _PRETRAINING_BATCH, _PRETRAINING_RATE = 150, 48, 2e-3
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_MORE_HEADS = _SIZES | {"hidden_size": 48, "num_attention_heads": 12, "intermediate_size": 96}


def sentences() -> list[str]:
    """Return all sentences of the tiny data; neighbors differ in their subject."""
    return [f"{subject} {verb} {place}" for place, verb, subject in product(PLACES, VERBS, SUBJECTS)]


def tiny_folder(name: str, parent: Path) -> Path:
    """Return the folder of a tiny model or data set, which is created on first use; several processes may do so.

    `cut:FOLDER` is the data of a folder, cut to a few examples of each task.
    """
    kind, _, source = name.partition(":")
    make = partial(_cut, Path(source)) if kind == CUT and source else MAKERS.get(name)
    if make is None:
        raise unknown("tiny model or data set", name, MAKERS)
    folder = parent / (f"{CUT}-{digest(source)}" if source else name)
    if not folder.is_dir():
        try:
            build_directory(folder, make)
        except Exception:
            if not folder.is_dir():  # another process was faster
                raise
        for stale in parent.glob(f".{folder.name}.*.tmp"):  # left by processes that were killed or slower
            shutil.rmtree(stale, ignore_errors=True)
    return folder


def _bert(folder: Path, layers: int = 2, seed: int = 0, steps: int = 0) -> None:
    words = _vocabulary(english=steps > 0)
    sizes = (_MORE_HEADS if steps else _SIZES) | {"num_hidden_layers": layers}
    config = BertConfig(**sizes, vocab_size=len(words), pad_token_id=0)
    _model(folder, config, words, seed, steps=steps)


def _roberta(folder: Path, layers: int = 2, seed: int = 0, steps: int = 0) -> None:
    words = _vocabulary(english=steps > 0)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 514}
    sizes = (_MORE_HEADS if steps else _SIZES) | {"num_hidden_layers": layers}
    config = RobertaConfig(**sizes, vocab_size=len(words), **ids)
    _model(folder, config, words, seed, steps=steps)


def _model(folder: Path, config: BertConfig | RobertaConfig, words: dict[str, int], seed: int, *, steps: int) -> None:
    """Write a model with random weights, or after `steps` of pre-training, then with a pooler if its family has one."""
    config.initializer_range = 0.1 if steps else 0.3  # larger than usual, so that pruning changes the outputs visibly
    kind: Any = AutoModelForPreTraining if steps else AutoModelForMaskedLM
    tokenizer: Any = _tokenizer(words)
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(config, trust_remote_code=False)
        _pretrain(model, tokenizer, steps)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _pretrain(model: Any, tokenizer: Any, steps: int) -> None:
    """Train a model on masked words of the sentences."""
    texts = tokenizer(sentences(), return_tensors="pt", padding=True)["input_ids"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PRETRAINING_RATE)
    special = torch.tensor(tokenizer.all_special_ids)
    for _ in range(steps):
        ids = texts[torch.randint(len(texts), (_PRETRAINING_BATCH,))]
        masked = (torch.rand(ids.shape) < 0.15) & ~torch.isin(ids, special)
        outputs = model(ids.masked_fill(masked, tokenizer.mask_token_id), attention_mask=ids != tokenizer.pad_token_id)
        logits = outputs.prediction_logits if "prediction_logits" in outputs else outputs.logits
        loss: Any = torch.nn.functional.cross_entropy(logits[masked], ids[masked])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _vocabulary(*, english: bool = False) -> dict[str, int]:
    """Return the word pieces of the sentences; `english` adds pieces to spell any English text, and frequent words."""
    words = sorted({word for sentence in sentences() for word in sentence.split()})
    letters = sorted({letter for word in words for letter in word})
    if english:
        letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
        words = sorted({*words, *ENGLISH_STOP_WORDS})
    longer = [word for word in words if len(word) > 1]
    tokens = [*_SPECIAL, *letters, *(f"##{letter}" for letter in letters), *longer]
    return {token: number for number, token in enumerate(tokens)}


def _tokenizer(ids: dict[str, int]) -> PreTrainedTokenizerFast:
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


def _headed_text(folder: Path) -> None:
    """Write a corpus of sections with headings, of which every fourth is for validation."""
    simple = sentences()
    lines = [
        f"{first} and {simple[(at + 7 * skip) % len(simple)]}"
        for skip in range(1, 25)
        for at, first in enumerate(simple)
    ]
    for name, valid in (("train", False), ("valid", True)):
        parts = [lines[start : start + _SECTION] for start in range(0, len(lines), _SECTION)]
        text = ""
        for number, part in enumerate(parts):
            if (number % 4 == 3) == valid:
                paragraphs = (" . ".join(part[start : start + 4]) for start in range(0, _SECTION, 4))
                text += "".join(f" {line} \n" for line in (f"= Part {number} =", *paragraphs))
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def _glue(folder: Path, sizes: tuple[int, int] = SIZES) -> None:
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


def _cut(source: Path, folder: Path) -> None:
    """Write files like those of a folder with every n-th example; tasks that the folder lacks are generated."""
    _glue(folder, MORE_SIZES)
    for name, layout in LAYOUTS.items():
        task = TASKS[name]
        files = [layout.files[split] for split in layout.splits(task)]
        found = _place(task, source, files[0])
        if found is None:
            continue
        for file in (*files, *SERVER_FILES.get(name, {}).values()):
            target = folder / str(task.folder) / file
            if not (found / file).is_file():
                target.unlink()  # the files of a task must not come from two sources
                continue
            head, *lines = "\n".join(read_lines(found / file)).rstrip("\n").split("\n")
            if layout.header is not None or file.endswith(".jsonl"):
                head, lines = "", [head, *lines]
            kept = _thinned(lines, MORE_SIZES[file != files[0]])
            target.write_text("".join(f"{line}\n" for line in ([head] if head else []) + kept), encoding="utf-8")
    _cut_squad(_place(TASKS["squad"], source, "train-v1.1.json"), folder / "squad")


def _place(task: Task, source: Path, file: str) -> Path | None:
    """Return the folder of a task's files in a folder, or in one of its direct subfolders."""
    inside = sorted(path for path in source.iterdir() if path.is_dir())
    return next((found for one in (source, *inside) for found in folders_of(task, one, file)), None)


def _thinned(items: Sequence[Any], count: int) -> list[Any]:
    """Return `count` evenly spaced items, or all if there are fewer."""
    return [items[place * len(items) // count] for place in range(count)] if len(items) > count else list(items)


def _cut_squad(source: Path | None, folder: Path) -> None:
    for name, count in zip(("train", "dev"), MORE_SIZES, strict=True) if source else ():
        content = json.loads(read_text(Path(str(source)) / f"{name}-v1.1.json"))
        asked = [
            (part["context"], one)
            for article in content["data"]
            for part in article["paragraphs"]
            for one in part["qas"]
        ]
        paragraphs = [{"context": context, "qas": [one]} for context, one in _thinned(asked, count)]
        articles = {"version": "1.1", "data": [{"title": "cut", "paragraphs": paragraphs}]}
        (folder / f"{name}-v1.1.json").write_text(json.dumps(articles), encoding="utf-8")


CUT = "cut"  # used as `tiny:cut:FOLDER`
MAKERS: dict[str, Callable[[Path], None]] = {
    "bert": _bert,
    "bert-other": partial(_bert, seed=1),
    "roberta": _roberta,
    "bert-pretrained": partial(_bert, steps=_PRETRAINING_STEPS),
    "bert-deep": partial(_bert, layers=3, steps=_PRETRAINING_STEPS),
    "roberta-pretrained": partial(_roberta, steps=_PRETRAINING_STEPS),
    "text": _text,
    "articles": _headed_text,
    "glue": _glue,
    "glue-more": partial(_glue, sizes=MORE_SIZES),
}
"""Functions that write a model or data set, by the name after `tiny:`."""
