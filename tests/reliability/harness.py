"""What the reliability tests share: many payloads through one socket, each accounted for, and what they cost."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psutil

from tests.client import Client
from tests.running import Server, alive

Ends = dict[str, dict[str, Any]]
# Payloads on their way at once: below the server's own bound on a session.
WINDOW = 64


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
    """``memory``: resident bytes of the server process; ``cpu``: seconds of it and all its children."""

    memory: int
    cpu: float

    @classmethod
    def of(cls, server: Server) -> "Cost":
        main = psutil.Process(server.process.pid)
        family = [main, *main.children(recursive=True)]
        times = [process.cpu_times() for process in family if alive(process)]
        return cls(main.memory_info().rss, sum(time.user + time.system for time in times))


def peak_address_space(process: psutil.Process) -> int:
    """The most bytes of address space that the process has ever had."""
    with open(f"/proc/{process.pid}/status") as status:
        (line,) = [line for line in status if line.startswith("VmPeak")]
    return int(line.split()[1]) << 10


async def healthy(server: Server) -> None:
    """Fails unless a fresh client's slice is answered."""
    from tests.pictures import small

    assert server.process.poll() is None, "the server died:\n" + "".join(server.log)
    ends = await asyncio.wait_for(send_all(server, [("healthy", small())], "healthy-client"), 20)
    assert ends["healthy"]["type"] == "result"
