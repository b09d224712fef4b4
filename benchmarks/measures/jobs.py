"""Measures the log lines of one job that are delivered to 50 watchers, and a batch job of 1,000 pictures.

The batch is compared with the codec alone. The latency of a user's slices during the batch is measured too.
"""

import re
import selectors
import time
import uuid
from statistics import median

from benchmarks import pictures
from benchmarks.client import SLUICE, Client, Wire
from benchmarks.codec import codec
from benchmarks.figures import Figure, Measured
from benchmarks.frames import binary, message
from benchmarks.measures import Plan
from benchmarks.processes import OPEN_LIMITS, Server, folder, sluice, token

WATCHERS, LINES, PICTURES = 50, 20_000, 1000
_WIRE = Wire("/ws/jobs", b'"type":"log"', b'"type":"error"')
_LINE, _ENDED = b'"type":"log"', b'"type":"succeeded"'
# The rounds of a batch. Each round takes seconds, so their number does not depend on the plan.
_BATCHES = 3


def jobs(plan: Plan) -> Measured:
    slices = pictures.slices()
    with folder() as path:
        for number in range(PICTURES):
            (path / f"{number:04}.jpg").write_bytes(slices[number % len(slices)])
        limits = {**OPEN_LIMITS, "job_log_bytes": 64 << 20, "folders": f"bench={path}", "ping_interval": 900}
        with sluice(plan.workers, **limits, job_modules="benchmarks.peers.chatter") as server:
            delivered = [_delivered(server) for _ in range(plan.rounds)]
            alone = _single(server, slices)
            with codec(slices, plan.workers) as limit:
                pairs = [(_batch(server), limit.run(plan.seconds).per_second) for _ in range(_BATCHES)]
            during = _during_batch(server, slices)
    return Measured(
        [
            Figure(f"log lines of a job delivered to {WATCHERS} watchers", delivered, unit="/s"),
            Figure(f"a batch of {PICTURES:,} pictures: pictures/s against the codec alone", [a / b for a, b in pairs]),
            Figure(f"a batch of {PICTURES:,} pictures", [rate for rate, _ in pairs], unit="/s"),
            Figure("a slice during a batch, in times of a slice alone", [each / alone for each in during], 2, "least"),
        ]
    )


def _start(client: Client, job: str, **params: object) -> str:
    client.send(message(type="start", job=job, params=params, client_id=uuid.uuid4().hex))
    return _id(client.read_until(b'"repeated"'))


def _id(data: bytes) -> str:
    found = re.search(rb'"type":"accepted".*?"id":"([^"]+)"', data)
    assert found, data[:500]
    return found[1].decode()


def _delivered(server: Server) -> float:
    """Returns the log lines delivered a second. Each line counts once for each watcher."""
    owner = Client(server.port, token(), _WIRE)
    id = _start(owner, "chatter", lines=LINES)
    watchers = [Client(server.port, token(), _WIRE) for _ in range(WATCHERS)]
    with selectors.DefaultSelector() as selector:
        approval = b""
        for watcher in watchers:
            watcher.send(message(type="watch", id=id, after=0))
            approval = watcher.read_until(b'"question"')
            selector.register(watcher, selectors.EVENT_READ)
        asked = re.search(rb'"approval":"([^"]+)"', approval)
        assert asked, approval[:1000]
        received, started = 0, time.perf_counter()
        owner.send(message(type="answer", id=id, approval=asked[1].decode(), ok=True))
        while received < LINES * WATCHERS:
            for key, _ in selector.select(60):
                received += key.fileobj.results(wait=False)  # type: ignore[union-attr]
        seconds = time.perf_counter() - started
    for client in (owner, *watchers):
        client.close()
    return received / seconds


def _batch(server: Server) -> float:
    """Returns the pictures a second from the start of the job to its end, including the creation of the zip file."""
    client = Client(server.port, token(), _WIRE)
    started = time.perf_counter()
    _run(client)
    client.read_until(_ENDED)
    rate = PICTURES / (time.perf_counter() - started)
    client.close()
    server.clear()
    return rate


def _run(client: Client) -> None:
    id = _start(client, "batch", folder="bench", zoom=0.5, sheet=False)
    client.send(message(type="watch", id=id, after=0))


def _single(server: Server, slices: list[bytes]) -> float:
    """Returns the median seconds from sending a slice to its result."""
    client = Client(server.port, token())
    took = [_slice(client, frame) for frame in binary(slices[:1], 30)]
    client.close()
    return median(took)


def _slice(client: Client, frame: tuple[bytes, bytes]) -> float:
    started = time.perf_counter()
    client.send(frame)
    client.read_until(SLUICE.done)
    return time.perf_counter() - started


def _during_batch(server: Server, slices: list[bytes]) -> list[float]:
    """Returns medians of the seconds of a slice while a batch keeps all workers busy."""
    medians = []
    for _ in range(_BATCHES):
        owner, client = Client(server.port, token(), _WIRE), Client(server.port, token())
        _run(owner)
        owner.read_until(b'"type":"progress"')
        medians.append(median(_slice(client, frame) for frame in binary(slices[:1], 30)))
        owner.read_until(_ENDED)
        owner.close()
        client.close()
        server.clear()
    return medians
