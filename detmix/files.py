"""How files get into place whole."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class NotWritten(OSError):
    """A file could not be written; it is named."""


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name and move it into place, so that no reader meets half of it.

    The disk has the content before the name points to it, so that a power cut leaves the old file or the new one.

    Args:
        path: where the file is to be; its folder is made if need be.
        write: called with the temporary path.

    Raises:
        NotWritten: it could not be written, as on a full disk; what was at the path before is there still.
    """
    temporary = _temporary(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with temporary.open("r+b") as content:  # Windows flushes only what is open for writing
                os.fsync(content.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file of text, in UTF-8 whatever the locale, as ``write_whole`` does.

    Raises:
        NotWritten: as there.
    """
    write_whole(path, lambda temporary: temporary.write_text(text, "utf-8"))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Where what writes a file, or to a folder, fails: say which it is, and the space left there.

    Raises:
        NotWritten: an OSError came from within.
    """
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        raise NotWritten(f"{path}: could not be written{_space_left(path.parent)}: {error}") from error


def require_writable(path: Path, name: str) -> None:
    """Refuse a path before long work that is to be written there.

    Args:
        path: of a file or folder, which need not exist.
        name: what to call it.

    Raises:
        ValueError: no folder can be made or written in for it, as far as that can be told beforehand.
    """
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    folder = there.parent if there == path and there.is_file() else there
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{name}: {path} cannot be written, since {folder} is no folder or may not be written in")


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


def _space_left(folder: Path) -> str:
    try:
        return f", {shutil.disk_usage(folder).free / 2**20:.0f} MiB are free there"
    except OSError:  # the folder itself may be gone
        return ""


def _temporary(path: Path) -> Path:
    """A name that no other write takes, on whichever host or in whichever container: pids come again there."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
