"""/healthz, /readyz and /metrics answer while every worker is busy, and report faults."""

import shutil

import httpx

from tests.support.client import Client
from tests.support.pictures import small
from tests.support.running import Server, Start, until


async def reports(server: Server, status: int, *faulty: str) -> None:
    """Waits until /readyz reports exactly these parts as faulty.

    On a busy machine it may report another part for some seconds.
    """

    def is_reported() -> bool:
        answer = httpx.get(f"{server.url}/readyz")
        said = answer.json()
        faults = [fault.partition(":")[0] for fault in said["faults"]]
        wanted = (status, "not ready" if faulty else "ready", list(faulty))
        return (answer.status_code, said["status"], faults) == wanted

    await until(is_reported)


async def test_a_healthy_server_says_so(server: Server) -> None:
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}
    await reports(server, 200)


async def test_all_three_answer_while_every_worker_is_busy(start: Start) -> None:
    server = start(workers=2, slice_timeout=200)
    async with await Client.connect(server) as client:
        await client.plug("one")
        await client.plug("two")
        for number in range(10):
            await client.slice(str(number), small(), number)
        await client.wait_for("accepted", id="9")
        await until(lambda: server.metric("sluice_running") == 2)
        assert server.metric("sluice_queue_depth") == 10
        assert server.metric("sluice_queue_bytes") == 10 * len(small())
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        await reports(server, 200)
        assert server.metric("sluice_running") == 2, "the workers were busy all the while"
        assert server.metric("sluice_slices_total", outcome="done") == 0
    await until(lambda: server.metric("sluice_running") == 0)


async def test_the_metrics_count_what_happens(start_here: Start) -> None:
    server = start_here()
    async with await Client.connect(server) as client:
        assert server.metric("sluice_connections") == 1
        await client.slice("a", small())
        await client.slice("b", b"no picture")
        await client.ends(2)
        await client.send("nonsense")
        await client.wait_for("error")
    httpx.get(f"{server.url}/ws/images", headers={"Upgrade": "websocket"})
    await until(lambda: server.metric("sluice_connections") == 0)
    assert server.metric("sluice_slices_total", outcome="done") == 1
    assert server.metric("sluice_slices_total", outcome="bad_image") == 1
    assert server.metric("sluice_refusals_total", reason="bad_message") == 1
    assert server.metric("sluice_refusals_total", reason="missing") == 1
    assert server.metric("sluice_wait_seconds_count") == 2
    assert server.metric("sluice_work_seconds_count") == 1
    await until(lambda: server.metric("sluice_loop_lag_seconds_count") >= 1)
    page = httpx.get(f"{server.url}/metrics")
    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_metrics_are_for_the_allowed_networks_and_for_admins(start_here: Start) -> None:
    server = start_here(metrics_allow="10.0.0.0/8", trusted_proxies="127.0.0.1")

    def status(**headers: str) -> int:
        return httpx.get(
            f"{server.url}/metrics", headers={name.replace("_", "-"): value for name, value in headers.items()}
        ).status_code

    assert status() == 401
    assert status(Authorization=f"Bearer {server.token(scope='images chat')}") == 403
    assert status(Authorization=f"Bearer {server.token(scope='admin')}") == 200
    assert status(X_Forwarded_For="10.1.2.3") == 200
    assert status(X_Forwarded_For="192.0.2.1") == 401
    assert httpx.get(f"{server.url}/healthz").status_code == 200, "health is for everybody"


async def test_a_media_folder_that_cannot_be_written_makes_the_server_not_ready_until_it_is_back(
    start: Start,
) -> None:
    server = start(workers=1)
    async with await Client.connect(server) as client:
        await client.slice("a", small())
        await client.wait_for("result")
        shutil.rmtree(server.media)
        for decoder in server.children():
            decoder.kill()
        await client.slice("b", small())
        assert (await client.wait_for("error", "result"))["code"] == "internal"
        assert not server.media.exists(), "a new decoder makes no folder, perhaps on another disk"
    await reports(server, 503, "media")
    assert httpx.get(f"{server.url}/healthz").status_code == 200, "the process is well, it is not to be restarted"
    server.media.mkdir()
    await reports(server, 200)
    assert server.results() == [], "looking leaves nothing behind"
