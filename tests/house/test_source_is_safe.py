"""Nothing in the package runs what it reads: ruff's rules `S` and `T10` see the plain cases, these tests the others."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "winning_tickets"
FORBIDDEN_NAMES = {"compile", "__import__", "input"}
FORBIDDEN_MODULES = {"cloudpickle", "joblib", "jsonpickle", "runpy", "code"}
SUBPROCESS = {"runs/provenance.py", "studies/engines.py"}
"""Files that start processes: git, and the workers of a study; always from a list of words."""
FLAG = ("api/arguments.py", "api/deploy_verbs.py", "cli/tickets.py", "studies/commands/study.py", "models/given.py")
"""Files with a function that is told whether the user trusts the code of models, and passes it on."""
LOADS = ("deploy/measure.py", "models/loading.py", "models/tokenizers.py")
"""Files that make models, with their own code only if `is_trusted()`."""
OWN = ("Ticket.",)
"""Classes of ours with a `from_pretrained`; without `trust_remote_code=False` those of transformers ask on stdin."""


def name_of(node: ast.AST) -> str:
    """`torch.load` of the function of a call."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def constant(node: ast.AST | None) -> object:
    return node.value if isinstance(node, ast.Constant) else node


def problems(text: str, name: str) -> list[str]:
    """What a source file does that it must not."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = ast.parse(text)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            roots = {module.split(".")[0] for module in modules}
            found += [f"imports {root}" for root in roots & FORBIDDEN_MODULES]
            found += ["imports subprocess"] if "subprocess" in roots and name not in SUBPROCESS else []
        elif isinstance(node, ast.Call):
            found += _problems_of_call(node, name)
        elif isinstance(node, ast.arg) and node.arg == "trust_remote_code" and name not in FLAG:
            found.append("trust_remote_code")
        if (
            isinstance(node, ast.keyword)
            and node.arg in ("allow_pickle", "trust_remote_code")
            and constant(node.value) is not False
            and not _asked_for(node, name)
        ):
            found.append(f"{node.arg}=...")
    return found


def _asked_for(node: ast.keyword, name: str) -> bool:
    """Models run code of their own after --trust-remote-code only."""
    value = ast.unparse(node.value)
    loads = name in LOADS and value in ("is_trusted()", "own_code and is_trusted()")
    passes = name in FLAG and value in ("trust_remote_code", "runtime.trust_remote_code")
    return node.arg == "trust_remote_code" and (loads or passes)


def _problems_of_call(node: ast.Call, name: str) -> list[str]:
    called = name_of(node.func)
    keywords = {one.arg: constant(one.value) for one in node.keywords}
    if called in FORBIDDEN_NAMES:
        return [f"calls {called}"]
    if called == "importlib.util.spec_from_file_location":
        return [f"calls {called}"]
    if called == "torch.load" and keywords.get("weights_only") is not True:
        return ["torch.load without weights_only=True"]
    if called.startswith("yaml.") and ("unsafe" in called or "full" in called):
        return [f"calls {called}"]
    if called.endswith((".from_pretrained", ".from_config")) and not called.startswith(OWN):
        asked = any(_asked_for(one, name) for one in node.keywords)
        safe = asked or keywords.get("trust_remote_code") is False
        return [] if safe else [f"{called} without trust_remote_code=False"]
    if called in ("np.load", "numpy.load") and keywords.get("allow_pickle") is not False:
        return ["np.load without allow_pickle=False"]
    return []


def test_no_file_runs_what_it_reads():
    files = {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    assert len(files) > 200
    assert {name: found for name, text in files.items() if (found := problems(text, name))} == {}


def test_every_rule_of_ruff_is_switched_off_for_a_reason():
    """As in `# noqa: S607 - the git of the user's PATH`."""
    bare = []
    for path in (one for folder in ("src", "tests", "benchmarks", "docs") for one in (ROOT / folder).rglob("*.py")):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            if token.type == tokenize.COMMENT and "noqa:" in token.string and " - " not in token.string:
                bare.append(f"{path.relative_to(ROOT)}, line {token.start[0]}: {token.string}")
    assert bare == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("compile(x, y, 'exec')", "calls compile"),
        ("import joblib as json", "imports joblib"),
        ("from runpy import run_path", "imports runpy"),
        ("torch.load(x)", "torch.load without weights_only=True"),
        ("torch.load(x, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(x)", "np.load without allow_pickle=False"),
        ("np.load(x, allow_pickle=True)", "allow_pickle=..."),
        ("yaml.unsafe_load(x)", "calls yaml.unsafe_load"),
        ("import subprocess", "imports subprocess"),
        ("AutoModel.from_pretrained(x, trust_remote_code=True)", "trust_remote_code=..."),
        ("AutoModel.from_pretrained(x, trust_remote_code=y)", "trust_remote_code=..."),
        ("AutoModel.from_pretrained(x, trust_remote_code=is_trusted())", "trust_remote_code=..."),
        ("AutoModel.from_pretrained(x)", "AutoModel.from_pretrained without trust_remote_code=False"),
        ("kind(x).from_config(y)", "?.from_config without trust_remote_code=False"),
        ("def load(trust_remote_code): pass", "trust_remote_code"),
    ],
)
def test_the_check_sees_what_it_looks_for(text, problem):
    assert problem in problems(text, "x.py")


@pytest.mark.parametrize(
    "text",
    [
        "torch.load(x, weights_only=True)",
        "np.load(x, allow_pickle=False)",
        "model.eval()",
        "ast.literal_eval(x)",
        "re.compile(x)",
        "'trust_remote_code=True'",
        "AutoModel.from_pretrained(x, trust_remote_code=False)",
        "Ticket.from_pretrained(x)",
    ],
)
def test_the_check_lets_the_rest_pass(text):
    assert problems(text, "x.py") == []
