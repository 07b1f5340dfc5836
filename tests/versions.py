"""Run the tests with the lowest and the newest transformers that pyproject.toml allows, each in a new environment.

    python tests/versions.py                                  both, all default tests: an hour on two cores
    python tests/versions.py --only lowest tests/training     one of them, some tests; further words go to pytest

The environments are made in a temporary folder, which is removed at the end; `.venv` is not touched. All other packages
are those of constraints.txt, except for those whose versions transformers itself decides.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FREE = ("transformers", "tokenizers", "huggingface_hub", "hf-xet", "safetensors", "sentence-transformers")
"""Packages without a pinned version: transformers allows only some versions of the others."""
OLD = "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
"""What earlier versions of transformers use of torch is no fault of ours; all other warnings are errors."""


def allowed() -> str:
    """The versions of transformers that pyproject.toml allows, such as `>=5.15,<6`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (found,) = [one for one in project["dependencies"] if re.match(r"transformers\b", one)]
    return found.removeprefix("transformers")


def wanted(which: str, versions: str) -> str:
    """The requirement that installs the lowest or the newest of the allowed versions."""
    lowest = re.search(r">=\s*([0-9.]+)", versions)
    if lowest is None:
        raise SystemExit(f"pyproject.toml names no lowest version of transformers: {versions}")
    return f"transformers=={lowest[1]}" if which == "lowest" else f"transformers{versions}"


def constraints() -> str:
    """The lines of constraints.txt without the packages of `FREE`."""
    names = {re.sub(r"[-_.]+", "-", name) for name in FREE}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if re.sub(r"[-_.]+", "-", line.partition("==")[0].lower()) not in names)


def run(which: str, words: list[str]) -> int:
    """Make an environment, run the tests in it, and return their exit code."""
    with tempfile.TemporaryDirectory(prefix=f"versions-{which}-") as folder:
        place = Path(folder)
        venv.create(place / "venv", with_pip=True)
        python, pinned = str(place / "venv" / "bin" / "python"), place / "constraints.txt"
        pinned.write_text(constraints() + "\n", encoding="utf-8")
        packages = [wanted(which, allowed()), "--editable", f"{ROOT}[demo,dev,onnx]"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--constraint", pinned, *packages], check=True)
        shown = "import torch, transformers; print('transformers', transformers.__version__, torch.__version__)"
        subprocess.run([python, "-c", shown], check=True)
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-W", OLD, *(words or ["-n", "2"])]
        return subprocess.run(command, cwd=ROOT, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("lowest", "newest"))
    options, words = parser.parse_known_args()
    failed = [which for which in ("lowest", "newest") if options.only in (None, which) and run(which, words) != 0]
    if failed:
        sys.exit(f"The tests failed with the {' and the '.join(failed)} transformers.")


if __name__ == "__main__":
    main()
