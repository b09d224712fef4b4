"""`server.py worker`: runs a worker of a cluster until SIGTERM or SIGINT."""

import asyncio
from collections.abc import Sequence

import config
from cli.cluster import parse, parser_of, stop_signal
from works.queue.cluster_address import ClusterAddress
from works.queue.cluster_worker import WorkerDecoders
from works.queue.decoder_child import ChildConfig
from works.queue.process_decoder import ProcessDecoder
from works.storage.address import StoreOptions
from works.storage.open import open_results


def main(arguments: Sequence[str]) -> int:
    """Runs the worker. Returns the exit status.

    Raises:
        ValueError: a setting or the address is refused.
        OSError: the store of results cannot be opened.
    """
    parser = parser_of("worker", "Runs a worker of a cluster, which processes slices for the servers.")
    settings, address, own = parse("worker", parser, arguments)
    asyncio.run(_work(settings, address, own["listen"]))
    return 0


async def _work(settings: config.Settings, address: ClusterAddress, listen: str) -> None:
    """``listen``: the address of this machine; empty uses the address of its route to the scheduler."""
    from works.queue.dask import run_worker

    options = StoreOptions.gather(settings.results.media, settings.store, config.store_variables())
    results = await asyncio.to_thread(open_results, settings.results.media, options)
    child = ChildConfig.of(settings.decoders, settings.images, results.url, options)
    forkserver = child.forkserver()
    count = settings.decoders.decoders
    decoders = WorkerDecoders([ProcessDecoder(forkserver) for _ in range(count)], results, child.timeout)
    decoders.start()
    try:
        await run_worker(address, decoders, listen, settings.server.drain_timeout, stop_signal())
    finally:
        decoders.close()
        await asyncio.to_thread(forkserver.close)
