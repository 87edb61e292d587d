"""Predictions as the VOC development kit wants them: a text file for each class, a line for each detection.

The files are called ``comp3_det_<image set>_<class>.txt``, or ``comp4_det_...`` where other data were used in the
training. A line is ``<image> <score> <xmin> <ymin> <xmax> <ymax>``: the name of an image without its suffix, with or
without its folders, any finite score, and a box in pixels that count from 1, the last one included.

Source: Everingham and Winn, The PASCAL Visual Object Classes Challenge 2012 Development Kit, section 4.2.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.bounds import EXACT
from ..data.paths import plain_name, read_file
from .records import Detections, GroundTruth, xywh_of

VOC_CLASSES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
    "sheep sofa train tvmonitor".split()
)
"""The kit's own 20 classes."""

_FILES = "comp[34]_det_*.txt"
_FORM = "<image> <score> <xmin> <ymin> <xmax> <ymax>"
_SHOWN = 3


def is_kit_files(source: Path) -> bool:
    """Whether predictions are the kit's: a text file, or a folder with files of the kit's names."""
    return source.suffix == ".txt" or (source.is_dir() and any(source.glob(_FILES)))


def read_kit_files(
    source: str | Path, truth: GroundTruth, image_set: str | None = None
) -> tuple[Detections, list[str]]:
    """Read the kit's text files.

    Args:
        source: a folder, or the file of one class.
        truth: the ground truth: its images are known by their file names without suffix, and by the last part of these
            where no other ends in it; its classes by name.
        image_set: whose detections they must be; left out, that part of the names is not looked at.

    Returns:
        The detections, class by class, each in the order of its file; and the classes that have no file.

    Raises:
        FileNotFoundError: there is no such file or folder, or none of its files has a name as the kit's.
        ValueError: a file is of another image set, or of a class that the ground truth does not have; two files are
            of one class; a line is not of the kit's form, or of an image that the ground truth does not have. File
            and line are named.
    """
    source = Path(source)
    images = _images(truth)
    files = _files_of_classes(source, truth.class_names, image_set)
    parts = [_read(path, images, truth.source) for path in files.values()]
    labels = np.repeat(np.array(list(files), dtype=np.int64), [len(part) for part in parts])
    rows = np.concatenate(parts)
    corners = np.ascontiguousarray(rows[:, 2:])
    xywh = xywh_of(corners)
    found = Detections(
        images=rows[:, 0].astype(np.int64),
        labels=labels,
        xywh=xywh,
        corners=corners,
        areas=xywh[:, 2] * xywh[:, 3],
        masks=None,
        keypoints=None,
        scores=np.ascontiguousarray(rows[:, 1]),
        source=str(source),
    )
    return found, [name for label, name in enumerate(truth.class_names) if label not in files]


def _images(truth: GroundTruth) -> dict[str, int]:
    """Where each image stands, by its name, and by the last part of that where no other image has it."""
    names = [posixpath.splitext(plain_name(name))[0] for name in truth.file_names]
    name, count = Counter(names).most_common(1)[0] if names else ("-", 1)
    if count > 1:
        wanted = "the kit's text files need images of different file names, without suffix"
        raise ValueError(f"{truth.source}: {wanted}, and {count} are called {name!r}")
    last = [posixpath.basename(name) for name in names]
    counts = Counter(last)
    short = {name: place for place, name in enumerate(last) if counts[name] == 1}
    return short | {name: place for place, name in enumerate(names)}


def _files_of_classes(source: Path, names: Sequence[str], image_set: str | None) -> dict[int, Path]:
    """The file of each class that has one, by label."""
    paths = [source] if source.is_file() else _of_set(sorted(source.glob(_FILES)), image_set)
    if not paths:
        raise FileNotFoundError(f"{source}: no such file, and no folder with files {_FILES}")
    files: dict[int, Path] = {}
    for path in paths:
        label = names.index(_class_of(path, names, image_set))
        if label in files:
            both = f"{files[label].name} and {path.name} are of one class"
            raise ValueError(f"{source}: {both}; pass the file of one class, or put each competition in its own folder")
        files[label] = path
    return files


def _of_set(paths: list[Path], image_set: str | None) -> list[Path]:
    """The files of the image set, where there are some; other sets may have theirs beside them."""
    own = [path for path in paths if re.match(rf"comp[34]_det_{re.escape(image_set)}_", path.name)] if image_set else []
    return own or paths


