"""A forkserver: a process that has loaded OpenCV and forks child processes, each in 5 ms instead of 300 ms.

multiprocessing has a forkserver too. It is not used here, because it imports server.py again in every child, passes the
whole environment (with secrets) to it, and silently loads nothing when it is started from another folder.

The server and a child talk over a socket pair. The server names a child by a serial number and not by its process id.
So it never kills another process that has got the same id.
"""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_REQUEST = struct.Struct("!cI")  # command, serial number; b"F" with a descriptor: fork, b"K": kill
_FORK, _KILL = b"F", b"K"
_LENGTH = struct.Struct("!I")
# Seconds for the forkserver to end its children and itself. If it is killed earlier, its children stay alive.
_PATIENCE = 10.0
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONHASHSEED", "VIRTUAL_ENV")


class Forkserver:
    """The server's handle of a forkserver. ``arguments`` are for the module's main; ``environment`` is added to a
    minimal one.

    ``configuration`` is sent over the control socket (``receive_configuration``), because all users of the machine can
    read the arguments of a process.
    """

    def __init__(
        self,
        arguments: list[str],
        environment: dict[str, str],
        module: str,
        configuration: bytes = b"",
    ) -> None:
        self._module, self._arguments, self._configuration = module, arguments, configuration
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        self._environment = kept | environment
        self._serial = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> socket.socket:
        """Starts the process, or replaces one that has died. Returns immediately, before the process has loaded its
        modules.
        """
        self.close()
        self._control, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, str(theirs.fileno()), *self._arguments],
            cwd=Path(__file__).parents[2],
            env=self._environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        if self._configuration:
            self._control.sendall(_LENGTH.pack(len(self._configuration)) + self._configuration)
        return self._control

    def fork(self) -> tuple[int, socket.socket]:
        """Requests a new child. Returns its serial number and the server's end of its socket."""
        ours, theirs = socket.socketpair()
        self._serial += 1
        request = _REQUEST.pack(_FORK, self._serial)
        try:
            socket.send_fds(self._control or self.start(), [request], [theirs.fileno()])
        except OSError:
            socket.send_fds(self.start(), [request], [theirs.fileno()])
        finally:
            theirs.close()
        ours.setblocking(False)
        return self._serial, ours

    def kill(self, serial: int) -> None:
        """Kills a child with SIGKILL if it is alive. A child without a forkserver is ended by its own alarm."""
        if self._control:
            with contextlib.suppress(OSError):
                self._control.send(_REQUEST.pack(_KILL, serial))

    def close(self) -> None:
        """Ends the process and all its children."""
        if self._control:
            self._control.close()
            self._control = None
        if self._process:
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def receive_configuration(control: socket.socket) -> bytes:
    """Receives the configuration that the server sends. Call it once, before ``serve``."""
    (length,) = _LENGTH.unpack(control.recv(_LENGTH.size, socket.MSG_WAITALL))
    return control.recv(length, socket.MSG_WAITALL)


def serve(control: socket.socket, child: Callable[[socket.socket], None]) -> None:
    """Runs the forkserver: forks and kills children on request. When the server has gone, kills all children and
    returns.
    """
    # Ctrl-C starts the graceful shutdown of the server, which ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children: dict[int, int] = {}
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, _REQUEST.size, 1)
        _reap(children)
        if not request:
            break
        command, serial = _REQUEST.unpack(request)
        if command == _FORK:
            pid = os.fork()
            if pid == 0:
                control.close()
                _become(child, descriptors[0])
            os.close(descriptors[0])
            children[serial] = pid
        elif serial in children:
            os.kill(children[serial], signal.SIGKILL)
    for pid in children.values():
        os.kill(pid, signal.SIGKILL)


def _become(child: Callable[[socket.socket], None], descriptor: int) -> None:
    status = 1
    try:
        child(socket.socket(fileno=descriptor))
        status = 0
    finally:
        os._exit(status)


def _reap(children: dict[int, int]) -> None:
    """Removes ended children. This is the only place that waits for children, so every process id in ``children`` is
    valid.
    """
    for serial, pid in list(children.items()):
        if os.waitpid(pid, os.WNOHANG)[0]:
            del children[serial]
