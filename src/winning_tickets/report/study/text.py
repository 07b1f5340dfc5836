"""What `tickets study report` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def report_text(result: Mapping[str, Any]) -> str:
    """How far the study is, the verdicts, what is wrong, and where the report is."""
    runs = result["runs"]
    rest = "".join(f", {runs[key]} {word}" for key, word in (("failed", "failed"), ("missing", "to do")) if runs[key])
    lines = [f"{result['study']} at {result['scale']}: {runs['done']} of {sum(runs.values())} runs done{rest}."]
    for name, claim in result["claims"].items():
        lines.append(f"{claim['verdict']:15}  {name}: {claim['text']} {claim['reason']}")
    lines += [f"Warning: {problem}" for problem in result["problems"]]
    page = f"{result['out']}/index.html" if "index.html" in result["files"] else result["out"]
    files = len(result["files"])
    return "\n".join([*lines, f"{files} {'file' if files == 1 else 'files'}, see {page}"])
