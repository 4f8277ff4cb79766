"""Programs that the environment file allows, on this machine or on another one by SSH."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from rbkit.adapters.options import option
from rbkit.adapters.ssh import Ran, able, certainly, read, runner
from rbkit.capability import Plan, State
from rbkit.capability import read as reads_only
from rbkit.errors import BadAnswer, NotFound, ParameterError, Refused, SettingsError
from rbkit.facts import Call
from rbkit.kinds import Command
from rbkit.queries import argv
from rbkit.values import human, nearest, seconds

__all__ = ["Program", "Programs", "known", "plan_of", "programs_of"]

_LOOK_S = 10.0
"""The longest that a program which only reads may take, seconds."""
_LONGEST_S = 3600.0
_PLACE = re.compile(r"\{(\w+)\}")


class Program(BaseModel):
    """A program that changes something, as the environment file declares it.

    Args:
        argv: Its absolute path and its arguments, `{target}`, `{key}` and `{token}` where these belong.
        state: A program that prints the target's state as a JSON object.
        after: Keys of the state, and the values that they have afterwards.
        differs: Keys of the state that have another value afterwards.
        undo: The program that takes it back.
        irreversible: Why nothing takes it back.
        timeout: How long it may take.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    argv: list[str] = Field(min_length=1)
    state: list[str] = Field(min_length=1)
    after: dict[str, JsonValue] = {}
    differs: list[str] = []
    undo: str = ""
    irreversible: str = ""
    timeout: float = 30.0

    @field_validator("timeout", mode="before")
    @classmethod
    def _seconds(cls, text: str | float) -> float:
        return seconds(text)


