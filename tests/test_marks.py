"""What a decorated function says about itself."""

import functools

import pytest

from rbkit.errors import ContractError, SettingsError
from rbkit.marks import check_spec, step_of
from rbkit.specs import CHECK_WITHIN_S


async def drain() -> None:
    """Take it out. Undo: put it back. Expect: silence."""


def blocking() -> None:
    """Do it now."""


def test_a_step_is_described_by_its_function() -> None:
    """Name, sentences and limits come from the function and the decorator."""
    spec = step_of(drain, {"risk": "high", "timeout": "5s", "max_targets": 2, "approvals": 1})
    assert (spec.name, spec.intent, spec.undo, spec.expect) == ("drain", "Take it out.", "put it back.", "silence.")
    assert (spec.risk, spec.timeout_s, spec.max_targets, spec.approvals) == ("high", 5.0, 2, 1)


def test_a_check_is_described_by_its_function() -> None:
    """A check has a default deadline or the one that is given."""
    assert check_spec(drain, "precondition", "").within_s == CHECK_WITHIN_S
    spec = check_spec(drain, "postcondition", "2m")
    assert (spec.name, spec.phase, spec.sentence, spec.within_s) == ("drain", "postcondition", "Take it out.", 120.0)


def test_a_blocking_function_is_refused() -> None:
    """Steps and checks are `async def`."""
    with pytest.raises(ContractError, match=r"blocking must be `async def`"):
        step_of(blocking, {})
    with pytest.raises(ContractError, match=r"blocking must be `async def`"):
        check_spec(blocking, "precondition", "")


@pytest.mark.parametrize(
    "given",
    [{"risk": "extreme"}, {"max_targets": 0}, {"approvals": -1}, {"timeout": "soon"}, {"aproval": 1},
     {"otherwise": "stop"}],
)  # fmt: skip
def test_arguments_out_of_bounds_are_refused(given) -> None:
    """A wrong limit is refused when the cell runs."""
    with pytest.raises(ContractError, match="step drain"):
        step_of(drain, given)


def test_a_wrong_duration_is_refused() -> None:
    """A deadline must be a duration."""
    with pytest.raises(SettingsError, match="soon"):
        check_spec(drain, "precondition", "soon")


def test_an_edited_step_has_another_digest() -> None:
    """The source as it runs, decorator included, is part of what is approved; the same text has the same digest."""

    def marked(risk: str):
        async def work() -> None:
            """Do it."""

        return work

    code = step_of(drain, {}).code
    assert code.startswith("sha256:")
    assert step_of(drain, {"risk": "low"}).code == code
    assert step_of(marked("low"), {}).code == step_of(marked("high"), {}).code != code


def test_a_step_whose_source_is_nowhere_has_no_digest() -> None:
    """Code that was made from text, and a callable that is no function, are steps too."""
    made: dict = {}
    exec("async def work():\n    pass", made)  # noqa: S102 - a function without a source is what is tested
    assert step_of(made["work"], {}).code == ""
    part = functools.partial(drain)
    part.__name__ = "part"  # type: ignore[attr-defined]
    assert step_of(part, {}).code == ""
