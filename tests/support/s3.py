"""A real S3 server for the tests: moto's, as a process of its own on a free loopback port, with one bucket.

It can be stopped, paused and started again (empty), made to refuse everything, and made to believe that an object is
older than it is.
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
    """``url`` is where it listens; ``media`` is a store's URL in its bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.start()

    def start(self) -> None:
        """Until it listens and has an empty bucket; on its old port when it is started again."""
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
        """The answer to a request about the bucket or, with a path, something in it."""
        signed = {"Authorization": f"AWS {KEY}:as-good-as-any"}
        answer = httpx.request(method, f"{self.url}/bucket{path}", headers=signed, timeout=60, **options)
        assert answer.status_code < 300, answer.text
        return answer

    @property
    def settings(self) -> dict[str, str]:
        """By which a server uses it, but for the secret."""
        return {"store_endpoint": self.url, "store_region": "us-east-1", "store_key": KEY}

    @property
    def values(self) -> dict[str, str]:
        """As StoreOptions take them."""
        names = {"aws_endpoint_url_s3": self.url, "aws_region": "us-east-1"}
        return names | {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}

    def keys(self, prefix: str = "") -> list[str]:
        """All keys that begin so."""
        tree = ElementTree.fromstring(self.ask("GET", "", params={"list-type": "2", "prefix": prefix}).text)
        return [str(found.text) for found in tree.iter("{http://s3.amazonaws.com/doc/2006-03-01/}Key")]

    def get(self, key: str) -> httpx.Response:
        return self.ask("GET", f"/{key}")

    def put(self, key: str, data: bytes = b"x") -> None:
        self.ask("PUT", f"/{key}", content=data)

    def age(self, part: str, seconds: float) -> None:
        """Everything with this in its key is as if that much older."""
        httpx.post(f"{self.url}/-/age", params={"part": part, "seconds": seconds}, timeout=60).raise_for_status()

    def refuse(self, status: int, code: str) -> None:
        """From now on every request is answered so; status 0: no longer."""
        httpx.post(f"{self.url}/-/refuse", params={"status": status, "code": code}, timeout=60).raise_for_status()

    def deny(self, *actions: str) -> None:
        """The bucket's policy denies these actions to everybody."""
        resources = ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]
        denied = {"Effect": "Deny", "Principal": "*", "Action": list(actions), "Resource": resources}
        policy = {"Version": "2012-10-17", "Statement": [denied]}
        self.ask("PUT", "", params={"policy": ""}, content=json.dumps(policy))

    def pause(self) -> None:
        """It neither answers nor hangs up: what is sent to it waits."""
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
    """moto's application, and what the tests need to do to it."""

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
