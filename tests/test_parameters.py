"""What is given for parameters is checked before anything starts, and a secret is never repeated."""

import base64
import traceback
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbkit.contract import Cell, Contract, ParameterSpec, read_cells
from rbkit.errors import ContractError, ParameterError
from rbkit.parameters import LARGEST, from_text, known_token, looks_random, secret_in, validate

OPEN = Cell(1, "code", 'run = open_run("x", version="1", owner="o", budget="5m")')
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
RANDOM = "tR4vK9" + "xQ2mZ7pL1wB8nY3cF6hJ5dS0gA"


def contract(*lines: str) -> Contract:
    """Read a contract with these parameters."""
    return read_cells([Cell(0, "code", "\n".join(lines), ("parameters",)), OPEN])


def refusal(line: str, value: Any, name: str = "") -> ParameterError:
    """Return the error with which a value is refused."""
    with pytest.raises(ParameterError) as caught:
        validate(contract(line), {name or line.partition(":")[0]: value})
    return caught.value


def test_defaults_are_filled_in() -> None:
    """What is not given is the default; every parameter has a value."""
    found = contract("a: int = 1", 'b: str = "x"', "c: float")
    assert validate(found, {"a": 2, "c": 1}) == {"a": 2, "b": "x", "c": 1.0}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("a: str = 'x'", ""), ("a: str = 'x'", "é\u2028😀"), ("a: str | None = None", None),
        ("a: str | None = None", "x"),
        ("a: int = 1", -5), ("a: int = 1", 10**4000), ("a: float = 1.0", 1e308), ("a: bool = True", False),
        ("a: int | float = 1", 1.5), ("a: \"Literal['x', 'y']\" = 'x'", "y"), ("a: \"Literal['x', 2]\" = 'x'", 2),
        ("a: list[str] = []", ["x"]), ("a: dict[str, list[int]] = {}", {"x": [1]}),
        ("a: list[int | None] = []", [None, 1]),
    ],
    ids=count(),
)  # fmt: skip
def test_a_value_of_the_type_is_kept(line: str, value: Any) -> None:
    """Every type that a contract may name takes its own values, unchanged."""
    assert validate(contract(line), {"a": value}) == {"a": value}


@pytest.mark.parametrize(
    ("line", "value", "expected"),
    [
        ("a: str = 'x'", 1, "expected str, for example a=x"), ("a: str = ''", 1, "for example a=checkout"),
        ("a: str | None = None", 1, "expected str | None, for example a=checkout"), ("a: int = 1", "1",
        "for example a=3"),
        ("a: int = 1", True, "expected int"), ("a: int = 1", 1.0, "expected int"), ("a: int = 1", None, "expected int"),
        ("a: bool = True", 1, "for example a=true"), ("a: float = 1.0", "1", "for example a=300.0"),
        ("a: float = 1.0", float("nan"), "finite"), ("a: float = 1.0", float("inf"), "finite"),
        ("a: float = 1.0", -float("inf"), "finite"), ("a: list[float] = []", [float("nan")], "finite"),
        ("a: dict[str, float] = {}", {"x": float("inf")}, "finite"), ("a: float = 1.0", 10**400, "expected float"),
        ("a: int = 1", 10**5000, "cannot be written as JSON"), ("a: \"Literal['x', 'y']\" = 'x'", "z", "'x' or 'y'"),
        ("a: list[str] = ['k']", "x", 'for example a=["k"]'), ("a: list[str] = []", [1], "expected list[str]"),
        ("a: dict[str, int] = {}", {1: 1}, "expected dict[str, int]"), ("a: dict[str, int] = {}", [],
        "for example a={}"),
        ("a: str = 'x'", b"x", "expected str"), ("a: str = 'x'", object(), "expected str"),
    ],
    ids=count(),
)  # fmt: skip
def test_a_value_of_another_type_is_refused(line: str, value: Any, expected: str) -> None:
    """The field, the type that is expected and an example are named; nothing is converted in silence."""
    error = refusal(line, value)
    assert (error.field, error.exit_code) == ("a", 2)
    assert "Parameter a" in error.what
    assert expected in error.what


def test_a_default_is_checked_like_a_value() -> None:
    """A default of the wrong type is refused as well."""
    with pytest.raises(ParameterError, match="Parameter a: "):
        validate(contract("a: int = 'x'"), {})


