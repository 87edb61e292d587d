"""Where ground truth and predictions lie: a COCO file or a VOC folder, COCO results or the kit's text files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.paths import require_coco_file
from ..evaluation.kit_files import VOC_CLASSES, is_kit_files, read_kit_files
from ..evaluation.numbering import PREDICTIONS_FILE, file_near, stated_classes
from ..evaluation.reading import read_ground_truth, read_predictions
from ..evaluation.records import Detections, GroundTruth
from ..evaluation.voc_folder import read_voc_folder
from .measured import Options


@dataclass(frozen=True)
class CocoFile:
    """A COCO annotation file."""

    annotations: Path

    @property
    def image_set(self) -> None:
        """The name of the image set: it has none."""
        return None

    def read(self, predictions: Sequence[Path], options: Options) -> GroundTruth:
        """Read it, with the classes that a run states near these predictions; errors are of ``read_ground_truth``.

        A run that does not state all classes of the objects, as where names are spelt in another way, adds none.
        """
        require_coco_file(self.annotations)
        truth = read_ground_truth(self.annotations, masks=options.masks, keypoints=options.keypoints)
        files = [_results_file(path) for path in predictions if not is_kit_files(path)]
        counted = _counted(truth)
        stated = [name for file in files if counted <= set(names := stated_classes(file)) for name in names]
        return _with_classes(truth, stated)


@dataclass(frozen=True)
class VocFolder:
    """A VOC folder: ``Annotations/`` and ``ImageSets/Main/``.

    Attributes:
        root: the folder.
        image_set: the name of the list.
        classes: their names; left out, those of the set's objects, then those that predictions may have beyond: what
            a run states near them or, where the objects are of VOC's own 20 classes, others of these with a text file.
        one_based: corners count from 1, as for ``read_voc_folder``.
    """

    root: Path
    image_set: str
    classes: Sequence[str] | None = None
    one_based: bool = True

    def read(self, predictions: Sequence[Path], options: Options) -> GroundTruth:
        """Read it, with the classes that these predictions may have.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: masks or keypoints are wanted; or as ``read_voc_folder``.
        """
        if options.measured != "boxes":
            raise ValueError(f"a VOC folder has no {options.measured}: leave out --iou-type {options.iou_type}")
        truth = read_voc_folder(self.root, self.image_set, self.classes, one_based=self.one_based)
        if self.classes is not None:
            return truth
        more = [name for path in predictions for name in _classes_known(path, truth)]
        return _with_classes(truth, more)


def open_predictions(path: Path, truth: GroundTruth, image_set: str | None, options: Options) -> tuple[Detections, str]:
    """Read predictions of either form.

    Args:
        path: COCO results; the folder of a run, which has them; or the kit's text files.
        truth: the ground truth.
        image_set: of a VOC folder, if the ground truth is one: text files must be of it.
        options: whether masks or keypoints are wanted, and classes.

    Returns:
        The detections; and what had to be assumed of them, in words, empty where nothing had.

    Raises:
        FileNotFoundError: there is no such file or folder, or nothing of either form in it.
        ValueError: the predictions are wrong: file, line or record are named, and the likely cause.
    """
    if not is_kit_files(path):
        file, wanted = _results_file(path), {"masks": options.masks, "keypoints": options.keypoints}
        found = read_predictions(file, truth, **wanted, class_agnostic=options.class_agnostic)
        return found, "" if image_set is None or file_near(file) else _numbers_taken(file, truth, image_set)
    if options.measured != "boxes":
        no = f"no {options.measured}: leave out --iou-type {options.iou_type}"
        raise ValueError(f"{path}: the kit's text files have {no}")
    found, missing = read_kit_files(path, truth, image_set)
    counted = _counted(truth)
    lacking = ", ".join(name for name in missing if name in counted)
    return found, f"{path} has no file for {lacking}: taken for nothing found." if lacking else ""


def _numbers_taken(file: Path, truth: GroundTruth, image_set: str) -> str:
    """How a bare list of results is read, whose numbers a VOC folder does not have."""
    classes = ", ".join(f"{number} {name}" for number, name in zip(truth.category_ids, truth.class_names, strict=False))
    return (
        f"Nothing beside {file} says which numbers are which: taken are the classes {classes} (--classes changes "
        f"that), and the images from 1 on in the order of {image_set}.txt."
    )


def _results_file(path: Path) -> Path:
    if path.is_dir():
        path = path / PREDICTIONS_FILE
    if not path.is_file():
        wanted = "COCO results (.json), a run's folder, or the VOC kit's comp3_det_*.txt or comp4_det_*.txt"
        raise FileNotFoundError(f"{path}: no such file; predictions are {wanted}")
    return path


def _classes_known(path: Path, truth: GroundTruth) -> Sequence[str]:
    """The names that predictions may use, whether or not there are such objects."""
    if not is_kit_files(path):
        return stated_classes(_results_file(path))
    if not set(truth.class_names) <= set(VOC_CLASSES):
        return ()
    folder = path if path.is_dir() else path.parent
    return [name for name in VOC_CLASSES if any(folder.glob(f"comp[34]_det_*_{name}.txt"))]


def _counted(truth: GroundTruth) -> set[str]:
    """The names of the classes that have objects."""
    return {truth.class_names[label] for label in np.unique(truth.objects.labels)}


def _with_classes(truth: GroundTruth, names: Sequence[str]) -> GroundTruth:
    """The same with classes that have no objects, nor ids by which a plain list of results could mean them."""
    return replace(truth, class_names=tuple(dict.fromkeys([*truth.class_names, *names])))
