"""The architecture holds: imports go down, importing is cheap, files and functions stay small, tables are complete."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "winning_tickets"
FILES = sorted(SOURCE.rglob("*.py"))

# Each layer may import itself and those above it in this list; see docs/explanation/architecture.md.
LAYERS = [
    {"__init__", "errors", "files", "interruption", "process_group", "processes", "provenance", "progress"},
    {"bootstrap", "config", "correlation", "criteria", "folders", "identity", "rundir", "sealed", "stats", "tracking"},
    {"store"},
    {"architectures", "bits", "compact_modeling", "devices", "parts", "plm", "selection", "structure"},
    {"origin", "ticket"},
    {"data", "gates", "masking", "states", "tiny"},
    {
        "adamax",
        "importance",
        "mask_optimizer",
        "membership",
        "objectives",
        "optimizers",
        "random_states",
        "reselection",
        "sharded_selection",
        "shares",
        "sharing_optimizer",
    },
    {"finite", "multitask", "sharded", "task_tickets", "train", "training_callbacks"},
    {"evaluate", "predict"},
    {"task_models"},
    {"best", "seed_runs", "shared_model"},
    {"adaptation", "fine_tuned"},
    {"dev_selection"},
    {"transfer_setup"},
    {"search"},
    {"fit_head"},
    {"compact", "export_source", "flops"},
    {"mask_files"},
    {"dev_evaluations"},
    {"glue_submission", "sharing_setup", "sharing_trainer", "transfer"},
    {"export_masked", "export_onnx", "export_compact", "export_encoder", "export", "measure", "compare", "algebra"},
    {"sharing_results", "sharing_stages", "sharing"},
    {"analyse"},
    {"verify"},
    {"study"},
    {"report", "show"},
    {"demo", "super_ticket"},
    {"options", "cli", "__main__"},
]
TORCH_FREE = {
    "errors",
    "files",
    "interruption",
    "provenance",
    "progress",
    "bootstrap",
    "config",
    "correlation",
    "criteria",
    "folders",
    "identity",
    "rundir",
    "sealed",
    "stats",
    "store",
    "study",
    "report",
    "show",
    "options",
    "cli",
}


def module_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def layer_of(module):
    found = [index for index, layer in enumerate(LAYERS) if module in layer]
    assert found, f"{module} is in no layer; add it to LAYERS"
    return found[0]


@functools.cache
def tree_of(path):
    """The parsed file, the same for every check."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_only(path):
    if path == SOURCE / "__init__.py":
        return  # the public names, resolved lazily
    own = module_of(path)
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "winning_tickets" and len(parts) > 1 and own != "cli":
            assert layer_of(parts[1]) <= layer_of(own), f"{own} imports {parts[1]}, which lies above it"
        if own in TORCH_FREE and own != "cli":
            assert parts[0] not in ("torch", "transformers"), f"{own} must not import {parts[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_stay_small(path):
    if path.parent.name != "cli":  # one function a verb, and a verb's options are its signature
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 420
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef) and path.parent.name != "cli":
            assert node.end_lineno - node.lineno < 75, f"{node.name} is too long"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_everything_public_is_documented(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree) or not tree.body, path
    nested = _nested(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            if node.name in ("on_step_end", "on_train_begin") or node.name in nested:
                continue
            assert ast.get_docstring(node), f"{path.name}: {node.name}"


def _nested(tree):
    """Names of the functions inside functions."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {n.name for f in functions for n in ast.walk(f) if isinstance(n, ast.FunctionDef) and n is not f}


@pytest.mark.parametrize("code", ["import winning_tickets", "from winning_tickets.cli import app; app(['--help'])"])
def test_import_and_help_are_cheap(code):
    heavy = ("torch", "transformers", "datasets", "pandas", "sklearn", "scipy", "matplotlib", "numpy")
    program = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_functions_win_over_their_modules():
    import winning_tickets
    from winning_tickets.search import METHODS

    assert METHODS
    assert callable(winning_tickets.search)
    assert callable(winning_tickets.evaluate)
    for name in winning_tickets.__all__:
        assert getattr(winning_tickets, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'serch'"):
        _ = winning_tickets.serch
