"""``python -m benchmarks``: runs the measures in sequence, prints the table and writes the results."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module

import benchmarks
from benchmarks import pictures, report
from benchmarks.figures import Figure
from benchmarks.measures import Measure, Plan

# Each measure is a function in the file with the same name, in benchmarks/measures.
MEASURES = (
    "throughput",
    "process",
    "view",
    "order",
    "idle",
    "start",
    "backlog",
    "memory",
    "formats",
    "costs",
    "fanout",
    "messages",
    "video",
    "jobs",
    "cluster",
)


def measure(name: str) -> Measure:
    found: Measure = getattr(import_module(f"benchmarks.measures.{name}"), name)
    return found


def run(names: Sequence[str], plan: Plan) -> tuple[list[Figure], dict[str, list[tuple[float, float]]]]:
    figures: list[Figure] = []
    series: dict[str, list[tuple[float, float]]] = {}
    for name in names:
        started = time.monotonic()
        print(f"{name} ...", end=" ", flush=True, file=sys.stderr)
        try:
            measured = measure(name)(plan)
        except Exception as error:  # the figures of other measures must not be lost
            print(f"failed: {error!r}", file=sys.stderr)
            figures.append(Figure(name, missing=f"it failed: {error!r}"))
            continue
        figures += measured.figures
        series |= measured.series
        print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    return figures, series


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="Compares Sluice with other servers and with the codec alone."
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each round (default: 2)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", action="append", choices=MEASURES, help="may be given several times")
    parser.add_argument(
        "--quick", action="store_true", help="compare Sluice only with the codec, in under 20 s; write no results"
    )
    given = parser.parse_args()
    if given.quick:
        for name, ratio in benchmarks.quick(given.workers).items():
            print(f"{name:40} {ratio:.2f}")
        return 0
    started = time.monotonic()
    figures, series = run(given.only or MEASURES, Plan(given.rounds, given.seconds, given.workers))
    source = f"{len(pictures.photographs())} photographs of {pictures.PACKAGE}"
    if pictures.photographs() == [pictures.SAMPLE]:
        source = "The sample picture, because the photographs are not available"
    took = f"{time.monotonic() - started:,.0f} s in total; results on tmpfs."
    how = f"{source}; medians of {given.rounds} alternating rounds, {took}"
    print(report.table([f for f in figures if f.target is not None] + [f for f in figures if f.target is None]))
    if not given.only:
        from benchmarks import plots

        report.write(figures, series, plots.draw(figures, series), how)
    return 0


if __name__ == "__main__":
    sys.exit(main())
