"""Checks what is given for a runbook's parameters against its contract, before any kernel starts."""

import ast
import json
import keyword
import math
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any, Literal, Union

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from rbkit.contract import Contract, ParameterSpec
from rbkit.environment import SECRET_SOURCES
from rbkit.errors import ContractError, ParameterError, RefusedInput
from rbkit.values import canonical, nearest

__all__ = ["LARGEST", "from_text", "known_token", "looks_random", "secret_in", "validate"]

LARGEST = 1_000_000
_SIMPLE: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool}
_EXAMPLES = {"str": "checkout", "int": "3", "float": "300.0", "bool": "true"}
_SECRET_WORDS = (
    "password", "passwd", "passphrase", "secret", "token", "credential",
    "api_key", "apikey", "access_key", "private_key",
)  # fmt: skip
_TOKENS = {
    "an AWS key": r"(?:AKIA|ASIA)[0-9A-Z]{16}",
    "a GitHub token": r"(?:gh[opsur]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{22})",
    "a GitLab token": r"gl(?:pat|rt|dt)-[\w-]{20}",
    "a Slack token": r"(?:xox[abeoprs]-[\w-]{10}|hooks\.slack\.com/services/T)",
    "a Google key": r"AIza[\w-]{35}",
    "an API key": r"(?:sk|rk)[-_](?:live[-_]|test[-_]|proj-|ant-)?[\w-]{20}",
    "a Vault token": r"hv[bs]\.[\w-]{20}",
    "a package registry's token": r"(?:npm_[0-9A-Za-z]{36}|pypi-AgEI)",
    "a JSON web token": r"eyJ[\w-]{8,4000}\.eyJ[\w-]{8,4000}\.",
    "a private key": r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY",
    "an address with a password": r"[a-zA-Z][\w+.-]{1,20}://[^\s/:@]{0,200}:[^\s/@]{1,200}@",
    "a header with credentials": r"(?i:authorization: ?\w{1,20}|bearer) [\w+/.=-]{16}",
    "a password in clear": r"(?i:password|passwd|pwd|secret|api_?key)=[^\s{}<>$*&'\"]{4}",
}
_KNOWN = [(kind, re.compile(r"(?<![\w-])" + pattern)) for kind, pattern in _TOKENS.items()]
_WORD = re.compile(r"[0-9A-Za-z+/_-]{28,}")


@cache
def _adapter(text: str) -> TypeAdapter[Any]:
    try:
        built = _type(ast.parse(text, mode="eval").body)
        return TypeAdapter(built, config=ConfigDict(strict=True, allow_inf_nan=False))
    except (RecursionError, MemoryError, SchemaError) as error:
        raise ContractError(f"The type {text[:80]!a} cannot be used for a parameter.") from error


def _type(node: ast.expr) -> Any:
    """Build the type that `contract.type_text` wrote; nothing is evaluated."""
    match node:
        case ast.Name(id=name) if name in _SIMPLE:
            return _SIMPLE[name]
        case ast.Constant():
            return None
        case ast.BinOp(left=left, right=right):
            return Union[_type(left), _type(right)]  # noqa: UP007 - the members are known at run time only
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return list[_type(inner)]  # type: ignore[misc]
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, inner])):
            return dict[str, _type(inner)]  # type: ignore[misc]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return Literal[ast.literal_eval(inner)]
    raise ContractError(f"The type {ast.unparse(node)} cannot be used for a parameter.")


