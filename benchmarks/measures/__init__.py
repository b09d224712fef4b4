"""The measures, one file for each. A measure takes a Plan and gives back the rows that it has measured."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.figures import Measured


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: rounds, seconds a round, and as many workers as the machine has cores."""

    rounds: int
    seconds: float
    workers: int


Measure = Callable[[Plan], Measured]
