"""Helpers of the reliability tests: they send many payloads over one socket, check that each has exactly one outcome,
and measure the cost.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from tests.support.client import Client
from tests.support.running import GUARD, Server

Ends = dict[str, dict[str, Any]]
# Number of payloads without an outcome at the same time. It is below the limit of the server for a session.
WINDOW = 64
# Number of attempts for a test that measures seconds or cost. One attempt can fail because the machine stops just then.
TRIES = 5


async def tried(allowance: float, attempt: Callable[[], Awaitable[float | None]]) -> None:
    """Checks that the server gives a client at least ``allowance`` seconds.

    ``attempt`` returns the seconds after which the server cut it off, or None when it succeeded. An attempt that the
    server cut off is repeated only if it took at least ``allowance`` seconds.
    """
    for _ in range(TRIES):
        if (seconds := await attempt()) is None:
            return
        assert seconds >= allowance, f"cut off within {seconds:.1f} s"
    raise AssertionError("too late each time")


async def send_all(server: Server, payloads: Iterable[tuple[str, bytes]], name: str = "alice", **members: Any) -> Ends:
    """Sends the payloads and returns the outcome of each by id: a result or an error. Fails when a payload has a second
    outcome.
    """
    ends: Ends = {}
    waiting: set[str] = set()
    async with await Client.connect(server, name) as client:

        async def settle(down_to: int) -> None:
            while len(waiting) > down_to:
                message = await client.receive()
                if message["type"] in ("result", "error"):
                    assert message["id"] in waiting, f"a second end, or of an unknown slice: {message}"
                    waiting.remove(message["id"])
                    ends[message["id"]] = message

        for id, payload in payloads:
            waiting.add(id)
            await client.slice(id, payload, len(ends), **members)
            await settle(WINDOW)
        await settle(0)
    return ends


@dataclass(frozen=True)
class Cost:
    """The cost of a server. ``memory`` is the bytes of private memory of the server process, including swapped-out
    memory. ``cpu`` is the CPU seconds of the server process and all its children.

    Pages of files do not count as private memory, because the system loads and drops them as memory permits.
    """

    memory: int
    cpu: float

    @classmethod
    def of(cls, server: Server) -> "Cost":
        main = psutil.Process(server.process.pid)
        family = [main, *main.children(recursive=True)]
        used = 0.0
        for process in family:
            with suppress(psutil.NoSuchProcess):  # the process has just ended
                used += sum(process.cpu_times()[:2])
        return cls(_of_status(main, "RssAnon") + _of_status(main, "VmSwap"), used)


def peak_address_space(process: psutil.Process) -> int:
    """Returns the peak of the address space of the process in bytes, or 0 for a process that has just ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return _of_status(process, "VmPeak")
    return 0


def _of_status(process: psutil.Process, name: str) -> int:
    """Returns a value of /proc/PID/status in bytes, or 0 for a zombie process."""
    with open(f"/proc/{process.pid}/status") as status:
        return sum(int(line.split()[1]) << 10 for line in status if line.startswith(f"{name}:"))


async def healthy(server: Server) -> None:
    """Fails unless the server processes a slice of a new client."""
    from tests.support.pictures import small

    assert server.process.poll() is None, "the server died:\n" + "".join(server.log)
    ends = await asyncio.wait_for(send_all(server, [("healthy", small())], "healthy-client"), GUARD)
    assert ends["healthy"]["type"] == "result"
