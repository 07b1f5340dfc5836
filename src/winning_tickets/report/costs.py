"""Estimates of what runs will cost: tokens that they read, seconds, and bytes that they keep."""

from __future__ import annotations

import functools
import json
import math
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from winning_tickets.config import (
    AUTO,
    EvaluateConfig,
    FitHeadConfig,
    SearchConfig,
    Settings,
    ShareConfig,
    ShrinkConfig,
    Smart,
    SuperConfig,
    TransferConfig,
)
from winning_tickets.config.levels import written_levels
from winning_tickets.config.mask_training import ScoreTraining
from winning_tickets.config.objective import TEACHER_NAMES
from winning_tickets.config.search import CalibratedSearch, TextSearch
from winning_tickets.config.settings import parse_size
from winning_tickets.config.structured import ImportanceSearch, UnitSearch
from winning_tickets.config.weight_training import ImpSearch, SourceSearch
from winning_tickets.data.corpora import TEXT_SUFFIXES
from winning_tickets.data.glue import LAYOUTS, count_rows
from winning_tickets.data.records import Task
from winning_tickets.data.tasks import TASKS, TEXT_TASKS
from winning_tickets.runs.errors import UsageError


class TaskSize(NamedTuple):
    """Number of training and validation examples, mean tokens per example, and tokens of the longest of 32 examples."""

    train: int
    validation: int
    mean: float
    longest: float


TASK_SIZES = {
    "cola": TaskSize(8_551, 1_043, 11, 23),
    "sst2": TaskSize(67_349, 872, 14, 40),
    "mrpc": TaskSize(3_668, 408, 53, 80),
    "stsb": TaskSize(5_749, 1_500, 28, 70),
    "qqp": TaskSize(363_846, 40_430, 31, 68),
    "mnli": TaskSize(392_702, 19_647, 40, 92),
    "qnli": TaskSize(104_743, 5_463, 51, 116),
    "rte": TaskSize(2_490, 277, 70, 183),
    "wnli": TaskSize(635, 71, 37, 75),
    "snli": TaskSize(549_367, 9_842, 28, 51),
    "scitail": TaskSize(23_596, 1_304, 39, 68),
    "squad": TaskSize(88_500, 10_800, 175, 370),  # windows of 384 tokens
    "pydocs": TaskSize(2_309, 297, 36, 138),
    "tiny": TaskSize(80, 40, 12, 20),
}
"""Sizes of the tasks in BERT's word pieces; `tiny` stands for any task whose data is made or cut in the store."""
UNKNOWN_TASK = TaskSize(1_000, 200, 40, 90)
CORPUS_TOKENS = {
    "wikitext-103": 114_000_000.0,
    "wikitext-2": 2_400_000.0,
    "wikipedia": 4_500_000_000.0,
    "pydocs": 900_000.0,
    "tiny": 35_000.0,
}
"""Word pieces in one pass over a corpus; of files by their size, and other corpora are assumed to have 10 million."""
_OTHER_CORPUS, _VALIDATION_TOKENS, _BYTES_A_TOKEN = 1e7, 250_000.0, 4.5


class ModelSize(NamedTuple):
    """Number of layers, hidden size, heads per layer, vocabulary size and number of parameters of a model."""

    layers: int
    width: int
    heads: int
    words: int
    parameters: int

    @property
    def encoder(self) -> int:
        """Return the number of multiplications per token in the matrices of the layers."""
        return 12 * self.layers * self.width**2

    @property
    def all_heads(self) -> int:
        return self.layers * self.heads


MODEL_SIZES = {
    "minilm": ModelSize(6, 384, 12, 30_522, 22_713_216),
    "distil": ModelSize(6, 768, 12, 50_265, 82_118_400),
    "roberta-base": ModelSize(12, 768, 12, 50_265, 124_645_632),
    "base": ModelSize(12, 768, 12, 30_522, 109_482_240),
    "large": ModelSize(24, 1024, 16, 30_522, 335_141_888),
    "tiny": ModelSize(2, 32, 4, 60, 36_000),
}
"""Sizes of models by a part of their name, of which the first match counts; a local folder has a config.json."""

