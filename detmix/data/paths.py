"""Files that annotations name: they lie in their folder, and are files."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)  # there is no such file, or there cannot be
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


def file_status(path: str | Path) -> os.stat_result:
    """What the system says of a file.

    Raises:
        FileNotFoundError: there is nothing, or can be nothing of such a name.
    """
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from None


def require_file(path: Path) -> None:
    """Refuse what is no file with an end.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is a folder, or a pipe or device, which would be waited for.
    """
    if not stat.S_ISREG(file_status(path).st_mode):
        raise ValueError(f"{path}: not a file, but a folder, a pipe or a device")


def read_file(path: Path) -> bytes:
    """What a file holds; errors are those of ``require_file``."""
    require_file(path)
    return path.read_bytes()
