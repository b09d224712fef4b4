"""Alternating rounds: each contender runs once in each round, so that noise of the machine affects
all of them equally.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks.client import SLUICE, Client, Rate, Wire
from benchmarks.frames import Frame
from benchmarks.processes import Server, token

Contender = Callable[[], Rate]


def alternate(contenders: Mapping[str, Contender], rounds: int, warm: bool = True) -> dict[str, list[Rate]]:
    """Runs all contenders in each round and returns the rates of each.

    Every other round runs in reverse order, so that no contender always follows the same other one.
    """
    if warm:
        for run in contenders.values():
            run()
    rates: dict[str, list[Rate]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            rates[name].append(contenders[name]())
    return rates


def socket_contender(server: Server, frames: Sequence[Frame], seconds: float, wire: Wire = SLUICE) -> Contender:
    """Returns a contender with one connection that keeps the server busy for ``seconds``.

    The CPU time is that of the server and all its child processes.
    """

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
    """Sends the frames one by one, and yields each result before it sends the next frame."""
    client = Client(server.port, token(), wire)
    for frame in itertools.chain(frames):
        client.send(frame)
        yield server.result(client.read_until(wire.done) + client.receive(wait=False))
    client.close()
