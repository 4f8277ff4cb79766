"""Rules are data, and the trace says why."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from pydantic import ValidationError

from rbkit.decide import RuleSet, decide, load_rules
from rbkit.errors import NotFound, SettingsError
from rbkit.signal import Signal

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAN = float("nan")
LEAK = {
    "name": "leaks",
    "when": {"signal": "memory", "above": "limit", "samples": 2, "of": 3},
    "then": "leak",
    "why": "It grows.",
}
QUIET = {"then": "healthy", "why": "Nothing is wrong.", "ends": "not_applicable"}


def signal(name: str = "memory", age_s: float = 0, **series: list[float]) -> Signal:
    """Describe series of samples, one a second, the newest as old as said."""
    rows = [
        {"time": NOW - timedelta(seconds=age_s + len(values) - 1 - place), "value": value, "instance": label}
        for label, values in series.items()
        for place, value in enumerate(values)
    ]
    frame = pd.DataFrame(rows, columns=["time", "value", "instance"])
    frame["time"] = pd.to_datetime(frame["time"], utc=True)
    return Signal(name, "MB", "instance", frame.astype({"value": "float64"}), NOW, 30)


def rules(*given: dict, otherwise: dict | None = None) -> RuleSet:
    """Describe a rule set."""
    return RuleSet.model_validate(
        {
            "name": "leak",
            "version": "1",
            "summary": "s",
            "rules": list(given) or [LEAK],
            "otherwise": otherwise or QUIET,
        }
    )


def rule(name: str = "r", then: str = "yes", **when) -> dict:
    """Describe a rule."""
    return {"name": name, "when": {"signal": "memory"} | when, "then": then, "why": "w"}


def said(found: RuleSet, *signals: Signal, **parameters):
    """Decide on signals by their names."""
    return decide(found, {one.name: one for one in signals}, parameters)


def test_a_rule_holds_on_the_series_that_weighs_most():
    """Of the series that hold, the highest is the target; outcome and reason are the rule's, and the run goes on."""
    verdict = said(rules(), signal(a=[301, 302, 303], b=[400, 500, 600], c=[1, 1, 1]), limit=300)
    assert (verdict.outcome, verdict.target, verdict.why, verdict.ends) == ("leak", "b", "It grows.", "")
    assert [(row["series"], row["held"], row["holds"]) for row in verdict.trace] == [
        ("b", 3, True), ("a", 3, True), ("c", 0, False),
    ]  # fmt: skip
    assert verdict.trace[0] == {
        "rule": "leaks", "series": "b", "value": 600.0, "limit": 300.0, "held": 3, "needed": 2, "of": 3, "holds": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "outcome"),
    [([301, 299, 301], "leak"), ([301, 301, 299], "leak"), ([301, 299, 299], "healthy"),
     ([999, 999, 1, 1, 301], "healthy"), ([301, NAN, 301], "leak"), ([301], "healthy"), ([300, 300, 300], "healthy")],
)  # fmt: skip
def test_a_threshold_must_hold_for_so_many_of_the_last_samples(values, outcome):
    """Two of the last three: one spike is not enough, older ones do not count, nor does the limit itself or a NaN."""
    assert said(rules(), signal(a=values), limit=300).outcome == outcome


def test_below_is_the_other_way_round():
    """For `below` the lowest series weighs most."""
    verdict = said(rules(rule(below=10.0)), signal(a=[5], b=[2], c=[50], d=[2]))
    assert (verdict.target, [row["series"] for row in verdict.trace]) == ("b", ["b", "d", "a", "c"])


def test_the_first_rule_that_holds_decides():
    """Rules are asked in their order, whatever the values are."""
    found = rules(
        rule("one", "first", above=1000.0), rule("two", "second", above=100.0), rule("three", "third", above=1.0)
    )
    assert said(found, signal(a=[500])).outcome == "second"


def test_no_rule_holds():
    """Then what stands under `otherwise` follows, and it may end the run."""
    verdict = said(rules(), signal(a=[1, 1, 1]), limit=300)
    assert (verdict.outcome, verdict.target, verdict.ends) == ("healthy", None, "not_applicable")
    goes_on = said(rules(otherwise={"then": "fine", "why": "w"}), signal(a=[1]), limit=300)
    assert (goes_on.outcome, goes_on.ends) == ("fine", "")


