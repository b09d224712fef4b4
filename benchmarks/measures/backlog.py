"""Measures the time of a slice while 10, 100 and 10,000 slices wait. A long queue must not be slower."""

import time
from itertools import islice

from benchmarks import pictures
from benchmarks.client import Client
from benchmarks.figures import Figure, Measured
from benchmarks.frames import Frame, binary
from benchmarks.measures import Plan
from benchmarks.processes import OPEN_LIMITS, Server, sluice, token

SIZES = (10, 100, 10_000)
# The slices are small, because ten thousand large slices would measure the memory instead.
_SIDE = 256


def backlog(plan: Plan) -> Measured:
    frames = binary(pictures.small(_SIDE), SIZES[-1] + 20_000)
    took: dict[int, list[float]] = {size: [] for size in SIZES}
    with sluice(plan.workers, **OPEN_LIMITS) as server:
        for number in range(plan.rounds + 1):
            for size in SIZES[:: -1 if number % 2 else 1]:
                spent = _steady(server, frames, size, plan.seconds)
                if number:  # the first round only warms up
                    took[size].append(spent)
    base = took[SIZES[0]]
    ratio = {size: [one / other for one, other in zip(found, base, strict=True)] for size, found in took.items()}
    names = {size: f"time a slice with {size:,} waiting" for size in SIZES}
    figures = [Figure(f"{names[size]}, against {SIZES[0]}", ratio[size], 1.10, "least") for size in SIZES[1:]]
    figures += [Figure(names[size], [spent * 1000 for spent in found], unit="ms") for size, found in took.items()]
    points = [(float(figure_size), sorted(found)[len(found) // 2] * 1000) for figure_size, found in took.items()]
    return Measured(figures, {"backlog": points})


def _steady(server: Server, frames: list[Frame], size: int, seconds: float) -> float:
    """Returns the seconds of a slice while ``size`` slices wait all the time. Slices that wait at the end are
    abandoned.
    """
    client = Client(server.port, token())
    coming = iter(frames)
    sent = done = 0
    for frame in islice(coming, size):
        client.send(frame)
        sent += 1
        done += client.results(wait=False) if sent % 16 == 0 else 0
    started, first = time.perf_counter(), done
    while time.perf_counter() - started < seconds:
        for frame in islice(coming, size - (sent - done)):
            client.send(frame)
            sent += 1
        done += client.results()
    spent = (time.perf_counter() - started) / (done - first)
    client.close()
    server.rest()
    server.clear()
    return spent
