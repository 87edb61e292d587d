"""What streams of samples share: an epoch that running workers see, decoding, and the library that reads them.

Each reader, which is a data-loader worker of one process that trains or that process itself without workers, reads a
part of its own; all parts together are every sample once. The libraries are optional: ``pip install -e ".[streams]"``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import torch
from PIL import Image
from torch.utils.data import IterableDataset

from ..arguments import check_count
from ..canvas import image_size
from ..mixing import Sample
from ..pipelines import apply, check_transform
from ..readers import this_process
from ..shared import Shared
from ..switch import tell_transform
from ..targets import Target
from .bounds import PixelsOrNone
from .images import check_reduce_to, content_size, convert_image, decode_image
from .reduction import reduce_target
from .samples import Layout, plain_number, read_target


class SampleStream(IterableDataset[Sample]):
    """A stream that knows its classes, its epoch, which running workers see, and which process this is.

    Attributes:
        shares_itself_out: each reader gets a part of its own, so ``MixupIterable`` does not share it out again.
    """

    shares_itself_out = True

    def __init__(
        self, layout: Layout, transform: Callable[[Any, Target], Sample] | None, reduce_to: int | None
    ) -> None:
        super().__init__()
        check_reduce_to(reduce_to)
        self.layout = layout
        self.reduce_to = reduce_to
        self.transform = check_transform(transform)
        self._epoch = Shared(torch.tensor([0]))
        self._process = this_process()

    @property
    def epoch(self) -> int:
        """The epoch that the order belongs to."""
        return int(self._epoch.values[0])

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the order belongs to, 0 or more, from the next reading on, here and in running workers."""
        self._epoch.values[0] = check_count("epoch", epoch)
        tell_transform(self, epoch)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes without background; label i is ``class_names[i - 1]``."""
        return tuple(str(name) for name in self.layout.classes)

    @property
    def num_classes(self) -> int:
        """K, background included, as torchvision's detector builders want it."""
        return len(self.layout.classes) + 1

    def _sample(self, row: Mapping[str, Any], picture: Any, name: str) -> Sample:
        """A sample of a row; ``picture`` is the content of an image file, or what Pillow has opened."""
        size = _stated_size(row, name)
        if isinstance(picture, bytes):
            if size is None and self.reduce_to is not None:
                size = content_size(picture, name=name)
            image = decode_image(picture, size, name=name, reduce_to=self.reduce_to)
        elif isinstance(picture, Image.Image):
            image = convert_image(picture, size, name=name)
        else:
            wanted = "the bytes of a file, a path or an image of Pillow"
            raise ValueError(f"{name}: the image must be {wanted}, got {type(picture).__name__}")
        size = size or image_size(image)
        target = reduce_target(read_target(row, self.layout, size, name), size, image_size(image))
        return apply(self.transform, image, target)

    def __getstate__(self) -> dict[str, Any]:
        # a worker started by spawn has no process group of its own to ask
        return {**self.__dict__, "_process": this_process(self._process)}


def _stated_size(row: Mapping[str, Any], name: str) -> tuple[int, int] | None:
    """(H, W) where the row states both."""
    height, width = (_side(row, key, name) for key in ("height", "width"))
    return (height, width) if height and width else None


def _side(row: Mapping[str, Any], key: str, name: str) -> int | None:
    try:
        side: int | None = msgspec.convert(plain_number(row.get(key)), PixelsOrNone)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {key}: {error}") from None
    return side


def load_library(name: str) -> Any:
    """A module of an optional library, which is loaded no sooner than it is needed.

    Raises:
        ImportError: it is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'{name} is not installed: pip install -e ".[streams]"') from error
