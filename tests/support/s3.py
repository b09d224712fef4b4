"""A real S3 server for the tests: moto in a separate process on a free loopback port, with one bucket.

Tests can stop it, pause it, restart it (empty), make it refuse all requests, and make objects look older.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.etree import ElementTree

import httpx

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
KEY, SECRET = "AKIATESTTESTTESTTEST", "a-secret-that-must-be-seen-nowhere"


class S3:
    """An S3 server. ``url`` is where it listens; ``media`` is the URL of a store in its bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.start()

    def start(self) -> None:
        """Starts the server and creates an empty bucket. After a restart it has the same port."""
        with (self.folder / "s3.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.s3", str(self.port)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout
        said = self.process.stdout.readline()
        assert said.startswith("port "), (self.folder / "s3.log").read_text()
        self.port = int(said.split()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.media = "s3://bucket/results"
        self.ask("PUT", "")

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends a request about the bucket or, with a path, about an object in it. Returns the answer."""
        signed = {"Authorization": f"AWS {KEY}:as-good-as-any"}
        answer = httpx.request(method, f"{self.url}/bucket{path}", headers=signed, timeout=60, **options)
        assert answer.status_code < 300, answer.text
        return answer

    @property
    def settings(self) -> dict[str, str]:
        """The settings with which a server uses the bucket, without the secret."""
        return {"store_endpoint": self.url, "store_region": "us-east-1", "store_key": KEY}

    @property
    def values(self) -> dict[str, str]:
        """The settings in the form that StoreOptions takes."""
        names = {"aws_endpoint_url_s3": self.url, "aws_region": "us-east-1"}
        return names | {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}

    def keys(self, prefix: str = "") -> list[str]:
        """Returns all keys that start with ``prefix``."""
        tree = ElementTree.fromstring(self.ask("GET", "", params={"list-type": "2", "prefix": prefix}).text)
        return [str(found.text) for found in tree.iter("{http://s3.amazonaws.com/doc/2006-03-01/}Key")]

    def get(self, key: str) -> httpx.Response:
        return self.ask("GET", f"/{key}")

    def put(self, key: str, data: bytes = b"x") -> None:
        self.ask("PUT", f"/{key}", content=data)

    def age(self, part: str, seconds: float) -> None:
        """Makes all objects whose key contains ``part`` look older by that many seconds."""
        httpx.post(f"{self.url}/-/age", params={"part": part, "seconds": seconds}, timeout=60).raise_for_status()

    def refuse(self, status: int, code: str) -> None:
        """Answers every further request with this status and code; status 0 ends it."""
        httpx.post(f"{self.url}/-/refuse", params={"status": status, "code": code}, timeout=60).raise_for_status()

    def deny(self, *actions: str) -> None:
        """Sets a bucket policy that denies these actions to every user."""
        resources = ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]
        denied = {"Effect": "Deny", "Principal": "*", "Action": list(actions), "Resource": resources}
        policy = {"Version": "2012-10-17", "Statement": [denied]}
        self.ask("PUT", "", params={"policy": ""}, content=json.dumps(policy))

    def pause(self) -> None:
        """Suspends the server: it neither answers nor closes connections, and requests wait."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)
        if self.process.stdout:
            self.process.stdout.close()


@contextmanager
def s3_in(folder: Path) -> Iterator[S3]:
    running = S3(folder)
    try:
        yield running
    finally:
        running.kill()


Start = Callable[..., Any]


class _Backdoor:
    """Wraps moto's application and adds requests by which tests control it."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._refused = 0, ""

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        asked = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
        if environ["PATH_INFO"] == "/-/age":
            _age(asked["part"], float(asked["seconds"]))
        elif environ["PATH_INFO"] == "/-/refuse":
            self._refused = int(asked["status"]), asked.get("code", "")
        elif self._refused[0]:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(f"{self._refused[0]} Refused", [("Content-Type", "application/xml")])
            return [f"<Error><Code>{self._refused[1]}</Code><Message>refused</Message></Error>".encode()]
        else:
            return list(self._application(environ, start))
        start("200 OK", [])
        return []


def _age(part: str, seconds: float) -> None:
    from moto.s3.models import s3_backends

    for bucket in s3_backends["123456789012"]["aws"].buckets.values():
        for name, key in list(bucket.keys.items()):
            if part in name:
                key.last_modified -= timedelta(seconds=seconds)


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = _Backdoor(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", int(sys.argv[1]), application, threaded=True)
    print("port", server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
