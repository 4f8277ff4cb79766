"""Alertmanager: the alerts that it holds, and silences.

Source: https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlencode

from pydantic import SecretStr

from rbkit.adapters.lines import MALFORMED, Row, fields, matches, moment, nanoseconds, plain, tidy
from rbkit.adapters.signal_http import SignalHttp
from rbkit.adapters.told import told
from rbkit.capability import State
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, NotFound, Refused, Unreachable
from rbkit.facts import Call
from rbkit.kinds import Silences
from rbkit.ports import Language, Window

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AlertmanagerAlerts", "AlertmanagerSilences", "matcher"]

_BY = "rbkit"
_LABELS = {"name": "alertname"}
_OWN = {"state", "summary", "fingerprint", "ends_at", "receivers", "silenced_by", "inhibited_by", "annotations"}
_LABEL_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_ONE_OF = re.compile(r"[\w -]+(?:\|[\w -]+)*", re.ASCII)
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_EARLIER = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def matcher(label: str, value: str) -> str:
    """Write that a label has exactly a value, as a filter of Alertmanager's API.

    Args:
        label: The label's name.
        value: Any text.

    Returns:
        `label="value"`; the parser reads exactly this value back.

    Source: https://github.com/prometheus/alertmanager/blob/main/pkg/labels/parse.go
    """
    return f'{label}="{value.translate(_ESCAPES)}"'


class AlertmanagerAlerts:
    """Reads the alerts that Alertmanager holds now; `time` is when each began.

    Args:
        url: Its address, with the path before `/api/v2` if there is one.
        token: A bearer token.
        user: The user's name, where it asks for a password.
        password: The user's password.
        tenant: Whose alerts are meant, sent as X-Scope-OrgID.
    """

    language: ClassVar[Language] = "fields"

    def __init__(
        self, url: str, *, token: SecretStr | None = None, user: str = "", password: SecretStr | None = None,
        tenant: str = "",
    ) -> None:  # fmt: skip
        self._http = SignalHttp(url, "Alertmanager", token, user=user, password=password, tenant=tenant)

    async def search(self, where: str | Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Read alerts that were firing at some time in the window, the newest last.

        Args:
            where: Labels and the exact values they must have; also `name` (the label alertname), `severity`,
                `state` (active, suppressed or unprocessed) and `summary`.
            window: An alert that began before it and has not ended belongs to it.
            limit: The most alerts to return; the newest are kept.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `name`, `state`, `severity`, `summary` (text), `attributes`
            (mappings: the other labels, `annotations`, `fingerprint`, `ends_at`, `receivers`, `silenced_by`,
            `inhibited_by`).

        Raises:
            SettingsError: `where` is a query.
            BadAnswer: The answer has not the documented form.
            Unreachable: No answer came.
        """
        wanted = fields(where, "Alertmanager")
        answer = await self._http.read("/api/v2/alerts?" + urlencode(_filters(wanted)))
        try:
            rows = [_alert(alert) for alert in answer if _firing(alert, window)]
            return tidy("alerts", (row for row in rows if matches(row, wanted)), limit)
        except MALFORMED as error:
            raise BadAnswer(
                "Alertmanager described an alert in a form that its API does not document.", fault=True
            ) from error

    async def ping(self) -> str:
        """Ask for the version."""
        return f"{await _product(self._http)}; reads"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


async def _product(http: SignalHttp) -> str:
    answer = await http.read("/api/v2/status")
    try:
        return f"Alertmanager {told(answer['versionInfo']['version'])}, {http.who}"
    except MALFORMED as error:
        raise BadAnswer("Alertmanager told its status in an undocumented form.", fault=True) from error


def _filters(where: Mapping[str, str]) -> list[tuple[str, str]]:
    """Let the server select by labels; what is no label is selected here."""
    labels = {_LABELS.get(key, key): value for key, value in where.items() if key not in _OWN}
    return [("filter", matcher(key, value)) for key, value in labels.items() if _LABEL_NAME.fullmatch(key)]


def _firing(alert: Any, window: Window) -> bool:
    return moment(alert["startsAt"]) <= nanoseconds(window.end) and moment(alert["endsAt"]) >= nanoseconds(window.start)


def _alert(alert: Any) -> Row:
    labels, notes, status = dict(alert["labels"]), dict(alert["annotations"]), alert["status"]
    about = {
        "annotations": notes, "fingerprint": alert["fingerprint"], "ends_at": alert["endsAt"],
        "receivers": [receiver["name"] for receiver in alert["receivers"]],
        "silenced_by": list(status["silencedBy"]), "inhibited_by": list(status["inhibitedBy"]),
    }  # fmt: skip
    name, severity = str(labels.pop("alertname", "")), str(labels.pop("severity", ""))
    return {
        "time": moment(alert["startsAt"]), "name": name, "state": str(status["state"]), "severity": severity,
        "summary": str(notes.get("summary", "")), "attributes": about | labels,
    }  # fmt: skip


