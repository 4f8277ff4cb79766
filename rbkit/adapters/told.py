"""What systems tell about themselves when they are pinged, on one line."""

import os
from typing import Any

__all__ = ["told", "user"]


def told(value: Any, most: int = 80) -> str:
    """Write what a system tells about itself as a part of one line.

    Args:
        value: What it told.
        most: The most characters that are kept.

    Returns:
        Its printable characters, single spaces between words, shortened; `unknown` when it told nothing.
    """
    text = value.decode(errors="replace") if isinstance(value, bytes) else str("" if value is None else value)
    words = "".join(char if char.isprintable() else " " for char in text).split()
    return " ".join(words)[:most] or "unknown"


def user() -> str:
    """Name the user of this machine as whom we run; its number where it has no name."""
    import pwd

    number = os.geteuid()
    try:
        return told(pwd.getpwuid(number).pw_name)
    except KeyError:
        return f"user {number}"
