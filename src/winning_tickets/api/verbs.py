"""The verbs as Python functions.

They take models, tickets, texts and data sets in memory, and settings as keyword arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from winning_tickets.api.arguments import Call, called, check_base
from winning_tickets.config import (
    EvaluateConfig,
    FitHeadConfig,
    Runtime,
    SearchConfig,
    ShareConfig,
    ShrinkConfig,
    SuperConfig,
    TransferConfig,
)
from winning_tickets.report.result import Result
from winning_tickets.runs.ambient import neutral
from winning_tickets.runs.errors import UsageError

if TYPE_CHECKING:
    from winning_tickets.tickets.ticket import Ticket


@neutral()
def search(
    model: Any = None,
    out: Path | str | None = None,
    runtime: Runtime | None = None,
    *,
    force: bool = False,
    config: SearchConfig | None = None,
    tokenizer: Any = None,
    **fields: Any,
) -> Ticket:
    """Find a ticket of one sparsity.

    Args:
        model: a hub id, a folder or `builtin:minilm`; a `PreTrainedModel`, or a module with one inside, such as a
            `SentenceTransformer`, which is not changed; or a `SearchConfig`.
        out: a directory that is absent or empty, or has this same search, which is resumed or opened again. It becomes
            the ticket's folder. Without it nothing is kept on disk.
        runtime: device, precision and checkpoints; its fields may be given as keywords too, such as `device="cuda"`.
        force: replace another run of this tool in `out`.
        config: all settings at once, in place of `model` and `fields`.
        tokenizer: the tokenizer of a model in memory; by default that of the folder or hub id it was loaded from.
        **fields: the fields of `SearchConfig`. `corpus` may be a list of str, a `Dataset` or an `IterableDataset` too,
            `like` a `Ticket`, and `train_file` a `Dataset`, a DataFrame or a list of dicts.

    Raises:
        UsageError: impossible settings, unknown names, missing model or corpus, another run in `out`, several
            sparsities (`search_all` takes those).
        ContentError: the model or corpus is not usable.
        TrainingError: NaN loss or full disk while training.
        Interrupted: Ctrl-C or SIGTERM; with `out` a checkpoint was written.

    Example:
        >>> ticket = search(model, corpus=texts, sparsity=0.7, objective="kd", steps=240)
    """
    from winning_tickets.pruning import search as verb

    with called(
        SearchConfig, "model", _first(config, model), fields, out=out, runtime=runtime, tokenizer=tokenizer
    ) as call:
        return verb.search(call.config, call.out, call.runtime, force=force)


@neutral()
def search_all(
    model: Any = None,
    out: Path | str | None = None,
    runtime: Runtime | None = None,
    *,
    force: bool = False,
    config: SearchConfig | None = None,
    tokenizer: Any = None,
    **fields: Any,
) -> dict[Any, Ticket]:
    """Find the tickets of several sparsities or levels in one search; arguments and errors are as in `search`.

    Returns:
        The tickets by ascending sparsity; structured tickets by the folder of their level, such as `level-30`.

    Example:
        >>> tickets = search_all(model, method="magnitude", sparsity=(0.5, 0.6, 0.7))
    """
    from winning_tickets.pruning import search as verb

    with called(
        SearchConfig, "model", _first(config, model), fields, out=out, runtime=runtime, tokenizer=tokenizer
    ) as call:
        return verb.search_all(call.config, call.out, call.runtime, force=force)


@neutral()
def evaluate(
    target: Any = None,
    model: Any = None,
    runtime: Runtime | None = None,
    *,
    out: Path | str | None = None,
    force: bool = False,
    config: EvaluateConfig | None = None,
    tokenizer: Any = None,
    **fields: Any,
) -> Result:
    """Measure what a model or ticket preserves, without fine-tuning.

    `runtime`, `force`, `config` and `tokenizer` are as in `search`.

    Args:
        target: a `Ticket`, a model as `search` takes it, the name of one of them, or an `EvaluateConfig`.
        model: the base model of a ticket; by default it is loaded by the name that the ticket stores.
        out: a new or empty folder, in which the result is kept; without it nothing is kept but the token cache.
        **fields: the fields of `EvaluateConfig`. `corpus` may be a list of str, a `Dataset` or an `IterableDataset`
            too, and `pairs_file` a `Dataset`, a DataFrame or a list of dicts.

    Returns:
        `kd_loss`, `mlm_loss`, `mlm_accuracy`, `similarity_pearson` and so on, which are None where not measured, and
        the settings of the measurement. `to_frame()` gives a table, and `plot()` a figure.

    Raises:
        UsageError: unknown objective, missing corpus or task, no MLM head.
        ContentError: a damaged ticket, one for other weights, an unusable corpus.

    Example:
        >>> evaluate(ticket, model, corpus=texts, objectives=("kd", "mlm")).kd_loss
    """
    from winning_tickets.evaluation import evaluate as verb

    if isinstance(model, Runtime):  # evaluate(config, runtime)
        model, runtime = None, model
    fields = _with_base(target, model, fields)
    first = _first(config, target)
    with called(EvaluateConfig, "target", first, fields, runtime=runtime, tokenizer=tokenizer, writes=False) as call:
        return Result(verb.evaluate(call.config, call.runtime, out, force=force), "evaluate")


@neutral()
def transfer(
    target: Any = None,
    out: Path | str | None = None,
    runtime: Runtime | None = None,
    *,
    force: bool = False,
    model: Any = None,
    train: Any = None,
    validation: Any = None,
    config: TransferConfig | None = None,
    tokenizer: Any = None,
    **fields: Any,
) -> Result:
    """Fine-tune a model or ticket on a task, once for each seed, with pruned weights held at zero.

    `out`, `runtime`, `force`, `config`, `tokenizer` and errors that are not named here are as in `search`.

    Args:
        target: a `Ticket`, a model as `search` takes it (the dense baseline), the name of one of them, or a
            `TransferConfig`.
        model: the base model of a ticket; by default it is loaded by the name that the ticket stores.
        train: a `Dataset`, a DataFrame, a list of dicts, a dict of lists, or a file.
        validation: data with the same columns.
        **fields: the fields of `TransferConfig`, such as `task`, `text_columns`, `label_column`, `metric` and `seeds`.

    Returns:
        The summary: for each metric the final and the best value, with mean, standard deviation (ddof=1) and the values
        of the finished `seeds`. `to_frame()` gives a table, and `plot()` a figure.

    Raises:
        ContentError: a damaged ticket, one for other weights, unusable data.
        TrainingError: one or more seeds failed; with `out` the others are stored.

    Example:
        >>> transfer(ticket, train=train_dataset, validation=dev_dataset, seeds=(0, 1, 2)).to_frame()
    """
    from winning_tickets.finetuning import transfer as verb

    fields = _with_data(train, validation, _with_base(target, model, fields))
    with called(
        TransferConfig, "target", _first(config, target), fields, out=out, runtime=runtime, tokenizer=tokenizer
    ) as call:
        if call.config.save_model and not call.lasting:
            raise UsageError("save_model saves models in out; give out= too.")
        return Result(verb.transfer(call.config, call.out, call.runtime, force=force), "transfer")


@neutral()
def fit_head(
    model: Any = None,
    out: Path | str | None = None,
    runtime: Runtime | None = None,
    *,
    force: bool = False,
    config: FitHeadConfig | None = None,
    tokenizer: Any = None,
    **fields: Any,
) -> Result:
    """Train an MLM head for an encoder that has none, and save an ordinary ForMaskedLM folder in `out`.

    Arguments and errors are as in `search`, with the fields of `FitHeadConfig`; `out` is required. A model that has an
    MLM head already is refused.

    Returns:
        `start` and `final` (`mlm_loss`, `perplexity`, `mlm_accuracy` on the corpus's validation part), `steps`,
        `tokens_seen`, `trained_parameters`, `base_hash` of the saved encoder.

    Example:
        >>> fit_head("builtin:minilm", "minilm-mlm", corpus="pydocs", steps=200).final["mlm_loss"]
    """
    from winning_tickets.finetuning import fit_head as verb

    with called(
        FitHeadConfig, "model", _first(config, model), fields, out=out, runtime=runtime, tokenizer=tokenizer
    ) as call:
        return Result(verb.fit_head(call.config, _needed(call), call.runtime, force=force), "fit-head")


@neutral()
def super_ticket(
    target: Any = None,
    out: Path | str | None = None,
    runtime: Runtime | None = None,
    *,
    force: bool = False,
    train: Any = None,
    validation: Any = None,
    config: SuperConfig | None = None,
    tokenizer: Any = None,
    **fields: Any,
) -> Result:
    """Find a task's super ticket: fine-tune tickets of every level and the full model, and save the best in `out`.

    `out`, which is required, `runtime`, `force`, `config`, `tokenizer` and errors that are not named here are as in
    `search`; `train` and `validation` are as in `transfer`.

    Args:
        target: a model as `search` takes it, or a `SuperConfig`.
        **fields: the fields of `SuperConfig`, and those of its `fine_tuning`, a `TransferConfig`.

    Returns:
        Scores by selection, level and seed, paired tests, and the level and scores of the super ticket. `to_frame()`
        gives a table, and `plot()` a figure.

    Raises:
        UsageError: no part of the dev set to select on.
        TrainingError: a fine-tuning failed; finished runs are kept.

    Example:
        >>> super_ticket("builtin:minilm", "rte-super", task="rte", data_dir="glue", seeds=(0, 1, 2))
    """
    from winning_tickets.finetuning import super_ticket as verb

    first, fields = _first(config, target), _with_data(train, validation, fields)
    if not isinstance(first, SuperConfig) and "fine_tuning" not in fields:
        fields = {"seeds": (0, 1, 2)} | fields
    with called(
        SuperConfig, "target", first, fields, out=out, runtime=runtime, tokenizer=tokenizer, inline="fine_tuning"
    ) as call:
        return Result(verb.super_ticket(call.config, _needed(call), call.runtime, force=force), "super")


@neutral()
def shrink(
    model: Any = None,
    out: Path | str | None = None,
    runtime: Runtime | None = None,
    *,
    force: bool = False,
    config: ShrinkConfig | None = None,
    tokenizer: Any = None,
    **fields: Any,
) -> Result:
    """Make a model faster: remove heads, neurons and layers, and let the rest learn from the dense model.

    The model, its ticket and a report are saved in `out`, which is required. It, `runtime`, `force`, `config`,
    `tokenizer` and errors that are not named here are as in `search`.

    Args:
        model: a model as `search` takes it, a transfer with `save_model`, or a `ShrinkConfig`.
        **fields: the fields of `ShrinkConfig`, such as `speedup=2` or `speedup=(1.5, 2, 3)`. `corpus` may be a list of
            str or a `Dataset` too, and `pairs_file` a `Dataset`, a DataFrame or a list of dicts.

    Returns:
        `dense` and each of `models`, with `parameters`, `flops`, `latency_seconds`, `speedup` and `quality` on held-out
        data. `to_frame()` gives a table, and `plot()` a figure.

    Raises:
        UsageError: a speed-up that cannot be reached.

    Example:
        >>> shrink("builtin:minilm", "fast", speedup=2, corpus=texts, steps=300).models[0]["speedup"]["median"]
    """
    from winning_tickets.finetuning import shrink as verb

    with called(
        ShrinkConfig, "model", _first(config, model), fields, out=out, runtime=runtime, tokenizer=tokenizer
    ) as call:
        return Result(verb.shrink(call.config, _needed(call), call.runtime, force=force), "shrink")


@neutral()
def share(
    config: ShareConfig | None = None,
    out: Path | str | None = None,
    runtime: Runtime | None = None,
    *,
    force: bool = False,
    tokenizer: Any = None,
    **fields: Any,
) -> Result:
    """Train one encoder for several tasks, each with its ticket.

    The shared models are saved in `out`; with `save_model=False` it may be left out. It, `runtime`, `force`,
    `tokenizer` and errors that are not named here are as in `search`.

    Args:
        config: a `ShareConfig`; leave it out to give its fields as keywords.
        **fields: the fields of `ShareConfig`. `model` may be in memory as in `search`; `tickets` may be a dict with a
            `Ticket` for each task, or a list of them in the order of `tasks`; `train_file` and `validation_file` may be
            dicts with a `Dataset`, a DataFrame or a list of dicts for each task.

    Returns:
        The summary: for each task its ticket, and the scores as `transfer` returns them. `to_frame()` gives a
        table, and `plot()` a figure.

    Raises:
        ContentError: a damaged ticket, one for other weights, unusable data.
        TrainingError: one or more seeds failed; with `out` the others are stored.

    Example:
        >>> share(model="builtin:minilm", tasks=("rte", "mrpc"), tickets="auto", data_dir="glue", out="shared")
    """
    from winning_tickets.finetuning import sharing as verb

    with called(ShareConfig, "model", config, fields, out=out, runtime=runtime, tokenizer=tokenizer) as call:
        if call.config.save_model and not call.lasting:
            raise UsageError("share saves the shared models in out; give out=, or save_model=False.")
        return Result(verb.share(call.config, call.out, call.runtime, force=force), "share")


@neutral()
def compare(*targets: Any, average: str = "pooled") -> Result:
    """Compare tickets pair by pair.

    Args:
        *targets: two or more tickets, folders or hub ids; or one list of them.
        average: `pooled` over all weights, or `matrix`: the mean over matrices (the similarity of the released code).

    Returns:
        `names`, `sparsity`, the matrices `kept_jaccard`, `pruned_jaccard`, `chance_kept` and `chance_pruned`,
        `by_matrix` (the kept Jaccard of each matrix), `distance_to_first` (1 - kept Jaccard) and `same_base`, whether
        all belong to the same weights. `to_frame()` gives a table, and `plot()` a figure.

    Raises:
        UsageError: fewer than two tickets, one is missing, or an unknown average.
        ContentError: a damaged ticket, or different scopes.

    Example:
        >>> compare(kd, mlm).plot()
    """
    from winning_tickets.tickets import overlap

    if targets and isinstance(targets[0], list | tuple):
        targets, average = tuple(targets[0]), targets[1] if targets[1:] else average
    return Result(overlap.compare(targets, average), "compare")


def stored_runs(folder: Path | str, *where: str) -> Any:
    """Return the runs of a store, or those below a folder, as a data frame with one row per run.

    Args:
        folder: a store, such as that of a study, or a folder with runs that were made with `out`, at any depth.
        *where: conditions that a run must fulfill, such as `"task=rte"` or `"config.sparsity>=0.6"`.

    Returns:
        A pandas data frame: `id`, `verb`, `status`, and a column per setting and result, such as `config.sparsity` and
        `result.metrics.accuracy.final.mean`.

    Raises:
        UsageError: no such folder, one without runs, or a condition with an unknown key.

    Example:
        >>> stored_runs("my-store", "task=rte", "status=done")["result.metrics.accuracy.final.mean"]
    """
    from winning_tickets.runs.store import query
    from winning_tickets.runs.store.folders import find_records

    return query.to_frame(find_records(folder, where))


def _first(config: Any, argument: Any) -> Any:
    """Return the first argument of a verb: `config` where it was given by name, else the positional argument."""
    if config is not None and argument is not None:
        raise UsageError("Give config= or the model or target, not both.")
    return argument if config is None else config


def _with_base(target: Any, model: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the base model of a ticket; refuse a ticket of a model in memory without that model."""
    check_base(target, fields.get("base") if model is None else model, "model")
    return fields if model is None else fields | {"base": model}


def _with_data(train: Any, validation: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the training and validation data."""
    files = {"train_file": train, "validation_file": validation}
    return fields | {name: data for name, data in files.items() if data is not None}


def _needed(call: Call[Any]) -> Path:
    """Return the output folder of a verb that requires one."""
    if not call.lasting:
        raise UsageError("This verb saves what it makes; give out=, a directory that is absent or empty.")
    return call.out
