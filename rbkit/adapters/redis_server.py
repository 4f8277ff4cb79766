"""A Redis server: one connection for each call, with rbkit's errors and its fencing tokens."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from rbkit.adapters.redis_scripts import FENCE
from rbkit.adapters.told import told
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, Refused, SettingsError, Unreachable

__all__ = ["OWN", "RedisServer"]

OWN = "rbkit:"
"""What the names of rbkit's own keys begin with."""
_THEIRS = "Leave the target to them; `rbkit list` shows the runs."
_T = TypeVar("_T")


class RedisServer:
    """Talks to one Redis server; a cluster is refused by the server itself.

    Args:
        url: Its address without a password, for example `rediss://rbkit@cache-1:6379/0`.
        password: The user's password; never shown.
        timeout_s: The longest a call may take, seconds.

    Raises:
        SettingsError: The address is none of Redis, or holds a password.
    """

    def __init__(self, url: str, password: SecretStr | None, timeout_s: float) -> None:
        self._url, self._password, self._timeout_s = url, password, timeout_s
        self.name = _checked(url)

    async def ask(self, work: Callable[[Any], Awaitable[_T]], *, acts: bool = False) -> _T:
        """Use a connection.

        Args:
            work: What is asked.
            acts: Whether it changes anything.

        Raises:
            Refused: The server said no; it did not act.
            Unreachable: It was not reached, or did not answer a read.
            BadAnswer: It answered a read with an error.
            MayHaveActed: No answer came to a change.
        """
        client, errors, sent = self._client(), _errors(), False
        try:
            async with asyncio.timeout(self._timeout_s):
                await client.ping()
                sent = acts
                return await work(client)
        except errors as error:
            raise self._translated(error, acts, sent) from error
        finally:
            await client.aclose()

    async def run(
        self, script: str, keys: Sequence[str | bytes], arguments: Sequence[Any], *, acts: bool = False
    ) -> Any:
        """Run a script in the server; a fencing token that is too low is Refused."""
        answer = await self.ask(lambda client: client.eval(script, len(keys), *keys, *arguments), acts=acts)
        if isinstance(answer, list) and answer and answer[0] == b"stale":
            raise self.stale(int(answer[1]), arguments[0])
        return answer

    async def fence(self, target: str, token: int) -> None:
        """Let the server refuse every lower token for a target from now on."""
        await self.run(FENCE, [self.fence_key(target), self.done_key("")], [token])

    async def ping(self, reads: Sequence[Sequence[str]], writes: Sequence[Sequence[str]]) -> str:
        """Say on one line what the server is, as whom we are there, and which commands its rules refuse us.

        Args:
            reads: Commands without which nothing works.
            writes: Commands for changes.

        Raises:
            Refused: One of `reads` is refused, or the login is.
            Unreachable: The server was not reached.
        """
        info = await self.ask(lambda client: client.info("server"))
        who = await self._hidden(lambda client: client.acl_whoami())
        if who is None:
            return f"Redis {told(info.get('redis_version'))}; reads; it does not tell as whom, and what we may do"
        lacking = [[line for line in lines if await self._denied(who, line)] for lines in (reads, writes)]
        if lacking[0]:
            raise Refused(f"{self.name} refuses {told(who)}: {_lines(lacking[0])}.", todo="Widen the user's ACL rules.")
        may = f"reads, but may not: {_lines(lacking[1])}" if lacking[1] else "reads and writes, as far as it tells"
        return f"Redis {told(info.get('redis_version'))}, as {told(who)}; {may}"

    async def _denied(self, who: Any, command: Sequence[str]) -> bool:
        """Whether the server says that it would refuse a command; it runs nothing, and knows this since 7.0."""
        said = await self._hidden(lambda client: client.acl_dryrun(who, *command))
        return said is not None and bytes(said) != b"OK"

    async def _hidden(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Ask what not everybody may ask, and not every version knows; None then."""
        try:
            return await self.ask(work)
        except (Refused, BadAnswer):
            return None

    def stale(self, highest: int, token: int) -> Refused:
        """Say that somebody else has the target."""
        words = f"{self.name} says that somebody with a newer lease acts on the target"
        return Refused(f"{words}: its token is {highest}, not {token}.", todo=_THEIRS)

    def fence_key(self, target: str) -> str:
        """Name the key that holds a target's highest token."""
        return f"{OWN}fence:{target}"

    def done_key(self, key: str) -> str:
        """Name the key that remembers an idempotency key for a week."""
        return f"{OWN}done:{hashlib.sha256(key.encode()).hexdigest()[:32]}"

    def _client(self) -> Any:
        try:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise SettingsError("Redis needs an extra.", todo="pip install 'rbkit[redis]'") from error
        more: dict[str, Any] = {"password": self._password.get_secret_value()} if self._password else {}
        return Redis.from_url(
            self._url, socket_timeout=self._timeout_s, socket_connect_timeout=self._timeout_s, protocol=2,
            retry=Retry(NoBackoff(), 0), single_connection_client=True, **more,
        )  # fmt: skip

    def _translated(self, error: Exception, acts: bool, sent: bool) -> AdapterError:
        """Say what an error of the client library means; none of them gets out."""
        from redis import exceptions as said

        words = (str(error).splitlines() or [""])[0][:300].rstrip(".") or type(error).__name__
        denied = said.AuthenticationError, said.AuthorizationError, said.NoPermissionError
        if isinstance(error, denied):
            return Refused(f"{self.name} refuses: {words}.", todo="Check the user, the password and its ACL rules.")
        if isinstance(error, said.ResponseError):
            kind = Refused if acts else BadAnswer
            return kind(f"{self.name} answered with an error: {words}.")
        if sent:
            return MayHaveActed(f"{self.name} gave no usable answer: {words}.")
        return Unreachable(f"{self.name} cannot be reached: {words}.")


def _errors() -> tuple[type[Exception], ...]:
    """List what the client library raises; a broken answer ends in ValueError or EOFError."""
    from redis.exceptions import RedisError

    return RedisError, OSError, EOFError, ValueError


def _lines(commands: Sequence[Sequence[str]]) -> str:
    return ", ".join(" ".join(command[:2]) if command[0] == "config" else command[0] for command in commands)


def _checked(url: str) -> str:
    """Return what the server is called in errors."""
    try:
        parsed = urlsplit(url)
        port = parsed.port or 6379
    except ValueError as error:
        raise SettingsError("The address of Redis is none; write redis://host:port/0.") from error
    if parsed.scheme not in {"redis", "rediss"} or not parsed.hostname or parsed.password or "password=" in url:
        raise SettingsError("Write Redis's address as redis://user@host:port/0, the password apart.")
    return f"Redis at {parsed.hostname}:{port}"
