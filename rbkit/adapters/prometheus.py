"""Prometheus, and anything that speaks its HTTP API.

Source: https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from typing import TYPE_CHECKING, Any, ClassVar

from rbkit.adapters.http import Http
from rbkit.errors import BadAnswer
from rbkit.ports import Language, Window

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Prometheus"]


class Prometheus:
    """Reads ranges of samples.

    Args:
        url: The server's address, for example `http://127.0.0.1:9090`.
        max_series: More series than this in one answer are refused.
    """

    language: ClassVar[Language] = "promql"

    def __init__(self, url: str, max_series: int = 1_000) -> None:
        self._http = Http(url, "Prometheus")
        self._max_series = max_series

    async def query(self, query: str, window: Window) -> "pd.DataFrame":
        """Read a range of samples.

        Args:
            query: PromQL, already rendered.
            window: From when to when, and how dense.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `value` (float64), one text column per label; sorted by time.

        Raises:
            BadAnswer: The query is wrong, or the answer has not the documented form or too many series.
            Unreachable: The server did not answer.
        """
        answer = await self._http.read("/api/v1/query_range", {
            "query": query, "start": f"{window.start.timestamp():.3f}", "end": f"{window.end.timestamp():.3f}",
            "step": f"{window.step_s:g}",
        })  # fmt: skip
        try:
            return _frame(_series(answer, self._max_series))
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise BadAnswer("Prometheus answered in a form that its API does not document.") from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _series(answer: Any, most: int) -> list[Any]:
    if answer["status"] != "success" or answer["data"]["resultType"] != "matrix":
        raise BadAnswer(f"Prometheus did not answer with a range: {str(answer)[:200]}")
    series: list[Any] = answer["data"]["result"]
    if len(series) > most:
        raise BadAnswer(f"The query matches {len(series)} series; the limit is {most}.", todo="Narrow the selector.")
    return series


def _frame(series: list[Any]) -> "pd.DataFrame":
    import pandas as pd

    parts = [
        {**_labels(one["metric"]), "time": moment, "value": float(value)}
        for one in series
        for moment, value in one["values"]
    ]
    frame = pd.DataFrame(parts, columns=None if parts else ["time", "value"])
    moments = pd.to_datetime(frame["time"].astype("float64"), unit="s", utc=True)
    frame["time"] = moments.astype("datetime64[ns, UTC]").dt.round("ms")
    frame["value"] = frame["value"].astype("float64")
    labels = sorted(set(frame.columns) - {"time", "value"})
    frame[labels] = frame[labels].fillna("").astype(str)
    ordered: pd.DataFrame = frame[["time", "value", *labels]].sort_values(["time", *labels], ignore_index=True)
    return ordered


def _labels(metric: dict[str, Any]) -> dict[str, Any]:
    """Call the metric's name `metric`, unless a label is called so."""
    labels = {key: value for key, value in metric.items() if key != "__name__"}
    return {"metric": metric["__name__"], **labels} if "__name__" in metric else labels
