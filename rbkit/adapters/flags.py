"""Feature flags that a service keeps as JSON objects behind HTTP.

Source: RFC 9110, sections 8.8.3 and 13.1.1 (ETag, If-Match)
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any, Literal
from urllib.parse import quote

from pydantic import SecretStr

from rbkit.adapters.http import Http
from rbkit.errors import BadAnswer, NotFound, Refused, SettingsError
from rbkit.facts import Call
from rbkit.kinds import FeatureFlags

__all__ = ["HttpFlags", "element", "field_at", "steps"]

_STEPS = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')
_SCALARS = (bool, int, float, str)


class HttpFlags(FeatureFlags):
    """Flags of a service: a flag is read by GET and given a value by PUT or PATCH of its JSON object.

    What somebody else changes between the reading and the writing is never overwritten: the object's ETag is sent
    back as If-Match. Flag services cannot remember fencing tokens.

    Args:
        url: The service's address.
        path: The path of a flag, with `{flag}` where its name belongs.
        value: Where the value is in the object, names joined by dots.
        method: PUT sends the whole object as it was read with the new value; PATCH sends the value's fields only.
        etag: Whether the service gives ETags; without them a change by somebody else at the same moment can be lost.
        token: A bearer token.

    Raises:
        SettingsError: An option is wrong.
    """

    def __init__(
        self, url: str, path: str = "/flags/{flag}", value: str = "value", method: Literal["PUT", "PATCH"] = "PUT",
        etag: bool = True, token: SecretStr | None = None,
    ) -> None:  # fmt: skip
        if path.count("{flag}") != 1 or not path.startswith("/") or method not in {"PUT", "PATCH"}:
            raise SettingsError("The option path needs {flag} once and begins with /; method is PUT or PATCH.")
        self._http = Http(url, "The flags' service", token)
        self._writer = _Tagged(url, "The flags' service", token)
        self._path, self._at, self._method, self._etag = path, steps("value", value), method, etag
        self._turn = asyncio.Lock()

    async def state(self, target: str) -> dict[str, Any]:
        """Read a flag's value."""
        return {"value": self._value(target, await self._http.read(self._place(target)))}

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Give a flag a value, unless somebody else writes to it at the same time."""
        value, place = call.arguments.get("value"), self._place(call.target)
        async with self._turn:
            found = await self._before(call.target, place)
            with self._writer.only_if(self._tag(call.target)):
                body = _with(found if self._method == "PUT" else {}, self._at, value)
                await self._writer.write(self._method, place, body, key)

    async def ping(self) -> str:
        """Ask for a flag that hardly is there: that there is none is an answer, too."""
        with suppress(NotFound):
            await self._http.read(self._place("rbkit-ping"))
        return f"{self._http.name} answers, {self._http.who}; reads; it does not tell whether we may write"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._writer.aclose()
        await self._http.aclose()

    async def _before(self, flag: str, place: str) -> Any:
        """Read the object that is to be changed; nothing has been sent yet, so an odd answer is a refusal."""
        try:
            found = await self._writer.read(place)
            self._value(flag, found)
        except BadAnswer as error:
            raise Refused(f"Flag {flag} was not changed, as it cannot be read: {error.what}") from error
        return found

    def _place(self, flag: str) -> str:
        return self._path.replace("{flag}", element(flag))

    def _value(self, flag: str, found: Any) -> Any:
        value = field_at(found, self._at, f"flag {flag}")
        if not isinstance(value, _SCALARS):
            raise BadAnswer(f"The value of flag {flag} is neither a boolean nor a number nor a text.")
        return value

    def _tag(self, flag: str) -> str:
        """Return the tag of what was read last; weak tags cannot be compared with."""
        tag = self._writer.tag
        if self._etag and (not _ETAG.fullmatch(tag) or tag.startswith("W/")):
            raise Refused(
                f"The service gave no strong ETag for flag {flag}, so a change by somebody else could be lost.",
                todo="Let it give ETags, or accept that: option etag: false.",
            )
        return tag if self._etag else ""


class _Tagged(Http):
    """HTTP that remembers the ETag of its last answer and can send one as If-Match; one request at a time."""

    tag = ""
    _match = ""

    @contextmanager
    def only_if(self, tag: str) -> Iterator[None]:
        """Let a change act only on what has this tag."""
        self._match = tag
        try:
            yield
        finally:
            self._match = ""

    async def _send(self, *words: Any, **named: Any) -> Any:
        answer = await super()._send(*words, **named)
        self.tag = answer.headers.get("ETag", "")
        return answer

    def _headers(self, more: Mapping[str, str] | None) -> dict[str, str]:
        return super()._headers({**(more or {}), **({"If-Match": self._match} if self._match else {})})


def element(name: str) -> str:
    """Write a name as one element of a path, whatever it holds.

    Raises:
        NotFound: No element of a path can be so.
    """
    if name in {"", ".", ".."} or len(name) > 500:
        raise NotFound(f"There can be no {name[:80]!r}.", todo="Check the name of the target.")
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as error:
        raise NotFound(f"There can be no {name!r}: it holds a broken character.") from error


def steps(option: str, text: str) -> tuple[str, ...]:
    """Read where a field is in a JSON object: names joined by dots.

    Raises:
        SettingsError: It is no such text.
    """
    if not _STEPS.fullmatch(text):
        raise SettingsError(f"The option {option} must be names joined by dots, not {text!r}.")
    return tuple(text.split("."))


def field_at(found: Any, at: tuple[str, ...], what: str) -> Any:
    """Take a field out of a JSON object.

    Raises:
        BadAnswer: It is not there.
    """
    for step in at:
        if not isinstance(found, dict) or step not in found:
            raise BadAnswer(f"The answer about {what} has no field {'.'.join(at)}.")
        found = found[step]
    return found


def _with(found: Mapping[str, Any], at: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Copy an object with another value at one place."""
    whole = deepcopy(dict(found))
    here = whole
    for step in at[:-1]:
        here = here.setdefault(step, {})
    here[at[-1]] = value
    return whole
