"""Words of a query language, taken one after the other, as the doubles of Loki and Tempo read them."""

import re

__all__ = ["Words"]


class Words:
    """The words of a text, in their order.

    Args:
        pattern: Matches one word; the name of the group that matched is its kind.
        text: The text.

    Raises:
        ValueError: No word begins somewhere in the text.
    """

    def __init__(self, pattern: re.Pattern[str], text: str) -> None:
        self._left: list[tuple[str, str]] = []
        place, text = 0, text.strip()
        while place < len(text):
            word = pattern.match(text, place)
            if word is None:
                raise ValueError(f"parse error at line 1, col {place + 1}: syntax error")
            self._left.append((str(word.lastgroup), word[str(word.lastgroup)]))
            place = word.end()

    def __bool__(self) -> bool:
        return bool(self._left)

    def any(self) -> tuple[str, str]:
        """Take the next word, whatever it is; at the end it is `$end`."""
        return self._left.pop(0) if self._left else ("$end", "$end")

    def next(self, text: str) -> bool:
        """Tell whether the next word is this operator."""
        return self._left[:1] == [("op", text)]

    def take(self, kind: str, text: str = "") -> str:
        """Take the next word, which must be of a kind, or just this one.

        Raises:
            ValueError: It is another one.
        """
        found, value = self.any()
        if found != kind or (text and value != text):
            raise ValueError(f"parse error: syntax error: unexpected {value}")
        return value
