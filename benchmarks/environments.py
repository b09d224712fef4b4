"""The environments of the compared servers. They are created once in .cache/bench, and again when their pinned versions
change.

An environment that cannot be installed raises Unavailable. The report then gives the reason, and the other measures
continue.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.pictures import CACHE

PEERS = Path(__file__).parent / "peers"


class Unavailable(Exception):
    """Raised when a compared server cannot be installed here; the message gives the reason."""


def _made(folder: Path, pins: Path) -> bool:
    stamp = folder / "pins"
    return stamp.exists() and stamp.read_text() == _digest(pins)


def _digest(pins: Path) -> str:
    return hashlib.sha256(pins.read_bytes()).hexdigest() + "\n"


def _run(command: Sequence[str], folder: Path) -> None:
    """Runs a command and writes its output to install.log.

    The output of a failing package client is long and names hosts that mean nothing to the reader of the report.
    """
    with (folder / "install.log").open("ab") as log:
        status = subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT).returncode
    if status:
        raise Unavailable(f"cannot be installed ({Path(command[0]).name} ended with {status}; see install.log)")


def python(name: str) -> Path:
    """Returns the folder of executables of a virtual environment with the packages pinned in peers/NAME.txt."""
    folder, pins = CACHE / name, PEERS / f"{name}.txt"
    if not _made(folder, pins):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _run([sys.executable, "-m", "venv", str(folder)], folder)
        _run([str(folder / "bin" / "pip"), "install", "--disable-pip-version-check", "-r", str(pins)], folder)
        (folder / "pins").write_text(_digest(pins))
    return folder / "bin"


def node() -> Path:
    """Returns the folder with server.mjs and the modules that package.json pins.

    Raises Unavailable when node or npm is not installed.
    """
    if not shutil.which("node") or not shutil.which("npm"):
        raise Unavailable("node or npm is missing (Debian: nodejs npm)")
    folder, pins = CACHE / "node", PEERS / "node" / "package.json"
    if not _made(folder, pins):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copy(pins, folder)
        _run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"], folder)
        (folder / "pins").write_text(_digest(pins))
    shutil.copy(PEERS / "node" / "server.mjs", folder)
    return folder
