"""``python -m benchmarks.sleeper URL SECONDS``: a Dask worker with one thread whose slices only sleep for SECONDS.

Sleeping simulates CPU cores that this machine does not have. The remaining time is the overhead of the cluster.
"""

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

from works.imaging.task import Result, Task
from works.queue.cluster_address import ClusterAddress
from works.queue.cluster_worker import WorkerDecoders
from works.queue.dask import run_worker
from works.queue.settings import ClusterSettings
from works.storage.results_folder import FolderResults


class Sleeper:
    """A Performer (the interface of a decoder) whose slices only sleep."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def start(self) -> None:
        pass

    async def process(self, task: Task) -> Result:
        await asyncio.sleep(self._seconds)
        return Result(1, 1, "jpeg", name="0" * 32 + ".jpg", work_ms=self._seconds * 1000)

    def kill(self) -> None:
        pass


async def main(url: str, seconds: float) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    bench = WorkerDecoders([Sleeper(seconds)], FolderResults(Path(tempfile.gettempdir())), 60)
    bench.start()
    await run_worker(ClusterAddress(ClusterSettings(queue=url)), bench, "", 1, stopping)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
