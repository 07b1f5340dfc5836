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
from winning_tickets.data.glue import LAYOUTS, count_rows, files_of
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


MODEL_SIZES = {
    "minilm": ModelSize(6, 384, 12, 30_522, 22_713_216),
    "distil": ModelSize(6, 768, 12, 50_265, 82_118_400),
    "roberta-base": ModelSize(12, 768, 12, 50_265, 124_645_632),
    "base": ModelSize(12, 768, 12, 30_522, 109_482_240),
    "large": ModelSize(24, 1024, 16, 30_522, 335_141_888),
    "tiny": ModelSize(2, 32, 4, 60, 36_000),
}
"""Sizes of models by a part of their name, of which the first match counts; a local folder has a config.json."""


class Device(NamedTuple):
    """A device in words, its published peaks in FLOP/s, the share of them that training reaches, and least times."""

    words: str
    peak: float  # of the precision that a run has by default: TF32 on GPUs that have it
    bf16_peak: float
    utilization: float
    layer_seconds: float  # least time of a layer in a training step, however little there is to compute


# Peaks without sparsity, from NVIDIA's data sheets: V100 SXM2 (FP32, as it has neither TF32 nor bfloat16), A100 SXM and
# H100 SXM (TF32 and bfloat16). The CPU is two cores with AVX-512 at 2.6 GHz, 64 operations a cycle and core, of which a
# step of MiniLM on 16 x 128 tokens reaches 0.55 in 0.75 s, the middle of docs/results/speed. The utilization and the
# least times of GPUs are those of steps that were measured on an H200 (docs/how_to/run_a_study.md).
DEVICES = {
    "cpu": Device("two x86-64 cores without a GPU", 3.3e11, 3.3e11, 0.55, 0.0013),
    "v100": Device("one V100", 1.57e13, 1.57e13, 0.6, 0.004),
    "a100": Device("one A100", 1.56e14, 3.12e14, 0.3, 0.003),
    "h100": Device("one H100", 4.95e14, 9.89e14, 0.3, 0.002),
}
_NEURON_SIZES = 12  # numbers of neurons of a layer whose losses `shrink` measures (`GRID` of deploy/costs.py)
_FORWARD = 1 / 3  # share of the forward pass in a step
_FIXED_SECONDS, _TINY_SECONDS = 5.0, 0.2  # fixed time of a run, and of a run with a tiny model
RESULT_BYTES = 5_000  # settings, results and provenance of a run, and of one training inside a run
_TICKET_BYTES = 6_000  # description of a ticket, and names and offsets of its masks
_LINE_BYTES, _EVALUATION_BYTES = 115, 350  # of a step in metrics.jsonl, and of an evaluation
WEIGHT_BYTES = 4
STATE_BYTES = 3 * WEIGHT_BYTES  # per parameter of a checkpoint: the weight and two optimizer moments


class Cost(NamedTuple):
    """What a run costs."""

    tokens: float = 0.0  # tokens trained on, with padding; tokens of a forward pass alone count a third
    pairs: float = 0.0  # tokens times the length of their segments, as attention compares all tokens of a segment
    steps: float = 0.0  # optimizer steps
    bytes: float = 0.0  # models, states, tickets, heads, importances, logs and results that are kept
    trainings: float = 0.0

    def plus(self, *others: Cost) -> Cost:
        return Cost(*map(sum, zip(self, *others, strict=True)))

    def times(self, count: float) -> Cost:
        return Cost(*(count * one for one in self))


def flops_of(cost: Cost, model: ModelSize) -> float:
    """Return the operations: 6 for each weight of the layers and token, and those of the attention scores."""
    return 6 * model.encoder * cost.tokens + 12 * model.layers * model.width * cost.pairs


@dataclass(frozen=True)
class Speed:
    """A device and precision, or the tokens per second that the user measured."""

    on: str = "cpu"
    bf16: bool = False
    tokens_per_second: float | None = None

    def __post_init__(self) -> None:
        if self.on not in DEVICES:
            raise UsageError(f"--on {self.on} is not a known device; known are {', '.join(DEVICES)}.")

    @property
    def words(self) -> str:
        if self.tokens_per_second is not None:
            return f"a device with {self.tokens_per_second:,.0f} tokens per second"
        return DEVICES[self.on].words + (" in bf16" if self.bf16 else "")

    def seconds(self, cost: Cost, model: ModelSize) -> float:
        """Return the estimated seconds of a run."""
        if self.tokens_per_second is not None:
            return cost.tokens / self.tokens_per_second
        device = DEVICES[self.on]
        fixed = _TINY_SECONDS if model == MODEL_SIZES["tiny"] else _FIXED_SECONDS
        speed = device.utilization * (device.bf16_peak if self.bf16 else device.peak)
        return fixed + cost.steps * model.layers * device.layer_seconds + flops_of(cost, model) / speed


