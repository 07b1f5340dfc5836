"""Configurations of fine-tuning on a task, of fitting an MLM head, and of an evaluation without fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from winning_tickets.config.profiles import Profile
from winning_tickets.config.settings import (
    CORPORA,
    GROUPING_MEANING,
    PROFILE_MEANING,
    Count,
    LabeledKind,
    Open,
    Seed,
    Settings,
    Share,
    Size,
    as_fraction,
    impossible,
    setting,
)
from winning_tickets.config.weights import PRETRAINED
from winning_tickets.runs.errors import shown

MODEL = "Model and data"
FILES = "Your own files"
SMART = "Adversarial regularization (SMART)"

_model = partial(setting, panel=MODEL)
_files = partial(setting, panel=FILES)
_tune = partial(setting, panel="Fine-tuning")
_evaluate = partial(setting, panel="Evaluation and results")
_teach = partial(setting, panel="Teacher")
_smart = partial(setting, panel=SMART)


def _one_or_more(read: Callable[[Any], Any]) -> BeforeValidator:
    """Return a validator of one value, or of several that one is chosen from; several are sorted, each once."""

    def read_all(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return None if value is None else read(value)
        found = sorted({read(one) for one in value}, key=lambda one: (isinstance(one, str), one))
        if not found:
            raise ValueError("give at least one value")
        return tuple(found) if len(found) > 1 else found[0]

    return BeforeValidator(read_all)


def _number(value: Any) -> float:
    """Return a number, also from text; NaN for anything else."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


def _above_zero(option: str, value: Any) -> float:
    number = _number(value)
    if not 0 < number < math.inf:
        raise impossible(f"{option} {shown(value)} is impossible; it must be above 0.")
    return number


def _dropout(value: Any) -> Any:
    """Return a dropout as a fraction, or `model` unchanged."""
    if value == "model":
        return value
    number = _number(as_fraction(value))
    if not 0 <= number < 1:
        raise impossible(f"--dropout {shown(value)} is impossible; it must be a number from 0 to below 1, or model.")
    return number


def _eval_steps(value: Any) -> Any:
    """Return a number of steps, also from text; return `epoch` and None unchanged."""
    if value is None or value == "epoch":
        return value
    number = _number(value)
    if not number.is_integer() or number < 1:
        raise impossible(f"--eval-steps {shown(value)} is impossible; it must be at least 1, or epoch.")
    return int(number)


EvalSteps = Annotated[Literal["epoch"] | int | None, BeforeValidator(_eval_steps)]
"""Steps between evaluations, or `epoch` for those of an epoch."""
USUAL_PATIENCE = 2  # of `early_stopping`
Dropout = Annotated[Open[Literal["model"] | float], _one_or_more(_dropout)]
"""A dropout, or `model` for the value in the model's configuration."""
Dropouts = Annotated[Literal["model"] | float | tuple[Literal["model"] | float, ...] | None, _one_or_more(_dropout)]
Rates = Annotated[float | tuple[float, ...] | None, _one_or_more(partial(_above_zero, "--learning-rate"))]
Epochs = Annotated[float | tuple[float, ...] | None, _one_or_more(partial(_above_zero, "--epochs"))]
CHOSEN = ("learning_rate", "epochs", "dropout")
"""Fields that may have several values, of which one is chosen on a part of the dev set."""
RATE_MEANING = (
    "Peak learning rate, which decays linearly to zero. By default one that fits the width of the model and the number "
    "of steps (tuned), or the paper's."
)
DROPOUT_MEANING = (
    "Dropout inside the encoder: a number, or model for the value in the model's configuration. By default 0 (tuned) "
    "or model (paper, code)."
)


class Smart(Settings):
    """Settings of SMART, which finds the noise that changes the outputs most (Jiang et al. 2020, Algorithm 1)."""

    alpha: float = _smart(
        1.0,
        "Weight of SMART, an adversarial regularizer. It is off with 0, and without any --smart option.",
        option="--smart",
        ge=0,
    )
    steps: int = _smart(1, "Ascent steps of SMART.", ge=1)
    noise: float = _smart(1e-5, "Standard deviation of the noise that the ascent starts from.", gt=0)
    step_size: float = _smart(1e-3, "Length of an ascent step, in --smart-norm.", gt=0)
    radius: float = _smart(1e-5, "Largest norm that the noise may have.", gt=0)
    norm: Literal["inf", "l2", "l1"] = _smart("inf", "Norm of the noise: inf, l2 or l1.")
    level: Literal["token", "sentence"] = _smart(
        "token", "Part of the noise that --smart-norm measures: that of each token, or of a whole text (sentence)."
    )


