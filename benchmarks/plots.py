"""The plots of results.md, as SVG."""

from collections.abc import Callable, Sequence
from functools import partial

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from benchmarks.figures import Figure
from benchmarks.report import RESULTS

Series = dict[str, list[tuple[float, float]]]
_FOLDER = RESULTS / "plots"
_OURS, _OTHERS = "#0b6e99", "#b8c4cc"


def draw(figures: Sequence[Figure], series: Series) -> list[str]:
    """Draws a plot for each group of figures that has values, and returns the names of the plots."""
    _FOLDER.mkdir(exist_ok=True)
    # A fixed salt for ids and no date: the same figures then produce the same file.
    matplotlib.rcParams |= {
        "svg.hashsalt": "sluice",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    drawn = []
    for name, title, prefix in (
        ("throughput", "slices a second", "slices/s: "),
        ("cpu", "CPU milliseconds a slice", "CPU a slice: "),
        ("processing", "whole pictures a second, fit 512 x 512", "requests/s: "),
        ("actions", "CPU milliseconds a slice, by action", "action "),
    ):
        if rows := [figure for figure in figures if figure.name.startswith(prefix) and figure.values]:
            _save(name, partial(_bars, rows, title, prefix))
            drawn.append(name)
    for name, title, axis in (
        ("backlog", "milliseconds a slice, by the number of waiting slices", "log"),
        ("memory", "memory of the server and its children in MiB, by slices processed", "linear"),
    ):
        if points := series.get(name):
            _save(name, partial(_line, points, title, axis))
            drawn.append(name)
    return drawn


def _save(name: str, plot: Callable[[], None]) -> None:
    pyplot.figure(figsize=(7, 2.6))
    plot()
    pyplot.tight_layout()
    pyplot.savefig(_FOLDER / f"{name}.svg", metadata={"Date": None})
    pyplot.close()


def _bars(rows: Sequence[Figure], title: str, prefix: str) -> None:
    """Draws a bar for each median, with a line from the minimum to the maximum."""
    names = [row.name.removeprefix(prefix).removesuffix(": CPU a slice") for row in rows][::-1]
    medians = [row.median for row in rows][::-1]
    spans = [
        [row.median - min(row.values) for row in rows][::-1],
        [max(row.values) - row.median for row in rows][::-1],
    ]
    colours = [_OURS if name.startswith(("Sluice", "/process")) else _OTHERS for name in names]
    pyplot.barh(names, medians, xerr=spans, color=colours, ecolor="#444")
    pyplot.title(title, loc="left")


def _line(points: Sequence[tuple[float, float]], title: str, axis: str) -> None:
    pyplot.plot([x for x, _ in points], [y for _, y in points], marker="o", color=_OURS)
    pyplot.xscale(axis)
    pyplot.ylim(0, 1.1 * max(y for _, y in points))
    pyplot.title(title, loc="left")
