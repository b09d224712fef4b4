"""server.py as a real process, forked from one that has loaded it: 0.1 s of CPU time instead of 1.0."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import chdir, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryFile

import server

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = "tests.support.preloaded"
_CONTEXT.set_forkserver_preload([_PRELOADED])


def load(root: Path) -> None:
    """Starts the process that is forked. It finds what it loads from its folder, and says nothing if it does not."""
    with chdir(root):
        forkserver.ensure_running()


class ForkedProcess:
    """``server.py`` with these arguments; of a Popen, what the tests use.

    ``environment`` is all that it has. ``output`` and ``errors`` are descriptors, which remain the caller's; without
    ``errors`` both are ``output``.
    """

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        environment: dict[str, str],
        output: int,
        errors: int | None = None,
    ) -> None:
        descriptors = (output, output if errors is None else errors)
        written = [Connection(os.dup(descriptor), readable=False) for descriptor in descriptors]
        # A daemon: one that a test leaves behind is ended with the tests, which else would wait for it.
        self._process = _CONTEXT.Process(target=_run, args=(arguments, folder, environment, *written), daemon=True)
        self._process.start()
        self._lock = threading.Lock()
        for connection in written:
            connection.close()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        with self._lock:  # the status is read from a pipe, once; of two threads one would find 255
            return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended, and its status is on its way
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status. Raises TimeoutExpired."""
        wait([self._process.sentinel], timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("server.py", timeout or 0)
        return status


def run(arguments: list[str], folder: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """``server.py`` to its end."""
    with TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        process = ForkedProcess(arguments, folder, environment, output.fileno(), errors.fileno())
        try:
            status = process.wait(100)
        finally:
            process.kill()
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(arguments, status, output.read(), errors.read())


def _run(
    arguments: list[str], folder: Path, environment: dict[str, str], output: Connection, errors: Connection
) -> None:
    """In the child."""
    assert _PRELOADED in sys.modules, "each server loads everything by itself: call load(), in time"
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, written in ((sys.stdout, output), (sys.stderr, errors)):
        os.dup2(written.fileno(), stream.fileno())
        written.close()
    sys.stdout.reconfigure(line_buffering=True)
    sys.argv = ["server.py", *arguments]
    server.leave(server.main(arguments))