MACHINE = "two x86-64 cores without a GPU"
STEP_SECONDS = 1.05
"""Seconds per fine-tuning step of MiniLM on 16 x 128 tokens on two cores, on the slower of two machines; the other one
needs 0.81 (docs/results/speed/hold_step.json)."""
_SCORE_SECONDS = 1e-8  # time in a training step for one attention score; a head has one score per pair of tokens
_TOKEN_SECONDS = (STEP_SECONDS / (16 * 128) - 128 * MODEL_SIZES["minilm"].all_heads * _SCORE_SECONDS) / MODEL_SIZES[
    "minilm"
].encoder
_FORWARD = 1 / 3  # share of the forward pass in a step
_FIXED_SECONDS, _TINY_SECONDS = 5.0, 0.2  # fixed time of a run, and of a run with a tiny model
_LEAST_SECONDS = 0.008  # least time of a step, however small the model is
RESULT_BYTES = 5_000  # settings, results and provenance of a run
_TICKET_BYTES = 6_000  # description of a ticket, and names and offsets of its masks
_TRAINING_BYTES = 5_000  # settings, results and provenance of one training inside a run
_LINE_BYTES = 115  # line of a step in metrics.jsonl
_EVALUATION_BYTES = 350
WEIGHT_BYTES = 4
STATE_BYTES = 3 * WEIGHT_BYTES  # per parameter of a checkpoint: the weight and two optimizer moments


@dataclass(frozen=True)
class Cost:
    """What a run costs."""

    tokens: float = 0.0  # tokens trained on, with padding; tokens of a forward pass alone count a third
    steps: float = 0.0  # optimizer steps
    log_bytes: float = 0.0
    weight_bytes: float = 0.0  # models, states, tickets, heads and importances that are kept
    trainings: int = 0
    pairs: float = 0.0  # tokens times the length of their segments: pairs that have an attention score in each head

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __mul__(self, count: float) -> Cost:
        return Cost(
            self.tokens * count,
            self.steps * count,
            self.log_bytes * count,
            self.weight_bytes * count,
            round(self.trainings * count),
            self.pairs * count,
        )

    @property
    def bytes(self) -> float:
        return self.log_bytes + self.weight_bytes + _TRAINING_BYTES * self.trainings


def cost_of(settings: Settings, model: ModelSize, data: TaskSize | None = None) -> Cost:
    """Return the cost of a run, at most: early stopping lowers it; `data` is the size of a task's data, if known."""
    if isinstance(settings, SearchConfig):
        return _search(settings, model)
    if isinstance(settings, TransferConfig):
        return _fine_tuning(settings, model, data)
    if isinstance(settings, ShareConfig):
        return _sharing(settings, model)
    if isinstance(settings, SuperConfig):
        return _super(settings, model)
    if isinstance(settings, FitHeadConfig):
        trained = settings.steps * settings.batch_tokens * (1.0 if settings.train_encoder else _FORWARD)
        pairs = trained * _longest(settings.segments)
        return Cost(trained, settings.steps, settings.steps * _LINE_BYTES, WEIGHT_BYTES * model.parameters, 1, pairs)
    if isinstance(settings, EvaluateConfig):
        passes = len(settings.objectives) + sum(name in TEACHER_NAMES for name in settings.objectives)
        read = _FORWARD * passes * float(settings.max_tokens or _VALIDATION_TOKENS)
        return Cost(read, pairs=read * _longest(settings.segments))
    return Cost()


def _search(settings: SearchConfig, model: ModelSize) -> Cost:
    config = settings.resolved()
    masks = len(config.rungs) + len(config.save_at if isinstance(config, ScoreTraining) else ())
    kept = masks * (_TICKET_BYTES + (0.0 if isinstance(config, UnitSearch) else model.parameters / 8))
    if isinstance(config, ScoreTraining):
        teacher = _FORWARD * any(name in TEACHER_NAMES for name in config.terms)
        tokens = config.total_steps * config.batch_tokens * (1 + teacher)
        heads = masks * _head_bytes(model) if "mlm" in config.terms else 0
        pairs = tokens * _longest(config.segments)
        return Cost(tokens, config.total_steps, config.total_steps * _LINE_BYTES, kept + heads, 1, pairs)
    if isinstance(config, SourceSearch):
        steps, per_step, pairs = _source_steps(config)
        if isinstance(config, ImpSearch):
            states = (len(config.rungs) if config.save_trained else 0) + config.rewind.startswith(("step", "percent"))
            kept += states * WEIGHT_BYTES * model.parameters
        return Cost(steps * per_step, steps, steps * _LINE_BYTES, kept, 1, steps * pairs)
    if isinstance(config, ImportanceSearch) and config.selection != "random":
        return _importance(config, model) + Cost(weight_bytes=kept)
    if isinstance(config, CalibratedSearch):
        return Cost(_FORWARD * config.calibration_batches * config.batch_tokens, 0, 0, kept)
    return Cost(weight_bytes=kept)


