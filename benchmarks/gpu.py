"""Everything about a GPU in one command: its tests, and the measurements, as one JSON file and one Markdown table.

    make gpu                                                       # finds or makes a Python, then the next line
    python benchmarks/gpu.py --out gpu-out                         # in under 8 minutes, unattended
    python benchmarks/gpu.py --out DIR --device cpu --quick        # tiny sizes: does everything run?
    python benchmarks/gpu.py --out DIR --only tests,mask_step

Parts, each in a process of its own, so that one that fails leaves the others:
  tests            tests/gpu: every verb and method, resume, several processes, sharded weights
  search_kd, search_mlm   whole searches by the command: the loop with its data, log and checkpoints
  mask_step        the steps alone, beside dense and straightforward ones, with their peak memory
  hold_step        fine-tuning with a ticket held, and iterative pruning
  semi_structured  inference of a 2:4 ticket with sparse kernels
The shape is that of BERT-base, 16 x 512 tokens, in bfloat16, with random weights on the built-in text; no file outside
of the checkout is read. Utilization is the share of the speed of one large product on the same device, and of the
device's stated peak where it is in `PEAKS`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from all import words_of
from registry import BENCHMARKS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAPER_STEPS, PAPER_SECONDS = 22_000, 3 * 3600 + 55 * 60
ASKED_SECONDS = 360
"""The paper's search of 22,000 steps on a V100, and what is asked of an H200 for the same steps."""
SHARED = {"batch": 16, "length": 512}
SEARCH_STEPS, WARM_STEPS = 100, 20

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "V100": 125e12}
"""Stated operations a second in dense bfloat16 (V100: float16) of the variants with the fastest memory."""


@dataclass
class Plan:
    """What is run, and where.

    Attributes:
        device: `cuda` or `cpu`.
        quick: tiny sizes.
        out: the folder of all files.
        minutes: until everything has to be done; with more than 8 each part has more time too.
        found: results by part.
        failed: reasons by part.
    """

    device: str
    quick: bool
    out: Path
    minutes: float = 8
    found: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + 60 * self.minutes

    def run(self, words: Sequence[str], seconds: float, codes: tuple[int, ...] = (0,)) -> str:
        """Run a Python program for so many seconds at most and return its stdout; its stderr goes to the log.

        Raises:
            RuntimeError: it fails, or is not done in time.
        """
        limit = min(seconds * max(1.0, self.minutes / 8), self._end - time.monotonic())
        if limit <= 0:
            raise RuntimeError("no time was left")
        paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
        environment |= {"WINNING_TICKETS_CACHE": str(self.out / "cache"), "TOKENIZERS_PARALLELISM": "false"}
        log = self.out / "log.txt"
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ python {' '.join(words)}\n")
            file.flush()
            before = file.tell()
            with subprocess.Popen(
                [sys.executable, *words],
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            ) as process:
                try:
                    printed, _ = process.communicate(timeout=limit)
                except BaseException as error:
                    os.killpg(process.pid, signal.SIGKILL)  # with its own processes, which would keep the GPU
                    if not isinstance(error, subprocess.TimeoutExpired):
                        raise
                    raise RuntimeError(f"not done after {limit:.0f} seconds") from error
            file.write(printed if process.returncode else "")
        if process.returncode not in codes:
            with log.open(encoding="utf-8", errors="replace") as file:
                file.seek(before)
                said = file.read().strip().splitlines()
            raise RuntimeError(f"exit code {process.returncode}: {said[-1] if said else 'nothing was printed'}")
        return printed


def device_facts(plan: Plan) -> dict[str, Any]:
    """Return the device, its driver's and torch's versions, and how float32 products are computed."""
    program = """
import json, torch
from winning_tickets.runs.provenance import machine, versions
found = {"torch": torch.__version__, "built_for_cuda": torch.version.cuda, "machine": machine(), "versions": versions()}
found["float32_products"] = torch.get_float32_matmul_precision()
found["devices"] = [
    {"name": one.name, "memory_bytes": one.total_memory, "capability": f"{one.major}.{one.minor}"}
    for one in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
]
print(json.dumps(found))
"""
    found: dict[str, Any] = json.loads(plan.run(["-c", program], 60))
    return found | {"device": found["devices"][0]["name"] if plan.device != "cpu" else "cpu"}


def tests(plan: Plan) -> dict[str, Any]:
    """Run tests/gpu; return the numbers of tests by outcome, and the first lines of what failed."""
    report = plan.out / "tests.xml"
    words = ["-m", "pytest", "tests/gpu", "-m", "gpu", "--device", plan.device, "-p", "no:cacheprovider"]
    words += ["-o", "filterwarnings=default", "--junitxml", str(report)]
    plan.run(words, 240, codes=(0, 1))
    return outcomes(report)


