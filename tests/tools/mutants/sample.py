"""Draw a seeded sample of mutants: one comparison, operator or constant of the core changed.

    python tests/tools/mutants/sample.py --files src/winning_tickets/tickets/masking.py ... --out mutants.json
    python tests/tools/mutants/sample.py --of before.json --files src/winning_tickets/finetuning/seeds.py --out now.json

A mutant is stored with its function and its statement, and the file is only a hint: after functions have moved,
`located` finds it by the function's syntax tree or, where the function has changed, by the statement's text. With
`--of`, a mutant that is not found is replaced by one drawn from the files given.
"""

import argparse
import ast
import copy
import hashlib
import json
import random
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SWAPS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
}
Mutant = dict[str, Any]
Key = tuple[Path, str, int]  # file, function, number of the node
_EQUIVALENT = {"strict", "frozen", "slots", "kw_only", "pin_memory", "non_blocking", "indent"}
"""Keywords whose values change no result that a test could see."""
_BODIES = ("body", "orelse", "finalbody", "handlers", "decorator_list", "annotation", "returns", "type_params")


@dataclass(frozen=True)
class Unit:
    """A function, or a statement of a module or class body.

    Attributes:
        name: qualified, such as `Selector.select`; for a statement the name it assigns.
        node: its syntax tree.
        digest: of the tree without name and docstring.
    """

    name: str
    node: ast.stmt
    digest: str


def units(body: list[ast.stmt], prefix: str = "") -> Iterator[Unit]:
    """All units of a module's or class's body."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from units(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield Unit(prefix + node.name, node, _digest(node))
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            yield Unit(prefix + ast.unparse(target), node, _digest(node))


def _digest(node: ast.stmt) -> str:
    bare = copy.deepcopy(node)
    if isinstance(bare, ast.FunctionDef):
        bare.name = ""
        if ast.get_docstring(node, clean=False) is not None:  # type: ignore[arg-type]
            del bare.body[0]
    return hashlib.sha256(ast.dump(bare).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Place:
    """A node that can be changed: the node, the innermost statement, and the node's number among that statement's."""

    node: ast.AST
    statement: ast.stmt
    number: int


def places(unit: Unit) -> list[Place]:
    """The nodes of a unit that can be changed, in the order of the source."""
    return [
        Place(node, statement, number)
        for statement in _statements(unit.node)
        for number, node in enumerate(_expressions(statement, inside=isinstance(unit.node, ast.FunctionDef)))
    ]


def _statements(node: ast.stmt) -> Iterator[ast.stmt]:
    yield node
    for field in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, field, []):
            yield from _statements(child)


def _expressions(node: ast.AST, inside: bool) -> Iterator[ast.AST]:
    """The nodes that can be changed in a statement's own expressions; messages, checks of types and names are none."""
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert):
        return
    if isinstance(node, ast.keyword) and node.arg in _EQUIVALENT:
        return
    if replacements(node) and (inside or not isinstance(node, ast.BinOp)):  # at top level `|` makes types
        yield node
    for field, value in ast.iter_fields(node):
        if isinstance(node, ast.stmt | ast.excepthandler | ast.arg) and field in _BODIES:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _expressions(child, inside)


def replacements(node: ast.AST) -> list[ast.AST]:
    """The nodes that may take its place."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return [_with(node, ops=[to()]) for to in SWAPS[type(node.ops[0])]]
    if isinstance(node, ast.Compare):
        return [_with(node, ops=[SWAPS[type(node.ops[0])][0](), *node.ops[1:]])]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.Add) and _is_text(node.right):
        return []  # a path or a text, where another operator only raises a TypeError
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        return [_with(node, op=to()) for to in SWAPS.get(type(node.op), ())]
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            return [ast.Constant(not value)]
        if isinstance(value, int):
            return [ast.Constant(value + 1), *([ast.Constant(value - 1)] if value > 0 else [])]
        if isinstance(value, float):
            return [ast.Constant(value * 2 if value else 1.0)]
    return []


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return node.id.isupper() and node.id.endswith(("FOLDER", "FILE", "RESULT"))
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _with(node: Any, **fields: Any) -> Any:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def header(statement: ast.stmt) -> str:
    """A statement's text without the statements inside."""
    bare = copy.copy(statement)
    for field in ("body", "handlers", "orelse", "finalbody", "decorator_list"):
        if getattr(bare, field, None):
            setattr(bare, field, [ast.Pass()] if field == "body" else [])
    if isinstance(bare, ast.Try):
        bare.finalbody = [ast.Pass()]
    return ast.unparse(bare)


def sample(
    paths: list[Path], root: Path, count: int, draw: random.Random, used: Set[Key] = frozenset()
) -> list[Mutant]:
    """Draw mutants from all nodes of the files, at most one of each node.

    Args:
        paths: source files.
        root: what the hints are relative to.
        count: how many.
        draw: the source of random numbers.
        used: nodes that have a mutant already.
    """
    found = [
        (path, unit, number, place)
        for path in sorted(paths)
        for unit in units(ast.parse(path.read_text()).body)
        for number, place in enumerate(places(unit))
        if (path, unit.name, number) not in used
    ]
    mutants = []
    for index in sorted(draw.sample(range(len(found)), count)):
        path, unit, number, place = found[index]
        choice = draw.randrange(len(replacements(place.node)))
        mutants.append(
            {
                "id": len(mutants),
                "file": str(path.relative_to(root)),
                "function": unit.name,
                "digest": unit.digest,
                "node": number,
                "statement": header(place.statement),
                "node_of_statement": place.number,
                "choice": choice,
                "before": ast.unparse(place.node),
                "after": ast.unparse(replacements(place.node)[choice]),
            }
        )
    return mutants