def _class_of(path: Path, names: Sequence[str], image_set: str | None) -> str:
    match = re.fullmatch(r"comp[34]_det_((.+)_.+)", path.stem)
    if match is None or (image_set is not None and not match[1].startswith(f"{image_set}_")):
        wanted = f"comp3_det_{image_set or '<image set>'}_<class>.txt, or comp4_..."
        raise ValueError(f"{path}: a file of predictions must be called {wanted}; is it of another image set?")
    rest = match[1]
    starts = [len(image_set) if image_set else found.start() for found in re.finditer("_", rest)]
    possible = [rest[start + 1 :] for start in starts]  # sets and classes may have a _ in their names
    known = [name for name in possible if name in names]
    if not known:
        near = get_close_matches(possible[-1], names, 1)
        hint = f"; is {near[0]!r} meant?" if near else ""
        raise ValueError(f"{path}: no class is called {possible[-1]!r}, they are {', '.join(names)}{hint}")
    return known[0]


def _read(path: Path, images: dict[str, int], truth: str) -> NDArray[np.float64]:
    """The detections of a file, (D, 6): place of the image, score, box."""
    lines = {number: [plain_name(fields[0]), *fields[1:]] for number, fields in _lines(path).items()}
    unknown = [number for number, fields in lines.items() if fields[0] not in images]
    if unknown:
        share = f"{len(unknown)} of {len(lines)} lines are of unknown ones"
        name = lines[unknown[0]][0]
        cause = ": are the detections of another image set?" if len(unknown) == len(lines) else ""
        cause = ": names go without suffix" if posixpath.splitext(name)[0] in images else cause
        several = [known for known in images if known.endswith(f"/{name}")]
        cause = f": is {' or '.join(several[:_SHOWN])} meant?" if several else cause
        raise ValueError(f"{path}: {truth} has no image {name!r} - at line {unknown[0]}; {share}{cause}")
    wrong = next((number for number, fields in lines.items() if not all(map(_is_number, fields[1:]))), None)
    if wrong is not None:
        raise ValueError(f"{path}: a line must be {_FORM}, got {' '.join(lines[wrong])!r} - at line {wrong}")
    values = np.array([fields[1:] for fields in lines.values()], dtype=np.float64).reshape(-1, 5)
    _check(path, list(lines), values)
    return np.column_stack([[images[fields[0]] for fields in lines.values()], values]).reshape(-1, 6)


def _lines(path: Path) -> dict[int, list[str]]:
    """The fields of each line that is not empty, by its number, from 1."""
    try:
        content = read_file(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file: {error}") from None
    # names may have spaces in them
    lines = {number: line.strip().rsplit(maxsplit=5) for number, line in enumerate(content, start=1) if line.strip()}
    for number, fields in lines.items():
        if len(fields) != 6:
            cause = "; the file ends there, was it cut short while it was written?" if number == len(content) else ""
            cause = "; fields are parted by spaces, not commas" if "," in content[number - 1] else cause
            got = f"{len(fields)} fields, {' '.join(fields)[:80]!r}"
            raise ValueError(f"{path}: a line must be {_FORM}, got {got} - at line {number}{cause}")
    return lines


def _check(path: Path, numbers: Sequence[int], values: NDArray[np.float64]) -> None:
    """Refuse scores and boxes, (D, 5), that cannot be meant."""
    score, corners = values[:, 0], values[:, 1:]

    def refuse(wrong: Any, wanted: str, shown: NDArray[np.float64], more: str = "") -> None:
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"{path}: {wanted}, got {shown[row].tolist()} - at line {numbers[row]}{more}")

    refuse(~np.isfinite(values).all(axis=1), "numbers must be finite", values)
    refuse((np.abs(corners) > EXACT).any(axis=1), "boxes must be in pixels, of 2**53 at most", corners)
    reversed_ = (corners[:, 2:] < corners[:, :2]).any(axis=1)
    if reversed_.any():
        cause = ""
        if (corners[:, 3] <= 1).all() and score.max() > 1:
            cause = "; does the score stand last? it comes before the box"
        elif reversed_.mean() > 0.1:
            cause = "; are they <x> <y> <width> <height>?"
        more = f"; {reversed_.sum()} of {len(values)} lines are such{cause}"
        refuse(reversed_, "xmax and ymax must not be below xmin and ymin", corners, more)
    if len(values) > 1 and corners.max() <= 1 and (corners % 1).any():
        got = f"no number above 1: are they shares of the image? - at line {numbers[0]}"
        raise ValueError(f"{path}: boxes must be in pixels, got {got}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
