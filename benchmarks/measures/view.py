"""Measures the time until the result of a slice in the viewport while 1,000 other slices wait, in times of a single
slice.
"""

import time
from itertools import count
from statistics import median

from benchmarks import pictures
from benchmarks.client import SLUICE, Client
from benchmarks.figures import Figure, Measured
from benchmarks.frames import Frame, binary, masked, message, slice_head
from benchmarks.measures import Plan
from benchmarks.processes import OPEN_LIMITS, Server, sluice, token

WAITING, PROBES = 1000, 5
# A position far below all waiting slices, in source pixels from the top of the picture.
_VIEW = 10_000_000
_ACCEPTED, _ERROR = b'"type":"accepted"', b'"type":"error"'


def view(plan: Plan) -> Measured:
    slices = pictures.slices()
    backlog = binary(slices, 4 * WAITING)
    still: list[float] = []
    scrolled: list[float] = []
    passes: list[float] = []
    with sluice(plan.workers, **OPEN_LIMITS) as server:
        for _ in range(plan.rounds):
            single = _single(server, slices)
            client = Client(server.port, token())
            _fill(client, backlog)
            ids = count(900_000)
            client.send(message(type="viewport", top=_VIEW, height=1000))
            took = [_pass_and_probe(client, slices[0], next(ids)) for _ in range(PROBES)]
            passes.append(median(one for one, _ in took) / single)
            still.append(median(probe - one for one, probe in took) / single)
            scrolls = [_probe(client, slices[0], next(ids), scroll=_VIEW * 2 + n * 1000) for n in range(PROBES)]
            scrolled.append(median(scrolls) / single)
            client.close()
            server.rest()
            server.clear()
    unit = "slice times"
    return Measured(
        [
            Figure("a slice in view while 1,000 wait, minus a pass of the loop", still, 2.0, "least", unit),
            Figure("a pass of the loop while 1,000 wait", passes, unit=unit),
            Figure("a slice in view right after a scroll, with the pass", scrolled, unit=unit),
        ]
    )


def _single(server: Server, slices: list[bytes]) -> float:
    """Returns the median seconds from a slice to its result on an idle server.

    The slice is the same as in the probes.
    """
    client = Client(server.port, token())
    took = []
    for frame in binary(slices[:1], 20):
        started = time.perf_counter()
        client.send(frame)
        client.read_until(SLUICE.done)
        took.append(time.perf_counter() - started)
    client.close()
    return median(took)


def _fill(client: Client, backlog: list[Frame]) -> None:
    """Sends slices until 1,000 wait, in addition to those that are processed during the probes, and
    all are accepted.
    """
    accepted = done = sent = 0
    while accepted < sent or accepted - done < WAITING + 200:
        if sent - done < WAITING + 400:
            client.send(backlog[sent])
            sent += 1
        data = client.receive(wait=sent - done >= WAITING + 400)
        accepted += data.count(_ACCEPTED)
        done += data.count(SLUICE.done)


def _pass_and_probe(client: Client, payload: bytes, id: int) -> tuple[float, float]:
    """Returns the seconds of a message that does nothing, and of a slice in the viewport."""
    started = time.perf_counter()
    client.send(message(type="cancel", id="nothing"))
    client.read_until(_ERROR)
    return time.perf_counter() - started, _probe(client, payload, id)


def _probe(client: Client, payload: bytes, id: int, scroll: int = 0) -> float:
    top = scroll or _VIEW
    frame = slice_head(id, len(payload), offset_top=top + 100, height=pictures.SLICE_HEIGHT), masked(payload)
    started = time.perf_counter()
    if scroll:
        client.send(message(type="viewport", top=top, height=1000))
    client.send(frame)
    client.read_until(b'"type":"result","id":"%06d"' % id)
    return time.perf_counter() - started