def replace_lost(mutants: list[Mutant], paths: list[Path], root: Path, draw: random.Random) -> list[Mutant]:
    """Draw another mutant for each one that was rewritten: in the file of the same name, else in another file.

    Args:
        mutants: of another tree.
        paths: source files that hold the rewritten functions now.
        root: of this tree.
        draw: the source of random numbers.
    """
    sources = sources_of(root)
    found = {mutant["id"]: located(mutant, sources) for mutant in mutants}
    used = {(at.path, at.unit.name, places(at.unit).index(at.place)) for at in found.values() if at is not None}
    lost = {Path(mutant["file"]).name for mutant in mutants if found[mutant["id"]] is None}
    others = [path for path in paths if path.name not in lost]
    result = []
    for mutant in mutants:
        if found[mutant["id"]] is None:
            same = [path for path in paths if path.name == Path(mutant["file"]).name]
            (new,) = sample(same or others or paths, root, 1, draw, used)
            used.add((root / new["file"], new["function"], new["node"]))
            mutant = new | {"id": mutant["id"], "replaces": f"{mutant['file']}: {mutant['function']}"}
        result.append(mutant)
    return result


def sources_of(tree: Path) -> dict[Path, list[Unit]]:
    """The units of every file of the package."""
    return {path: list(units(ast.parse(path.read_text()).body)) for path in sorted((tree / "src").rglob("*.py"))}


def read_mutants(path: Path) -> list[Mutant]:
    """The mutants of a sample or of a result of `run.py check`, without their outcomes."""
    content = json.loads(path.read_text())
    mutants = content["mutants"] if isinstance(content, dict) else content
    return [{k: v for k, v in one.items() if k not in ("outcome", "by", "ran")} for one in mutants]


@dataclass(frozen=True)
class Found:
    """Where a mutant is in a source tree."""

    path: Path
    unit: Unit
    place: Place


def located(mutant: Mutant, sources: dict[Path, list[Unit]]) -> Found | None:
    """Find a mutant again: in a function of the same tree, else by its statement, else by its number in the function.

    Args:
        mutant: as `sample` makes it.
        sources: the units of every file.
    """
    name = mutant["function"]

    def closeness(candidate: tuple[Path, Unit]) -> tuple[bool, bool]:
        return candidate[1].name != name, not str(candidate[0]).endswith(mutant["file"])

    everywhere = [(path, unit) for path, found in sources.items() for unit in found]
    for path, unit in sorted((c for c in everywhere if c[1].digest == mutant["digest"]), key=closeness):
        return Found(path, unit, places(unit)[mutant["node"]])
    for path, unit in sorted(everywhere, key=closeness):
        for place in places(unit) if mutant["before"] in ast.unparse(unit.node) else ():
            if place.number == mutant["node_of_statement"] and header(place.statement) == mutant["statement"]:
                return Found(path, unit, place)
    named = sorted((c for c in everywhere if c[1].name == name), key=closeness)
    if len(named) > 1 and closeness(named[0])[1]:
        return None  # the name says too little
    for path, unit in named[:1]:
        found = places(unit)
        numbered = found[mutant["node"] : mutant["node"] + 1]
        for place in (*numbered, *found):
            if ast.unparse(place.node) == mutant["before"]:
                return Found(path, unit, place)
        kind = ast.parse(mutant["before"]).body[0]
        for place in numbered:  # names have changed
            if type(place.node) is type(kind.value if isinstance(kind, ast.Expr) else kind):
                return Found(path, unit, place)
    return None


def mutated(text: str, place: Place, choice: int) -> str:
    """The source text with the node replaced, with as many lines as before."""
    node: Any = place.node
    lines = text.encode().splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    new = ast.unparse(ast.fix_missing_locations(replacements(node)[choice]))
    more = "\n" * (text.encode()[start:end].count(b"\n") - new.count("\n"))
    new = new + more if isinstance(node, ast.stmt) else f"({new}{more})"
    return (text.encode()[:start] + new.encode() + text.encode()[end:]).decode()


def main() -> None:
    """Write a sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", type=Path, required=True, help="source files of the core")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--of", type=Path, help="an earlier sample or result; only what this tree lacks is drawn anew")
    given = parser.parse_args()
    paths, root, draw = [path.resolve() for path in given.files], Path.cwd(), random.Random(given.seed)
    if given.of is None:
        mutants = sample(paths, root, given.count, draw)
    else:
        mutants = replace_lost(read_mutants(given.of), paths, root, draw)
    given.out.write_text("[\n" + ",\n".join(json.dumps(mutant) for mutant in mutants) + "\n]\n")


if __name__ == "__main__":
    main()
