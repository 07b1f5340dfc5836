"""Where the CPU seconds of each verb go, at the shape of BERT-base and as small as builtin:minilm, with its memory.

    python benchmarks/verb_profile.py --threads 1 --json > result.json

Each verb is a command with few steps on the built-in text, and runs twice, each time in a fresh process. The first run
is as a user runs it: its CPU seconds, from the start of Python to the last file, and its peak memory, libraries
included. The second says in which stages the CPU seconds were spent; a stage inside another counts for itself alone:
  imports   of Python modules
  loading   models and tokenizers, from their files
  hashing   weights and files
  text      reading and tokenizing corpora and examples
  writing   tickets, models and exports
  passes    steps, evaluations, importances, timings: all passes of the model
  rest      all else
`products` are CPU seconds of matrix products and attention in the passes; `explained` is what they would take at the
speed of one large product in the same process, and `passes_over_explained` says how much slower the passes are. Their
time contains that of the instruments, some ten microseconds for each operator.
"""

from __future__ import annotations

import argparse
import importlib
import importlib._bootstrap as bootstrap
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

STAGES = {
    "loading": ("models.loading:load_plm", "models.onnx_runtime:load_onnx"),
    "hashing": ("models.loading:weight_hashes", "models.loading:_builtin_folder", "deploy.formats:_hash_weights"),
    "text": ("data.corpora:load_corpus", "data.batches:CorpusBatches.read", "data.user_files:load_files"),
    "passes": (
        *("training.trainer:TicketTrainer.train", "training.predict:predict_split", "pruning.importance:add_up"),
        *("pruning.one_shot:input_norms", "evaluation.evaluate:average_terms", "deploy.measure:take_turns"),
        "pruning.removal_losses:measure_losses",
    ),
    "writing": ("tickets.ticket:Ticket.save_pretrained", "training.saved_model:save_folder", "runs.files:save_tensors"),
}
LARGE = 2048  # rows and columns of the large product


class Stages:
    """CPU seconds by stage; the one that began last is the present one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._open, self._since = ["rest"], time.process_time()

    def _turn(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def timed(
        self, stage: str, function: Callable[..., Any], name: str, inside: Callable[[], Any] = nullcontext
    ) -> Callable[..., Any]:
        """Return a function whose time counts for a stage, and which runs inside a context."""

        def call(*values: Any, **named: Any) -> Any:
            context = nullcontext if stage in self._open else inside
            self._turn()
            self._open.append(stage)
            if name:
                self.calls[name] += 1
            try:
                with context():
                    return function(*values, **named)
            finally:
                self._turn()
                self._open.pop()

        return call

    def end(self) -> dict[str, float]:
        """Return the seconds of all stages so far."""
        self._turn()
        return dict(self.seconds)


def instrument(stages: Stages, products: Any) -> None:
    """Let the functions of all stages count their time; modules that import them later see only these."""
    for stage, places in STAGES.items():
        for place in places:
            module, _, path = place.partition(":")
            *owners, name = path.split(".")
            owner: Any = importlib.import_module(f"winning_tickets.{module}")
            for one in owners:
                owner = getattr(owner, one)
            found = vars(owner)[name]
            inside = (lambda: products) if stage == "passes" else nullcontext
            timed = stages.timed(stage, getattr(found, "__func__", found), place, inside)
            setattr(owner, name, classmethod(timed) if isinstance(found, classmethod) else timed)


def products_of() -> Any:
    """Return a dispatch mode that adds up operations and CPU seconds of matrix products and attention."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Products(TorchDispatchMode):
        flops, seconds = 0.0, 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            packet = func._overloadpacket
            fused = "scaled_dot_product" in str(packet)
            if packet not in flop_registry and not fused:
                return func(*args, **(kwargs or {}))
            start = time.thread_time()
            out = func(*args, **(kwargs or {}))
            self.seconds += time.thread_time() - start
            if packet in flop_registry:
                self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            else:  # two products of queries, keys and values forward, five backward
                backward = "backward" in str(packet)
                query, key = args[1:3] if backward else args[:2]
                self.flops += (10 if backward else 4) * query.numel() * key.shape[-2]
            return out

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return Products()


def instrumented(words: list[str]) -> dict[str, Any]:
    """Run a command in this process; return its stages, and the time and the work of its matrix products."""
    stages = Stages()
    bootstrap._find_and_load = stages.timed("imports", bootstrap._find_and_load, "")
    products = products_of()
    instrument(stages, products)
    import torch

    from winning_tickets.cli import main as command

    sys.argv, out = ["tickets", *words], os.dup(1)
    os.dup2(2, 1)  # what the command prints is not the result
    try:
        command()
    except SystemExit as end:
        if end.code:
            raise
    seconds = stages.end()
    os.dup2(out, 1)
    return {
        "stages": seconds,
        "calls": dict(stages.calls),
        "tera_flops": products.flops / 1e12,
        "products": products.seconds,
        "explained": products.flops / product_flops_a_second(torch),
    }


