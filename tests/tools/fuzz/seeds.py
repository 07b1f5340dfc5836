"""Valid files of every form, small, for the readers of `readers.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from samples.tiny_models import make_model
from samples.tiny_shared import make_shared
from winning_tickets.models.loading import PLM, load_plm
from winning_tickets.models.structure import structure_of
from winning_tickets.models.weights import StateInfo, save_state
from winning_tickets.pruning.importance import Importance
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.identity import digest
from winning_tickets.runs.store.store import Store
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.ticket import Ticket

GATES = {"layers.0.heads": [True, False], "layers.1.ffn": [False], "layers.1.neurons": [True, False] * 32}
QUERY = "encoder.layer.0.attention.self.query.weight"


def write(path: Path, text: str) -> None:
    """A text file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def resealed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edit a description and renew its checksum."""
    body = json.loads(path.read_text())
    body.pop("checksum")
    change(body)
    path.write_text(json.dumps(body | {"checksum": digest(body, 64)}))


def tiny_plm(folder: Path) -> PLM:
    """A tiny BERT, loaded."""
    return load_plm(str(make_model(folder / "bert", head="none")))


def base_model(folder: Path) -> None:
    """A pre-trained model and its tokenizer."""
    make_model(folder / "model")


def sharded_model(folder: Path) -> None:
    """The same with its weights in several files."""
    AutoModelForMaskedLM.from_pretrained(make_model(folder / "model")).save_pretrained(
        folder / "model", max_shard_size="50KB"
    )
    (folder / "model" / "model.safetensors").unlink()


def pickled_model(folder: Path) -> None:
    """The same with weights as older programs stored them."""
    weights = make_model(folder / "model") / "model.safetensors"
    torch.save(load_file(weights), folder / "model" / "pytorch_model.bin")
    weights.unlink()


def ticket_of(plm: PLM, gates: bool = False, head: bool = False) -> Ticket:
    """A ticket with one mask, and perhaps gates and an MLM head."""
    base = BaseModelInfo.of(plm.encoder, "bert", "bert", None, layers=None)
    info = TicketInfo(
        method="magnitude", scope="encoder", config={"sparsity": 0.5, "ranking": "matrix"}, applies_to=base, seed=0
    )
    mask = torch.arange(32 * 32).reshape(32, 32) % 2 == 0
    closed = {name: torch.tensor(gate) for name, gate in GATES.items()} if gates else None
    heads = {"transform.dense.weight": torch.ones(4, 4)} if head else None
    return Ticket({QUERY: mask}, info, heads, closed, structure=structure_of(plm) if gates else None)


def ticket(folder: Path) -> None:
    """A ticket of weights with an MLM head."""
    ticket_of(tiny_plm(folder), head=True).save_pretrained(folder / "ticket")


def structured(folder: Path) -> None:
    """A ticket with gates."""
    ticket_of(tiny_plm(folder), gates=True).save_pretrained(folder / "ticket")


def state(folder: Path) -> None:
    """Weights that were saved in training."""
    save_state(folder / "state.safetensors", torch.nn.Linear(3, 2), info=StateInfo(base_hash="0", what="w", step=1))


def importance(folder: Path) -> None:
    """Importances of heads."""
    structure = structure_of(tiny_plm(folder))
    values = {name: {"heads": torch.rand(2, 2).double()} for name in ("sample", "token", "batch", "released")}
    Importance(values, {"heads": torch.rand(3, 2, 2)}, structure, {"data": "x"}).save(folder / "importance")


def shared(folder: Path) -> None:
    """A shared model of two tasks, one with a ticket."""
    plm = tiny_plm(folder)
    make_shared(folder / "shared", str(folder / "bert"), ["rte", "cola"], {"rte": ticket_of(plm, gates=True)})


STUDY = """
name: little
title: Little
scales:
  smoke: {model: "tiny:bert", sparsities: [0.5, 0.7], tasks: [rte]}
