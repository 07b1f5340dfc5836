"""Reprint the tables of these pages from the raw numbers beside them.

    python docs/results/tables.py           # writes every table into its page
    python docs/results/tables.py --check   # prints the names of the tables that differ, and then ends with 1

A table stands in its page between `<!-- table: NAME -->` and `<!-- end -->`, and NAME is that of a function of
`table_functions.py` or `front.py`. No table is edited by hand.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import front
import table_functions
from intervals import all_intervals

HERE = Path(__file__).parent
TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(?:(?!<!--).)*(<!-- end -->)", re.DOTALL)


def rewritten(page: str) -> str:
    """Return a page with its tables made again."""
    functions = vars(table_functions) | vars(front)
    return TABLE.sub(lambda found: f"{found[1]}\n{functions[found[2]]()}\n{found[3]}", page)


def differences(old: str, new: str) -> list[str]:
    """Return the names of the tables that differ between two versions of a page."""
    pairs = zip(TABLE.finditer(old), TABLE.finditer(new), strict=True)
    return [one[2] for one, two in pairs if one[0] != two[0]]


def equal(one: Any, two: Any) -> bool:
    """Return whether two numbers, or all numbers of two records, are equal but for rounding."""
    if isinstance(one, Mapping):
        return all(equal(one[key], two[key]) for key in one)
    if isinstance(one, Sequence):
        return all(map(equal, one, two))
    return one == two or math.isclose(one, two, rel_tol=1e-6, abs_tol=1e-12)


def main() -> int:
    """Write or check all pages; a check is also one of intervals.json."""
    check, different = "--check" in sys.argv, []
    for path in [HERE.parents[1] / "README.md", *sorted(HERE.rglob("README.md"))]:
        page = path.read_text(encoding="utf-8")
        new = rewritten(page)
        different += [f"{path}: {name}" for name in differences(page, new)]
        if not check:
            path.write_text(new, encoding="utf-8")
    if check:
        different += [
            f"intervals.json: {name}" for name, one in all_intervals().items() if not equal(one, front.found()[name])
        ]
    sys.stdout.writelines(f"{one}\n" for one in different if check)
    return int(check and bool(different))


if __name__ == "__main__":
    sys.exit(main())
