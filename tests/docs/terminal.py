"""A shell for the code blocks of the documentation: bash in a copy of the source tree, with free ports.

A service (a server, Redis, a part of a cluster) runs in the background, and later commands wait until it is ready, as
if a person had started each in a terminal of its own. ``curl`` fails when the answer is an error. ``make`` only checks
that its targets exist, because they take minutes or need root. ``sudo`` does nothing.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from tests.support.ports import free_port
from tests.support.running import GUARD, ROOT, hearing_ctrl_c

_COPIED = ["cli", "deploy", "docs", "handlers", "Makefile", "static", "works"]
# Ports in the documentation. Each is replaced by a free port.
_PORT = re.compile(r"\b(?:800[0-2]|8786|9000|6379)\b")
_SERVICE = re.compile(r"\bserver\.py(?! (?:token|job)\b)|-m http\.server|^redis-server")
# Text in the log of a service when it is ready. The first matching entry is used; the last one is for a server.
_READY = {
    "server.py scheduler": '"event": "scheduler.started"',
    "server.py worker": '"event": "worker.connected"',
    "http.server": "Serving HTTP on",
    "redis-server": "Ready to accept connections",
    "server.py": "Sluice is ready: http",
}
_PRELUDE = """
set -euo pipefail
[ ! -e {state}/variables ] || source {state}/variables
curl() {{ command curl --silent --show-error --fail-with-body "$@"; }}
make() {{
    local target
    for target; do grep -q "^$target:" Makefile || {{ echo "no target $target"; return 1; }}; done
}}
sudo() {{ :; }}
redis-server() {{ command redis-server --port {redis} --bind 127.0.0.1 "$@"; }}
await() {{
    until grep -qF "$3" "$2"; do
        kill -0 "$1" 2>/dev/null || {{ echo "a service ended before it was ready:"; cat "$2"; return 1; }}
        sleep 0.05
    done
}}
"""


class Terminal:
    """``ports``: a port in the documentation -> the port to use instead of a free one.

    ``variables`` are in the environment of every command. A variable that a block exports is set for the next blocks.
    """

    def __init__(self, folder: Path, ports: dict[int, int] | None = None, **variables: str) -> None:
        self.folder = folder / "tree"
        self._state = folder / "state"
        self._state.mkdir()
        _copy_tree(self.folder)
        self._ports = dict(ports or {})
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
        self._environment = clean | {"PYTHONUNBUFFERED": "1", "SLUICE_PORT": str(self.port(8000))} | variables
        self._started: list[Command] = []
        self._services = 0
        # The leader of the process group of all services. While it lives, the id of the group is not used again.
        self._group = subprocess.Popen(["sleep", "3600"], process_group=0)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for command in self._started:
            command.kill()
        os.killpg(self._group.pid, signal.SIGKILL)
        self._group.wait()
        for log in self._state.glob("service-*"):
            assert "Traceback" not in log.read_text(), log.read_text()

    def port(self, written: int) -> int:
        """Returns the port that replaces a port of the documentation."""
        if written not in self._ports:
            self._ports[written] = free_port()
        return self._ports[written]

    def run(self, text: str, status: int = 0) -> str:
        """Runs all commands of a block and returns their output. Services stay running. Fails for another
        exit status.
        """
        command = self._popen(self._script(text), self._group.pid)
        assert command.wait() == status, f"{text}\n{command.output}"
        return command.output

    def start(self, text: str) -> "Command":
        """Runs a block in the background."""
        self._started.append(self._popen(self._script(text), 0))
        return self._started[-1]

    def log(self) -> str:
        """Returns the log of the service that was started last."""
        return (self._state / f"service-{self._services}").read_text()

    def _popen(self, script: str, group: int) -> "Command":
        out = self._state / f"output-{time.monotonic_ns()}"
        with out.open("wb") as file, hearing_ctrl_c():
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                process_group=group,
            )
        return Command(process, out)

    def _script(self, text: str) -> str:
        lines = [_PRELUDE.format(state=self._state, redis=self.port(6379))]
        awaited: list[str] = []
        for command in commands(self._local(text)):
            if _SERVICE.search(command) and not command.endswith("&"):
                self._services += 1
                log = self._state / f"service-{self._services}"
                lines.append(f"{{ {command}; }} >{log} 2>&1 &\npid_{self._services}=$!")
                ready = next(sign for name, sign in _READY.items() if name in command)
                awaited.append(f"await $pid_{self._services} {log} '{ready}'")
            else:
                lines += [*awaited, command]
                awaited.clear()
        return "\n".join([*lines, *awaited, f"export -p > {self._state}/variables"])

    def _local(self, text: str) -> str:
        """Replaces ports, and all addresses by loopback addresses. 127.0.0.2 needs a key, like 0.0.0.0."""
        text = _PORT.sub(lambda found: str(self.port(int(found[0]))), text).replace("0.0.0.0", "127.0.0.2")
        return text.replace("server.py job ", f"server.py job --url http://127.0.0.1:{self.port(8000)} ")


class Command:
    def __init__(self, process: "subprocess.Popen[bytes]", out: Path) -> None:
        self._process, self._out = process, out

    @property
    def output(self) -> str:
        return self._out.read_text()

    def until(self, text: str) -> None:
        """Waits until this text is in the output."""
        end = time.monotonic() + GUARD
        while text not in self.output:
            is_waiting = self._process.poll() is None and time.monotonic() < end
            assert is_waiting or text in self.output, f"no {text!r} in:\n{self.output}"
            time.sleep(0.02)

    def interrupt(self) -> int:
        """Presses Ctrl-C and returns the exit status."""
        os.killpg(self._process.pid, signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Waits for the end and returns the exit status."""
        try:
            return self._process.wait(2 * GUARD)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.output}") from None

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def commands(text: str) -> Iterator[str]:
    """Splits a block into commands, one per line. A backslash at the end of a line joins it with the next one."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def _copy_tree(folder: Path) -> None:
    """Copies what Sluice needs to run, with the tests' environment as .venv."""
    folder.mkdir()
    for source in [*ROOT.glob("*.py"), *(ROOT / name for name in _COPIED)]:
        copy: Callable[[Path, Path], object] = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, folder / source.name)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    # With a link to the interpreter, the packages would not be found: they are searched next to the name that was
    # called.
    (binaries / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (binaries / "python").chmod(0o755)