CPU = Speed()


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
        tokens = settings.steps * settings.batch_tokens * (1.0 if settings.train_encoder else _FORWARD)
        return _trained(settings.steps, tokens, _longest(settings.segments), WEIGHT_BYTES * model.parameters)
    if isinstance(settings, EvaluateConfig):
        passes = len(settings.objectives) + sum(name in TEACHER_NAMES for name in settings.objectives)
        read = _FORWARD * passes * float(settings.max_tokens or _VALIDATION_TOKENS)
        return Cost(read, read * _longest(settings.segments))
    if isinstance(settings, ShrinkConfig):
        return _shrink(settings, model)
    return Cost()


def _shrink(config: ShrinkConfig, model: ModelSize) -> Cost:
    """Return the cost of importances, of losses of smaller layers, and of the recovery of each small model.

    A recovery that only `minutes` limit has no steps to count.
    """
    length = _longest(config.segments or "128")
    tokens, total = float(config.batch_tokens), Cost()
    if config.choice == "importance":
        # Each loss computes the layers from the changed one on: half of them on average.
        losses = config.removal_batches * model.layers * (model.heads + _NEURON_SIZES) * _FORWARD / 2
        read = tokens * (config.importance_batches + losses)
        total = Cost(read, read * length)
    for share in config.budgets.values():
        read = tokens * (_FORWARD + share)  # the dense model is the teacher
        one = _trained(config.most_steps or 0, read * (config.most_steps or 0), length, WEIGHT_BYTES * model.parameters)
        total = total.plus(one)
    return total


def _trained(steps: float, tokens: float, length: float, kept: float = 0, *, evaluations: float = 0) -> Cost:
    """Return the cost of one training on tokens in segments of a length; `kept` are the bytes of what it saves."""
    logs = steps * _LINE_BYTES + evaluations * _EVALUATION_BYTES
    return Cost(tokens, tokens * length, steps, logs + kept + RESULT_BYTES, 1)


def _search(settings: SearchConfig, model: ModelSize) -> Cost:
    config = settings.resolved()
    masks = len(config.rungs) + len(config.save_at if isinstance(config, ScoreTraining) else ())
    kept = masks * (_TICKET_BYTES + (0.0 if isinstance(config, UnitSearch) else model.parameters / 8))
    if isinstance(config, ScoreTraining):
        teacher = _FORWARD * any(name in TEACHER_NAMES for name in config.terms)
        if "mlm" in config.terms:  # its head is saved, without the decoder
            kept += masks * WEIGHT_BYTES * (model.width**2 + 3 * model.width + model.words)
        tokens = config.total_steps * config.batch_tokens * (1 + teacher)
        return _trained(config.total_steps, tokens, _longest(config.segments), kept)
    if isinstance(config, SourceSearch):
        if isinstance(config, ImpSearch):
            states = (len(config.rungs) if config.save_trained else 0) + config.rewind.startswith(("step", "percent"))
            kept += states * WEIGHT_BYTES * model.parameters
        return _from_sources(config, kept)
    if isinstance(config, ImportanceSearch) and config.selection != "random":
        return _importance(config, model).plus(Cost(bytes=kept))
    if isinstance(config, CalibratedSearch):
        return Cost(_FORWARD * config.calibration_batches * config.batch_tokens, bytes=kept)
    return Cost(bytes=kept)


