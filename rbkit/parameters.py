"""Checks what is given for a runbook's parameters against its contract, before any kernel starts."""

import ast
import json
import keyword
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, Union

from pydantic import ConfigDict, TypeAdapter, ValidationError

from rbkit.contract import Contract, ParameterSpec
from rbkit.errors import ContractError, ParameterError
from rbkit.values import canonical, nearest

__all__ = ["LARGEST", "from_text", "validate"]

LARGEST = 1_000_000
_SIMPLE: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool}
_EXAMPLES = {"str": "checkout", "int": "3", "float": "300.0", "bool": "true"}
_SECRET_WORDS = ("password", "passwd", "secret", "token", "api_key", "apikey", "private_key", "credential")


@cache
def _adapter(text: str) -> TypeAdapter[Any]:
    return TypeAdapter(_type(ast.parse(text, mode="eval").body), config=ConfigDict(strict=True, allow_inf_nan=False))


def _type(node: ast.expr) -> Any:
    """Build the type that `contract.type_text` wrote; nothing is evaluated."""
    match node:
        case ast.Name(id=name):
            return _SIMPLE[name]
        case ast.Constant():
            return None
        case ast.BinOp(left=left, right=right):
            return Union[_type(left), _type(right)]  # noqa: UP007 - the members are known at run time only
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return list[_type(inner)]  # type: ignore[misc]
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, inner])):
            return dict[str, _type(inner)]  # type: ignore[misc]
        case ast.Subscript(slice=inner):
            return Literal[ast.literal_eval(inner)]  # type: ignore[misc]
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
    try:
        checked = _adapter(spec.type).validate_python(value)
        size = len(canonical(checked))
    except (ValidationError, RecursionError) as error:
        why = error.errors()[0]["msg"].lower() if isinstance(error, ValidationError) else "nested too deeply"
        raise ParameterError(f"Parameter {spec.name}: {why}; {_expected(spec)}.", field=spec.name) from error
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
    named = any(word in spec.name.lower() for word in _SECRET_WORDS)
    reference = isinstance(value, str) and (not value or value.partition(":")[0] in {"env", "file", "vault"})
    if named and isinstance(value, str) and not reference:
        raise ParameterError(
            f"Parameter {spec.name} looks like a secret in clear.", field=spec.name,
            todo="Give a reference such as env:NAME or file:PATH in the environment file; a record holds no secret.",
        )  # fmt: skip


def _expected(spec: ParameterSpec) -> str:
    example = _EXAMPLES.get(spec.type.split(" | ", maxsplit=1)[0], json.dumps(spec.default))
    shown = spec.default if spec.type == "str" and spec.default else example
    return f"expected {spec.type}, for example {spec.name}={shown}"


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
