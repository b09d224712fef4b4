"""The peers' environments: made once under .cache/bench, made anew when their pins change.

What cannot be installed raises Unavailable: its rows say so, and the rest of the run goes on.
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
    """A peer that cannot be had here; the message says why."""


def _made(folder: Path, pins: Path) -> bool:
    stamp = folder / "pins"
    return stamp.exists() and stamp.read_text() == _digest(pins)


def _digest(pins: Path) -> str:
    return hashlib.sha256(pins.read_bytes()).hexdigest() + "\n"


def _run(command: Sequence[str], folder: Path) -> None:
    """The output goes to a file: an error of a package client is long, and names hosts that mean nothing here."""
    with (folder / "install.log").open("ab") as log:
        status = subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT).returncode
    if status:
        raise Unavailable(f"could not be installed ({Path(command[0]).name} ended with {status}; see install.log)")


def python(name: str) -> Path:
    """The folder of executables of a virtual environment with what peers/NAME.txt pins."""
    folder, pins = CACHE / name, PEERS / f"{name}.txt"
    if not _made(folder, pins):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _run([sys.executable, "-m", "venv", str(folder)], folder)
        _run([str(folder / "bin" / "pip"), "install", "--disable-pip-version-check", "-r", str(pins)], folder)
        (folder / "pins").write_text(_digest(pins))
    return folder / "bin"


def node() -> Path:
    """The folder with server.mjs and, beside it, the modules that package.json pins."""
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