class Programs(Command):
    """Runs programs that the environment file allows; fencing tokens are remembered by a program that takes `{token}`.

    Args:
        programs: Programs that change something, by name: see Program.
        reads: Programs that only read, by name: each a list, absolute path first; they print a JSON object.
        ssh: The machine where they run: `host`, `user`, `key_file`, `known_hosts`, `port`; this one when missing.
        refused_codes: Exit codes by which programs say that they did nothing.
        missing_codes: Exit codes by which they say that there is no such target.
        shows_within: How long a change may take to show in the state.

    Raises:
        SettingsError: A program is declared wrongly, has no absolute path, or no way to read the state.
    """

    def __init__(
        self, programs: Mapping[str, Any] | None = None, reads: Mapping[str, Sequence[str]] | None = None,
        ssh: Mapping[str, Any] | None = None, refused_codes: Sequence[int] = (), missing_codes: Sequence[int] = (),
        shows_within: str | float = "20s",
    ) -> None:  # fmt: skip
        self._programs = programs_of(programs or {})
        self._reads = {name: _line(f"reads.{name}", line, ("target",)) for name, line in (reads or {}).items()}
        self._looks = list(dict.fromkeys(tuple(program.state) for program in self._programs.values()))
        self._refused, self._missing = tuple(refused_codes), tuple(missing_codes)
        self._machine = runner(ssh)
        self.shows_within_s = seconds(shows_within)  # type: ignore[misc]  # a class's default, an instance's option

    async def state(self, target: str) -> State:
        """Read a target's state: what the programs that read it print, put together."""
        state: State = {}
        for look in self._looks:
            for key, value in (await self._look(list(look), {"target": target})).items():
                if state.setdefault(key, value) != value:
                    raise BadAnswer(f"Two programs disagree about {key!r} of {target}.")
        return state

    @reads_only
    async def ask(self, program: str, target: str) -> dict[str, Any]:
        """Run a program that only reads, and return the JSON object that it prints."""
        return await self._look(self._reads[known(program, self._reads)], {"target": target})

    def plan_of(self, program: str, before: State) -> Plan:
        """Say what a program brings about; it can be undone when its `undo` leads back to the state before."""
        return plan_of(self._programs, program, before)

    async def ping(self) -> str:
        """Look whether every program is there and may be run by us; none of them is run."""
        changing = [program.argv[0] for program in self._programs.values()]
        reading = [line[0] for line in (*self._looks, *self._reads.values())]
        who = await able(self._machine, [*changing, *reading])
        return f"{len(changing)} program(s) for changes, as {who}; reads{' and writes' if changing else ''}"

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Run a program."""
        name = known(str(call.arguments.get("program")), self._programs)
        program = self._programs[name]
        words = _filled(program.argv, {"target": call.target, "key": key, "token": str(token)})
        ran = await self._machine.run(words, program.timeout)
        certainly(ran, name, self._refused, self._missing)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._machine.aclose()

    async def _look(self, line: list[str], values: Mapping[str, str]) -> dict[str, Any]:
        ran = await read(self._machine, _filled(line, values), _LOOK_S)
        if ran.code in self._missing:
            raise NotFound(f"There is no {values['target']!r}: {ran.said}", todo="Check the name of the target.")
        if ran.code:
            raise BadAnswer(f"{line[0]} ended with code {ran.code}: {ran.said}")
        return _object(line[0], ran)


def programs_of(given: Mapping[str, Any]) -> dict[str, Program]:
    """Read programs as the environment file declares them.

    Raises:
        SettingsError: One of them is declared wrongly.
    """
    found = {name: option(Program, f"programs.{name}", declared) for name, declared in given.items()}
    for name, program in found.items():
        _check(name, program, found)
    return found


def plan_of(programs: Mapping[str, Program], name: str, before: State) -> Plan:
    """Say what a program brings about; it can be undone when its `undo` leads back to the state before.

    Raises:
        NotFound: No such program is allowed.
        Refused: The state does not show what the program is judged by.
    """
    found = programs[known(name, programs)]
    missing = [key for key in (*found.after, *found.differs) if key not in before]
    if missing:
        raise Refused(f"The state has no {missing[0]!r}, by which {name} is judged.")
    after, differs = dict(found.after), {key: before[key] for key in found.differs}
    if not found.undo:
        return Plan(after, differs, irreversible=found.irreversible)
    if found.after.items() <= before.items():
        return Plan(after, undo=("run", {"program": name}))
    back = programs[found.undo].after
    left = [key for key in found.after if key not in back or back[key] != before[key]]
    if left:
        return Plan(after, irreversible=f"{found.undo} does not bring back {left[0]}={before[left[0]]!r}")
    return Plan(after, undo=("run", {"program": found.undo}))


def known(name: str, programs: Mapping[str, Any]) -> str:
    """Return the name of a program that is allowed.

    Raises:
        NotFound: No such program is allowed.
    """
    if name not in programs:
        allowed = ", ".join(sorted(programs)) or "none"
        raise NotFound(f"No program {name!r} is allowed.{nearest(name, programs)}", todo=f"Allowed: {allowed}.")
    return name


def _filled(line: list[str], values: Mapping[str, str]) -> list[str]:
    """Put in the values; one that cannot be passed is refused before anything is started."""
    try:
        return argv(line, values)
    except ParameterError as error:
        raise Refused(error.what, todo=error.todo) from error


def _places(line: list[str]) -> list[str]:
    return list(dict.fromkeys(_PLACE.findall(" ".join(line))))


def _object(name: str, ran: Ran) -> dict[str, Any]:
    try:
        found = json.loads(ran.out, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"{name} printed something that is not JSON: {ran.out[:200]!r}.") from error
    if not isinstance(found, dict):
        raise BadAnswer(f"{name} printed JSON, but no object: {ran.out[:200]!r}.")
    return found


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _line(place: str, line: Any, known: Sequence[str]) -> list[str]:
    if not isinstance(line, list | tuple) or not line or not all(isinstance(word, str) for word in line):
        raise SettingsError(f"The option {place} is no list of texts.")
    if not line[0].startswith("/") or "{" in line[0]:
        raise SettingsError(f"The option {place} must begin with an absolute path, not {line[0]!r}.")
    for name in _places(list(line)):
        if name not in known:
            raise SettingsError(f"The option {place} has a place for {name!r}.", todo=f"Known: {', '.join(known)}.")
    return list(line)


def _check(name: str, program: Program, programs: Mapping[str, Program]) -> None:
    _line(f"programs.{name}.argv", program.argv, ("target", "key", "token"))
    _line(f"programs.{name}.state", program.state, ("target",))
    for fault in _faults(program, programs):
        raise SettingsError(f"The program {name} {fault}.")


def _faults(program: Program, programs: Mapping[str, Program]) -> Iterator[str]:
    if not program.after and not program.differs:
        yield "says neither what is so `after` it nor what `differs`: nothing could be verified"
    if bool(program.undo) == bool(program.irreversible.strip()):
        yield "must say either which program is its `undo` or why it is `irreversible`"
    if program.undo and program.undo not in programs:
        yield f"names {program.undo!r} as its `undo`, which is no program"
    if program.undo and program.differs:
        yield "says that something `differs`; no `undo` can bring that back, so say why it is `irreversible`"
    if program.timeout > _LONGEST_S:
        yield f"may take {human(program.timeout)}; the limit is {human(_LONGEST_S)}"