def _head_bytes(model: ModelSize) -> int:
    """Return the bytes of an MLM head without its decoder, as it is saved beside a ticket."""
    return WEIGHT_BYTES * (model.width**2 + 3 * model.width + model.words)


def _source_steps(config: SourceSearch) -> tuple[float, float, float]:
    """Return the total optimizer steps of imp, snip or movement, and the tokens and pairs of tokens of a step."""
    # For each source: examples per step, tokens per step, and steps per pass.
    sources: list[tuple[float, float, float]] = []
    if config.text_terms:
        room = _longest(config.segments)
        segments = _subset(_corpus_tokens(config.corpus) / room, config.train_size)
        taught = 1 + _FORWARD * any(name in TEACHER_NAMES for name in config.terms)
        of_a_pass = segments * room / config.batch_tokens
        sources.append((config.batch_tokens / room, config.batch_tokens * taught, of_a_pass))
    for name in config.tasks if "task" in config.terms else ():
        task = TASKS.get(name)
        batch = config.batch_size or (task.batch_size if task else 32)
        data = _data_of(config, name)
        limit = config.max_length or (task.max_length if task else 128)
        length = _length(data, limit, grouped=config.group_by_length)
        sources.append((batch, batch * length, _subset(data.train, config.train_size) / batch))
    sources = sources or [(1.0, float(config.batch_tokens), 1.0)]
    together = sum if config.mixing == "sum" else statistics.fmean
    per_step = float(together([tokens for _, tokens, _ in sources]))
    pairs = float(together([tokens * tokens / examples for examples, tokens, _ in sources]))
    if not isinstance(config, ImpSearch):
        return float(config.source_steps or 0), per_step, pairs
    # The length of a round of imp is given in steps, examples or passes.
    passes = max((TASKS[name].epochs for name in config.tasks if name in TASKS), default=1)
    if config.round_steps is not None:
        steps = float(config.round_steps)
    elif config.round_examples is not None:
        steps = config.round_examples / float(together([examples for examples, _, _ in sources]))
    else:
        longest = (max if config.mixing == "sum" else sum)(of_a_pass for *_, of_a_pass in sources)
        steps = math.ceil(float(config.round_epochs or passes) * longest)
    return steps * (len(config.sparsities) - bool(config.prune_first)), per_step, pairs


def _importance(config: ImportanceSearch, model: ModelSize) -> Cost:
    """Return the cost of one pass over the training set, or of some batches of text.

    The signed importances of every example are kept.
    """
    gates = model.layers * (model.heads + 2) * WEIGHT_BYTES
    if config.importance_from is None:
        tokens = float(config.steps * config.batch_tokens)
        return Cost(tokens, 0, 0, gates * tokens / 128)
    data = _data_of(config, _task_in(config.importance_from))
    examples = _subset(data.train, config.train_size)
    return Cost(2 * _FORWARD * examples * _length(data, 512), 0, 0, gates * examples)


def _longest(segments: str) -> int:
    """Return the tokens of the longest segment of a form such as `packed:512` or `mixed:10-128`."""
    return int((re.findall(r"\d+", segments) or ["128"])[-1])


def _task_in(reference: str) -> str | None:
    """Return the task in the id of a transfer, such as `@transfer-rte-s0-...`."""
    return next((part for part in re.split(r"[-/]", reference) if part in TASKS), None)


def _data_of(settings: TextSearch | TransferConfig | ShareConfig, task: str | None) -> TaskSize:
    """Return the size of a task's data; for a local folder, the examples in its files are counted."""
    if _is_made(settings.data_dir):
        return TASK_SIZES["tiny"]
    size = TASK_SIZES.get(str(task), UNKNOWN_TASK)
    return size._replace(**_counted(str(task), settings.data_dir)) if task in LAYOUTS and settings.data_dir else size


@functools.lru_cache
def _counted(task: str, data_dir: str) -> dict[str, int]:
    """Return the numbers of examples in a task's files in a local folder; empty if the run will refuse the folder."""
    try:
        rows = count_rows(TASKS[task], Path(data_dir))
    except UsageError:
        return {}
    counted = {"train": rows.pop("train", 0), "validation": sum(rows.values())}
    return {part: count for part, count in counted.items() if count}


