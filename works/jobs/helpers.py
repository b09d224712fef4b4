"""Helper processes of a job. They decode and encode films, and draw contact sheets.

They read files of untrusted users. So they have limits of memory and time and an almost empty environment, and they are
killed with the job. Their CPU priority is lower than that of decoders, because a person waits for the results of
decoders.
"""

import asyncio
import json
from types import TracebackType
from typing import Any, Literal

from works.errors import WorkError
from works.jobs.settings import HelperSettings
from works.processes.channel import Channel
from works.processes.forkserver import Forkserver

Tool = Literal["reader", "writer", "sheet"]
# Formats and protocols that FFmpeg may use. Without this limit, a playlist could open other files and connect to hosts.
_CAPTURE = "format_whitelist;mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi|protocol_whitelist;file"
_ENVIRONMENT = {
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": _CAPTURE,
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    "OPENCV_LOG_LEVEL": "SILENT",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


class HelperProcesses:
    """An async context manager. At its exit all its processes are killed."""

    def __init__(self, settings: HelperSettings) -> None:
        self._timeout = settings.studio_timeout
        bounds = json.dumps({"memory": settings.studio_memory, "timeout": settings.studio_timeout})
        self._forkserver = Forkserver([bounds], _ENVIRONMENT, "works.jobs.helper_child")
        self._helpers: list[Helper] = []

    async def __aenter__(self) -> "HelperProcesses":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for helper in self._helpers:
            helper.kill()
        await asyncio.to_thread(self._forkserver.close)

    def start(self, tool: Tool) -> "Helper":
        """Forks a process for a tool. Raises WorkError when no process can be started."""
        try:
            serial, end = self._forkserver.fork()
        except OSError as error:
            raise WorkError("internal", f"no process can be started now: {error.strerror}", temporary=True) from None
        self._helpers.append(Helper(tool, self._forkserver, serial, Channel(end), self._timeout))
        return self._helpers[-1]


class Helper:
    """The server's handle of one helper process."""

    def __init__(self, tool: Tool, forkserver: Forkserver, serial: int, channel: Channel, timeout: float) -> None:
        self._tool, self._timeout = tool, timeout
        self._forkserver, self._serial = forkserver, serial
        self._channel: Channel | None = channel

    async def call(self, method: str, payload: bytes = b"", **members: Any) -> tuple[dict[str, Any], bytes]:
        """Calls a method of the tool and returns its answer.

        Raises WorkError: that of the tool, ``timeout`` or ``crashed``. After the last two the process has been killed.
        """
        if self._channel is None:
            raise WorkError("crashed", f"the {self._tool} has ended")
        header = json.dumps({"tool": self._tool, "call": method, **members}).encode()
        answered = False
        try:
            async with asyncio.timeout(self._timeout):
                text, body = await self._channel.ask(header, payload)
            answer: dict[str, Any] = json.loads(text)
            error = WorkError(**answer["error"]) if "error" in answer else None
            answered = True
        except TimeoutError:
            why = f"the {self._tool} did not answer within {self._timeout:g} s (studio_timeout)"
            raise WorkError("timeout", why) from None
        except (OSError, ValueError, TypeError):
            raise WorkError("crashed", f"the {self._tool} has crashed on this input") from None
        finally:
            if not answered:
                self.kill()
        if error:
            raise error
        return answer, body

    def kill(self) -> None:
        if self._channel:
            self._channel.close()
            self._channel = None
            self._forkserver.kill(self._serial)
