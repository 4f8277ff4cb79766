"""Prometheus, and what speaks its HTTP API: VictoriaMetrics, Thanos, Mimir, Cortex.

Source: https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import SecretStr

from rbkit.adapters.lines import MALFORMED
from rbkit.adapters.signal_http import SignalHttp
from rbkit.adapters.told import told
from rbkit.errors import BadAnswer, NotFound
from rbkit.ports import Language, Window

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Prometheus"]

_WHOLE = "Narrow the query, mend what the warning names, or set `allow_partial: true` for this source."


class Prometheus:
    """Reads ranges of samples. An answer with a warning is refused, unless it is allowed.

    Args:
        url: The server's address with the path before `/api/v1`, for example `http://127.0.0.1:9090` or
            `https://mimir/prometheus`.
        token: A bearer token.
        user: The user's name, where the server asks for a password.
        password: The user's password.
        tenant: Whose samples are meant, sent as X-Scope-OrgID.
        max_series: More series than this in one answer are refused.
        max_points: More samples than this in one answer are refused.
        limit: Asks the server itself to return at most so many series; one that does not know this ignores it.
        allow_partial: Whether an answer with warnings is taken; they are then in the table's `attrs["warnings"]`.
    """

    language: ClassVar[Language] = "promql"

    def __init__(
        self, url: str, *, token: SecretStr | None = None, user: str = "", password: SecretStr | None = None,
        tenant: str = "", max_series: int = 1_000, max_points: int = 50_000, limit: int | None = None,
        allow_partial: bool = False,
    ) -> None:  # fmt: skip
        self._http = SignalHttp(url, "Prometheus", token, user=user, password=password, tenant=tenant)
        self._max_series, self._max_points = max_series, max_points
        self._limit, self._allow_partial = limit, allow_partial

    async def query(self, query: str, window: Window) -> "pd.DataFrame":
        """Read a range of samples.

        Args:
            query: PromQL, already rendered.
            window: From when to when, and how dense.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `value` (float64), one text column per label; sorted by time.

        Raises:
            BadAnswer: The query is wrong, or the answer has not the documented form, comes with a warning, or has too
                many series or samples.
            Unreachable: The server did not answer.
        """
        asked = {
            "query": query, "start": f"{window.start.timestamp():.3f}", "end": f"{window.end.timestamp():.3f}",
            "step": f"{window.step_s:g}",
        }  # fmt: skip
        if self._limit is not None:
            asked["limit"] = str(self._limit)
        answer = await self._http.read("/api/v1/query_range", asked)
        try:
            series, warnings = self._series(answer), _warnings(answer)
            if warnings and not self._allow_partial:
                raise BadAnswer(f"Prometheus warns that its answer is not whole: {warnings[0]}", todo=_WHOLE)
            frame = _frame(series)
        except MALFORMED as error:
            raise BadAnswer("Prometheus answered in a form that its API does not document.", fault=True) from error
        if warnings:
            frame.attrs["warnings"] = warnings
        return frame

    async def ping(self) -> str:
        """Select nothing, and ask for the version, which not every server with this API tells."""
        answer = await self._http.read("/api/v1/query", {"query": 'up{job="rbkit ping"}'})
        try:
            if answer["status"] != "success" or answer["data"]["resultType"] != "vector":
                raise BadAnswer(f"Prometheus did not answer with a vector: {str(answer)[:200]}")
        except MALFORMED as error:
            raise BadAnswer("Prometheus answered in a form that its API does not document.", fault=True) from error
        return f"{await self._product()}, {self._http.who}; reads"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _product(self) -> str:
        try:
            about = (await self._http.read("/api/v1/status/buildinfo"))["data"]
            return f"{told(about.get('application') or 'Prometheus')} {told(about['version'])}"
        except (NotFound, BadAnswer, *MALFORMED):
            return "a server with Prometheus' API that does not tell its version"

    def _series(self, answer: Any) -> list[Any]:
        if answer["status"] != "success" or answer["data"]["resultType"] != "matrix":
            raise BadAnswer(f"Prometheus did not answer with a range: {str(answer)[:200]}")
        series: list[Any] = answer["data"]["result"]
        _few(len(series), self._max_series, "series", "Narrow the selector.")
        if any("values" not in one and one["histograms"] for one in series):
            raise BadAnswer("The query answers with native histograms.", todo="Put histogram_quantile(…) around it.")
        points = sum(len(one["values"]) for one in series)
        _few(points, self._max_points, "samples", "Narrow the selector or the time, or make the step longer.")
        return series


def _few(count: int, most: int, what: str, todo: str) -> None:
    if count > most:
        raise BadAnswer(f"The query matches {count} {what}; the limit is {most}.", todo=todo)


def _warnings(answer: Any) -> list[str]:
    """List what the server itself says is wrong with its answer; VictoriaMetrics has a flag for it."""
    partial = ["some of its storage did not answer"] if answer.get("isPartial") else []
    return [str(warning)[:300] for warning in answer.get("warnings") or []] + partial


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
