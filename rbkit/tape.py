"""Record and replay: answers are kept under their digest and come back as the same value."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rbkit.entries import Entry, read_event
from rbkit.errors import ReplayMiss
from rbkit.events import Answered, ChangeDone, ChangeIntended, ChangePlanned, Event, Observed
from rbkit.masking import masked
from rbkit.ports import Store
from rbkit.values import canonical, digest, nearest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Tape", "keep", "pack_frame", "unpack_frame"]


def pack_frame(frame: "pd.DataFrame") -> dict[str, Any]:
    """Write a DataFrame as JSON; times keep their zone, NaN becomes null.

    Args:
        frame: DataFrame with a column `time` (datetime64[ns, UTC]) and JSON-able others.

    Returns:
        `columns` and `rows`.
    """
    text: str = frame.to_json(orient="split", date_format="iso", date_unit="ns", index=False, double_precision=15)
    data: dict[str, Any] = json.loads(text)
    return {"columns": data["columns"], "rows": data["data"], "numbers": "value" in frame}


def unpack_frame(data: dict[str, Any]) -> "pd.DataFrame":
    """Read back what `pack_frame` wrote.

    Returns:
        DataFrame: `time` (datetime64[ns, UTC]), `value` (float64) where there was one, the rest as it was.
    """
    import pandas as pd

    frame = pd.DataFrame(data["rows"], columns=data["columns"])
    frame["time"] = pd.to_datetime(frame["time"], utc=True, format="ISO8601").astype("datetime64[ns, UTC]")
    if data["numbers"]:
        frame["value"] = frame["value"].astype("float64")
    return frame


def keep(store: Store, answer: Any) -> str:
    """Keep an answer on the tape.

    Args:
        store: Where the tape lies.
        answer: A JSON value.

    Returns:
        The digest under which it lies.
    """
    data = canonical(masked(answer))
    name = digest(data)
    store.keep(name, data)
    return name


class Tape:
    """A recorded run that a replay answers from, in the order in which it was recorded.

    Args:
        store: Where the tape lies.
        entries: The recorded run's journal.
    """

    def __init__(self, store: Store, entries: Iterable[Entry]) -> None:
        self._store = store
        events = [read_event(entry) for entry in entries]
        self._observed = [event for event in events if isinstance(event, Observed)]
        self._begun = _made(events)
        self._answers = {event.name: event.answer for event in events if isinstance(event, Answered)}
        self._done = {event.key: event for event in events if isinstance(event, ChangeDone)}

    def answer(self, name: str, arguments: dict[str, Any]) -> tuple[Observed, Any]:
        """Return the next recorded answer to the same question.

        Args:
            name: The signal, or `capability.method`.
            arguments: What was asked.

        Raises:
            ReplayMiss: It was not asked so, or not so often; the nearest recording is named.
        """
        for event in self._observed:
            if (event.name, event.arguments) == (name, arguments):
                self._observed.remove(event)
                return event, self._fetch(event)
        near = nearest(name, {event.name for event in self._observed})
        raise ReplayMiss(f"The tape has no further answer to {name} with {arguments}.{near}")

    def said(self, question: str) -> str:
        """Return the recorded answer of a person.

        Raises:
            ReplayMiss: The recorded run did not ask it.
        """
        if question not in self._answers:
            raise ReplayMiss(f"The recorded run did not ask {question!r}.{nearest(question, self._answers)}")
        return self._answers[question]

    def change(self, call: Any) -> tuple[Event, ChangeDone | None]:
        """Return the recorded change of the same call.

        Raises:
            ReplayMiss: The recorded run did not make it.
        """
        for event in self._begun:
            if event.call == call:
                self._begun.remove(event)
                return event, self._done.get(event.key)
        left = "; ".join(str(event.call) for event in self._begun[:3]) or "none"
        raise ReplayMiss(f"The recorded run did not make {call}; what it still made: {left}.")

    def _fetch(self, event: Observed) -> Any:
        data = self._store.fetch(event.answer)
        if data is None or digest(data) != event.answer:
            raise ReplayMiss(
                f"The answer {event.answer[:19]}… to {event.name} is missing from the tape or was changed."
            )
        return json.loads(data)


def _made(events: Iterable[Event]) -> list[ChangeIntended | ChangePlanned]:
    """Take the changes that the notebook made: of several attempts the last, and nothing that a rollback did."""
    begun = [event for event in events if isinstance(event, ChangeIntended | ChangePlanned)]
    own = [event for event in begun if not getattr(event, "undoes", "")]
    return list({getattr(event, "repeats", "") or event.key: event for event in own}.values())
