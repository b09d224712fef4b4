"""Measures the time from the start of the process to the first result, in a new folder."""

import time

from benchmarks import pictures
from benchmarks.client import SLUICE, Client
from benchmarks.figures import Figure, Measured
from benchmarks.frames import binary
from benchmarks.measures import Plan
from benchmarks.processes import sluice, token


def start(plan: Plan) -> Measured:
    (frame,) = binary(pictures.slices()[:1], 1)
    took = []
    for _ in range(plan.rounds):
        started = time.perf_counter()
        with sluice(plan.workers) as server:
            client = Client(server.port, token())
            client.send(frame)
            client.read_until(SLUICE.done)
            took.append(time.perf_counter() - started)
            client.close()
    return Measured([Figure("start to first result", took, 1.5, "least", "s")])
