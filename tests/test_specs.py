"""What a step says of itself, wherever it is read from."""

import pytest

from rbkit.errors import ContractError
from rbkit.specs import STEP_KEYS, STEP_TIMEOUT_S, duration, sections, step_spec


def spec(**given):
    """Describe the step `drain`."""
    return step_spec("drain", "Take it out.", given, "step drain")


def test_a_docstring_is_split_into_intent_undo_and_expect() -> None:
    """In whichever order they stand; what is not said is empty."""
    assert sections(None) == {"intent": "", "undo": "", "expect": ""}
    assert sections("A.\n  Expect: b. Undo: c.") == {"intent": "A.", "undo": "c.", "expect": "b."}


def test_a_step_has_careful_defaults() -> None:
    """One target, one change at a time, nothing in its place, nothing automatic."""
    bare = spec()
    assert (bare.risk, bare.timeout_s, bare.max_targets, bare.approvals) == ("medium", STEP_TIMEOUT_S, 1, 0)
    assert (bare.parallel, bare.otherwise, bare.automatic) == (1, (), False)


def test_everything_that_a_step_may_say_is_kept() -> None:
    """Each argument ends in the description."""
    given = {"risk": "high", "timeout": "5s", "max_targets": 9, "approvals": 2, "parallel": 3,
             "otherwise": ["a", "b"], "automatic": True}  # fmt: skip
    assert given.keys() == STEP_KEYS.keys()
    full = spec(**given)
    assert (full.risk, full.timeout_s, full.max_targets, full.approvals) == ("high", 5.0, 9, 2)
    assert (full.parallel, full.otherwise, full.automatic) == (3, ("a", "b"), True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"aprovals": 2}, "has an unknown argument aprovals; known: risk, timeout"),
        ({"otherwise": "stop"}, "otherwise in step drain must be list, not str"),
        ({"otherwise": ("stop",)}, "must be list, not tuple"),
        ({"automatic": 1}, "automatic in step drain must be bool, not int"),
        ({"parallel": "3"}, "parallel in step drain must be int, not str"),
        ({"max_targets": True}, "must be int, not bool"),
        ({"timeout": 30}, "timeout in step drain must be str, not int"),
        ({"risk": "huge"}, "risk is low, medium or high"),
        ({"max_targets": 0}, "at least 1"),
        ({"parallel": 0}, "at least 1"),
        ({"approvals": -1}, "approvals at least 0"),
        ({"otherwise": ["drain"]}, "the names of other steps"),
        ({"otherwise": [1]}, "the names of other steps"),
    ],
)
def test_a_slip_is_refused_not_passed_over(given, said) -> None:
    """A misspelt `approvals` would let a change through without anybody's yes, so nothing unknown is accepted."""
    with pytest.raises(ContractError, match=said):
        spec(**given)


def test_a_wrong_duration_says_where_it_stands() -> None:
    """The place is named, and how durations are written."""
    assert duration("90s", "x") == 90.0
    with pytest.raises(ContractError, match="'soon' is no duration. It stands in step drain.*Write it like"):
        spec(timeout="soon")
