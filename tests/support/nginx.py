"""A real nginx for the tests: Debian's package, on a free loopback port, with the shipped ``deploy/nginx.conf``.

Only the addresses and folders in the configuration are replaced by those of the test.
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
# The main configuration of nginx, as in Debian's nginx.conf, with all its files in a folder of the test.
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
    """An nginx in front of the servers on these ports. It serves their folders of results and uploads."""

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
        """Writes the shipped configuration for these servers. ``start`` or ``reload`` puts it into effect."""
        text = SHIPPED.read_text()
        line = re.compile(r"^ *server 127\.0\.0\.1:80\d\d (.*);\n", re.MULTILINE)
        (found, *_) = line.finditer(text)
        listed = "".join(f"    server 127.0.0.1:{port} {found[1]};\n" for port in servers)
        text = text[: found.start()] + listed + line.sub("", text[found.start() :])
        assert "127.0.0.1:80" not in text.partition("upstream")[2], "the configuration lists another server"
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
        """Returns the output of ``nginx -t``, which checks the configuration."""
        done = subprocess.run(self.command("-t"), capture_output=True, text=True, timeout=2 * GUARD)
        return done.stderr

    def start(self) -> None:
        """Starts nginx and waits until it answers."""
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
        """Starts new workers with the current configuration. Old workers end when their last connection has ended."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Stops nginx immediately; all its connections are closed."""
        self.process.terminate()
        self.process.wait(GUARD)


@contextmanager
def nginx_before(folder: Path, servers: Sequence[int], media: Path, uploads: Path) -> Iterator[Nginx]:
    running = Nginx(folder, servers, media, uploads)
    try:
        yield running
    finally:
        running.stop()
