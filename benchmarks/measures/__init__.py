"""The measures, one in each file. A measure takes a Plan and returns the rows that it has measured."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.figures import Measured


@dataclass(frozen=True, slots=True)
class Plan:
    """The extent of a run: the number of rounds, the seconds of a round, and as many workers as the
    machine has cores.
    """

    rounds: int
    seconds: float
    workers: int


Measure = Callable[[Plan], Measured]
