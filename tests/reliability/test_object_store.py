"""Tests a server whose results are in an object store: decoder children write to the store, and clients fetch from it.
Problems of the store must not affect requests that do not need it.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.support import forking
from tests.support.client import Client
from tests.support.films import sound
from tests.support.pictures import decoded, encoded, photograph, small
from tests.support.running import Server, Start, until
from tests.support.s3 import S3, SECRET, s3_in


def start_on(start: Start, s3: S3, **settings: object) -> Server:
    """Starts a server on the store, with long timeouts for slow machines. Its secret is in the variable of the
    provider.
    """
    patient = {"store_timeout": 25, "slice_timeout": 60}
    return start(media=s3.media, **s3.settings, **(patient | settings))


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.fixture
def private_s3(tmp_path: Path) -> Iterator[S3]:
    with s3_in(tmp_path) as running:
        yield running


async def result(server: Server, picture: bytes = b"", **members: object) -> str:
    """Returns the URL of a new result."""
    async with await Client.connect(server) as client:
        for number in range(20):
            await client.slice(str(number), picture or small(), **members)
            end = await client.wait_for("result", "error")
            if end["type"] == "result":
                return str(end["url"])
            assert end["temporary"], end  # with a short store_timeout, a busy machine may need too long
        raise AssertionError(end)


def bearer(server: Server, scope: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.token(scope=scope)}"}


async def test_a_result_is_fetched_from_the_store_with_a_short_lived_url(start: Start, s3: S3) -> None:
    server = start_on(start, s3, store_link_ttl=120)
    url = await result(server)
    assert url.startswith(f"{server.url}/media/"), "a URL of the server, which is valid as long as the result exists"
    answer = httpx.get(url)
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith(f"{s3.url}/bucket/results/")
    assert "X-Amz-Expires=120" in answer.headers["Location"]
    assert answer.headers["Cache-Control"] == "private, max-age=60"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    fetched = httpx.get(answer.headers["Location"])
    assert decoded(fetched.content).shape == (64, 128, 3)
    assert fetched.headers["Content-Type"] == "image/jpeg"
    head = httpx.head(url)
    assert (head.status_code, int(head.headers["Content-Length"])) == (200, len(fetched.content))
    gone = httpx.get(f"{server.url}/media/{'0' * 32}.jpg")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")


async def test_the_console_may_show_files_of_the_store(start_here: Start, s3: S3) -> None:
    policy = httpx.get(f"{start_on(start_here, s3).url}/").headers["Content-Security-Policy"]
    assert f"img-src 'self' blob: data: {s3.url};" in policy
    assert f"media-src 'self' {s3.url};" in policy


async def test_the_server_can_stream_results_of_the_store_whole_or_in_ranges(start_here: Start, s3: S3) -> None:
    """Uses a file of 4 MiB, because the server fetches less than this at a time."""
    server = start_on(start_here, s3, store_serve="stream")
    name, film = "d" * 32 + ".webm", os.urandom(4 << 20)
    s3.put(f"results/{name}", film)
    url = f"{server.url}/media/{name}"
    whole = httpx.get(url)
    assert (whole.status_code, whole.content == film, whole.headers["Content-Type"]) == (200, True, "video/webm")
    for requested, given in (("bytes=5-9", film[5:10]), ("bytes=2000000-", film[2000000:]), ("bytes=-5", film[-5:])):
        part = httpx.get(url, headers={"Range": requested})
        assert (part.status_code, part.content == given) == (206, True)
        assert part.headers["Content-Range"].endswith(f"/{len(film)}")
    assert httpx.get(url, headers={"Range": f"bytes={len(film)}-"}).status_code == 416
    assert httpx.get(url, headers={"If-None-Match": whole.headers["Etag"]}).status_code == 304
    assert int(httpx.head(url).headers["Content-Length"]) == len(film)
    assert httpx.get(f"{server.url}/media/{'0' * 32}.jpg").status_code == 404
    assert decoded(httpx.get(await result(server)).content).shape == (64, 128, 3)


async def test_results_as_bytes_and_process_work_with_a_store(start_here: Start, s3: S3) -> None:
    server = start_on(start_here, s3)
    async with await Client.connect(server) as client:
        await client.slice("a", small(), respond="bytes")
        assert decoded((await client.wait_for("result"))["payload"]).shape == (64, 128, 3)
    answer = httpx.post(f"{server.url}/process", content=small(), headers=bearer(server, "images"))
    assert decoded(answer.content).shape == (64, 128, 3)


async def test_uploads_are_stored_in_the_bucket_of_the_results(start_here: Start, s3: S3) -> None:
    server = start_on(start_here, s3)
    headers = bearer(server, "chat")
    uploaded = httpx.post(f"{server.url}/upload", content=encoded(photograph()), headers=headers, timeout=30).json()
    fetched = httpx.get(uploaded["url"], follow_redirects=True)
    assert fetched.content == encoded(photograph())
    assert fetched.url.path == f"/bucket/uploads/results/{uploaded['id']}.jpg"
    assert decoded(httpx.get(uploaded["thumbnail"], follow_redirects=True).content).shape[:2] == (512, 512)
    song = httpx.post(f"{server.url}/upload", content=sound(".mp3"), headers=headers, timeout=30).json()
    assert httpx.get(song["url"], follow_redirects=True).headers["Content-Type"] == "audio/mpeg"
    assert httpx.get(f"{server.url}/upload/{uploaded['id']}.record").status_code == 404
    # A busy store may need longer than the server waits for one check.
    await until(lambda: httpx.get(f"{server.url}/readyz").json() == {"status": "ready", "faults": []})


async def test_no_command_line_log_or_environment_of_a_child_contains_the_secret(start: Start, s3: S3) -> None:
    """An argument of a command line would be visible to every user of this machine. Children receive their settings
    over a socket instead.
    """
    server = start_on(start, s3, log_level="debug")
    await result(server)
    processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    assert len(processes) > 2
    for process in processes:
        assert SECRET not in " ".join(process.cmdline())
        assert process.pid == server.process.pid or SECRET not in json.dumps(process.environ())
    assert SECRET not in "".join(server.log)
    assert SECRET not in httpx.get(f"{server.url}/readyz").text + httpx.get(f"{server.url}/metrics").text


async def test_a_child_with_a_store_needs_one_more_thread_and_little_memory(start: Start, s3: S3) -> None:
    """The forkserver must have only one thread. Otherwise its children could start with locks that no thread releases.

    A child has one more thread, for the store's driver, and not one thread for each CPU core.
    """
    server = start_on(start, s3, child_memory=1 << 29, workers=2)
    await result(server, encoded(photograph()))
    (forkserver,) = psutil.Process(server.process.pid).children()
    assert forkserver.num_threads() == 1
    threads = [child.num_threads() for child in server.children()]
    assert max(threads) == 2


@pytest.mark.chaos
async def test_a_store_that_hangs_affects_only_requests_that_need_it(start: Start, private_s3: S3) -> None:
    server = start_on(start, private_s3, store_timeout=1, slice_timeout=60, drain_timeout=1)
    url = await result(server)
    async with await Client.connect(server) as client:
        private_s3.pause()
        requested = [asyncio.to_thread(httpx.get, url, timeout=90) for _ in range(20)]
        waiting = [asyncio.ensure_future(each) for each in requested]
        await client.slice("b", small())
        error = await client.wait_for("error")
        assert (error["code"], error["temporary"]) == ("internal", True)
        assert "did not answer within 1 s (store_timeout)" in error["message"]
        await client.slice("c", small(), action="codes", respond="data")
        assert (await client.wait_for("result"))["id"] == "c", "slices that need no store are still processed"
        assert httpx.get(f"{server.url}/healthz", timeout=60).status_code == 200
        ready = await asyncio.to_thread(httpx.get, f"{server.url}/readyz", timeout=60)
        assert ready.status_code == 503
        assert {fault.partition(":")[0] for fault in ready.json()["faults"]} == {"media", "uploads"}
        for answer in await asyncio.gather(*waiting):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "internal")
            assert answer.headers["Retry-After"] == "1"
        private_s3.go_on()
        await until(lambda: httpx.get(f"{server.url}/readyz", timeout=60).status_code == 200)


@pytest.mark.chaos
async def test_connected_clients_continue_when_the_store_is_back(start: Start, private_s3: S3) -> None:
    server = start_on(start, private_s3)
    async with await Client.connect(server) as client:
        private_s3.kill()
        await client.slice("a", small())
        error = await client.wait_for("error")
        assert (error["temporary"], "cannot be reached" in error["message"]) == (True, True)
        private_s3.start()
        await client.slice("b", small())
        url = (await client.wait_for("result"))["url"]
        assert decoded(httpx.get(url, follow_redirects=True).content).shape == (64, 128, 3)


async def test_readyz_and_uploads_report_a_key_without_write_access(start_here: Start, private_s3: S3) -> None:
    server = start_on(start_here, private_s3)
    private_s3.refuse(403, "AccessDenied")

    def faults() -> list[str]:
        return list(httpx.get(f"{server.url}/readyz", timeout=60).json()["faults"])

    # A busy store may not answer the first checks at all.
    await until(lambda: ["denies access (403)" in fault for fault in faults()] == [True, True])
    upload = httpx.post(f"{server.url}/upload", content=sound(".mp3"), headers=bearer(server, "chat"), timeout=60)
    assert (upload.status_code, "denies access" in upload.json()["error"]["message"]) == (500, True)
    private_s3.refuse(0, "")
    assert urlsplit(await result(server)).path.startswith("/media/")


@pytest.mark.chaos
def test_an_invalid_store_is_reported_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for settings, words in (
        ({"media": "s3://bucket"}, "add a prefix"),
        ({"media": "s4://bucket/x"}, "unknown; use file:FOLDER, s3://BUCKET/PREFIX"),
        ({"media": "az://container/x"}, "Account must be specified"),
        ({"media": "s3://bucket/x", "store_timeout": 5}, "less than half of slice_timeout"),
    ):
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        ended = forking.run(["--port=0", *flags], tmp_path, dict(os.environ))
        assert ended.returncode == 2
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr
