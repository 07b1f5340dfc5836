"""Compare ways to choose and to recover at the same cost: python compare.py DATA OUT [ROW...] (version 0.1.0).

DATA has folders `glue`, `snli` and `wikipedia`. Each row becomes OUT/ROW.json with what was asked for, the structure,
losses on held-out text, the similarity on the dev set of STS-B and CPU seconds, and OUT/ROW with the model. Rows that
are there are kept, and a row that was stopped resumes. The table of all rows is printed at the end.
"""

import argparse
import copy
import dataclasses
import json
import re
import shutil
import sys
import time
from pathlib import Path

import torch
from pydantic import TypeAdapter

from winning_tickets.config import EvaluateConfig, Runtime
from winning_tickets.config.shrink import ShrinkConfig
from winning_tickets.data.readers import read_lines
from winning_tickets.deploy.costs import CostTable, cost_table
from winning_tickets.evaluation.evaluate import similarity
from winning_tickets.finetuning.recovery import recover
from winning_tickets.finetuning.shrink import Choice, objective_of, prepare, removal_losses, train_gates, unit_values
from winning_tickets.finetuning.shrink_source import ShrinkSource
from winning_tickets.models.loading import PLM
from winning_tickets.models.removal import remove_
from winning_tickets.models.structure import structure_of
from winning_tickets.pruning.budget import Losses, gates_of
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.provenance import machine, versions
from winning_tickets.tickets.files import BaseModelInfo
from winning_tickets.training.saved_model import save_folder

COMMON = {"steps": 80, "warmup_steps": 10, "batch_tokens": 1024, "segments": "lines:64"}
COMMON |= {"importance_batches": 24, "removal_batches": 6}
ROWS: dict[str, dict] = {
    "importance": {},
    "no-recovery": {"steps": 0},
    "flops": {"by": "flops"},
    "gates": {"choice": "gates"},
    "sts": {"text": "sts"},
    "wikipedia": {"text": "wikipedia"},
    "steps-320": {"steps": 320},
    "steps-320-seed1": {"steps": 320, "seed": 1},
    "steps-320-seed2": {"steps": 320, "seed": 2},
    "importance-3x": {"speedup": 3},
    "importance-4x": {"speedup": 4},
    "importance-5x": {"speedup": 5.39},
    "depth": {"choice": "depth"},
    "depth-3x": {"choice": "depth", "speedup": 3},
    "even": {"choice": "even"},
    "even-no-recovery": {"choice": "even", "steps": 0},
    "magnitude": {"choice": "magnitude"},
    "magnitude-no-recovery": {"choice": "magnitude", "steps": 0},
    # Structures by sums of importances.
    "sums": {"sums": True},
    "sums-no-recovery": {"sums": True, "steps": 0},
    "sums-flops": {"sums": True, "by": "flops"},
    "sums-3x": {"sums": True, "speedup": 3},
    "sums-wikipedia": {"sums": True, "text": "wikipedia"},
    "sums-sts": {"sums": True, "text": "sts"},
    "sums-pooled": {"sums": True, "losses": "pooled"},
    "sums-pooled-similarity": {"sums": True, "losses": "pooled+similarity:20"},
    "sums-states": {"sums": True, "losses": "states"},
    "sums-fast": {"sums": True, "learning_rate": 1e-3},
    "sums-slow": {"sums": True, "learning_rate": 1e-4},
    "sums-next": {"sums": True, "layer_map": "next"},
    "sums-40": {"sums": True, "steps": 40},
    "sums-160": {"sums": True, "steps": 160},
    "sums-320": {"sums": True, "steps": 320},
    "sums-flops-320": {"sums": True, "by": "flops", "steps": 320},
}
RAW = Path(__file__).parent / "raw"
QUIET = Runtime(quiet=True, device="cpu")


def sentences(data: Path, name: str) -> list[str]:
    """The sentences of NLI, of STS-B's training set or of Wikipedia, each once."""
    found: list[str] = []
    if name == "wikipedia":
        for line, _ in zip(read_lines(data / "wikipedia" / "wiki.train.txt"), range(60_000), strict=False):
            found += [part for part in re.split(r"(?<=[.!?]) ", line.strip()) if 4 < len(part.split()) < 40]
        return list(dict.fromkeys(found))[:40_000]
    tables = {"nli": ["MNLI"], "sts": ["STS-B"]}[name]
    for table in tables:
        rows = [line.split("\t") for line in (data / "glue" / table / "train.tsv").read_text().split("\n")]
        columns = [rows[0].index(column) for column in ("sentence1", "sentence2")]
        found += [row[column].strip() for row in rows[1:] if len(row) > max(columns) for column in columns]
    if name == "nli":
        for line in (data / "snli" / "snli_1.0_train.jsonl").read_text().splitlines():
            found += [json.loads(line)[column].strip() for column in ("sentence1", "sentence2")]
    return list(dict.fromkeys(text for text in found if text))


