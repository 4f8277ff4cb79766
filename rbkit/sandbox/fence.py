"""Fencing: whoever comes with a lower token than one that was seen for a target is refused."""

import json
import re
from pathlib import Path

from rbkit.sandbox.web import Refusal

__all__ = ["Fence", "read_token"]

DECIMAL = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


def read_token(given: object) -> int:
    """Read a fencing token from a header's text or a JSON number.

    Args:
        given: What was sent.

    Returns:
        The token, from 1 to 10^18 - 1.

    Raises:
        Refusal: 400 when it is none.
    """
    text = given if isinstance(given, str) else str(given) if type(given) is int else ""
    if not DECIMAL.fullmatch(text):
        raise Refusal(400, "bad_token", "A fencing token is a whole number from 1 on, at most 18 digits.")
    return int(text)


class Fence:
    """The highest token that was seen for each target.

    Args:
        file: Where they are kept, so that a server that dies still knows them; in memory only when None.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._highest: dict[str, int] = json.loads(file.read_text()) if file and file.exists() else {}

    def highest(self, target: str) -> int | None:
        """Return the highest token for a target; None when none was ever seen."""
        return self._highest.get(target)

    def check(self, target: str, token: int | None) -> None:
        """Let a request pass, or refuse it.

        Args:
            target: What it is about.
            token: What it came with; None passes only where no token was ever seen.

        Raises:
            Refusal: 412 for a token that is too low, 428 for none where one is needed.
        """
        known = self._highest.get(target)
        if known is None:
            return
        if token is None:
            raise Refusal(428, "token_needed", f"{target} is fenced: send `Fencing-Token: {known}` or a higher one.")
        if token < known:
            raise Refusal(412, "stale_token", f"The fencing token {token} for {target} is stale: {known} was seen.")

    def admit(self, target: str, token: int | None) -> None:
        """Let a request pass and remember its token.

        Raises:
            Refusal: As `check` says.
        """
        self.check(target, token)
        if token is not None and token != self._highest.get(target):
            self._keep(self._highest | {target: token})

    def _keep(self, highest: dict[str, int]) -> None:
        if self._file:
            draft = self._file.with_suffix(".new")
            draft.write_text(json.dumps(highest))
            draft.replace(self._file)
        self._highest = highest
