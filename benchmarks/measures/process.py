"""Whole pictures over HTTP, scaled to fit 512 x 512: the endpoint /process of Sluice against thumbor."""

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import fmean

from benchmarks import pictures
from benchmarks.alternating import Contender, alternate
from benchmarks.client import Rate
from benchmarks.environments import Unavailable
from benchmarks.figures import Figure, Measured, ratios
from benchmarks.measures import Plan
from benchmarks.peers import thumbor
from benchmarks.posts import Connection, get, post, pump
from benchmarks.processes import Server, sluice, token
from benchmarks.quality import similarity, size

OURS, THEIRS = "/process?fit=512x512", "thumbor"
_NAME = f"requests/s, {OURS}, against thumbor"


def process(plan: Plan) -> Measured:
    whole = pictures.whole()
    paths = pictures.photographs()
    asked = [post(OURS, token(), picture) for picture in whole]
    with ExitStack() as stack:
        try:
            peer = stack.enter_context(thumbor(plan.workers, paths))
        except (Unavailable, RuntimeError) as error:
            return Measured([Figure(_NAME, target=2.2, missing=str(error))])
        asked_peer = [get(f"/unsafe/fit-in/512x512/{path.name}") for path in paths]
        server = stack.enter_context(sluice(plan.workers))
        rates = alternate(
            {
                OURS: _contender(server, asked, plan),
                THEIRS: _contender(peer, asked_peer, plan),
            },
            plan.rounds,
        )
        ours, theirs = _likeness(server, asked, whole), _likeness(peer, asked_peer, whole)
    figures = [
        Figure(_NAME, ratios(rates[OURS], rates[THEIRS]), 2.2),
        Figure("SSIM, whole pictures: /process minus thumbor", [ours - theirs], -0.005, digits=4),
        Figure("SSIM to the float reference: /process", [ours], digits=4),
        Figure("SSIM to the float reference: thumbor", [theirs], digits=4),
    ]
    for name, found in rates.items():
        figures.append(Figure(f"requests/s: {name}", [rate.per_second for rate in found], unit="/s"))
        figures.append(Figure(f"CPU a request: {name}", [rate.cpu_ms for rate in found], unit="ms"))
    return Measured(figures)


def _contender(server: Server, requests: Sequence[bytes], plan: Plan) -> Contender:
    def run() -> Rate:
        before = server.cpu_seconds()
        # Two connections for each worker, so that no worker waits for the load generator.
        rate = pump(server.port, requests, plan.seconds, 2 * plan.workers)
        return Rate(rate.count, rate.seconds, server.cpu_seconds() - before)

    return run


def _likeness(server: Server, requests: Sequence[bytes], sources: Sequence[bytes]) -> float:
    connection = Connection(server.port)
    results = [connection.ask(request) for request in requests]
    connection.close()
    assert all(max(size(result)) == 512 for result in results)
    return fmean(map(similarity, sources, results))
