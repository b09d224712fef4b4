"""Tests how `make` installs packages with apt-get. It waits while other programs hold the locks of apt-get, and stops
at any other error.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.running import ROOT

LOCKED = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)"
# Fails once for each line in the file of failures, and prints that line.
APT_GET = """#!/bin/sh
echo "$@" >> {folder}/calls
[ -s {folder}/failures ] || exit 0
head -1 {folder}/failures >&2
sed -i 1d {folder}/failures
exit 100
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with programs that replace those of the system."""
    folder = tmp_path / "programs"
    folder.mkdir()
    scripts = {"apt-get": APT_GET.format(folder=tmp_path), "sudo": '#!/bin/sh\nexec "$@"\n', "sleep": "#!/bin/sh\n"}
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def make_apt(
    programs: Path, failures: list[str], *variables: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Runs `make apt`. Returns its result, and the calls of apt-get without the options that all calls have."""
    folder = programs.parent
    (folder / "failures").write_text("".join(f"{line}\n" for line in failures))
    done = subprocess.run(
        ["make", "--no-print-directory", "apt", "PACKAGES=one two", *variables],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    calls = (folder / "calls").read_text().splitlines()
    shared = "-qq -o DPkg::Lock::Timeout=300 "
    return done, [call.removeprefix(shared) for call in calls]


def test_packages_are_installed_once_the_locks_are_free(programs: Path) -> None:
    done, calls = make_apt(programs, [LOCKED, LOCKED, LOCKED])
    assert done.returncode == 0
    assert calls == ["update"] * 4 + ["install -y --no-install-recommends one two"]


def test_the_installation_does_not_wait_forever(programs: Path) -> None:
    done, _ = make_apt(programs, [LOCKED] * 1000, "WAIT=1")
    assert done.returncode != 0
    assert LOCKED in done.stderr


def test_another_error_stops_the_installation_immediately(programs: Path) -> None:
    done, calls = make_apt(programs, ["E: Unable to locate package one"])
    assert (done.returncode != 0, calls) == (True, ["update"])
    assert "Unable to locate" in done.stderr
