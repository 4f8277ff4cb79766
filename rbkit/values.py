"""Small values that everything else is made of: ids, digests, durations, secret references."""

import difflib
import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rbkit.clock import Clock
from rbkit.errors import RefusedInput, SettingsError

__all__ = [
    "Secret",
    "canonical",
    "digest",
    "human",
    "human_bytes",
    "nearest",
    "new_run_id",
    "plain",
    "seconds",
    "valid_run_id",
]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
_DEEPEST = 50
_LONGEST = 100 * 365 * 86400


def canonical(value: Any) -> bytes:
    """Write a JSON value in the one form that is hashed.

    Args:
        value: A JSON value; NaN and infinity are refused.

    Returns:
        ASCII bytes: sorted keys, no white space.

    Raises:
        RefusedInput: The value is not JSON.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise RefusedInput(f"This value cannot be written to the journal: {error}.") from error


def digest(value: Any) -> str:
    """Name a JSON value, text or bytes by its content.

    Args:
        value: Bytes as they are; anything else in its canonical form.

    Returns:
        `sha256:` and 64 hexadecimal digits.
    """
    data = value if isinstance(value, bytes) else canonical(value)
    return "sha256:" + hashlib.sha256(data).hexdigest()


def seconds(text: str | float) -> float:
    """Read a duration such as `30s`, `5m`, `1h30m` or `250ms`.

    Args:
        text: Numbers with units; a bare number is taken as seconds.

    Returns:
        Seconds, above zero and below 100 years: what a date can be moved by.

    Raises:
        SettingsError: It is no duration, not above zero, or too long.
    """
    if isinstance(text, int | float):
        total = text
    else:
        parts = _DURATION.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text.strip():
            raise SettingsError(f"{text!r} is no duration.", todo="Write it like 30s, 5m, 1h30m or 250ms.")
        total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < total < _LONGEST:
        raise SettingsError(
            f"A duration must be above zero and below 100 years, not {text!r:.40}.", todo="Write it like 30s or 5m."
        )
    return float(total)


def human(amount: float) -> str:
    """Write seconds as people say them.

    Args:
        amount: Seconds.

    Returns:
        For example `0.4s`, `12s`, `3m 05s`, `2h 10m`.
    """
    if amount < 10:
        return f"{amount:.1f}s"
    whole = round(amount)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"


def human_bytes(amount: float) -> str:
    """Write bytes as people say them, for example `512 B`, `20 MB`, `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def new_run_id(clock: Clock) -> str:
    """Make a run's id: it sorts by time and can be read out on the phone.

    Args:
        clock: Where the time comes from.

    Returns:
        For example `20261123-094512-7f3a2c` (UTC and six random digits).
    """
    return f"{clock.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def valid_run_id(text: str) -> bool:
    """Tell whether a text has the form of a run's id."""
    return _RUN_ID.fullmatch(text) is not None


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that is most like a wrong one.

    Returns:
        ` Did you mean 'x'?`, or nothing when none is near.
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """Turn a value into JSON that reads back as the same value, or refuse it at once.

    Args:
        value: None, bool, int, finite float, str, list or tuple, mapping with text keys, time, or a pydantic model.
        where: What it is, for the error, such as `the result of step drain`.
        depth: How deep the value lies; leave it out.

    Returns:
        The JSON value; a time as ISO text.

    Raises:
        RefusedInput: The value is of another kind, not finite, or nested too deeply.
    """
    if depth > _DEEPEST:
        raise RefusedInput(f"{where} is nested deeper than {_DEEPEST} levels.", todo="Return a flatter value.")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, datetime) and value == value:  # pandas calls NaT a datetime
        return value.isoformat()
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(item, where, depth + 1) for item in value]
    return _foreign(value, where, depth)


def _foreign(value: Any, where: str, depth: int) -> Any:
    """Turn numpy scalars, finite floats and models into JSON."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"), where, depth + 1)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item(), where, depth + 1)
    if isinstance(value, float) and value - value == 0:
        return value
    raise RefusedInput(
        f"{where} is {value!r:.80} of type {type(value).__name__}; that cannot be kept in the journal.",
        todo="Return None, text, finite numbers, lists, mappings or a model.",
    )


@dataclass(frozen=True, slots=True)
class Secret:
    """A reference to a secret, such as `env:PAGER_TOKEN` or `file:/run/secrets/token`: never the secret itself.

    Args:
        source: Which kind of secret source holds it.
        path: Where it lies there.
    """

    source: str
    path: str

    @classmethod
    def parse(cls, reference: str) -> "Secret":
        """Read `SOURCE:PATH`.

        Raises:
            SettingsError: It has not that form; the text is not repeated, as it may be a secret.
        """
        source, colon, path = reference.partition(":")
        if not colon or not source.replace("-", "_").isidentifier() or not path:
            raise SettingsError(
                "A secret must be given as a reference, not in clear.",
                todo="Write SOURCE:PATH, for example env:PAGER_TOKEN or file:/run/secrets/token.",
            )
        return cls(source, path)

    def __str__(self) -> str:
        return f"{self.source}:{self.path}"
