"""Hatch's hook for the metadata: on PyPI the links of the README lead to the repository."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)(\[[^\]]*\]\()(?!\w+:|#)([^)]+\))")


class CustomMetadataHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        """Set the README with absolute links, without the marks of its tests."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = re.sub(r"<!-- test: .*? -->\n", "", text)
        home = metadata["urls"]["Homepage"]

        def absolute(link: re.Match[str]) -> str:
            image, words, target = link.groups()
            return f"{image}{words}{home}/{'raw' if image else 'blob'}/main/{target}"

        text = LINK.sub(absolute, text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
