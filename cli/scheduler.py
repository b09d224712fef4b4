"""``server.py scheduler``: hands the slices of a cluster's servers to its workers, until SIGTERM or SIGINT."""

import asyncio
from collections.abc import Sequence

from cli import cluster
from works.queue.cluster_address import QueueSettings
from works.settings import pick


def main(arguments: Sequence[str]) -> int:
    """The exit status.

    Raises ValueError for settings or an address that are refused, OSError for an address that cannot be listened on.
    """
    parser = cluster.parser("scheduler", "Hands servers' slices to workers.")
    parser.add_argument("--dashboard", default="", metavar="HOST:PORT", help="show Dask's pages to all")
    flags = vars(parser.parse_args(arguments))
    listen, dashboard = flags.pop("listen"), flags.pop("dashboard")
    settings = cluster.load("scheduler", flags)
    asyncio.run(schedule(pick(QueueSettings, settings), listen=listen, dashboard=dashboard))
    return 0


async def schedule(settings: QueueSettings, *, listen: str, dashboard: str) -> None:
    """``listen`` is the address to bind, "" the host of the URL; ``dashboard`` that of Dask's pages, "" for none."""
    from works.queue.dask import run_scheduler

    await run_scheduler(settings, listen, dashboard, cluster.stop_event())