def product_flops_a_second(torch: Any) -> float:
    """Return the speed of one large product in float32, by its CPU seconds; the median of seven."""
    left, right = (torch.randn(LARGE, LARGE) for _ in range(2))
    seconds = []
    for _ in range(7):
        start = time.process_time()
        left @ right
        seconds.append(time.process_time() - start)
    return 2 * LARGE**3 / sorted(seconds)[3]


def make_inputs(options: argparse.Namespace, folder: Path) -> None:
    """Write the model, a text and the examples of a task."""
    from search_memory import make_models
    from texts import lines_of
    from winning_tickets.data.pydocs import pydocs_task

    if options.model is None:
        make_models(options.shape, folder)
    (folder / "text.txt").write_text("\n".join(lines_of(None)), encoding="utf-8")
    data = pydocs_task()
    train, dev = (
        list(zip(*part.texts, part.labels, strict=True)) for part in (data.train, data.validation["validation"])
    )
    train = train[: options.examples]
    known = {label for _, label in train}
    parts = {"train": train, "dev": [(text, label) for text, label in dev if label in known][: options.dev]}
    for name, rows in parts.items():
        lines = [json.dumps({"text": text, "label": data.task.labels[label]}) for text, label in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def commands(options: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Return the command of each verb, without its --out; later ones use what earlier ones wrote."""
    model = options.model or str(folder / "none")
    steps, batch = options.steps, options.batch
    task = f"--train-file {folder}/train.jsonl --validation-file {folder}/dev.jsonl --batch-size {batch}"
    text = f"--corpus {folder}/text.txt"
    return {
        "search": f"search {model} --objective kd {text} --steps {steps}",
        "evaluate": f"evaluate {folder}/search --objective kd {text} --max-tokens {options.max_tokens}",
        "transfer": f"transfer {folder}/search {task} --steps {steps} --save-model",
        "super": f"super {model} {task} --steps {steps} --level 30 --selections winning --seeds 0",
        "shrink": f"shrink {model} {text} --steps {steps}",
        "export": f"export {folder}/search --format masked",
        "measure": f"measure {folder}/search --batch 8 --length 64,128",
        "predict": f"predict {folder}/transfer --input {folder}/dev.jsonl",
    }


def whole(words: list[str]) -> dict[str, float]:
    """Run a command as a user does; return its seconds, its CPU seconds and its peak memory."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "winning_tickets", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"The command failed: tickets {' '.join(words)}")
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_megabytes": used.ru_maxrss * 1024 / 1e6,
    }


def report(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    from winning_tickets.runs.provenance import machine, versions

    os.environ["WINNING_TICKETS_CACHE"] = str(folder / "cache")
    make_inputs(options, folder)
    verbs: dict[str, Any] = {}
    for verb, line in commands(options, folder).items():
        if options.only and verb not in options.only:
            continue
        print(line, file=sys.stderr, flush=True)
        out, again = folder / verb, folder / f"{verb}-again"
        if verb == "predict":
            out, again = out.with_suffix(".csv"), again.with_suffix(".csv")
        quiet = [] if verb == "export" else ["--quiet"]
        places = [[*line.split(), *quiet, *([] if verb == "measure" else ["--out", str(one)])] for one in (out, again)]
        verbs[verb] = whole(places[0])
        done = subprocess.run(
            [sys.executable, __file__, "--run", json.dumps(places[1])], stdout=subprocess.PIPE, text=True, check=True
        )
        found = verbs[verb] | json.loads(done.stdout.splitlines()[-1])
        passes = found["stages"].get("passes", 0.0)
        found["passes_over_explained"] = passes / found["explained"] if found["explained"] else None
        print(json.dumps(found), file=sys.stderr, flush=True)  # it is not lost if a later verb fails
        verbs[verb] = found
    return {
        "settings": {
            name: getattr(options, name)
            for name in ("shape", "model", "steps", "batch", "examples", "dev", "max_tokens", "threads")
        },
        "commands": {verb: line.replace(f"{folder}/", "") for verb, line in commands(options, folder).items()},
        "verbs": verbs,
        "ratios": {},
        "intervals_95": {},
        "machine": machine(),
        "versions": versions(),
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("bert-base", "minilm", "tiny"), default="bert-base")
    parser.add_argument("--model", help="another model, such as builtin:minilm")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--dev", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=16_384)
    parser.add_argument("--only", nargs="+", help="verbs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="for `all.py`; the output is always JSON")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(instrumented(json.loads(options.run))))
        return
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(report(options, Path(folder)), indent=2))


if __name__ == "__main__":
    main()