def _from_sources(config: SourceSearch, kept: float) -> Cost:
    """Return the cost of imp, snip or movement, which learn from text, tasks or both."""
    # For each source: examples per step, tokens per step, and steps per pass.
    sources: list[tuple[float, float, float]] = []
    if config.text_terms:
        room = _longest(config.segments)
        segments = _subset(_corpus_tokens(config.corpus) / room, config.train_size)
        taught = 1 + _FORWARD * any(name in TEACHER_NAMES for name in config.terms)
        of_a_pass = segments * room / config.batch_tokens
        sources.append((config.batch_tokens / room, config.batch_tokens * taught, of_a_pass))
    for name in config.tasks if "task" in config.terms else ():
        batch, limit = _batch(config, name)
        data = _data_of(config, name)
        length = _length(data, limit, grouped=config.group_by_length)
        sources.append((batch, batch * length, _subset(data.train, config.train_size) / batch))
    sources = sources or [(1.0, float(config.batch_tokens), 1.0)]
    together = sum if config.mixing == "sum" else statistics.fmean
    tokens = float(together([tokens for _, tokens, _ in sources]))
    length = float(together([tokens * tokens / examples for examples, tokens, _ in sources])) / tokens
    if not isinstance(config, ImpSearch):
        steps = float(config.source_steps or 0)
        return _trained(steps, steps * tokens, length, kept)
    # The length of a round of imp is given in steps, examples or passes.
    if config.round_steps is not None:
        steps = float(config.round_steps)
    elif config.round_examples is not None:
        steps = config.round_examples / float(together([examples for examples, _, _ in sources]))
    else:
        passes = max((TASKS[name].epochs for name in config.tasks if name in TASKS), default=1)
        longest = (max if config.mixing == "sum" else sum)(of_a_pass for *_, of_a_pass in sources)
        steps = math.ceil(float(config.round_epochs or passes) * longest)
    steps *= len(config.sparsities) - bool(config.prune_first)
    return _trained(steps, steps * tokens, length, kept)


def _importance(config: ImportanceSearch, model: ModelSize) -> Cost:
    """Return the cost of a pass over the training set, or of some batches of text; importances of examples are kept."""
    gates = model.layers * (model.heads + 2) * WEIGHT_BYTES
    if config.importance_from is None:
        tokens = float(config.steps * config.batch_tokens)
        return Cost(tokens, bytes=gates * tokens / 128)
    task = next((part for part in re.split(r"[-/]", config.importance_from) if part in TASKS), None)
    data = _data_of(config, task)
    examples = _subset(data.train, config.train_size)
    return Cost(2 * _FORWARD * examples * _length(data, 512), bytes=gates * examples)


def _longest(segments: str) -> int:
    """Return the tokens of the longest segment of a form such as `packed:512` or `mixed:10-128`."""
    return int((re.findall(r"\d+", segments) or ["128"])[-1])


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
        rows = count_rows(TASKS[task], files_of(TASKS[task], Path(data_dir)))
    except UsageError:
        return {}
    counted = {"train": rows.pop("train", 0), "validation": sum(rows.values())}
    return {part: count for part, count in counted.items() if count}


def _is_made(data: str | None) -> bool:
    """Return whether a corpus or data set is made in the store: `tiny:NAME` in a plan, its folder in a stored run."""
    return data is not None and (data.startswith("tiny:") or Path(data).parent.name == "tiny")


def _length(size: TaskSize, limit: float, *, padded: bool = False, grouped: bool = False) -> float:
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


def _batch(config: SourceSearch | TransferConfig, name: str | None) -> tuple[int, int]:
    """Return the examples of a batch of a task, and the most tokens of an example."""
    task = (TASKS | TEXT_TASKS).get(str(name))
    return config.batch_size or (task.batch_size if task else 32), config.max_length or (
        task.max_length if task else 128
    )


def _fine_tuning(settings: TransferConfig, model: ModelSize, data: TaskSize | None = None) -> Cost:
    """Return the cost of all seeds and candidates."""
    return Cost().plus(*(_one_fine_tuning(candidate, model, data) for candidate in settings.candidates().values()))


def _one_fine_tuning(settings: TransferConfig, model: ModelSize, data: TaskSize | None) -> Cost:
    config, task = settings.resolved(), (TASKS | TEXT_TASKS).get(str(settings.task))
    is_text = config.task in TEXT_TASKS
    data = data or _data_of(config, config.task)
    batch, limit = _batch(config, config.task)
    length = _length(data, limit, padded=config.padding == "max-length" or is_text, grouped=config.group_by_length)
    if is_text:
        every = _subset(_corpus_tokens(config.corpus) / limit, config.train_size)
        measured = float(config.max_tokens or min(_VALIDATION_TOKENS, _corpus_tokens(config.corpus) / 4))
    else:  # an evaluation has examples of similar lengths in a batch
        every, measured = _subset(data.train, config.train_size), data.validation * _length(data, limit, grouped=True)
    per_epoch = math.ceil(every / batch)
    steps = config.steps or math.ceil(float(config.epochs or (task.epochs if task else 3)) * per_epoch)
    # SMART runs the model one more time for the outputs, and one time for each step of its ascent.
    passes = 1.0 if config.smart is None or not config.smart.alpha else 2.0 + config.smart.steps
    passes += _FORWARD * (config.teacher is not None)
    rhythm = config.eval_steps or ("epoch" if config.patience else task.eval_steps if task else 50)
    evaluations = steps // (per_epoch if isinstance(rhythm, str) else rhythm) + 1
    if config.evaluate_each_epoch and not isinstance(rhythm, str):
        evaluations += steps // per_epoch
    tokens = steps * batch * length * passes + _FORWARD * evaluations * measured
    kept = WEIGHT_BYTES * model.parameters * config.save_model
    return _trained(steps, tokens, length, kept, evaluations=evaluations).times(len(config.seeds))


