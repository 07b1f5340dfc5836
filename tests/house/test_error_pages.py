"""The pages that messages name are there, with their sections."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from winning_tickets.runs.errors import DOCS, PAGES, page, unknown

ROOT = Path(__file__).resolve().parents[2]


def named():
    """Every page that the package names in a message, with the place where it does."""
    found = {address: f"PAGES of {kind}" for kind, address in PAGES.items()}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "page":
                (argument,) = node.args
                if isinstance(argument, ast.Constant):
                    found.setdefault(argument.value, f"{path.name}, line {node.lineno}")
                else:
                    assert path.name == "errors.py", f"{path}, line {node.lineno}: name the page as a literal"
    for path in sorted((ROOT / "src").rglob("*.yaml")):
        for address in re.findall(f"{re.escape(DOCS)}(\\S+)", path.read_text(encoding="utf-8")):
            found.setdefault(address, path.name)
    return found


def sections(text):
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("address", sorted(named()))
def test_a_page_that_a_message_names_is_there(address):
    path, _, section = address.partition("#")
    file = ROOT / "docs" / path
    assert file.is_file(), f"{named()[address]} names {address}"
    assert not section or section in sections(file.read_text(encoding="utf-8")), f"{named()[address]}: no {section}"


def test_messages_name_pages_by_this_function_alone():
    """A path below docs/ in a message would lead nowhere in an installed package."""
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                assert not re.search(r"\bdocs/(explanation|how_to|reference|tutorials)/", node.value), (
                    f"{path}: {node.value}"
                )


def test_a_message_ends_with_the_address():
    assert page("explanation/faults.md") == f"See {DOCS}explanation/faults.md"
    assert str(unknown("objective", "kdd", ["kd", "mlm"])).endswith(f"See {DOCS}explanation/objectives.md")
    assert "See" not in str(unknown("axis", "sed", ["seed"]))
