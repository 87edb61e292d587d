"""A training sample, read from a JPEG file and mixed, as a multiple of the same sample without mixing."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import v2

from ..canvas import blend
from ..data import DetectionDataset, read_coco
from ..dataset import MixupDataset
from ..targets import Target
from .comparison import BenchmarkReport, Comparison, comparison, time_in_turn
from .decoders import compare_decoders
from .photographs import write_coco

_SIZES = ((480, 640), (800, 1333))  # height, width
_RECORDS = (118_000, 1_000)
_VISITS = 200  # records visited in each repetition


def measure_sample(images: int = 64, batch_size: int = 8, objects: int = 8, repeats: int = 20) -> BenchmarkReport:
    """Read and mix training samples, against reading them alone.

    The samples are JPEG files of 640x480, as heavy as COCO's, and of 1333x800. They are kept until their batch is
    whole, as in a worker of a loader. "two decodes" loads the partner of each sample, "cache" takes it from the last
    that were loaded, as many as there are files. torchvision's way is its CocoDetection, images as float, and a float
    blend. The wrapper is what mixing does beside the pixels: it draws, looks up the partner, checks and joins the
    targets; its one pixel is blended too, which a row leaves out. The decoders get the same bytes; detmix's reads the
    header for itself, and sees to it that the file is whole.

    Args:
        images: files of each size; a repetition reads each once.
        batch_size: samples that are kept together.
        objects: in each of them.
        repeats: timed repetitions of each row.
    """
    report = BenchmarkReport(f"Training samples from JPEG files, {objects} objects in each")
    for size in _SIZES:
        report.rows += _of_size(size, images, batch_size, objects, repeats)
    report.rows += [_wrapper(objects, repeats), _wrapper(objects, repeats, cache=64)]
    report.rows += [_wrapper_without_blend(objects, repeats), _draw(repeats)]
    report.rows += compare_decoders(repeats)
    return report


def _of_size(size: tuple[int, int], images: int, batch_size: int, objects: int, repeats: int) -> list[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        file = write_coco(Path(folder), images, size, objects=objects)
        data = DetectionDataset(read_coco(file, file.parent / "images"))
        mixed, cached = MixupDataset(data), MixupDataset(data, cache=images)
        sides = {
            "alone": data.__getitem__,
            "two decodes": mixed.__getitem__,
            "cache": cached.__getitem__,
            "torchvision": _torchvision(file, mixed),
        }
        visits = {name: partial(_visit, get, range(images), batch_size) for name, get in sides.items()}
        seconds = time_in_turn(visits, repeats)
    ms = {name: values / images * 1000 for name, values in seconds.items()}
    pixels = f"{size[1]}x{size[0]}"
    return [
        comparison(f"{pixels}, {what}", ms[what], name, ms[against], unit="ms")
        for what, against, name in (
            ("two decodes", "alone", "sample alone"),
            ("cache", "alone", "sample alone"),
            ("two decodes", "torchvision", "torchvision, float blend"),
            ("cache", "torchvision", "torchvision, float blend"),
        )
    ]


def _visit(get: Callable[[int], Any], indices: Sequence[int], batch_size: int) -> None:
    for first in range(0, len(indices), batch_size):
        _ = [get(index) for index in indices[first : first + batch_size]]  # all held at once


def _torchvision(file: Path, draws: MixupDataset) -> Callable[[int], tuple[Tensor, Target]]:
    """The same samples as they are written by hand, in floats."""
    transforms = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    with redirect_stdout(StringIO()):  # pycocotools prints
        coco = datasets.CocoDetection(file.parent / "images", file, transforms=transforms)
    data = datasets.wrap_dataset_for_transforms_v2(coco, target_keys=("boxes", "labels", "image_id"))

    def sample(index: int) -> tuple[Tensor, Target]:
        draw = draws.draw(index)
        assert draw is not None
        (image, target), (other, others) = data[index], data[draw.partner]
        joint = {key: torch.cat([target[key], others[key]]) for key in ("boxes", "labels")}
        return draw.lam * image + (1 - draw.lam) * other, joint

    return sample


class _Records:
    """As many samples as wanted, all one of a single pixel: what is left is what mixing does beside the pixels."""

    def __init__(self, count: int, objects: int) -> None:
        self.count = count
        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(objects, 1)
        target = {"boxes": boxes, "labels": torch.ones(objects, dtype=torch.int64), "area": torch.ones(objects)}
        self.sample = torch.zeros(3, 1, 1, dtype=torch.uint8), target | {"image_id": 1}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.sample


def _wrapper(objects: int, repeats: int, cache: int = 0) -> Comparison:
    what = "wrapper, cache" if cache else "wrapper"
    return _for_each(what, MixupDataset.__getitem__, objects, repeats, cache)


def _wrapper_without_blend(objects: int, repeats: int) -> Comparison:
    """The wrapper less the blend of its one pixel, which is timed beside it."""
    data = MixupDataset(_Records(_RECORDS[0], objects))
    image, _ = data[0]
    sides = {"whole": data.__getitem__, "blend": lambda _: blend(image, image, 0.3)}
    visits = {name: partial(_visit, get, range(_VISITS), 1) for name, get in sides.items()}
    µs = {name: values / _VISITS * 1e6 for name, values in time_in_turn(visits, repeats).items()}
    return comparison("wrapper without its blend", µs["whole"] - µs["blend"], "wrapper", µs["whole"], unit="µs")


def _draw(repeats: int) -> Comparison:
    return _for_each("draw alone", MixupDataset.draw, 1, repeats)


def _for_each(
    what: str, get: Callable[[MixupDataset, int], Any], objects: int, repeats: int, cache: int = 0
) -> Comparison:
    """What one call takes, in a large data set and in a small one."""
    many, few = (MixupDataset(_Records(count, objects), cache=cache) for count in _RECORDS)
    rng = random.Random(0)

    def visit(data: MixupDataset) -> None:
        _visit(partial(get, data), [rng.randrange(len(data)) for _ in range(_VISITS)], 1)

    seconds = time_in_turn({"many": partial(visit, many), "few": partial(visit, few)}, repeats)
    µs = {name: values / _VISITS * 1e6 for name, values in seconds.items()}
    return comparison(f"{what}, {len(many):,} records", µs["many"], f"{len(few):,} records", µs["few"], unit="µs")
