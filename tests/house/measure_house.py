"""Measure the structure of the package: python tests/house/measure_house.py [SOURCE_FOLDER], as JSON.

Floors: a file is above everything that it imports, function-level imports included; files in a circle share a floor.
"""

import ast
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve()


def arrows_of(source):
    """The modules of the package that each module imports."""
    paths = {
        ".".join(p.relative_to(source).with_suffix("").parts).removesuffix(".__init__"): p for p in source.rglob("*.py")
    }
    found = {name: set() for name in paths if name not in ("__init__", "__main__")}
    for name, targets in found.items():
        for node in ast.walk(ast.parse(paths[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == source.name:
                base = node.module.removeprefix(source.name).removeprefix(".")
                below = [f"{base}.{alias.name}".removeprefix(".") for alias in node.names]
                targets |= {one if one in found else base for one in below} & found.keys() - {name}
    return found


def circles_of(arrows):
    """Groups of nodes that reach each other."""
    reached = {}
    for node in arrows:
        seen, left = set(), set(arrows[node])
        while left:
            seen |= (new := left - seen)
            left = set().union(*(arrows[one] for one in new)) - seen if new else set()
        reached[node] = seen
    return {frozenset({node, *(other for other in reached[node] if node in reached[other])}) for node in arrows}


def floors_of(arrows):
    """The number of floors, where the nodes of a circle share one."""
    home = {node: group for group in circles_of(arrows) for node in group}
    below = {group: {home[target] for node in group for target in arrows[node]} - {group} for group in home.values()}
    floors = {}
    while len(floors) < len(below):
        floors |= {g: 1 + max((floors[b] for b in below[g]), default=0) for g in below if below[g] <= floors.keys()}
    return max(floors.values())


def main():
    source = Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parents[2] / "src" / "winning_tickets").resolve()
    files = sorted(source.rglob("*.py"))
    arrows = arrows_of(source)
    rooms = {}
    for name, targets in arrows.items():
        room = name.split(".")[0]
        rooms.setdefault(room, set()).update(target.split(".")[0] for target in targets if target.split(".")[0] != room)
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in files]
    result = {
        "entries_in_the_root": len([path for path in source.iterdir() if path.name != "__pycache__"]),
        "files": len(files),
        "lines": sum(lines),
        "longest_file": max(lines),
        "floors_of_folders": floors_of(rooms),
        "circles_of_folders": sum(len(group) > 1 for group in circles_of(rooms)),
        "floors_of_files": floors_of(arrows),
        "arrows_between_files": sum(map(len, arrows.values())),
        "circles_of_files": sum(len(group) > 1 for group in circles_of(arrows)),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
