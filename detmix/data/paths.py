"""Files that annotations name: they lie in their folder, and are files."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

_SEPARATORS = re.compile(r"[/\\]")


class Folder:
    """A folder that file names start from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._prefix = os.path.join(os.path.abspath(path), "")

    def require(self, name: str, where: str) -> None:
        """Refuse a name that leads out of the folder.

        A relative name may have no ``..`` in it, an absolute one must lie below the folder. Symbolic links are
        followed: who owns the folder has made them. Nothing is looked up on disk.

        Args:
            name: as it is written.
            where: file and row that give it, for the message.

        Raises:
            ValueError: it does, or it is empty.
        """
        if not name or "\0" in name:
            raise ValueError(f"{where}: must be the name of a file, got {name!r}")
        upwards = ".." in name and ".." in _SEPARATORS.split(name)
        if upwards or (os.path.isabs(name) and not name.startswith(self._prefix)):
            raise ValueError(f"{where}: must lie in {self.path}, without '..' in its path, got {name!r}")


def read_file(path: Path) -> bytes:
    """What a file holds.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is no file with an end, but a folder, or a pipe or device, which would be waited for.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path}: not a file, but a folder, a pipe or a device")
    return path.read_bytes()
