"""What COCO files say of an image and of an object, as far as all who read them agree; and numbers as tools write them.

Where an integer is meant, ``1.0`` is 1. Numbers in quotes are none.
"""

from __future__ import annotations

from msgspec import Struct

from .bounds import Flag, Id, PixelsOrNone


class ImageRow(Struct, gc=False):
    """An image; sides are in pixels, 0 and None where the file does not state them."""

    id: Id
    file_name: str = ""
    height: PixelsOrNone = None
    width: PixelsOrNone = None

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W), if both are stated."""
        return (self.height, self.width) if self.height and self.width else None


class AnnotationRow(Struct, gc=False, kw_only=True):
    """An object without its box, of which readers want different things."""

    id: Id | None = None
    image_id: Id
    category_id: Id
    area: float | None = None
    iscrowd: Flag = 0
    difficult: bool | int | None = 0
