"""Image files named by a user: files, folders and patterns; and the names and ids of such files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from glob import glob
from pathlib import Path, PurePath

from .coco_rows import ImageRow
from .json_rows import read_rows
from .paths import SUFFIXES, USUAL_SUFFIXES, plain_name, require_coco_file


def find_images(sources: Iterable[str]) -> list[Path]:
    """The image files that are meant, each once, in the order given; those of a folder or pattern by name.

    Args:
        sources: files, whatever their suffix; folders, searched with all folders in them for files with an
            image's suffix, hidden ones left out; patterns such as ``photos/**/*.jpg``.

    Raises:
        FileNotFoundError: there is no such file or folder, a pattern fits none, or a folder has no images.
    """
    found: dict[str, Path] = {}
    for source in sources:
        for path in _found(source):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def names_below_common_folder(paths: Sequence[Path]) -> list[PurePath]:
    """Each file's path from the folder that all of them have in common: no two are equal."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    common = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(common) for path in absolute]


def stated_images(annotations: Path, paths: Sequence[Path]) -> list[ImageRow]:
    """What a COCO file says of images whose paths end in its file names.

    Raises:
        FileNotFoundError: there is no such annotation file.
        ValueError: it is no COCO file, or has two images of one name or one without; an image is not in it, or two are
            the same of its images.
    """
    require_coco_file(annotations)
    try:
        with annotations.open("rb") as file:
            images = [row for piece in read_rows(file, {"images": ImageRow}) for row in piece.rows]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{annotations}: not a COCO annotation file: {error}") from error
    stated: dict[str, ImageRow] = {}
    for row, image in enumerate(images):
        if not image.file_name:
            raise ValueError(f"{annotations}: images[{row}] has no file_name")
        if stated.setdefault(plain_name(image.file_name), image) is not image:
            raise ValueError(f"{annotations}: two images are called {image.file_name!r}: which is meant is not known")
    taken: dict[int, Path] = {}
    found = []
    for path in paths:
        parts = Path(os.path.abspath(path)).parts
        endings = (PurePath(*parts[start:]).as_posix() for start in range(len(parts)))  # all of it comes first
        known = next((stated[name] for name in endings if name in stated), None)
        if known is None:
            raise ValueError(f"{path}: {annotations} has no image of this name; it has {_some(list(stated))}")
        if known.id in taken:
            raise ValueError(f"{path}: is image {known.id} of {annotations}, and so is {taken[known.id]}")
        taken[known.id] = path
        found.append(known)
    return found


def _found(source: str) -> list[Path]:
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and _is_shown(file, path))
        if not files:
            usual = ", ".join(USUAL_SUFFIXES)
            raise FileNotFoundError(f"{source}: no images in this folder, no file ending in {usual} or the like")
        return files
    matches = sorted(match for match in map(Path, glob(source, recursive=True)) if match.is_file())
    if not matches:
        raise FileNotFoundError(f"{source}: no such file or folder, and no file whose name fits it as a pattern")
    return matches


def _is_shown(file: Path, folder: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
