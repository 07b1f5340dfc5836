"""CPU seconds of our verbs beside what a user would pick instead, on real texts: ratios of one run.

    python benchmarks/side_by_side.py --task mrpc --data-dir FOLDER --bf16 --threads 1 --json > result.json

Every variant starts from the same weights and reads the same texts, with the same precision; they take turns.
Fine-tuning, an epoch of the same examples in batches of `--batch`, padded to the longest; only the training is timed:
  dense, held          `transfer` of the model, and of a 70 % ticket
  trainer              transformers' Trainer
  trainer_prune        the same with torch.nn.utils.prune, which keeps weight_orig and multiplies in each forward pass
  ..._grouped          batches of similar lengths: the default of `transfer`; `group_by_length` of the Trainer
Whole calls, from the files to the result:
  evaluate, plain_evaluate  the KD loss of the ticket, and a loop of a dozen lines over two models of transformers
  predict, plain_predict    answers of an int8 export, and onnxruntime by hand over texts in order of their length
The result also has the padded tokens of each fine-tuning, which show that random batches are the same, and the losses
and the share of equal answers. `--memory` measures the peak of whole fine-tunings instead, with loading and evaluation,
each in a process of its own.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
import torch
from torch.nn.utils import prune
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

import winning_tickets.finetuning.transfer as transfer_module
from bench import SHAPES, measured, run, small_options
from interleave import Step
from memory import measured_apart, peak_of
from search_memory import make_models
from winning_tickets import SearchConfig, Ticket, TransferConfig, evaluate, export, predict, search, transfer
from winning_tickets.config import Runtime
from winning_tickets.data.corpora import load_corpus
from winning_tickets.data.loading import load_task
from winning_tickets.models.loading import resolve_model
from winning_tickets.runs.provenance import machine, versions
from winning_tickets.training.task_data import load_data

FINE_TUNINGS = (
    *("dense", "held", "trainer", "trainer_prune"),
    *("dense_grouped", "held_grouped", "trainer_grouped", "trainer_prune_grouped"),
)
CALLS = ("evaluate", "plain_evaluate", "predict", "plain_predict")
PAIRS = {
    "dense_over_trainer": ("dense", "trainer"),
    "held_over_trainer": ("held", "trainer"),
    "held_over_trainer_prune": ("held", "trainer_prune"),
    "trainer_prune_over_trainer": ("trainer_prune", "trainer"),
    "dense_grouped_over_trainer_grouped": ("dense_grouped", "trainer_grouped"),
    "held_grouped_over_trainer_grouped": ("held_grouped", "trainer_grouped"),
    "held_grouped_over_trainer_prune_grouped": ("held_grouped", "trainer_prune_grouped"),
    "held_grouped_over_trainer": ("held_grouped", "trainer"),
    "evaluate_over_plain_evaluate": ("evaluate", "plain_evaluate"),
    "predict_over_plain_predict": ("predict", "plain_predict"),
}
SPARSITY, RATE, SEED = 0.7, 5e-5, 0
LENGTH = 128  # tokens of a segment of text
TEXTS = ("first", "second")  # columns of the files of examples
ROWS = 32  # segments or texts in a forward pass without gradients


class Watch:
    """CPU seconds of all blocks so far; a clock that stands still outside of them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the clock run inside a block."""
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - start

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave the time of a block out of the block around it."""
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds -= time.process_time() - start

    def read(self) -> float:
        """Return the seconds so far."""
        return self.seconds


