"""A forkserver whose children report their process id and environment, and echo every message.

It is started by ``python -m tests.support.answering_child CONTROL``.
"""

import json
import os
import socket
import sys
from typing import Any

from works.processes.child import answer_all
from works.processes.forkserver import receive_configuration, serve

MEMORY = 4 << 30
TIMEOUT = 60.0


def main(arguments: list[str]) -> None:
    control = socket.socket(fileno=int(arguments[0]))
    configuration = receive_configuration(control).decode()

    def answer(members: dict[str, Any], payload: bytes) -> tuple[bytes, bytes]:
        about = {"pid": os.getpid(), "environment": dict(os.environ), "configuration": configuration}
        return json.dumps(about | members).encode(), payload

    serve(control, lambda end: answer_all(end, answer, MEMORY, TIMEOUT))


if __name__ == "__main__":
    main(sys.argv[1:])
