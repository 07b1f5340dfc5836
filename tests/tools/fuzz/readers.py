"""Every reader of files that others may have written: which file is damaged, how it is read, how it is sealed again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tools.fuzz import seeds
from winning_tickets.cli import show
from winning_tickets.data.corpora import load_corpus
from winning_tickets.data.glue import read_tests
from winning_tickets.data.loading import load_task
from winning_tickets.data.tasks import TASKS
from winning_tickets.data.user_files import load_files
from winning_tickets.deploy.mask_files import read_masks
from winning_tickets.deploy.verify import verify
from winning_tickets.models.loading import PLM, load_plm, outline
from winning_tickets.models.weights import load_state
from winning_tickets.pruning.importance import Importance
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import ContentError, TicketsError, UsageError
from winning_tickets.runs.files import sha256
from winning_tickets.runs.identity import digest
from winning_tickets.runs.locks import name_owner
from winning_tickets.runs.store import query
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.analysis.averages import average_runs
from winning_tickets.studies.analysis.kinds import ANALYSES
from winning_tickets.studies.commands.analyse import averages_text
from winning_tickets.studies.report import report_study
from winning_tickets.tickets.ticket import Ticket, describe
from winning_tickets.training.saved_model import TaskInfo
from winning_tickets.training.shared_model import SharedModel


@dataclass(frozen=True)
class Reader:
    """A way to open a file.

    Attributes:
        make: writes a folder of valid files.
        file: the one that is damaged, relative to the folder.
        form: a key of `mutate.FORMS`.
        read: opens the folder, and does with it what a command would.
        seal: puts checksums right after the damage, as whoever means harm would.
        inputs: of the long run; fewer where each takes long.
        copied_from: what the file is a cache of, which errors may name instead.
    """

    make: Callable[[Path], None]
    file: str
    form: str
    read: Callable[[Path], Any]
    seal: Callable[[Path], None] | None = None
    inputs: int = 100_000
    copied_from: str | None = None


def _sealed(*places: tuple[str, str, str | None]) -> Callable[[Path], None]:
    """A function that renews hashes: of a file in a description (dotted key), then the description's own checksum."""

    def seal(folder: Path) -> None:
        for description, key, file in places:
            path = folder / description
            try:
                body = json.loads(path.read_bytes())
                body.pop("checksum", None)
                if file is not None:
                    inside = body
                    *above, last = key.split("|")
                    for part in above:
                        inside = inside[part]
                    inside[last] = sha256(folder / file)
                path.write_text(json.dumps({**body, "checksum": digest(body, 64)}), encoding="utf-8")
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
                return  # beyond what can be sealed

    return seal


def _ticket(folder: Path) -> Any:
    return show.description(describe(Ticket.from_pretrained(folder / "ticket")) | {"tickets_inside": []})


def _shared(folder: Path) -> Any:
    model = SharedModel.open(folder / "shared")
    return [(model.info(task), model.ticket(task), model.load_task(task)) for task in model.tasks]


def _base_model(folder: Path) -> Any:
    """Open a model as each verb does, for its outline first, and read a text with it."""
    where = str(folder / "model")
    size = sum(value.numel() for value in outline(where).model.parameters())
    plm = load_plm(where, head="mlm")
    assert size < 10**8
    batch = plm.tokenizer("the cat sat", truncation=True, max_length=plm.tokenizer.model_max_length)["input_ids"]
    return len(plm.model(torch.tensor([batch])).logits)


def _task(name: str) -> Callable[[Path], Any]:
    return lambda folder: load_task(name, folder)


def _rows(name: str, **options: Any) -> Callable[[Path], Any]:
    return lambda folder: load_files(folder / name, folder / name, None, **options)


def _results(folder: Path) -> Any:
    """What `average` and `analyse` make of runs."""
    found = [
        lambda: averages_text(average_runs([folder / "run"])),
        lambda: _gain(folder / "run", folder / "dense"),
        lambda: ANALYSES["winning"]([folder / "run"], dense=[folder / "dense"]),
        lambda: ANALYSES["predictors"]([folder / "run", folder / "evaluation.json"]),
        lambda: _gain(folder / "seed", folder / "dense"),
    ]
    return each(found, (UsageError,))  # which tells how runs go together, by tasks and seeds


