"""One way to hash data: xxh3-128 over length-prefixed strings."""

from __future__ import annotations

from collections.abc import Iterable


def fingerprint(parts: Iterable[str]) -> str:
    """xxh3-128 of a sequence of strings, 32 hex digits.

    Each string is preceded by its length, so that moving text from one to the next changes the hash.
    """
    import xxhash

    state = xxhash.xxh3_128()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass")
        state.update(len(content).to_bytes(8, "little"))
        state.update(content)
    return str(state.hexdigest())