def outcomes(report: Path) -> dict[str, Any]:
    """Read pytest's report: numbers by outcome, the reasons of skips, and the messages of failures."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    found: dict[str, Any] = {"passed": 0, "skipped": [], "failed": [], "seconds": float(suite.get("time", 0))}
    for case in suite.iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        problem = next((one for one in case if one.tag in ("failure", "error", "skipped")), None)
        if problem is None:
            found["passed"] += 1
            continue
        message = (problem.get("message") or "").splitlines()
        which = "skipped" if problem.tag == "skipped" else "failed"
        found[which].append(f"{name}: {message[0] if message else ''}")
    return found


def search(objective: str) -> Callable[[Plan], dict[str, Any]]:
    """Return the part that runs a whole search with an objective."""
    return lambda plan: _search(plan, objective)


def _search(plan: Plan, objective: str) -> dict[str, Any]:
    """Run a search and read its log: seconds of a step behind the first ones, and the peak of the GPU's memory."""
    steps, warm = (4, 2) if plan.quick else (SEARCH_STEPS, WARM_STEPS)
    length = 16 if plan.quick else SHARED["length"]
    model, out = plan.out / "model", plan.out / f"search-{objective}"
    if not model.is_dir():
        plan.run(["-c", MAKE_MODEL, str(HERE), "tiny" if plan.quick else "bert-base", str(model)], 120)
    settings = {"model": str(model), "objective": objective, "sparsity": 0.6, "corpus": "pydocs", "steps": steps}
    settings |= {"segments": f"packed:{length}", "batch_tokens": (2 if plan.quick else SHARED["batch"]) * length}
    runtime = {"device": plan.device, "bf16": not plan.quick, "quiet": True}
    found = json.loads(plan.run(["-c", SEARCH, json.dumps(settings), json.dumps(runtime), str(out)], 120))
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = sum(record["seconds"] for record in records[warm:]) / len(records[warm:])
    losses = {"first_loss": records[0][objective], "last_loss": records[-1][objective]}
    return {"objective": objective, "steps": steps, "ms_a_step": 1000 * seconds} | losses | found


SEARCH = """
import json, sys
import torch
from winning_tickets import Runtime, SearchConfig, search
settings, runtime, out = sys.argv[1:]
ticket = search(SearchConfig(method="mask-training", **json.loads(settings)), out, Runtime(**json.loads(runtime)))
on_gpu = json.loads(runtime)["device"] != "cpu"
peak = torch.cuda.max_memory_allocated() if on_gpu else None
print(json.dumps({"sparsity": ticket.sparsity, "peak_bytes": peak}))
"""
"""A search; `sys.argv`: its settings and those of its execution as JSON, and where to."""

MAKE_MODEL = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from transformers import BertConfig, BertForMaskedLM
from bench import SHAPES
from texts import tokenizer_of
tokenizer = tokenizer_of(None)
shape = SHAPES[sys.argv[2]]
torch.manual_seed(0)
config = BertConfig(**shape | {"vocab_size": max(len(tokenizer), shape.get("vocab_size", 30522))})
BertForMaskedLM(config).save_pretrained(sys.argv[3])
tokenizer.save_pretrained(sys.argv[3])
"""
"""A model with random weights; `sys.argv`: the folder of the benchmarks, the shape, where to."""


def benchmark(name: str, seconds: float) -> Callable[[Plan], dict[str, Any]]:
    """Return the part that runs a registered benchmark."""
    (registered,) = [one for one in BENCHMARKS if one.name == name]

    def part(plan: Plan) -> dict[str, Any]:
        words = [str(HERE / f"{registered.script}.py"), *words_of(registered, plan.quick, plan.device)]
        found: dict[str, Any] = json.loads(plan.run(words, seconds))
        return found

    return part


PARTS: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "device": device_facts,
    "tests": tests,
    "search_kd": search("kd"),
    "search_mlm": search("mlm"),
    "mask_step": benchmark("mask_step", 180),
    "hold_step": benchmark("hold_step", 90),
    "semi_structured": benchmark("semi_structured", 90),
}

HEAD = ("what", "ms a step", "tokens/s", "of one product", "of the stated peak", "22,000 steps", "peak memory")
NAMES = {
    "mask_step": {
        "dense": "dense step, MLM",
        "mlm_mask": "mask step, MLM",
        "kd_mask": "mask step, KD",
        "in_graph": "masks in the graph, MLM",
        "alike": "the same, embeddings' mask fixed, fused AdamW",
    },
    "hold_step": {
        "dense": "fine-tuning, dense",
        "held": "fine-tuning with a ticket held",
        "torch_prune": "fine-tuning with torch.nn.utils.prune",
        "units_held": "fine-tuning, half of heads and FFNs held as zeros",
        "removed": "fine-tuning, half of heads and FFNs removed",
        "mlm": "training on MLM, plain loop",
        "imp": "step of iterative pruning",
    },
    "semi_structured": {"dense": "inference of a 2:4 ticket, dense kernels", "sparse": "the same, sparse kernels"},
}
"""Lines of the table, by part and variant."""


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of the table with their numbers; None where one was not measured."""
    steps = found.get("mask_step", {})
    flops, product = steps.get("model_flops_a_step", {}), steps.get("product_flops_a_second")
    shape = steps.get("shape") or SHARED
    tokens = shape["batch"] * shape["length"]
    peak = next((value for name, value in PEAKS.items() if name in found.get("device", {}).get("device", "")), None)

    def row(what: str, ms: float, operations: float | None, memory: float | None, paper: bool) -> dict[str, Any]:
        speed = None if operations is None else 1000 * operations / ms
        return {
            "what": what,
            "ms_a_step": ms,
            "tokens_a_second": 1000 * tokens / ms,
            "of_product": None if speed is None or product is None else speed / product,
            "of_peak": None if speed is None or peak is None else speed / peak,
            "paper_seconds": PAPER_STEPS * ms / 1000 if paper else None,
            "peak_bytes": memory,
        }

    made = []
    for objective in ("kd", "mlm"):
        if (one := found.get(f"search_{objective}")) is not None:
            what = f"whole search, {objective.upper()}"
            made.append(row(what, one["ms_a_step"], flops.get(f"{objective}_mask"), one["peak_bytes"], True))
    for part, names in NAMES.items():
        one = found.get(part, {})
        for variant, ms in one.get("ms_a_step", {}).items():
            what = names[variant]
            operations = one.get("model_flops_a_step", {}).get(variant)
            memory = one.get("peak_bytes", {}).get(variant)
            made.append(row(what, ms, operations, memory, variant.endswith("_mask")))
    return made


