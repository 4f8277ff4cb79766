"""Rules are data: thresholds held for a number of samples, in order, with a trace that says why."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rbkit.envfile import read_yaml
from rbkit.errors import NotFound, SettingsError
from rbkit.signal import Signal
from rbkit.values import digest

__all__ = ["Rule", "RuleSet", "Verdict", "decide", "load_rules"]

Ends = Literal["", "not_applicable", "needs_operator"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Threshold(_Value):
    """A threshold on a signal, held for `samples` of the last `of` samples of one series."""

    signal: str
    above: float | str | None = None
    below: float | str | None = None
    samples: int = Field(default=1, ge=1)
    of: int = Field(default=1, ge=1)

    def model_post_init(self, context: Any) -> None:
        """Refuse a threshold that says nothing or contradicts itself."""
        if (self.above is None) == (self.below is None):
            raise ValueError("give either above or below")
        if self.samples > self.of:
            raise ValueError("samples cannot be more than of")


class Rule(_Value):
    """A rule: when it holds, what follows, and why."""

    name: str
    when: Threshold
    then: str
    why: str


class Otherwise(_Value):
    """What follows when no rule holds."""

    then: str
    why: str
    ends: Ends = ""


class RuleSet(_Value):
    """An ordered set of rules; the first that holds decides."""

    name: str
    version: str
    summary: str
    rules: tuple[Rule, ...] = Field(min_length=1)
    otherwise: Otherwise

    def model_post_init(self, context: Any) -> None:
        """Refuse two rules of one name: the trace names rules."""
        if len({rule.name for rule in self.rules}) < len(self.rules):
            raise ValueError("two rules have the same name")


class Verdict(_Value):
    """What the rules said.

    Args:
        outcome: The word after `then`.
        target: The series that weighs most, for example `checkout-2`; None when no rule holds.
        why: The reason, in one sentence.
        trace: One row per rule and series: rule, series, value, limit, held, needed, of, holds.
        ends: How the run ends by this decision; empty when it goes on.
        partial: What of the evidence was not as it should be; empty when all of it was there.
    """

    rules: str
    version: str
    digest: str
    outcome: str
    target: str | None
    why: str
    ends: Ends
    trace: tuple[dict[str, Any], ...]
    inputs: dict[str, Any]
    partial: tuple[str, ...] = ()

    def table(self) -> Any:
        """Show the trace.

        Returns:
            DataFrame: rule, series, value, limit, held, needed, of, holds.
        """
        import pandas as pd

        columns = ["rule", "series", "value", "limit", "held", "needed", "of", "holds"]
        return pd.DataFrame(list(self.trace), columns=columns)

    def _repr_markdown_(self) -> str:
        where = f" — target **{self.target}**" if self.target else ""
        partly = f" — ⚠ on partial evidence: {'; '.join(self.partial)}" if self.partial else ""
        return f"**{self.outcome}**{where}: {self.why} (rules `{self.rules}` {self.version}){partly}"


def load_rules(name: str, folder: Path) -> RuleSet:
    """Read a rule set.

    Args:
        name: Its file's name without ending.
        folder: The folder `rules` next to the runbook.

    Raises:
        NotFound: There is no such file.
        SettingsError: It cannot be read, is not YAML or not a rule set; the key is named.
    """
    path = folder / f"{name}.yaml"
    if not name.replace("-", "_").isidentifier() or not path.is_file():
        raise NotFound(f"There are no rules {name!r} in {folder}.", todo="Write rules/NAME.yaml next to the runbook.")
    data = read_yaml(path)
    try:
        return RuleSet.model_validate({"name": name, **data} if isinstance(data, dict) else data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{path}: {place}: {first['msg']}.") from error


def decide(rules: RuleSet, signals: Mapping[str, Signal], parameters: Mapping[str, Any]) -> Verdict:
    """Apply rules to what was observed; pure.

    Args:
        rules: The rule set.
        signals: Signals by the names that the rules use.
        parameters: The run's parameters, which limits may name.

    Returns:
        The verdict. Without good evidence it is `unclear` and needs an operator, whatever the rules say; a signal
        without which the environment file lets runs go on is left out, and the verdict says so.

    Raises:
        NotFound: A rule names a signal or parameter that is not there.
        SettingsError: A rule compares something that is no number.
    """
    used = list(dict.fromkeys(rule.when.signal for rule in rules.rules))
    missing = [name for name in used if name not in signals]
    if missing:
        raise NotFound(f"Rules {rules.name} need the signal {missing[0]!r}.", todo=f"Pass {missing[0]}=….")
    wordy = [name for name in used if "value" not in signals[name].frame]
    if wordy:
        raise SettingsError(f"Rules {rules.name} compare numbers; the signal {wordy[0]!r} has none.")
    absent = [name for name in used if signals[name].weak and not signals[name].essential]
    weak = [signals[name].weak for name in used if signals[name].weak and (name not in absent or absent == used)]
    trace = [] if weak else [row for rule in rules.rules for row in _rows(rule, signals, parameters)]
    held = next((row for row in trace if row["holds"]), None)
    rule = next((rule for rule in rules.rules if held and rule.name == held["rule"]), None)
    said = _said(rules, rule, held, weak)
    inputs = {name: _facts(signals[name]) for name in used}
    return Verdict(
        rules=rules.name, version=rules.version, digest=digest(rules.model_dump(mode="json")),
        trace=tuple(trace), inputs=inputs, partial=_partial(used, signals), **said,
    )  # fmt: skip


def _partial(used: list[str], signals: Mapping[str, Signal]) -> tuple[str, ...]:
    """Say what of the evidence was not as it should be."""
    found = [(signals[name].partial, signals[name].weak, signals[name].essential) for name in used]
    return tuple(partial or weak for partial, weak, essential in found if partial or (weak and not essential))


def _said(rules: RuleSet, rule: Rule | None, held: dict[str, Any] | None, weak: list[str]) -> dict[str, Any]:
    if weak:
        return {"outcome": "unclear", "target": None, "why": "; ".join(weak) + ".", "ends": "needs_operator"}
    if rule and held:
        return {"outcome": rule.then, "target": held["series"], "why": rule.why, "ends": ""}
    other = rules.otherwise
    return {"outcome": other.then, "target": None, "why": other.why, "ends": other.ends}


def _limit(value: float | str, parameters: Mapping[str, Any]) -> float:
    if isinstance(value, str):
        if value not in parameters:
            raise NotFound(f"A rule names the parameter {value!r}, which the runbook has not.")
        return _number(value, parameters[value])
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SettingsError(f"A rule compares with the parameter {name!r}, which is no number.")
    return float(value)


def _rows(rule: Rule, signals: Mapping[str, Signal], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measure a rule against every series of its signal; those that hold and weigh most first."""
    when, signal = rule.when, signals[rule.when.signal]
    up = when.above is not None
    bound = when.above if when.above is not None else when.below
    limit = _limit(bound if bound is not None else 0.0, parameters)
    rows = [
        _row(rule, str(series), values["value"].dropna().tolist()[-when.of :], limit, up)
        for series, values in signal.frame.sort_values("time").groupby(signal.by)
        if series in signal.latest.index
    ]
    return sorted(rows, key=lambda row: (not row["holds"], -row["value"] if up else row["value"], row["series"]))


def _row(rule: Rule, series: str, values: list[float], limit: float, up: bool) -> dict[str, Any]:
    held = sum(value > limit if up else value < limit for value in values)
    return {
        "rule": rule.name, "series": series, "value": round(values[-1], 3), "limit": limit, "held": held,
        "needed": rule.when.samples, "of": rule.when.of, "holds": held >= rule.when.samples,
    }  # fmt: skip


def _facts(signal: Signal) -> dict[str, Any]:
    newest = None if signal.frame.empty else signal.frame["time"].max().isoformat()
    return {
        "samples": len(signal.frame), "newest": newest, "asked_at": signal.asked_at.isoformat(),
        "unit": signal.unit, "latest": {str(k): round(float(v), 3) for k, v in signal.latest.items()},
        "weak": signal.weak,
    }  # fmt: skip
