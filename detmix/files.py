"""How files get into place whole."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name and move it into place, so that no reader meets half of it.

    The disk has the content before the name points to it, so that a power cut leaves the old file or the new one.

    Args:
        path: where the file is to be; its folder is made if need be.
        write: called with the temporary path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        write(temporary)
        with temporary.open("rb") as content:
            os.fsync(content.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporary(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left in a folder and the folders in it.

    Args:
        folder: nobody is to be writing to it.
    """
    for path in list(folder.rglob(".*.tmp")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that gets into place when the block ends, and is gone if that ends with an exception.

    Args:
        path: where the folder is to be; there must be none, or an empty one, when the block ends.

    Yields:
        A temporary folder beside it.
    """
    temporary = _temporary(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """A name that no other write takes, on whichever host or in whichever container: pids come again there."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
