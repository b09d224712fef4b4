"""Batches and films on a real server: uploaded, started and watched over its socket, fetched by their URLs."""

import asyncio
import io
import os
import secrets
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser.chromium import console
from tests.support.client import Client
from tests.support.clips import clip, frames_of
from tests.support.pictures import encoded, photograph
from tests.support.recording import recording
from tests.support.running import Server, Start, until
from tests.support.s3 import S3
from tests.support.zips import zipped
from works.storage.address import StoreOptions


async def upload(server: Server, data: bytes) -> str:
    """Uploads a file and returns its id. A token for jobs is enough."""
    headers = {"Authorization": f"Bearer {server.token(scope='jobs')}"}
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(f"{server.url}/upload", content=data, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def connect(server: Server) -> Client:
    return await Client.connect(server, path="/ws/jobs", token=server.token(scope="jobs"))


async def begin(client: Client, job: str, **params: Any) -> str:
    await client.send("start", job=job, params=params, client_id=f"{job} {params}")
    id = (await client.wait_for("accepted"))["id"]
    await watch(client, id)
    return str(id)


async def watch(client: Client, id: str) -> None:
    await client.send("watch", id=id, after=0)
    await client.wait_for("watching", id=id)


async def end_of(client: Client, id: str) -> dict[str, Any]:
    """Returns the last event of the job."""
    while True:
        message = await client.wait_for("events", id=id)
        if "ended" in message:
            end: dict[str, Any] = message["events"][-1]
            return end


async def fetch(end: dict[str, Any], name: str) -> httpx.Response:
    (file,) = [each for each in end["result"]["files"] if each["name"] == name]
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.get(file["url"])
    assert answer.status_code == 200
    assert len(answer.content) == file["bytes"]
    return answer


def files_below(folder: Path) -> list[str]:
    """Returns the names of all files, even while the folder is being deleted."""
    return [name for _, folders, files in os.walk(folder) for name in folders + files]


async def test_a_zip_is_uploaded_processed_fetched_and_its_failures_retried(start: Start, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/a.jpg").write_bytes(encoded(photograph()))
    (tmp_path / "scans/b.jpg").write_bytes(b"not yet")
    server = start(folders=f"scans={tmp_path}/scans")
    async with await connect(server) as client:
        sent = await upload(server, zipped({f"{n}.jpg": encoded(photograph()) for n in range(12)}))
        end = await end_of(client, await begin(client, "batch", zip=sent, fit="200x200"))
        assert (end["type"], end["targets"], end["progress"]["done"]) == ("succeeded", {"ok": 12}, 12)
        answer = await fetch(end, "results.zip")
        assert answer.headers["Content-Type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as file:
            assert file.namelist() == [f"{n}.jpg" for n in range(12)]
        assert (await fetch(end, "table.csv")).headers["Content-Disposition"].startswith("attachment")
        assert (await fetch(end, "sheet-1.jpg")).content.startswith(b"\xff\xd8")

        first = await begin(client, "batch", folder="scans")
        assert (await end_of(client, first))["targets"] == {"ok": 1, "failed": 1}
        (tmp_path / "scans/b.jpg").write_bytes(encoded(photograph("coffee.png")))
        await client.send("retry", id=first, only="failed", client_id="again")
        again = (await client.wait_for("accepted"))["id"]
        await watch(client, again)
        end = await end_of(client, again)
        assert end["targets"] == {"ok": 1}
        with zipfile.ZipFile(io.BytesIO((await fetch(end, "results.zip")).content)) as file:
            assert file.namelist() == ["b.jpg"]


async def test_uploads_in_an_object_store_are_processed_like_those_on_a_disk(s3: S3, tmp_path: Path) -> None:
    store = StoreOptions(30.0, None, s3.values)
    async with recording(tmp_path, bucket=f"s3://bucket/{secrets.token_hex(4)}", store=store) as job:
        picture = encoded(photograph())
        ids = [await job.upload(data, called="sea.jpg") for data in (picture, zipped({"a.jpg": picture}))]
        moving = await job.upload(clip(tmp_path / "a.webm", 5).read_bytes())
        result = await job.do("batch", uploads=ids[:1])
        assert list(job.unzipped(result)) == ["sea.jpg"]
        assert list(job.unzipped(await job.do("batch", zip=ids[1]))) == ["a.jpg"]
        assert (await job.do("film", upload=moving))["frames"] == 5


@pytest.mark.usefixtures("chromium")
async def test_a_film_is_uploaded_processed_and_played_by_a_browser(start: Start, tmp_path: Path) -> None:
    server = start()
    async with await connect(server) as client:
        sent = await upload(server, clip(tmp_path / "a.mp4", 50, sound=True).read_bytes())
        end = await end_of(client, await begin(client, "film", upload=sent, action="edges"))
    assert end["type"] == "succeeded"
    answer = await fetch(end, "film.webm")
    assert answer.headers["Content-Type"] == "video/webm"
    (tmp_path / "made.webm").write_bytes(answer.content)
    frames, _ = await asyncio.to_thread(frames_of, tmp_path / "made.webm")
    assert len(frames) == 50
    assert end["result"]["sound"] is False
    async with console(server) as page:
        played = await page.evaluate(
            """url => new Promise((resolve, reject) => {
                const video = document.createElement("video");
                video.muted = true;
                video.onended = () => resolve([video.videoWidth, video.videoHeight, video.duration]);
                video.onerror = () => reject(video.error.message);
                video.src = url;
                document.body.append(video);
                video.play().catch(reject);
            })""",
            end["result"]["files"][0]["url"],
        )
    assert played[:2] == [320, 240]
    assert abs(played[2] - 2) < 0.1


@pytest.mark.slow
async def test_a_cancelled_film_leaves_nothing_on_the_disk(start: Start, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    clip(tmp_path / "films/a.webm", 300)
    server = start(folders=f"films={tmp_path}/films")
    async with await connect(server) as client:
        params = {"folder": "films", "file": "a.webm", "action": "blur", "options": {"radius": 50}}
        id = await begin(client, "film", **params)
        await until(lambda: "film.webm" in files_below(tmp_path / "var/jobs"))
        await client.send("cancel", id=id)
        end = await end_of(client, id)
    assert end["type"] == "cancelled"
    await until(lambda: not files_below(tmp_path / "var/jobs"))
    assert server.results() == []
    assert len(server.children()) >= 1, "the decoders are there; no helper process is"


async def test_only_configured_folders_can_be_named(start_here: Start) -> None:
    server = start_here()
    async with await connect(server) as client:
        end = await end_of(client, await begin(client, "batch", folder="media"))
        assert (end["type"], end["code"]) == ("failed", "not_found")
        assert "the setting folders names no folder" in end["message"]
        await client.send("start", job="batch", params={"folder": "x", "action": "explode"}, client_id="1")
        error = await client.wait_for("error")
        assert (error["code"], "explode" in str(error["errors"])) == ("bad_options", True)
