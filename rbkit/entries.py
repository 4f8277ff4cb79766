"""The lines of a journal: an event, who wrote it and when, chained to the line before."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from rbkit.errors import JournalBroken, RefusedInput
from rbkit.events import AnyEvent, Event, Json
from rbkit.values import digest

__all__ = ["Entry", "intact", "read_entry", "read_event", "seal_entry"]

_EVENT: TypeAdapter[Event] = TypeAdapter(AnyEvent)


class Entry(BaseModel):
    """One line of a journal: an event, who wrote it and when, chained to the line before."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    run: str
    seq: int = Field(ge=0, strict=True)
    at: str
    actor: str
    source: str
    event: Json
    prev: str
    hash: str


def seal_entry(run: str, seq: int, at: str, actor: str, source: str, event: Event, prev: str) -> Entry:
    """Make the next line of a journal, with its hash over everything before it.

    Args:
        run: The run's id.
        seq: Its place, from 0.
        at: UTC, ISO 8601 with microseconds.
        actor: Who acts, for example `os:alice`.
        source: Which process writes: kernel, supervisor or cli.
        event: What happened.
        prev: The hash of the line before; empty for the first.

    Returns:
        The entry.

    Raises:
        RefusedInput: The event holds a value that is not JSON.
    """
    try:
        said = event.model_dump(mode="json")
    except PydanticSerializationError as error:
        raise RefusedInput(f"The event {event.kind} cannot be written to the journal: {error}.") from error
    body: Json = {
        "run": run, "seq": seq, "at": at, "actor": actor, "source": source, "event": said, "prev": prev,
    }  # fmt: skip
    return Entry(**body, hash=digest(body))


def intact(entry: Entry) -> bool:
    """Tell whether an entry says, to the letter, what its hash was made of."""
    body = {name: getattr(entry, name) for name in Entry.model_fields if name != "hash"}
    try:
        return digest(body) == entry.hash
    except RefusedInput:
        return False


def read_event(entry: Entry) -> Event:
    """Read the event of an entry.

    Raises:
        JournalBroken: It is no event that this version of rbkit knows.
    """
    try:
        return _EVENT.validate_python(entry.event)
    except ValidationError as error:
        raise JournalBroken(f"Entry {entry.seq} holds no known event.", seq=entry.seq) from error


def read_entry(data: Any, seq: int) -> Entry:
    """Read one line of an embedded journal.

    Args:
        data: The JSON object.
        seq: Where it stands, for the error.

    Raises:
        JournalBroken: It is no entry.
    """
    try:
        return Entry.model_validate(data)
    except ValidationError as error:
        raise JournalBroken(f"Entry {seq} cannot be read.", seq=seq) from error