stages:
  search:
    verb: search
    with: {model: "${model}", sparsity: "${sparsities}"}
    over: {method: [magnitude, random]}
  transfer:
    verb: transfer
    with: {target: "@search[sparsity=0.5]", data_dir: "tiny:glue", steps: 1}
    over: {task: "${tasks}", seed: [0, 1]}
    skip: [{method: random, seed: 1}]
tables:
  main: {stage: transfer, rows: [method], columns: task, values: {score: score}}
figures:
  line: {kind: line, stage: transfer, x: seed, y: score, series: method}
claims:
  better: {text: It is., stage: transfer, better: {axis: method, first: magnitude, second: random}, pair_by: [task]}
published:
  - {of: main, row: magnitude, column: rte, value: 0.6}
"""


def study(folder: Path) -> None:
    """A study of two stages, with a table, a figure and a claim."""
    write(folder / "study.yaml", STUDY)


def task_file(folder: Path) -> None:
    """Two tasks of the user's own files."""
    files = "train_file: rows.csv, validation_file: rows.csv"
    write(folder / "tasks.yaml", f"mine: {{{files}, train_size: 50%, weight: 2.0}}\nother: {{{files}}}\n")


GLUE = {
    "cola": ("CoLA", "gj04\t1\t\tA cat sat .\ngj04\t0\t*\tSat cat a .\n"),
    "rte": ("RTE", "index\tsentence1\tsentence2\tlabel\n0\ta b\tc\tentailment\n1\td\te f\tnot_entailment\n"),
    "stsb": ("STS-B", "index\tsentence1\tsentence2\tscore\n0\ta b\tc\t4.5\n1\td\te f\t0.0\n"),
    "snli": ("snli_1.0", None),
    "scitail": ("tsv_format", "a b\tc\tentails\nd\te\tneutral\n"),
}


def glue(folder: Path) -> None:
    """Files of GLUE and its relatives with two rows each, and a test set."""
    for place, rows in GLUE.values():
        for split in ("train", "dev"):
            if rows is None:
                line = {"sentence1": "a b", "sentence2": "c", "gold_label": "neutral"}
                write(folder / place / f"snli_1.0_{split}.jsonl", f"{json.dumps(line)}\n{json.dumps(line)}\n")
            else:
                name = f"scitail_1.0_{split}.tsv" if place == "tsv_format" else f"{split}.tsv"
                write(folder / place / name, rows)
    write(folder / "RTE" / "test.tsv", "index\tsentence1\tsentence2\n0\ta b\tc\n1\td\te f\n")


def squad(folder: Path) -> None:
    """Two questions."""
    questions = [
        {"id": str(i), "question": "Where?", "answers": [{"text": "Rome", "answer_start": 9}]} for i in range(2)
    ]
    body = {
        "version": "1.1",
        "data": [{"title": "x", "paragraphs": [{"context": "She is in Rome.", "qas": questions}]}],
    }
    body["data"][0]["paragraphs"][0]["context"] = "She's in Rome now."
    for split in ("train", "dev"):
        write(folder / f"{split}-v1.1.json", json.dumps(body))


