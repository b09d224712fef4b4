"""The disk is full, a folder cannot be written, or the database file of events is locked or damaged. The server reports
the problem and continues.

Clients get a temporary error on sockets that stay open, /readyz names the part and the reason, and everything works
again without a restart when the problem is solved. Only a start with an unusable database file ends, with the reason.
Measured: the server is ready again immediately. These tests fail when only_work_errors, Services.faults, the event
broker's _put_back, Sessions._expire, KickUser or FolderResults.put does not handle OSError.
"""

import asyncio
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.reliability.doors import Answer, ask, bearer, log_of, request
from tests.support import forking
from tests.support.client import Client
from tests.support.pictures import small
from tests.support.running import GUARD, Server, Start, until


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 4 MiB. Only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this user may not mount file systems")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def faults(server: Server) -> list[str]:
    """Returns the faults in the answer of /readyz. Checks that its status agrees with them."""
    answer = httpx.get(f"{server.url}/readyz", timeout=30)
    found: list[str] = answer.json()["faults"]
    assert answer.status_code == (503 if found else 200)
    return found


def has_faults(server: Server, said: dict[str, str]) -> bool:
    """Returns whether /readyz reports exactly these parts, each with its text."""
    found = faults(server)
    parts = [text.partition(":")[0] for text in found]
    return parts == sorted(said) and all(said[part] in text for part, text in zip(parts, found, strict=True))


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


# For each fault: a function that causes it, a function that repairs it, and the text in /readyz for each part.
Fault = tuple[Callable[[Path], Any], Callable[[Path], Any], dict[str, str]]
FAULTS: dict[str, Fault] = {
    "a full disk": (fill, lambda disk: (disk / "filler").unlink(), {"media": "No space left", "events": "full"}),
    "a read-only folder": (lambda disk: remount(disk, "ro"), lambda disk: remount(disk, "rw"), {"media": "Read-only"}),
    "a missing folder": (
        lambda disk: shutil.rmtree(disk / "media"),
        lambda disk: (disk / "media").mkdir(),
        {"media": "No such file"},
    ),
}


async def refused_for_now(client: Client, id: str) -> None:
    await client.slice(id, small())
    end = await client.wait_for("result", "error", id=id)
    assert (end["type"], end.get("code"), end.get("temporary")) == ("error", "internal", True)
    assert "/" not in end["message"], "the message must not contain a path of the server"


@pytest.mark.chaos
@pytest.mark.parametrize("fault", FAULTS)
async def test_readyz_reports_a_disk_that_cannot_be_written_and_the_server_continues(
    disk: Path, start: Start, fault: str
) -> None:
    break_it, mend, said = FAULTS[fault]
    events = disk / "sluice.db" if "events" in said else disk.parent / "var" / "sluice.db"
    settings = {"media": f"file:{disk}/media", "events": f"sqlite:{events}", "log_level": "debug"}
    settings |= {"slice_timeout": GUARD}
    server = start(**settings)
    async with await Client.connect(server) as client:
        await client.slice("before", small())
        await client.wait_for("result")
        await until(lambda: faults(server) == [])

        break_it(disk)
        for number in range(10):
            await refused_for_now(client, f"during-{number}")
        # A check of a busy disk may take long. /readyz also reports that as a fault, so the test repeats the request.
        await until(lambda: has_faults(server, said))
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        async with await Client.connect(server, "bob") as other:
            await refused_for_now(other, "new")
        assert (await kick(server)).status == (503 if "events" in said else 204)
        # Requests that do not write to the disk still work.
        assert (await process(server)).status == 200

        mend(disk)
        await until(lambda: faults(server) == [])
        for number in range(10):
            await client.slice(f"after-{number}", small())
            assert (await client.wait_for("result", "error"))["type"] == "result"
        assert (await kick(server)).status == 204
        client.abort()
    assert "Traceback" not in await log_of(server, 0)
    assert not list((disk / "media").glob(".*"))
    # No event is lost, including those of the time without a disk: they are in the file now.
    assert server.stop() == 0
    async with await Client.connect(start(**settings)) as again:
        await again.send("resume", session=client.hello["session"], epoch=client.hello["epoch"], after=0)
        assert (await again.wait_for("resumed"))["recovered"] is True
        assert [end["seq"] for end in await again.ends(21)] == list(range(1, 22))


async def kick(server: Server) -> Answer:
    token = server.token("operator", "admin").encode()
    return await ask(server, request("POST /admin/kick", *bearer(token), body=b'{"user": "unknown", "deny_s": 0}'))


async def process(server: Server) -> Answer:
    return await ask(server, request("POST /process", *bearer(server.token().encode()), body=small()))


def lock(events: Path, disk: Path) -> sqlite3.Connection:
    """Locks the file as another process could do, until the connection is closed."""
    database = sqlite3.connect(events, isolation_level=None)
    database.execute("PRAGMA locking_mode=EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    return database


def damage(events: Path, disk: Path) -> None:
    events.write_bytes(b"this is not a database" * 100)


def fill_before(events: Path, disk: Path) -> None:
    (disk / "media").mkdir()
    fill(disk)


# For each problem with the database file at the start: a function that causes it, a function that repairs it, and the
# text in the error.
STARTS: dict[str, tuple[Callable[[Path, Path], Any], Callable[[Path, Path, Any], Any], str]] = {
    "locked": (lock, lambda events, disk, database: database.close(), "locked"),
    "damaged": (damage, lambda events, disk, _: events.unlink(), "not a database"),
    "on a full disk": (fill_before, lambda events, disk, _: (disk / "filler").unlink(), "full"),
}


@pytest.mark.chaos
@pytest.mark.parametrize("case", STARTS)
def test_the_start_fails_with_the_reason_when_the_database_file_cannot_be_used(disk: Path, case: str) -> None:
    """A server without its file must not start, because it cannot know who is banned. After the repair the same start
    works.
    """
    break_it, mend, said = STARTS[case]
    events = disk / "sluice.db"
    broken = break_it(events, disk)
    flags = ["--port=0", f"--media=file:{disk}/media", f"--events=sqlite:{events}"]
    ended = forking.run(flags, disk.parent, dict(os.environ))
    assert ended.returncode == 2
    assert str(events) in ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    mend(events, disk, broken)
    server = Server(disk.parent, media=f"file:{disk}/media", events=f"sqlite:{events}")
    asyncio.run(until(lambda: faults(server) == []))
    assert server.stop() == 0


async def test_readyz_reports_a_locked_database_file_and_the_server_continues(start: Start) -> None:
    server = start()
    async with await Client.connect(server) as client:
        with closing(sqlite3.connect(server.folder / "var" / "sluice.db", GUARD, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            await until(lambda: "locked" in str(faults(server)))
            assert (await kick(server)).status == 503
            # Requests that do not have to wait for the file still work, and another program may read the file.
            await client.slice("a", small())
            assert (await client.wait_for("result", "error"))["type"] == "result"
            database.execute("ROLLBACK")
        await until(lambda: faults(server) == [])
        assert (await kick(server)).status == 204
        await client.slice("b", small())
        assert (await client.wait_for("result", "error"))["type"] == "result"
