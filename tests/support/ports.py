"""Free loopback ports for the tests, from a block that no other process of tests takes from.

They are below those that the system gives out by itself (on Linux from 32,768), so no port 0 and no client's end is
among them either.
"""

import itertools
import socket
from collections.abc import Iterator
from functools import cache

# Not 10,000: Chromium does not go to 10,080.
_FIRST, _LAST, _BLOCK = 11_000, 31_000, 400


@cache
def _block() -> tuple[socket.socket, Iterator[int]]:
    """What is bound to its first port says that it is taken, until this process ends."""
    for first in range(_FIRST, _LAST, _BLOCK):
        held = socket.socket()
        try:
            held.bind(("127.0.0.1", first))
        except OSError:
            held.close()
        else:
            return held, itertools.cycle(range(first + 1, first + _BLOCK))
    raise AssertionError("no block of ports is free")


def free_port() -> int:
    """One that was not given for as long as can be."""
    for port in itertools.islice(_block()[1], _BLOCK):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError("no port of the block is free")
