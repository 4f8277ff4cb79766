"""A connection to RabbitMQ for one look or one move, with rbkit's errors."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from rbkit.adapters.http import Http
from rbkit.adapters.parked import PARKED, digest
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, Refused, SettingsError, Unreachable

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage as Incoming

__all__ = ["LOCK", "Line", "basic"]

LOCK = PARKED + ".lock"
_BYTES = 16_000_000
_AGAIN_S = 0.1
_KEPT = (
    "content_type", "content_encoding", "priority", "correlation_id", "reply_to", "message_id", "timestamp", "type",
    "app_id",
)  # fmt: skip
"""The properties that a message keeps; its expiration is left out, as it would be thrown away while it is parked."""


def basic(url: str, name: str, user: str, password: SecretStr) -> Http:
    """Make a client that says who it is by user and password."""
    words = base64.b64encode(f"{user}:{password.get_secret_value()}".encode()).decode()

    class Basic(Http):
        def _headers(self, more: Mapping[str, str] | None) -> dict[str, str]:
            return {**super()._headers(more), "Authorization": f"Basic {words}"}

    return Basic(url, name)


class Line:
    """Opens a connection for each use of a queue, and lets one user at a time look into it.

    Args:
        url: The address, `amqp://host:port` or `amqps://host:port`.
        user: The user.
        password: The user's password; never shown.
        vhost: The virtual host.
        timeout_s: The longest a use may take, seconds.

    Raises:
        SettingsError: The address is none, or holds a password.
    """

    most_parked = 1_000

    def __init__(self, url: str, user: str, password: SecretStr, vhost: str, timeout_s: float) -> None:
        host, port, ssl = _checked(url)
        self._where = {"host": host, "port": port, "ssl": ssl, "login": user, "virtualhost": vhost}
        self._name, self._password, self._timeout_s = f"RabbitMQ at {host}:{port}", password, timeout_s
        self._channel: Any = None
        self._acts = False

    @asynccontextmanager
    async def held(self, queue: str) -> AsyncIterator["Line"]:
        """Hold a queue against others of rbkit; whatever was taken and not moved is back in its place afterwards.

        Raises:
            Refused: The server said no; nothing was moved.
            Unreachable: It was not reached, or did not answer a look, or somebody else looks for too long.
            MayHaveActed: No answer came to a move.
        """
        line = Line.__new__(Line)
        line.__dict__.update(self.__dict__)
        connection, errors, us = None, _errors(), asyncio.current_task()
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._connected()
                line._channel = await line._locked(connection, queue)
                yield line
        except errors as error:
            raise line._translated(error) from error
        except asyncio.CancelledError as error:  # the library cancels what waits when the connection breaks
            if us is None or us.cancelling():
                raise
            raise line._translated(ConnectionError("the connection broke")) from error
        finally:
            if connection is not None:
                await _closed(connection, errors)

    async def take(self, queue: str, most: int) -> "list[Incoming]":
        """Take messages from the head of a queue without acknowledging them, up to a number of bytes."""
        place, size = await self._channel.get_queue(queue, ensure=False), 0
        found: list[Incoming] = []
        while len(found) < most and size <= _BYTES:
            message = await place.get(no_ack=False, fail=False)
            if message is None:
                break
            found.append(message)
            size += len(message.body)
        return found

    async def put_back(self, queue: str, messages: "Sequence[Incoming]") -> None:
        """Put messages back at their places, and wait until they are there."""
        for message in messages:
            await message.nack(requeue=True)
        await self.count(queue)

    async def count(self, queue: str) -> tuple[int, int]:
        """Say how many messages wait in a queue and how many consumers it has."""
        found = (await self._channel.declare_queue(queue, passive=True)).declaration_result
        return int(found.message_count or 0), int(found.consumer_count or 0)

    async def declare(self, queue: str) -> None:
        """Make a durable queue, unless it is there."""
        await self._channel.declare_queue(queue, durable=True)

    async def move(self, queue: str, message: "Incoming", headers: Mapping[str, Any]) -> None:
        """Publish a message to a queue, wait until the server has it, and only then acknowledge it where it was."""
        from aio_pika import DeliveryMode, Message

        kept: dict[str, Any] = {name: getattr(message, name) for name in _KEPT}
        kept["message_id"] = message.message_id or digest(message.body)  # else the library makes one up
        copy = Message(message.body, headers=dict(headers), delivery_mode=DeliveryMode.PERSISTENT, **kept)
        self._acts = True
        await self._channel.default_exchange.publish(copy, queue, mandatory=True)
        await message.ack()

    async def _connected(self) -> Any:
        from aio_pika import connect

        where: dict[str, Any] = {**self._where, "password": self._password.get_secret_value()}
        return await connect(**where, timeout=self._timeout_s)

    async def _locked(self, connection: Any, queue: str) -> Any:
        """Declare a queue that only one connection can have; it goes with the connection."""
        from aiormq.exceptions import ChannelLockedResource

        while True:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            try:
                await channel.declare_queue(queue + LOCK, exclusive=True)
            except ChannelLockedResource:
                await asyncio.sleep(_AGAIN_S)
            else:
                return channel

    def _translated(self, error: Exception) -> AdapterError:
        """Say what an error of the client library means; none of them gets out."""
        from aiormq import exceptions as said

        words = (str(error).splitlines() or [""])[0][:300].rstrip(".") or type(error).__name__
        denied = said.AuthenticationError, said.ProbableAuthenticationError, said.ChannelAccessRefused
        if isinstance(error, (*denied, said.ConnectionNotAllowed)):
            return Refused(f"{self._name} refuses: {words}.", todo="Check the user, the password and the permissions.")
        if isinstance(error, said.DeliveryError):
            return Refused(f"{self._name} did not take the message, so that it stays where it is: {words}.")
        if self._acts:
            return MayHaveActed(f"{self._name} gave no usable answer: {words}.")
        if isinstance(error, said.ChannelPreconditionFailed):
            return Refused(f"{self._name} says no: {words}.")
        kind = BadAnswer if isinstance(error, said.AMQPChannelError) else Unreachable
        return kind(f"{self._name} cannot be used: {words}.")


async def _closed(connection: Any, errors: tuple[type[Exception], ...]) -> None:
    """Close a connection; one that does not answer is left to the system."""
    try:
        async with asyncio.timeout(2):
            await connection.close()
    except errors:
        return


def _errors() -> tuple[type[Exception], ...]:
    """List what the client libraries raise."""
    try:
        from aiormq.exceptions import AMQPError
        from pamqp.exceptions import PAMQPException
    except ImportError as error:
        raise SettingsError("RabbitMQ needs an extra.", todo="pip install 'rbkit[rabbitmq]'") from error
    return AMQPError, PAMQPException, OSError, EOFError, ValueError, RuntimeError


def _checked(url: str) -> tuple[str, int, bool]:
    """Take an address apart."""
    try:
        parsed = urlsplit(url)
        port = parsed.port
    except ValueError as error:
        raise SettingsError("The address for AMQP is none; write amqp://host:port.") from error
    if parsed.scheme not in {"amqp", "amqps"} or not parsed.hostname or "@" in parsed.netloc:
        raise SettingsError("Write the address for AMQP as amqp://host:port, the user and the password apart.")
    ssl = parsed.scheme == "amqps"
    return parsed.hostname, port or (5671 if ssl else 5672), ssl
