# ruff: noqa: E501, SIM905, T201 - command lines as they are typed
"""Collect the values that a change of structure must leave equal, as one sorted JSON file, and compare two of them.

    python tests/tools/golden.py OUT.json                 one minute on one free core
    python tests/tools/golden.py OUT.json --tree FOLDER   the values of another checkout, such as that of a release
    python tests/tools/golden.py --compare A.json B.json  prints every key that differs; exit code 1 if any does

Before and after a change of structure, compare the values of both checkouts on the same machine:

    git worktree add ../before v0.1.0 && python tests/tools/golden.py before.json --tree ../before

Collected:
    plans     every run id, configuration and point of every recipe at every scale
    json      the JSON of every verb: each key with its value, or with its type where a clock or a machine decides it
    tensors   hashes of the tensors of every ticket, model, state and export that these verbs write
    files     names of the files in the folders of runs, tickets, exports, analyses, reports, stores and the cache
    contents  hashes of the JSON and text in them
    errors    exit codes of command lines with mistakes

The verbs run through the command line in this process on the models and data of `tiny:`; studies start their own
worker processes. Hashes of tensors and measured numbers depend on the type of the CPU and on the version of torch, so
no collection is stored. Run ids depend on the place of a model, so every collection uses the same temporary folder and
waits for another one. Files that hold times or hashes of them are left out. Not run, because too slow or because they
need a network or a GPU: `demo`, ONNX export, PNG pictures (their names are collected), Ray, several processes.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCALES = ("smoke", "small", "paper")
VOLATILE = re.compile(
    r"^estimate(\.|$)|(^|[._])(seconds|versions?|machine|provenance|created|created_at|finished_at|started_at|started|finished"
    r"|pid|host|hostname|peak_memory|threads|milliseconds|median_ms|speedup|speed|timings?|passes|texts_per_second"
    r"|tokens_per_second|disk|git|last_used|bytes_hashed|commit|python|platform|cpu|device_name|time|date)(\[|\.|$)|_seconds|(?<!saved)_at$|_ms($|\.)"
)
"""Keys whose values a clock or a machine decides; only their types are collected."""
UNSTABLE = re.compile(r"^(store/(about/[^/]+/files\.json|cache/)|report-.*/index\.html)")
"""Files that hold hashes of files with times, and times in text; only their names are collected."""
TEXT = {".csv", ".md", ".tex", ".txt", ".yaml", ".yml", ".tsv", ".svg", ".html"}
TRAINED = "--steps 4 --batch-tokens 64 --segments packed:16"
ROUNDS = "--sparsity 0.3,0.6 --round-steps 3 --batch-size 8 --batch-tokens 64 --segments packed:16"
FEW = "--data-dir glue --steps 3 --batch-size 8"


def planning() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Functions that load and plan a study; the only names of this script that are not public."""
    package = "winning_tickets.studies"
    return import_module(f"{package}.load").load_study, import_module(f"{package}.plan").plan_study


