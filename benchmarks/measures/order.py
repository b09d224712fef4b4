"""Measures the order of the results of 1,000 waiting slices that were sent in random order.

The figure is the number of better-ranked slices that a result overtook. Workers finish slices at different times, so a
result may arrive a little before a better-ranked slice that was started earlier. It may overtake at most as many slices
as there are workers. Before the 1,000 slices are sent, every worker gets one slice that takes long.
"""

import random
import re

from benchmarks import pictures
from benchmarks.client import SLUICE, Client
from benchmarks.figures import Figure, Measured
from benchmarks.frames import binary, masked, message, slice_head
from benchmarks.measures import Plan
from benchmarks.processes import OPEN_LIMITS, Server, sluice, token

COUNT = 1000
_RESULT = re.compile(rb'"type":"result","id":"(\d+)"')


def order(plan: Plan) -> Measured:
    most: list[float] = []
    late: list[float] = []
    large = pictures.megapixels(16, 1)[0]
    with sluice(plan.workers, **OPEN_LIMITS) as server:
        for number in range(plan.rounds):
            overtaken = _overtaken(_ids(server, large, plan.workers, number))
            most.append(max(overtaken))
            late.append(sum(count >= plan.workers for count in overtaken))
            server.clear()
    return Measured(
        [
            Figure("most better-ranked slices overtaken by one of 1,000", most, plan.workers, "least"),
            Figure("results of 1,000 that overtook as many as there are workers, or more", late),
        ]
    )


def _ids(server: Server, large: bytes, workers: int, seed: int) -> list[int]:
    """Returns the ids in the order of their results. A slice with a lower id is nearer to the viewport."""
    client = Client(server.port, token())
    for index in range(workers):
        head = slice_head(900_000 + index, len(large), offset_top=-1, action="denoise", zoom=1)
        client.send((head, masked(large)))
    # The workers must have started these slices before the others arrive.
    client.read_until(b'"type":"accepted"', workers)
    frames = binary(pictures.small(128), COUNT, height=256)
    random.Random(seed).shuffle(frames)
    client.send(message(type="viewport", top=0, height=256))
    for frame in frames:
        client.send(frame)
    found = client.read_until(SLUICE.done, COUNT + workers)
    client.close()
    ids = [int(id) for id in _RESULT.findall(found)]
    assert ids[0] >= 900_000, "a slice was finished before all slices had arrived"
    return [id for id in ids if id < 900_000]


def _overtaken(ids: list[int]) -> list[int]:
    """Returns, for each result, the number of results with a lower id that arrived after it."""
    return [sum(later < id for later in ids[place + 1 :]) for place, id in enumerate(ids)]
