"""Rounds that alternate: each contender runs once a round, in turn, so that a noisy machine disturbs all alike."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks.client import SLUICE, Client, Rate, Wire
from benchmarks.frames import Frame
from benchmarks.processes import Server, token

Contender = Callable[[], Rate]


def alternate(contenders: Mapping[str, Contender], rounds: int, warm: bool = True) -> dict[str, list[Rate]]:
    """Every other round goes backwards, so that none always follows the same one."""
    if warm:
        for run in contenders.values():
            run()
    rates: dict[str, list[Rate]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            rates[name].append(contenders[name]())
    return rates


def socket_contender(server: Server, frames: Sequence[Frame], seconds: float, wire: Wire = SLUICE) -> Contender:
    """One connection that keeps the server busy for so long; the CPU is that of the server's whole tree."""

    def run() -> Rate:
        client = Client(server.port, token(), wire)
        before = server.cpu_seconds()
        rate = client.pump(frames, seconds)
        cpu = server.cpu_seconds() - before
        client.close()
        server.clear()
        return Rate(rate.count, rate.seconds, cpu)

    return run


def single_results(server: Server, frames: Sequence[Frame], wire: Wire = SLUICE) -> Iterator[bytes]:
    """Result after result, sent one by one."""
    client = Client(server.port, token(), wire)
    for frame in itertools.chain(frames):
        client.send(frame)
        yield server.result(client.read_until(wire.done) + client.receive(wait=False))
    client.close()
