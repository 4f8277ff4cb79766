"""Time series in memory: samples, the mark of staleness, and one hour of keeping."""

import math
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from rbkit.sandbox.promql import Matcher

__all__ = ["STALE", "Series", "Store", "is_stale"]

STALE_BITS = 0x7FF8_0000_0000_0BAD
STALE: float = struct.unpack("<d", struct.pack("<Q", STALE_BITS))[0]
KEEP_MS = 3_600_000
Key = tuple[tuple[str, str], ...]


def is_stale(value: float) -> bool:
    """Tell the mark `the series ended here` from a NaN that was scraped."""
    return math.isnan(value) and struct.unpack("<Q", struct.pack("<d", value))[0] == STALE_BITS


class Series:
    """The samples of one set of labels, in order of time.

    Args:
        labels: All labels, `__name__` among them.
    """

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels
        self._times = array("q")
        self._values = array("d")

    def __len__(self) -> int:
        return len(self._times)

    def append(self, at_ms: int, value: float) -> None:
        """Add a sample; one that is not newer than the last is dropped, as Prometheus does."""
        if not self._times or at_ms > self._times[-1]:
            self._times.append(at_ms)
            self._values.append(value)

    def forget(self, before_ms: int) -> None:
        """Drop samples at or before a time."""
        count = bisect_right(self._times, before_ms)
        del self._times[:count]
        del self._values[:count]

    def last(self, after_ms: int, until_ms: int) -> float | None:
        """Return the newest value in (after, until]; None when there is none or the series had ended."""
        index = bisect_right(self._times, until_ms) - 1
        if index < 0 or self._times[index] <= after_ms or is_stale(self._values[index]):
            return None
        return self._values[index]

    def window(self, after_ms: int, until_ms: int) -> list[tuple[int, float]]:
        """Return the samples in (after, until] without marks of staleness."""
        first, end = bisect_right(self._times, after_ms), bisect_right(self._times, until_ms)
        pairs = zip(self._times[first:end], self._values[first:end], strict=True)
        return [(time, value) for time, value in pairs if not is_stale(value)]


class Store:
    """Every series.

    Args:
        keep_ms: Milliseconds that samples are kept.
    """

    def __init__(self, keep_ms: int = KEEP_MS) -> None:
        self._series: dict[Key, Series] = {}
        self._keep_ms = keep_ms

    def __iter__(self) -> Iterator[Series]:
        return iter(self._series.values())

    def append(self, labels: dict[str, str], at_ms: int, value: float) -> Key:
        """Add a sample and return the identity of its series; labels with empty values do not count."""
        key = tuple(sorted((name, text) for name, text in labels.items() if text))
        if key not in self._series:
            self._series[key] = Series(dict(key))
        self._series[key].append(at_ms, value)
        return key

    def end(self, keys: Iterable[Key], at_ms: int) -> None:
        """Mark series as ended."""
        for key in keys:
            if key in self._series:
                self._series[key].append(at_ms, STALE)

    def select(self, matchers: tuple[Matcher, ...]) -> list[Series]:
        """Return the series that satisfy every condition, ordered by their labels."""
        found = [s for s in self if all(m.accepts(s.labels.get(m.label, "")) for m in matchers)]
        return sorted(found, key=lambda series: sorted(series.labels.items()))

    def forget_old(self, now_ms: int) -> None:
        """Drop what is older than is kept."""
        for key, series in list(self._series.items()):
            series.forget(now_ms - self._keep_ms)
            if not len(series):
                del self._series[key]