def _is_made(data: str | None) -> bool:
    """Return whether a corpus or data set is made in the store: `tiny:NAME` in a plan, its folder in a stored run."""
    return data is not None and (data.startswith("tiny:") or Path(data).parent.name == "tiny")


def _length(size: TaskSize, limit: float, padded: bool = False, grouped: bool = False) -> float:
    """Return the tokens per example of a batch that is padded to its longest example, or to `limit` if `padded`.

    With `grouped`, examples of similar length share a batch, so almost no padding is needed.
    """
    return limit if padded else min(size.mean if grouped else size.longest, limit)


def _corpus_tokens(corpus: str | None) -> float:
    name = "tiny" if _is_made(corpus) else str(corpus).split(":")[0]
    return CORPUS_TOKENS.get(name) or _bytes_of(Path(name)) / _BYTES_A_TOKEN or _OTHER_CORPUS


def _bytes_of(path: Path) -> int:
    """Return the bytes of a text file, or of the text files in a folder; 0 for names of data sets."""
    try:
        files = [path] if path.is_file() else path.glob("*") if path.is_dir() else []
        return sum(one.stat().st_size for one in files if one.suffix in TEXT_SUFFIXES or one == path)
    except (OSError, ValueError):  # too long for a file name
        return 0


def _subset(every: float, asked: str | None) -> float:
    """Return the number of examples that `--train-size` leaves."""
    if asked is None:
        return every
    number, percent = parse_size(asked)
    return max(1.0, every * float(number) / 100) if percent else min(every, float(number))


def _fine_tuning(settings: TransferConfig, model: ModelSize, data: TaskSize | None = None) -> Cost:
    """Return the cost of all seeds and candidates."""
    total = Cost()
    for candidate in settings.candidates().values():
        total += _one_fine_tuning(candidate, model, data)
    return total


def _one_fine_tuning(settings: TransferConfig, model: ModelSize, data: TaskSize | None) -> Cost:
    config, task = settings.resolved(), (TASKS | TEXT_TASKS).get(str(settings.task))
    is_text = config.task in TEXT_TASKS
    data = data or _data_of(config, config.task)
    batch = config.batch_size or (task.batch_size if task else 32)
    limit = config.max_length or (task.max_length if task else 128)
    if is_text:
        every = _subset(_corpus_tokens(config.corpus) / limit, config.train_size)
        measured = float(config.max_tokens or min(_VALIDATION_TOKENS, _corpus_tokens(config.corpus) / 4))
    else:
        every, measured = _subset(data.train, config.train_size), _validation(data, limit)
    per_epoch = math.ceil(every / batch)
    steps = config.steps or math.ceil(float(config.epochs or (task.epochs if task else 3)) * per_epoch)
    length = _length(data, limit, config.padding == "max-length" or is_text, config.group_by_length)
    passes = _passes(config.smart) + _FORWARD * (config.teacher is not None)
    evaluations = _evaluations(config.patience, config.eval_steps, task, steps, per_epoch)
    if config.evaluate_each_epoch and not config.patience and config.eval_steps != "epoch":
        evaluations += steps // per_epoch
    one = _training(steps, steps * batch * length * passes, evaluations, measured, length)
    return (one + Cost(weight_bytes=WEIGHT_BYTES * model.parameters * config.save_model)) * len(config.seeds)


def _passes(smart: Smart | None) -> float:
    """Return how many times a step trains on its batch."""
    # SMART runs the model one more time for the outputs, and one time for each step of its ascent.
    return 1.0 if smart is None or not smart.alpha else 2.0 + smart.steps


def _evaluations(
    patience: int | None, eval_steps: int | str | None, task: Task | None, steps: float, per_epoch: int
) -> float:
    every = eval_steps or ("epoch" if patience else task.eval_steps if task else 50)
    return steps // (per_epoch if isinstance(every, str) else every) + 1


def _validation(data: TaskSize, limit: float) -> float:
    """Return the tokens of an evaluation, whose batches have examples of similar length."""
    return data.validation * _length(data, limit, grouped=True)


def _training(steps: float, tokens: float, evaluations: float, measured: float, length: float) -> Cost:
    logs = steps * _LINE_BYTES + evaluations * _EVALUATION_BYTES
    tokens += _FORWARD * evaluations * measured
    return Cost(tokens, steps, logs, 0, 1, tokens * length)


