"""Find or make a Python in which the GPU measurements run, and print its path.

    python benchmarks/gpu_python.py [--venv DIR] [--wheels DIR] [--device cuda]

In this order, with nothing to answer on the way:
  1. the Python that runs this script, if it has all requirements and sees a CUDA device; nothing is installed
  2. if its torch sees a CUDA device and other packages are missing: a virtual environment that inherits all its
     packages, with only the missing ones installed
  3. a virtual environment with everything, pinned by constraints.txt; the index that pip uses decides on the build of
     torch, and that of PyPI for Linux is one for CUDA
`--wheels DIR` installs from a folder of wheels, where no index can be reached. Only the standard library is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOR_TESTS = ("pytest", "pytest-timeout")
FOR_THE_HUB = ("datasets",)  # imported only where data comes from there
OLDEST = (3, 11)

PROBE = """
import importlib.metadata as metadata, json, sys
found = {"executable": sys.executable, "paths": [path for path in sys.path if path.endswith("-packages")]}
found["versions"] = {}
for one in metadata.distributions():
    found["versions"].setdefault(str(one.metadata["Name"]).lower().replace("_", "-"), one.version)
try:
    import torch
    found |= {"torch": torch.__version__, "built_for": torch.version.cuda, "devices": torch.cuda.device_count()}
except Exception as error:
    found |= {"torch": None, "built_for": None, "devices": 0, "error": f"{type(error).__name__}: {error}"}
print(json.dumps(found))
"""


def probe(python: str) -> dict[str, Any]:
    """Return what a Python has: packages with versions, the places they are in, torch's build and devices."""
    done = subprocess.run([python, "-W", "ignore", "-c", PROBE], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{python} does not run:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def requirements() -> list[str]:
    """Return the requirements of the measurements: those of the package and of its tests, without the hub's."""
    import tomllib  # new in Python 3.11, and older ones get a message

    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [*(one for one in content["project"]["dependencies"] if not one.startswith(FOR_THE_HUB)), *FOR_TESTS]


def missing(found: dict[str, str]) -> list[str]:
    """Return the requirements that installed versions, by name, do not meet."""
    return [one for one in requirements() if not _met(one, found)]


def _met(requirement: str, found: dict[str, str]) -> bool:
    name, bounds = re.fullmatch(r"([A-Za-z0-9._-]+?)((?:[<>=].*)?)", requirement).groups()  # type: ignore[union-attr]
    version = found.get(name.lower().replace("_", "-"))
    if version is None:
        return False
    for bound in filter(None, bounds.split(",")):
        sign, limit = re.fullmatch(r"(>=|<)(.*)", bound).groups()  # type: ignore[union-attr]
        if (_numbers(version) >= _numbers(limit)) != (sign == ">="):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """`2.11.0+cu130` -> (2, 11)."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else [0]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def why_no_device(found: dict[str, Any]) -> str:
    """Say what keeps a Python's torch from seeing a CUDA device."""
    if found["torch"] is None:
        return f"torch cannot be imported ({found['error']})"
    if found["built_for"] is None:
        return f"its torch {found['torch']} is a build for CPUs"
    return (
        f"its torch {found['torch']}, built for CUDA {found['built_for']}, finds no device; does nvidia-smi show one, "
        "and is the driver new enough?"
    )


def make(venv: Path, parent: dict[str, Any], inherits: bool, wheels: Path | None) -> str:
    """Make a virtual environment with what is missing, and return its Python."""
    say(f"A virtual environment is made in {venv}" + (", with the packages of this Python." if inherits else "."))
    if subprocess.run([sys.executable, "-m", "venv", str(venv)], check=False, stdout=sys.stderr).returncode:
        sys.exit(
            f"{sys.executable} cannot make virtual environments; install its module venv (python3-venv), with pip."
        )
    python = str(venv / "bin" / "python")
    wanted = requirements()
    if inherits:
        # By their places: where this Python is in a virtual environment itself, --system-site-packages skips it.
        place = next(path for path in probe(python)["paths"] if str(venv.resolve()) in str(Path(path).resolve()))
        (Path(place) / "inherited.pth").write_text("\n".join(parent["paths"]) + "\n", encoding="utf-8")
        wanted = missing(parent["versions"])
    constraints = [] if inherits else ["--constraint", str(ROOT / "constraints.txt")]
    source = [] if wheels is None else ["--no-index", "--find-links", str(wheels)]
    words = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *source, *constraints, *wanted]
    say(" ".join(words))
    if wanted and subprocess.run(words, check=False, stdout=sys.stderr).returncode:
        sys.exit(
            f"pip could not install {', '.join(wanted)}. Where no package index can be reached, bring wheels: pip "
            "download them on another machine into a folder, then make gpu WHEELS=FOLDER."
        )
    return python


def has_gpu() -> bool:
    """Return whether the machine seems to have an NVIDIA GPU, before gigabytes are installed for it."""
    devices = ("nvidia[0-9]*", "nvidiactl", "dxg")  # the last one on Windows' Linux
    return shutil.which("nvidia-smi") is not None or any(any(Path("/dev").glob(name)) for name in devices)


def say(text: str) -> None:
    """Print on stderr: stdout has the result alone."""
    print(text, file=sys.stderr, flush=True)


def find(venv: Path, wheels: Path | None, needs_device: bool) -> str:
    """Return the Python to use.

    Raises:
        SystemExit: there is none; the message says what is missing.
    """
    if sys.version_info < OLDEST:
        sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; try: make gpu PYTHON=python3.12")

    def usable(found: dict[str, Any]) -> bool:
        return not missing(found["versions"]) and (found["devices"] > 0 or not needs_device)

    here = probe(sys.executable)
    if usable(here):
        return sys.executable
    if needs_device and not here["devices"] and (here["built_for"] is not None or not has_gpu()):
        reason = why_no_device(here) if here["built_for"] else "there is no NVIDIA device in /dev and no nvidia-smi"
        sys.exit(f"This machine has no GPU that can be used: {reason}. On a CPU: python benchmarks/gpu.py --device cpu")
    python = str(venv / "bin" / "python")
    if not (os.access(python, os.X_OK) and usable(probe(python))):
        python = make(venv, here, inherits=here["devices"] > 0, wheels=wheels)
    found = probe(python)
    if lacking := missing(found["versions"]):
        sys.exit(f"{python} lacks {', '.join(lacking)} after the installation; remove {venv} and try again.")
    if needs_device and not found["devices"]:
        sys.exit(f"{python} cannot use a GPU: {why_no_device(found)}.")
    return python


def main() -> None:
    """Print the path of the Python to use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(".venv-gpu"), help="where to make a virtual environment")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to install from, instead of an index")
    parser.add_argument("--device", default="cuda", help="cpu: a device is not needed")
    options = parser.parse_args()
    python = find(options.venv, options.wheels, options.device != "cpu")
    say(f"Python: {python}")
    print(python)


if __name__ == "__main__":
    main()
