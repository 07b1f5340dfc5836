"""Time models next to the first, dense one, with all passes in turns: python speed.py DENSE SMALL... > speed.json.

With `--int8` each is also exported to ONNX, and to ONNX with weights of one byte; with `--glue DIR` the similarity on
the dev set of STS-B of all of them is measured too. `NAME=FOLDER` gives a model another name in the result.
"""

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from winning_tickets.config import EvaluateConfig, Runtime
from winning_tickets.deploy import measure
from winning_tickets.deploy.onnx import write_int8, write_onnx
from winning_tickets.deploy.stored_weights import folder_of, size_of
from winning_tickets.evaluation.evaluate import similarity
from winning_tickets.models.loading import ONNX_FILE, PLM, load_plm
from winning_tickets.models.onnx_runtime import OnnxModel
from winning_tickets.runs.provenance import machine, versions


def exports(plm: PLM, folder: Path) -> dict[str, PLM]:
    """Export a model to ONNX and to int8, in folders of these names, and load both."""
    for form in ("onnx", "int8"):
        (folder / form).mkdir(parents=True)
        write_onnx(plm, folder / form)
    write_int8(folder / "int8", plm.name)
    return {
        form: replace(plm, model=OnnxModel(folder / form / ONNX_FILE, plm.model.config)) for form in ("onnx", "int8")
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--passes", type=int, default=30)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--glue")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device, quiet = torch.device("cpu"), Runtime(quiet=True, device="cpu")
    places = {name: folder or name for name, _, folder in (model.partition("=") for model in asked.models)}
    plms = {name: load_plm(place) for name, place in places.items()}
    first, sizes = next(iter(places)), {name: size_of(folder_of(place)) for name, place in places.items()}
    inputs = measure.random_inputs(plms[first], 8, 64, device)
    with TemporaryDirectory() as folder:
        if asked.int8:
            for index, name in enumerate(places):
                made = exports(plms[name], Path(folder) / str(index))
                plms |= {f"{name} {form}": plm for form, plm in made.items()}
                sizes |= {f"{name} {form}": size_of(Path(folder) / str(index) / form) for form in made}
        passes = [partial(plm.model.eval(), **inputs) for plm in plms.values()]
        seconds = measure.take_turns(passes, asked.passes, device, bf16=False)
        found = {
            name: {
                "latency_seconds": measure.spread(seconds[:, at]),
                "shortest_seconds": float(seconds[:, at].min()),
                "speedup": measure.spread(seconds[:, 0] / seconds[:, at]),
                "bytes": sizes[name],
            }
            for at, name in enumerate(plms)
        }
        if asked.glue:
            pairs = EvaluateConfig(target=places[first], task="stsb", data_dir=asked.glue)
            for name, plm in plms.items():
                with torch.no_grad():
                    found[name] |= similarity(pairs, plm, device, quiet)
    about = {"batch": 8, "length": 64, "threads": asked.threads, "machine": machine(), "versions": versions()}
    sys.stdout.write(json.dumps(about | {"models": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
