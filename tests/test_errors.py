"""The error tree: drawn where it is defined, and every error says what to do next."""

import re

import pytest

from rbkit import errors
from rbkit.errors import JournalBroken, ParameterError, RunbookError

CLASSES = [getattr(errors, name) for name in errors.__all__]


def drawn() -> dict[str, tuple[int, str]]:
    """Read name, depth and remark of every class off the drawing at the top of the file."""
    found = {}
    lines = (errors.__doc__ or "").splitlines()
    edge = next(line.index("RunbookError") for line in lines if line.strip() == "RunbookError")
    for line in lines:
        names = re.match(r"[ │├└─]*((?:[A-Z]\w+(?:, )?)+)", line)
        if names and names[1].split(", ")[0] in errors.__all__:
            depth = (names.start(1) - edge) // 4
            found |= dict.fromkeys(names[1].split(", "), (depth, line))
    return found


def test_the_drawing_shows_every_class_at_its_place():
    """The tree at the top of the file is the tree that the classes form."""
    depths = {name: depth for name, (depth, _) in drawn().items()}
    assert depths == {cls.__name__: len(cls.__mro__) - len(RunbookError.__mro__) for cls in CLASSES}


def test_the_drawing_tells_the_exit_codes():
    """Where the drawing names an exit code, the class has it, and those drawn below it have it unless they differ."""
    told = {name: re.search(r"exit (\d+)", line) for name, (_, line) in drawn().items()}
    named = {name: int(code[1]) for name, code in told.items() if code}
    assert named == {name: getattr(errors, name).exit_code for name in named}
    assert {2, 1, 5} <= set(named.values())


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_says_what_to_do_next(cls):
    """An error that is raised without advice gives its class's own, as one sentence."""
    error = cls("It broke.", seq=3) if cls is JournalBroken else cls("It broke.")
    assert cls.__doc__
    assert error.todo == cls.advice
    assert error.todo.endswith(".")
    assert str(error) == f"It broke. {cls.advice}"


def test_given_advice_wins():
    """The advice of the moment replaces the class's."""
    assert str(RunbookError("It broke.", todo="Mend it.")) == "It broke. Mend it."


def test_details_are_kept():
    """A wrong parameter is named, and so is the broken entry."""
    assert ParameterError("No.", field="limit").field == "limit"
    assert JournalBroken("No.", seq=7).seq == 7


def test_a_notebook_shows_a_card_instead_of_a_traceback():
    """IPython's hook returns what happened and what to do, two lines."""
    assert RunbookError("It broke.", todo="Mend it.")._render_traceback_() == [
        "✗ RunbookError: It broke.",
        "  → Mend it.",
    ]
