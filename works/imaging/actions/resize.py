"""The default action: the picture is only resized, which happens before every action."""

from works.imaging.actions import action
from works.imaging.pixels import Image


@action(alias="rl")
def resize(image: Image) -> Image:
    """Resizes the picture."""
    return image
