"""The verbs that use tickets and fine-tuned models, as Python functions: export, measure, predict and import_mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from winning_tickets.api.arguments import called, check_base, named
from winning_tickets.config import ExportConfig, ImportConfig, MeasureConfig, Runtime
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
    tokenizer: Any = None,
    force: bool = False,
    **fields: Any,
) -> Result:
    """Write a ticket or a fine-tuned model in a format that other programs load.

    Args:
        target: a `Ticket`, its folder or hub id, a transfer with `save_model` (or one of its seeds), or a shared model.
        format: `masked`, `compact`, `onnx`, `onnx-int8`, `encoder` or `mask-pt`.
        out: a directory that is absent or empty, or has this same export.
        tokenizer: the tokenizer of a base model in memory.
        force: replace another export in `out`.
        **fields: the fields of `ExportConfig`, and `trust_remote_code`. `base` may be a model in memory, and `dtype` a
            `torch.dtype`. A fine-tuned model is float32, as it was trained. ONNX files compute in float32.

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
        check_base(target, fields.get("base"), "base")
    with called(ExportConfig, "target", target, {"format": format} | fields, out=out, tokenizer=tokenizer) as call:
        name = call.config.target
        if name.startswith(memory.PREFIX) and not name.startswith(IN_MEMORY):
            raise UsageError(
                "export takes a ticket, with base= for a model in memory, or the folder of a fine-tuned model. A model "
                "in memory is saved by its own save_pretrained."
            )
        return Result(verb.export(call.config, call.out, force=force), "export")


@neutral()
def measure(
    target: Any,
    batches: Sequence[int] | None = None,
    lengths: Sequence[int] | None = None,
    *,
    runtime: Runtime | None = None,
    tokenizer: Any = None,
    **fields: Any,
) -> Result:
    """Measure sizes, operations and speed of an encoder, next to the dense model of the same shape.

    Args:
        target: a model as `search` takes it, which is not changed; a `Ticket`; or the folder or hub id of a model, a
            ticket, an export, or a transfer with `save_model`.
        batches: batch sizes, in texts per forward pass; by default 1, 8 and 32.
        lengths: tokens of each text; by default 32 and 128.
        runtime: device and precision; its fields may be given as keywords too.
        tokenizer: the tokenizer of a model in memory.
        **fields: the fields of `MeasureConfig`. `base` may be a model in memory.

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

    sizes = {"batches": batches, "lengths": lengths}
    fields |= {name: given for name, given in sizes.items() if given is not None}
    check_base(target, fields.get("base"), "base")
    with called(MeasureConfig, "target", target, fields, runtime=runtime, tokenizer=tokenizer, writes=False) as call:
        return Result(verb.measure(call.config, call.runtime), "measure")


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
    file: Path | str, base: Any, out: Path | str, *, tokenizer: Any = None, force: bool = False, **fields: Any
) -> Result:
    """Make a ticket from a `mask.pt` of BERT-tickets or of TAMT.

    The scope follows from the matrices in the file: with or without embeddings, with or without the pooler.

    Args:
        file: the `mask.pt`, which is read without running any code that it may hold.
        base: the pre-trained model that the masks belong to, by name or in memory; the file does not name it.
        out: a directory that is absent or empty, or has this same import; it becomes the ticket's folder.
        tokenizer: the tokenizer of a model in memory.
        force: replace another import in `out`.
        **fields: the fields of `ImportConfig`, which are `method` and `revision`, and `trust_remote_code`.

    Returns:
        What is stored in `result.json`: the id, exact sparsity, scope, convention and hash of the file.

    Raises:
        UsageError: no such file or model, an `out` with other files, or the name of a method of the library.
        ContentError: not a file of masks, or masks of another model.

    Example:
        >>> import_mask("mask.pt", "bert-base-uncased", "my-ticket").scope
    """
    from winning_tickets.deploy import mask_files as verb

    if isinstance(file, Mapping):
        raise UsageError("import_mask reads a file; masks in memory become a ticket with Ticket.from_masks.")
    with called(ImportConfig, "file", file, {"base": base} | fields, out=out, tokenizer=tokenizer) as call:
        return Result(verb.import_mask(call.config, call.out, force=force), "import-mask")
