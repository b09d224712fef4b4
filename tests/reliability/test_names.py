"""Requests thousands of names from /media/ and /static/. No name may lead outside the folders or to a file of another
user.

Measured: 1,000 names take 1 s, 10,000 names take 9 s. These tests fail when one of these defences is removed: Tornado's
check of the root folder, Tornado's check of symbolic links, the pattern for names in /media, or the pattern for names
in /static that excludes NUL.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.reliability.doors import calm, request
from tests.support.client import Client
from tests.support.pictures import small
from tests.support.running import GUARD, ROOT, Server

# MARK is in every secret file that the test writes. The other entries of FOREIGN are texts from files that exist on any
# machine or in this repository.
MARK = "secret-content"
FOREIGN = (MARK.encode(), b"SQLite format 3", b"root:x:", b"import asyncio", b"[tool.ruff]", b"def routes")
OUTSIDE = (
    *("secret.txt", "var/sluice.db", "var/development.key", ".env", "etc/passwd", "proc/self/environ", "server.py"),
    *("config.py", "pyproject.toml", "handlers/core/auth.py", "media/secret.txt", ".git/config"),
)
Change = Callable[[str, random.Random], str]


def with_parents(name: str, chance: random.Random) -> str:
    step = chance.choice(["../", "../", "../", "..\\", "....//", "./../", "//../", "x/../../"])
    return step * chance.choice([1, 1, 1, 2, 3, 9]) + name


def absolute(name: str, chance: random.Random) -> str:
    return chance.choice(["/", "//", "///", "\\\\", "C:\\", "file:///", "file:", "~/", "~root/", "//127.0.0.1/"]) + name


def percent(name: str, chance: random.Random) -> str:
    """Returns the name with some or all characters percent-encoded, up to three times in sequence."""
    safe = chance.choice(["", "/", ".", "%", "/.", "/%."])
    for _ in range(chance.randint(1, 3)):
        name = quote(name.encode("utf-8", "surrogateescape"), safe=safe)
        if chance.random() < 0.5 and not safe:
            name = name.replace(".", "%2e").replace("%2F", "%2f")
    return name


def in_other_forms(name: str, chance: random.Random) -> str:
    """Returns the name with dots and slashes in other forms, which a careless decoder may accept as dots
    and slashes.
    """
    dot = chance.choice(["%c0%ae", "%u002e", "%e0%80%ae", "\uff0e", "\u2024", "%uff0e", "&#46;", "%%32%65", "0x2e"])
    slash = chance.choice(["%c0%af", "%u2215", "\uff0f", "\u2215", "%5c", "%255c", "%%32%66", "\\", ";/"])
    return name.replace(".", dot).replace("/", slash) if chance.random() < 0.7 else name.replace("/", slash)


# Endings that can deceive a check of the file suffix.
ENDINGS = (
    *("%00", "%00.jpg", "\0.jpg", "%0a", "%0d%0aX:%20y", "?.jpg", "#.jpg", ";.jpg", ".jpg", "/", "/.", "%20", "~"),
    *("::$DATA", "%2500.jpg", ".part", "/..", "%ff", "\xff", " .jpg", "\t.png", "*", "?*.jpg", "{a,b}.jpg"),
)


def ending(name: str, chance: random.Random) -> str:
    return name + chance.choice(ENDINGS)


def with_one_change(name: str, chance: random.Random) -> str:
    """Returns the name with one character removed, doubled, in capitals, or replaced by a hexadecimal digit."""
    at = chance.randrange(len(name))
    return (
        name[:at]
        + chance.choice(["", name[at] * 2, name[at].upper(), chance.choice("0123456789abcdef")])
        + name[at + 1 :]
    )


def similar(name: str, chance: random.Random) -> str:
    return chance.choice(
        [f".{name}.part", f"{name}.part", f".{name}", f"{name}/{name}", f"./{name}", name[:8], name[:-4]]
    )


CHANGES: tuple[Change, ...] = (with_parents, percent, in_other_forms, ending, with_one_change, similar)


def names(count: int, near: list[str], seed: int = 1) -> Iterator[str]:
    """Yields ``count`` names, which are always the same for the same seed.

    Most are names of files outside the folder; the others are similar to the names in ``near``.
    """
    chance = random.Random(seed)
    for _ in range(count):
        outside = chance.random() < 0.7
        name = chance.choice(OUTSIDE if outside else near)
        first = [chance.choice((with_parents, with_parents, absolute))] if outside else []
        for change in (*first, *chance.choices(CHANGES, k=chance.choice([0, 1, 1, 2, 3]))):
            name = change(name, chance) or "."
        yield name


class NameClient:
    """A client that requests names exactly as they are, without escaping any byte. It reuses its connection while it
    can.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> "NameClient":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def get(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        """Returns the status and the body. The status is 0 when the server closed the connection instead of
        answering.
        """
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        line = f"{method} {path}".encode("utf-8", "surrogateescape")
        try:
            async with asyncio.timeout(GUARD):
                self._writer.write(request(line))
                head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
                body = await self._reader.readexactly(length if method == "GET" else 0)
        except (asyncio.IncompleteReadError, ConnectionError):
            await self.close()
            return 0, b""
        return int(head.split(b" ")[1]), body

    async def close(self) -> None:
        if self._writer:
            self._writer.close()
            await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)
        self._writer = None


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with secret files around and inside its media folder."""
    # One connection is used for many names. The long timeout prevents a close when the next request is late.
    running = Server(tmp_path_factory.mktemp("guarded"), log_level="debug", header_timeout=GUARD)
    for name in ("secret.txt", ".env", "etc/passwd", "server.py", "var/development.key", "media/secret.txt"):
        file = running.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(MARK)
    yield running
    assert running.stop() == 0


async def results(server: Server, user: str, count: int) -> tuple[list[str], str]:
    """Returns the names of a user's new results, and the id of their session."""
    async with await Client.connect(server, user) as client:
        for number in range(count):
            await client.slice(str(number), small())
        ends = await client.ends(count)
        return [end["url"].rpartition("/")[2] for end in ends], client.hello["session"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("folder", ["/media/", "/static/"])
async def test_no_name_leads_outside_or_to_a_file_of_another_user(guarded: Server, folder: str, count: int) -> None:
    known, session = await results(guarded, "bob", 3)
    files = ROOT / "static" if folder == "/static/" else guarded.media
    own = {file.name: file.read_bytes() for file in files.iterdir() if file.is_file() and file.name != "secret.txt"}
    near = [*known, session, f"{session}.jpg", *(["icon.svg", "console/index.html"] if folder == "/static/" else [])]
    public_files = {file.read_bytes() for file in files.rglob("*") if file.is_file()}
    since, statuses = len(guarded.log), set()
    async with NameClient(guarded) as http:
        for name in names(count, near):
            status, body = await http.get(folder + name)
            statuses.add(status)
            if status == 200:
                # Every user may read the console's files. A result is returned only for its complete and exact name.
                plain = name.partition("?")[0].partition("#")[0]
                wanted = public_files if folder == "/static/" else [own.get(plain)]
                assert body in wanted, f"{name!r}: {body[:100]!r}"
            assert not [mark for mark in FOREIGN if mark in body], f"{name!r}: {body[:100]!r}"
    assert statuses <= {0, 200, 400, 403, 404}, statuses
    await calm(guarded, since)


async def test_no_symbolic_link_in_the_media_folder_is_followed(guarded: Server) -> None:
    targets = [
        guarded.folder / "secret.txt",
        Path("/etc/passwd"),
        guarded.folder,
        ROOT / "server.py",
        Path("/dev/zero"),
    ]
    async with NameClient(guarded) as http:
        for target in targets:
            link = guarded.media / f"{secrets.token_hex(16)}.jpg"
            link.symlink_to(target)
            for method in ("GET", "HEAD"):
                assert (await http.get(f"/media/{link.name}", method))[0] == 404, target
        folder = guarded.media / f"{secrets.token_hex(16)}.png"
        folder.mkdir()
        assert (await http.get(f"/media/{folder.name}"))[0] == 404
        (guarded.media / "up").symlink_to("..")
        assert (await http.get("/media/up/secret.txt"))[0] == 404


LISTS = ("/media", "/media/", "/media/.", "/media//", "/media/*", "/static", "/static/", "/static/.", "/static/./")


async def test_no_folder_is_listed(guarded: Server) -> None:
    known, _ = await results(guarded, "bob", 2)
    async with NameClient(guarded) as http:
        for path in LISTS:
            status, body = await http.get(path)
            assert status in (403, 404), path
            assert not [name for name in known if name[:8].encode() in body], path
