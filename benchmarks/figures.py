"""A Figure is one row of the report: the values of its rounds, and the target for their median."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.client import Rate


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the report.

    ``target`` is the value that the median must reach: at least this value, or at most this value if ``sense`` is
    "least". ``target`` is None for rows that are only informative. ``missing`` says why there are no values. ``note``
    is a remark for the reader.
    """

    name: str
    values: Sequence[float] = ()
    target: float | None = None
    sense: Literal["most", "least"] = "most"
    unit: str = ""
    digits: int = 2
    note: str = ""
    missing: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        if self.target is None or not self.values:
            return None
        return self.median >= self.target if self.sense == "most" else self.median <= self.target

    @property
    def distance(self) -> str:
        """The relative difference between the median and the target, as a percentage."""
        return f"{abs(self.median / self.target - 1):.0%}" if self.target else f"{self.median:g}"


@dataclass(slots=True)
class Measured:
    """The result of a measure: its rows, and series of points for the plots."""

    figures: list[Figure] = field(default_factory=list)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def ratios(ours: Sequence[Rate], theirs: Sequence[Rate]) -> list[float]:
    """Returns the ratios of the rates of each round. A slow phase of the machine slows both contenders of a round."""
    return [one.per_second / other.per_second for one, other in zip(ours, theirs, strict=True)]


def cpu_ratios(ours: Sequence[Rate], theirs: Sequence[Rate]) -> list[float]:
    return [one.cpu_ms / other.cpu_ms for one, other in zip(ours, theirs, strict=True)]