def _gain(run: Path, dense: Path) -> Any:
    try:
        return ANALYSES["gain"]([run], [dense])
    except ContentError as error:
        if not str(error).startswith("Runs are paired by task and seed"):  # which is about no one file
            raise


def each(functions: list[Callable[[], Any]], allowed: tuple[type[Exception], ...] = ()) -> Any:
    """Call all, and raise the last of their errors, if there is one: each must fail as it should.

    Args:
        functions: to be called.
        allowed: errors that are passed over.
    """
    error = None
    for function in functions:
        try:
            function()
        except allowed:
            continue
        except TicketsError as found:
            error = found
    if error is not None:
        raise error


def _store(folder: Path) -> Any:
    place = str(folder / "store")

    def records() -> None:
        found = list(Store(place).records(["config.task=rte"])) + list(Store(place).records())
        query.as_text(found, place)
        query.as_csv(found)
        json.dumps(query.as_json(found, place), allow_nan=False).encode()

    return each([records, lambda: verify([place]), lambda: _stored(place), lambda: _tables(folder)])


def _stored(place: str) -> Any:
    store = Store(place)
    return store.result("done") if store.status("done") == "done" else None


@cache
def _plan_of_store() -> Any:
    from tools.fuzz.plans import plan_with

    return plan_with("done")


def _tables(folder: Path) -> Any:
    return report_study(_plan_of_store(), Store(folder / "store"), folder / "tables", ("md", "csv"), force=True)


def _page(folder: Path) -> Any:
    return report_study(_plan_of_store(), Store(folder / "store"), folder / "page", ("html",), force=True)


def _log(folder: Path) -> Any:
    return RunDirectory(folder / "run", "unfinished", "x").forget_after(1)


@cache
def _plm() -> PLM:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return seeds.tiny_plm(Path(folder))


TICKET = ("ticket/ticket.json", "", None)
FEW = 10_000


def _file(name: str) -> Callable[[Path], None]:
    return _sealed(("ticket/ticket.json", f"files|{name}", f"ticket/{name}"))


