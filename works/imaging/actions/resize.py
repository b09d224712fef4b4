"""Nothing but the new size."""

from works.imaging.actions import action
from works.imaging.pixels import Image


@action(alias="rl")
def resize(image: Image) -> Image:
    """Only resizes, by zoom or fit."""
    return image
