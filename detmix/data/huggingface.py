"""Streams of samples from the streaming data sets of Hugging Face."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..mixing import Sample
from ..readers import this_process
from ..targets import Target
from .cleaning import OnInvalid, require_list
from .paths import read_file
from .samples import BoxFormat, Layout
from .streams import SampleStream, load_library


class HuggingFaceStream(SampleStream):
    """Samples from a streaming data set of Hugging Face: ``load_dataset(..., streaming=True)``.

    A row has an image and its objects, ``{"image": ..., "objects": {"bbox": [...], "category": [...]}}``, as
    detection data sets on the hub have. Images come as (3, H, W) uint8 tensors; targets as from ``DetectionDataset``,
    with ``image_id`` if the row has one.

    An image that is given as a path or URL is opened whatever it names, a file of this machine too, as by the library
    itself. So look at rows of strangers before, or take only data sets that hold the bytes of their images.

    The library shares the data set out: among ranks by shards if their number is a multiple of that of the ranks,
    otherwise by rows; among workers by shards, so that more workers than shards stand idle. For another order each
    epoch pass ``dataset.shuffle(seed=..., buffer_size=...)``, with a seed, or every rank draws an order of its own.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        box_format: BoxFormat,
        classes: Sequence[int | str] | None = None,
        image: str = "image",
        objects: str = "objects",
        boxes: str = "bbox",
        labels: str = "category",
        on_invalid: OnInvalid = "drop",
        reduce_to: int | None = None,
        transform: Callable[[Any, Target], Sample] | None = None,
    ) -> None:
        """Wrap a data set.

        Args:
            dataset: a ``datasets.IterableDataset``, not yet split among ranks; its ``with_format`` does not matter.
            box_format: ``"xywh"`` as COCO has it, or ``"xyxy"``, in pixels counted from 0.
            classes: what the rows write for label 1, 2 ... K-1: names or ids. Left out, the names of the data set's
                ``ClassLabel``; rows with a ``ClassLabel`` count as writing names.
            image: key of the image: one that Pillow has opened, the bytes of a file, a path or URL, or a dict with
                ``bytes`` or ``path``.
            objects: key of the objects, a dict of columns or a list of dicts.
            boxes: key of their boxes.
            labels: key of their classes.
            on_invalid: as for ``WebDatasetStream``.
            reduce_to: as for ``WebDatasetStream``; an image that Pillow has opened already keeps its size.
            transform: called with image and target, returns both.

        Raises:
            ImportError: ``datasets`` is not installed.
            TypeError: the data set is not a streaming one, or classes a text.
            ValueError: it is split already; it has no class names and none are given; box_format or on_invalid is not
                one of those named here.
        """
        require_list(classes, "classes")
        dataset = _undecoded(_check_streaming(dataset), image)
        names = _class_label_names(dataset.features, objects, labels)
        if classes is None and not names:
            raise ValueError(f"{objects}.{labels} is no ClassLabel, so classes must be given: names or ids, in order")
        chosen = names if classes is None else tuple(classes)
        super().__init__(Layout(chosen, box_format, objects, boxes, labels, names, on_invalid), transform, reduce_to)
        self.dataset = dataset
        self.image = image

    def __iter__(self) -> Iterator[Sample]:
        """The samples of this reader.

        Raises:
            ValueError: a row lacks its image or its objects, or they are malformed. The row is named, by its number
                in what this reader reads, and its image id if it has one.
            OSError: the image is a path that cannot be read; row and path are named.
        """
        rank, processes = this_process(self._process)
        part = load_library("datasets.distributed").split_dataset_by_node(self.dataset, rank, processes)
        part.set_epoch(self.epoch)
        needed = ("height", "width", "image_id", self.layout.objects)
        for number, values in enumerate(part):
            row = {key: _plain(value) if key in needed else value for key, value in values.items()}
            name = f"row {number} of this reader" + (f", image_id {row['image_id']!r}" if "image_id" in row else "")
            if self.image not in row:
                raise ValueError(f"{name}: the key {self.image!r} is missing, got {sorted(row)}")
            yield self._sample(row, _content(row[self.image], name), name)


def _check_streaming(dataset: Any) -> Any:
    kind = load_library("datasets").IterableDataset
    if not isinstance(dataset, kind):
        raise TypeError(
            f"wanted a datasets.IterableDataset, got {type(dataset).__name__}: load it with streaming=True and the "
            "name of a split, or turn a Dataset into one by to_iterable_dataset(num_shards=...)"
        )
    if getattr(dataset, "_distributed", None) is not None:
        raise ValueError("the data set is split among ranks already: pass it whole, the stream does that")
    return dataset


def _undecoded(dataset: Any, image: str) -> Any:
    """The data set with plain values, and the bytes of images in the place of images, so that all are read alike."""
    kind, dataset = load_library("datasets").Image, dataset.with_format(None)
    decoded = isinstance((dataset.features or {}).get(image), kind)
    return dataset.cast_column(image, kind(decode=False)) if decoded else dataset


def _plain(value: Any) -> Any:
    """Python's own lists and numbers for those of numpy and torch, which functions of a data set may have made."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _content(picture: Any, name: str) -> Any:
    """The bytes of a file in the place of where it lies; data sets of image folders give URLs of the hub."""
    if isinstance(picture, Mapping):
        picture = picture.get("path") if picture.get("bytes") is None else picture["bytes"]
    if not isinstance(picture, (str, Path)):
        return picture
    try:
        if "://" not in str(picture):
            return read_file(Path(picture))
        opener = load_library("fsspec").open(picture, "rb")
        if isinstance(opener.fs, load_library("fsspec.implementations.local").LocalFileSystem):
            return read_file(Path(opener.path))
        with opener as file:
            return file.read()
    except MemoryError:  # says nothing of the file
        raise
    except Exception as error:  # each of fsspec's file systems has its own
        raise OSError(f"{name}: {picture} cannot be read: {error}") from error


def _class_label_names(features: Mapping[str, Any] | None, objects: str, labels: str) -> tuple[str, ...]:
    """The names of a ClassLabel; none where the labels are something else."""
    columns = _element((features or {}).get(objects))
    found = _element(columns.get(labels)) if isinstance(columns, Mapping) else None
    return tuple(getattr(found, "names", None) or ())


def _element(feature: Any) -> Any:
    """What a feature that is a list is a list of."""
    while isinstance(feature, list) or hasattr(feature, "feature"):
        feature = feature[0] if isinstance(feature, list) else feature.feature
    return feature
