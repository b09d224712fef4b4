"""Thousands of names asked of /media/ and /static/: nothing outside the folders, and nothing that is somebody else's.

Measured: 1,000 names in 1 s, 10,000 in 9 s. Seen to fail with Tornado's checks of the root and of symbolic links taken
out, with the pattern of /media opened to any name, and with that of /static opened to NUL.
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

# In every file that must not be seen; those that are not the test's own have words of their own.
MARK = "not-for-your-eyes"
FOREIGN = (MARK.encode(), b"SQLite format 3", b"root:x:", b"import asyncio", b"[tool.ruff]", b"def routes")
OUTSIDE = (
    *("secret.txt", "var/sluice.db", "var/development.key", ".env", "etc/passwd", "proc/self/environ", "server.py"),
    *("config.py", "pyproject.toml", "handlers/core/auth.py", "media/secret.txt", ".git/config"),
)
Change = Callable[[str, random.Random], str]


def climb(name: str, chance: random.Random) -> str:
    step = chance.choice(["../", "../", "../", "..\\", "....//", "./../", "//../", "x/../../"])
    return step * chance.choice([1, 1, 1, 2, 3, 9]) + name


def absolute(name: str, chance: random.Random) -> str:
    return chance.choice(["/", "//", "///", "\\\\", "C:\\", "file:///", "file:", "~/", "~root/", "//127.0.0.1/"]) + name


def percent(name: str, chance: random.Random) -> str:
    """Some characters or all encoded, up to three times over."""
    safe = chance.choice(["", "/", ".", "%", "/.", "/%."])
    for _ in range(chance.randint(1, 3)):
        name = quote(name.encode("utf-8", "surrogateescape"), safe=safe)
        if chance.random() < 0.5 and not safe:
            name = name.replace(".", "%2e").replace("%2F", "%2f")
    return name


def otherwise(name: str, chance: random.Random) -> str:
    """Dots and slashes written in ways that careless decoders take for them."""
    dot = chance.choice(["%c0%ae", "%u002e", "%e0%80%ae", "\uff0e", "\u2024", "%uff0e", "&#46;", "%%32%65", "0x2e"])
    slash = chance.choice(["%c0%af", "%u2215", "\uff0f", "\u2215", "%5c", "%255c", "%%32%66", "\\", ";/"])
    return name.replace(".", dot).replace("/", slash) if chance.random() < 0.7 else name.replace("/", slash)


# What checks of the suffix are fooled with.
ENDINGS = (
    *("%00", "%00.jpg", "\0.jpg", "%0a", "%0d%0aX:%20y", "?.jpg", "#.jpg", ";.jpg", ".jpg", "/", "/.", "%20", "~"),
    *("::$DATA", "%2500.jpg", ".part", "/..", "%ff", "\xff", " .jpg", "\t.png", "*", "?*.jpg", "{a,b}.jpg"),
)


def ending(name: str, chance: random.Random) -> str:
    return name + chance.choice(ENDINGS)


def shaken(name: str, chance: random.Random) -> str:
    """One character changed, dropped, doubled, or of another case."""
    at = chance.randrange(len(name))
    return (
        name[:at]
        + chance.choice(["", name[at] * 2, name[at].upper(), chance.choice("0123456789abcdef")])
        + name[at + 1 :]
    )


def hidden(name: str, chance: random.Random) -> str:
    return chance.choice(
        [f".{name}.part", f"{name}.part", f".{name}", f"{name}/{name}", f"./{name}", name[:8], name[:-4]]
    )


CHANGES: tuple[Change, ...] = (climb, percent, otherwise, ending, shaken, hidden)


def names(count: int, near: list[str], seed: int = 1) -> Iterator[str]:
    """``count`` names, the same ones for the same seed: of files outside, or near to names that others have."""
    chance = random.Random(seed)
    for _ in range(count):
        outside = chance.random() < 0.7
        name = chance.choice(OUTSIDE if outside else near)
        first = [chance.choice((climb, climb, absolute))] if outside else []
        for change in (*first, *chance.choices(CHANGES, k=chance.choice([0, 1, 1, 2, 3]))):
            name = change(name, chance) or "."
        yield name


class Wire:
    """One connection after the other, over which names are asked for as they are, with not a byte made safe."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> "Wire":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def ask(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        """Status and body; 0 when the server closed the connection instead."""
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
    """A server with files all around its media folder that must not be seen."""
    # A connection is used for one name after the other: none is ended because the next was long in coming.
    running = Server(tmp_path_factory.mktemp("guarded"), log_level="debug", header_timeout=GUARD)
    for name in ("secret.txt", ".env", "etc/passwd", "server.py", "var/development.key", "media/secret.txt"):
        file = running.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(MARK)
    yield running
    assert running.stop() == 0


async def results(server: Server, user: str, count: int) -> tuple[list[str], str]:
    """Names of a user's results, and the id of the session they are of."""
    async with await Client.connect(server, user) as client:
        for number in range(count):
            await client.slice(str(number), small())
        ends = await client.ends(count)
        return [end["url"].rpartition("/")[2] for end in ends], client.hello["session"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("folder", ["/media/", "/static/"])
async def test_no_name_leads_outside_or_to_anothers_file(guarded: Server, folder: str, count: int) -> None:
    known, session = await results(guarded, "bob", 3)
    files = ROOT / "static" if folder == "/static/" else guarded.media
    own = {file.name: file.read_bytes() for file in files.iterdir() if file.is_file() and file.name != "secret.txt"}
    near = [*known, session, f"{session}.jpg", *(["icon.svg", "console/index.html"] if folder == "/static/" else [])]
    everybodys = {file.read_bytes() for file in files.rglob("*") if file.is_file()}
    since, statuses = len(guarded.log), set()
    async with Wire(guarded) as wire:
        for name in names(count, near):
            status, body = await wire.ask(folder + name)
            statuses.add(status)
            if status == 200:
                # The console's files are everybody's. A result is had by its whole name, to the letter.
                plain = name.partition("?")[0].partition("#")[0]
                wanted = everybodys if folder == "/static/" else [own.get(plain)]
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
    async with Wire(guarded) as wire:
        for target in targets:
            link = guarded.media / f"{secrets.token_hex(16)}.jpg"
            link.symlink_to(target)
            for method in ("GET", "HEAD"):
                assert (await wire.ask(f"/media/{link.name}", method))[0] == 404, target
        folder = guarded.media / f"{secrets.token_hex(16)}.png"
        folder.mkdir()
        assert (await wire.ask(f"/media/{folder.name}"))[0] == 404
        (guarded.media / "up").symlink_to("..")
        assert (await wire.ask("/media/up/secret.txt"))[0] == 404


LISTS = ("/media", "/media/", "/media/.", "/media//", "/media/*", "/static", "/static/", "/static/.", "/static/./")


async def test_no_list_of_names_is_given(guarded: Server) -> None:
    known, _ = await results(guarded, "bob", 2)
    async with Wire(guarded) as wire:
        for path in LISTS:
            status, body = await wire.ask(path)
            assert status in (403, 404), path
            assert not [name for name in known if name[:8].encode() in body], path
