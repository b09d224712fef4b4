"""Helpers of the reliability tests: send many payloads through one socket, check the end of each, and
measure the cost.
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
# The number of payloads that are sent and not answered yet. It is below the server's limit for a session.
WINDOW = 64
# The number of attempts at a check that depends on time. The machine may stop for a moment in one of them.
TRIES = 5


async def tried(allowance: float, attempt: Callable[[], Awaitable[float | None]]) -> None:
    """Tests something for which the server allows the given number of seconds.

    ``attempt`` returns None if it succeeded, or the seconds after which the server closed the connection. Only an
    attempt that took longer than allowed is repeated.
    """
    for _ in range(TRIES):
        if (seconds := await attempt()) is None:
            return
        assert seconds >= allowance, f"cut off within {seconds:.1f} s"
    raise AssertionError("too late each time")


async def send_all(server: Server, payloads: Iterable[tuple[str, bytes]], name: str = "alice", **members: Any) -> Ends:
    """Returns the result or the error of every payload, by id. Fails if a payload has none or two."""
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
    """``memory``: bytes that belong to the server process alone, swapped out or not. ``cpu``: seconds of the process
    and all its children.

    Pages of files are not included, because the kernel loads and drops them depending on free memory.
    """

    memory: int
    cpu: float

    @classmethod
    def of(cls, server: Server) -> "Cost":
        main = psutil.Process(server.process.pid)
        family = [main, *main.children(recursive=True)]
        used = 0.0
        for process in family:
            with suppress(psutil.NoSuchProcess):  # the process ended just now
                used += sum(process.cpu_times()[:2])
        return cls(_of_status(main, "RssAnon") + _of_status(main, "VmSwap"), used)


def peak_address_space(process: psutil.Process) -> int:
    """Returns the maximum number of bytes of address space that the process has had, or 0 if it has just ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return _of_status(process, "VmPeak")
    return 0


def _of_status(process: psutil.Process, name: str) -> int:
    """Returns bytes, from /proc; 0 for a zombie."""
    with open(f"/proc/{process.pid}/status") as status:
        return sum(int(line.split()[1]) << 10 for line in status if line.startswith(f"{name}:"))


async def healthy(server: Server) -> None:
    """Fails unless a new client gets a result for its slice."""
    from tests.support.pictures import small

    assert server.process.poll() is None, "the server died:\n" + "".join(server.log)
    ends = await asyncio.wait_for(send_all(server, [("healthy", small())], "healthy-client"), GUARD)
    assert ends["healthy"]["type"] == "result"