@pytest.mark.parametrize(
    "weak",
    [signal(), signal(a=[NAN, NAN]), signal(age_s=31, a=[999, 999, 999]),
     Signal("memory", "MB", "instance", pd.concat([signal(a=[NAN]).frame, signal(age_s=60, a=[1]).frame]), NOW, 30)],
    ids=["empty", "nan", "stale", "fresh nan, stale number"],
)  # fmt: skip
def test_without_good_evidence_it_is_unclear_whatever_the_rules_say(weak):
    """Nothing, NaN and stale numbers never decide, not even that nothing is wrong: a person must look."""
    verdict = said(rules(), weak, limit=300)
    assert (verdict.outcome, verdict.target, verdict.ends, verdict.trace) == ("unclear", None, "needs_operator", ())
    assert verdict.why == f"{weak.weak}."
    assert verdict.inputs["memory"]["weak"] == weak.weak


def test_one_weak_signal_of_several_is_enough_to_be_unclear():
    """A rule on good evidence does not hold while another rule's evidence is missing."""
    found = rules(rule("a", above=1.0), {**rule("b", above=1.0), "when": {"signal": "errors", "above": 1.0}})
    assert said(found, signal(a=[5]), signal("errors")).outcome == "unclear"


def test_a_series_that_went_silent_is_not_the_target():
    """A stale series is left out though its last values were over the limit."""
    gone = pd.concat([signal(a=[1, 1, 1]).frame, signal(age_s=60, b=[999, 999, 999]).frame])
    verdict = said(rules(), Signal("memory", "MB", "instance", gone, NOW, 30), limit=300)
    assert [row["series"] for row in verdict.trace] == ["a"]


def test_a_decision_tells_what_it_was_made_of():
    """Rules, version, digest of the rules and the facts of each signal; the digest changes with a rule."""
    verdict = said(rules(), signal(a=[1.23456]), limit=300)
    assert (verdict.rules, verdict.version) == ("leak", "1")
    assert verdict.inputs["memory"] == {
        "samples": 1, "newest": NOW.isoformat(), "asked_at": NOW.isoformat(), "unit": "MB",
        "latest": {"a": 1.235}, "weak": "",
    }  # fmt: skip
    assert verdict.digest == said(rules(), signal(a=[9.0]), limit=1).digest
    assert verdict.digest != said(rules(rule(above=1.0)), signal(a=[1])).digest
    assert said(rules(), signal(), limit=300).inputs["memory"]["newest"] is None


def test_what_a_rule_names_must_be_there():
    """A missing signal or parameter is named, before anything is compared."""
    with pytest.raises(NotFound, match="need the signal 'memory'"):
        said(rules(), signal("errors", a=[1]), limit=300)
    with pytest.raises(NotFound, match="parameter 'limit'"):
        said(rules(), signal(a=[1]))


@pytest.mark.parametrize("value", ["300", None, True, [300]])
def test_a_limit_must_be_a_number(value):
    """A parameter of another type is refused by name, not compared."""
    with pytest.raises(SettingsError, match="parameter 'limit', which is no number"):
        said(rules(), signal(a=[1]), limit=value)


def test_rules_cannot_be_put_to_log_lines():
    """A signal without numbers is refused by name."""
    frame = pd.DataFrame({"time": [NOW], "level": ["error"], "message": ["m"]})
    with pytest.raises(SettingsError, match="compare numbers; the signal 'memory' has none"):
        said(rules(), Signal("memory", "", "level", frame, NOW, 30), limit=1)


def test_a_verdict_shows_itself_with_its_target():
    """In a notebook: outcome, target and reason; the trace as a table with fixed columns, also when it is empty."""
    verdict = said(rules(), signal(a=[400, 400, 400]), limit=300)
    assert verdict._repr_markdown_() == "**leak** — target **a**: It grows. (rules `leak` 1)"
    assert list(verdict.table()["series"]) == ["a"]
    unclear = said(rules(), signal(), limit=300)
    assert unclear._repr_markdown_() == "**unclear**: memory has no samples. (rules `leak` 1)"
    assert list(unclear.table().columns) == ["rule", "series", "value", "limit", "held", "needed", "of", "holds"]


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({}, "give either above or below"),
        ({"above": 1, "below": 2}, "give either above or below"),
        ({"above": 1, "samples": 4, "of": 3}, "samples cannot be more than of"),
        ({"above": 1, "samples": 0}, "greater than or equal to 1"),
        ({"above": NAN}, "finite number"),
        ({"above": 1, "over": 2}, "Extra inputs"),
    ],
)
def test_a_threshold_that_says_nothing_is_refused(when, message):
    """No bound, two bounds, no sample, more than there are, NaN, or an unknown word: a load error."""
    with pytest.raises(ValidationError, match=message):
        rules(rule(**when))


