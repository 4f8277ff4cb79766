"""Every keeper of flags, in memory or behind HTTP (a double), keeps the same promises."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from rbkit.adapters.fake_machines import FakeFlags
from rbkit.adapters.flags import HttpFlags
from rbkit.errors import NotFound, Refused
from rbkit.facts import Call
from rbkit.kinds import FeatureFlags
from rbkit.testing.http_machines import FlagsDouble

FLAGS = {"checkout/new cart?": True, "limit": 10, "share": 0.5, "color": "blue"}


@pytest.fixture(params=["fake", "PUT", "PATCH"])
def use(request: pytest.FixtureRequest) -> Iterator[Callable[[Callable[[FeatureFlags], Awaitable[Any]]], Any]]:
    """Run a coroutine with flags of every kind."""
    if request.param == "fake":
        fake = FakeFlags(FLAGS)
        yield lambda work: asyncio.run(work(fake))
        return

    async def closed(work: Any) -> Any:
        adapter = HttpFlags(double.url, value="state.on", method=request.param)
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    with FlagsDouble(
        {name: {"state": {"on": value, "by": "x"}, "note": "n"} for name, value in FLAGS.items()}
    ) as double:
        yield lambda work: asyncio.run(closed(work))
        assert all(flag["state"]["by"] == "x" and flag["note"] == "n" for flag in double.flags.values())


def call(flag: str, value: Any) -> Call:
    """Make a call."""
    return Call(capability="flags", action="put", target=flag, arguments={"value": value})


@pytest.mark.parametrize(
    "flag, value", [("checkout/new cart?", False), ("limit", 0), ("share", 1), ("color", "ü \"'\n")]
)
def test_put_comes_true_and_goes_back(use, flag, value) -> None:
    """For every kind of value; the other flags, and the other fields, stay as they are."""
    before = use(lambda f: f.state(flag))
    assert before == {"value": FLAGS[flag]}

    async def put(flags: FeatureFlags) -> Any:
        plan = flags.plan(call(flag, value), await flags.state(flag))
        await flags.apply(call(flag, value), uuid4().hex, 1)
        return plan

    plan = use(put)
    assert use(lambda f: f.state(flag)) == plan.after == {"value": value}
    name, arguments = plan.undo
    use(lambda f: f.apply(Call(capability="flags", action=name, target=flag, arguments=arguments), uuid4().hex, 1))
    assert {name: use(lambda f, name=name: f.state(name))["value"] for name in FLAGS} == FLAGS


def test_the_same_value_twice_is_once(use) -> None:
    """It is no error."""
    for _ in range(2):
        use(lambda f: f.apply(call("limit", 3), uuid4().hex, 1))
    assert use(lambda f: f.state("limit")) == {"value": 3}


@pytest.mark.parametrize("flag", ["no-such", "../limit", "limit/x"])
def test_an_unknown_flag_is_not_found(use, flag) -> None:
    """A name leads to its own flag only."""
    with pytest.raises(NotFound):
        use(lambda f: f.state(flag))
    with pytest.raises(NotFound):
        use(lambda f: f.apply(call(flag, 1), uuid4().hex, 1))


@pytest.mark.parametrize(
    "flag, value",
    [("checkout/new cart?", 1), ("checkout/new cart?", "false"), ("limit", True), ("limit", "3"), ("color", 1),
     ("limit", float("nan")), ("share", float("inf")), ("limit", None)],
)  # fmt: skip
def test_another_kind_of_value_is_refused(use, flag, value) -> None:
    """`1` is not `true`, and `"false"` would be true for many: the plan refuses it."""

    async def put(flags: FeatureFlags) -> Any:
        return flags.plan(call(flag, value), await flags.state(flag))

    with pytest.raises(Refused, match="another kind of value"):
        use(put)


def test_ping_says_who_we_are_and_what_we_may_do(use, request) -> None:
    """One line, against every one of them: what it is, as whom we are there, what we may do."""
    named = {"fake": "in memory", "PUT": "answers, without credentials", "PATCH": "answers, without"}
    said = use(lambda one: one.ping())
    assert named[request.node.callspec.params["use"]] in said and "reads" in said and said.isprintable()
