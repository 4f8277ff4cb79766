"""Takes out of every text the secrets that this process has fetched, in the forms in which they may show.

Masking is the last line, not the first: no adapter shows a secret, and tokens are short-lived in any case. What is
shorter than six characters cannot be told from ordinary text and is not masked.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from pydantic import SecretStr

__all__ = ["MASK", "Stream", "any_known", "forget", "mask", "masked", "remember"]

MASK = "•••"
_SHORTEST = 6
_forms: list[str] = []


def remember(secret: SecretStr) -> SecretStr:
    """Mask a secret from now on, and return it."""
    text = secret.get_secret_value()
    if len(text) >= _SHORTEST:
        _forms[:] = sorted({*_forms, *_shapes(text)}, key=len, reverse=True)
    return secret


def any_known() -> bool:
    """Whether there is anything to mask."""
    return bool(_forms)


def forget() -> None:
    """Mask nothing any more; for tests."""
    _forms.clear()


def _shapes(text: str) -> set[str]:
    """Write a secret in every form in which it may show: JSON, Python, URL, base64 at any place, and line by line."""
    data = text.encode("utf-8", "surrogatepass")
    found = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
    found |= {json.dumps(shape)[1:-1] for shape in found}
    found |= {quote(data), quote(data, safe=""), quote_plus(data), *text.splitlines()}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        found |= {_inside(encode(b"\0" * ahead + data).decode(), ahead) for ahead in range(3)}
    return {shape for shape in found if len(shape) >= _SHORTEST}


def _inside(encoded: str, ahead: int) -> str:
    """Take the characters that stand for the secret alone, whatever stands before and after it."""
    first, last = -(-ahead * 8 // 6), encoded.rstrip("=")
    return last[first : len(last) - (len(encoded) != len(last))]


def mask(text: str) -> str:
    """Return a text without secrets."""
    for form in _forms:
        if form in text:
            text = text.replace(form, MASK)
    return text


def masked(value: Any) -> Any:
    """Return a JSON value without secrets, keys included; the value itself when there is nothing to mask."""
    if not _forms:
        return value
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {mask(str(key)): masked(item) for key, item in value.items()}
    return [masked(item) for item in value] if isinstance(value, list | tuple) else value


class Stream:
    """A text that comes in pieces: a secret that is cut in two by their border is masked, too."""

    def __init__(self) -> None:
        self._tail = ""

    def feed(self, text: str) -> str:
        """Take a piece; return what can be shown now."""
        text = mask(self._tail + text)
        held = max((_overlap(text, form) for form in _forms), default=0)
        self._tail = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """Return what was held back, when nothing more comes."""
        tail, self._tail = self._tail, ""
        return tail


def _overlap(text: str, form: str) -> int:
    """Count how many characters at the end of a text may be the beginning of a secret."""
    longest = min(len(text), len(form) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(form[:size])), 0)
