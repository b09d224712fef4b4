"""``server.py worker``: works slices for the servers of a cluster, until SIGTERM or SIGINT."""

import asyncio
import os
from collections.abc import Callable, Sequence

import config
from cli import cluster
from works.queue.bench import WorkerDecoders
from works.queue.cluster_address import QueueSettings
from works.queue.decoder import DecoderSettings, ProcessDecoder
from works.settings import pick
from works.storage.open import open_results


def main(arguments: Sequence[str], decoder_settings: Callable[[config.Settings], DecoderSettings]) -> int:
    """The exit status. ``decoder_settings`` takes from all settings those of a decoder child.

    Raises ValueError for settings or an address that are refused, OSError for a media store that cannot be used.
    """
    parser = cluster.parser("worker", "Services slices for the servers of a cluster.")
    flags = vars(parser.parse_args(arguments))
    listen = flags.pop("listen")
    settings = cluster.load("worker", flags)
    asyncio.run(
        work(
            pick(QueueSettings, settings),
            decoder_settings(settings),
            decoders=settings.workers or os.cpu_count() or 1,
            listen=listen,
            drain=settings.drain_timeout,
        )
    )
    return 0


async def work(settings: QueueSettings, child: DecoderSettings, *, decoders: int, listen: str, drain: float) -> None:
    """Works so many slices at once. ``listen`` is this machine's address, "" the one on the way to the scheduler;
    ``drain`` the seconds for running slices to end after the signal."""
    from works.queue.dask import run_worker

    stopping = cluster.stop_event()
    media = await asyncio.to_thread(open_results, child.media, child.store)
    forkserver = child.forkserver()
    pool = WorkerDecoders([ProcessDecoder(forkserver) for _ in range(decoders)], media, child.timeout)
    pool.start()
    try:
        await run_worker(settings, pool, listen, drain, stopping)
    finally:
        pool.close()
        await asyncio.to_thread(forkserver.close)
