"""`server.py scheduler`: this process as a cluster's scheduler, until SIGTERM or SIGINT."""

import asyncio
from collections.abc import Sequence

from cli.cluster import parse, parser_of, stop_signal
from works.queue.cluster_address import ClusterAddress


def main(arguments: Sequence[str]) -> int:
    """Raises ValueError for an address that is refused, OSError for one that cannot be had."""
    parser = parser_of("scheduler", "Hands servers' slices to workers.")
    parser.add_argument("--dashboard", default="", metavar="HOST:PORT", help="show Dask's pages to all")
    _, address, own = parse("scheduler", parser, arguments, "dashboard")
    asyncio.run(_schedule(address, own["listen"], own["dashboard"]))
    return 0


async def _schedule(address: ClusterAddress, listen: str, dashboard: str) -> None:
    """``listen`` is the address to bind, "" the host of the URL; ``dashboard`` where Dask shows its pages, if any."""
    from works.queue.dask import run_scheduler

    await run_scheduler(address, listen, dashboard, stop_signal())
