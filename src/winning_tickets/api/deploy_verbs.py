"""The verbs that use tickets and fine-tuned models, as Python functions: export, measure, predict and import_mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from winning_tickets.api.arguments import check_base, named
from winning_tickets.config import Runtime
from winning_tickets.finetuning import glue_submission as _glue_submission
from winning_tickets.report.result import Result, resulting
from winning_tickets.runs import memory
from winning_tickets.runs.ambient import neutral
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.files import IN_MEMORY

glue_submission = resulting("glue-submission")(_glue_submission.glue_submission)


@neutral()
def export(
    target: Any,
    format: str,  # noqa: A002 - the name of the option
    out: Path | str,
    *,
    base: Any = None,
    tokenizer: Any = None,
    allow_other_weights: bool = False,
    seed: int | None = None,
    task: str | None = None,
    convention: str | None = None,
    dtype: Any = None,
    force: bool = False,
    trust_remote_code: bool = False,
) -> Result:
    """Write a ticket or a fine-tuned model in a format that other programs load.

    Args:
        target: a `Ticket`, its folder or hub id, a transfer with `save_model` (or one of its seeds), or a shared model.
        format: `masked`, `compact`, `onnx`, `onnx-int8`, `encoder` or `mask-pt`.
        out: a directory that is absent or empty, or has this same export.
        base: the base model of a ticket, by name or in memory; by default it is loaded by the name that the
            ticket stores.
        tokenizer: the tokenizer of a base model in memory.
        allow_other_weights: apply the ticket to weights it was not made for.
        seed: the seed whose model is exported, of a transfer or share; None takes the first one saved.
        task: the task whose model is exported, of a shared model.
        convention: the naming convention of `mask-pt`: `bert-tickets` (the default) or `tamt`.
        dtype: the type of the weights: `float32`, `float16` or `bfloat16`, also as a `torch.dtype`; by default that of
            the checkpoint. A fine-tuned model is float32, as it was trained. ONNX files compute in float32.
        force: replace another export in `out`.
        trust_remote_code: run the code in the base model's repository; the record of the export says so.

    Returns:
        What is stored in `export.json`, with `out` and a `note` about size and speed; `bytes` and `dtype` are those
        of the export's weights, and `checkpoint` has those of the weights that it was made from.

    Raises:
        UsageError: unknown format, no such target, or an `out` with other files.
        ContentError: a damaged ticket or model, or a ticket for other weights.
        TrainingError: the file system refused to write; no incomplete export is left.

    Example:
        >>> export(ticket, "masked", "my-model", base=model).note
    """
    from winning_tickets.deploy import export as verb

    if format != "mask-pt":  # the only format without weights
        check_base(target, base, "base")
    with named(target, base, tokenizer=tokenizer, trust_remote_code=trust_remote_code) as (target, base):
        if _is_model(target):
            raise UsageError(
                "export takes a ticket, with base= for a model in memory, or the folder of a fine-tuned model. A model "
                "in memory is saved by its own save_pretrained."
            )
        found = verb.export(
            target,
            format,
            out,
            base=base,
            allow_other_weights=allow_other_weights,
            seed=seed,
            task=task,
            convention=convention,
            dtype=None if dtype is None else str(dtype).removeprefix("torch."),  # type: ignore[arg-type]
            force=force,
        )
    return Result(found, "export")


@neutral()
def measure(
    target: Any,
    batches: Sequence[int] = (1, 8, 32),
    lengths: Sequence[int] = (32, 128),
    *,
    threads: int | None = None,
    repeats: int = 10,
    base: Any = None,
    revision: str | None = None,
    layers: int | None = None,
    allow_other_weights: bool = False,
    seed: int | None = None,
    runtime: Runtime | None = None,
) -> Result:
    """Measure sizes, operations and speed of an encoder, next to the dense model of the same shape.

    Args:
        target: a model as `search` takes it, which is not changed; a `Ticket`; or the folder or hub id of a model, a
            ticket, an export, or a transfer with `save_model`.
        batches: batch sizes, in texts per forward pass.
        lengths: tokens of each text.
        threads: number of CPU threads; None keeps the present number.
        repeats: timed passes of each model for each batch size and length.
        base: the base model of a ticket, by name or in memory; by default it is loaded by the name that the
            ticket stores.
        revision: hub revision of a model.
        layers: number of layers of a dense model to keep, from the first.
        allow_other_weights: apply the ticket to weights it was not made for.
        seed: seed of the model of a transfer; None takes the first one.
        runtime: device, precision and whether code in the model's repository may run.

    Returns:
        `parameters` (`all` that are stored, `encoder`, `non_zero` of the encoder), `bytes_on_disk`, `dense`
        (`parameters` of the dense encoder; None where the target is dense), `shapes` (for each batch and length
        `flops`, `latency_seconds`, `texts_per_second`, and next to the dense model `dense_flops`,
        `dense_latency_seconds`, `dense_texts_per_second`, `flops_ratio`, `speedup`), `int8` for an export to int8
        (cosines with the float model's outputs), `expectation` in words, and `warnings` where times cannot be trusted.
        The number of stored parameters and `bytes_on_disk` are None for objects in memory.

    Raises:
        UsageError: no such target, or impossible batches, lengths, threads or repeats.
        ContentError: a damaged ticket or model, or a ticket for other weights.

    Example:
        >>> measure(ticket, (1, 8), (128,), base=model).to_frame()
    """
    from winning_tickets.deploy import measure as verb

    runtime = runtime or Runtime()
    check_base(target, base, "base")
    with named(target, base, trust_remote_code=runtime.trust_remote_code) as (target, base):
        found = verb.measure(
            target,
            batches,
            lengths,
            threads=threads,
            repeats=repeats,
            base=base,
            revision=revision,
            layers=layers,
            allow_other_weights=allow_other_weights,
            seed=seed,
            runtime=runtime,
        )
    return Result(found, "measure")


@neutral()
def predict(
    run: Any,
    texts: Any,
    seed: int | None = None,
    runtime: Runtime | None = None,
    *,
    text_columns: Sequence[str] | None = None,
    tokenizer: Any = None,
) -> Result:
    """Label texts with a fine-tuned model.

    Args:
        run: a transfer with `save_model` or one of its `seed-N` folders, a super run, a saved model or an export of
            one, also by its hub id; or a fine-tuned model in memory, whose labels are those of its configuration.
        texts: a list of texts, or of tuples with one text per column of the task; or rows: a `Dataset`, a DataFrame, a
            list of dicts, a dict of lists, or a `Path` of a csv, tsv, jsonl or parquet file.
        seed: seed of the model in a transfer; None takes the first saved one.
        runtime: device, precision and whether code in the model's repository may run.
        text_columns: the columns of rows that have the texts; None takes those that the model was trained on.
        tokenizer: the tokenizer of a model in memory.

    Returns:
        `task`, `model`, `ticket_id`, and `predictions` in the order of the texts. Each prediction has its `text` and,
        depending on the kind of task: `label` with the probabilities `scores`; the `score` of a regression; `labels`
        with the probability of each class; `words` with their `labels`; or `answer` with `start`, the index of its
        first character in the text, and `score`, the sum of two logits (both are None for an empty answer).

    Raises:
        UsageError: no saved model, no text, missing columns, or examples with another number of texts than the task.
        ContentError: the saved model is damaged, or a row has no text.

    Example:
        >>> predict("runs/sst2", ["A fine film."]).predictions[0]["label"]  # doctest: +SKIP
        'positive'
    """
    from winning_tickets.training import predict as verb

    runtime = runtime or Runtime()
    with named(run, tokenizer=tokenizer, trust_remote_code=runtime.trust_remote_code) as (run,):
        return Result(verb.predict(run, texts, seed, runtime, text_columns=text_columns), "predict")


@neutral()
def import_mask(
    file: Path | str,
    base: Any,
    out: Path | str,
    *,
    method: str = "imported",
    revision: str | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
) -> Result:
    """Make a ticket from a `mask.pt` of BERT-tickets or of TAMT.

    The scope follows from the matrices in the file: with or without embeddings, with or without the pooler.

    Args:
        file: the `mask.pt`, which is read without running any code that it may hold.
        base: the pre-trained model that the masks belong to, by name or in memory; the file does not name it.
        out: a directory that is absent or empty, or has this same import; it becomes the ticket's folder.
        method: the name of the method that found the masks, which tables and figures show.
        revision: hub revision of the model.
        force: replace another import in `out`.
        trust_remote_code: run the code in the model's repository; the record of the import says so.

    Returns:
        What is stored in `result.json`: the id, exact sparsity, scope, convention and hash of the file.

    Raises:
        UsageError: no such file or model, an `out` with other files, or the name of a method of the library.
        ContentError: not a file of masks, or masks of another model.

    Example:
        >>> import_mask("mask.pt", "bert-base-uncased", "my-ticket").scope
    """
    from winning_tickets.deploy import mask_files as verb

    with named(base, trust_remote_code=trust_remote_code) as (base,):
        return Result(verb.import_mask(file, base, out, method=method, revision=revision, force=force), "import-mask")


def _is_model(name: Any) -> bool:
    return str(name).startswith(memory.PREFIX) and not str(name).startswith(IN_MEMORY)
