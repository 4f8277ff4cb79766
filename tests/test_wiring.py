"""Ports are built from the environment file by name, lazily, and closed in reverse."""

import asyncio
import inspect
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rbkit import wiring
from rbkit.adapters.cloudwatch import CloudWatchLogs
from rbkit.adapters.journald import Journald
from rbkit.adapters.jsonl_logs import JsonlLogs
from rbkit.adapters.prometheus import Prometheus
from rbkit.envfile import load_environment
from rbkit.environment import Environment
from rbkit.errors import BadAnswer, NotFound, SecretError, SettingsError, Unreachable
from rbkit.policy import ApprovalRules
from rbkit.wiring import Wiring, adapter, approval_rules, explained


def world(capability: dict[str, Any] | None = None, source: dict[str, Any] | None = None) -> Wiring:
    """Wire one source and one capability."""
    return Wiring(
        Environment.model_validate(
            {
                "name": "test",
                "sources": {"numbers": source or {"adapter": "prometheus", "url": "http://127.0.0.1:9"}},
                "signals": {"memory": {"source": "numbers", "query": "up", "max_rows": 7}},
                "capabilities": {"balancer": capability or {"adapter": "sandbox-balancer", "url": "http://x"}},
            }
        )
    )


class Port:
    """A port that remembers when it was closed."""

    def __init__(self, closed: list[str], name: str, error: Exception | None = None) -> None:
        self.closed, self.name, self.error = closed, name, error

    async def aclose(self) -> None:
        """Close, or fail to."""
        self.closed.append(self.name)
        if self.error:
            raise self.error


@pytest.mark.parametrize("name", ["prometheus", "jsonl-logs", "sandbox-balancer", "sandbox-services"])
def test_the_adapters_that_come_along_can_be_loaded(name) -> None:
    """Every adapter that rbkit declares is there."""
    assert callable(adapter(name))


def test_an_unknown_adapter_is_refused_with_the_nearest() -> None:
    """A slip in the environment file is named and what is installed is listed."""
    with pytest.raises(NotFound, match=r"Did you mean 'prometheus'\?.*Installed: .*jsonl-logs"):
        adapter("prometeus")


def test_an_adapter_whose_package_is_missing_says_so(monkeypatch) -> None:
    """A plugin that cannot be imported is a setting that is wrong, not a crash."""
    broken = EntryPoint("x", "no_such_package_of_anybody:X", "rbkit.adapters")
    monkeypatch.setattr(wiring, "entry_points", lambda group: [broken])
    with pytest.raises(SettingsError, match="'x' cannot be loaded.*Install its extra"):
        adapter("x")


def test_ports_are_made_once_and_only_when_used() -> None:
    """Nothing is made before it is asked for; asking again gives the same."""
    wired = world()
    assert list(wired.capabilities()) == ["balancer"] and wired._made == {}
    assert wired.signal("memory")[0].query == "up"
    first = dict(wired._made)
    wired.signal("memory")
    assert isinstance(first["source numbers"], Prometheus) and wired._made == first
    asyncio.run(wired.aclose())


def test_a_source_of_logs_is_searched(tmp_path) -> None:
    """The same signal can come from logs; its `max_rows` is the limit."""
    asked = []

    class Logs(JsonlLogs):
        async def search(self, where: Any, window: Any, limit: int) -> Any:
            asked.append((where, window, limit))

    wired = world()
    wired._made["source numbers"] = Logs(str(tmp_path))
    asyncio.run(wired.signal("memory")[1]({"level": "error"}, "window"))
    assert asked == [({"level": "error"}, "window", 7)]


@pytest.mark.parametrize(
    ("instances", "most", "fits"), [(("a", "b", "a"), 2, True), (("a", "b"), 1, False), ((None,), 1, True)]
)
def test_more_series_than_the_environment_allows_are_refused(instances, most, fits) -> None:
    """Distinct labels are counted, not samples; an answer without labels is one series."""
    rows = [{"time": pd.Timestamp(0, tz="UTC"), "value": 1.0} | ({"instance": i} if i else {}) for i in instances]
    wired = world()
    settings = wired.environment.signals["memory"].model_copy(update={"max_series": most})
    wired.environment.signals["memory"] = settings

    class Metrics:
        language = "promql"

        async def query(self, query: Any, window: Any) -> Any:
            return pd.DataFrame(rows)

    wired._made["source numbers"] = Metrics()
    ask = wired.signal("memory")[1]("up", None)
    if fits:
        assert len(asyncio.run(ask)) == len(instances)
    else:
        with pytest.raises(BadAnswer, match="Signal memory has 2 series; the limit is 1"):
            asyncio.run(ask)


@pytest.mark.parametrize(("word", "name"), [("signal", "memori"), ("capability", "balanser")])
def test_unknown_names_are_refused(word, name) -> None:
    """The nearest name is suggested."""
    with pytest.raises(NotFound, match="Did you mean"):
        getattr(world(), word)(name)


def test_wrong_options_are_named(monkeypatch) -> None:
    """An option that is missing or unknown is a setting that is wrong."""
    monkeypatch.setenv("RBKIT_TEST_TOKEN", "hunter2")
    with pytest.raises(SettingsError, match="capability balancer .sandbox-balancer. cannot be made: .*token"):
        world().capability("balancer")
    given = {"adapter": "sandbox-balancer", "url": "http://x", "token": "env:RBKIT_TEST_TOKEN", "colour": "red"}
    with pytest.raises(SettingsError, match="colour"):
        world(given).capability("balancer")


