"""Measures slices a second and CPU a slice, in alternating rounds.

The contenders are the codec alone, Sluice with both protocols, and other servers.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import fmean

from benchmarks import pictures
from benchmarks.alternating import Contender, alternate, single_results, socket_contender
from benchmarks.client import BROWSER, Rate
from benchmarks.codec import codec, once
from benchmarks.environments import Unavailable
from benchmarks.figures import Figure, Measured, cpu_ratios, ratios
from benchmarks.frames import binary, text
from benchmarks.measures import Plan
from benchmarks.peers import SLICE_PEERS
from benchmarks.processes import Server, sluice
from benchmarks.quality import similarity, size

CODEC, BINARY, TEXT = "the codec alone", "Sluice", "Sluice, 150 characters"
TARGETS = {"the tutorial server": 6.0, "Channels on daphne": 2.0, "ws + sharp": 4.0}
NOTES = {
    "the tutorial server": "full decode from a temporary file, one thread",
    "Channels on daphne": "reduced decode, two threads",
    "ws + sharp": "default settings of sharp: Lanczos, optimised Huffman tables",
}
# More frames than any server can process in one round.
_FRAMES = 20_000
_COMPARED = 16


def throughput(plan: Plan) -> Measured:
    slices = pictures.slices()
    binary_frames, text_frames = binary(slices, _FRAMES), text(slices, _FRAMES)
    contenders: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    likeness = {CODEC: fmean(similarity(data, once(data)) for data in slices[:_COMPARED])}
    with ExitStack() as stack:
        limit = stack.enter_context(codec(slices, plan.workers))
        contenders[CODEC] = lambda: limit.run(plan.seconds)
        server = stack.enter_context(sluice(plan.workers, messages_per_second=1_000_000))
        contenders[BINARY] = socket_contender(server, binary_frames, plan.seconds)
        contenders[TEXT] = socket_contender(server, text_frames, plan.seconds, BROWSER)
        likeness[BINARY] = _likeness(server, slices)
        for name, start in SLICE_PEERS.items():
            try:
                peer = stack.enter_context(start(plan.workers))
            except (Unavailable, RuntimeError) as error:
                missing[name] = str(error)
                continue
            contenders[name] = socket_contender(peer, binary_frames, plan.seconds)
            likeness[name] = _likeness(peer, slices)
        rates = alternate(contenders, plan.rounds)
    return Measured([*_limits(rates), *_peers(rates, missing), *_likenesses(likeness), *_plain(rates)])


def _limits(rates: dict[str, list[Rate]]) -> list[Figure]:
    return [
        Figure("slices/s, binary, against the codec alone", ratios(rates[BINARY], rates[CODEC]), 0.90),
        Figure(
            "server CPU a slice, 150-character protocol, against the codec's",
            cpu_ratios(rates[TEXT], rates[CODEC]),
            1.15,
            "least",
        ),
        Figure("server CPU a slice, binary, against the codec's", cpu_ratios(rates[BINARY], rates[CODEC])),
    ]


def _peers(rates: dict[str, list[Rate]], missing: dict[str, str]) -> list[Figure]:
    return [
        Figure(
            f"slices/s against {name}",
            ratios(rates[BINARY], rates[name]) if name in rates else (),
            target,
            note=NOTES[name],
            missing=missing.get(name, ""),
        )
        for name, target in TARGETS.items()
    ]


def _likeness(server: Server, slices: Sequence[bytes]) -> float:
    """Returns the mean SSIM of some results to the float reference. Also checks that all results have the requested
    size.
    """
    compared = slices[:_COMPARED]
    results = list(single_results(server, binary(compared, _COMPARED)))
    for source, result in zip(compared, results, strict=True):
        width, height = size(source)
        assert size(result) == (width // 2, height // 2)
    return fmean(map(similarity, compared, results))


def _likenesses(likeness: dict[str, float]) -> list[Figure]:
    best = max(value for name, value in likeness.items() if name not in (BINARY, CODEC))
    note = "target: at most 0.005 below the best peer"
    rows = [Figure(f"SSIM to the float reference: {name}", [value], digits=4) for name, value in likeness.items()]
    difference = Figure("SSIM: Sluice minus the best peer", [likeness[BINARY] - best], -0.005, digits=4, note=note)
    return [*rows, difference]


def _plain(rates: dict[str, list[Rate]]) -> list[Figure]:
    per_second = [
        Figure(f"slices/s: {name}", [rate.per_second for rate in found], unit="/s") for name, found in rates.items()
    ]
    cpu = [Figure(f"CPU a slice: {name}", [rate.cpu_ms for rate in found], unit="ms") for name, found in rates.items()]
    return per_second + cpu