def test_a_missing_value_is_named() -> None:
    """A parameter without default must be given."""
    with pytest.raises(ParameterError, match="Parameter a is missing; expected str, for example a=checkout") as caught:
        validate(contract("a: str"), {})
    assert caught.value.field == "a"


def test_an_unknown_name_gets_the_nearest() -> None:
    """A slip of the finger is answered with what was meant."""
    error = refusal("service: str = 'x'", "y", name="servise")
    assert (error.field, error.what) == ("servise", "There is no parameter 'servise'. Did you mean 'service'?")


@pytest.mark.parametrize(
    "name", ["x=1;import os", "", "a b", "class", "1a", "a\n", "\ud800", "x" * 5000 + "="], ids=count()
)
def test_a_name_that_is_code_is_refused(name: str) -> None:
    """Only a plain name can become a variable of the notebook."""
    with pytest.raises(ParameterError, match="is no name of a parameter") as caught:
        validate(contract("a: int = 1"), {name: 1})
    assert (caught.value.field, len(caught.value.what) < 200) == (name[:80], True)


@pytest.mark.parametrize("value", ["x" * LARGEST, "é" * (LARGEST // 5)], ids=["ascii", "escaped"])
def test_a_value_has_a_largest_size(value: str) -> None:
    """A value above 1 MB, as it is journaled, is refused without repeating it."""
    error = refusal("a: str = 'x'", value)
    assert error.what == "Parameter a is larger than 1 MB."


def test_all_values_together_have_a_largest_size() -> None:
    """Many large values are refused as one too large is."""
    found = contract("a: str = ''", "b: str = ''")
    with pytest.raises(ParameterError, match="larger than 1 MB together") as caught:
        validate(found, {"a": "x" * 600_000, "b": "x" * 600_000})
    assert caught.value.field == "*"


@pytest.mark.parametrize(
    ("line", "value"),
    [("a: str = 'x'", "\ud800"), ("a: list[str] = []", ["x", "\udfff"]), ("a: dict[str, str] = {}", {"\ud800": "x"})],
)
def test_a_lone_surrogate_is_refused(line: str, value: Any) -> None:
    """Text that no file and no database can hold is refused."""
    assert refusal(line, value).field == "a"


def deep(levels: int, leaf: Any = 1) -> Any:
    """Nest a list."""
    for _ in range(levels):
        leaf = [leaf]
    return leaf


def test_deep_nesting_is_refused() -> None:
    """Depth is answered with a sentence, in values and in what holds itself."""
    assert refusal("a: list[int] = []", deep(100_000)).field == "a"
    assert refusal("a: str = ''", deep(5_000)).field == "a"
    ring: list[Any] = []
    ring.append(ring)
    assert refusal("a: list[int] = []", ring).field == "a"


@pytest.mark.parametrize(
    "kind", ["set[int]", "a.b", "bytes", "int()", " | ".join(["int"] * 30_000), "Literal['\\ud800']"], ids=count()
)
def test_a_type_that_cannot_be_used_is_refused(kind: str) -> None:
    """A type that is forged, too deep or holds a broken character is a refusal; it is not evaluated."""
    spec = ParameterSpec(name="a", type=kind)
    with pytest.raises(ContractError, match="cannot be used for a parameter"):
        validate(contract().model_copy(update={"parameters": (spec,)}), {"a": 1})


TOKENS = {
    "an AWS key": AWS,
    "a GitHub token": "ghp_" + "a1B2" * 9,
    "a GitLab token": "glpat-" + "a1B2c" * 4,
    "a Slack token": "xoxb-" + "1234567890",
    "a Google key": "AIza" + "a1B2c" * 7,
    "an API key": "sk-" + "live-" + "a1B2c" * 4,
    "a Vault token": "hvs." + "a1B2c" * 4,
    "a package registry's token": "npm_" + "a1B2" * 9,
    "a JSON web token": "eyJ" + "hbGciOiJI.eyJ" + "zdWIiOiIx.x",
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "an address with a password": "postgresql://me:" + "pw@host/db",
    "a header with credentials": "Authorization: Basic " + "dXNlcjpwYXNzd29yZA==",
    "a password in clear": "host=x password=" + "hunter2",
}


@pytest.mark.parametrize(("kind", "token"), TOKENS.items())
def test_a_token_is_known_by_its_form(kind: str, token: str) -> None:
    """A token is refused under any name, alone or in other text, and is not repeated."""
    assert known_token(f"use {token}") == kind
    error = refusal("service: str = 'x'", f"use {token} now")
    assert kind in error.what
    assert token not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("password: str = ''", "hunter2"), ("db_passwd: str | None = None", "hunter2"), ("API_TOKEN: str", "hunter2"),
        ("a: str = ''", RANDOM + "hunter2"), ("a: list[str] = []", ["x", "hunter2" + RANDOM]),
        ("a: dict[str, str] = {}", {"api-key": "hunter2"}), ("a: dict[str, str] = {}", {"hunter2" + RANDOM: "x"}),
        ("secret: dict[str, list[str]] = {}", {"x": ["hunter2"]}), ("password: str = ''", ["hunter2"]),
        ("password: int = 1", "hunter2"), ("password: str = 'hunter2'", 5),
        ("password: list[int] = []", [{"x": "hunter2"}]),
        ("a: int = 1", "hunter2" + RANDOM),
    ],
)  # fmt: skip
def test_a_secret_in_clear_is_refused_and_not_repeated(line: str, value: Any) -> None:
    """Neither the sentence nor the traceback of a refusal holds the secret."""
    error = refusal(line, value)
    assert error.exit_code == 2
    assert "hunter2" not in "".join(traceback.format_exception(error)).replace(line, "")


def test_a_reference_to_a_secret_passes() -> None:
    """A reference, nothing at all and a number under such a name are no secrets."""
    found = contract("password: str", "token: str = ''", "max_tokens: int = 5")
    assert validate(found, {"password": "vault:kv/pager"}) == {
        "password": "vault:kv/pager",
        "token": "",
        "max_tokens": 5,
    }


@pytest.mark.parametrize(
    "text",
    ["checkout-7d9f8b6c5d-x2x4z-checkout-production", "sha256:" + "0a1b2c3d" * 8,
     "9F1C2B3A-1111-4222-8333-444455556666",
     "CheckoutServiceMemoryLeakRunbook2024Version", "/var/lib/docker/overlay2/AbCdEfGh/merged/etc/Config", "a" * 5000,
     "https://prometheus.eu-west-1.prod.example.com/api/v1/query_range", "password={password}", "x://y/z@w", "aB1" * 40,
     "aB1_/-" * 10],
    ids=count(),
)  # fmt: skip
def test_names_and_digests_are_no_secrets(text: str) -> None:
    """What operators really pass is not taken for a secret."""
    assert secret_in("service", [text]) == ""


@settings(derandomize=True, deadline=None)
@given(st.binary(min_size=30, max_size=64).filter(lambda data: len(set(data)) > 26))
def test_random_bytes_in_base64_are_mostly_seen(data: bytes) -> None:
    """The measure of randomness gives an answer for any text, and the same each time."""
    text = base64.b64encode(data).decode()
    assert looks_random(text) is looks_random(f"key {text}")


def test_text_of_a_command_line_is_read_by_type() -> None:
    """A str takes the text as it is, every other type takes JSON, and what is no JSON is left to the check."""
    found = contract(
        "a: str = ''", "b: str | None = None", "c: int = 1", "d: list[str] = []", "e: \"Literal['x']\" = 'x'"
    )
    given_texts = {"a": "1", "b": "null", "c": "2", "d": '["x"]', "e": "x", "f": "7"}
    assert from_text(found, given_texts) == {"a": "1", "b": "null", "c": 2, "d": ["x"], "e": "x", "f": "7"}
    broken = from_text(found, {"c": "9" * 5000, "d": "[" * 100_000})
    assert (len(broken["c"]), len(broken["d"])) == (5000, 100_000)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
LINES = [
    "a: str = ''",
    "a: int | None = 1",
    "a: float = 1.0",
    "a: list[str] = []",
    "a: dict[str, float] = {}",
    "a: \"Literal['x']\" = 'x'",
]


@settings(derandomize=True, deadline=None)
@given(line=st.sampled_from(LINES), name=st.sampled_from(["a"]) | st.text(), value=ANY)
def test_any_value_is_taken_or_refused(line: str, name: str, value: Any) -> None:
    """Whatever is given, there are values that can be journaled, or an error that names a field."""
    try:
        assert validate(contract(line), {name: value})["a"] == value
    except ParameterError as error:
        assert error.field in {"a", name[:80]}
