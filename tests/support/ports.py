"""Free loopback ports for the tests. Each process that runs tests takes them from its own block.

The ports are below those that the system assigns automatically (on Linux from 32,768). So they never collide with a
server on port 0 or with the local port of a client.
"""

import itertools
import socket
from collections.abc import Iterator
from functools import cache

# The range starts above 10,080, because Chromium refuses to connect to port 10,080.
_FIRST, _LAST, _BLOCK = 11_000, 31_000, 400


@cache
def _block() -> tuple[socket.socket, Iterator[int]]:
    """Reserves a block of ports until this process ends, by binding the first port of the block."""
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
    """Returns the free port of the block that was returned least recently."""
    for port in itertools.islice(_block()[1], _BLOCK):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError("no port of the block is free")
