"""``server.py job``: starts, watches and cancels jobs from a terminal."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.support import forking
from tests.support.ports import free_port
from tests.support.running import ROOT, Server, Start, hearing_ctrl_c, until
from tests.support.watchers import KINDS, Watcher


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("jobs"), job_modules=KINDS)
    yield running
    running.stop()


def arguments(server: Server, *words: str) -> list[str]:
    return ["job", "--url", server.url, *words]


def command(server: Server, *words: str) -> list[str]:
    return [sys.executable, str(ROOT / "server.py"), *arguments(server, *words)]


def environment(server: Server) -> dict[str, str]:
    return os.environ | {"SLUICE_TOKEN": server.token("alice", "jobs", 3600), "PYTHONUNBUFFERED": "1"}


def job(server: Server, *words: str) -> "subprocess.CompletedProcess[str]":
    return forking.run(arguments(server, *words), ROOT, environment(server))


def running(server: Server, *words: str) -> "subprocess.Popen[str]":
    with hearing_ctrl_c():
        return subprocess.Popen(command(server, *words), env=environment(server), stdout=-1, stderr=-1, text=True)


def test_a_job_is_started_and_watched_to_its_end(jobs: Server) -> None:
    done = job(jobs, "start", "counting", "steps=3", 'fail=["t1"]')
    assert done.returncode == 0, done.stderr
    assert "t0: line 1\nt1: line 2\nt2: line 3\n== succeeded\n   2 ok, 1 failed\n" in done.stdout
    assert '"counted": 3' in done.stdout
    id = done.stdout.split()[0]
    assert job(jobs, "watch", id).stdout.endswith(done.stdout.removeprefix(f"{id}\n"))
    again = job(jobs, "retry", id, "--only", "failed")
    assert "t1: line 1\n" in again.stdout
    assert job(jobs, "list").stdout.splitlines()[1].split()[:4] == [id, "succeeded", "counting", "alice"]


def test_the_exit_status_depends_on_the_final_state(jobs: Server) -> None:
    failed = job(jobs, "start", "failing")
    assert failed.returncode == 1
    assert "== failed: this job always fails" in failed.stdout
    wrong = job(jobs, "start", "counting", "steps=-1", "pause=long")
    assert wrong.returncode == 2
    assert "  steps: " in wrong.stderr
    assert "  pause: " in wrong.stderr
    assert job(jobs, "watch", "0" * 27).returncode == 2
    refused = job(jobs, "--token", "bad", "list")
    assert (refused.returncode, "401" in refused.stderr) == (2, True)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://here", "http://", "http://here:99999", "here", ""])
def test_an_invalid_url_is_reported(jobs: Server, url: str) -> None:
    done = job(jobs, "--url", url, "list")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"sluice: --url {url!r}: must have the form http://HOST:PORT or https://HOST\n"


@pytest.mark.chaos
def test_an_unavailable_server_is_reported_immediately_and_retried(start: Start) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    token = {"SLUICE_TOKEN": "none", "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, str(ROOT / "server.py"), "job", "--url", url, "list"]
    with subprocess.Popen(words, env=os.environ | token, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = process.stderr.readline()
        start(port=port)
        refused = process.stderr.read()
    assert f"{port}/ws/jobs cannot be reached: " in said
    assert "trying again for 300 s" in said
    assert "401 Unauthorized; check the token (scope jobs)" in refused
    assert process.returncode == 2


async def test_a_question_is_answered_and_a_running_job_is_cancelled(jobs: Server) -> None:
    id = job(jobs, "start", "asking", "--detach").stdout.strip()
    with running(jobs, "watch", id) as watch:
        assert watch.stdout
        assert "Shall I?" in watch.stdout.readline()
        assert f"job answer {id} approval-1" in watch.stdout.readline()
        assert job(jobs, "answer", id, "approval-1", "yes").returncode == 0
        assert "alice answered yes" in watch.stdout.readline()
        # Reads all output, because closing the pipe earlier would end the watch.
        assert "succeeded" in watch.stdout.read()
    assert watch.returncode == 0
    id = job(jobs, "start", "waiting", "--detach").stdout.strip()
    assert job(jobs, "cancel", id).stdout == "cancelling\n"
    assert "== cancelled" in job(jobs, "watch", id).stdout


async def test_ctrl_c_leaves_the_job_running_and_says_how_to_watch_it_again(jobs: Server) -> None:
    with running(jobs, "start", "waiting") as process:
        assert process.stdout
        id = process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert f"job watch {id}" in said
    async with await Watcher.enter(jobs) as watcher:
        assert (await watcher.watch(id))["snapshot"]["state"] == "running"
        await watcher.send("cancel", id=id)
        await watcher.groups(id)


def test_a_terminal_shows_a_progress_bar(jobs: Server) -> None:
    ours, theirs = pty.openpty()
    words = command(jobs, "start", "counting", "steps=40", "pause=0.02")
    with subprocess.Popen(words, env=environment(jobs) | {"COLUMNS": "80"}, stdout=theirs) as process:
        os.close(theirs)
        said = b""
        while b"succeeded" not in said:
            said += os.read(ours, 4096)
        process.wait(60)
    os.close(ours)
    assert b"#] 40/40" in said
    assert b"0:00 left" in said


@pytest.mark.chaos
async def test_watching_continues_after_a_restart_of_the_server(start: Start) -> None:
    server = start(job_modules=KINDS)
    id = job(server, "start", "waiting", "--detach").stdout.strip()
    with running(server, "watch", id) as watch:
        headers = {"Authorization": f"Bearer {server.token('alice', 'jobs')}"}
        shown = f"{server.url}/jobs/{id}"
        await until(lambda: "never" in httpx.get(shown, headers=headers).json()["job"]["states"])
        await until(lambda: server.metric("sluice_connections") >= 1)
        server.stop(signal.SIGKILL)
        start(job_modules=KINDS, port=server.port)
        said, faults = watch.communicate(timeout=90)
    assert "== interrupted" in said, faults
    assert "unknown state: begun" in said
    assert watch.returncode == 1
