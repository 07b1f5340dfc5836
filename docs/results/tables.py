"""Reprint the tables of these pages from the raw numbers beside them.

    python docs/results/tables.py           # writes every table into its page
    python docs/results/tables.py --check   # prints the names of the tables that differ, and then ends with 1

A table stands in its page between `<!-- table: NAME -->` and `<!-- end -->`, and NAME is that of a function of
`table_functions.py` or `front.py`. No table is edited by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import front
import table_functions

HERE = Path(__file__).parent
TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(?:(?!<!--).)*(<!-- end -->)", re.DOTALL)


def rewritten(page: str) -> str:
    """Return a page with its tables made again."""
    functions = vars(table_functions) | vars(front)
    return TABLE.sub(lambda found: f"{found[1]}\n{functions[found[2]]()}\n{found[3]}", page)


def main() -> int:
    """Write or check all pages."""
    different = []
    for path in [HERE.parents[1] / "README.md", *sorted(HERE.rglob("README.md"))]:
        page = path.read_text(encoding="utf-8")
        new = rewritten(page)
        if new != page and "--check" in sys.argv:
            old = TABLE.finditer(page)
            different += [
                f"{path}: {one[2]}" for one, two in zip(old, TABLE.finditer(new), strict=True) if one[0] != two[0]
            ]
        elif new != page:
            path.write_text(new, encoding="utf-8")
    sys.stdout.writelines(f"{one}\n" for one in different)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
