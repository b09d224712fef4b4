"""The loop of a child process: it limits itself, then answers one request after another."""

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

# Seconds from the server's deadline to the alarm that ends the child. The alarm matters only when the server has died.
_GRACE = 2
ChildAnswer = Callable[[dict[str, Any], bytes], tuple[bytes, bytes]]
"""Takes the members and the payload of a request, returns the header and the payload of the answer."""


def limit_process(memory: int) -> None:
    """Limits this process: `memory` bytes of address space, no core file, one OpenCV thread.

    File descriptor 2 then leads to /dev/null, because libraries write addresses and passwords from untrusted files to
    it. `sys.stderr` still writes to the log.
    """
    cv2.setNumThreads(1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answer_all(end: socket.socket, answer: ChildAnswer, memory: int, timeout: float) -> None:
    """Answers requests until the server closes the socket. Each may take `timeout` seconds plus a grace period."""
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
    """Turns every other exception in the block into a WorkError. ``memory``: the limit of this process, in bytes."""
    try:
        yield
    except WorkError:
        raise
    except (MemoryError, cv2.error) as error:
        raise _out_of_memory(error, memory) from None
    except OSError as error:
        raise WorkError(
            "internal", f"the result could not be stored: {error.strerror}; send the slice again", temporary=True
        ) from None
    except Exception:
        traceback.print_exc()
        raise WorkError(
            "internal", "this slice failed because of a fault in the server; its log has the reason"
        ) from None


def _out_of_memory(error: BaseException, memory: int) -> WorkError:
    if isinstance(error, MemoryError) or "OutOfMemory" in str(error) or "nsufficient memory" in str(error):
        return WorkError(
            "too_many_pixels", f"this picture needs more than {memory >> 20:,} MiB of memory; send a smaller one"
        )
    traceback.print_exception(error)
    return WorkError("internal", "this slice failed because of a fault in the server; its log has the reason")