SEARCHES = {
    "random": "search bert --method random --sparsity 0.5 --seed 3",
    "random-n-m": "search bert --method random --pattern 2:4",
    "magnitude": "search bert --method magnitude --sparsity 0.5,0.7",
    "magnitude-global": "search bert --method magnitude --ranking global --sparsity 0.6",
    "random-like": "search bert --method random --like out/magnitude-global",
    "magnitude-n-m": "search bert --method magnitude --pattern 2:4",
    "magnitude-encoder": "search bert --method magnitude --scope encoder --ranking row",
    "magnitude-noise": "search bert --method magnitude --weights-from noise:0.1",
    "magnitude-roberta": "search roberta --method magnitude --sparsity 0.6",
    "wanda": "search bert --method wanda --corpus text --batch-tokens 64 --segments packed:16",
    "wanda-n-m": "search bert --method wanda --pattern 1:4 --corpus text --batch-tokens 64 --segments packed:16",
    "kd": f"search bert --method mask-training --corpus text {TRAINED} --sparsity 0.5,0.7 --save-at 1,2",
    "mlm": f"search bert --corpus text {TRAINED} --objective mlm --sparsity 0.6",
    "mlm-kd-paper": f"search bert --corpus text {TRAINED} --objective mlm+kd --profile paper",
    "mlm-kd-code": f"search bert --corpus text {TRAINED} --objective mlm:1,kd:2 --profile code",
    "attention": f"search bert --corpus text {TRAINED} --objective attention",
    "contrastive": f"search bert --corpus text {TRAINED} --objective contrastive --temperature 0.1",
    "logits": f"search bert --corpus text {TRAINED} --objective logits",
    "kd-n-m": f"search bert --corpus text {TRAINED} --pattern 2:4",
    "kd-global": f"search bert --corpus text {TRAINED} --ranking global --score-init rank",
    "kd-plateau": f"search bert --corpus text {TRAINED} --score-init plateau --alpha 3",
    "kd-random": f"search bert --corpus text {TRAINED} --score-init random --non-finite skip",
    "kd-roberta": f"search roberta --corpus text {TRAINED}",
    "gates": f"search bert --corpus text {TRAINED} --heads 2 --ffns 1 --neurons 40",
    "gates-layers": f"search bert --corpus text {TRAINED} --whole-layers 1",
    "imp": f"search bert --method imp --objective mlm+task --task rte --data-dir glue --corpus text {ROUNDS}",
    "imp-mlm": f"search bert --method imp --corpus text {ROUNDS} --rewind step:1 --save-trained",
    "imp-own": f"search bert --method imp --objective task --train-file rows.csv --text-columns text {ROUNDS}"
    " --prune-first --rewind none --rate-horizon total",
    "snip": f"search bert --method snip --corpus text {TRAINED}",
    "movement": f"search bert --method movement --objective task --task rte --data-dir glue {TRAINED}",
    "importance": "search bert --method importance --objective kd --corpus text --level 50,75 --keep-token-importance",
    "importance-losing": "search bert --method importance --objective mlm --corpus text --level 50 --selection losing",
    "importance-task": "search bert --method importance --importance-from out/transfer --level 50",
    "importance-again": "search bert --method importance --importance-from out/importance --level 25 --units heads",
}
RUNS = {
    "fit-head": f"fit-head plain --corpus text {TRAINED} --train-encoder",
    "transfer": f"transfer bert --task rte {FEW} --eval-steps 2 --seeds 0,1 --save-model",
    **SEARCHES,
    "transfer-ticket": f"transfer out/magnitude/sparsity-0.70 --task rte {FEW} --eval-steps 2 --seeds 0,1 --save-model",
    "transfer-kd": f"transfer out/kd/sparsity-0.70 --task rte {FEW} --eval-steps 2 --seeds 0,1",
    "transfer-random": f"transfer out/random --task rte {FEW} --seeds 0,1",
    "transfer-shuffled": f"transfer out/magnitude/sparsity-0.70 --task mrpc {FEW} --start-from shuffle-within",
    "transfer-stsb": f"transfer bert --task stsb {FEW} --train-size 50% --profile paper",
    "transfer-cola": f"transfer bert --task cola {FEW} --select-on 0.5 --patience 1 --eval-steps 1 --save-model",
    "transfer-mnli": f"transfer bert --task mnli {FEW}",
    "transfer-squad": f"transfer bert --task squad {FEW} --max-length 32 --doc-stride 8",
    "transfer-smart": f"transfer bert --task rte {FEW} --smart 1 --optimizer adamax-mtdnn",
    "transfer-own": "transfer out/importance/level-50 --train-file rows.csv --validation-file rows.csv --steps 2",
    "transfer-tokens": "transfer bert --train-file words.conll --validation-file words.conll --kind tokens --steps 2",
    "transfer-multilabel": "transfer bert --train-file many.csv --validation-file many.csv --kind multilabel --steps 2",
    "transfer-task-file": "transfer bert --task-file tasks.yml --task reviews --steps 2",
    "transfer-again": "transfer out/transfer --train-file rows.csv --validation-file rows.csv --steps 2 --fresh-head",
    "share": "share --tasks rte,stsb --model bert --tickets auto --level 50 --single-epochs 0.5 --data-dir glue "
    "--steps 4 --batch-size 8 --seeds 0,1 --fine-tune",
    "share-dense": f"share --tasks rte,cola --model bert --tickets none {FEW} --mixing ratio --main-task cola --ratio 1",
    "transfer-shared": f"transfer out/share-dense --from-task rte --task rte {FEW}",
    "super": "super bert --task rte --data-dir glue --steps 2 --level 50 --seeds 0 --selections winning,random "
    "--learning-rates 1e-3 --batch-sizes 8",
    "combine-union": "mask combine union out/magnitude/sparsity-0.70 out/kd/sparsity-0.70",
    "combine-intersection": "mask combine intersection out/magnitude/sparsity-0.70 out/kd/sparsity-0.70",
    "combine-difference": "mask combine difference out/magnitude/sparsity-0.70 out/kd/sparsity-0.70",
    "perturb": "mask perturb out/magnitude/sparsity-0.70 --fraction 0.1 --seed 2",
    "export-masked": "export out/magnitude/sparsity-0.70 --format masked",
    "export-compact": "export out/importance/level-50 --format compact",
    "export-run": "export out/transfer-ticket --format masked",
    "export-encoder": "export out/transfer-ticket --format encoder",
    "export-shared": "export out/share --task rte --format compact",
    "export-mask-pt": "export out/magnitude-encoder --format mask-pt",
    "export-tamt": "export out/magnitude-encoder --format mask-pt --convention tamt",
    "import-mask": "mask import out/export-mask-pt/mask.pt --base bert",
    "compare-pruned": "compare out/magnitude/sparsity-0.70 out/kd/sparsity-0.70 out/mlm --of pruned --labels a,b,c",
    "analyse-distance": "analyse distance out/kd",
    "analyse-predictors": "analyse predictors json/evaluate-kd.json json/evaluate-magnitude.json json/evaluate-random.json"
    " out/transfer-ticket out/transfer-kd out/transfer-random",
    "analyse-sharing": "analyse sharing out/importance/level-50 out/importance-losing",
    "analyse-cards": "analyse cards --tasks rte,stsb,squad --data-dir glue",
    "analyse-gain": "analyse gain out/transfer-kd --baseline out/transfer-ticket --dense out/transfer",
    "analyse-winning": "analyse winning out/transfer-kd out/transfer-ticket --dense out/transfer --criterion within-std",
}
"""Command lines that write to `out/NAME`, in the order in which they need each other."""
TRAINING = {"search", "fit-head", "transfer", "share", "super"}
EVALUATED = "--corpus text --segments lines --objective kd,mlm,attention,logits,contrastive --device cpu --quiet"
READINGS = {
    "evaluate-magnitude": f"evaluate out/magnitude/sparsity-0.70 {EVALUATED}",
    "evaluate-kd": f"evaluate out/kd/sparsity-0.70 {EVALUATED}",
    "evaluate-random": f"evaluate out/random {EVALUATED}",
    "evaluate-masked": "evaluate out/export-masked --objective mlm --corpus text --segments lines --quiet",
    "evaluate-similarity": "evaluate bert --objective similarity --task stsb --data-dir glue --quiet",
    "predict": "predict out/transfer --text sat\tslept --text birds\train --device cpu",
    "predict-glue": "predict out/transfer-cola --glue-submission out/submission --data-dir glue --device cpu",
    "compare": "compare out/magnitude/sparsity-0.70 out/kd/sparsity-0.70 out/mlm",
    "compare-matrix": "compare out/magnitude/sparsity-0.70 out/kd/sparsity-0.70 --average matrix",
    "inspect": "inspect out/kd/sparsity-0.70",
    "inspect-structured": "inspect out/importance/level-50",
    "inspect-gates": "inspect out/gates",
    "average": "analyse average out/transfer-ticket out/transfer-stsb out/transfer-cola",
    "measure": "measure out/export-compact --batch 1 --length 8 --repeats 1 --device cpu --quiet",
    "measure-ticket": "measure out/magnitude-global --batch 1,2 --length 8 --repeats 1 --device cpu --quiet",
    "dry-run-search": f"search bert --corpus text {TRAINED} --dry-run --out out/never",
    "dry-run-transfer": f"transfer bert --task rte {FEW} --dry-run --out out/never",
    "dry-run-export": "export out/importance/level-50 --format compact --dry-run --out out/never",
    "verify": "runs out/share --verify",
    "cache-list": "cache list",
}
STUDIES = {
    "golden": ("golden.yaml", ("md", "tex", "csv", "svg", "png", "html")),
    "tamt-figure-8": ("tamt-figure-8", ("md", "csv", "svg", "html")),
}
"""Studies that are run at `smoke`, and the formats of their reports."""
MISTAKES = {
    "unknown method": "search bert --method magnitud --out out/never",
    "unknown option": "search bert --methd random --out out/never",
    "sparsity 1": "search bert --method magnitude --sparsity 1.0 --out out/never",
    "no corpus": "search bert --out out/never",
    "no model": "search nowhere --method random --out out/never",
    "folder in use": "search bert --method random --out glue",
    "unknown task": "transfer bert --task rtee --out out/never",
    "no ticket": "inspect nowhere",
    "no store": "runs --store nowhere",
    "unknown recipe": "recipes tamt-figure-33",
    "unknown scale": "study plan tamt-figure-3 --scale huge",
    "nothing": "",
}


