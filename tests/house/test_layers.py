"""The architecture holds: imports go down, importing is cheap, files and functions stay readable."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "winning_tickets"
PACKAGE = SOURCE.name

FLOORS = {
    "studies": 12,
    "cli": 11,
    "api": 11,
    "finetuning": 9,
    "deploy": 8,
    "evaluation": 8,
    "pruning": 7,
    "training": 6,
    "report": 6,
    "tickets": 5,
    "models": 4,
    "data": 3,
    "config": 2,
    "runs": 1,
}
"""Floor of each folder; a folder imports only from itself and from lower floors (docs/explanation/architecture.md)."""

HEAVY = ("torch", "transformers", "datasets", "accelerate", "sklearn", "filelock")
LIGHT_FOLDERS = ("cli", "config", "runs", "studies", "report")
"""Folders that `--help`, plans and reports need; no module of them imports torch when it is imported."""
LIGHT_EXCEPT = ("studies.tiny", "studies.analysis")


def name_of(path):
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


@cache
def trees():
    """Syntax tree of each module, by its name without the package."""
    return {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}


def imported(node, modules):
    """Modules of the package, or names of others, that an import statement imports."""
    if isinstance(node, ast.Import):
        return {alias.name.removeprefix(f"{PACKAGE}.") for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    assert not node.level, f"relative import in line {node.lineno}"
    if node.module != PACKAGE and not node.module.startswith(f"{PACKAGE}."):
        return {node.module}
    base = node.module.removeprefix(PACKAGE).removeprefix(".")
    below = {f"{base}.{alias.name}".removeprefix(".") for alias in node.names}
    return {name if name in modules else base for name in below}


@cache
def arrows():
    """Modules of the package that each module imports anywhere, also inside functions."""
    modules = trees()
    found = {}
    for name, tree in modules.items():
        targets = set().union(*(imported(node, modules) for node in ast.walk(tree)))
        found[name] = {target for target in targets if target in modules and target != name}
    return found


def test_the_folders_are_those_of_the_architecture():
    entries = {path.name for path in SOURCE.iterdir() if path.name != "__pycache__"}
    assert entries == {*FLOORS, "__init__.py", "__main__.py", "py.typed"}
    page = (SOURCE.parents[1] / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    for folder, floor in FLOORS.items():
        assert f"| {floor} | `{folder}/` |" in page


def test_no_folder_bears_the_name_of_a_public_function():
    import winning_tickets

    assert not set(FLOORS) & set(winning_tickets.__all__)


def test_imports_go_down_only():
    up = []
    for name, targets in arrows().items():
        own = name.split(".")[0]
        for target in targets:
            other = target.split(".")[0]
            if own in FLOORS and (other not in FLOORS or (own != other and FLOORS[other] >= FLOORS[own])):
                up.append(f"{name} imports {target}")
    assert not up


def test_no_files_import_each_other_in_a_circle():
    left = {name: set(targets) for name, targets in arrows().items()}
    while free := {name for name, targets in left.items() if not targets & set(left)}:
        left = {name: targets for name, targets in left.items() if name not in free}
    assert not left, f"circular imports among {sorted(left)}"


def is_light(name):
    return f"{name}.".startswith(tuple(f"{folder}." for folder in LIGHT_FOLDERS)) and not (
        name.startswith(LIGHT_EXCEPT) and not name.startswith("studies.analysis.report")
    )


def on_import(tree):
    """Import statements that run when a module is imported: not those in functions or under TYPE_CHECKING."""
    open_nodes = list(tree.body)
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or "TYPE_CHECKING" in ast.dump(
            node.test if isinstance(node, ast.If) else ast.Pass()
        ):
            continue
        yield node
        open_nodes += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def test_light_modules_import_nothing_heavy():
    """Neither themselves nor through what they import when they are imported."""
    modules = trees()
    direct = {name: set().union(*(imported(n, modules) for n in on_import(tree))) for name, tree in modules.items()}

    def reached(name):
        """All that importing a module imports; importing `a.b` runs `a/__init__.py` too."""
        found, left = set(), {name}
        while left:
            module = left.pop()
            if module in found:
                continue
            found.add(module)
            parents = {module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)}
            left |= (direct[module] | (parents & set(modules))) if module in modules else set()
        return found

    heavy = {
        name: sorted(target for target in reached(name) if target.split(".")[0] in HEAVY)
        for name in modules
        if is_light(name)
    }
    assert not {name: found for name, found in heavy.items() if found}


def test_files_and_functions_stay_readable():
    for name, tree in trees().items():
        lines = max((node.end_lineno for node in ast.walk(tree) if hasattr(node, "end_lineno")), default=0)
        assert lines <= 620, f"{name} has {lines} lines; a file is one concept of the field, about 150 to 600 lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not name.startswith(("cli", "studies.commands")):
                assert node.end_lineno - node.lineno < 75, f"{name}.{node.name} is too long"


def test_modules_and_public_names_are_documented():
    for name, tree in trees().items():
        if name != "__main__":
            assert ast.get_docstring(tree), f"{name} has no docstring"
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"


@pytest.mark.parametrize("code", ["import winning_tickets", "from winning_tickets.cli import app; app(['--help'])"])
def test_import_and_help_are_cheap(code):
    heavy = ("torch", "transformers", "datasets", "pandas", "sklearn", "scipy", "matplotlib", "numpy")
    program = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_public_names_are_resolved_on_first_use():
    import winning_tickets

    for name in winning_tickets.__all__:
        assert getattr(winning_tickets, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'serch'"):
        _ = winning_tickets.serch


def test_every_module_can_be_imported_under_another_name():
    """`import a.b.c as d` gives an attribute of `a.b`, which a function of that name would hide."""
    import winning_tickets

    for name in winning_tickets.__all__:  # resolved names are attributes of the package
        getattr(winning_tickets, name)
    for name in trees():
        full = f"{PACKAGE}.{name}".removesuffix(".__init__")
        found = {}
        exec(f"import {full} as module", found)
        assert found["module"] is sys.modules[full]
