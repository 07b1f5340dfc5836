"""Keep checkpoints of a running `fit-head`, and measure them on another text.

    python docs/results/encoder/by_step.py keep RUN FOLDER --every 1000
    python docs/results/encoder/by_step.py measure RUN FOLDER CORPUS

The first command runs beside the training, until it is done; the second one prints JSON afterwards.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from winning_tickets.config import EvaluateConfig, Runtime
from winning_tickets.evaluation.evaluate import evaluate

PREFIX = "checkpoint-"


def keep(run: Path, folder: Path, every: int) -> None:
    """Copy the first checkpoint of each `every` steps; a training itself keeps only the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    while not (run / "result.json").exists():
        for checkpoint in sorted((run / ".scratch").glob(f"{PREFIX}*")):
            step = int(checkpoint.name.removeprefix(PREFIX))
            if not any(int(path.name) // every == step // every for path in folder.iterdir() if path.name.isdigit()):
                half = folder / f"{step}.part"
                shutil.copyfile(checkpoint, half)  # an open file stays whole when the training removes it
                half.rename(folder / str(step))
        time.sleep(20)


def measure(run: Path, folder: Path, corpus: str, work: Path) -> list[dict[str, float]]:
    """Return MLM loss and accuracy of each kept checkpoint and of the finished model on the validation part."""
    found = []
    tokenizer, last = AutoTokenizer.from_pretrained(run), AutoModelForMaskedLM.from_pretrained(run)
    models = {int(path.name): path for path in folder.iterdir() if path.name.isdigit()}
    steps = json.loads((run / "result.json").read_text(encoding="utf-8"))["steps"]
    for step, path in [*sorted(models.items()), (steps, run)]:
        if path != run:
            state = torch.load(path, map_location="cpu", weights_only=True)["model"]
            last.load_state_dict(state)
            last.save_pretrained(work)
            tokenizer.save_pretrained(work)
        target = str(run if path == run else work)
        config = EvaluateConfig(target=target, corpus=corpus, objectives=("mlm",), max_tokens=60000)
        result = evaluate(config, Runtime(quiet=True))
        found.append({"step": step, "mlm_loss": result["mlm_loss"], "mlm_accuracy": result["mlm_accuracy"]})
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("keep", "measure"))
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("corpus", nargs="?")
    parser.add_argument("--every", type=int, default=1000)
    given = parser.parse_args()
    if given.action == "keep":
        keep(given.run, given.folder, given.every)
    else:
        json.dump(measure(given.run, given.folder, given.corpus, given.folder / "model"), sys.stdout, indent=1)