class Collection:
    """Flat keys and their values."""

    def __init__(self, work: Path) -> None:
        self.values: dict[str, Any] = {}
        self._work = work

    def plain(self, text: str) -> str:
        """The text without the place of the working folder, of the repository and of the Python environment."""
        for place, word in ((self._work, "WORK"), (Path(sys.prefix), "PREFIX")):
            text = text.replace(str(place), word)
        return text

    def data(self, prefix: str, value: Any) -> None:
        """Each leaf of a JSON value under its own key."""
        for path, leaf in leaves(value):
            if VOLATILE.search(path):
                leaf = f"<{type(leaf).__name__}>"
                path = re.sub(r"\[\d+\]", "[]", path)
            elif isinstance(leaf, str):
                leaf = self.plain(leaf)
                leaf = leaf if len(leaf) <= 200 else digest(leaf)
            self.values[f"{prefix} {path}"] = leaf

    def folder(self, name: str, folder: Path) -> None:
        """Names, tensors and contents of the files of a folder."""
        # Model cards have tests of their own, in tests/deploy/test_publish.py.
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
        names = [path.relative_to(folder).as_posix() for path in files]
        self.values[f"files {name}"] = names
        for path, inside in zip(files, names, strict=True):
            self._content(f"{name}/{inside}", path)

    def _content(self, name: str, path: Path) -> None:
        if UNSTABLE.search(name):
            return
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            self.values[f"tensors {name}"] = tensor_digest(load_file(path))
        elif path.suffix == ".pt":
            import torch

            self.values[f"tensors {name}"] = tensor_digest(torch.load(path, weights_only=True))
        elif path.suffix == ".json":
            # The leaves together: those of the runs themselves are collected one by one from what the verbs print.
            self.values[f"contents {name}"] = digest(self._stable(json.loads(path.read_text(encoding="utf-8"))))
        elif path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            self.values[f"contents {name}"] = digest("\n".join(self._stable(json.loads(line)) for line in lines))
        elif path.suffix in TEXT:
            self.values[f"contents {name}"] = digest(self.plain(path.read_text(encoding="utf-8")))
        elif path.suffix in (".bin", ".npy"):
            self.values[f"contents {name}"] = hashlib.sha256(path.read_bytes()).hexdigest()

    def _stable(self, value: Any) -> str:
        inner = Collection(self._work)
        inner.data("", value)
        return json.dumps(inner.values, sort_keys=True)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values of what is neither a mapping nor a list; empty ones are leaves too."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}[{number}]")
    else:
        yield path, value


