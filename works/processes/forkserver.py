"""A process that has OpenCV loaded and forks children of itself, decoders mostly, in 5 ms each instead of 300.

Not multiprocessing's forkserver: that one imports server.py again in every child, hands down the whole environment
(secrets too), and silently loads nothing when started from another folder. The child holds one end of a socket; its
parent in the server holds the other and knows it by a serial number, so that no recycled process id is ever killed.
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

_REQUEST = struct.Struct("!cI")  # b"F" with a socket: fork; b"K": kill; then the serial number
_FORK, _KILL = b"F", b"K"
_LENGTH = struct.Struct("!I")
# Seconds for the process to end, and its children with it. Killed before that, it could not kill them.
_PATIENCE = 10.0
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONHASHSEED", "VIRTUAL_ENV")


class Forkserver:
    """The server's side. ``arguments`` are for the module's main; ``environment`` is added to an almost bare one.

    ``configuration`` goes to it by the control socket (``receive_configuration``): all users of the machine see
    arguments.
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
        """Starts the process, in place of one that died if there was one. Returns at once; it loads in its own time."""
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
        """Asks for a child: its serial number, and the socket to talk to it by."""
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
        """Kills a child with SIGKILL, if it lives. One whose forkserver is gone ends by its own alarm."""
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
    """What the server sends its forkserver alone; to be called once, before ``serve``."""
    (length,) = _LENGTH.unpack(control.recv(_LENGTH.size, socket.MSG_WAITALL))
    return control.recv(length, socket.MSG_WAITALL)


def serve(control: socket.socket, child: Callable[[socket.socket], None]) -> None:
    """The forkserver's own loop: forks and kills on request, kills all when the server is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then drains
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
    """Only here are children waited for, so a process id in ``children`` is never another's."""
    for serial, pid in list(children.items()):
        if os.waitpid(pid, os.WNOHANG)[0]:
            del children[serial]
