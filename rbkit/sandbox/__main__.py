"""Starts one of the sandbox's processes: `python -m rbkit.sandbox ROLE --home FOLDER --port PORT …`."""

import argparse
import asyncio
import os
from collections.abc import Awaitable
from pathlib import Path

from rbkit.sandbox.layout import INSTANCES, VERSIONS, Layout
from rbkit.sandbox.processes import die_with_parent


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rbkit.sandbox", description="One process of the sandbox.")
    parser.add_argument("role", choices=["supervisor", "balancer", "metrics", "load", *INSTANCES])
    parser.add_argument("--home", type=Path, required=True, help="the sandbox's folder")
    parser.add_argument("--port", type=int, required=True, help="the base port")
    parser.add_argument("--parent", type=int, help="process id to die with")
    parser.add_argument("--version", choices=VERSIONS, default=VERSIONS[0])
    parser.add_argument("--fault", action="append", default=[], help="a fault to have from the start")
    return parser.parse_args()


def main() -> None:
    """Start the process that the command line names; each loads only what it needs."""
    given = _arguments()
    os.umask(0o077)
    if given.parent is not None and given.role != "supervisor":
        die_with_parent(given.parent)
    from rbkit.sandbox import web

    web.run(lambda stop: _serve(given, stop))


def _serve(given: argparse.Namespace, stop: asyncio.Event) -> Awaitable[None]:
    layout = Layout(given.home, given.port)
    match given.role:
        case "supervisor":
            from rbkit.sandbox.supervisor_api import serve_supervisor

            return serve_supervisor(layout, stop)
        case "balancer":
            from rbkit.sandbox.balancer_web import serve_balancer

            return serve_balancer(layout, stop)
        case "metrics":
            from rbkit.sandbox.metrics import serve_metrics

            return serve_metrics(layout, stop)
        case "load":
            from rbkit.sandbox.load import serve_load

            return serve_load(layout, stop)
    from rbkit.sandbox.instance import serve_instance

    return serve_instance(layout, given.role, given.version, given.fault, stop)


if __name__ == "__main__":
    main()
