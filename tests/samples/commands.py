"""Command lines that run every method of a search and every verb that trains, on tiny models and data."""

import shlex
from pathlib import Path

from safetensors.torch import load_file, save_file

from winning_tickets.studies.tiny import tiny_folder

TRAINED = "--steps 4 --batch-tokens 64 --segments packed:16"
ONE_OF_EACH = "--heads 2 --ffns 1 --neurons 40"
CASES = {
    "random": "search {bert} --method random",
    "magnitude": "search {bert} --method magnitude --ranking global",
    "wanda": "search {bert} --method wanda --corpus {text} --batch-tokens 64 --segments packed:16",
    "mask-training": f"search {{bert}} --method mask-training --corpus {{text}} {TRAINED} --sparsity 0.5,0.7",
    "mask-training both": f"search {{bert}} --corpus {{text}} {TRAINED} --objective mlm+kd --profile paper",
    "mask-training gates": f"search {{bert}} --corpus {{text}} {TRAINED} {ONE_OF_EACH}",
    "imp": "search {bert} --method imp --objective mlm+task --task rte --data-dir {glue} --corpus {text} "
    "--sparsity 0.3,0.6 --round-steps 3 --batch-size 8 --batch-tokens 64 --segments packed:16",
    "snip": f"search {{bert}} --method snip --corpus {{text}} {TRAINED}",
    "movement": f"search {{bert}} --method movement --objective task --task rte --data-dir {{glue}} {TRAINED}",
    "importance": "search {bert} --method importance --objective kd --corpus {text} --level 50,75",
    "fit-head": f"fit-head {{plain}} --corpus {{text}} {TRAINED} --train-encoder",
    "transfer": "transfer {bert} --task stsb --data-dir {glue} --steps 5 --eval-steps 2 --seeds 0,1 --save-model",
    "transfer smart": "transfer {bert} --task rte --data-dir {glue} --steps 3 --smart 1 --optimizer adamax-mtdnn",
    "share": "share --tasks rte,stsb --model {bert} --tickets auto --level 50 --single-epochs 0.5 --data-dir {glue} "
    "--steps 4 --batch-size 8 --seeds 0,1",
    "super": "super {bert} --task rte --data-dir {glue} --steps 2 --level 50 --seeds 0 --selections winning,random "
    "--learning-rates 1e-3 --batch-sizes 8",
}
"""By name, which begins with the method or the verb."""


def make_world(folder: Path) -> dict[str, Path]:
    """Tiny models and data, by the names in `CASES`; `plain` has no MLM head."""
    found = {name: tiny_folder(name, folder) for name in ("bert", "text", "glue")}
    plain = found["plain"] = folder / "plain"
    plain.mkdir()
    for path in found["bert"].iterdir():
        (plain / path.name).write_bytes(path.read_bytes())
    weights = load_file(plain / "model.safetensors")
    encoder = {name: value for name, value in weights.items() if name.startswith("bert.")}
    save_file(encoder, plain / "model.safetensors", metadata={"format": "pt"})
    return found


def words_of(case: str, world: dict[str, Path], out: Path, device: str = "cpu") -> list[str]:
    """The words of a command line."""
    words = shlex.split(CASES[case].format(**world))
    return [*words, "--out", str(out), "--device", device, "--quiet", "--json"]