def _sharing(settings: ShareConfig, model: ModelSize) -> Cost:
    config, kept = settings.resolved(), WEIGHT_BYTES * model.parameters * settings.resolved().save_model
    once = {"seeds": (0,), "teacher": None}
    alone = [config.alone("", name, None).model_copy(update=once) for name in config.tasks]
    # The sharing trains as many epochs of each task as if it were alone, with an evaluation after each epoch.
    as_shared = {"save_model": False, "patience": None, "eval_steps": "epoch", "steps": None}
    epoch = Cost().plus(*(_fine_tuning(one.model_copy(update=as_shared | {"epochs": 1}), model) for one in alone))
    epochs = config.steps / epoch.steps if config.steps else float(config.epochs)
    shared = [_fine_tuning(one.model_copy(update=as_shared | {"epochs": epochs}), model) for one in alone]
    steps = config.steps or math.ceil(epochs * epoch.steps)
    total = Cost(bytes=kept).plus(*shared)._replace(steps=steps, trainings=1).times(len(config.seeds))
    # Further trainings of a sharing that finds its own tickets, or fine-tunes afterwards.
    for name, one in zip(config.tasks, alone, strict=True):
        count = (config.tickets == AUTO and config.level_of(name) > 0) + len(config.seeds) * config.fine_tune
        total = total.plus(_fine_tuning(one, model).times(count))
    return total


def _super(settings: SuperConfig, model: ModelSize) -> Cost:
    config = settings.resolved()
    tuning, levels, selections = config.fine_tuning, len(config.level), config.selections
    trainings = [_fine_tuning(one, model).times(1 + levels * len(selections)) for _, one in config.grid()]
    # One more training makes the model for the importances, which are kept; losing tickets have a copy of them.
    found = ImportanceSearch.of(
        model="", level=written_levels(config.level), importance_from=f"-{tuning.task}-",
        train_size=config.importance_train_size, data_dir=tuning.data_dir,
    )  # fmt: skip
    scores = _importance(found.resolved(), model)
    kept = scores.bytes * ("losing" in selections) + _TICKET_BYTES * levels * len(selections)
    total = scores.plus(Cost(bytes=kept), *trainings)
    if config.recover:  # the encoder of each ticket is trained to follow the dense encoder
        tickets = levels * sum(len(tuning.seeds) if one == "random" else 1 for one in selections)
        tokens = config.recover * ShrinkConfig.model_fields["batch_tokens"].default * (1 + _FORWARD)
        length = _data_of(tuning, tuning.task).mean
        one = _trained(config.recover, tokens, length, WEIGHT_BYTES * model.parameters)
        total = total.plus(one.times(tickets))
    if config.importance_from is None:
        single = next(config.grid())[1].model_copy(update={"seeds": tuning.seeds[:1], "save_model": True})
        total = total.plus(_fine_tuning(single, model))
    return total


def size_of(name: str) -> ModelSize:
    """Return the approximate size of a model by its name or folder; an unknown model counts as BERT-base."""
    try:
        config = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
        layers, width, words = (int(config[key]) for key in ("num_hidden_layers", "hidden_size", "vocab_size"))
        heads = int(config.get("num_attention_heads", 12))
        return ModelSize(layers, width, heads, words, words * width + 12 * layers * width**2)
    except (OSError, ValueError, KeyError, TypeError):  # no local folder, or one that the run will refuse
        return next((size for part, size in MODEL_SIZES.items() if part in name.lower()), MODEL_SIZES["base"])


def bytes_text(count: float) -> str:
    """Return a number of bytes as text, such as `12 kB`, `3.4 MB` or `1.2 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