class SideBySide:
    """All variants on one model and one task.

    Args:
        options: the command line.
        folder: for tickets, runs and exports.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder, self.watch = options, folder, Watch()
        self.runtime = Runtime(device="cpu", bf16=options.bf16, quiet=True, checkpoint_seconds=1e9)
        self.where = resolve_model(options.model)
        self.padded_tokens: dict[str, int] = {}
        self.whole_seconds: dict[str, list[float]] = {name: [] for name in FINE_TUNINGS}
        self.found: dict[str, Any] = {}
        self._write_examples()
        self.ticket = folder / "ticket"
        if not self.ticket.exists():
            found = SearchConfig(model=options.model, method="magnitude", sparsity=SPARSITY)
            search(found, self.ticket, self.runtime)
        self.masks = Ticket.from_pretrained(self.ticket).masks

    def _write_examples(self) -> None:
        """Write the first examples of the task to files, which every variant reads."""
        data, options = load_task(self.options.task, self.options.data_dir), self.options
        names = [*TEXTS[: len(data.train.texts)], "label"]

        def rows_of(part: Any) -> list[Any]:
            labels = part.labels if data.task.is_regression else [data.task.labels[label] for label in part.labels]
            return list(zip(*part.texts, labels, strict=True))

        train, dev = rows_of(data.train)[: options.examples], rows_of(next(iter(data.validation.values())))
        known = {row[-1] for row in train}
        dev = [row for row in dev if data.task.is_regression or row[-1] in known][: options.dev]
        for part, rows in {"train": train, "dev": dev}.items():
            lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
            (self.folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.columns = TEXTS[: len(data.train.texts)]

    def config(self, variant: str, **more: Any) -> TransferConfig:
        """Return the settings of a fine-tuning of ours; the dropout is that of the Trainer, the model's own."""
        options = self.options
        return TransferConfig(
            target=str(self.ticket) if variant.startswith("held") else options.model,
            train_file=str(self.folder / "train.jsonl"),
            validation_file=str(self.folder / "dev.jsonl"),
            text_columns=self.columns,
            batch_size=options.batch,
            learning_rate=RATE,
            epochs=1,
            dropout="model",
            max_length=LENGTH,
            group_by_length=variant.endswith("_grouped"),
            seeds=(SEED,),
            **more,
        )

    def fine_tune(self, variant: str) -> None:
        """Fine-tune once, from loading the model to an evaluation; the watch runs during the training."""
        start = time.process_time()
        (self._trainer if variant.startswith("trainer") else self._ours)(variant)
        self.whole_seconds[variant].append(time.process_time() - start)

    def _ours(self, variant: str) -> None:
        train, measure = transfer_module.run_training, transfer_module.evaluate_dev_splits

        def timed(trainer: Any, run: Any) -> None:
            with self._counted(variant, trainer.model), self.watch.running():
                train(trainer, run)

        def untimed(*values: Any, **named: Any) -> Any:
            with self.watch.stopped():
                return measure(*values, **named)

        with patch.multiple(transfer_module, run_training=timed, evaluate_dev_splits=untimed):
            transfer(self.config(variant), self.folder / "run", self.runtime, force=True)

    def _trainer(self, variant: str) -> None:
        options, config = self.options, self.config(variant)
        data = load_data(config)
        tokenizer = AutoTokenizer.from_pretrained(self.where)
        outputs = 1 if data.task.is_regression else len(data.task.labels)
        model = AutoModelForSequenceClassification.from_pretrained(self.where, num_labels=outputs)
        if variant.startswith("trainer_prune"):
            for name, mask in self.masks.items():
                prune.custom_from_mask(model.base_model.get_submodule(name.removesuffix(".weight")), "weight", mask)

        def rows(split: Any) -> list[dict[str, Any]]:
            encoded = tokenizer(*split.texts, truncation=True, max_length=LENGTH)
            return [{key: encoded[key][i] for key in encoded} | {"labels": split.labels[i]} for i in range(len(split))]

        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(self.folder / "trainer"),
                per_device_train_batch_size=options.batch,
                per_device_eval_batch_size=ROWS,
                num_train_epochs=1,
                learning_rate=RATE,
                seed=SEED,
                bf16=options.bf16,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                train_sampling_strategy="group_by_length" if variant.endswith("_grouped") else "random",
            ),
            train_dataset=rows(data.train),
            eval_dataset=rows(next(iter(data.validation.values()))),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)  # stdout is for the result
        with self._counted(variant, model), self.watch.running():
            trainer.train()
        trainer.evaluate()

    @contextmanager
    def _counted(self, variant: str, model: Any) -> Iterator[None]:
        """Count the padded tokens that a model reads in a block."""
        self.padded_tokens[variant] = 0

        def count(_: Any, __: Any, given: Mapping[str, Any]) -> None:
            self.padded_tokens[variant] += given["input_ids"].numel() if model.training else 0

        handle = model.register_forward_pre_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def evaluate(self) -> None:
        """Measure the KD loss of the ticket by `evaluate`."""
        with self.watch.running():
            result = evaluate(str(self.ticket), objectives="kd", runtime=self.runtime, **self._text())
        self.found["kd_loss"] = {"evaluate": result["kd_loss"]} | self.found.get("kd_loss", {})

    def _text(self) -> dict[str, Any]:
        return {"corpus": self.options.corpus, "max_tokens": self.options.max_tokens}

    @torch.no_grad()
    def plain_evaluate(self) -> None:
        """Measure the same loss by hand: blocks of text, two models, the cosines of all hidden states."""
        with self.watch.running():
            tokenizer, dense = AutoTokenizer.from_pretrained(self.where), AutoModel.from_pretrained(self.where).eval()
            pruned = copy.deepcopy(dense)
            for name, mask in self.masks.items():
                pruned.get_parameter(name).mul_(mask)
            lines = list(load_corpus(self.options.corpus, "validation").lines)
            ids = [one for line in tokenizer(lines, add_special_tokens=False)["input_ids"] for one in line]
            size = LENGTH - 2
            blocks = [
                [tokenizer.cls_token_id, *ids[start : start + size], tokenizer.sep_token_id]
                for start in range(0, len(ids) - size + 1, size)
            ][: self.options.max_tokens // LENGTH]
            total, count = 0.0, 0
            for start in range(0, len(blocks), ROWS):
                batch = torch.tensor(blocks[start : start + ROWS])
                with torch.autocast("cpu", torch.bfloat16, enabled=self.options.bf16):
                    one, two = (model(batch, output_hidden_states=True).hidden_states[1:] for model in (dense, pruned))
                cosines = [torch.cosine_similarity(a.float(), b.float(), dim=-1) for a, b in zip(one, two, strict=True)]
                total += float((1 - torch.stack(cosines).mean(0)).sum())
                count += batch.numel()
        self.found.setdefault("kd_loss", {})["plain_evaluate"] = total / count

    def make_export(self) -> None:
        """Fine-tune once and export the model as ONNX with int8 weights, before anything is timed."""
        transfer(self.config("held", save_model=True), self.folder / "model", self.runtime)
        export(str(self.folder / "model"), "onnx-int8", self.folder / "int8")
        texts = next(iter(load_task(self.options.task, self.options.data_dir).validation.values())).texts
        self.texts = list(zip(*texts, strict=True))[: self.options.texts]

    def predict(self) -> None:
        """Label the texts of the validation part by `predict`."""
        with self.watch.running():
            result = predict(str(self.folder / "int8"), self.texts, runtime=self.runtime)
        self._answers("predict", [one.get("label", one.get("score")) for one in result["predictions"]])

    def plain_predict(self) -> None:
        """Label the same texts by onnxruntime, with a tokenizer of transformers, in order of their length."""
        with self.watch.running():
            folder = self.folder / "int8"
            names = json.loads((folder / "task.json").read_text())["labels"]
            tokenizer = AutoTokenizer.from_pretrained(folder)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
            wanted = [one.name for one in session.get_inputs()]
            encoded = tokenizer(*map(list, zip(*self.texts, strict=True)), truncation=True, max_length=LENGTH)
            order = sorted(range(len(self.texts)), key=lambda i: len(encoded["input_ids"][i]))
            found = np.empty((len(order), max(1, len(names))), np.float32)
            for start in range(0, len(order), ROWS):
                chosen = order[start : start + ROWS]
                batch = tokenizer.pad({key: [encoded[key][i] for i in chosen] for key in encoded}, return_tensors="np")
                found[chosen] = session.run(["logits"], {name: batch[name] for name in wanted})[0]
            answers = [names[i] for i in found.argmax(1)] if names else found[:, 0].tolist()
        self._answers("plain_predict", answers)

    def _answers(self, variant: str, answers: list[Any]) -> None:
        self.found.setdefault("answers", {})[variant] = answers

    def equal_answers(self) -> float:
        """Return the share of equal answers of both ways; scores are equal if they differ by less than 0.1."""
        pairs = list(zip(*self.found.pop("answers").values(), strict=True))
        equal = [abs(a - b) < 0.1 if isinstance(a, float) else a == b for a, b in pairs]
        return sum(equal) / len(equal)

    def steps(self) -> dict[str, Step]:
        """Return all variants."""
        found: dict[str, Step] = {variant: partial(self.fine_tune, variant) for variant in FINE_TUNINGS}
        return found | {name: getattr(self, name) for name in CALLS}


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    settings = {
        name: getattr(options, name) for name in ("task", "batch", "examples", "dev", "max_tokens", "texts", "bf16")
    }
    about = {"model": options.shape or Path(options.model).name, "corpus": Path(options.corpus).name} | settings
    with tempfile.TemporaryDirectory() as folder:
        if options.shape:
            make_models(options.shape, Path(folder))
            options.model = str(Path(folder) / "none")
        if options.memory:
            return {"settings": about, "ratios": {}, "intervals_95": {}} | memory(options, Path(folder))
        bench = SideBySide(options, Path(folder))
        steps = {name: step for name, step in bench.steps().items() if not options.only or name in options.only}
        if {"predict", "plain_predict"} & set(steps):
            bench.make_export()
        pairs = {name: pair for name, pair in PAIRS.items() if set(pair) <= set(steps)}
        found = measured(steps, pairs, options, bench.watch.read)
    if set(CALLS) <= set(steps):
        bench.found["equal_answers"] = bench.equal_answers()
    whole = {name: statistics.median(seconds) for name, seconds in bench.whole_seconds.items() if seconds}
    return {"settings": about, "padded_tokens": bench.padded_tokens, "whole_cpu_seconds": whole} | bench.found | found


def memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the peak of whole fine-tunings, each in a process of its own, above its level after all imports."""
    SideBySide(options, folder)  # makes the ticket
    peaks: dict[str, list[int]] = {variant: [] for variant in ("dense", "held", "trainer", "trainer_prune")}
    for _ in range(options.rounds):
        for variant, found in peaks.items():
            words = [*sys.argv[1:], "--model", options.model, "--folder", str(folder), "--peak-of", variant]
            found.append(measured_apart(__file__, words))
    middle = {variant: statistics.median(found) for variant, found in peaks.items()}
    return {
        "peak_bytes": peaks,
        "peak_megabytes": {variant: peak / 1e6 for variant, peak in middle.items()},
        "peak_ratios": {
            "dense": middle["dense"] / middle["trainer"],
            "held": middle["held"] / middle["trainer"],
            "held_over_trainer_prune": middle["held"] / middle["trainer_prune"],
        },
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "versions": versions(),
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = small_options(__doc__, rounds=5)
    parser.set_defaults(warm_up=1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    parser.add_argument("--model", default="builtin:minilm")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape, instead of a model")
    parser.add_argument("--task", default="pydocs")
    parser.add_argument("--data-dir")
    parser.add_argument("--corpus", default="pydocs")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--examples", type=int, default=192, help="of the training set")
    parser.add_argument("--dev", type=int, default=64, help="examples of the evaluation after each fine-tuning")
    parser.add_argument("--max-tokens", type=int, default=16_384, help="of the corpus")
    parser.add_argument("--texts", type=int, default=400, help="most texts that are labeled")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--only", nargs="+", help="variants")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peak-of", choices=FINE_TUNINGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        if options.threads:
            torch.set_num_threads(options.threads)
        bench = SideBySide(options, options.folder)
        print(json.dumps(peak_of(partial(bench.fine_tune, options.peak_of), torch.device("cpu"))))
    else:
        run(parser, report)


if __name__ == "__main__":
    main()
