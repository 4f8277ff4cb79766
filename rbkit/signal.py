"""A signal: what was observed, as a tidy table that knows how fresh and complete it is."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rbkit.values import human

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["COLORS", "Signal"]

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Okabe and Ito's colours, told apart by colour-blind readers. Source: https://jfly.uni-koeln.de/color/."""
_MOST_POINTS = 2_000
_MOST_FACTS = 6


@dataclass(frozen=True, slots=True)
class Signal:
    """What was observed.

    Args:
        name: The signal's name in the environment file.
        unit: The unit of `value`; empty for logs.
        by: The label that tells the series apart.
        frame: DataFrame: `time` (datetime64[ns, UTC]), `value` (float64) and one text column per label;
            for logs `time`, `level`, `message`, `attributes`.
        asked_at: When it was read, UTC.
        stale_after_s: Seconds after which the newest sample no longer counts as present.
        essential: Whether nothing can be decided without it.
        partial: What of the evidence is not as it should be: another source answered, or none; empty when all is well.
    """

    name: str
    unit: str
    by: str
    frame: "pd.DataFrame"
    asked_at: datetime
    stale_after_s: float
    essential: bool = True
    partial: str = ""

    @property
    def latest(self) -> "pd.Series[float]":
        """The newest fresh value of each series.

        Returns:
            Series of float64, indexed by the label `by`; stale and NaN values are left out.
        """
        fresh = self.frame.dropna(subset=["value"])
        fresh = fresh[(self.asked_at - fresh["time"]).dt.total_seconds() <= self.stale_after_s]
        newest: pd.Series[float] = fresh.sort_values("time").groupby(self.by)["value"].last()
        return newest

    @property
    def weak(self) -> str:
        """Why this is no evidence: empty, only NaN, or no fresh number; an empty text when it is good."""
        if self.frame.empty:
            return f"{self.name} has no samples"
        if "value" not in self.frame:
            return ""
        known = self.frame.dropna(subset=["time", "value"])
        if known.empty:
            return f"{self.name} has only NaN"
        age = (self.asked_at - known["time"].max()).total_seconds()
        if age > self.stale_after_s:
            return f"the newest sample of {self.name} is {human(age)} old"
        return ""

    @property
    def facts(self) -> str:
        """What was seen, in one line: the newest value of each series, or how many lines."""
        if "value" not in self.frame:
            return f"{self.name} {len(self.frame)} lines"
        newest = self.latest.sort_values(ascending=False)
        shown = ", ".join(f"{series} {value:.4g}" for series, value in newest.head(_MOST_FACTS).items())
        more = f" and {len(newest) - _MOST_FACTS} more" if len(newest) > _MOST_FACTS else ""
        return f"{self.name} {shown or 'nothing'}{more} {self.unit}".rstrip()

    def table(self, rows: int = 20) -> "pd.DataFrame":
        """Summarise each series.

        Args:
            rows: The most rows to return.

        Returns:
            DataFrame indexed by `by`: `latest`, `min`, `max`, `mean` (float64), `samples` (int64);
            the highest latest value first.
        """
        found = self.frame.sort_values("time").groupby(self.by)["value"].agg(["last", "min", "max", "mean", "count"])
        found = found.rename(columns={"last": "latest", "count": "samples"}).round(3)
        return found.sort_values("latest", ascending=False).head(rows)

    def chart(self, limit: float | None = None) -> "go.Figure":
        """Draw the series over time.

        Args:
            limit: A threshold to draw, in the signal's unit.

        Returns:
            A plotly figure; long series are thinned to 2,000 points each.
        """
        import plotly.graph_objects as go

        figure = go.Figure(layout=_layout(self.name, self.unit))
        for place, (label, rows) in enumerate(self.frame.sort_values("time").groupby(self.by)):
            rows = rows.iloc[:: max(1, -(-len(rows) // _MOST_POINTS))]
            figure.add_scatter(
                x=rows["time"].dt.strftime("%Y-%m-%dT%H:%M:%SZ").tolist(), y=rows["value"].round(4).tolist(),
                name=str(label), mode="lines", line={"color": COLORS[place % len(COLORS)], "width": 2},
            )  # fmt: skip
        if limit is not None:
            figure.add_hline(
                y=limit, line_dash="dash", line_color="#D55E00", annotation_text=f"limit {limit:g} {self.unit}"
            )
        return figure


def _layout(name: str, unit: str) -> dict[str, Any]:
    grid = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
    return {
        "template": "none", "height": 320, "title": {"text": f"{name} ({unit})" if unit else name, "x": 0},
        "margin": {"l": 56, "r": 16, "t": 48, "b": 40}, "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": "#808080"}, "hovermode": "x unified",
        "legend": {"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right"},
        "xaxis": {**grid, "title": {"text": "UTC"}}, "yaxis": {**grid, "rangemode": "tozero"},
    }  # fmt: skip
