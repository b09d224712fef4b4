"""/jobs over HTTP: the same operations and rules as the socket."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.running import Server, until
from tests.support.watchers import KINDS, events_in


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("jobs"), job_modules=KINDS, jobs_running=50, jobs_running_per_user=50)
    yield running
    running.stop()


def client(server: Server, name: str = "alice", scope: str = "jobs") -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.token(name, scope)}"})


def start(asker: httpx.Client, job: str, client_id: str, **params: Any) -> str:
    answer = asker.post("/jobs", json={"job": job, "params": params, "client_id": client_id})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"].endswith(f"/jobs/{answer.json()['id']}")
    return str(answer.json()["id"])


async def ended(asker: httpx.Client, id: str) -> list[dict[str, Any]]:
    """Returns all groups of the history, requested page by page, after the job has ended."""
    await until(lambda: asker.get(f"/jobs/{id}").json()["job"]["end"])
    return pages(asker, id)


def pages(asker: httpx.Client, id: str) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = []
    after = 0
    while page := asker.get(f"/jobs/{id}", params={"after": after}).json()["events"]:
        groups += page
        after = page[-1]["offset"]
    assert [group["offset"] for group in groups] == list(range(1, len(groups) + 1))
    return groups


async def test_a_job_is_started_read_and_listed(jobs: Server) -> None:
    with client(jobs) as alice:
        id = start(alice, "counting", "1", steps=30, pause=0.01)
        repeated = alice.post("/jobs", json={"job": "counting", "params": {"steps": 30}, "client_id": "1"})
        assert (repeated.status_code, repeated.json()) == (200, {"id": id, "repeated": True})
        groups = await ended(alice, id)
        lines = [event["line"] for event in events_in(groups) if event["type"] == "log"]
        assert lines == [f"line {number}" for number in range(1, 31)]
        known = alice.get(f"/jobs/{id}").json()
        assert (known["job"]["state"], known["offset"]) == ("succeeded", groups[-1]["offset"])
        page = alice.get("/jobs", params={"job": "counting", "limit": 1}).json()
        assert page["jobs"][0]["id"] == id
        assert "counting" in page["kinds"]


async def test_a_job_is_answered_cancelled_and_retried(jobs: Server) -> None:
    with client(jobs) as alice:
        asking = start(alice, "asking", "2")
        await until(lambda: alice.get(f"/jobs/{asking}").json()["job"]["approval"])
        answer = alice.post(f"/jobs/{asking}/answer", json={"approval": "approval-1", "ok": True})
        assert answer.status_code == 204
        assert (await ended(alice, asking))[-1]["ended"] == "succeeded"
        waiting = start(alice, "waiting", "3")
        await until(lambda: alice.get(f"/jobs/{waiting}").json()["job"]["states"].get("never"))
        assert alice.post(f"/jobs/{waiting}/cancel").json() == {"state": "cancelling"}
        assert (await ended(alice, waiting))[-1]["ended"] == "cancelled"
        assert alice.post(f"/jobs/{waiting}/cancel").json() == {"state": "cancelled"}
        again = alice.post(f"/jobs/{waiting}/retry", json={"only": "not_started", "client_id": "4"})
        assert again.status_code == 201
        assert alice.get(f"/jobs/{again.json()['id']}").json()["job"]["only"] == ["never"]
        alice.post(f"/jobs/{again.json()['id']}/cancel")


def test_errors_are_reported_by_field(jobs: Server) -> None:
    with client(jobs) as alice:
        wrong = alice.post("/jobs", json={"job": "counting", "params": {"steps": -1, "x": 1}, "client_id": "5"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "bad_options")
        assert [each["field"] for each in wrong.json()["error"]["errors"]] == ["steps", "x"]
        wrong = alice.post("/jobs", json={"job": "counting", "misspelt": 1})
        assert [each["field"] for each in wrong.json()["error"]["errors"]] == ["client_id", "misspelt"]
        for body in (b"", b"[]", b"{", b'"x"', b"\xff"):
            assert alice.post("/jobs", content=body).status_code == 400
        assert alice.get("/jobs", params={"state": "nonsense"}).status_code == 400
        assert alice.get("/jobs", params={"limit": "1000"}).status_code == 400
        assert alice.post("/jobs", json={"job": "nope", "client_id": "6"}).status_code == 404
        id = start(alice, "failing", "7")
        for after in ("-1", "x", "9" * 30):
            assert alice.get(f"/jobs/{id}", params={"after": after}).status_code == 400


def test_a_job_of_another_user_is_not_found_and_an_admin_sees_all(jobs: Server) -> None:
    with client(jobs) as alice, client(jobs, "bob") as bob, client(jobs, "root", "jobs admin") as admin:
        id = start(alice, "waiting", "8")
        for asked in (bob.get(f"/jobs/{id}"), bob.post(f"/jobs/{id}/cancel"), alice.get(f"/jobs/{'0' * 27}")):
            assert (asked.status_code, asked.json()["error"]["code"]) == (404, "not_found")
        assert bob.get("/jobs").json()["jobs"] == []
        assert bob.get("/jobs", params={"filter": "all"}).status_code == 403
        assert id in [each["id"] for each in admin.get("/jobs", params={"filter": "all"}).json()["jobs"]]
        assert admin.post(f"/jobs/{id}/cancel").status_code == 200


def test_without_the_scope_or_from_another_origin_nothing_is_done(jobs: Server) -> None:
    def failing() -> list[str]:
        return [each["id"] for each in alice.get("/jobs", params={"job": "failing"}).json()["jobs"]]

    assert httpx.get(f"{jobs.url}/jobs").status_code == 401
    with client(jobs) as alice, client(jobs, scope="images chat video") as other:
        before = failing()
        assert other.get("/jobs").status_code == 403
        assert other.post("/jobs", json={"job": "failing", "client_id": "9"}).status_code == 403
        strange = alice.post(
            "/jobs", json={"job": "failing", "client_id": "9"}, headers={"Origin": "https://evil.example"}
        )
        assert strange.status_code == 403
        assert failing() == before
