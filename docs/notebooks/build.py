"""Run the notebooks, which are the scripts beside this file, and save them with their outputs; `make notebooks`.

python docs/notebooks/build.py [NAME ...]
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCRIPTS = {path.stem: path for path in sorted(HERE.glob("[0-9]_*.py"))}


def cells(script: str) -> list[tuple[str, str]]:
    """Return kind (`markdown` or `code`) and text of each cell of a script, whose cells begin with `# %%`."""
    parts = re.split(r"^# %%( \[markdown\])?\n", script, flags=re.MULTILINE)[1:]
    found = []
    for is_text, body in zip(parts[::2], parts[1::2], strict=True):
        lines = body.strip().splitlines()
        text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines) if is_text else "\n".join(lines)
        found.append(("markdown" if is_text else "code", text))
    return found


def notebook(name: str) -> dict[str, Any]:
    """Return a notebook without outputs, as JSON."""
    made = []
    for index, (kind, text) in enumerate(cells(SCRIPTS[name].read_text(encoding="utf-8"))):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{index}", "metadata": {}}
        cell["source"] = text.splitlines(keepends=True)
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def without_folders(value: str | list[str]) -> str | list[str]:
    """Return text without the names of temporary folders and of the folder where packages are installed."""
    if isinstance(value, list):
        return [str(without_folders(line)) for line in value]
    value = re.sub(r"/[\w./-]+/site-packages/", "site-packages/", value)
    return re.sub(r"/tmp/[\w.-]+", "WORK", value)  # noqa: S108 - a pattern, no file


def run(name: str, folder: Path, timeout: int = 3600) -> dict[str, Any]:
    """Run a notebook in a folder and return it with its outputs; an error in a cell is raised."""
    import nbformat
    from nbclient import NotebookClient

    made = nbformat.reads(json.dumps(notebook(name)), as_version=4)
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(made, timeout=timeout, startup_timeout=300, resources=where, record_timing=False)
    done: dict[str, Any] = json.loads(nbformat.writes(client.execute()))
    for cell in done["cells"]:
        # Logs of the libraries are not part of a page.
        outputs = [one for one in cell.get("outputs", []) if one.get("name") != "stderr"]
        for output in outputs:
            data = output if "text" in output else output.get("data", {})
            data.update({kind: without_folders(value) for kind, value in data.items() if kind.startswith("text")})
        if "outputs" in cell:
            cell["outputs"] = outputs
    done["metadata"] = {"kernelspec": done["metadata"]["kernelspec"]}
    return done


def main() -> None:
    from tempfile import TemporaryDirectory

    for name in sys.argv[1:] or SCRIPTS:
        start = time.monotonic()
        with TemporaryDirectory() as folder:
            done = run(name, Path(folder))
        text = json.dumps(done, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        (HERE / f"{name}.ipynb").write_text(text, encoding="utf-8")
        print(f"{name}: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
