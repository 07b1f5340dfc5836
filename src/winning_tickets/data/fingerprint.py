"""One way to hash data: xxh3-128 over length-prefixed strings, all at once or as they come."""

from __future__ import annotations

from collections.abc import Iterable


def fingerprint(parts: Iterable[str]) -> str:
    """xxh3-128 of a sequence of strings, 32 hex digits.

    Each string is preceded by its length, so that moving text from one to the next changes the hash.
    """
    running = RunningFingerprint()
    for part in parts:
        running.add(part)
    return running.hexdigest()


class RunningFingerprint:
    """The fingerprint of the strings that were added so far."""

    def __init__(self) -> None:
        import xxhash

        self._state = xxhash.xxh3_128()

    def add(self, part: str) -> None:
        """One more string."""
        content = part.encode("utf-8", "surrogatepass")
        self._state.update(len(content).to_bytes(8, "little"))
        self._state.update(content)

    def hexdigest(self) -> str:
        """32 hex digits."""
        return str(self._state.hexdigest())