def markdown(found: dict[str, Any], failed: dict[str, str]) -> str:
    """Return the page: device and versions, tests, table, what failed."""
    facts, lines = found.get("device", {}), []
    if facts:
        count = len(facts["devices"])
        lines.append(f"{facts['device']} ({count} devices), torch {facts['torch']}, CUDA {facts['built_for_cuda']}.")
    if "tests" in found:
        done = found["tests"]
        lines.append(f"Tests: {done['passed']} passed, {len(done['skipped'])} skipped, {len(done['failed'])} failed.")
        lines += [f"- failed: {one}" for one in done["failed"]] + [f"- skipped: {one}" for one in done["skipped"]]
    lines += ["", f"| {' | '.join(HEAD)} |", "|---|---:|---:|---:|---:|---:|---:|"]
    for one in rows(found):
        paper, memory = one["paper_seconds"], one["peak_bytes"]
        cells = [
            one["what"],
            f"{one['ms_a_step']:.2f}",
            f"{one['tokens_a_second']:,.0f}",
            "" if one["of_product"] is None else f"{one['of_product']:.0%}",
            "" if one["of_peak"] is None else f"{one['of_peak']:.0%}",
            "" if paper is None else f"{paper / 60:.1f} min",
            "" if memory is None else f"{memory / 1e9:.2f} GB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    hours = f"{PAPER_SECONDS // 3600} h {PAPER_SECONDS % 3600 // 60} min"
    lines += [
        "",
        f"The paper's {PAPER_STEPS:,} steps took {hours} on a V100; asked of an H200: {ASKED_SECONDS / 60:g} min.",
    ]
    lines += [f"- {part} failed: {reason}" for part, reason in failed.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the parts, write `gpu.json` and `gpu.md`, print the page. Exit with code 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-out"), help="a folder for all files")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--only", help=f"parts, with commas: {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, default=8, help="what is not done by then is stopped and reported")
    options = parser.parse_args()
    chosen = list(PARTS) if options.only is None else ["device", *options.only.split(",")]
    if unknown := [name for name in chosen if name not in PARTS]:
        sys.exit(f"There is no part {', '.join(unknown)}; there are {', '.join(PARTS)}.")
    options.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(options.device, options.quick, options.out.resolve(), options.minutes)
    for name in dict.fromkeys(chosen):
        began = time.monotonic()
        try:
            plan.found[name] = PARTS[name](plan)
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            plan.failed[name] = (
                f"{type(error).__name__}: {error}" if not isinstance(error, RuntimeError) else str(error)
            )
        print(f"{name}: {time.monotonic() - began:.0f} s {plan.failed.get(name, '')}", file=sys.stderr, flush=True)
        # Whatever happens later, what was found is kept.
        content = {"parts": plan.found, "failed": plan.failed, "table": rows(plan.found), "quick": options.quick}
        (plan.out / "gpu.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
        page = markdown(plan.found, plan.failed)
        (plan.out / "gpu.md").write_text(page, encoding="utf-8")
    print(page, end="")
    if plan.failed or plan.found.get("tests", {}).get("failed"):
        sys.exit(f"Failed; {plan.out / 'log.txt'} has what was printed.")


if __name__ == "__main__":
    main()