def test_tokens_are_references(monkeypatch) -> None:
    """The option `token` is fetched from its source; in clear it is refused, and without the variable too."""
    given = {"adapter": "sandbox-balancer", "url": "http://x", "token": "env:RBKIT_TEST_TOKEN"}
    monkeypatch.setenv("RBKIT_TEST_TOKEN", "hunter2")
    assert world(given).capability("balancer").kind == "LoadBalancer"
    monkeypatch.delenv("RBKIT_TEST_TOKEN")
    with pytest.raises(SecretError):
        world(given).capability("balancer")
    with pytest.raises(ValueError, match="token must be a reference") as caught:
        world(given | {"token": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_an_address_may_be_published_in_a_file(tmp_path) -> None:
    """`file:` in `url` reads the address; without the file the advice is to start the service."""
    source = {"adapter": "prometheus", "url": f"file:{tmp_path / 'metrics.url'}"}
    with pytest.raises(Unreachable, match="No address is published.*rbkit sandbox up"):
        world(source=source).signal("memory")
    (tmp_path / "metrics.url").write_text("http://127.0.0.1:1\n")
    wired = world(source=source)
    wired.signal("memory")
    assert wired._made["source numbers"]._http._url == "http://127.0.0.1:1"
    (tmp_path / "metrics.url").write_bytes(b"\xff")
    with pytest.raises(Unreachable):
        world(source=source).signal("memory")


def test_everything_is_closed_in_reverse() -> None:
    """What was made last is closed first, once."""
    closed: list[str] = []
    wired = Wiring(world().environment, {name: Port(closed, name) for name in ("a", "b", "c")})
    asyncio.run(wired.aclose())
    asyncio.run(wired.aclose())
    assert closed == ["c", "b", "a"]


def test_one_that_does_not_close_does_not_keep_the_others_open() -> None:
    """A failure to close is raised after everything else was closed."""
    closed: list[str] = []
    ports = {"a": Port(closed, "a"), "b": Port(closed, "b", OSError("stuck")), "c": Port(closed, "c")}
    with pytest.raises(OSError, match="stuck"):
        asyncio.run(Wiring(world().environment, ports).aclose())
    assert closed == ["c", "b", "a"]


def test_the_rules_of_approval_are_those_of_the_environment_file() -> None:
    """How many by risk, who, whether oneself, and both durations in seconds; without a word the defaults."""
    given = {"approvals": {"high": 2, "irreversible": 1}, "approvers": ["os:a", "os:b"], "own_approval": True,
             "approval_wait": "30m", "approval_valid": "90s"}  # fmt: skip
    rules = approval_rules(Environment.model_validate({"name": "test", **given}))
    assert rules == ApprovalRules({"high": 2, "irreversible": 1}, ("os:a", "os:b"), own=True, wait_s=1800, valid_s=90)
    assert approval_rules(Environment(name="test")) == ApprovalRules()


@pytest.mark.parametrize("name", ["sandbox", "test", "staging", "production"])
def test_the_environment_files_that_come_along_are_whole(name) -> None:
    """Each adapter is there and takes the options that stand in the file."""
    found = load_environment(name, Path(__file__).parents[1] / "parameters", {"RBKIT_HOME": "/home"})
    for port in (*found.sources.values(), *found.capabilities.values()):
        inspect.signature(adapter(port.adapter)).bind(**port.options)
    assert found.signals and found.capabilities
    assert {signal: explained(found, signal, {"service": "checkout"}) for signal in found.signals}


SOURCES = {
    "loki": ({"url": "http://l", "token": "env:NONE"}, r'{service="a\"} or x"} | json | level="error"'),
    "elasticsearch": (
        {"url": "http://e", "index": "i", "password": "env:NONE"},
        '[{"term": {"service": {"value": "a\\"} or x"}}}, {"term": {"level": {"value": "error"}}}]',
    ),
    "tempo": ({"url": "http://t"}, r'{ resource.service.name = "a\"} or x" && .level = "error" }'),
    "cloudwatch-logs": ({"group": "g", "region": "eu-north-1"}, '{ ($.level = "error") }'),
}


@pytest.mark.parametrize("name", SOURCES)
def test_fields_are_explained_as_they_are_sent(name) -> None:
    """What a person sees is the query itself, with hostile values in it, and no secret is needed for it."""
    options, sent = SOURCES[name]
    signal = {"source": "lines", "where": {"service": "$service", "level": "error"}}
    found = Environment.model_validate(
        {"name": "test", "sources": {"lines": {"adapter": name, **options}}, "signals": {"errors": signal}}
    )
    assert explained(found, "errors", {"service": 'a"} or x'})[0] == sent


def test_without_anything_to_send_it_says_so() -> None:
    """What CloudWatch cannot look for by itself is compared here; the journal's program gets arguments of its own."""
    assert CloudWatchLogs("g", "eu-north-1").sent({"service": "a*"}) == "everything is read, and compared here"
    assert Journald().sent({"SYSLOG_IDENTIFIER": "a b; c"}) == "['SYSLOG_IDENTIFIER=a b; c']"


def test_a_secret_deep_in_the_options_is_fetched_too(monkeypatch) -> None:
    """An inner mapping, such as how a machine is reached, may hold references."""
    monkeypatch.setenv("RBKIT_TEST_TOKEN", "hunter2")
    found = world()._option("ssh", {"password": "env:RBKIT_TEST_TOKEN", "host": "a"})
    assert (found["password"].get_secret_value(), found["host"]) == ("hunter2", "a")