def validate(contract: Contract, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check values against the contract and fill in the defaults.

    Args:
        contract: The runbook's contract.
        given: Values by parameter name.

    Returns:
        Every parameter of the contract with its value.

    Raises:
        ParameterError: A name is unknown or a value is missing, of the wrong type, not finite or too large;
            the field, the expected type and an example are named, the value of a secret is not.
    """
    known = {spec.name: spec for spec in contract.parameters}
    for name in given:
        _check_name(name, known)
    values = {name: _value(spec, given) for name, spec in known.items()}
    if len(canonical(values)) > LARGEST:
        raise ParameterError(f"The parameters are larger than {LARGEST // 1_000_000} MB together.", field="*")
    return values


def _check_name(name: str, known: Mapping[str, ParameterSpec]) -> None:
    if name in known:
        return
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ParameterError(f"{name[:80]!r} is no name of a parameter.", field=name[:80])
    raise ParameterError(f"There is no parameter {name[:80]!r}.{nearest(name[:80], known)}", field=name[:80])


def _value(spec: ParameterSpec, given: Mapping[str, Any]) -> Any:
    if spec.name not in given and spec.required:
        raise ParameterError(f"Parameter {spec.name} is missing; {_expected(spec)}.", field=spec.name)
    value = given.get(spec.name, spec.default)
    _check_secret(spec, value)
    adapter = _adapter(spec.type)
    try:
        checked = adapter.validate_python(value)
        size = len(canonical(checked))
    except (ValidationError, RecursionError, RefusedInput) as error:
        why = error.errors()[0]["msg"].lower() if isinstance(error, ValidationError) else "it cannot be written as JSON"
        # `from None`: the cause repeats the value, and that may be a secret.
        raise ParameterError(f"Parameter {spec.name}: {why}; {_expected(spec)}.", field=spec.name) from None
    if size > LARGEST:
        raise ParameterError(f"Parameter {spec.name} is larger than {LARGEST // 1_000_000} MB.", field=spec.name)
    _check_text(spec, checked)
    return checked


def _check_text(spec: ParameterSpec, value: Any) -> None:
    """Refuse lone surrogates: no file and no database can hold them."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ParameterError(f"Parameter {spec.name} holds a broken character.", field=spec.name) from error


def _check_secret(spec: ParameterSpec, value: Any) -> None:
    """Refuse a secret in clear: parameters end up in the record. The value is never repeated."""
    kind = secret_in(spec.name, value)
    if kind:
        raise ParameterError(
            f"Parameter {spec.name} looks like a secret in clear: {kind}.", field=spec.name,
            todo="Give a reference such as env:NAME or file:PATH in the environment file; a record holds no secret.",
        )  # fmt: skip


def secret_in(name: str, value: Any) -> str:
    """Tell by name, known form and randomness whether a value holds a secret in clear.

    Args:
        name: The parameter's name.
        value: Any value; lists and mappings are looked through, however deep.

    Returns:
        What it looks like, never the value; empty when it looks like no secret or is a reference.
    """
    rest, seen = [(_is_secret_name(name), value)], set()
    while rest:
        named, item = rest.pop()
        if isinstance(item, str):
            kind = known_token(item) or ("text at random" if looks_random(item) else "")
            if kind or (named and item and item.partition(":")[0] not in SECRET_SOURCES):
                return kind or "its name says so"
        elif isinstance(item, Mapping | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            rest += _inside(named, item)
    return ""


def _inside(named: bool, item: Any) -> list[tuple[bool, Any]]:
    if not isinstance(item, Mapping):
        return [(named, part) for part in item]
    pairs = [(named or _is_secret_name(str(key)), part) for key, part in item.items()]
    return pairs + [(False, key) for key in item]


def _is_secret_name(name: str) -> bool:
    return any(word in name.lower().replace("-", "_") for word in _SECRET_WORDS)


def known_token(text: str) -> str:
    """Name the kind of token that a text holds by its published form.

    Returns:
        For example `an AWS key`; empty when it holds none.
    """
    return next((kind for kind, pattern in _KNOWN if pattern.search(text)), "")


def looks_random(text: str) -> bool:
    """Tell whether a text holds a word that only a random generator writes: 28 characters or more, as base64 has them.

    Digests, UUIDs and names of pods (one case of letters) and joined words (few changes of case) are none.
    """
    return any(_random(word) for word in _WORD.findall(text))


def _random(word: str) -> bool:
    kinds = [(char.isdigit(), char.isupper()) for char in word if char.isalnum()]
    if len(set(kinds)) < 3 or len(kinds) < 0.85 * len(word):
        return False
    changes = sum(a != b for a, b in pairwise(kinds))
    entropy = -sum(n / len(word) * math.log2(n / len(word)) for n in Counter(word).values())
    return entropy > 3.8 and changes > 0.35 * len(kinds)


def _expected(spec: ParameterSpec) -> str:
    example = _EXAMPLES.get(spec.type.split(" | ", maxsplit=1)[0], json.dumps(spec.default))
    shown = spec.default if spec.type == "str" and spec.default else example
    if secret_in(spec.name, spec.default):
        shown = "env:NAME"
    return f"expected {spec.type}, for example {spec.name}={str(shown)[:80]}"


def from_text(contract: Contract, pairs: Mapping[str, str]) -> dict[str, Any]:
    """Read values that were typed on a command line.

    A parameter of type str takes the text as it is; every other takes it as JSON.

    Args:
        contract: The runbook's contract.
        pairs: Texts by parameter name.

    Returns:
        Values, not yet checked; a text that is no JSON stays text, so that the check names the field.
    """
    types = {spec.name: spec.type for spec in contract.parameters}
    return {name: text if "str" in types.get(name, "str").split(" | ") else _json(text) for name, text in pairs.items()}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
