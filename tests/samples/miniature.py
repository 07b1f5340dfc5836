"""The scale `miniature`: the scale `paper` of a recipe, made small by rules that are the same for all recipes.

Methods, profile, epochs, early stopping, ranking and all axes stay the same. A tiny pre-trained model replaces the
paper's model, and a few examples of each task replace its data. There are fewer steps, smaller batches and shorter
texts, and learning rates are higher, because so few steps would change nothing. The numbers say nothing about the
paper; they prove that every cell of a page is filled, every claim is judged, and trainings stop when they should.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from transformers import AutoModelForPreTraining, BertConfig, RobertaConfig
from transformers.utils import logging as transformers_logging

from winning_tickets.config import EvaluateConfig, SearchConfig, Settings, ShareConfig, SuperConfig, TransferConfig
from winning_tickets.config.mask_training import MaskTraining, ScoreTraining
from winning_tickets.config.search import TextSearch
from winning_tickets.config.settings import parse_size
from winning_tickets.config.weight_training import ImpSearch
from winning_tickets.data.records import Task
from winning_tickets.data.tasks import MLM, TASKS
from winning_tickets.studies.expressions import map_strings
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import Plan, plan_study, run_of
from winning_tickets.studies.references import Run
from winning_tickets.studies.schema import Study
from winning_tickets.studies.tiny import MAKERS, ROBERTA_IDS, make_tokenizer, sentences, vocabulary, write_glue

STEPS, RATE = 200, 40  # divisor of the steps of a search, and factor of the learning rates
BATCH, LENGTH, LEAST_BATCH = 4, 4, 4  # divisors of the batch size and of the tokens of a text; smallest batch
STEP_TOKENS, TEXT_STEPS, SEGMENTS = 16, 500, 2_000  # divisors: tokens of a step; steps and segments of rounds over text
EXAMPLES, EVAL_STEPS = 125, 5  # divisor of the examples of a subset; steps between evaluations
SEEDS, EVALUATED_TOKENS = 3, 2_000
DATA_SIZES = (80, 40)  # examples of a task for training and for validation
PRETRAINING_STEPS, PRETRAINING_BATCH, PRETRAINING_RATE = 150, 48, 2e-3
SECTION = 12  # sentences of a section of the corpus

OWN: dict[str, dict[str, Any]] = {
    "bert-tickets-figure-10": {"names": ["mnli", "stsb", "cola", "squad", "MLM"]},
    "bert-tickets-figure-11": {"tasks": ["mnli", "stsb", "cola", "squad"]},
    "bert-tickets-figure-5": {
        "sources": {
            "mnli": {"tasks": ["mnli"]},
            "stsb": {"tasks": ["stsb"]},
            "cola": {"tasks": ["cola"]},
            "squad": {"tasks": ["squad"]},
        }
    },
    "bert-tickets-figure-7": {"at5": "000001", "at10": "000002", "at20": "000004", "at50": "000010"},
    "bert-tickets-figure-8": {"at5": "000002", "at10": "000003", "at20": "000006", "at50": "000015"},
    "bert-tickets-table-6": {"tasks": ["mnli", "qqp", "stsb", "mrpc"]},
    "bert-tickets-table-8": {"tasks": ["sst2", "cola", "squad"]},
    "super-tickets-figure-4": {"tasks": ["rte", "mnli"], "learning_rates": [0.0001]},
    "super-tickets-figure-5": {"tasks": ["mnli"], "learning_rates": [0.0001]},
    "super-tickets-figure-6": {"tasks": ["rte", "sst2", "mnli"]},
    "super-tickets-figure-7": {"tasks": ["mrpc", "cola", "stsb"], "learning_rates": [0.0001]},
    "super-tickets-table-1": {"tasks": ["rte", "cola", "qqp", "mnli"]},
    "super-tickets-table-4": {"rates": [5e-05, 0.0005], "batch_sizes": [8, 32]},
    "super-tickets-table-5": {"small_tasks": ["rte", "cola"]},
    "super-tickets-table-8": {"small_tasks": ["rte", "cola"]},
    "super-tickets-table-9": {
        "tasks": ["cola", "sst2", "mnli", "rte", "qqp", "mrpc", "qnli", "stsb", "snli", "scitail"]
    },
    "tamt-figure-1": {"tasks": ["cola", "stsb"], "sparsities": [0.1, 0.5, 0.9]},
    "tamt-figure-10": {"tasks": ["cola", "rte"]},
    "tamt-figure-11": {"sparsities": [0.1, 0.7]},
    "tamt-figure-14": {"sparsities": [0.6]},
    "tamt-figure-16": {"sparsities": [0.8]},
    "tamt-figure-17": {"sparsities": [0.6, 0.7, 0.8]},
    "tamt-figure-3": {"tasks": ["cola", "stsb", "mrpc"], "sparsities": [0.5, 0.7, 0.9]},
    "tamt-figure-4": {"tasks": ["cola", "stsb"], "sparsities": [0.3, 0.7, 0.9]},
    "tamt-figure-5": {"tasks": ["cola", "stsb"], "sparsities": [0.6, 0.7, 0.8], "save_at": [50]},
    "tamt-figure-6": {"sparsities": [0.7]},
    "tamt-figure-8": {"sparsities": [0.7]},
    "tamt-figure-9": {
        "tasks": ["cola", "sst2", "mnli", "squad"],
        "sparsities": [0.7],
        "sizes": {1000: {"train_size": "1000"}, 10000: {"train_size": "10000"}, "all": {}},
    },
    "tamt-released-masks": {"sparsities": [0.7]},
    "tamt-submission-figure-3": {"tasks": ["cola", "stsb"], "sparsities": [0.2, 0.5, 0.7, 0.9]},
    "tamt-table-1": {"tasks": ["cola", "sst2", "rte", "mnli", "mrpc", "stsb", "squad"]},
    "tamt-table-2": {"sparsities": [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]},
    "tamt-table-3": {"sparsities": [0.9]},
}
"""Parameters of single recipes, in the units of `miniature`: fewer tasks and sparsities, never fewer methods."""


def plan_miniature(study: Study, overrides: Mapping[str, Any] | None = None) -> Plan:
    """Plan a recipe at the scale `paper`, made small."""
    parameters = miniature_parameters(study.parameters | study.scales["paper"]) | _own(study)
    plan = plan_study(study.model_copy(update={"scales": {"paper": parameters}}), "paper", overrides)
    # The ids of runs change with their settings, so references to them follow; runs that became equal are merged.
    new: dict[str, Run] = {}
    for run in plan.runs.values():
        ids = {f"@{old}": f"@{made.id}" for old, made in new.items()}
        config = map_strings(run.config, lambda text, ids=ids: _renamed(text, ids))
        new[run.id] = run_of(run.stage, run.verb, miniature_settings(type(run.settings).of(**config)))
    runs: dict[str, Run] = {}
    for run in new.values():
        runs.setdefault(run.id, run)
    points = tuple(replace(point, run=new[point.run].id) for point in plan.points)
    return replace(plan, scale="miniature", runs=runs, points=points)


def _own(study: Study) -> dict[str, Any]:
    """Return the parameters of a recipe that `OWN` names for it or for the recipes that it starts from."""
    return (_own(load_study(study.base)) if study.base else {}) | OWN.get(study.name, {})


def _renamed(text: str, ids: Mapping[str, str]) -> str:
    """Return a text, with its run replaced if it is a reference `@ID/path`."""
    target, slash, path = text.partition("/")
    return ids.get(target, target) + slash + path


def miniature_parameters(paper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the scale `miniature`, made from those of the scale `paper`."""
    smaller = {name: change(paper[name]) for name, change in _PARAMETERS.items() if paper.get(name) is not None}
    return {**paper, **smaller, **{name: made for name, made in _DATA.items() if name in paper}}


