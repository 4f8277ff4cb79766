"""Programs: what may be declared, what their answers must look like, and what a failure means."""

import asyncio
import json
import sys
from typing import Any

import pytest
from pings import pinged

from rbkit.adapters.command import Programs
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, SettingsError
from rbkit.facts import Call

PYTHON = [sys.executable, "-I", "-c"]
STATE = [*PYTHON, "print('{\"n\": 1}')"]
GOOD = {"argv": ["/bin/true", "{target}"], "state": STATE, "after": {"n": 2}, "irreversible": "because"}


def programs(**change: Any) -> dict[str, Any]:
    """Declare one program, with changes."""
    return {"one": {**GOOD, **change}}


def apply(adapter: Programs, target: str = "web", program: str = "one") -> None:
    """Make a change."""
    call = Call(capability="c", action="run", target=target, arguments={"program": program})
    asyncio.run(adapter.apply(call, "run/step/0", 7))


def printing(text: str, code: int = 0) -> Programs:
    """Allow a question whose answer is given."""
    line = [*PYTHON, "import sys; sys.stdout.write(sys.argv[1]); sys.exit(int(sys.argv[2]))", text, str(code)]
    return Programs(reads={"x": line}, missing_codes=[4])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"argv": ["true"]}, "programs.one.argv must begin with an absolute path"),
        ({"argv": ["/{target}"]}, "programs.one.argv must begin"),
        ({"argv": []}, "programs.one.argv"),
        ({"argv": "/bin/true"}, "programs.one.argv"),
        ({"argv": ["/bin/true", "{taget}"]}, "place for 'taget'"),
        ({"state": None}, "programs.one.state"),
        ({"state": ["cat"]}, "programs.one.state must begin"),
        ({"state": ["/bin/cat", "{key}"]}, "place for 'key'"),
        ({"after": {}}, "nothing could be verified"),
        ({"irreversible": ""}, "must say either"),
        ({"irreversible": " "}, "must say either"),
        ({"undo": "one"}, "must say either"),
        ({"undo": "two", "irreversible": ""}, "names 'two'"),
        ({"undo": "one", "irreversible": "", "differs": ["n"]}, "something `differs`"),
        ({"timeout": "2h"}, "the limit is"),
        ({"timeout": "soon"}, "no duration"),
        ({"shell": True}, "programs.one.shell"),
    ],
)
def test_a_program_that_is_declared_wrongly_is_named(change, words) -> None:
    """When the capability is made, not in the middle of an incident."""
    with pytest.raises(SettingsError, match=words):
        Programs(programs(**change))


def test_a_program_without_a_state_is_no_change() -> None:
    """What cannot be verified is not run."""
    with pytest.raises(SettingsError, match="programs.one.state"):
        Programs({"one": {key: value for key, value in GOOD.items() if key != "state"}})


@pytest.mark.parametrize("line", ["/bin/true", [], ["/bin/echo", 1], ["echo"], ["/bin/echo", "{token}"]])
def test_a_question_that_is_declared_wrongly_is_named(line) -> None:
    """Questions are lists of texts with an absolute path, and know only their target."""
    with pytest.raises(SettingsError, match="reads.x"):
        Programs(reads={"x": line})


def test_nothing_declared_allows_nothing() -> None:
    """It can be made, and says that nothing is allowed."""
    with pytest.raises(NotFound, match="No program 'x'") as failure:
        asyncio.run(Programs().ask("x", "web"))
    assert "none" in failure.value.todo and asyncio.run(Programs().state("web")) == {}


@pytest.mark.parametrize("text", ["", "no", "[1]", '{"n": NaN}', '{"n": Infinity}', '"x"', "[" * 90_000, '{"n": 1} x'])
def test_what_is_no_json_object_is_a_bad_answer(text) -> None:
    """Nothing is guessed."""
    with pytest.raises(BadAnswer, match="JSON"):
        asyncio.run(printing(text).ask("x", "web"))


def test_a_question_that_fails_is_a_bad_answer_or_not_found() -> None:
    """Its exit code says which."""
    with pytest.raises(BadAnswer, match="code 1"):
        asyncio.run(printing("{}", 1).ask("x", "web"))
    with pytest.raises(NotFound, match="'web'"):
        asyncio.run(printing("{}", 4).ask("x", "web"))


