"""`server.py scheduler`: runs the scheduler of a cluster until SIGTERM or SIGINT."""

import asyncio
from collections.abc import Sequence

from cli.cluster import parse, parser_of, stop_signal
from works.queue.cluster_address import ClusterAddress


def main(arguments: Sequence[str]) -> int:
    """Runs the scheduler. Returns the exit status.

    Raises:
        ValueError: a setting or the address is refused.
        OSError: the scheduler cannot listen on the address.
    """
    parser = parser_of(
        "scheduler", "Runs the scheduler of a cluster, which distributes the slices of servers to workers."
    )
    parser.add_argument(
        "--dashboard",
        default="",
        metavar="HOST:PORT",
        help="Serve Dask's web pages at this address, without authorization.",
    )
    _, address, own = parse("scheduler", parser, arguments, "dashboard")
    asyncio.run(_schedule(address, own["listen"], own["dashboard"]))
    return 0


async def _schedule(address: ClusterAddress, listen: str, dashboard: str) -> None:
    """``listen``: the address to bind; empty binds the host of the URL. ``dashboard``: HOST:PORT of Dask's web pages,
    or empty.
    """
    from works.queue.dask import run_scheduler

    await run_scheduler(address, listen, dashboard, stop_signal())