def budget_of(choice: Choice, table: CostTable, share: float) -> float:
    """The budget of other costs at which the structure takes a share of the time of `table`."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        sizes = choice.sizes(middle)
        low, high = (middle, high) if sizes is None or table.of(sizes) <= share else (low, middle)
    return low


def config_of(data: Path, out: Path, name: str, asked: dict) -> ShrinkConfig:
    """The configuration of a row that learns from OUT/NAME.txt, which is written where it is not there."""
    text = out / f"{name}.txt"
    if not text.is_file():
        text.write_text("\n".join(sentences(data, name)) + "\n")
    return ShrinkConfig.of(
        model="builtin:minilm", corpus=str(text), eval_steps=max(1, asked["steps"]), max_tokens=4096, **asked
    )


def sizes_of(gates: dict[str, torch.Tensor], layers: int) -> list[tuple[int, ...]]:
    """Heads and neurons of each layer."""
    return [tuple(int(gates[f"layers.{one}.{unit}"].sum()) for unit in ("heads", "neurons")) for one in range(layers)]


def row(data: Path, out: Path, name: str, table: CostTable) -> dict:
    """Choose, recover and measure one small model."""
    asked = COMMON | ROWS[name]
    sums = asked.pop("sums", False)
    text = asked.pop("text", "nli")
    config = config_of(data, out, text, asked)
    started = time.process_time()
    source = ShrinkSource.find(config)
    structure = structure_of(source.plm)
    choosing = out / f"importances-{text}"
    choosing.mkdir(exist_ok=True)
    values = unit_values(config, source, structure, choosing, runtime=QUIET)
    share = next(iter(config.budgets.values()))
    if sums:  # of the importances of what a layer loses, instead of what the model was measured to lose
        losses = Losses.of(values, table.sizes)
    else:
        losses = removal_losses(config, source, structure, values, sizes=table.sizes, folder=choosing, runtime=QUIET)
    choice = Choice(config, structure, values, losses, table, keep_first=False)
    if config.by == "flops":
        choice = dataclasses.replace(choice, costs=cost_table(source.plm, "flops", *config.shape, runtime=QUIET))
        share = budget_of(choice, table, share)
    run = RunDirectory(out / name, "unfinished", name)
    if config.choice == "gates":
        base = BaseModelInfo.of(source.plm.encoder, source.plm.name, "bert", None, layers=None)
        prepared = prepare(config, source, base, name, QUIET)
        gates = train_gates(choice, share, prepared, source, run, out / name, QUIET)
    else:
        gates = gates_of(values, choice.sizes(share), structure)
    sizes = sizes_of(gates, table.layers)
    small = copy.deepcopy(source.plm)
    remove_(small, gates, structure)
    chosen = time.process_time()
    kept = [layer for layer, numbers in enumerate(sizes) if any(numbers)]
    found = recovered(data, config, source, small, kept, run)
    save_folder(small.model, small.tokenizer, out / name / "model")
    found["cpu_seconds"] = {"choose": chosen - started} | found["cpu_seconds"]
    return {
        "row": name,
        "asked": COMMON | ROWS[name],
        "layers": sizes,
        "time_by_table": table.of(sizes),
    } | found


def recovered(
    data: Path, config: ShrinkConfig, source: ShrinkSource, small: PLM, kept: list[int], run: RunDirectory
) -> dict:
    """Recover a small model, which keeps some layers, in place; and measure it."""
    started = time.process_time()
    facts = recover(
        config,
        small,
        objective_of(config, source, kept),
        source.batches,
        held_out=source.held_out,
        run=run,
        runtime=QUIET,
    )
    ended = time.process_time()
    small.model.requires_grad_(True)
    shutil.rmtree(run.scratch, ignore_errors=True)
    pairs = EvaluateConfig(target="builtin:minilm", task="stsb", data_dir=str(data / "glue"))
    with torch.no_grad():
        scores = similarity(pairs, dataclasses.replace(small, model=small.model.eval()), torch.device("cpu"), QUIET)
    return {
        "parameters": sum(value.numel() for value in small.encoder.parameters()),
        "recovery": facts,
        "spearman": scores["similarity_spearman"],
        "pairs": scores["pairs"],
        "cpu_seconds": {"recover": ended - started},
        "machine": machine(),
        "versions": versions(),
    }


def table_of(out: Path) -> str:
    """The rows that are there, in Markdown."""
    dense = json.loads((RAW / "importance.json").read_text())["dense"]["quality"]["similarity_spearman"]
    lines = [
        "| row | speed-up by the table | steps | STS-B dev | of dense | embedding distance before, after | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ROWS:
        if (out / f"{name}.json").is_file():
            found = json.loads((out / f"{name}.json").read_text())
            before, after = (found["recovery"][when].get("pooled", float("nan")) for when in ("before", "after"))
            lines.append(
                f"| {name} | {1 / found['time_by_table']:.2f} | {found['recovery']['steps']} | {found['spearman']:.4f} "
                f"| {found['spearman'] / dense:.3f} | {before:.3f}, {after:.3f} "
                f"| {found['cpu_seconds']['recover']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the rows that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("rows", nargs="*", default=list(ROWS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    stored = json.loads((RAW / "costs.json").read_text())
    table = TypeAdapter(CostTable).validate_python(stored, extra="ignore")
    for name in options.rows:
        file = options.out / f"{name}.json"
        if not file.is_file():
            file.write_text(json.dumps(row(options.data, options.out, name, table), indent=2) + "\n")
    sys.stdout.write(table_of(options.out))


if __name__ == "__main__":
    main()
