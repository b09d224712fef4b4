"""Measures other sizes and formats than the main measure: slices a second against the codec alone, and CPU a slice."""

from collections.abc import Callable, Mapping, Sequence

from benchmarks import pictures
from benchmarks.alternating import alternate, socket_contender
from benchmarks.client import Rate
from benchmarks.codec import codec
from benchmarks.figures import Figure, Measured, ratios
from benchmarks.frames import binary
from benchmarks.measures import Plan
from benchmarks.processes import OPEN_LIMITS, Server, sluice

# Maps the name of a case to its pictures and its zoom.
CASES: Mapping[str, tuple[Callable[[], list[bytes]], float]] = {
    "JPEG, zoom 1": (pictures.slices, 1.0),
    "JPEG, zoom 0.25": (pictures.slices, 0.25),
    "PNG, zoom 0.5": (lambda: pictures.slices(pictures.photographs()[:5], ".png"), 0.5),
    "WebP, zoom 0.5": (lambda: pictures.slices(pictures.photographs()[:5], ".webp"), 0.5),
    "JPEG 256 x 256, zoom 0.5": (lambda: pictures.small(256), 0.5),
    "JPEG of 4 megapixels, zoom 0.5": (lambda: pictures.megapixels(4), 0.5),
}
_FRAMES = 20_000


def formats(plan: Plan) -> Measured:
    figures = []
    with sluice(plan.workers, **OPEN_LIMITS) as server:
        for name, (make, zoom) in CASES.items():
            rates = _case(server, make(), zoom, plan)
            ours, limit = rates["Sluice"], rates["codec"]
            figures += [
                Figure(f"{name}: slices/s against the codec alone", ratios(ours, limit)),
                Figure(f"{name}: slices/s", [rate.per_second for rate in ours], unit="/s"),
                Figure(f"{name}: CPU a slice", [rate.cpu_ms for rate in ours], unit="ms"),
                Figure(f"{name}: CPU a slice of the codec alone", [rate.cpu_ms for rate in limit], unit="ms"),
            ]
    return Measured(figures)


def _case(server: Server, slices: Sequence[bytes], zoom: float, plan: Plan) -> dict[str, list[Rate]]:
    seconds = plan.seconds / 4
    frames = binary(slices, _FRAMES, zoom=zoom)
    with codec(slices, plan.workers) as limit:
        contenders = {
            "codec": lambda: limit.run(seconds, zoom),
            "Sluice": socket_contender(server, frames, seconds),
        }
        return alternate(contenders, plan.rounds)