READERS: dict[str, Reader] = {
    "ticket description": Reader(seeds.ticket, "ticket/ticket.json", "json", _ticket, _sealed(TICKET)),
    "ticket description as it is": Reader(seeds.ticket, "ticket/ticket.json", "json", _ticket),
    "masks": Reader(seeds.ticket, "ticket/ticket.safetensors", "safetensors", _ticket, _file("ticket.safetensors")),
    "mlm head": Reader(
        seeds.ticket, "ticket/mlm_head.safetensors", "safetensors", _ticket, _file("mlm_head.safetensors")
    ),
    "ticket to verify": Reader(
        seeds.ticket, "ticket/ticket.json", "json", lambda folder: verify([folder / "ticket"]), _sealed(TICKET), FEW
    ),
    "structured ticket": Reader(seeds.structured, "ticket/ticket.json", "json", _ticket, _sealed(TICKET)),
    "gates": Reader(seeds.structured, "ticket/ticket.safetensors", "safetensors", _ticket, _file("ticket.safetensors")),
    "state": Reader(
        seeds.state, "state.safetensors", "safetensors", lambda folder: load_state(folder / "state.safetensors")
    ),
    "importance": Reader(
        seeds.importance,
        "importance/importance.json",
        "json",
        lambda folder: Importance.load(folder / "importance").id,
        _sealed(("importance/importance.json", "", None)),
    ),
    "importance tensors": Reader(
        seeds.importance,
        "importance/importance.safetensors",
        "safetensors",
        lambda folder: Importance.load(folder / "importance").id,
        _sealed(("importance/importance.json", "sha256", "importance/importance.safetensors")),
    ),
    "shared model": Reader(
        seeds.shared, "shared/shared.json", "json", _shared, _sealed(("shared/shared.json", "", None)), FEW
    ),
    **{
        f"base model, {file}": Reader(seeds.base_model, f"model/{file}", form, _base_model, inputs=FEW)
        for file, form in (
            *(("config.json", "json"), ("tokenizer.json", "json"), ("tokenizer_config.json", "json")),
            *(("model.safetensors", "safetensors"),),
        )
    },
    "base model, shards": Reader(
        seeds.sharded_model, "model/model.safetensors.index.json", "json", _base_model, inputs=FEW
    ),
    "base model, pytorch_model.bin": Reader(
        seeds.pickled_model, "model/pytorch_model.bin", "pt", _base_model, inputs=FEW
    ),
    "task of a saved model": Reader(seeds.saved_model, "task.json", "json", TaskInfo.read),
    "CoLA": Reader(seeds.glue, "CoLA/train.tsv", "tsv", _task("cola")),
    "RTE": Reader(seeds.glue, "RTE/dev.tsv", "tsv", _task("rte")),
    "STS-B": Reader(seeds.glue, "STS-B/train.tsv", "tsv", _task("stsb")),
    "SNLI": Reader(seeds.glue, "snli_1.0/snli_1.0_train.jsonl", "jsonl", _task("snli")),
    "SciTail": Reader(seeds.glue, "tsv_format/scitail_1.0_train.tsv", "tsv", _task("scitail")),
    "GLUE test set": Reader(seeds.glue, "RTE/test.tsv", "tsv", lambda folder: read_tests(TASKS["rte"], folder)),
    "SQuAD": Reader(seeds.squad, "train-v1.1.json", "json", _task("squad")),
    "CSV": Reader(seeds.tables, "rows.csv", "csv", _rows("rows.csv")),
    "TSV": Reader(seeds.tables, "rows.tsv", "tsv", _rows("rows.tsv")),
    "JSONL with sets of classes": Reader(seeds.tables, "rows.jsonl", "jsonl", _rows("rows.jsonl", kind="multilabel")),
    "JSONL of words": Reader(seeds.tables, "words.jsonl", "jsonl", _rows("words.jsonl", kind="tokens")),
    "CoNLL": Reader(seeds.tables, "words.conll", "conll", _rows("words.conll")),
    "corpus": Reader(
        seeds.corpus, "corpus.txt", "text", lambda folder: load_corpus(str(folder / "corpus.txt"), "train")
    ),
    "result": Reader(seeds.run, "run/result.json", "json", _results),
    "result of two seeds": Reader(seeds.run_of_two_seeds, "run/result.json", "json", _results),
    "result of a seed": Reader(seeds.run, "seed/seed-0/result.json", "json", _results),
    "evaluation": Reader(seeds.run, "evaluation.json", "json", _results),
    "log": Reader(seeds.run, "run/metrics.jsonl", "jsonl", _log),
    "settings of a run": Reader(seeds.run, "run/config.json", "json", lambda folder: verify([folder / "run"])),
    "stored result": Reader(seeds.store, "store/runs/done/result.json", "json", _store, inputs=FEW),
    "stored settings": Reader(seeds.store, "store/runs/done/config.json", "json", _store, inputs=FEW),
    "stored description": Reader(seeds.store, "store/about/done/run.json", "json", _store, inputs=FEW),
    "stored provenance": Reader(seeds.store, "store/about/done/provenance.json", "json", _store, inputs=FEW),
    "stored error": Reader(seeds.store, "store/about/failed/error.json", "json", _store, inputs=FEW),
    "stored hashes": Reader(seeds.store, "store/about/done/files.json", "json", _store, inputs=FEW),
    "stored result on a page": Reader(seeds.store, "store/runs/done/result.json", "json", _page, inputs=1000),
    "stored provenance on a page": Reader(seeds.store, "store/about/done/provenance.json", "json", _page, inputs=1000),
    "cached index of a store": Reader(
        seeds.store, "store/cache/index.sqlite", "text", _store, inputs=FEW, copied_from="runs/done/"
    ),
    "claim": Reader(
        seeds.store,
        "store/claims/unfinished.lock",
        "text",
        lambda folder: name_owner(folder / "store" / "claims" / "unfinished.lock"),
    ),
    "marker of a store": Reader(seeds.store, "store/store.json", "json", _store, inputs=FEW),
    "mask.pt": Reader(seeds.mask_pt, "mask.pt", "pt", lambda folder: read_masks(folder / "mask.pt", _plm())),
}
"""By name. A new reader of files that others may have written gets a line here."""
