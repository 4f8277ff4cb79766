"""What systems tell about themselves when they are pinged, on one line."""

from typing import Any

__all__ = ["told"]


def told(value: Any, most: int = 80) -> str:
    """Write what a system tells about itself as a part of one line.

    Args:
        value: What it told.
        most: The most characters that are kept.

    Returns:
        Its printable characters, single spaces between words, shortened; `unknown` when it told nothing.
    """
    words = "".join(char if char.isprintable() else " " for char in str(value if value is not None else "")).split()
    return " ".join(words)[:most] or "unknown"