_TUNED: dict[str, Any] = {
    "evaluate_each_epoch": True,
    "eval_offset_steps": 0,
    "best_includes_final": True,
    "best_above_zero": False,
    "best_by": "primary",
    "mnli_dev": "matched",
    "padding": "longest",
    "group_by_length": True,
    "dropout": 0.0,
}
_PAPER: dict[str, Any] = _TUNED | {"evaluate_each_epoch": False, "group_by_length": False, "dropout": "model"}
# Values of the released code where it differs from the paper; see docs/explanation/profiles.md.
_CODE: dict[str, Any] = _PAPER | {
    "best_includes_final": False,
    "best_above_zero": True,
    "best_by": "accuracy-or-mean",
    "mnli_dev": "mismatched",
    "padding": "max-length",
}
_CODE_BY_TASK: dict[str, dict[str, Any]] = {"squad": {"eval_offset_steps": 1}}


def transfer_profile(profile: Profile, task: str | None) -> dict[str, Any]:
    """Return the values that a profile gives to fields of a `TransferConfig` that are None, by task."""
    if profile == "code":
        return _CODE | _CODE_BY_TASK.get(task or "", {})
    return _PAPER if profile == "paper" else _TUNED


class TransferConfig(Settings):
    """Configuration of fine-tuning a model or ticket on a task, once for each seed.

    A number that is None takes the default of the task (TAMT Table 1), a choice that is None that of the profile.
    """

    target: str = _model(..., "A ticket, a model (the dense baseline), or a transfer or share with a saved model.")
    base: str | None = _model(None, "Base model of a ticket, if it has moved since the search.")
    revision: str | None = _model(None, "Hub revision of the model.")
    layers: Count | None = _model(None, "Number of layers to keep, from the first. By default all.")
    start_from: str = _model(
        PRETRAINED,
        "Weights of the encoder at the start: pretrained, reinit, shuffle-within, shuffle-encoder, shuffle-layers, "
        "noise:SCALE, a state file, or a folder with Hugging Face weights.",
        everyday=True,
    )
    from_task: str | None = _model(
        None, "Task of a shared model whose head and ticket are used. By default the one with the name of --task."
    )
    fresh_head: bool = _model(False, "Initialize a new head, even if the fine-tuned model has one for all labels.")
    task: str | None = _model(
        None,
        "Task: cola sst2 mrpc stsb qqp mnli qnli rte wnli snli scitail squad pydocs, one of --task-file, "
        "language modeling on the text of --corpus as mlm (masked tokens, encoders) or clm (the next token, decoders), "
        "or a data set of the hub, such as org/name or org/name/config.",
        everyday=True,
    )
    corpus: str | None = _model(None, f"Text for --task mlm or clm: {CORPORA}.", everyday=True)
    task_file: str | None = _model(None, "YAML that defines tasks of your own files.")
    profile: Profile = _tune("tuned", PROFILE_MEANING, everyday=True)
    data_dir: str | None = _model(
        None,
        "Folder with the task's data: a GLUE download (CoLA/ ...), or a copy of the hub's repository.",
        everyday=True,
    )
    train_file: str | None = _files(
        None,
        "Training file: csv, tsv, jsonl, parquet, conll, or the JSON of SQuAD; or a split of a data set of the hub, "
        "such as org/name:train or org/name/config:train.",
        everyday=True,
    )
    validation_file: str | None = _files(None, "Validation file of the same format.", everyday=True)
    text_columns: tuple[str, ...] | None = _files(
        None, "One or two text columns of your files, such as a,b.", everyday=True
    )
    label_column: str = _files("label", "Label column of your files.", everyday=True)
    metric: str | None = _files(None, "Primary metric of your files, such as f1 or macro_f1.", everyday=True)
    kind: LabeledKind | None = _files(
        None,
        "Kind of the labels of your files: classification, regression, multilabel, tokens or span. By default the "
        "files are inspected.",
        everyday=True,
    )
    task_name: str | None = _files(
        None, "Name of the task of your files, which tells it from others in averages and analyses. By default local."
    )
    drop_unlabelled: bool = _files(False, "Leave out rows of your files without a label, instead of refusing them.")
    seeds: tuple[int, ...] = _tune(
        (0,),
        "Seeds of the head, the data order and dropout, such as 0,1,2; one run for each.",
        option="--seeds --seed",
        everyday=True,
    )
    train_size: Size | None = _tune(
        None,
        "N examples or P% of the training set, or of the segments of a text. With one seed, larger subsets contain "
        "smaller ones.",
        everyday=True,
    )
    train_size_seed: Seed | None = _tune(None, "Seed of the subset of --train-size. By default the seed of each run.")
    epochs: Epochs = _tune(
        None, "Passes over the training set. Of several, such as 2,4, one is chosen with --select-on.", everyday=True
    )
    steps: int | None = _tune(None, "Optimizer steps, instead of --epochs.", ge=1, everyday=True)
    batch_size: int | None = _tune(None, "Examples per step.", ge=1, everyday=True)
    learning_rate: Rates = _tune(
        None,
        f"{RATE_MEANING} For a ticket of single weights it is up to twice as high (tuned). Of several, such as "
        "5e-5,1e-4, one is chosen with --select-on.",
        everyday=True,
    )
    settings_from: str | None = _tune(
        None, "A search by tickets super, whose best learning rate and batch size for its super ticket are used."
    )
    warmup_ratio: Share = _tune(0.0, "Fraction of the steps with linear warm-up.", ge=0, le=1)
    weight_decay: float = _tune(0.0, "Weight decay of matrices. Biases and norms never decay.", ge=0)
    optimizer: Literal["adamw", "adamax", "adamax-mtdnn"] = _tune(
        "adamw", "Optimizer: adamw, adamax, or adamax-mtdnn (without bias correction, as for the super tickets)."
    )
    head_dropout: Share | None = _tune(
        None, "Dropout before the head. By default that of the task or model.", ge=0, lt=1
    )
    dropout: Dropouts = _tune(None, f"{DROPOUT_MEANING} Of several, such as 0,model, one is chosen with --select-on.")
    max_length: int | None = _tune(
        None,
        "Maximum tokens of an example, or of a window over a long text; tokens of a segment of text.",
        ge=1,
        everyday=True,
    )
    doc_stride: int | None = _tune(None, "Tokens between the starts of two windows over a long text (squad).", ge=1)
    eval_steps: EvalSteps = _evaluate(
        None,
        "Steps between evaluations, or epoch for one after each epoch. By default those of the task; with --patience "
        "or --early-stopping, epoch.",
    )
    evaluate_each_epoch: Open[bool] = _evaluate(None, "Evaluate at the end of each epoch too.")
    eval_offset_steps: Open[int] = _evaluate(
        None,
        "Evaluate this many steps before each multiple of --eval-steps. The released SQuAD code does so by 1.",
        ge=0,
        option=None,
    )
    best_includes_final: Open[bool] = _evaluate(
        None,
        "The evaluation after the last step can be the best one, even if --eval-steps does not ask for it.",
        option=None,
    )
    best_above_zero: Open[bool] = _evaluate(
        None, "Only scores above 0 can be the best one, as in the released code.", option=None
    )
    best_by: Open[Literal["primary", "accuracy-or-mean"]] = _evaluate(
        None,
        "Score that the best evaluation is chosen by: the primary metric, or the larger of accuracy and its mean with "
        "F1 (accuracy-or-mean, the released code).",
        option=None,
    )
    max_tokens: Count | None = _evaluate(
        None, "Unpadded tokens of held-out text that are measured. By default all, of a stream 250,000."
    )
    mnli_dev: Open[Literal["matched", "mismatched"]] = _evaluate(
        None, "Validation set of MNLI whose accuracy is primary: matched or mismatched.", option=None
    )
    padding: Open[Literal["longest", "max-length"]] = _tune(
        None, "Length that training batches are padded to: the longest example, or --max-length (max-length)."
    )
    group_by_length: Open[bool] = _tune(None, GROUPING_MEANING)
    select_on: Share = _evaluate(
        0.0,
        "Fraction of each validation split on which settings and the best evaluation are chosen; the scores are those "
        "of the rest. An example belongs to it by its texts, so it is the same in all runs. With 0 the best evaluation "
        "is chosen and reported on the full split.",
        ge=0,
        lt=1,
        everyday=True,
    )
    select_on_seed: Seed = _evaluate(0, "Another number gives another fraction of --select-on.")
    early_stopping: bool = _evaluate(
        False, f"Stop early, with a --patience of {USUAL_PATIENCE} if none is given.", option="--early-stopping"
    )
    patience: int | None = _evaluate(
        None,
        "Stop after this many epochs in a row that are worse than the best one, with one evaluation after each epoch; "
        "with --eval-steps, after this many evaluations. An equal score is not worse, and a training never stops "
        "during the warm-up.",
        ge=1,
    )
    teacher: str | None = _teach(
        None,
        "Model fine-tuned on the same task, whose outputs are followed too, such as a transfer of the dense model with "
        "--save-model; with several seeds, the first.",
    )
    teacher_weight: float = _teach(
        1.0, "Weight of each distance from the teacher; the loss on the labels has weight 1.", gt=0
    )
    teacher_states: bool = _teach(
        False, "Follow the hidden states of all layers too, not only the outputs of the head."
    )
    smart: Smart | None = _smart(None, "Adversarial regularization.")
    save_model: bool = _evaluate(False, "Save the fine-tuned model of each seed.", everyday=True)
    allow_other_weights: bool = _model(
        False, "Use the ticket on weights it was not made for, or start from a state of another model."
    )

    @property
    def chosen_fields(self) -> tuple[str, ...]:
        """The fields that have several values, of which one is chosen."""
        return tuple(field for field in CHOSEN if isinstance(getattr(self, field), tuple))

    def candidates(self) -> dict[str, TransferConfig]:
        """Return the fine-tunings to choose from, by a name such as `learning_rate-0.0001`; else one."""
        found = {}
        for values in product(*(getattr(self, field) for field in self.chosen_fields)):
            chosen = dict(zip(self.chosen_fields, values, strict=True))
            found["_".join(f"{field}-{value}" for field, value in chosen.items())] = self.model_copy(update=chosen)
        return found

    def identity(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """Return the fields of a run's identity; examples were once selected by their place, and now by their texts."""
        return super().identity(exclude_defaults=exclude_defaults) | (
            {"selected": "by content"} if self.select_on else {}
        )

    def resolved(self) -> ResolvedTransfer:
        """Return this configuration with the values of its profile where a choice is None."""
        stopping = {"patience": USUAL_PATIENCE} if self.early_stopping else {}
        return self.filled(ResolvedTransfer, transfer_profile(self.profile, self.task) | stopping)


class ResolvedTransfer(TransferConfig):
    """A `TransferConfig` without candidates, in which the profile has filled every choice that was None."""

    if TYPE_CHECKING:
        learning_rate: float | None
        epochs: float | None
        dropout: float | Literal["model"]


WARMUP_RATIO = 0.06  # default fraction of the steps with linear warm-up, for `FitHeadConfig`


_train = partial(setting, panel="Training")
_measure = partial(setting, panel="Measurement")
_harness = partial(setting, panel="Evaluation harness")


class FitHeadConfig(Settings):
    """Configuration of training an MLM head on an encoder that has none."""

    model: str = _model(..., "Hub id, local folder or builtin:minilm; without a trained MLM head.")
    revision: str | None = _model(None, "Hub revision of the model.")
    layers: Count | None = _model(None, "Number of layers to keep, from the first. By default all.")
    corpus: str | None = _model(None, f"Text: {CORPORA}.", everyday=True)
    data_dir: str | None = _model(None, "Folder with the data of a task:NAME corpus.", everyday=True)
    steps: int = _train(1000, "Optimizer steps.", ge=1, everyday=True)
    train_encoder: bool = _train(
        False, "Train the encoder too. Otherwise the encoder does not change, bit for bit.", everyday=True
    )
    batch_tokens: int = _train(2048, "Tokens in an optimizer step.", ge=1, everyday=True)
    segments: str = _model(
        "packed:128", "Segments that the corpus is cut into: packed:L, lines or mixed.", everyday=True
    )
    learning_rate: float = _train(1e-3, "Peak learning rate of the head.", gt=0, everyday=True)
    encoder_learning_rate: float = _train(1e-4, "Peak learning rate of the encoder, where it is trained.", gt=0)
    warmup_steps: int | None = _train(
        None, "Steps of linear warm-up, before a linear decay to zero. By default 6 % of --steps.", ge=0
    )
    weight_decay: float = _train(0.01, "Weight decay of matrices.", ge=0)
    mlm_probability: Share = _train(0.15, "Fraction of the tokens that are masked.", gt=0, lt=1)
    max_tokens: int | None = _train(
        None,
        "Unpadded tokens of the validation part that the result is measured on. By default a twentieth of the tokens "
        "that the training reads, so that measuring takes about a tenth of its time.",
        ge=1,
    )
    eval_steps: int | None = _train(
        None,
        "Optimizer steps between measurements on the validation part, which metrics.jsonl keeps. By default it is "
        "measured before and after the training.",
        ge=1,
    )
    seed: Seed = _train(0, "Seed of the head, the data order and the masking.", everyday=True)

    @property
    def warmup(self) -> int:
        return math.ceil(WARMUP_RATIO * self.steps) if self.warmup_steps is None else self.warmup_steps

    @property
    def measured_tokens(self) -> int:
        return self.max_tokens or max(self.batch_tokens, self.steps * self.batch_tokens // 20)


class EvaluateConfig(Settings):
    """Configuration of an evaluation of a model or ticket without fine-tuning."""

    target: str = _model(..., "A ticket, a model, an export, or a transfer with its model.")
    base: str | None = _model(
        None,
        "Base model of a ticket, if it has moved; or the dense model that other weights are compared with. By default "
        "that which an export or a saved model was made from.",
        everyday=True,
    )
    revision: str | None = _model(None, "Hub revision of the model.")
    layers: Count | None = _model(None, "Number of layers to keep, from the first. By default all.")
    objectives: tuple[str, ...] = _measure(
        ("kd",),
        "Any of kd, mlm (encoders), clm and perplexity (decoders), attention, contrastive, logits, agreement (share of "
        "tokens that the dense model predicts too) and similarity, with commas.",
        option="--objective",
        everyday=True,
    )
    corpus: str | None = _model(
        None, "Text for all objectives except similarity. Of a folder, the validation split is read.", everyday=True
    )
    split: Literal["validation", "test"] = _model("validation", "Split of the corpus: validation or test.")
    segments: str = _model(
        "packed:128", "Segments that the corpus is cut into: packed:L, lines or sections:L.", everyday=True
    )
    max_length: Count | None = _measure(
        None, "Tokens of a window of the perplexity. By default those of the model, at most 2048."
    )
    stride: Count | None = _measure(
        None, "Tokens from one window of the perplexity to the next. By default windows do not overlap."
    )
    max_tokens: Count | None = _measure(None, "Stop after this many unpadded tokens.", everyday=True)
    batch_tokens: Count = _measure(4096, "Tokens in a forward pass.")
    task: str | None = _model(None, "Task with scored pairs for similarity: stsb.", everyday=True)
    pairs_file: str | None = _model(
        None, "Your own scored pairs, instead of a task: csv, tsv, jsonl or parquet.", everyday=True
    )
    data_dir: str | None = _model(None, "Folder with the data of the task.", everyday=True)
    harness_tasks: tuple[str, ...] = _harness(
        (),
        "Tasks of the EleutherAI evaluation harness for a decoder, such as lambada_openai,piqa (extra lm-eval).",
        option="--tasks",
    )
    tasks_dir: str | None = _harness(None, "Folder with task files of the harness, besides those that it brings.")
    num_fewshot: int | None = _harness(None, "Examples in the prompt of each task. By default the task's own.", ge=0)
    limit: Count | None = _harness(None, "Examples of each task. By default all.")
    kd_loss: Literal["cosine", "mse"] = _measure(
        "cosine", "Distance of the hidden states: 1 - cosine (TAMT eq. 6), or mse (what the released code reports)."
    )
    kd_padding: Literal["ignored", "counted"] = _measure(
        "ignored", "Padded positions in the KD loss: ignored, or counted (the released code)."
    )
    kd_masked_tokens: int = _measure(
        0, "Tokens masked in each segment for the KD loss. The released code masks one.", ge=0
    )
    temperature: float = _measure(0.05, "Temperature of the contrastive loss.", gt=0)
    mlm_head: Literal["base", "ticket"] | None = _measure(
        None, "MLM head of the base model, or the one trained with the ticket. By default the ticket's if it has one."
    )
    seed: Seed = _measure(42, "Seed of the MLM masking.", everyday=True)
    allow_other_weights: bool = _model(False, "Evaluate the ticket on weights it was not made for.")

    @model_validator(mode="before")
    @classmethod
    def _tasks_alone(cls, values: Any) -> Any:
        """Measure only the tasks of the harness if they are given without objectives."""
        alone = isinstance(values, dict) and values.get("harness_tasks") and "objectives" not in values
        return values | {"objectives": ()} if alone else values
