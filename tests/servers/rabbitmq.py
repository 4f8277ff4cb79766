"""A real RabbitMQ on loopback, with its management API."""

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers import answers, binary, free_port, running

__all__ = ["Rabbit", "rabbitmq"]


@dataclass(frozen=True)
class Rabbit:
    """Where a RabbitMQ is; the user `guest` with the password `guest` may do everything.

    Args:
        api: The address of its management API.
        amqp: Its address for AMQP, without user and password.
    """

    api: str
    amqp: str


@contextmanager
def rabbitmq(folder: Path) -> Iterator[Rabbit]:
    """Run a RabbitMQ of one's own, with a name server of its own, until the block is left.

    Args:
        folder: Where its data and its logs lie.

    Yields:
        Where it is.
    """
    server = binary("rabbitmq-server", "rabbitmq-server", [Path("/usr/lib/rabbitmq/bin")])
    script = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the wrapper in the path would become another user
    names, port, api, far = free_port(), free_port(), free_port(), free_port()
    (folder / "plugins").write_text("[rabbitmq_management].")
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {api}\n"
        "collect_statistics_interval = 1000\nlog.console = true\nlog.file = false\n"
    )
    epmd = ("epmd", "-address", "127.0.0.1", "-port", str(names))
    lists = folder / "names"
    lists.mkdir()
    with running(epmd, lambda: answers(names), lists):
        env = _variables(folder, names, far)
        command = [script if script.exists() else server]
        with running(command, lambda: _ready(api, port), folder, env=env, within_s=90):
            yield Rabbit(f"http://127.0.0.1:{api}", f"amqp://127.0.0.1:{port}")


def _variables(folder: Path, names: int, far: int) -> dict[str, str]:
    return {
        "HOME": str(folder), "RABBITMQ_NODENAME": f"rbkit{names}@{socket.gethostname().partition('.')[0]}",
        "RABBITMQ_MNESIA_BASE": str(folder / "data"), "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"), "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_DIST_PORT": str(far), "ERL_EPMD_PORT": str(names), "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null", "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
    }  # fmt: skip


def _ready(api: int, port: int) -> bool:
    """Whether the API asks for a password, and AMQP can be spoken."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{api}/api/overview", timeout=2).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 401 and answers(port)
    except OSError:
        return False
    return True
