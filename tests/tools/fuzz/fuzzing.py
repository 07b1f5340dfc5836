"""One input after the other through a reader."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from tools.fuzz.guard import limits, watch
from tools.fuzz.mutate import FORMS, bytes_of
from tools.fuzz.readers import Reader
from winning_tickets.runs.errors import TicketsError


class Fuzzer:
    """A folder of valid files, one of which is damaged again and again.

    Args:
        reader: what reads it.
        folder: to work in.
    """

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader = reader
        self.folder = folder / "inside"
        (folder / "outside").mkdir(parents=True)
        (folder / "outside" / "secret").write_text("no file names this place")
        self.folder.mkdir()
        reader.make(self.folder)
        self.file = self.folder / reader.file
        self.seed = self.file.read_bytes()
        reader.read(self.folder)  # valid files are read, and what is imported late is imported now
        self.try_one(b"")

    def try_one(self, content: bytes, seal: bool = True) -> str:
        """Read the file with another content.

        Returns:
            `valid`, or the name of one of our errors.

        Raises:
            AssertionError: an error that does not name the file or the folder, or one of another kind was raised.
        """
        self.file.write_bytes(content)
        if seal and self.reader.seal is not None:
            self.reader.seal(self.folder)
        try:
            with watch(self.folder), limits():
                self.reader.read(self.folder)
        except TicketsError as error:
            return self._checked(error)
        return "valid"

    def _checked(self, error: TicketsError) -> str:
        """The name of an error's class, where it says which file it is about."""
        message = str(error)
        names = (str(self.folder), self.file.name, self.reader.copied_from)
        assert any(name and name in message for name in names), f"names no file: {message or 'no message'}"
        return type(error).__name__

    def damage(self, rng: random.Random, meaning: bool) -> bytes:
        """The valid file with some damage, to its meaning or to its bytes."""
        return FORMS[self.reader.form](self.seed, rng) if meaning else bytes_of(self.seed, rng)

    def run(self, count: int, seed: int) -> Counter[str]:
        """Read so many damaged files, half of each kind, and count what came of them."""
        found: Counter[str] = Counter()
        for number in range(count):
            rng = random.Random(f"{seed} {number}")
            found[self.try_one(self.damage(rng, meaning=number % 2 == 0), seal=number % 4 < 3)] += 1
        return found
