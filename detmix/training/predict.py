"""Detections of a trained model on image files: pictures, COCO results and tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Group
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..analysis.inference import as_input, device_of
from ..captions import as_utf8
from ..data.dataset import OnError
from ..data.find import find_images, names_below_common_folder, stated_images
from ..data.images import read_image
from ..evaluation import coco_results
from ..evaluation.numbering import IMAGES_FILE, PREDICTIONS_FILE, stated_ids
from ..figures import draw_boxes
from ..files import whole_folder
from ..targets import Target
from ..terminal import as_text, bar_of, progress_bars, table_of
from .files import set_aside
from .signals import leave_signals_to_the_parent
from .trained import Trained, device_named

Pictures = Literal["jpg", "png", "none"]

_ROWS = 20  # of a table, at most
_FORMATS: dict[str, dict[str, Any]] = {"jpg": {"format": "JPEG", "quality": 90}, "png": {"format": "PNG"}}


def predict_images(
    sources: Sequence[str],
    trained: Trained,
    output: Path,
    *,
    score_threshold: float = 0.5,
    batch_size: int = 4,
    num_workers: int = 0,
    device: str | None = None,
    pictures: Pictures = "jpg",
    annotations: Path | None = None,
    on_error: OnError = "raise",
) -> Group:
    """Detect objects in images, and write a folder with what was found.

    The folder gets ``predictions.json``, the COCO results of all that the model gives, whatever the score;
    ``images.json``, COCO's ``images`` and ``categories``, which say what the ids mean; and ``pictures/``, each
    image with its boxes. It gets into place whole, when all images are done; an earlier folder of that name is
    kept as ``<name>-1``, ``-2`` ...

    Images are read and scaled as in the trainer. Detectors pad the images of a batch to one size, so where sizes
    differ, the neighbours in the batch may change a digit.

    Args:
        sources: image files, folders and patterns, as ``find_images`` takes them.
        trained: the detector and its classes; it is moved to the device, and stays in evaluation mode.
        output: the folder.
        score_threshold: least score of a detection that is drawn, and counted in the tables.
        batch_size: images in a batch.
        num_workers: processes that read images; 0 reads them here.
        device: where the detector runs; a GPU if there is one unless given.
        pictures: format of the pictures; ``none`` draws none.
        annotations: COCO file whose ids the images get, by file name; otherwise they are 1, 2 ... as given. Images
            must have the size that it states, as stored or turned as EXIF says.
        on_error: ``skip`` leaves out images that cannot be read, and lists them in ``images.json``.

    Returns:
        Tables for the terminal: what was found by class and, where there are few, by image.

    Raises:
        FileNotFoundError: there are no such images.
        ValueError: an image cannot be read, or is not in ``annotations``; a setting is out of range.
    """
    _check(score_threshold, batch_size, num_workers)
    paths = find_images(sources)
    _check_output(output, paths)
    files = _files(paths, annotations)
    model = trained.model.to(device_named(device)).eval()
    predictions = _Predictions()
    with whole_folder(output) as folder, progress_bars() as bars:
        on_step = bar_of(bars, str(output), "images")
        for done, (file, image, detection) in enumerate(_detections(model, files, batch_size, num_workers), start=1):
            if isinstance(image, str):
                predictions.skip(file, image, on_error)
            else:
                predictions.add(file, image, detection, trained.category_ids)
                if pictures != "none":
                    shown = _of_score(detection, score_threshold)
                    _draw(folder / "pictures" / file.picture, image, shown, trained, pictures)
            on_step(done, len(files))
        predictions.write(folder, trained)
        kept = set_aside(output)
    return Group(*_tables(predictions, trained, score_threshold), *_notes(predictions, output, kept))


class _File(NamedTuple):
    path: Path
    id: int
    size: tuple[int, int] | None  # (H, W) that annotations state
    name: str  # its path from the folder that all have in common
    picture: str  # what is drawn is called so, with a suffix of its own


@dataclass
class _Predictions:
    """What is known of the images so far."""

    images: list[dict[str, Any]] = field(default_factory=list)  # COCO's, with id, file_name, width and height
    results: list[dict[str, Any]] = field(default_factory=list)  # COCO results
    skipped: list[dict[str, str]] = field(default_factory=list)  # file_name and error

    def add(self, file: _File, image: Tensor, detection: Target, category_ids: Sequence[int]) -> None:
        """Keep an image and what was found in it."""
        height, width = image.shape[1:]
        self.images.append({"id": file.id, "file_name": file.name, "height": height, "width": width})
        self.results += coco_results([file.id], [detection], category_ids)

    def skip(self, file: _File, error: str, on_error: OnError) -> None:
        """Note what could not be read, if that is wanted."""
        if on_error == "raise":
            raise ValueError(f"{error}. Nothing was written; with --on-error skip such images are left out")
        self.skipped.append({"file_name": file.name, "error": error})

    def write(self, folder: Path, trained: Trained) -> None:
        """Write it as JSON."""
        if not self.images:
            raise ValueError(f"none of the images could be read; the first: {self.skipped[0]['error']}")
        images = stated_ids(self.images, trained.class_names, trained.category_ids)
        images |= {"skipped": self.skipped} if self.skipped else {}
        (folder / PREDICTIONS_FILE).write_text(json.dumps(self.results))
        (folder / IMAGES_FILE).write_text(json.dumps(images))


class _Images(Dataset[tuple[_File, Tensor | str]]):
    """The images, or in their place what is wrong with them."""

    def __init__(self, files: Sequence[_File]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[_File, Tensor | str]:
        file = self.files[index]
        try:
            return file, read_image(file.path, file.size)
        except (ValueError, OSError) as error:
            return file, as_utf8(str(error))


def _start_worker(number: int) -> None:
    leave_signals_to_the_parent()


def _detections(
    model: nn.Module, files: Sequence[_File], batch_size: int, num_workers: int
) -> Iterator[tuple[_File, Tensor | str, Target]]:
    """Each file with its image and what was detected in it, on the CPU."""
    place = device_of(model)
    own_draws = torch.Generator()  # or the loader would draw from the caller's random state
    loader = DataLoader(
        _Images(files),
        batch_size,
        num_workers=num_workers,
        collate_fn=list,
        generator=own_draws,
        worker_init_fn=_start_worker,
    )
    for batch in loader:
        inputs = [as_input(image, place) for _, image in batch if isinstance(image, Tensor)]
        with torch.no_grad():
            found = iter(model(inputs) if inputs else ())
        for file, image in batch:
            detection = next(found) if isinstance(image, Tensor) else {}
            # masks as bits: those of a hundred objects take a quarter of the bytes, which are copied
            yield file, image, {k: (v > 0.5 if k == "masks" else v).cpu() for k, v in detection.items()}


def _files(paths: Sequence[Path], annotations: Path | None) -> list[_File]:
    names = names_below_common_folder(paths)
    known: list[tuple[int, tuple[int, int] | None]] = [(number, None) for number in range(1, len(paths) + 1)]
    if annotations is not None:
        known = [(image.id, image.size) for image in stated_images(annotations, paths)]
    rows = zip(paths, known, names, _pictures(names, [image[0] for image in known]), strict=True)
    return [_File(path, *image, as_utf8(name.as_posix()), picture.as_posix()) for path, image, name, picture in rows]


def _pictures(names: Sequence[PurePath], ids: Sequence[int]) -> list[PurePath]:
    """What pictures are called: no two the same where capital letters do not count."""
    stems = [name.with_suffix("") for name in names]
    numbered = [name.with_name(f"{number}-{name.name}") for name, number in zip(names, ids, strict=True)]
    return next(chosen for chosen in (stems, list(names), numbered) if _are_apart(chosen))


def _are_apart(names: Sequence[PurePath]) -> bool:
    return len({name.as_posix().casefold() for name in names}) == len(names)


def _of_score(detection: Target, least: float) -> Target:
    return {key: values[detection["scores"] >= least] for key, values in detection.items()}


def _draw(file: Path, image: Tensor, shown: Target, trained: Trained, form: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    edges = () if trained.skeleton is None else trained.skeleton.edges
    draw_boxes(image, shown, trained.class_names, edges=edges).save(
        file.with_name(f"{file.name}.{form}"), **_FORMATS[form]
    )


def _tables(predictions: _Predictions, trained: Trained, least: float) -> list[Table]:
    names = dict(zip(trained.category_ids, trained.class_names, strict=True))
    rows = [row for row in predictions.results if row["score"] >= least]
    count = len(predictions.images)
    title = f"Found in {count} {'image' if count == 1 else 'images'}, with a score of {least:g} or more"
    by_class = table_of(title, ["class"], ["detections", "images", "highest score"])
    for number, name in names.items():
        of_class = [row for row in rows if row["category_id"] == number]
        if of_class or len(names) <= _ROWS:
            by_class.add_row(as_text(name), *_numbers(of_class))
    by_class.add_section()
    by_class.add_row("all", *_numbers(rows))
    if len(predictions.images) > _ROWS:
        return [by_class]
    by_image = table_of("", ["image", "found"], [])
    for image in predictions.images:
        counts = Counter(names[row["category_id"]] for row in rows if row["image_id"] == image["id"])
        found = ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "-"
        by_image.add_row(as_text(image["file_name"]), as_text(found))
    return [by_class, by_image]


def _notes(predictions: _Predictions, output: Path, kept: Path | None) -> Iterator[str]:
    names = [as_text(skipped["file_name"]) for skipped in predictions.skipped]
    if names:
        count = "1 image was" if len(names) == 1 else f"{len(names)} images were"
        shown = ", ".join(names[:_ROWS]) + (" ..." if len(names) > _ROWS else "")
        yield f"{count} left out as unreadable: {shown}"
    if kept:
        yield f"The earlier {as_text(str(output))} is now in {as_text(str(kept))}."


def _numbers(rows: Sequence[dict[str, Any]]) -> list[str]:
    highest = max((row["score"] for row in rows), default=None)
    images = len({row["image_id"] for row in rows})
    return [str(len(rows)), str(images), "-" if highest is None else f"{highest:.2f}"]


def _check(score_threshold: float, batch_size: int, num_workers: int) -> None:
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold must lie in [0, 1], got {score_threshold}")
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"batch_size must be 1 or more and num_workers 0 or more, got {batch_size} and {num_workers}")


def _check_output(output: Path, paths: Sequence[Path]) -> None:
    """An earlier folder is renamed: what is being read must not move with it."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"the output must be a folder, got {output}, a file")
    inside = [path for path in (Path.cwd(), *paths) if path.resolve().is_relative_to(output.resolve())]
    if inside:
        raise ValueError(f"the output must be a folder of its own, got {output}, which holds {inside[0]}")
