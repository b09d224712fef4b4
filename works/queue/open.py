"""Opens the WorkQueue that the settings name."""

from contextlib import suppress

from works.background import BackgroundTasks
from works.metrics import Metrics
from works.queue import WorkQueue
from works.queue.cluster import ClusterQueue
from works.queue.cluster_address import ClusterAddress
from works.queue.decoder_child import ChildConfig
from works.queue.decoder_pool import ProcessPool, ThreadPool
from works.queue.settings import ClusterSettings, DecoderSettings, QueueBounds
from works.storage.results import ResultStore


async def open_queue(
    cluster: ClusterSettings,
    decoders: DecoderSettings,
    bounds: QueueBounds,
    config: ChildConfig,
    results: ResultStore,
    metrics: Metrics,
    background: BackgroundTasks,
) -> WorkQueue:
    """Returns the queue of this machine's decoders, or of a cluster. An unavailable cluster is retried in the
    background.

    Raises ValueError when the address of the cluster is refused, or when the packages of Dask are not installed.
    """
    if cluster.is_local:
        if decoders.isolation == "thread":
            return ThreadPool(decoders, config, results, bounds, metrics)
        return ProcessPool(decoders, config, results, bounds, metrics, background)
    address = ClusterAddress(cluster)
    try:
        from works.queue.dask import DaskCluster
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed"):
            raise
        raise ValueError(f"queue {address.url!r}: Dask needs extra packages. Install them with: make extras") from None
    with suppress(OSError):  # the name cannot be resolved yet; the connection tries again
        await address.resolve()
    return ClusterQueue(
        lambda: DaskCluster.connect(address), cluster, config.timeout, results, bounds, metrics, background
    )
