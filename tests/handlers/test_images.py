"""Tests of /ws/images: what a slice may request and how the server answers, over real sockets."""

import base64
from typing import Any

import cv2
import httpx
import pytest

from tests.support.client import Client
from tests.support.pictures import decoded, encoded, photograph, small
from tests.support.running import Server, Start
from works.imaging.pixels import Image, as_image


def page_with_qr_code() -> Image:
    """Returns a gray page with one QR code of 8 pixels per module. The code's corner, inside the quiet zone, is at (56,
    76).
    """
    code = cv2.QRCodeEncoder.create().encode("sluice")
    code = cv2.resize(code, None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
    return as_image(cv2.copyMakeBorder(code, 60, 60, 40, 40, cv2.BORDER_CONSTANT, value=255))


async def test_a_slice_is_answered_with_a_url_of_the_resized_picture(server: Server) -> None:
    async with await Client.connect(server) as client:
        await client.slice("a", encoded(photograph()), 256, zoom=0.5)
        accepted = await client.receive()
        assert accepted == {"type": "accepted", "id": "a", "queued": 1}
        result = await client.wait_for("result")
        assert (result["seq"], result["id"], result["offset_top"]) == (1, "a", 256)
        assert (result["width"], result["height"]) == (256, 256)
        assert result["timing"]["work_ms"] > 0
        assert result["timing"]["queued_ms"] >= 0
        answer = httpx.get(result["url"])
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert decoded(answer.content).shape == (256, 256, 3)


async def test_hello_contains_the_user_the_session_the_limits_and_the_actions(server: Server) -> None:
    async with await Client.connect(server, "beatrix") as client:
        hello = client.hello
        assert hello["user"] == "beatrix"
        assert len(hello["session"]) == 32
        assert hello["epoch"]
        assert hello["limits"]["max_slice_bytes"] == 16 << 20
        assert {"resize", "grayscale", "edges", "denoise", "sharpen", "blur", "binarize", "deskew"} < set(
            hello["actions"]
        )
        blur = hello["actions"]["blur"]
        assert blur["help"].startswith("Blurs")
        assert blur["options"]["radius"]["default"] == 3.0


async def test_a_result_as_bytes_is_a_binary_message(server: Server) -> None:
    async with await Client.connect(server) as client:
        await client.slice("a", small(), respond="bytes", format="png")
        result = await client.wait_for("result")
        assert result["payload"].startswith(b"\x89PNG")
        assert decoded(result["payload"]).shape == (64, 128, 3)


async def test_a_picture_may_be_base64_in_a_text_message(server: Server) -> None:
    async with await Client.connect(server) as client:
        data = base64.b64encode(small()).decode()
        await client.send("slice", id="a", offset_top=0, data=data, respond="bytes")
        result = await client.wait_for("result")
        assert decoded(result["payload"]).shape == (64, 128, 3)


async def test_data_contain_the_boxes_in_the_slice_and_on_the_page(start_here: Start) -> None:
    page, server = page_with_qr_code(), start_here()  # a new server, so that no results of other tests are counted
    async with await Client.connect(server) as client:
        before = server.results()
        await client.slice("a", encoded(page, ".png"), 5000, action="codes", respond="data", zoom=0.5)
        result = await client.wait_for("result")
        (found,) = result["data"]["codes"]
        left, top, width, height = found["box"]
        assert (found["text"], found["kind"]) == ("sluice", "QR")
        assert abs(left - 56) <= 4, "the box is in source pixels at every zoom"
        assert abs(top - 76) <= 4
        assert found["page"] == [left, top + 5000, width, height]
        assert "url" not in result
        assert server.results() == before, "a slice that asks for data must not store a picture"


@pytest.mark.parametrize(
    ("members", "size"),
    [
        ({}, (128, 64)),
        ({"zoom": 0.5}, (64, 32)),
        ({"zoom": 2}, (256, 128)),
        ({"zoom": 0.001}, (1, 1)),
        ({"fit": "32x32"}, (32, 16)),
        ({"fit": "4000x4000"}, (128, 64)),
        ({"fit": "64x8"}, (16, 8)),
        ({"fit": "32x32", "zoom": 3}, (32, 16)),
    ],
)
async def test_the_result_has_the_requested_size(
    server: Server, members: dict[str, Any], size: tuple[int, int]
) -> None:
    async with await Client.connect(server) as client:
        await client.slice("a", small(), respond="bytes", **members)
        result = await client.wait_for("result")
        assert (result["width"], result["height"]) == size
        assert decoded(result["payload"]).shape[1::-1] == size


@pytest.mark.parametrize(
    ("source", "requested", "given"),
    [
        (".jpg", "auto", "jpeg"),
        (".png", "auto", "png"),
        (".webp", "auto", "webp"),
        (".png", "jpeg", "jpeg"),
        (".jpg", "webp", "webp"),
    ],
)
async def test_the_result_has_the_requested_format(server: Server, source: str, requested: str, given: str) -> None:
    async with await Client.connect(server) as client:
        await client.slice("a", encoded(photograph()[:64], source), format=requested)
        result = await client.wait_for("result")
        assert result["format"] == given
        assert httpx.get(result["url"]).headers["Content-Type"] == f"image/{given}"


async def test_the_action_and_its_options_change_the_pixels(server: Server) -> None:
    pixels = {}
    async with await Client.connect(server) as client:
        wanted: list[dict[str, Any]] = [
            {},
            {"action": "rl"},
            {"action": "blur", "options": {"radius": 1}},
            {"action": "blur", "options": {"radius": 9}},
        ]
        for number, members in enumerate(wanted):
            await client.slice(str(number), small(), respond="bytes", format="png", **members)
            pixels[number] = decoded((await client.wait_for("result"))["payload"])
    detail = {number: cv2.Laplacian(image, cv2.CV_64F).var() for number, image in pixels.items()}
    assert (pixels[0] == pixels[1]).all(), "rl is the old name of resize"
    assert detail[0] > detail[2] > detail[3]


async def test_the_client_names_the_picture_of_a_slice(server: Server) -> None:
    async with await Client.connect(server) as client:
        await client.slice("a", small(), 64, image="page 7", height=64)
        result = await client.wait_for("result")
        assert (result["image"], result["offset_top"]) == ("page 7", 64)


async def test_progress_is_sent_for_each_picture_and_the_last_is_complete(server: Server) -> None:
    async with await Client.connect(server) as client:
        for number in range(20):
            await client.slice(f"a{number}", small(), number, image="a")
        for number in range(10):
            await client.slice(f"b{number}", small() if number else b"no picture", number, image="b")
        last = {
            "a": {"type": "progress", "image": "a", "done": 20, "failed": 0, "total": 20},
            "b": {"type": "progress", "image": "b", "done": 9, "failed": 1, "total": 10},
        }
        latest: dict[str, dict[str, Any]] = {}
        while latest != last:  # the last progress of one picture may arrive while slices of the other still run
            progress = await client.wait_for("progress")
            known = latest.get(progress["image"])
            assert known is None or known["done"] <= progress["done"], "progress never goes back"
            latest[progress["image"]] = progress
