"""Images a second that a data loader with workers gives, with mixing and without."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from ..batch import collate
from ..data import DetectionDataset, read_coco
from ..dataset import MixupDataset
from .comparison import BenchmarkReport, comparison, time_in_turn
from .photographs import write_coco

_REFERENCE = "no mixing, torchvision's collate_fn"


def measure_loader(
    workers: int = 2,
    batch_size: int = 4,
    images: int = 256,
    height: int = 480,
    width: int = 640,
    objects: int = 8,
    cache: int = 16,
    repeats: int = 20,
) -> BenchmarkReport:
    """Load batches with mixing, against loading them without.

    Each repetition is an epoch of JPEG files. The workers stay between epochs, as in a training, and begin each with an
    empty cache. All loaders have detmix's ``collate``, except for one as torchvision's reference scripts write it.

    Args:
        workers: processes that load data.
        batch_size: images of a batch.
        images: files.
        height: of each, in pixels.
        width: of each, in pixels.
        objects: in each.
        cache: samples that a worker holds to take partners from.
        repeats: timed epochs of each row.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = write_coco(Path(folder), images, (height, width), objects=objects)
        data = DetectionDataset(read_coco(file, file.parent / "images"))
        sets = {"cache": MixupDataset(data, cache=cache), "two decodes": MixupDataset(data), "no mixing": data}
        options: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers, "persistent_workers": workers > 0}
        loaders = {name: DataLoader(each, collate_fn=collate, **options) for name, each in sets.items()}
        loaders[_REFERENCE] = DataLoader(data, collate_fn=_collate_as_torchvision, **options)
        seconds = time_in_turn({name: partial(_epoch, loader) for name, loader in loaders.items()}, repeats)
    report = BenchmarkReport(f"Loader with {workers} workers, batches of {batch_size}, JPEG files of {width}x{height}")
    speeds = {name: images / values for name, values in seconds.items()}
    for name, against in (("cache", "no mixing"), ("two decodes", "no mixing"), ("cache", _REFERENCE)):
        report.rows.append(comparison(name, speeds[name], against, speeds[against], unit="images/s"))
    return report


def _collate_as_torchvision(batch: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*batch, strict=True))


def _epoch(loader: DataLoader[Any]) -> None:
    data = loader.dataset
    if isinstance(data, MixupDataset):
        data.set_epoch(data.epoch + 1)
    for _ in loader:
        pass