class AlertmanagerSilences(Silences):
    """Silences in Alertmanager, by the alert's name; only what rbkit made is ever ended.

    Alertmanager knows neither idempotency keys nor fencing tokens. The key is kept in the silence's comment, so that
    the same key never makes two; `fence` does nothing.

    Args:
        url: Its address, with the path before `/api/v2` if there is one.
        token: A bearer token.
        user: The user's name, where it asks for a password.
        password: The user's password.
        tenant: Whose alerts are meant, sent as X-Scope-OrgID.
    """

    def __init__(
        self, url: str, *, token: SecretStr | None = None, user: str = "", password: SecretStr | None = None,
        tenant: str = "",
    ) -> None:  # fmt: skip
        self._http = SignalHttp(url, "Alertmanager", token, user=user, password=password, tenant=tenant)

    async def state(self, target: str) -> State:
        """Read whether a silence covers all alerts of a name, and until when.

        A silence counts when nothing but the alert's name must match: one that asks for other labels, too, leaves
        alerts that speak. One with a regular expression counts when that is a plain list of names.
        """
        ends = [one.ends for one in await self._covering(target) if one.state == "active"]
        until = _EPOCH + timedelta(microseconds=max(ends) // 1_000) if ends else None
        return {"silent": bool(ends), "until": until.isoformat(timespec="milliseconds") if until else None}

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Make a silence, or end those that rbkit has made."""
        try:
            covering = await self._covering(call.target)
        except BadAnswer as error:
            raise Unreachable(f"Nothing was done: {error.what}") from error
        if call.action == "wake":
            await self._wake(call.target, covering)
        elif not any(one.ours and one.comment.endswith(_mark(key)) for one in covering):
            await self._http.write("POST", "/api/v2/silences", _new(call, key))

    async def ping(self) -> str:
        """Ask for the version."""
        return f"{await _product(self._http)}; reads and writes: Alertmanager itself knows no rights"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _covering(self, target: str) -> list["_Silence"]:
        """List the silences of a name; those that have ended, too, as their comments hold keys."""
        if not target or plain(target) != target:
            raise NotFound(f"{target!r} is no alert's name.", todo="Check the name of the target.")
        answer = await self._http.read("/api/v2/silences")
        try:
            silences = [_silence(one) for one in answer]
        except MALFORMED as error:
            raise BadAnswer(
                "Alertmanager described a silence in a form that its API does not document.", fault=True
            ) from error
        return [one for one in silences if one.covers(target)]

    async def _wake(self, target: str, covering: list["_Silence"]) -> None:
        others = [one for one in covering if not one.ours and one.state == "active"]
        if others:
            raise Refused(f"A silence of {others[0].by!r} covers {target}, too; rbkit ends only its own.")
        ours = [one for one in covering if one.ours and one.state != "expired"]
        for ended, one in enumerate(ours):
            try:
                await self._http.write("DELETE", f"/api/v2/silence/{quote(one.id, safe='')}")
            except (NotFound, AdapterError) as error:
                if not ended:
                    raise
                raise MayHaveActed(f"{ended} of {len(ours)} silences were ended: {error.what}") from error


@dataclass(frozen=True, slots=True)
class _Silence:
    id: str
    state: str
    ends: int
    by: str
    comment: str
    matchers: tuple[tuple[str, str, bool, bool], ...]

    @property
    def ours(self) -> bool:
        return self.by == _BY and _mark("")[:-1] in self.comment

    def covers(self, name: str) -> bool:
        """Whether it silences every alert of a name, whatever other labels the alert has."""
        return all(_hits(name, *one) for one in self.matchers)


def _hits(name: str, label: str, value: str, regex: bool, equal: bool) -> bool:
    """Whether a matcher certainly lets every alert of a name through."""
    if label != "alertname" or not equal:
        return False
    if not regex:
        return value == name
    return name in value.split("|") if _ONE_OF.fullmatch(value) else value in {".*", ".+"}


def _silence(one: Any) -> _Silence:
    matchers = tuple(
        (str(m["name"]), str(m["value"]), bool(m["isRegex"]), bool(m.get("isEqual", True))) for m in one["matchers"]
    )
    if not matchers:
        raise ValueError("a silence without matchers")
    ends, state = moment(one["endsAt"]), str(one["status"]["state"])
    return _Silence(str(one["id"]), state, ends, str(one["createdBy"]), str(one["comment"]), matchers)


def _mark(key: str) -> str:
    return f"[rbkit:{key}]"


def _new(call: Call, key: str) -> dict[str, Any]:
    """Describe a silence; it begins in the past, so that it is active also where the server's clock is behind."""
    now = datetime.now(UTC)
    until = now + timedelta(minutes=call.arguments["minutes"])
    return {
        "matchers": [{"name": "alertname", "value": call.target, "isRegex": False, "isEqual": True}],
        "startsAt": (now - _EARLIER).isoformat(), "endsAt": until.isoformat(), "createdBy": _BY,
        "comment": f"{plain(str(call.arguments['why']))} {_mark(key)}",
    }  # fmt: skip
