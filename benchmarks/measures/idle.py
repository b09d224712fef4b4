"""Measures 10,000 admitted connections that do nothing: memory of the server process, and CPU with
and without pings.
"""

import time
from dataclasses import dataclass

from benchmarks.crowd import Crowd
from benchmarks.figures import Figure, Measured
from benchmarks.measures import Plan
from benchmarks.peers import bare
from benchmarks.processes import OPEN_LIMITS, Server, raise_file_limit, sluice

SIZE = 10_000
# The interval is long enough to open all connections (about 3 ms each), with some seconds left before the first ping.
PING_INTERVAL = 50.0
_QUIET = 5.0
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Idle:
    """The cost of idle connections.

    ``memory`` is in bytes, for the server process. ``quiet`` and ``pinging`` are CPU as a share of one core.
    ``ping_ms`` is the milliseconds of CPU for one ping.
    """

    memory: float
    quiet: float
    pinging: float
    ping_ms: float


def idle(plan: Plan) -> Measured:
    name = f"{SIZE:,} idle connections"
    if raise_file_limit() < SIZE + 200:
        return Measured([Figure(f"{name}: memory", missing=f"ulimit -n must be above {SIZE + 200:,}")])
    with sluice(plan.workers, **OPEN_LIMITS, ping_interval=PING_INTERVAL) as server:
        ours = _idle(server, admitted=True)
    with bare(PING_INTERVAL) as server:
        base = _idle(server, admitted=False)
    return Measured(
        [
            Figure(f"{name}: memory of the server process", [ours.memory / _MB], 220, "least", "MB"),
            Figure(f"{name}: CPU between pings, of one core", [ours.quiet * 100], 1, "least", "%"),
            Figure(f"{name}: memory of bare Tornado", [base.memory / _MB], unit="MB"),
            Figure(f"{name}: CPU between pings, bare Tornado", [base.quiet * 100], unit="%"),
            Figure(f"{name}: CPU with a ping each {PING_INTERVAL:g} s", [ours.pinging * 100], unit="%"),
            Figure(f"{name}: CPU with a ping each {PING_INTERVAL:g} s, bare Tornado", [base.pinging * 100], unit="%"),
            Figure(f"{name}: CPU a ping and pong against bare Tornado", [ours.ping_ms / base.ping_ms]),
        ]
    )


def _idle(server: Server, admitted: bool) -> Idle:
    began = time.monotonic()
    crowd = Crowd(server.port, SIZE, admitted)
    server.rest()
    quiet = _quiet(server, crowd)
    memory = server.own_memory()
    # Waits until each connection has been pinged once. The last ping is due a whole interval after the last connection
    # opened.
    before, counted = server.cpu_seconds(), crowd.pongs
    started = time.monotonic()
    while crowd.pongs < SIZE:
        crowd.answer(0.5)
        if time.monotonic() - began > 3 * PING_INTERVAL:
            raise RuntimeError(f"only {crowd.pongs} of {SIZE} connections were pinged")
    spent = server.cpu_seconds() - before
    pinging = spent / max(time.monotonic() - started, PING_INTERVAL)
    ping_ms = spent / (crowd.pongs - counted) * 1000
    crowd.close()
    return Idle(memory, quiet, pinging, ping_ms)


def _quiet(server: Server, crowd: Crowd) -> float:
    """Returns the share of a core that the server uses while no message arrives and no ping is due."""
    before, started = server.cpu_seconds(), time.monotonic()
    share = 0.0
    while time.monotonic() - started < _QUIET and not crowd.pongs:
        crowd.answer(0.5)
        if not crowd.pongs:
            share = (server.cpu_seconds() - before) / (time.monotonic() - started)
    if time.monotonic() - started < 1:
        raise RuntimeError("the first pings arrived before all connections were open")
    return share
