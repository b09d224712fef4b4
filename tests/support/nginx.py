"""A real nginx for the tests: Debian's, on a free loopback port, with the ``deploy/nginx.conf`` that we ship.

Only the addresses and folders in it are replaced by the test's own.
"""

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.ports import free_port
from tests.support.running import GUARD, ROOT

SHIPPED = ROOT / "deploy" / "nginx.conf"
# What Debian's own nginx.conf has around it, in a folder of the test's.
_AROUND = """
daemon off;
worker_processes 2;
pid {folder}/pid;
error_log {folder}/error.log info;
user root;
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    types {{ }}
    default_type application/octet-stream;
    include {folder}/sluice.conf;
}}
"""


class Nginx:
    """In front of the servers on these ports, with their folders of results and of uploads."""

    def __init__(self, folder: Path, servers: Sequence[int], media: Path, uploads: Path) -> None:
        self.folder = folder / "nginx"
        self.folder.mkdir()
        self.port = free_port()
        self.url, self.ws = f"http://127.0.0.1:{self.port}", f"ws://127.0.0.1:{self.port}"
        self._media, self._uploads = media, uploads
        self._around = self.folder / "nginx.conf"
        around = _AROUND.format(folder=self.folder)
        self._around.write_text(around)
        self.configure(servers)
        self.start()

    def configure(self, servers: Sequence[int]) -> None:
        """The shipped configuration, for these servers; ``reload`` or ``start`` takes it."""
        text = SHIPPED.read_text()
        line = re.compile(r"^ *server 127\.0\.0\.1:80\d\d (.*);\n", re.MULTILINE)
        (found, *_) = line.finditer(text)
        listed = "".join(f"    server 127.0.0.1:{port} {found[1]};\n" for port in servers)
        text = text[: found.start()] + listed + line.sub("", text[found.start() :])
        assert "127.0.0.1:80" not in text.partition("upstream")[2], "no server but ours"
        replaced = {
            "listen 80;": f"listen 127.0.0.1:{self.port};",
            "alias /var/lib/sluice/media/;": f"alias {self._media}/;",
            "alias /var/lib/sluice/uploads/;": f"alias {self._uploads}/;",
        }
        for shipped, ours in replaced.items():
            assert text.count(shipped) == 1, shipped
            text = text.replace(shipped, ours)
        (self.folder / "sluice.conf").write_text(text)

    def command(self, *flags: str) -> list[str]:
        return ["nginx", "-p", str(self.folder), "-e", f"{self.folder}/error.log", "-c", str(self._around), *flags]

    def check(self) -> str:
        """What ``nginx -t`` says of the configuration."""
        done = subprocess.run(self.command("-t"), capture_output=True, text=True, timeout=2 * GUARD)
        return done.stderr

    def start(self) -> None:
        """Until it answers."""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        end = time.monotonic() + GUARD
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise AssertionError("nginx does not answer:\n" + (self.folder / "error.log").read_text())
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=GUARD).status_code == 404
        except httpx.TransportError:
            return False

    def reload(self) -> None:
        """New workers with the configuration as it is now; the old ones stay until their last connection ends."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """At once, sockets and all."""
        self.process.terminate()
        self.process.wait(GUARD)


@contextmanager
def nginx_before(folder: Path, servers: Sequence[int], media: Path, uploads: Path) -> Iterator[Nginx]:
    running = Nginx(folder, servers, media, uploads)
    try:
        yield running
    finally:
        running.stop()
