"""Regular expressions as Prometheus has them: RE2's syntax, the whole value must match, never exponential time.

Python's `re` is not used: it backtracks, so a hostile pattern would stop the metrics server for ever.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["BadRegex", "Regex"]

MAX_DEPTH = 40
MAX_LENGTH = 4096
MAX_REPEAT = 1000
CLASSES = {"d": "0123456789", "s": "\t\n\f\r ", "w": "0123456789_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"}
CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
Test = Callable[[str], bool]


class BadRegex(ValueError):
    """The text is not a regular expression that RE2 and this sandbox know."""


@dataclass(frozen=True, eq=False)
class _Char:
    test: Test


@dataclass(frozen=True, eq=False)
class _Edge:
    at_end: bool


@dataclass(frozen=True, eq=False)
class _Seq:
    parts: tuple["_Node", ...]


@dataclass(frozen=True, eq=False)
class _Either:
    choices: tuple["_Node", ...]


@dataclass(frozen=True, eq=False)
class _Repeat:
    node: "_Node"
    low: int
    high: int | None


_Node = _Char | _Edge | _Seq | _Either | _Repeat


class Regex:
    """A compiled expression.

    Args:
        pattern: The expression; it is anchored at both ends, and `.` matches a newline.

    Raises:
        BadRegex: It cannot be parsed.
    """

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_LENGTH:
            raise BadRegex(f"expression is longer than {MAX_LENGTH} characters")
        self._root = _Parser(pattern).parse()
        self._answers: dict[str, bool] = {}

    def matches(self, text: str) -> bool:
        """Tell whether the whole text matches; the time is bounded by pattern × text²."""
        if text not in self._answers:
            self._answers[text] = len(text) in _Matcher(text).ends(self._root, 0)
        return self._answers[text]


class _Matcher:
    """Finds where a node can end when it begins at a place; each question is answered once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._known: dict[tuple[int, int], frozenset[int]] = {}

    def ends(self, node: _Node, at: int) -> frozenset[int]:
        key = (id(node), at)
        if key not in self._known:
            self._known[key] = frozenset(self._find(node, at))
        return self._known[key]

    def _find(self, node: _Node, at: int) -> set[int]:
        match node:
            case _Char(test):
                return {at + 1} if at < len(self.text) and test(self.text[at]) else set()
            case _Edge(at_end):
                return {at} if at == (len(self.text) if at_end else 0) else set()
            case _Seq(parts):
                return self._follow(parts, {at})
            case _Either(choices):
                return {end for choice in choices for end in self.ends(choice, at)}
            case _Repeat():
                return self._repeat(node, at)

    def _follow(self, parts: tuple[_Node, ...], places: set[int]) -> set[int]:
        for part in parts:
            places = {end for place in places for end in self.ends(part, place)}
            if not places:
                break
        return places

    def _repeat(self, node: _Repeat, at: int) -> set[int]:
        places = self._follow((node.node,) * node.low, {at})
        found, rounds = set(places), 0
        while places and (node.high is None or rounds < node.high - node.low):
            places = self._follow((node.node,), places) - found
            found |= places
            rounds += 1
        return found


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.text, self.at, self.depth = pattern, 0, 0
        self.any_case = False

    def parse(self) -> _Node:
        node = self.either()
        if self.at < len(self.text):
            raise BadRegex(f"unexpected ): `{self.text}`")
        return node

    def peek(self, count: int = 1) -> str:
        return self.text[self.at : self.at + count]

    def take(self, count: int = 1) -> str:
        piece = self.peek(count)
        if len(piece) < count:
            raise BadRegex(f"the expression ends too early: `{self.text}`")
        self.at += count
        return piece

    def either(self) -> _Node:
        choices = [self.sequence()]
        while self.peek() == "|":
            self.take()
            choices.append(self.sequence())
        return choices[0] if len(choices) == 1 else _Either(tuple(choices))

    def sequence(self) -> _Node:
        return _Seq(tuple(self.pieces()))

    def pieces(self) -> Iterator[_Node]:
        while self.peek() and self.peek() not in "|)":
            yield self.repeated(self.atom())

    def repeated(self, node: _Node) -> _Node:
        bounds = self.bounds()
        if bounds is None:
            return node
        if self.peek() == "?":
            self.take()
        if (self.peek() and self.peek() in "*+?") or self.bounds() is not None:
            raise BadRegex(f"invalid nested repetition operator in `{self.text}`")
        return _Repeat(node, *bounds)

    def bounds(self) -> tuple[int, int | None] | None:
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if self.peek() in simple:
            return simple[self.take()]
        return self.braces() if self.peek() == "{" else None

    def braces(self) -> tuple[int, int | None] | None:
        inner, closed, _ = self.text[self.at + 1 :].partition("}")
        low, comma, high = inner.partition(",")
        if not closed or not _digits(low) or (high and not _digits(high)):
            return None
        first, last = int(low), int(high) if high else None if comma else int(low)
        if max(first, last or 0) > MAX_REPEAT or (last is not None and last < first):
            raise BadRegex(f"invalid repeat count: `{{{inner}}}`")
        self.take(len(inner) + 2)
        return first, last

    def atom(self) -> _Node:
        letter = self.take()
        match letter:
            case "(":
                return self.group()
            case "[":
                return _Char(self.char_class())
            case ".":
                return _Char(lambda _: True)
            case "^" | "$":
                return _Edge(letter == "$")
            case "*" | "+" | "?":
                raise BadRegex(f"missing argument to repetition operator: `{letter}`")
            case "\\":
                return self.escaped_atom()
        return _Char(self.one_of(letter))

    def escaped_atom(self) -> _Node:
        if self.peek() and self.peek() in "Az":
            return _Edge(self.take() == "z")
        test = self.escape()
        return _Char(test if callable(test) else self.one_of(test))

    def group(self) -> _Node:
        outer_case = self.any_case
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise BadRegex("expression nests too deeply")
        if self.peek() == "?" and self.group_options():
            self.depth -= 1
            return _Seq(())
        node = self.either()
        if self.take() != ")":
            raise BadRegex(f"missing closing ): `{self.text}`")
        self.any_case = outer_case
        self.depth -= 1
        return node

    def group_options(self) -> bool:
        """Read what follows `(?`; true when it was only flags for what comes after, as in `(?i)`."""
        self.take()
        for opening in ("P<", "<"):
            if self.peek(len(opening)) == opening:
                name, closed, _ = self.text[self.at + len(opening) :].partition(">")
                if not closed or not name.isidentifier():
                    break
                self.take(len(opening) + len(name) + 1)
                return False
        while self.peek() and self.peek() in "is":
            self.any_case |= self.take() == "i"
        ending = self.peek()
        if ending not in (":", ")"):
            raise BadRegex(f"invalid or unsupported Perl syntax in `{self.text}`")
        return self.take() == ")"

    def one_of(self, letters: str) -> Test:
        wanted = frozenset(letters.lower() + letters.upper() if self.any_case else letters)
        return wanted.__contains__

    def escape(self) -> str | Test:
        letter = self.take()
        if letter.lower() in CLASSES:
            members = frozenset(CLASSES[letter.lower()])
            return members.__contains__ if letter.islower() else lambda char: char not in members
        if letter == "x":
            return self.hex_escape()
        if letter in CONTROLS:
            return CONTROLS[letter]
        if letter.isalnum():
            raise BadRegex(f"invalid or unsupported escape sequence: `\\{letter}`")
        return letter

    def hex_escape(self) -> str:
        digits = self.take(2)
        if digits.startswith("{"):
            inner, closed, _ = self.text[self.at - 1 :].partition("}")
            digits = inner if closed else ""
            self.at += len(inner)
        if not digits or len(digits) > 6 or not set(digits) <= set("0123456789abcdefABCDEF"):
            raise BadRegex("invalid escape sequence: `\\x`")
        if int(digits, 16) > 0x10FFFF:
            raise BadRegex("invalid escape sequence: `\\x`")
        return chr(int(digits, 16))

    def char_class(self) -> Test:
        negated = self.peek() == "^"
        if negated:
            self.take()
        tests = [self.class_item()]
        while self.peek() != "]":
            tests.append(self.class_item())
        self.take()
        return lambda char: any(test(char) for test in tests) != negated

    def class_item(self) -> Test:
        if self.peek(2) == "[:":
            raise BadRegex("classes like [[:alpha:]] are not supported by the sandbox")
        first = self.class_char()
        if callable(first):
            return first
        if self.peek() != "-" or self.peek(2) == "-]":
            return self.one_of(first)
        self.take()
        last = self.class_char()
        if callable(last) or last < first:
            raise BadRegex(f"invalid character class range in `{self.text}`")
        return self.span(first, last)

    def class_char(self) -> str | Test:
        letter = self.take()
        return self.escape() if letter == "\\" else letter

    def span(self, first: str, last: str) -> Test:
        if self.any_case:
            return lambda char: first <= char.lower() <= last or first <= char.upper() <= last
        return lambda char: first <= char <= last


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4