def test_key_and_token_reach_a_program_that_takes_them(tmp_path) -> None:
    """So that it can act once for a key, and refuse a lower token."""
    text = "import sys, json; open(sys.argv[1], 'w').write(json.dumps(sys.argv[2:]))"
    line = [*PYTHON, text, str(tmp_path / "seen"), "{target}", "--key={key}", "{token}"]
    apply(Programs(programs(argv=line)), "a {token} b")
    assert json.loads((tmp_path / "seen").read_text()) == ["a {token} b", "--key=run/step/0", "7"]


@pytest.mark.parametrize("target", ["--all", "-rf", "a\0b", "\ud800"])
def test_a_target_that_cannot_be_passed_is_refused(target) -> None:
    """An option, a zero byte, half a character: nothing is started."""
    with pytest.raises(Refused):
        apply(Programs(programs()), target)


@pytest.mark.parametrize("code, error", [(1, MayHaveActed), (3, Refused), (4, NotFound)])
def test_a_program_that_fails_may_have_acted(code, error) -> None:
    """Unless its exit code is one of those by which it says that it did not."""
    line = [*PYTHON, "import sys; sys.exit(int(sys.argv[1]))", str(code)]
    with pytest.raises(error, match=f"one ended with code {code}"):
        apply(Programs(programs(argv=line), refused_codes=[3], missing_codes=[4]))


def test_a_program_that_takes_too_long_may_have_acted() -> None:
    """Its own timeout counts."""
    with pytest.raises(MayHaveActed, match="within 0.3s"):
        apply(Programs(programs(argv=["/bin/sleep", "60"], timeout="300ms")))


def test_states_of_several_programs_are_put_together() -> None:
    """Each way of reading is taken once; when two disagree nothing is believed."""
    other = {**GOOD, "state": [*PYTHON, 'print(\'{"m": 2, "n": 1}\')']}
    adapter = Programs({"one": GOOD, "same": GOOD, "other": other})
    assert asyncio.run(adapter.state("web")) == {"n": 1, "m": 2} and len(adapter._looks) == 2
    liar = {**GOOD, "state": [*PYTHON, "print('{\"n\": 2}')"]}
    with pytest.raises(BadAnswer, match="disagree about 'n'"):
        asyncio.run(Programs({"one": GOOD, "liar": liar}).state("web"))


def test_an_undo_that_does_not_lead_back_is_none() -> None:
    """It would bring a value that was not there before; the plan says so instead."""
    pair = {
        "up": {**GOOD, "irreversible": "", "undo": "down", "after": {"n": 5}},
        "down": {**GOOD, "irreversible": "", "undo": "wide", "after": {"n": 1}},
        "wide": {**GOOD, "irreversible": "", "undo": "down", "after": {"n": 5, "m": 5}},
    }
    adapter = Programs(pair)
    assert adapter.plan_of("up", {"n": 1}).undo == ("run", {"program": "down"})
    plan = adapter.plan_of("up", {"n": 2})
    assert plan.undo is None and plan.irreversible == "down does not bring back n=2"
    assert adapter.plan_of("wide", {"n": 1, "m": 1}).irreversible == "down does not bring back m=1"


def test_how_long_a_change_may_take_to_show_is_an_option() -> None:
    """For this capability only."""
    assert Programs(shows_within="2m").shows_within_s == 120.0 and Programs.shows_within_s == 20.0


def test_ping_runs_nothing_and_names_a_program_that_is_missing(tmp_path) -> None:
    """Programs are only looked at: whether they are there, and whether we may run them."""
    program = tmp_path / "look"
    reads = Programs(reads={"look": [str(program)]})
    with pytest.raises(Refused, match="look is not there"):
        pinged(reads)
    program.write_text("#!/bin/sh\ntouch was-run\n")
    with pytest.raises(Refused, match="may not run it"):
        pinged(reads)
    program.chmod(0o755)
    assert pinged(reads).endswith("; reads") and not (tmp_path / "was-run").exists()
