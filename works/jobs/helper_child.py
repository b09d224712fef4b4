"""A helper process of a job. It answers calls of one tool, as a decoder child answers tasks."""

import json
import os
import socket
import sys
from typing import Any

from works.errors import WorkError
from works.jobs.batch.contact_sheet import ContactSheet
from works.jobs.film.transcode import FilmReader, FilmWriter
from works.processes.child import ChildAnswer, answer_all, only_work_errors
from works.processes.forkserver import serve

_TOOLS: dict[str, type[Any]] = {"reader": FilmReader, "writer": FilmWriter, "sheet": ContactSheet}
# Added to the niceness, because a person waits for the results of decoders.
_NICER = 5


def make_answer(memory: int) -> ChildAnswer:
    """Answers calls. The first call creates the ``tool``. ``call`` names a method that takes a payload and members."""
    tools: dict[str, Any] = {}

    def answer(members: dict[str, Any], payload: bytes) -> tuple[bytes, bytes]:
        name, method = members.pop("tool"), members.pop("call")
        try:
            with only_work_errors(memory):
                if name not in tools:
                    tools[name] = _TOOLS[name]()
                result, body = getattr(tools[name], method)(payload, **members)
                return json.dumps(result).encode(), body
        except WorkError as error:
            return json.dumps({"error": error.as_dict()}).encode(), b""

    return answer


def main(arguments: list[str]) -> None:
    """``python -m works.jobs.helper_child CONTROL SETTINGS``: the main function, which Forkserver starts."""
    settings = json.loads(arguments[1])
    os.nice(_NICER)
    serve(
        socket.socket(fileno=int(arguments[0])),
        lambda end: answer_all(end, make_answer(settings["memory"]), settings["memory"], settings["timeout"]),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
