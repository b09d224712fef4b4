"""What the reliability tests share: many payloads through one socket, each accounted for, and what they cost."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from tests.support.client import Client
from tests.support.running import GUARD, Server

Ends = dict[str, dict[str, Any]]
# Payloads on their way at once: below the server's own bound on a session.
WINDOW = 64
# How often is tried what the server gives seconds for, or what costs little: a machine may stand still just then.
TRIES = 5


async def tried(allowance: float, attempt: Callable[[], Awaitable[float | None]]) -> None:
    """What the server gives so many seconds for. ``attempt`` says after how many it was cut off, or None: only one that
    took longer than it may is made again."""
    for _ in range(TRIES):
        if (seconds := await attempt()) is None:
            return
        assert seconds >= allowance, f"cut off within {seconds:.1f} s"
    raise AssertionError("too late each time")


async def send_all(server: Server, payloads: Iterable[tuple[str, bytes]], name: str = "alice", **members: Any) -> Ends:
    """The one end of every payload, by id: a result, or an error. Fails when one has none or a second."""
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
    """``memory``: bytes of the server process's own, swapped out or not; ``cpu``: seconds of it and all its children.

    Pages of files are not its own: they come and go as the machine has room for them.
    """

    memory: int
    cpu: float

    @classmethod
    def of(cls, server: Server) -> "Cost":
        main = psutil.Process(server.process.pid)
        family = [main, *main.children(recursive=True)]
        used = 0.0
        for process in family:
            with suppress(psutil.NoSuchProcess):  # one that ends just now
                used += sum(process.cpu_times()[:2])
        return cls(_of_status(main, "RssAnon") + _of_status(main, "VmSwap"), used)


def peak_address_space(process: psutil.Process) -> int:
    """The most bytes of address space that the process has ever had; 0 for one that has just ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return _of_status(process, "VmPeak")
    return 0


def _of_status(process: psutil.Process, name: str) -> int:
    """Bytes, from /proc; 0 of a zombie."""
    with open(f"/proc/{process.pid}/status") as status:
        return sum(int(line.split()[1]) << 10 for line in status if line.startswith(f"{name}:"))


async def healthy(server: Server) -> None:
    """Fails unless a fresh client's slice is answered."""
    from tests.support.pictures import small

    assert server.process.poll() is None, "the server died:\n" + "".join(server.log)
    ends = await asyncio.wait_for(send_all(server, [("healthy", small())], "healthy-client"), GUARD)
    assert ends["healthy"]["type"] == "result"
