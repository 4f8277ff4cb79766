"""What was fetched shows in no text, in none of the forms in which it may show."""

import base64
import json
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from rbkit import events as ev
from rbkit.masking import MASK, Stream, any_known, forget, mask, masked, remember
from rbkit.tape import keep

SECRET = 'hunter2/ü"quoted" +x'
CALM = settings(derandomize=True, deadline=None, database=None)


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    """Know one secret."""
    remember(SecretStr(SECRET))
    yield
    forget()


@pytest.mark.parametrize(
    "text",
    [
        SECRET, json.dumps(SECRET), json.dumps(SECRET, ensure_ascii=False), repr(SECRET), quote(SECRET),
        quote_plus(SECRET), quote(SECRET, safe=""), f"postgresql://app:{quote(SECRET, safe='')}@db",
        json.dumps({"a": json.dumps(SECRET)[1:-1]}),
    ],
)  # fmt: skip
def test_every_form_is_masked(text):
    """As it is, in JSON, in Python, in an address."""
    shown = mask(f"before {text} after")
    assert "hunter2" not in shown and "quoted" not in shown
    assert shown.startswith("before ") and shown.endswith(" after") and MASK in shown


@CALM
@given(st.binary(max_size=9), st.binary(max_size=9), st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))
def test_base64_is_masked_wherever_the_secret_begins(before, after, encode):
    """As in `Authorization: Basic`: what decodes to the secret is gone."""
    remember(SecretStr(SECRET))
    shown = mask(encode(before + SECRET.encode() + after).decode())
    assert MASK in shown


@CALM
@given(st.lists(st.integers(1, 60), max_size=20), st.text("ab hunter", max_size=9), st.text("xyz ", max_size=9))
def test_a_secret_is_masked_over_the_borders_of_pieces(cuts, before, after):
    """However a text is cut into pieces, what is shown is the masked text, and nothing is lost."""
    remember(SecretStr(SECRET))
    text, stream, shown, place = before + SECRET + after, Stream(), "", 0
    for cut in cuts:
        shown += stream.feed(text[place : place + cut])
        place += cut
    shown += stream.feed(text[place:]) + stream.rest()
    assert SECRET not in shown
    assert shown == mask(text)


def test_what_is_held_back_comes_later():
    """The end of a text that may be the beginning of a secret waits for what follows."""
    stream = Stream()
    assert stream.feed("password: hunte") == "password: "
    assert stream.feed("r2 is not it") == "hunter2 is not it"
    assert stream.feed("hunter2/ü") == "" and stream.rest() == "hunter2/ü" and stream.rest() == ""


def test_json_values_are_masked_as_a_whole():
    """Keys, values, lists; what is no text stays as it is."""
    assert masked({SECRET: [1, SECRET, {"a": (SECRET, None)}], "b": True}) == {
        MASK: [1, MASK, {"a": [MASK, None]}], "b": True,
    }  # fmt: skip


def test_what_is_too_short_is_not_masked():
    """It cannot be told from ordinary text; without any secret nothing is touched."""
    forget()
    remember(SecretStr("abc"))
    value = {"abc": 1}
    assert not any_known() and masked(value) is value and mask("abc") == "abc"


def test_no_secret_reaches_the_journal_or_the_tape(rig):
    """Whatever an error or an answer repeats."""
    rig.started().journal.append(ev.StepFailed(step="work", error="E", why=f"login with {SECRET} failed", seconds=1.0))
    assert rig.events("step_failed")[0]["why"] == f"login with {MASK} failed"
    assert SECRET.encode() not in rig.store.fetch(keep(rig.store, {"rows": [SECRET]}))
