"""The memory-leak runbook, byte for byte the same, against real servers: Prometheus, HAProxy and supervisord."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from labs import REPO, Done, Lab, killed, until
from servers import answers, binary, free_port, leaky, running
from servers.haproxy import Balancer, haproxy
from servers.supervisord import Supervisor, supervisord

pytestmark = pytest.mark.timeout(240)
NOTEBOOK = "notebooks/memory_leak.ipynb"
NAMES = ["checkout-1", "checkout-2", "checkout-3"]
LIMIT_MB, LEAK_MB = 100, 200
QUERY = "process_resident_memory_bytes"


@dataclass(frozen=True)
class World:
    """The real servers, and a home for the command line.

    Args:
        lab: The command line, and its home.
        folder: Where the programs of the service are.
        ports: The port of each instance.
        balancer: HAProxy.
        supervisor: supervisord.
        prometheus: The address of Prometheus.
    """

    lab: Lab
    folder: Path
    ports: dict[str, int]
    balancer: Balancer
    supervisor: Supervisor
    prometheus: str

    def run(self) -> Done:
        """Run the notebook."""
        limit = ("-p", f"memory_limit_mb={LIMIT_MB}")
        return self.lab.rbkit("run", NOTEBOOK, "-e", "test", *limit)

    def state(self) -> dict[str, tuple[Any, Any]]:
        """Pid and balancer state of each instance, as the servers' own tools show them."""
        rows = [line.split() for line in self.balancer.say("show servers state be_checkout").splitlines()[2:] if line]
        admin = {row[3]: "drain" if int(row[6]) & 8 else "ready" for row in rows}
        return {name: (self.supervisor.info(f"checkout:{name}")["pid"], admin[name]) for name in NAMES}

    def leak(self) -> None:
        """Let checkout-2 leak, and wait until Prometheus has seen it often enough."""
        with urlopen(f"http://127.0.0.1:{self.ports['checkout-2']}/leak/{LEAK_MB}", timeout=10):
            until(lambda: self.seen(f'count_over_time(({QUERY}{{instance="checkout-2"}} > {LEAK_MB}e6)[4s:1s]) >= 3'))

    def seen(self, query: str) -> list[Any]:
        """Ask Prometheus."""
        with urlopen(f"{self.prometheus}/api/v1/query?query={quote(query)}", timeout=10) as answer:  # noqa: S310
            return list(json.load(answer)["data"]["result"])

    def program(self, name: str) -> Path:
        """The program of an instance."""
        return self.folder / name

    def heal(self) -> None:
        """Make the world well again: every instance ready, running its program, and with fresh memory."""
        for name in NAMES:
            self.balancer.say(f"set server be_checkout/{name} state ready")
            _write(self.program(name), self.ports[name])
        if self.supervisor.info("checkout:checkout-2")["statename"] == "RUNNING":
            self.supervisor.call("supervisor.stopProcess", "checkout:checkout-2")
        self.supervisor.call("supervisor.startProcess", "checkout:checkout-2")
        until(lambda: all(answers(port) for port in self.ports.values()))


def _write(path: Path, port: int) -> None:
    """Write an instance's program."""
    path.write_text(f"#!{sys.executable}\nimport runpy, sys\nsys.argv = ['', '{port}']\n"
                    f"runpy.run_path({leaky.__file__!r}, run_name='__main__')\n")  # fmt: skip
    path.chmod(0o755)


def _scraping(folder: Path, ports: dict[str, int], port: int) -> list[str | Path]:
    targets = [
        {"targets": [f"127.0.0.1:{ports[name]}"], "labels": {"instance": name, "service": "checkout"}} for name in NAMES
    ]
    jobs = [{"job_name": "services", "static_configs": targets}]
    settings = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(settings))
    return [
        binary("prometheus", "prometheus"), f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The servers, for all tests of the module."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("service", "haproxy", "supervisord", "prom", "home")}
    ports, port = {name: free_port() for name in NAMES}, free_port()
    for name, one in ports.items():
        _write(folders["service"] / name, one)
    backends = {"be_checkout": {name: f"127.0.0.1:{ports[name]}" for name in NAMES}}
    programs = {"checkout": {name: str(folders["service"] / name) for name in NAMES}}
    with ExitStack() as stack:
        supervisor = stack.enter_context(supervisord(folders["supervisord"], programs, more="startsecs = 1"))
        until(lambda: all(answers(one) for one in ports.values()))
        balancer = stack.enter_context(haproxy(folders["haproxy"], backends, server="check inter 200ms fall 2 rise 1"))
        command = _scraping(folders["prom"], ports, port)
        stack.enter_context(running(command, lambda: answers(port), folders["prom"]))
        address = f"http://127.0.0.1:{port}"
        lab = Lab(folders["home"]).set(
            test_prometheus=address, test_haproxy=balancer.socket, test_supervisord=supervisor.url
        )
        yield World(lab, folders["service"], ports, balancer, supervisor, address)


@pytest.fixture
def world(servers: World) -> Iterator[World]:
    """The servers, all well, and Prometheus has seen it for long enough."""
    servers.heal()
    well = f"max_over_time({QUERY}[7s]) < {LIMIT_MB}e6 and count_over_time({QUERY}[7s]) >= 6"
    until(lambda: len(servers.seen(well)) == len(NAMES))
    yield servers
    for process in servers.lab.started:
        with process:
            killed(process)
    servers.lab.started.clear()


def test_a_leaking_instance_is_cured(world: World) -> None:
    """Out of HAProxy, restarted by supervisord, back in: exit 0, a new process, the same notebook as before."""
    before, book = world.state(), (REPO / NOTEBOOK).read_bytes()
    world.leak()
    done = world.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert world.lab.journal().state.outcome == "resolved"
    after = world.state()
    assert after["checkout-2"][0] not in {0, before["checkout-2"][0]} and after["checkout-2"][1] == "ready"
    assert {name: after[name] for name in ("checkout-1", "checkout-3")} == {
        name: before[name] for name in ("checkout-1", "checkout-3")
    }
    assert (REPO / NOTEBOOK).read_bytes() == book


def test_a_service_that_is_well_is_left_alone(world: World) -> None:
    """Nothing leaks: not applicable, exit 0, and no server was touched."""
    before = world.state()
    done = world.run()
    assert done.returncode == 0, done.stdout + done.stderr
    state = world.lab.journal().state
    assert (state.outcome, dict(state.changes)) == ("not_applicable", {})
    assert world.state() == before


def test_a_restart_that_supervisord_refuses_is_rolled_back(world: World) -> None:
    """The program is gone: nothing is stopped, the instance is ready in HAProxy again, rolled back, exit 3."""
    world.leak()
    before = world.state()
    world.program("checkout-2").unlink()
    done = world.run()
    assert done.returncode == 3, done.stdout + done.stderr
    assert world.lab.journal().state.outcome == "rolled_back"
    assert world.state() == before


def test_a_restart_that_never_comes_back_is_said_and_the_drain_is_undone(world: World) -> None:
    """The new process dies: HAProxy has its member back, and the run does not claim more than it knows."""
    world.leak()
    world.program("checkout-2").write_text(f"#!{sys.executable}\nraise SystemExit(3)\n")
    done = world.run()
    assert done.returncode == 6, done.stdout + done.stderr
    state = world.lab.journal().state
    assert state.outcome == "unknown"
    assert {str(change.call): change.undone for change in state.changes.values() if not change.undoes} == {
        "balancer.drain(checkout-2)": True,
        "services.restart(checkout-2)": False,
    }
    assert world.state()["checkout-2"] == (0, "ready")
