"""Writes the generated parts of docs/reference.md and docs/actions.md, and the pictures of docs/actions.md.

Run it after a change of a setting, a metric or an action: `make reference`. A test compares its output with the files.
"""

import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import cv2
import numpy as np

import config
from tests.support.pictures import encoded, photograph
from tests.support.running import ROOT
from works.imaging import actions
from works.imaging.actions import Action, Findings
from works.imaging.codec import resize
from works.imaging.pixels import Image, as_image, to_bgr
from works.metrics import Metrics

DOCS = ROOT / "docs"
# Width and height in pixels of one half of a picture: before, and after.
_WIDTH, _HEIGHT = 360, 240
# Options in the pictures, where the defaults would show too little.
_SHOWN: dict[str, dict[str, Any]] = {"blur": {"radius": 5}, "denoise": {"strength": 40}, "sharpen": {"amount": 2}}


def settings() -> str:
    """Every setting in its group, with its default and its description."""
    return "\n".join(_settings())


def _settings() -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for name, (path, field) in config.SETTINGS.items():
        default = config.shown_default(name, field.default)
        entry = f"- `{name}` = {default}: {field.description}"
        groups.setdefault(path[0], []).append(_wrapped(entry))
    for name, group in config.Settings():
        yield f"### {name.replace('_', ' ').capitalize()}\n\n{group.__doc__}\n"
        yield "\n".join(groups[name]) + "\n"


def metrics() -> str:
    """Every metric with its type, its labels and its meaning."""
    lines = ["| metric | type | meaning |", "|---|---|---|"]
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        lines.append(f"| `{name}` | {family.type} | {family.documentation} |")
    return "\n".join(lines) + "\n"


def action_list() -> str:
    """Every action with its options, its limits and its picture."""
    return "\n".join(_action(action) for action in _known())


def _known() -> list[Action]:
    return [actions.find(name) for name in actions.offered()]


def _action(action: Action) -> str:
    shown = "".join(f", `{name}` = {value}" for name, value in _SHOWN.get(action.name, {}).items())
    lines = [f"## {action.name}\n", _wrapped(action.help, "") + "\n"]
    lines += [f"![{action.name}: before and after{shown.replace('`', '')}](actions/{action.name}.jpg)\n"]
    lines += [_option(name, schema) for name, schema in action.schema.items()] or ["No options."]
    return "\n".join(lines) + "\n"


def _option(name: str, schema: dict[str, Any]) -> str:
    if "enum" in schema:
        limits = " or ".join(f"`{value}`" for value in schema["enum"])
    elif schema["type"] == "boolean":
        limits = "`true` or `false`"
    else:
        least = f"{schema['minimum']} to" if "minimum" in schema else f"more than {schema['exclusiveMinimum']}, at most"
        limits = f"{schema['type']}, {least} {schema['maximum']}"
    default = str(schema["default"]).lower()
    return _wrapped(f"- `{name}` = `{default}` ({limits}): {schema['description']}")


def _wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def picture(name: str) -> Image:
    """The picture before the action and after it, side by side: (240, 732, 3)."""
    before = as_image(_PICTURES.get(name, _photograph)())
    result = actions.apply(name, before, actions.check(name, _SHOWN.get(name, {})))
    after = to_bgr(result.image if isinstance(result, Findings) else result)
    if name == "resize":
        after = _on_white(resize(before, (_WIDTH // 2, _HEIGHT // 2)))
    elif isinstance(result, Findings) and result.name == "lines":
        after = _listed(result)
    gap = np.full((_HEIGHT, 12, 3), 255, np.uint8)
    return as_image(np.hstack([before, gap, after]))


def _photograph() -> Image:
    """Part of a photograph of NASA (public domain): the astronaut Eileen Collins."""
    return resize(as_image(photograph()[0:300, 40:490]), (_WIDTH, _HEIGHT))


def _portrait() -> Image:
    return resize(as_image(photograph()[0:230, 50:395]), (_WIDTH, _HEIGHT))


def _noisy() -> Image:
    noise = np.random.default_rng(1).normal(0, 16, (_HEIGHT, _WIDTH, 3))
    return as_image((_photograph() + noise).clip(0, 255).astype(np.uint8))


def _with_code() -> Image:
    code = cv2.QRCodeEncoder.create().encode("https://sluice.example/")
    page = _photograph().copy()
    page[40:200, 180:340] = to_bgr(as_image(cv2.resize(code, (160, 160), interpolation=cv2.INTER_NEAREST)))
    return page


def _page() -> Image:
    """A page with printed text."""
    page = np.full((_HEIGHT, _WIDTH, 3), 235, np.uint8)
    lines = (
        "The river rises in the hills",
        "and falls through six locks.",
        "Each lock has two gates;",
        "one is always shut.",
    )
    for number, line in enumerate(lines):
        cv2.putText(page, line, (24, 60 + 44 * number), cv2.FONT_HERSHEY_COMPLEX, 0.62, (50, 45, 40), 1, cv2.LINE_AA)
    return as_image(page)


def _shaded() -> Image:
    """The page in a light that falls from the left."""
    light = np.linspace(1.0, 0.35, _WIDTH)[None, :, None]
    return as_image((_page() * light).astype(np.uint8))


def _crooked() -> Image:
    turn = cv2.getRotationMatrix2D((_WIDTH / 2, _HEIGHT / 2), 7, 1)
    return as_image(cv2.warpAffine(_page(), turn, (_WIDTH, _HEIGHT), borderMode=cv2.BORDER_REPLICATE))


def _on_white(image: Image) -> Image:
    page = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    page[: image.shape[0], : image.shape[1]] = image
    return as_image(page)


def _listed(findings: Findings) -> Image:
    """The boxes of the findings, and their text."""
    page = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    for item in findings.items:
        x, y, width, height = item["box"]
        cv2.rectangle(page, (x, y, width, height), (0, 160, 0), 1)
        cv2.putText(
            page, item["text"], (x + 4, y + height - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA
        )
    return as_image(page)


_PICTURES: dict[str, Callable[[], Image]] = {
    "binarize": _shaded,
    "codes": _with_code,
    "denoise": _noisy,
    "deskew": _crooked,
    "faces": _portrait,
    "text": _page,
}


def with_generated(text: str, parts: dict[str, str]) -> str:
    """The document with each part between its two marks replaced."""
    for name, part in parts.items():
        mark = rf"(<!-- {name}: generated -->\n)(.*?)(<!-- end -->)"
        assert len(re.findall(mark, text, re.DOTALL)) == 1, name
        text = re.sub(mark, lambda found, part=part: f"{found[1]}\n{part}\n{found[3]}", text, flags=re.DOTALL)
    return text


@cache
def pages() -> dict[str, str]:
    """File name -> its text with all generated parts, as it should be."""
    parts = {
        "reference.md": {"settings": settings(), "metrics": metrics()},
        "actions.md": {"actions": action_list()},
    }
    return {name: with_generated((DOCS / name).read_text(), generated) for name, generated in parts.items()}


def main() -> None:
    for name, text in pages().items():
        (DOCS / name).write_text(text)
    for action in _known():
        (DOCS / "actions" / f"{action.name}.jpg").write_bytes(encoded(picture(action.name), quality=82))


if __name__ == "__main__":
    main()
