"""A child's own life: its limits, set before it reads its first byte, and its answers, one for each question."""

import json
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2

from works.errors import WorkError
from works.processes.channel import LENGTHS

# A child's own alarm rings this many seconds after the server's deadline: only when the server is gone.
_GRACE = 2
ChildAnswer = Callable[[dict[str, Any], bytes], tuple[bytes, bytes]]
"""From the members and the payload of a question to the header and the payload of its answer."""


def limit_process(memory: int) -> None:
    """Bounds this process: `memory` bytes of address space, no core file, one thread of OpenCV.

    Libraries write what they think of strangers' files (with addresses and passwords in them) to descriptor 2, so that
    leads nowhere from now on; `sys.stderr` still goes to the log.
    """
    cv2.setNumThreads(1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answer_all(end: socket.socket, answer: ChildAnswer, memory: int, timeout: float) -> None:
    """One question after another until the server hangs up. Each may take `timeout` seconds and a few more."""
    limit_process(memory)
    stream = end.makefile("rb", buffering=1 << 16)
    while lengths := stream.read(LENGTHS.size):
        signal.setitimer(signal.ITIMER_REAL, timeout + _GRACE)
        header_length, payload_length = LENGTHS.unpack(lengths)
        members = json.loads(stream.read(header_length))
        header, payload = answer(members, stream.read(payload_length))
        end.sendall(LENGTHS.pack(len(header), len(payload)) + header + payload)
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def only_work_errors(memory: int) -> Iterator[None]:
    """Whatever else goes wrong within, in a process of `memory` bytes, becomes a WorkError."""
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
