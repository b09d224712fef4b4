"""Measures the cost of each action: the server's CPU time of a slice at zoom 0.5, including the codec."""

from benchmarks import pictures
from benchmarks.alternating import alternate, socket_contender
from benchmarks.figures import Figure, Measured
from benchmarks.frames import binary
from benchmarks.measures import Plan
from benchmarks.processes import OPEN_LIMITS, sluice
from works.imaging.actions import offered


def costs(plan: Plan) -> Measured:
    slices = pictures.slices()
    with sluice(plan.workers, **OPEN_LIMITS) as server:
        contenders = {
            name: socket_contender(server, binary(slices, 5_000, action=name), plan.seconds / 4) for name in offered()
        }
        rates = alternate(contenders, plan.rounds, warm=False)
    figures = [
        Figure(f"action {name}: CPU a slice", [rate.cpu_ms for rate in found], unit="ms")
        for name, found in rates.items()
    ]
    return Measured(figures)