def test_rules_of_the_same_name_are_refused():
    """The trace names a rule, and it must be one."""
    with pytest.raises(ValidationError, match="two rules have the same name"):
        rules(rule(above=1), rule(above=2))


GOOD = """
version: "1"
summary: s
rules:
  - {name: leaks, when: {signal: memory, above: limit}, then: leak, why: w}
otherwise: {then: healthy, why: w}
"""


def test_rules_are_read_from_the_folder_beside_the_runbook(tmp_path):
    """The file's name is the rule set's."""
    (tmp_path / "memory-leak.yaml").write_text(GOOD)
    found = load_rules("memory-leak", tmp_path)
    assert (found.name, found.rules[0].when.above) == ("memory-leak", "limit")


@pytest.mark.parametrize("name", ["none", "../secret", "a/b", "", "x\n"])
def test_rules_that_are_not_there_or_lie_elsewhere_are_refused(tmp_path, name):
    """A name never leads out of the folder."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "secret.yaml").write_text(GOOD)
    with pytest.raises(NotFound, match="There are no rules"):
        load_rules(name, tmp_path / "rules")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [", "is not good YAML"),
        (b"\xff", "is not good YAML"),
        (b"[" * 5000, "nested deeper than 50 levels"),
        (b"!!python/object/apply:os.system [id]", "valid dictionary"),
        (b"", "valid dictionary"),
        (b"- a", "valid dictionary"),
        (GOOD.encode() + b"1: x", "1: Keys should be strings"),
        (GOOD.replace("then: leak", "than: leak").encode(), r"rules\.0\.then: Field required"),
        (GOOD.replace("above", "abve").encode(), r"rules\.0\.when"),
    ],
    ids=["cut", "bytes", "deep", "object", "empty", "list", "number", "typo", "typo inside"],
)
def test_a_file_that_holds_no_rules_is_refused_by_key(tmp_path, text, message):
    """The error names the file, and the key where there is one."""
    (tmp_path / "r.yaml").write_bytes(text)
    with pytest.raises(SettingsError, match=message) as caught:
        load_rules("r", tmp_path)
    assert str(tmp_path / "r.yaml") in caught.value.what


# Partial evidence


def spared(found: Signal) -> Signal:
    """Say that nothing rests on a signal alone."""
    return replace(found, essential=False)


TWO = (rule("slow", "restart", signal="latency", above=1.0), rule("big", "leak", signal="memory", above=300.0))


def test_a_missing_signal_that_is_not_essential_is_left_out():
    """The other rules decide, and the verdict says on what it does not rest."""
    signals = {"latency": spared(signal("latency")), "memory": signal(a=[412.0])}
    verdict = decide(rules(*TWO), signals, {})
    assert (verdict.outcome, verdict.target, verdict.partial) == ("leak", "a", ("latency has no samples",))
    assert "on partial evidence: latency has no samples" in verdict._repr_markdown_()
    whole = decide(rules(*TWO), {"latency": signal("latency", a=[0.1]), "memory": signal(a=[412.0])}, {})
    assert whole.partial == () and "partial" not in whole._repr_markdown_()


def test_nothing_is_decided_on_nothing():
    """When every signal is missing it is unclear, however inessential each of them is."""
    signals = {"latency": spared(signal("latency")), "memory": spared(signal())}
    verdict = decide(rules(*TWO), signals, {})
    assert (verdict.outcome, verdict.ends) == ("unclear", "needs_operator")


def test_an_essential_signal_is_needed_beside_an_inessential_one():
    """What is essential and missing makes it unclear, as before."""
    signals = {"latency": spared(signal("latency", a=[0.1])), "memory": signal()}
    assert decide(rules(*TWO), signals, {}).outcome == "unclear"


def test_an_answer_from_another_source_is_partial_evidence():
    """It decides as well, and whoever reads the decision is told."""
    found = replace(signal(a=[412.0, 412.0, 412.0]), partial="memory was read from elsewhere")
    verdict = decide(rules(), {"memory": found}, {"limit": 300.0})
    assert (verdict.outcome, verdict.partial) == ("leak", ("memory was read from elsewhere",))