def miniature_settings(settings: Settings) -> Settings:
    """Return the settings of a run with smaller batches, shorter texts and higher rates."""
    change = next((change for kind, change in _SETTINGS.items() if isinstance(settings, kind)), None)
    return settings if change is None else settings.model_copy(update=change(settings))


def _model(name: str) -> str:
    """Return the tiny model that is used in place of a model of the papers."""
    if "roberta" in name:
        return "tiny:roberta-pretrained"
    return "tiny:bert-deep" if "large" in name else "tiny:bert-pretrained" if "bert" in name else name


def _fewer(steps: int, share: int = STEPS) -> int:
    return max(1, round(steps / share))


def _shorter_rounds(axis: Mapping[int, Mapping[str, int]]) -> dict[int, dict[str, int]]:
    """Return the axis of round lengths with shorter rounds; labels are total steps, and equal lengths are merged."""
    rounds = {_fewer(own["round_steps"]): steps // own["round_steps"] for steps, own in axis.items()}
    return {count * steps: {"round_steps": steps} for steps, count in rounds.items()}


_DATA = {"corpus": "tiny:articles", "data_dir": "tiny:glue-more"}
_PARAMETERS: dict[str, Callable[[Any], Any]] = {
    "model": _model,
    "other_model": _model,
    "models": lambda models: {label: _model(name) for label, name in models.items()},
    "seeds": lambda seeds: seeds[:SEEDS],
    "search_seeds": lambda seeds: seeds[:SEEDS],
    "levels": lambda levels: levels[1::3],
    "search_steps": lambda steps: {sparsity: _fewer(count) for sparsity, count in steps.items()},
    "trained_steps": _fewer,
    "save_at": lambda steps: sorted({_fewer(step) for step in steps}),
    "round_steps": _fewer,
    "imp_steps": _shorter_rounds,
    "text_steps": lambda steps: _fewer(steps, TEXT_STEPS),
    "mlm_round_steps": lambda steps: _fewer(steps, TEXT_STEPS),
}
"""Changes to parameters of recipes that name models, label axes or agree with such labels; other parameters stay."""


def _shorter(segments: str) -> str:
    return re.sub(r"\d+", lambda found: str(int(found.group()) // LENGTH), segments)


def _subset(size: str | None, share: int = EXAMPLES) -> str | None:
    """Return a smaller size of a training subset; p % become 10 * sqrt(p) %, because 1 % would be no example."""
    if size is None:
        return None
    number, percent = parse_size(size)
    return f"{10 * math.sqrt(number):.3g}%" if percent else str(max(1, int(number) // share))


def _rate(rate: float, times: int = RATE) -> float:
    return float(f"{times * rate:.6g}")


def _batch(size: int) -> int:
    return max(LEAST_BATCH, size // BATCH)


def _task(name: str | None) -> Task:
    return MLM if name == MLM.name else TASKS.get(str(name)) or TASKS["rte"]


def _trained(settings: TransferConfig | ShareConfig, task: Task) -> dict[str, Any]:
    rates = settings.learning_rate or task.fixed_rate
    values = {
        "batch_size": _batch(settings.batch_size or task.batch_size),
        "learning_rate": tuple(map(_rate, rates)) if isinstance(rates, tuple) else _rate(rates),
        "train_size": _subset(settings.train_size),
    }
    length = (settings.max_length or task.max_length) // LENGTH
    return values if task.doc_stride else values | {"max_length": length}


def _transfer(settings: TransferConfig) -> dict[str, Any]:
    task = _task(settings.task)
    own = settings.patience is not None or settings.eval_steps is not None
    measured = {"max_tokens": EVALUATED_TOKENS} if task is MLM else {}
    values = _trained(settings, task) | measured | ({} if own else {"eval_steps": EVAL_STEPS})
    brought = () if settings.settings_from is None else ("batch_size", "learning_rate")  # those of another run
    return {name: value for name, value in values.items() if name not in brought}


def _super(settings: SuperConfig) -> dict[str, Any]:
    config = settings.resolved()
    length = (config.fine_tuning.max_length or 512) // LENGTH
    changed = {"max_length": length, "train_size": _subset(config.fine_tuning.train_size)}
    return {
        "fine_tuning": settings.fine_tuning.model_copy(update=changed),
        "learning_rates": tuple(map(_rate, _ends(config.learning_rates or (2e-5,)))),
        "batch_sizes": tuple(map(_batch, _ends(config.batch_sizes or (32,)))),
    }


def _ends(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the first and the last of a grid's values."""
    return tuple(dict.fromkeys((values[0], values[-1])))


def _search(settings: SearchConfig) -> dict[str, Any]:
    config = settings.resolved()
    values: dict[str, Any] = {}
    if isinstance(config, TextSearch) and config.reads_corpus:
        values |= {"batch_tokens": config.batch_tokens // STEP_TOKENS, "segments": _shorter(config.segments)}
    if isinstance(config, ScoreTraining):
        values["learning_rate"] = _rate(config.learning_rate, STEPS)
    if isinstance(config, MaskTraining):
        values |= {
            "head_learning_rate": _rate(config.head_learning_rate),
            "reselect_steps": _fewer(config.reselect_steps),
        }
    if not isinstance(config, ImpSearch):
        return values
    tasks = [_task(name) for name in config.tasks]
    usual = 5e-5 if config.reads_corpus or not tasks else tasks[0].fixed_rate
    values["learning_rate"] = _rate(config.learning_rate or usual)
    if config.round_examples is not None:
        values["round_examples"] = _fewer(config.round_examples, SEGMENTS)
    if config.train_size is not None:
        values["train_size"] = _subset(config.train_size, EXAMPLES if tasks else SEGMENTS)
    if tasks:
        values["batch_size"] = _batch(config.batch_size or min(task.batch_size for task in tasks))
    if tasks and not any(task.doc_stride for task in tasks):
        values["max_length"] = (config.max_length or max(task.max_length for task in tasks)) // LENGTH
    return values


def _evaluate(settings: EvaluateConfig) -> dict[str, Any]:
    tokens = min(settings.max_tokens or EVALUATED_TOKENS, EVALUATED_TOKENS)
    return {"segments": _shorter(settings.segments), "max_tokens": tokens}


_SETTINGS: dict[type[Settings], Callable[[Any], dict[str, Any]]] = {
    TransferConfig: _transfer,
    SuperConfig: _super,
    ShareConfig: lambda settings: _trained(settings.resolved(), _task(None)),
    SearchConfig: _search,
    EvaluateConfig: _evaluate,
}


def _pretrained(kind: type[BertConfig | RobertaConfig], layers: int, folder: Path) -> None:
    """Write a model that was trained on masked words of the sentences, with a pooler if its family has one."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]  # they spell any English text
    words = vocabulary([*sentences(), *ENGLISH_STOP_WORDS], letters)
    sizes = {"hidden_size": 48, "num_attention_heads": 12, "intermediate_size": 96, "num_hidden_layers": layers}
    ids = ROBERTA_IDS if kind is RobertaConfig else {"pad_token_id": 0}
    config = kind(**sizes, **ids, vocab_size=len(words))
    config.initializer_range = 0.1  # larger than usual, so that pruning changes the outputs visibly
    tokenizer = make_tokenizer(words)
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForPreTraining.from_config(config, trust_remote_code=False)
        _pretrain(model, tokenizer)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _pretrain(model: Any, tokenizer: Any) -> None:
    """Train a model on masked words of the sentences."""
    texts = tokenizer(sentences(), return_tensors="pt", padding=True)["input_ids"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=PRETRAINING_RATE)
    special = torch.tensor(tokenizer.all_special_ids)
    for _ in range(PRETRAINING_STEPS):
        ids = texts[torch.randint(len(texts), (PRETRAINING_BATCH,))]
        masked = (torch.rand(ids.shape) < 0.15) & ~torch.isin(ids, special)
        outputs = model(ids.masked_fill(masked, tokenizer.mask_token_id), attention_mask=ids != tokenizer.pad_token_id)
        logits = outputs.prediction_logits if "prediction_logits" in outputs else outputs.logits
        loss: Any = torch.nn.functional.cross_entropy(logits[masked], ids[masked])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _headed_text(folder: Path) -> None:
    """Write a corpus of sections with headings, of which every fourth is for validation."""
    simple = sentences()
    lines = [
        f"{first} and {simple[(at + 7 * skip) % len(simple)]}"
        for skip in range(1, 25)
        for at, first in enumerate(simple)
    ]
    for name, valid in (("train", False), ("valid", True)):
        parts = [lines[start : start + SECTION] for start in range(0, len(lines), SECTION)]
        text = ""
        for number, part in enumerate(parts):
            if (number % 4 == 3) == valid:
                paragraphs = (" . ".join(part[start : start + 4]) for start in range(0, SECTION, 4))
                text += "".join(f" {line} \n" for line in (f"= Part {number} =", *paragraphs))
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


MAKERS.update(
    {
        "bert-pretrained": partial(_pretrained, BertConfig, 2),
        "bert-deep": partial(_pretrained, BertConfig, 3),
        "roberta-pretrained": partial(_pretrained, RobertaConfig, 2),
        "articles": _headed_text,
        "glue-more": partial(write_glue, sizes=DATA_SIZES),
    }
)
