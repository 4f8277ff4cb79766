"""Redis as a cache.

Source: https://redis.io/docs/latest/commands/info/ and https://redis.io/docs/latest/commands/scan/
"""

import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

from pydantic import SecretStr

from rbkit.adapters.parked import sample
from rbkit.adapters.redis_scripts import EVICT, MARK
from rbkit.adapters.redis_server import OWN, RedisServer
from rbkit.capability import State, read
from rbkit.datakinds import Cache, CacheFacts
from rbkit.errors import BadAnswer, NotFound, Refused, SettingsError
from rbkit.facts import Call

__all__ = ["RedisCache"]

_READS = (("info",), ("dbsize",), ("scan", "0"), ("config", "get", "maxmemory"), ("get", f"{OWN}ping"))
_WRITES = (
    ("eval", "return 1", "0"), ("config", "set", "maxmemory", "0"), ("unlink", f"{OWN}ping"),
    ("set", f"{OWN}ping", "1"),
)  # fmt: skip
_STEP = 1_000
_MOST = 100_000
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_AMOUNT = re.compile(r"(\d+)([kmg]?b?)", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}


class RedisCache(Cache):
    """A Redis server used as a cache. It remembers fencing tokens as long as it keeps the keys `rbkit:…`.

    Those keys are never counted and never evicted by rbkit; a server that loses its memory, or that may evict every key
    (`allkeys-…`), may forget them, and with them who was shut out. A server that is full takes no transactions: there
    the token is checked just before a setting is changed, not in the same act.

    Args:
        url: Its address without a password, for example `redis://rbkit@cache-1:6379/0`.
        password: The user's password; never shown.
        settings: The settings that may be read and changed.
        max_keys: The most keys that may be evicted at once, 100,000 at most.
        max_scan: A pattern is only looked for where there are no more keys than this.
        sample: How many keys `largest` looks at.
        timeout_s: The longest a call may take, seconds.

    Raises:
        SettingsError: The address, a setting's name or a limit is wrong.
    """

    def __init__(
        self, url: str, password: SecretStr | None = None, settings: Sequence[str] = ("maxmemory", "maxmemory-policy"),
        max_keys: int = 1_000, max_scan: int = 1_000_000, sample: int = 10_000, timeout_s: float = 10.0,
    ) -> None:  # fmt: skip
        self._redis = RedisServer(url, password, timeout_s)
        self._settings, self._max_keys, self._max_scan, self._sample = tuple(settings), max_keys, max_scan, sample
        wrong = [name for name in self._settings if not _NAME.fullmatch(name)]
        if wrong or not 0 <= max_keys <= _MOST:
            raise SettingsError(f"A Redis cache takes names of settings and 0 to {_MOST} keys: {wrong or max_keys}.")

    @read
    async def facts(self) -> CacheFacts:
        """Say how full the cache is."""
        info, keys = await self._redis.ask(_described)
        try:
            return CacheFacts(
                used=info["used_memory"], most=info["maxmemory"], policy=info["maxmemory_policy"], keys=keys,
                evicted=info["evicted_keys"], hits=info["keyspace_hits"], misses=info["keyspace_misses"],
            )  # fmt: skip
        except (KeyError, ValueError) as error:
            raise BadAnswer(f"{self._redis.name} described itself in an unknown form.") from error

    @read
    async def largest(self, pattern: str = "*", most: int = 20) -> dict[str, int]:
        """List the largest keys among a sample, with their bytes; the keyspace is never read as a whole."""
        sizes = await self._redis.ask(lambda client: self._sizes(client, pattern))
        found = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[: max(0, min(most, _STEP))]
        return {sample(key): size for key, size in found}

    async def state(self, target: str) -> State:
        """Read a setting, or count the keys that match."""
        if target in self._settings:
            return {"value": await self._redis.ask(lambda client: self._setting(client, target))}
        keys, count = await self._redis.ask(lambda client: self._counted(client, target))
        return {"keys": len(keys), "most": self._max_keys, "evictions": count}

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Give a setting a value, or evict keys; both together with the check of the token."""
        if (call.action == "configure") != (call.target in self._settings):
            raise Refused(f"{call.action} cannot be done to {call.target}; allowed: {', '.join(self._settings)}.")
        marks = [self._redis.fence_key(call.target), self._redis.done_key(key)]
        if call.action == "evict":
            await self._evict(call.target, marks, token)
            return
        value = _canonical(call.target, str(call.arguments["value"]))
        await self._redis.ask(lambda client: self._setting(client, call.target))
        await self._redis.ask(lambda client: self._configure(client, call.target, value, marks, token), acts=True)

    async def ping(self) -> str:
        """Ask what the server is, as whom we are there, and what its rules let us do."""
        return await self._redis.ping(_READS, _WRITES)

    async def fence(self, target: str, token: int) -> None:
        """Let the server refuse every lower token for a target from now on."""
        await self._redis.fence(target, token)

    async def _evict(self, pattern: str, marks: list[str], token: int) -> None:
        keys, _ = await self._redis.ask(lambda client: self._counted(client, pattern))
        if len(keys) > self._max_keys:
            raise Refused(f"More than {self._max_keys} keys match {pattern}; none was removed.")
        await self._redis.run(EVICT, [*marks, _count_key(pattern), *keys], [token], acts=True)

    async def _configure(self, client: Any, name: str, value: str, marks: list[str], token: int) -> None:
        """Set it unless the fence moves meanwhile; scripts may not change settings, and transactions may."""
        from redis.exceptions import OutOfMemoryError, WatchError

        async with client.pipeline(transaction=True) as pipe:
            await pipe.watch(*marks)
            highest = int(await pipe.get(marks[0]) or 0)
            if token < highest:
                raise self._redis.stale(highest, token)
            if await pipe.exists(marks[1]):
                return
            pipe.multi()
            pipe.config_set(name, value)
            try:
                await pipe.execute()
            except WatchError as error:
                raise Refused(f"Somebody else acts on {name} at the same moment; it was not changed.") from error
            except OutOfMemoryError:  # a full server takes no transaction, and just this may help it
                await client.config_set(name, value)
        await client.eval(MARK, 2, *marks, token)

    async def _setting(self, client: Any, name: str) -> str:
        found = await client.config_get(name)
        if name not in found:
            raise NotFound(f"{self._redis.name} has no setting {name!r}.", todo="Correct the environment file.")
        return str(found[name])

    async def _counted(self, client: Any, pattern: str) -> tuple[list[bytes], int]:
        """Find the keys that match, up to one more than may be evicted, and how often that was done."""
        if await client.dbsize() > self._max_scan:
            raise Refused(f"{self._redis.name} has more than {self._max_scan} keys: they are not searched for some.")
        found: set[bytes] = set()
        async for key in client.scan_iter(match=pattern, count=_STEP):
            if not key.startswith(OWN.encode()):
                found.add(key)
            if len(found) > self._max_keys:
                break
        return sorted(found), int(await client.get(_count_key(pattern)) or 0)

    async def _sizes(self, client: Any, pattern: str) -> dict[bytes, int]:
        sizes: dict[bytes, int] = {}
        cursor, looked = 0, 0
        while looked < self._sample:
            cursor, keys = await client.scan(cursor, match=pattern, count=min(_STEP, self._sample - looked))
            looked += _STEP
            async with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.memory_usage(key)
                found = zip(keys, await pipe.execute(), strict=True)
            sizes |= {key: int(size) for key, size in found if size is not None}
            if not cursor:
                break
        return dict(islice(sizes.items(), self._sample))


async def _described(client: Any) -> tuple[dict[str, Any], int]:
    return await client.info(), await client.dbsize()


def _count_key(pattern: str) -> str:
    return f"{OWN}evictions:{pattern}"


def _canonical(name: str, value: str) -> str:
    """Refuse a value that the server would write otherwise: nobody could see then that it holds."""
    amount = _AMOUNT.fullmatch(value)
    wanted = str(int(amount[1]) * _UNITS[amount[2].lower()]) if amount else value.lower()
    if wanted != value:
        raise Refused(f"{name} is written as {wanted!r} by the server, not as {value!r}.", todo=f"Give {wanted!r}.")
    return value