def _sharing(settings: ShareConfig, model: ModelSize) -> Cost:
    config, total = settings.resolved(), Cost()
    batches = {}
    for name in config.tasks:
        task = TASKS.get(name)
        batches[name] = _subset(_data_of(config, name).train, config.train_size) / (
            config.batch_size or (task.batch_size if task else 32)
        )
    epochs = float(config.epochs)
    per_epoch = sum(batches.values())
    steps = config.steps or math.ceil(epochs * per_epoch)
    for name, count in batches.items():
        task = TASKS.get(name)
        limit = config.max_length or (task.max_length if task else 128)
        batch = config.batch_size or (task.batch_size if task else 32)
        own = steps * count / per_epoch
        data = _data_of(config, name)
        length = _length(data, limit, grouped=config.group_by_length)
        tokens = own * batch * length * _passes(config.smart)
        total += _training(own, tokens, steps // per_epoch + 1, _validation(data, limit), length)
    total += Cost(weight_bytes=WEIGHT_BYTES * model.parameters * config.save_model)
    total *= len(config.seeds)
    # Further trainings of a sharing that finds its own tickets, or fine-tunes afterwards.
    for name in config.tasks:
        alone = config.alone("", name, None).model_copy(update={"seeds": (0,)})
        count = (config.tickets == AUTO and config.level_of(name) > 0) + len(config.seeds) * config.fine_tune
        total += _fine_tuning(alone, model) * count
    return total


def _super(settings: SuperConfig, model: ModelSize) -> Cost:
    config = settings.resolved()
    points = 1 + len(config.level) * len(config.selections)
    total = Cost()
    for _, fine_tuning in config.grid():
        total += _fine_tuning(fine_tuning, model) * points
    # One more training makes the model for the importances, which are kept; losing tickets have a copy of them.
    found = ImportanceSearch.of(
        model="", level=written_levels(config.level),
        importance_from=f"-{config.fine_tuning.task}-",
        train_size=config.importance_train_size, data_dir=config.fine_tuning.data_dir,
    )  # fmt: skip
    scores = _importance(found.resolved(), model)
    total += scores + Cost(weight_bytes=scores.weight_bytes * ("losing" in config.selections))
    total += Cost(weight_bytes=_TICKET_BYTES * len(config.level) * len(config.selections))
    if config.recover:
        tickets = [len(config.fine_tuning.seeds) if one == "random" else 1 for one in config.selections]
        length = _data_of(config.fine_tuning, config.fine_tuning.task).mean
        total += _recovery(config.recover, length, model) * (len(config.level) * sum(tickets))
    if config.importance_from is None:
        single = next(config.grid())[1].model_copy(update={"seeds": config.fine_tuning.seeds[:1], "save_model": True})
        total += _fine_tuning(single, model)
    return total


def _recovery(steps: int, length: float, model: ModelSize) -> Cost:
    """Return the cost of training the encoder of one ticket to follow the dense encoder, on texts of a length."""
    tokens = steps * ShrinkConfig.model_fields["batch_tokens"].default * (1 + _FORWARD)
    return Cost(tokens, steps, steps * _LINE_BYTES, WEIGHT_BYTES * model.parameters, 1, tokens * length)


def size_of(name: str) -> ModelSize:
    """Return the approximate size of a model by its name or folder; an unknown model counts as BERT-base."""
    try:
        config = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
        layers, width, words = (int(config[key]) for key in ("num_hidden_layers", "hidden_size", "vocab_size"))
        heads = int(config.get("num_attention_heads", 12))
        return ModelSize(layers, width, heads, words, words * width + 12 * layers * width**2)
    except (OSError, ValueError, KeyError, TypeError):  # no local folder, or one that the run will refuse
        return next((size for part, size in MODEL_SIZES.items() if part in name.lower()), MODEL_SIZES["base"])


def seconds_of(cost: Cost, model: ModelSize) -> float:
    """Return the estimated seconds of a run on `MACHINE`."""
    fixed = _TINY_SECONDS if model == MODEL_SIZES["tiny"] else _FIXED_SECONDS
    matrices, scores = _TOKEN_SECONDS * model.encoder, _SCORE_SECONDS * model.all_heads
    return fixed + cost.steps * _LEAST_SECONDS + cost.tokens * matrices + cost.pairs * scores


def bytes_text(count: float) -> str:
    """Return a number of bytes as text, such as `12 kB`, `3.4 MB` or `1.2 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