def tables(folder: Path) -> None:
    """A user's own rows in every form."""
    write(folder / "rows.csv", 'text,label\n"a ""big"" cat, he said",yes\nb,no\n"two\nlines",yes\n')
    write(folder / "rows.tsv", "text1\ttext2\tlabel\na cat\tb\t0.5\nb\tc\t1\n")
    rows = [{"text": "a cat", "label": ["x", "y"]}, {"text": "b", "label": []}, {"text": "c", "label": ["y"]}]
    write(folder / "rows.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    words = [{"words": ["a", "b"], "label": ["O", "B-x"]}, {"words": ["c"], "label": ["O"]}]
    write(folder / "words.jsonl", "\n".join(map(json.dumps, words)) + "\n")
    write(folder / "words.conll", "-DOCSTART- O\n\nEU NNP B-ORG\nsaid VB O\n\nno DT O\n")


def corpus(folder: Path) -> None:
    """Lines of text."""
    write(folder / "corpus.txt", "the cat sat\n\non the mat\r\nbirds sing\n")


def _result(*scores: float) -> dict[str, object]:
    final = {"mean": sum(scores) / len(scores), "std": None, "values": list(scores)}
    return {
        "verb": "transfer", "task": "rte", "primary_metric": "accuracy", "seeds": [*range(len(scores))],
        "failed_seeds": [],
        "metrics": {"accuracy": {"final": final, "best": final}}, "ticket_id": "t", "sparsity": 0.5, "model": "m",
        "base_hash": "h", "method": "magnitude", "search": {"sparsity": 0.5}, "steps": 3, "train_examples": 10,
        "learning_rate": 1e-4, "majority": 0.5, "batch_size": 8, "max_length": 64, "data_hash": "d",
        "versions": {"python": "3.11"},
    }  # fmt: skip


def run(folder: Path) -> None:
    """A finished transfer, an evaluation of the same ticket, and what a log holds."""
    write(folder / "run" / "config.json", json.dumps({"verb": "transfer", "id": "x", "config": {"task": "rte"}}))
    write(folder / "run" / "result.json", json.dumps(_result(0.7)))
    seed = {**_result(0.7), "verb": "transfer-seed", "seed": 0, "final": {"accuracy": 0.7}, "best": {"accuracy": 0.7}}
    write(folder / "seed" / "seed-0" / "result.json", json.dumps(seed))
    write(folder / "dense" / "result.json", json.dumps({**_result(0.8), "ticket_id": None, "sparsity": 0.0}))
    found = dict.fromkeys(("mlm_loss", "mlm_accuracy", "similarity_pearson", "similarity_spearman"))
    more = {"kd_loss": 0.1, "ticket_id": "t", "sparsity": 0.5, "target": "ticket", "corpus": "c", "corpus_hash": "h"}
    write(folder / "evaluation.json", json.dumps({**found, **more, "model": "m", "method": "magnitude"}))
    write(folder / "run" / "metrics.jsonl", '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n')


def run_of_two_seeds(folder: Path) -> None:
    """The same with two seeds, whose numbers are summarised."""
    run(folder)
    write(folder / "run" / "result.json", json.dumps(_result(0.7, 0.75)))
    write(folder / "dense" / "result.json", json.dumps({**_result(0.8, 0.85), "ticket_id": None, "sparsity": 0.0}))


def store(folder: Path) -> None:
    """One run that is done and one that failed."""
    made = Store(folder / "store")
    made.describe("done", "transfer", {"task": "rte"}, {"stage": "transfer"})
    with made.claim("done"):
        own = RunDirectory.claim(made.folder("done"), "transfer", "x", {"task": "rte", "seeds": [0]})
        own.log({"step": 1})
        own.finish(_result(0.7))
        made.seal("done")
    made.describe("failed", "transfer", {"task": "cola"})
    made.fail("failed", "The loss is NaN.")
    write(folder / "store" / "claims" / "unfinished.lock", "1\nhere\n2031-05-06T07:08:09+00:00\n")
    list(made.records())


def saved_model(folder: Path) -> None:
    """What says of a saved model which task it is for."""
    info = {"task": "rte", "text_columns": ["sentence1", "sentence2"], "labels": ["a", "b"], "max_length": 64,
            "ticket_id": None, "sparsity": 0.0, "kind": "classification", "doc_stride": None}  # fmt: skip
    write(folder / "task.json", json.dumps(info))


def mask_pt(folder: Path) -> None:
    """Masks as the released programs store them."""
    plm = tiny_plm(folder)
    masks = {
        f"bert.{name}_mask": torch.ones(value.shape)
        for name, value in plm.encoder.named_parameters()
        if name.startswith("encoder.layer") and name.endswith("weight") and value.dim() == 2
    }
    torch.save(masks, folder / "mask.pt")
