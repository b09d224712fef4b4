"""A decoder: the child process in which strangers' pictures are decoded, and the server's handle on it.

The child limits its own memory and sets an alarm for each task, so it ends even when nobody is left to kill it. Both
sides speak a length-prefixed JSON header and a payload; never pickle, for the child has read what strangers sent.
"""

import json
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2

from works.errors import WorkError
from works.imaging.pipeline import ImageLimits, process
from works.imaging.task import Result, Task
from works.processes.channel import LENGTHS, Channel
from works.processes.forkserver import Forkserver, hear, serve
from works.queue.attempts import DecoderCrashed
from works.queue.serialization import decode_outcome, decode_task, encode_outcome, encode_task
from works.storage.address import StoreOptions, address_of
from works.storage.open import open_results
from works.storage.results import ResultStore

# A child's own alarm rings this many seconds after the server's deadline: only when the server is gone.
_GRACE = 2
# From the members and the payload of a question to the header and the payload of its answer.
ChildAnswer = Callable[[dict[str, Any], bytes], tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class DecoderSettings:
    """What every child is started with: where results go, what a picture may be, bytes of address space, seconds."""

    media: str
    limits: ImageLimits
    memory: int
    timeout: float
    store: StoreOptions = field(default_factory=StoreOptions)

    def forkserver(self) -> Forkserver:
        # OpenCV and OpenBLAS read these once, when they are loaded; a child's own limits come before them.
        pixels = str(self.limits.max_pixels)
        environment = {
            "OPENCV_IO_MAX_IMAGE_PIXELS": pixels,
            "OPENCV_IO_MAX_IMAGE_WIDTH": str(self.limits.max_side),
            "OPENCV_IO_MAX_IMAGE_HEIGHT": str(self.limits.max_side),
            "OPENCV_LOG_LEVEL": "SILENT",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            # Else glibc gives a picture's memory back after each slice, and faults it in anew: 15 % of the CPU.
            "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
            "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
            # An object store's driver would take a thread for each core, and each thread 64 MiB of address space.
            "TOKIO_WORKER_THREADS": "1",
        }
        return Forkserver([], environment, told=json.dumps(asdict(self)).encode())

    @classmethod
    def parse(cls, text: str | bytes) -> "DecoderSettings":
        members = json.loads(text)
        limits = members.pop("limits")
        limits["formats"] = tuple(limits["formats"])
        return cls(limits=ImageLimits(**limits), store=StoreOptions(**members.pop("store")), **members)


class ProcessDecoder:
    """The server's handle on one child, forked when first needed and again after every death."""

    def __init__(self, forkserver: Forkserver) -> None:
        self._forkserver = forkserver
        self._serial = 0
        self._channel: Channel | None = None

    def start(self) -> None:
        if self._channel is None:
            self._serial, end = self._forkserver.fork()
            self._channel = Channel(end)

    async def process(self, task: Task) -> Result:
        """Hands the task to the child and waits. Raises WorkError, or Crashed when the child died over it.

        When this is cancelled, by a deadline or otherwise, the child is killed: it may be stuck in native code.
        """
        try:
            self.start()
        except OSError as error:
            raise WorkError("internal", f"no decoder can be started: {error.strerror}", temporary=True) from None
        answered = False
        try:
            assert self._channel
            end = decode_outcome(*await self._channel.ask(encode_task(task), task.payload))
            answered = True
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DecoderCrashed from error
        finally:
            if not answered:
                self.kill()
        if isinstance(end, WorkError):
            raise end
        return end

    def kill(self) -> None:
        if self._channel:
            self._channel.close()
            self._channel = None
            self._forkserver.kill(self._serial)


def _live(end: socket.socket, settings: DecoderSettings) -> None:
    # The server has made it. If its disk is gone, a new child must not make it anew on the one below.
    media = open_results(settings.media, settings.store, make=False)

    def perform_it(members: dict[str, Any], payload: bytes) -> tuple[bytes, bytes]:
        return _answer(decode_task(members, payload), media, settings)

    answer_all(end, perform_it, settings.memory, settings.timeout)


def answer_all(end: socket.socket, encode_outcome: ChildAnswer, memory: int, timeout: float) -> None:
    """The life of a child: one question after another until the server hangs up.

    It has ``memory`` bytes of address space, and for each question ``timeout`` seconds and a few more.
    """
    cv2.setNumThreads(1)
    # libpng and OpenCV write what they think of strangers' pictures to descriptor 2; our own words go on to the log.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stream = end.makefile("rb", buffering=1 << 16)
    while lengths := stream.read(LENGTHS.size):
        signal.setitimer(signal.ITIMER_REAL, timeout + _GRACE)
        header_length, payload_length = LENGTHS.unpack(lengths)
        members = json.loads(stream.read(header_length))
        header, payload = encode_outcome(members, stream.read(payload_length))
        end.sendall(LENGTHS.pack(len(header), len(payload)) + header + payload)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(task: Task, media: ResultStore, settings: DecoderSettings) -> tuple[bytes, bytes]:
    try:
        with only_work_errors(settings.memory):
            return encode_outcome(process(task, media, settings.limits))
    except WorkError as error:
        return encode_outcome(error)


@contextmanager
def only_work_errors(memory: int) -> Iterator[None]:
    """Whatever else goes wrong within, with so many bytes of memory, becomes a WorkError."""
    try:
        yield
    except WorkError:
        raise
    except (MemoryError, cv2.error) as error:
        raise _out_of_memory(error, memory) from None
    except OSError as error:
        raise WorkError("internal", f"the result could not be stored: {error.strerror}", temporary=True) from None
    except Exception:
        traceback.print_exc()
        raise WorkError("internal", "this slice failed; the server's log says why") from None


def _out_of_memory(error: BaseException, memory: int) -> WorkError:
    if isinstance(error, MemoryError) or "OutOfMemory" in str(error) or "nsufficient memory" in str(error):
        return WorkError("too_many_pixels", f"this picture takes more than {memory >> 20:,} MiB to work; send less")
    traceback.print_exception(error)
    return WorkError("internal", "this slice failed; the server's log says why")


def main(arguments: list[str]) -> None:
    """``python -m works.queue.decoder CONTROL``: what Forkserver starts, and tells the settings."""
    control = socket.socket(fileno=int(arguments[0]))
    settings = DecoderSettings.parse(hear(control))
    if address_of(settings.media):
        import works.storage.results_bucket  # noqa: F401  # loaded once for all children; each opens the store for itself
    serve(control, lambda end: _live(end, settings))


if __name__ == "__main__":
    main(sys.argv[1:])