def canonical(value: Any) -> Any:
    """Mappings as sorted pairs: the keys of a study's parameters are words and numbers."""
    if isinstance(value, dict):
        return sorted(([repr(key), canonical(item)] for key, item in value.items()), key=lambda pair: pair[0])
    return [canonical(item) for item in value] if isinstance(value, list | tuple) else value


def digest(value: Any) -> str:
    """The hash of a text, or of a value as sorted JSON."""
    text = value if isinstance(value, str) else json.dumps(canonical(value), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def tensor_digest(tensors: dict[str, Any]) -> dict[str, Any]:
    """The hash of names, types, shapes and bytes of all tensors."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        array = torch.as_tensor(tensor).detach().cpu().contiguous()
        found.update(f"{name} {array.dtype} {tuple(array.shape)} ".encode())
        found.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return {"count": len(tensors), "sha256": found.hexdigest()}


def tickets(words: list[str]) -> tuple[int, str, str]:
    """Run a command line in this process: exit code, stdout, stderr."""
    main = import_module("winning_tickets.cli").main
    out, err = io.StringIO(), io.StringIO()
    arguments, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = ["tickets", *words]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue(), err.getvalue()
    finally:
        sys.argv = arguments
        signal.signal(signal.SIGTERM, handler)
    raise AssertionError("main() always exits")


def perform(found: Collection, name: str, words: list[str]) -> Any:
    """Run a command line with `--json` and collect what it prints, and its exit code."""
    start = time.perf_counter()
    code, out, err = tickets([*words, "--json"])
    print(f"{time.perf_counter() - start:6.1f} s  {name}", file=sys.stderr)
    found.values[f"json {name} exit code"] = code
    if code != 0:
        print(f"`tickets {' '.join(words)}` ended with {code}: {err}", file=sys.stderr)
    value = json.loads(out or "null")
    found.data(f"json {name}", value)
    return value


def collect_plans(found: Collection) -> None:
    """Every run of every recipe at every scale."""
    load_study, plan_study = planning()
    recipes = perform(found, "recipes", ["recipes"])["recipes"]
    for recipe in recipes:
        study = load_study(recipe["name"])
        for scale in (one for one in SCALES if one in recipe["scales"]):
            plan = plan_study(study, scale)
            runs = [[run.id, run.verb, run.stage, run.config, run.needs] for run in plan.runs.values()]
            points = [[point.stage, point.axes, point.run] for point in plan.points]
            found.values[f"plans {recipe['name']} {scale}"] = {
                "runs": len(plan.runs),
                "ids": digest(sorted(plan.runs)),
                "keys and ids": digest(sorted([key, run.id] for key, run in plan.runs.items())),
                "order": digest(list(plan.runs)),
                "configurations": digest(runs),
                "points": digest(points),
                "parameters": digest(plan.parameters),
            }


def make_world() -> None:
    """Tiny models and data in the current folder; `plain` has no MLM head."""
    from safetensors.torch import load_file, save_file

    makes = {"bert": "text", "roberta": "text"}
    stages = {
        name: {
            "verb": "evaluate",
            "with": {"target": f"tiny:{name}", "corpus": f"tiny:{text}", "segments": "lines", "max_tokens": 16},
        }
        for name, text in makes.items()
    }
    stages["glue"] = {"verb": "transfer", "with": {"target": "tiny:bert", "task": "rte", "data_dir": "tiny:glue",
                                                   "steps": 1}}  # fmt: skip
    study = {"name": "world", "title": "World", "scales": {"smoke": {}}, "stages": stages}
    Path("world.yaml").write_text(json.dumps(study), encoding="utf-8")  # JSON is YAML
    code, _, err = tickets("study run world.yaml --scale smoke --store world --quiet --device cpu".split())
    if code != 0:
        raise SystemExit(f"The tiny models cannot be made: {err}")
    for name in ("bert", "roberta", "text", "glue"):
        shutil.copytree(Path("world", "tiny", name), name)
    shutil.copytree("bert", "plain")
    weights = load_file("plain/model.safetensors")
    encoder = {name: value for name, value in weights.items() if name.startswith("bert.")}
    save_file(encoder, "plain/model.safetensors", metadata={"format": "pt"})

    texts = ("the cat sat", "a dog slept", "birds sang", "rain fell", "she sat on the mat", "he slept by the window")
    rows = [f"{text},{'odd' if number % 2 else 'even'}" for number, text in enumerate(texts * 4)]
    Path("rows.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    rows = [f'{text},"{"a b" if number % 2 else "b"}"' for number, text in enumerate(texts * 4)]
    Path("many.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    sentences = [
        "\n".join(f"{word} {'B-X' if word in ('cat', 'dog') else 'O'}" for word in text.split()) for text in texts
    ]
    Path("words.conll").write_text("\n\n".join(sentences * 4) + "\n", encoding="utf-8")
    Path("tasks.yml").write_text(
        "reviews: {train_file: rows.csv, validation_file: rows.csv, dropout_p: 0.2, train_size: 50%}\n",
        encoding="utf-8",
    )
    for split in ("CoLA",):
        rows = ["index\tsentence", *(f"{number}\t{text}" for number, text in enumerate(texts))]
        Path("glue", split, "test.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def collect_verbs(found: Collection) -> None:
    """All runs, and all that only read."""
    Path("json").mkdir()
    for name, line in RUNS.items():
        words = line.split()
        if words[0] == "analyse" and not any(Path("json").iterdir()):
            for reading, reading_line in READINGS.items():
                value = perform(found, reading, reading_line.split(" "))
                Path("json", f"{reading}.json").write_text(json.dumps(value), encoding="utf-8")
        more = ["--device", "cpu", "--quiet"] if words[0] in TRAINING else []
        perform(found, name, [*words, *more, "--out", f"out/{name}"])
        found.folder(name, Path("out", name))
    found.folder("submission", Path("out/submission"))
    found.folder("cache", Path("cache"))


def collect_studies(found: Collection) -> None:
    """Studies at `smoke`: their stores, reports, and what is said of them before and after."""
    found.data("json study-new", perform(found, "study-new", ["study", "new", "golden.yaml"]))
    for name, (source, formats) in STUDIES.items():
        words = [source, "--scale", "smoke", "--store", "store"]
        perform(found, f"{name} plan", ["study", "plan", *words])
        perform(found, f"{name} run", ["study", "run", *words, "--quiet", "--device", "cpu"])
        perform(found, f"{name} status", ["study", "status", *words])
        report = f"report-{name}"
        perform(found, f"{name} report", ["study", "report", *words, "--out", report, "--formats", ",".join(formats)])
        found.folder(report, Path(report))
    found.folder("store", Path("store"))
    perform(found, "study-list", ["study", "list", "--store", "store"])
    perform(found, "runs", ["runs", "--store", "store"])
    perform(found, "runs-where", ["runs", "--store", "store", "--where", "verb=transfer", "--status", "done"])
    perform(found, "verify-store", ["runs", "--store", "store", "--verify"])


def collect_mistakes(found: Collection) -> None:
    """Exit codes; the wording of messages may change."""
    for name, line in MISTAKES.items():
        code, out, _ = tickets(line.split())
        found.values[f"errors {name}"] = {"exit code": code, "stdout": out if name != "nothing" else bool(out)}


def collect(target: Path, tree: Path) -> None:
    """Write the collection of a checkout to a file."""
    source = str(tree.resolve() / "src")
    sys.path.insert(0, source)
    os.environ.update(
        PYTHONPATH=source, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", PYTHONHASHSEED="0"
    )
    os.environ.pop("WINNING_TICKETS_STORE", None)
    target, start, before = target.absolute(), time.perf_counter(), Path.cwd()
    work = Path(tempfile.gettempdir()).resolve() / "winning-tickets-golden"  # run ids depend on the place of a model
    lock = work.with_suffix(".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # another collection is waited for
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    os.environ["WINNING_TICKETS_CACHE"] = str(work / "cache")
    os.chdir(work)
    try:
        found = Collection(work)
        collect_plans(found)
        import torch

        torch.set_num_threads(1)
        make_world()
        collect_verbs(found)
        collect_studies(found)
        collect_mistakes(found)
    finally:
        os.chdir(before)
        shutil.rmtree(work, ignore_errors=True)
    target.write_text(json.dumps(found.values, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{target}: {len(found.values):,} values in {time.perf_counter() - start:.0f} s")


def compare(first: Path, second: Path, ignore: str | None) -> int:
    """Print every key that differs, and how many do."""
    a, b = (json.loads(path.read_text(encoding="utf-8")) for path in (first, second))
    nothing = "<absent>"
    keys = [key for key in sorted(a.keys() | b.keys()) if ignore is None or not re.search(ignore, key)]
    differing = [key for key in keys if a.get(key, nothing) != b.get(key, nothing)]
    for key in differing:
        print(f"{key}\n  - {json.dumps(a.get(key, nothing))[:300]}\n  + {json.dumps(b.get(key, nothing))[:300]}")
    print(f"{len(differing):,} of {len(keys):,} values differ.")
    return 1 if differing else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", nargs="?", type=Path, help="the JSON file to write")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to collect from, by default this one")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="two files to compare")
    parser.add_argument("--ignore", metavar="REGEX", help="with --compare: keys to leave out")
    given = parser.parse_args()
    if given.compare:
        sys.exit(compare(*given.compare, given.ignore))
    if given.out is None:
        parser.error("give the file to write, or --compare")
    collect(given.out, given.tree)


if __name__ == "__main__":
    main()
