"""Processes one task: read the header, decode, run the action, encode, store. It runs in a child, in a cluster or in a
test.
"""

import time
from typing import Any

from works.errors import WorkError
from works.imaging import actions
from works.imaging.codec import SUFFIX, decode, encode, target_size
from works.imaging.image_header import ImageHeader, read_header
from works.imaging.pixels import size_of
from works.imaging.settings import ImageLimits
from works.imaging.task import Result, Task
from works.storage.results import ResultStore


def process(task: Task, results: ResultStore, limits: ImageLimits) -> Result:
    """Processes ``task`` and stores its result in ``results``.

    Raises:
        WorkError: the picture or an option is invalid, or a limit is exceeded.
        OSError: the result cannot be stored.
    """
    started = time.perf_counter()
    header = read_header(task.payload)
    check(header, limits)
    size = target_size(header, task.zoom, task.fit)
    check_size("the result would be", size, limits)

    image = decode(task.payload, header, size)
    done = actions.apply(task.action, image, task.options)

    data = None
    if isinstance(done, actions.Findings):
        data, done = located(done, header, size, task.offset_top), done.image
    form, body = header.format, b""
    if task.deliver != "data":
        body, form = encode(done, task.format, header.format)
    name = results.put(body, SUFFIX[form]) if task.deliver == "store" else ""

    width, height = size_of(done)
    return Result(
        width=width,
        height=height,
        format=form,
        name=name,
        payload=body if task.deliver == "inline" else b"",
        data=data,
        work_ms=(time.perf_counter() - started) * 1000,
    )


def check(header: ImageHeader, limits: ImageLimits) -> None:
    """Checks the header against the limits. Raises WorkError for a picture that must not be decoded."""
    if header.format not in limits.formats:
        raise WorkError(
            "unsupported_format", f"{header.format} is not accepted by this server; send {', '.join(limits.formats)}"
        )
    if header.frames > limits.max_frames:
        raise WorkError(
            "unsupported_format",
            f"the picture has {header.frames} frames; at most {limits.max_frames} is accepted (max_frames)",
        )
    check_size("the picture is", (header.width, header.height), limits)


def check_size(what: str, size: tuple[int, int], limits: ImageLimits) -> None:
    """Raises WorkError when ``size`` (width, height in pixels) exceeds a limit. ``what`` begins the message."""
    width, height = size
    if width * height > limits.max_pixels:
        raise WorkError(
            "too_many_pixels",
            f"{what} {width} x {height}; at most {limits.max_pixels:,} pixels are accepted (max_pixels)",
        )
    if max(size) > limits.max_side:
        raise WorkError(
            "too_many_pixels",
            f"{what} {width} x {height}; a side may have at most {limits.max_side:,} pixels (max_side)",
        )


def located(found: actions.Findings, header: ImageHeader, size: tuple[int, int], offset_top: float) -> dict[str, Any]:
    """Returns the findings with their boxes in source pixels of the slice, and as ``page`` in source pixels of the
    whole picture.
    """
    across, down = header.upright[0] / size[0], header.upright[1] / size[1]
    items = []
    for item in found.items:
        x, y, width, height = item["box"]
        box = [round(x * across), round(y * down), round(width * across), round(height * down)]
        items.append({**item, "box": box, "page": [box[0], box[1] + offset_top, box[2], box[3]]})
    return {found.name: items}
