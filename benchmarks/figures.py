"""A Figure is one row of the report: the values of its rounds, and the bar it is held against."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.client import Rate


@dataclass(frozen=True, slots=True)
class Figure:
    """``bar`` is what the median must reach (``sense`` "least": or stay under); None for rows that only inform.

    ``missing`` says why there are no values; ``note`` what a reader should know.
    """

    name: str
    values: Sequence[float] = ()
    bar: float | None = None
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
        if self.bar is None or not self.values:
            return None
        return self.median >= self.bar if self.sense == "most" else self.median <= self.bar

    @property
    def distance(self) -> str:
        """By how much the bar is missed."""
        return f"{abs(self.median / self.bar - 1):.0%}" if self.bar else f"{self.median:g}"


@dataclass(slots=True)
class Measured:
    """What a measure gives back: its rows, and series of points for the plots."""

    figures: list[Figure] = field(default_factory=list)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def ratios(ours: Sequence[Rate], theirs: Sequence[Rate]) -> list[float]:
    """Rates of the same round, one against the other: a machine that slows down slows both."""
    return [one.per_second / other.per_second for one, other in zip(ours, theirs, strict=True)]


def cpu_ratios(ours: Sequence[Rate], theirs: Sequence[Rate]) -> list[float]:
    return [one.cpu_ms / other.cpu_ms for one, other in zip(ours, theirs, strict=True)]
