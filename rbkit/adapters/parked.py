"""How messages are called, so that the same name never means two of them."""

import hashlib
from collections.abc import Collection, Iterable

__all__ = ["PARKED", "digest", "names", "sample"]

PARKED = ".parked"
"""What is added to a queue's name to name the place where its parked messages are."""


def digest(payload: bytes) -> str:
    """Call a message by its bytes: SHA-1 in hex, which Redis computes itself; it is a name, not a proof."""
    return hashlib.sha1(payload, usedforsecurity=False).hexdigest()


def names(bases: Iterable[str], parked: Collection[str]) -> list[str]:
    """Tell messages apart that are called alike: each takes the first name that is free.

    Args:
        bases: What the messages of a queue are called by themselves, from the head on.
        parked: The names of the messages that are parked beside it.

    Returns:
        One name each: the base, or the base with `~2`, `~3` and so on where that is taken.
    """
    taken, found = set(parked), []
    for base in bases:
        name, copy = base, 1
        while name in taken:
            copy += 1
            name = f"{base}~{copy}"
        taken.add(name)
        found.append(name)
    return found


def sample(payload: bytes, longest: int = 200) -> str:
    """Show the beginning of a message; what is no text is escaped."""
    text = payload[: longest + 1].decode("utf-8", errors="backslashreplace")
    return text if len(payload) <= longest else text[: longest - 1] + "…"
