"""The part of PromQL that the sandbox's metrics server answers: plain selectors and `rate(selector[range])`."""

import re
from dataclasses import dataclass
from typing import NoReturn

from rbkit.sandbox.regex import BadRegex, Regex
from rbkit.sandbox.strings import BadString, read_string

__all__ = ["BadQuery", "Matcher", "Query", "parse", "parse_duration"]

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
DURATION = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:ms|[smhdwy])?(?:[0-9]+(?:ms|[smhdwy]))*")
DURATION_PARTS = re.compile(r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII)
UNIT_MS = (31_536_000_000, 604_800_000, 86_400_000, 3_600_000, 60_000, 1000, 1)
ONLY = "the sandbox answers plain selectors and rate(selector[range]) only"
MAX_MS = 2**53


class BadQuery(ValueError):
    """The query cannot be answered; the text says where and why."""


class Matcher:
    """One condition on a label.

    Args:
        label: Name of the label; `__name__` for the metric.
        op: `=`, `!=`, `=~` or `!~`.
        value: The value, or an expression that must match the whole value. A missing label counts as empty.

    Raises:
        BadRegex: The expression is wrong.
    """

    def __init__(self, label: str, op: str, value: str) -> None:
        self.label, self.op, self.value = label, op, value
        self._regex = Regex(value) if "~" in op else None

    def accepts(self, found: str) -> bool:
        """Tell whether a label's value satisfies the condition."""
        same = self._regex.matches(found) if self._regex else found == self.value
        return same != self.op.startswith("!")

    def __repr__(self) -> str:
        return f"{self.label}{self.op}{self.value!r}"


@dataclass(frozen=True)
class Query:
    """A selector, or the rate of one.

    Args:
        matchers: Conditions that all must hold.
        rate_ms: Milliseconds over which the rate is taken; None for the plain selector.
    """

    matchers: tuple[Matcher, ...]
    rate_ms: int | None = None


def parse(text: str) -> Query:
    """Read a query.

    Args:
        text: PromQL.

    Returns:
        The query.

    Raises:
        BadQuery: It is not PromQL, or more of it than the sandbox answers.
    """
    scanner = _Scanner(text)
    if scanner.at_end():
        scanner.fail("no expression found in input")
    query = scanner.query()
    if not scanner.at_end():
        scanner.fail(f"unexpected {scanner.rest()}: {ONLY}")
    return query


def parse_duration(text: str) -> int:
    """Read a duration such as `5m`, `1h30m` or `0.5` (seconds).

    Returns:
        Milliseconds.

    Raises:
        BadQuery: It is not a duration.
    """
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        milliseconds = round(float(text) * 1000) if len(text) < 20 else MAX_MS + 1
    else:
        parts = DURATION_PARTS.fullmatch(text)
        if not text or parts is None or any(len(part or "") > 15 for part in parts.groups()):
            raise BadQuery(f"not a valid duration string: {text[:40]!r}")
        milliseconds = sum(int(part or 0) * unit for part, unit in zip(parts.groups(), UNIT_MS, strict=True))
    if milliseconds > MAX_MS:
        raise BadQuery("duration out of range")
    return milliseconds


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def fail(self, why: str) -> NoReturn:
        before = self.text[: self.at]
        line, column = before.count("\n") + 1, self.at - (before.rfind("\n") + 1) + 1
        raise BadQuery(f"{line}:{column}: parse error: {why}")

    def rest(self) -> str:
        found = self.text[self.at : self.at + 20]
        return repr(found) if found else "end of input"

    def at_end(self) -> bool:
        self.match(BLANK)
        return self.at >= len(self.text)

    def match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return found.group() if found else ""

    def accept(self, token: str) -> bool:
        self.match(BLANK)
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def expect(self, token: str) -> None:
        if not self.accept(token):
            self.fail(f"unexpected {self.rest()}, expected {token!r}: {ONLY}")

    def query(self) -> Query:
        name = self.match(NAME)
        if name != "rate" or not self.accept("("):
            return Query(self.selector(name))
        self.match(BLANK)
        matchers = self.selector(self.match(NAME))
        self.expect("[")
        milliseconds = self.range()
        self.expect("]")
        self.expect(")")
        return Query(matchers, milliseconds)

    def range(self) -> int:
        self.match(BLANK)
        try:
            milliseconds = parse_duration(self.match(DURATION))
        except BadQuery as error:
            self.fail(str(error))
        if milliseconds <= 0:
            self.fail("duration must be greater than 0")
        return milliseconds

    def selector(self, name: str) -> tuple[Matcher, ...]:
        if name.lower() in ("nan", "inf"):
            self.fail(f"unexpected number {name!r}: {ONLY}")
        matchers = [Matcher("__name__", "=", name)] if name else []
        if self.accept("{"):
            matchers += self.matchers()
        elif not name:
            self.fail(f"unexpected {self.rest()}: {ONLY}")
        if sum(matcher.label == "__name__" for matcher in matchers) > 1 and name:
            self.fail(f"metric name must not be set twice: {name!r}")
        if all(matcher.accepts("") for matcher in matchers):
            self.fail("vector selector must contain at least one non-empty matcher")
        return tuple(matchers)

    def matchers(self) -> list[Matcher]:
        found: list[Matcher] = []
        while not self.accept("}"):
            found.append(self.matcher())
            if not self.accept(","):
                self.expect("}")
                break
        return found

    def matcher(self) -> Matcher:
        self.match(BLANK)
        label = self.match(LABEL)
        if not label:
            self.fail(f"unexpected {self.rest()} in label matching, expected identifier or '}}'")
        op = next((op for op in ("!=", "=~", "!~", "=") if self.accept(op)), "")
        if not op:
            self.fail(f"unexpected {self.rest()} in label matching, expected label matching operator")
        return self.condition(label, op)

    def condition(self, label: str, op: str) -> Matcher:
        value = self.string()
        try:
            return Matcher(label, op, value)
        except BadRegex as error:
            self.fail(f"error parsing regexp: {error}")

    def string(self) -> str:
        self.match(BLANK)
        if self.text[self.at : self.at + 1] not in ('"', "'", "`"):
            self.fail(f"unexpected {self.rest()} in label matching, expected string")
        try:
            value, self.at = read_string(self.text, self.at)
        except (BadString, IndexError) as error:
            self.fail(str(error))
        return value
