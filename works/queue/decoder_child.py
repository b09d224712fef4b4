"""The decoder child: a process that decodes pictures of untrusted users, and its configuration.

`python -m works.queue.decoder_child CONTROL` runs the forkserver of these children. Server and child exchange a
length-prefixed JSON header and a payload. They do not use pickle, because an attacker may have taken over the child.
"""

import json
import socket
import sys
from dataclasses import dataclass
from typing import Any

from works.errors import WorkError
from works.imaging.pipeline import process
from works.imaging.settings import ImageLimits
from works.imaging.task import Task
from works.processes.child import answer_all, only_work_errors
from works.processes.forkserver import Forkserver, receive_configuration, serve
from works.queue.serialization import decode_task, encode_outcome
from works.queue.settings import DecoderSettings
from works.storage.address import StoreOptions, address_of
from works.storage.open import open_results
from works.storage.results import ResultStore


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """The configuration of every child: the result store, limits of pictures, memory (bytes), timeout (seconds)."""

    results: str
    images: ImageLimits
    memory: int
    timeout: float
    store: StoreOptions

    @classmethod
    def of(
        cls, settings: DecoderSettings, images: ImageLimits, results: str, store: StoreOptions | None = None
    ) -> "ChildConfig":
        """`results` is the URL of the result store. `store` has the options of its object store."""
        return cls(results, images, settings.memory, settings.slice_timeout, store or StoreOptions())

    def forkserver(self) -> Forkserver:
        # OpenCV and OpenBLAS read these once, when they are loaded, which is before a child's own limits.
        environment = {
            "OPENCV_IO_MAX_IMAGE_PIXELS": str(self.images.max_pixels),
            "OPENCV_IO_MAX_IMAGE_WIDTH": str(self.images.max_side),
            "OPENCV_IO_MAX_IMAGE_HEIGHT": str(self.images.max_side),
            "OPENCV_LOG_LEVEL": "SILENT",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            # Without these, glibc returns the memory of a picture after each slice and requests it again: 15 % of the
            # CPU time.
            "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
            "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
            # The driver of object stores starts one thread per core by default, each with 64 MiB of address space.
            "TOKIO_WORKER_THREADS": "1",
        }
        return Forkserver([], environment, __name__, configuration=self.encode())

    def encode(self) -> bytes:
        store = {
            "timeout": self.store.timeout,
            "public_endpoint": self.store.public_endpoint,
            "values": dict(self.store.values),
        }
        members = {"results": self.results, "images": self.images.model_dump(), "memory": self.memory}
        return json.dumps({**members, "timeout": self.timeout, "store": store}).encode()

    @classmethod
    def decode(cls, data: bytes) -> "ChildConfig":
        members = json.loads(data)
        images, store = ImageLimits(**members.pop("images")), StoreOptions(**members.pop("store"))
        return cls(images=images, store=store, **members)


def _live(end: socket.socket, config: ChildConfig) -> None:
    # The server has created the folder. If its disk was unmounted, a new child must not create the folder on the disk
    # below.
    results = open_results(config.results, config.store, make=False)

    def answer(members: dict[str, Any], payload: bytes) -> tuple[bytes, bytes]:
        return _outcome(decode_task(members, payload), results, config)

    answer_all(end, answer, config.memory, config.timeout)


def _outcome(task: Task, results: ResultStore, config: ChildConfig) -> tuple[bytes, bytes]:
    try:
        with only_work_errors(config.memory):
            return encode_outcome(process(task, results, config.images))
    except WorkError as error:
        return encode_outcome(error)


def main(arguments: list[str]) -> None:
    """The main function: Forkserver starts it and sends it the configuration."""
    control = socket.socket(fileno=int(arguments[0]))
    config = ChildConfig.decode(receive_configuration(control))
    if address_of(config.results):
        # Loaded once for all children. Each child opens the store itself.
        import works.storage.results_bucket  # noqa: F401
    serve(control, lambda end: _live(end, config))


if __name__ == "__main__":
    main(sys.argv[1:])
