"""The report: one table for the console, the same table as Markdown and as JSON, and the plots."""

import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.figures import Figure

RESULTS = Path(__file__).parent


def number(value: float, digits: int) -> str:
    return f"{value:,.{0 if abs(value) >= 100 else digits}f}"


def cells(figure: Figure) -> tuple[str, str, str, str, str]:
    """Returns the columns of a row: name, value, range, target, and whether the target is met."""
    if not figure.values:
        return figure.name, "-", "", _target(figure), f"not measured: {figure.missing}"
    value = number(figure.median, figure.digits) + (f" {figure.unit}" if figure.unit else "")
    low, high = (number(end, figure.digits) for end in (min(figure.values), max(figure.values)))
    span = f"{low} .. {high}" if len(figure.values) > 1 else ""
    verdict = {None: "", True: "met", False: f"MISSED by {figure.distance}"}[figure.met]
    return figure.name, value, span, _target(figure), verdict


def _target(figure: Figure) -> str:
    if figure.target is None:
        return ""
    return f"{'>=' if figure.sense == 'most' else '<='} {figure.target:g}"


def table(figures: Iterable[Figure]) -> str:
    rows = [("figure", "value", "min .. max", "target", ""), *map(cells, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row in rows:
        padded = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:4], widths[1:], strict=True)),
        ]
        lines.append("  ".join([*padded, row[4]]).rstrip())
    return "\n".join(lines)


def _markdown_table(figures: Iterable[Figure]) -> list[str]:
    lines = ["| figure | value | min .. max | target | |", "|---|---:|---:|---:|---|"]
    for figure in figures:
        *cols, verdict = cells(figure)
        verdict = "; ".join(part for part in (verdict, figure.note) if part)
        lines.append("| " + " | ".join([*cols, verdict]) + " |")
    return lines


def machine() -> str:
    named = [line.split(":", 1)[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    model = named[0].strip() if named else platform.machine()
    packages = ", ".join(f"{name} {version(name)}" for name in ("tornado", "opencv-python-headless", "simplejpeg"))
    memory = psutil.virtual_memory().total >> 30
    return f"{psutil.cpu_count()} cores ({model}), {memory} GiB, Python {platform.python_version()}, {packages}"


def write(
    figures: Sequence[Figure], series: dict[str, list[tuple[float, float]]], plots: Sequence[str], how: str
) -> None:
    """Writes results.md and results.json into the folder of the benchmarks."""
    with_target = [figure for figure in figures if figure.target is not None]
    others = [figure for figure in figures if figure.target is None]
    lines = ["# Results of `make bench`", "", f"{how} {machine()}.", "", "## Figures with a target", ""]
    lines += [*_markdown_table(with_target), "", "## Other figures", "", *_markdown_table(others), ""]
    lines += [line for name in plots for line in (f"![{name}](plots/{name}.svg)", "")]
    (RESULTS / "results.md").write_text("\n".join(lines))
    found = {"how": how, "machine": machine(), "figures": [asdict(figure) for figure in figures], "series": series}
    (RESULTS / "results.json").write_text(json.dumps(found, indent=1) + "\n")
