"""What the sources of spans share: how traces are named, and how a span can have ended."""

import re
from collections.abc import Mapping

__all__ = ["STATES", "same_trace", "trace_id"]

STATES = ("ok", "error", "unset")
_HEX = re.compile(r"[0-9a-f]{1,32}")


def trace_id(text: str) -> str:
    """Write a trace's identifier with all its 32 digits: systems leave out zeros at its front.

    Raises:
        ValueError: It is none.
    """
    digits = text.lower()
    if not _HEX.fullmatch(digits):
        raise ValueError(f"{text!r} names no trace")
    return digits.zfill(32)


def same_trace(where: Mapping[str, str]) -> dict[str, str]:
    """Write the trace in `where` as the lines have it; one that cannot be is empty, and no line has it."""
    found = dict(where)
    if "trace" in found:
        digits = found["trace"].lower()
        found["trace"] = trace_id(digits) if _HEX.fullmatch(digits) else ""
    return found
