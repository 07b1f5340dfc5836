"""Hooks of the site: links out of docs/, pages that no menu lists, the reader of a page, notebooks as pages."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
COPIED = {"CONTRIBUTING.md": "about/contributing.md", "CHANGELOG.md": "about/changelog.md"}
WIDE = ("README.md", "gallery.md")  # without menus at the sides
BROAD_TABLE = re.compile(r"^\|(?: ?:?-+:? ?\|){5}", re.MULTILINE)
"""A table of five columns or more, which has no room between two menus."""
SECTIONS = {"tutorials": "Tutorials", "how_to": "How-to", "explanation": "Explanation", "reference": "Reference"}
SECTIONS |= {"results": "Results", "notebooks": "Tutorials"}
MOVED = {
    "explanation/built_in_data": "../reference/libraries.html#built-in-model-text-and-task",
    "explanation/hostile_input": "faults.html",
    "explanation/ladder": "mask_engine.html",
    "how_to/choose_a_torch_build": "run_on_several_processes.html",
    "how_to/hold_a_ticket_in_your_own_loop": "with_other_libraries.html#your-own-loop",
    "how_to/make_a_sentence_encoder_faster": "make_a_model_faster.html#a-sentence-encoder-step-by-step",
    "how_to/measure_speed": "make_a_model_smaller.html#measure-speed",
    "how_to/run_on_a_cluster": "run_a_study.html#slurm",
    "how_to/with_mteb": "with_other_libraries.html#mteb",
    "how_to/with_onnx_runtime": "make_a_model_smaller.html#onnx-and-int8",
    "how_to/with_peft": "with_other_libraries.html#peft-lora",
    "how_to/with_sentence_transformers": "with_other_libraries.html#sentence-transformers",
    "how_to/with_setfit": "with_other_libraries.html#setfit",
    "how_to/with_trainers": "with_other_libraries.html#the-trainer-of-transformers",
}
"""Addresses of pages that were merged into others: where each leads now, beside it."""

READERS = {
    "student": ["README.md", "tutorials/*", "notebooks/*", "explanation/numbers.md", "reference/glossary.md"],
    "NLP engineer": [
        *("how_to/*", "reference/command_line.md", "reference/libraries.md", "reference/api/*", "explanation/gpu.md"),
    ],
    "cluster user": [
        *("how_to/run_*", "how_to/read_a_report.md"),
        *("explanation/faults.md", "explanation/store.md", "reference/studies.md", "reference/recipes.md"),
    ],
    "researcher": [
        *("results/*", "explanation/*", "gallery.md", "reference/*", "about/*", "how_to/analyse_tickets.md"),
        *("how_to/controls.md", "how_to/*method*", "how_to/prune_n_of_m.md", "how_to/add_an_*", "how_to/*papers*"),
        *("how_to/find_a_super_ticket.md", "how_to/share_tickets.md", "how_to/fit_an_mlm_head.md"),
    ],
}
"""Four readers and the pages that speak to them, as patterns; a page may have several."""


def readers(page: str) -> list[str]:
    """Return whom a page, relative to docs/, speaks to; the more special patterns come first."""
    narrow = [name for name, some in READERS.items() if any(fnmatch(page, one) for one in some if len(one) > 13)]
    wide = [name for name, some in READERS.items() if any(fnmatch(page, one) for one in some)]
    return narrow or wide


def on_config(config: Any) -> Any:
    """Put pages that no menu lists into the section of their folder."""
    listed = set(_listed(config.nav))
    pages = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
    pages += sorted(f"notebooks/{path.stem}.md" for path in (ROOT / "docs/notebooks").glob("*.ipynb"))
    for page in pages:
        section = SECTIONS.get(page.split("/")[0])
        made = page.rpartition("/")[2].startswith(("figure-", "table-"))  # beside the figures of a report
        if page not in listed and section is not None and not made:
            next(one for one in config.nav if section in one)[section].append(page)
    return config


def _listed(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for one in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _listed(one)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from files outside docs/, and from notebooks."""
    from mkdocs.structure.files import File

    for source, target in COPIED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = LINK.sub(lambda found: f"{found[1]}{_from_about(found[2])}{found[3]}", text)
        files.append(File.generated(config, target, content=text))
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook_page(path)))
    return files


def on_post_build(config: Any) -> None:
    """Lead from the addresses of merged pages to the pages that have their content."""
    for old, new in MOVED.items():
        text = f'<meta http-equiv="refresh" content="0; url={new}"><a href="{new}">Moved</a>'
        Path(config["site_dir"], f"{old}.html").write_text(text, encoding="utf-8")


def _from_about(target: str) -> str:
    """A link of a page in the root, seen from about/."""
    if "://" in target:
        return target
    return f"../{target.removeprefix('docs/')}" if target.startswith("docs/") else f"../../{target}"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Say whom the page is for, and mend its links to folders and to files outside docs/."""
    here = posixpath.dirname(page.file.src_uri)
    if page.file.src_uri in WIDE or here == "notebooks" or BROAD_TABLE.search(markdown):
        page.meta["hide"] = ["toc"] if here else ["navigation", "toc"]

    def mended(found: re.Match[str]) -> str:
        target = found[2]
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        path = posixpath.normpath(posixpath.join(here, target))
        if path.startswith(".."):
            path = path.removeprefix("../")
            if not (ROOT / path).exists():
                return found[0]  # the strict build reports it
            return f"{found[1]}{config.repo_url}/blob/main/{path}{found[3]}"
        if (ROOT / "docs" / path).is_dir():
            inside = posixpath.join(target, "README.md")
            if (ROOT / "docs" / path / "README.md").exists():
                return f"{found[1]}{inside}{found[3]}"
            return f"{found[1]}{config.repo_url}/tree/main/docs/{path}{found[3]}"
        return found[0]

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    markdown = "".join(part if part.startswith("```") else LINK.sub(mended, part) for part in parts)
    if page.file.src_uri == "README.md":
        return markdown  # for everybody
    whom = " · ".join(f"For: {name}" for name in readers(page.file.src_uri))
    return re.sub(r"^(# .*)$", rf'\1\n\n<p class="reader">{whom}</p>', markdown, count=1, flags=re.MULTILINE)


def notebook_page(path: Path) -> str:
    """Return a notebook with its outputs as Markdown."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        parts += [shown for output in cell["outputs"] if (shown := _output(output))]
    link = f"[Download this notebook]({path.name})"
    title, _, rest = parts[0].partition("\n")
    return "\n\n".join([f"{title}\n\n{link}\n{rest}", *parts[1:]]) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img class="output" alt="figure" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if "text/html" in data:
        html = re.sub(r"<style.*?</style>|\n\s*", "", "".join(data["text/html"]), flags=re.DOTALL)
        return f'<div class="output">{html}</div>'
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f'<pre class="output">{escape(text.strip())}</pre>' if text.strip() else ""
