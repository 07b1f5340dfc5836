"""Run the tests with other versions of transformers or Python, each in a new environment.

    python tests/versions.py                                  the lowest and the newest transformers that pyproject.toml
                                                              allows, all default tests: an hour on two cores
    python tests/versions.py --only lowest tests/training     one of them, some tests; further words go to pytest
    python tests/versions.py --pythons                        each Python from 3.11 to 3.14 that is installed

The environments are made in a temporary folder, which is removed at the end; `.venv` is not touched. All other packages
are those of constraints.txt, except for those whose versions transformers itself decides.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FREE = ("transformers", "tokenizers", "huggingface_hub", "hf-xet", "safetensors", "sentence-transformers")
"""Packages without a pinned version: transformers allows only some versions of the others."""
OLD = "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
"""What earlier versions of transformers use of torch is no fault of ours; all other warnings are errors."""


def allowed() -> str:
    """The versions of transformers that pyproject.toml allows, such as `>=5.20,<6`."""
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


def interpreters() -> dict[str, str]:
    """Return the Pythons from 3.11 to 3.14 on the search path and of pyenv, by version."""
    found = {}
    for name in (f"3.{minor}" for minor in range(11, 15)):
        places = [shutil.which(f"python{name}"), *sorted(Path.home().glob(f".pyenv/versions/{name}.*/bin/python"))]
        for place in filter(None, places):
            shown = subprocess.run(
                [place, "-c", "import sys, ensurepip; print('%d.%d' % sys.version_info[:2])"],
                capture_output=True,
                text=True,
                check=False,
            )
            if shown.stdout.strip() == name:  # a stub of pyenv may be there without its Python
                found.setdefault(name, str(place))
    return found


def run(name: str, requirements: list[str], pinned: str, words: list[str], python: str = sys.executable) -> int:
    """Make an environment, run the tests in it, and return their exit code."""
    with tempfile.TemporaryDirectory(prefix=f"versions-{name}-") as folder:
        place = Path(folder)
        subprocess.run([python, "-m", "venv", place / "venv"], check=True)
        python, constraint = str(place / "venv" / "bin" / "python"), place / "constraints.txt"
        constraint.write_text(pinned + "\n", encoding="utf-8")
        packages = [*requirements, "--editable", f"{ROOT}[demo,dev,onnx]"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--constraint", constraint, *packages], check=True)
        shown = (
            "import sys, torch, transformers as t; print(sys.version, 'transformers', t.__version__, torch.__version__)"
        )
        subprocess.run([python, "-c", shown], check=True)
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-W", OLD, *(words or ["-n", "2"])]
        return subprocess.run(command, cwd=ROOT, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="lowest, newest, or with --pythons a version such as 3.13")
    parser.add_argument("--pythons", action="store_true")
    options, words = parser.parse_known_args()
    failed = []
    if options.pythons:
        # Versions are free: some of the pinned ones have no wheels for every Python.
        every = interpreters()
        print("Pythons:", ", ".join(every) or "none")
        failed = [f"Python {name}" for name, python in every.items() if options.only in (None, name)
                  and run(name, [], "torch==2.13.0", words, python) != 0]  # fmt: skip
    else:
        for which in ("lowest", "newest"):
            if options.only in (None, which) and run(which, [wanted(which, allowed())], constraints(), words) != 0:
                failed.append(f"{which} transformers")
    if failed:
        sys.exit(f"The tests failed with the {' and the '.join(failed)}.")


if __name__ == "__main__":
    main()
