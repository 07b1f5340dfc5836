"""The package that users install: metadata, wheel, sdist, image, and the demo from a wheel in a new environment."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import winning_tickets
from winning_tickets.cli.application import DOCS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HOME = PROJECT["urls"]["Homepage"]


def test_versions_and_addresses_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)[1] == winning_tickets.__version__
    assert "version" not in PROJECT, "__init__.py has it"
    assert "version" not in citation, "__init__.py has it"
    assert citation["repository-code"] == HOME
    assert f"repo_url: {HOME}\n" in site
    assert all(url.startswith(HOME) for url in (*PROJECT["urls"].values(), DOCS))


def test_the_image_has_the_torch_of_the_constraints() -> None:
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    pinned = re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert f"ARG TORCH={pinned[1]}\n" in image


def test_the_page_of_libraries_names_them_and_tests_that_exist() -> None:
    page = (ROOT / "docs/reference/libraries.md").read_text(encoding="utf-8")
    libraries = {re.split(r"[\[>=]", one)[0] for one in PROJECT["optional-dependencies"]["ecosystem"]}
    libraries |= {re.split(r"[\[>=]", one)[0] for one in PROJECT["optional-dependencies"]["slurm"]}
    assert [one for one in libraries - {PROJECT["name"]} if one.lower() not in page.lower()] == []
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 10
    for path, name in named:
        assert f"def {name or 'test_'}" in (ROOT / path).read_text(encoding="utf-8"), path


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_runs_the_demo_in_a_new_environment(tmp_path: Path) -> None:
    """Without the demo's model it imports and helps; with it the demo runs, far from the sources."""

    def run(*command: object, fails: bool = False) -> str:
        done = subprocess.run([str(one) for one in command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    pytest.importorskip("build", reason="build is not installed: pip install 'winning-tickets[docs]'")
    run(sys.executable, "-m", "build", "--outdir", "dist", ROOT)
    run(sys.executable, "-m", "twine", "check", "--strict", *(tmp_path / "dist").iterdir())
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        readme = archive.read(metadata).decode().partition("\n\n")[2]
    links = re.findall(r"\]\(([^)]+)\)", readme)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    for link in links:
        for kind in ("blob", "raw"):
            if link.startswith(f"{HOME}/{kind}/main/"):
                assert (ROOT / link.removeprefix(f"{HOME}/{kind}/main/").partition("#")[0]).exists(), link

    run(sys.executable, "-m", "venv", "new")
    python, tickets = tmp_path / "new/bin/python", tmp_path / "new/bin/tickets"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
    assert "site-packages" in run(python, "-c", "import winning_tickets as wt; wt.search; print(wt.__file__)")
    assert "search" in run(tickets, "--help")
    assert "winning-tickets[demo]" in run(tickets, "demo", "--tiny", "--out", "demo", fails=True)
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", f"{wheel}[demo]")
    assert "mask training (KD)" in run(tickets, "demo", "--tiny", "--out", "demo")
    assert (tmp_path / "demo/report.html").stat().st_size > 10_000
