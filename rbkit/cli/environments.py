"""`rbkit env …` and `rbkit breaker …`: whether everything is there, what would be asked, and what is left alone."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rbkit import events as ev
from rbkit.cli import output
from rbkit.cli.app import app
from rbkit.cli.complete import environments
from rbkit.clock import SystemClock
from rbkit.endpoints import BREAKER, load
from rbkit.environment import Environment
from rbkit.errors import NotFound, ParameterError
from rbkit.journal import AUDIT, Journal
from rbkit.pinging import Ping, ping
from rbkit.stores.sqlite import SqliteStore
from rbkit.values import human_bytes, nearest

__all__ = ["breakers", "check", "explain"]

env = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What an environment file names.")
breaker = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Which endpoints are left alone, and until when."
)
app.add_typer(env, name="env")
app.add_typer(breaker, name="breaker")
_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
_Environment = Annotated[str, typer.Argument(help="An environment's name.", autocompletion=environments)]
_Why = Annotated[str, typer.Option("--reason", "-m", help="Why, for the audit trail.")]


@env.command("list")
def list_(context: typer.Context) -> None:
    """List the environments."""
    folder: Path = context.obj.settings.folder("parameters")
    for path in sorted(folder.glob("[!_]*.yaml")):
        output.say(path.stem)


@env.command()
def check(context: typer.Context, environment: _Environment, as_json: _Json = False) -> None:
    """Ping everything: what is reachable, with what rights, in how many ms. Exit code 1 when something is not."""
    found = asyncio.run(_pinged(context.obj.settings.environment(environment)))
    if as_json:
        output.data([asdict(one) for one in found])
    else:
        _show_pings(found)
    if not all(one.reached for one in found):
        raise typer.Exit(1)


async def _pinged(environment: Environment) -> list[Ping]:
    from rbkit.wiring import Wiring

    world = Wiring(environment)
    try:
        return await ping(world, SystemClock())
    finally:
        await world.aclose()


def _show_pings(found: list[Ping]) -> None:
    for one in found:
        output.line(f"{'✓' if one.reached else '✗'} {one.endpoint} ({one.adapter}), {one.ms:.0f} ms: {one.said}")
        if one.todo:
            output.say(f"    → {one.todo}")
    missing = sum(not one.reached for one in found)
    output.say(f"{len(found) - missing} of {len(found)} reached")


@env.command()
def explain(
    context: typer.Context,
    environment: _Environment,
    signal: Annotated[str, typer.Argument(help="A signal of it.")],
    given: Annotated[list[str] | None, typer.Option("--set", "-p", help="A value for its query: name=value.")] = None,
    last: Annotated[str, typer.Option(help="How far back, for example 15m.")] = "15m",
    as_json: _Json = False,
) -> None:
    """Show what would be asked of whom for a signal: the rendered query, the window, the limits. Nothing is asked."""
    facts = _explained(context.obj.settings.environment(environment), signal, _values(given or []), last)
    if as_json:
        output.data(facts)
    else:
        output.table([(name, str(value)) for name, value in facts.items() if value not in ("", {}, None)])


def _explained(environment: Environment, name: str, values: dict[str, str], last: str) -> dict[str, Any]:
    from rbkit.observing import window_of
    from rbkit.wiring import explained

    spec = environment.signal(name)
    source = environment.source(spec.source)
    query, language = explained(environment, name, values)
    window, limits = window_of(spec, last, SystemClock().now()), source.limits
    return {
        "signal": name, "help": spec.help, "unit": spec.unit, "source": spec.source, "adapter": source.adapter,
        "address": source.options.get("url", ""), "language": language, "query": query,
        "from": window.start.isoformat(timespec="seconds"), "to": window.end.isoformat(timespec="seconds"),
        "step": f"{window.step_s:g}s", "at most": f"{spec.max_series} series, {spec.max_rows} rows, "
        f"{human_bytes(limits.bytes)} and {limits.timeout} each attempt, {limits.concurrency} at once",
        "otherwise": spec.otherwise, "essential": "yes" if spec.essential else "no, a run goes on without it",
    }  # fmt: skip


def _values(given: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    wrong = next((name for name, equals, _ in pairs if not equals or not name), None)
    if wrong is not None:
        raise ParameterError(f"{wrong!r} is no name=value.", field=wrong)
    return {name: value for name, _, value in pairs}


@breaker.command("list")
def breakers(context: typer.Context, as_json: _Json = False) -> None:
    """Show the endpoints that have failed lately, or that somebody has set, and when they may be called again."""
    store, now = SqliteStore(context.obj.settings.home), SystemClock().now()
    known = [name.removeprefix(BREAKER) for name in store.notes(BREAKER)]
    found = {name: load(store, name)[1] for name in known}
    if as_json:
        output.data({name: one.model_dump(mode="json") | {"stands": one.word(now)} for name, one in found.items()})
        return
    rows = [(name, one.word(now), one.refusal(now) or one.why) for name, one in found.items()]
    output.table([row for row in rows if row[1] != "closed" or row[2]] or [("○", "no endpoint is left alone")])


@breaker.command("open")
def open_(context: typer.Context, name: str, reason: _Why) -> None:
    """Let nobody call an endpoint until it is set to `close` or `auto`, whatever works."""
    _set(context, name, "open", reason)


@breaker.command()
def close(context: typer.Context, name: str, reason: _Why) -> None:
    """Let everybody call an endpoint, whatever fails, until it is set to `open` or `auto`."""
    _set(context, name, "closed", reason)


@breaker.command()
def auto(context: typer.Context, name: str, reason: _Why = "") -> None:
    """Let an endpoint's breaker decide for itself again, from closed on."""
    _set(context, name, "", reason)


def _set(context: typer.Context, name: str, word: Literal["", "open", "closed"], reason: str) -> None:
    """Set a breaker, and write down who did."""
    settings = context.obj.settings
    _check_endpoint(settings, name)
    store = SqliteStore(settings.home)
    audit = Journal(store, AUDIT, "cli", actor=settings.actor)
    audit.append(ev.BreakerSet(endpoint=name, to=word or "auto", reason=reason))
    while True:
        version, found = load(store, name)
        if store.note(BREAKER + name, version, found.set_to(word, audit.actor, reason).model_dump_json()):
            break
    output.line(f"✓ {name}: {word or 'decides for itself, from closed on'}")


def _check_endpoint(settings: Any, name: str) -> None:
    """Refuse a slip: a breaker that nobody looks at would be set."""
    environment, _, endpoint = name.partition("/")
    found = settings.environment(environment)
    known = [*(f"source {one}" for one in found.sources), *(f"capability {one}" for one in found.capabilities)]
    if endpoint not in known:
        raise NotFound(
            f"{environment} has no endpoint {endpoint!r}.{nearest(endpoint, known)}",
            todo=f"Name one as ENVIRONMENT/…: {', '.join(known)}.",
        )
