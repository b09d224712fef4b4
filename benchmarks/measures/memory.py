"""Compares the memory of the server and its children after 100,000 slices with the memory after 1,000 slices."""

from itertools import pairwise

from benchmarks import pictures
from benchmarks.client import Client
from benchmarks.figures import Figure, Measured
from benchmarks.frames import binary
from benchmarks.measures import Plan
from benchmarks.processes import OPEN_LIMITS, sluice, token

# The memory is read after these numbers of slices. Each interval uses a separate session.
MARKS = (0, 1_000, *range(10_000, 100_001, 10_000))
_SIDE = 64
_MIB = 1 << 20


def memory(plan: Plan) -> Measured:
    frames = binary(pictures.small(_SIDE), 10_000)
    points: list[tuple[float, float]] = []
    # A session keeps the default number of events. The other limits are raised, because they would stop a single
    # client.
    with sluice(plan.workers, **OPEN_LIMITS | {"session_events": 10_000}) as server:
        for before, mark in pairwise(MARKS):
            client = Client(server.port, token())
            client.pump(frames[: mark - before], 3600)
            client.close()
            server.rest()
            points.append((float(mark), server.memory() / _MIB))
            server.clear()
    first, last = points[0][1], points[-1][1]
    steps = [abs(after[1] - before[1]) for before, after in pairwise(points[1:])]
    return Measured(
        [
            Figure("memory after 100,000 slices against after 1,000", [last / first], 1.10, "least"),
            Figure("memory after 1,000 slices, whole tree", [first], unit="MiB"),
            Figure("memory after 100,000 slices, whole tree", [last], unit="MiB"),
            Figure("memory change per 10,000 slices (noise)", steps, unit="MiB"),
        ],
        {"memory": points},
    )
