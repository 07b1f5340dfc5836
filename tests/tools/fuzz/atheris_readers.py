"""The readers of `readers.py` driven by coverage, for whoever has installed atheris.

    python -m venv /somewhere && /somewhere/bin/pip install atheris -e '.[dev]'
    cd tests && /somewhere/bin/python -m tools.fuzz.atheris_readers "structured ticket" -runs=100000

The words after the name of the reader go to libFuzzer. Not part of any suite: see `mutate.py`.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["winning_tickets", "safetensors"]):
    from tools.fuzz.fuzzing import Fuzzer
    from tools.fuzz.mutate import FORMS
    from tools.fuzz.readers import READERS


def main() -> None:
    """Fuzz the reader that the first word names."""
    name, *rest = sys.argv[1:]
    folder = Path(tempfile.mkdtemp())
    fuzzer = Fuzzer(READERS[name], folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "valid").write_bytes(fuzzer.seed)

    def damaged(data: bytes, limit: int, seed: int) -> bytes:
        """Half of the mutations are libFuzzer's own, half change what the file means."""
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return atheris.Mutate(data, limit)
        try:
            return FORMS[fuzzer.reader.form](data, rng)[:limit]
        except Exception:  # no longer a file of this form
            return atheris.Mutate(data, limit)

    atheris.Setup([sys.argv[0], *rest, str(corpus)], fuzzer.try_one, custom_mutator=damaged)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
