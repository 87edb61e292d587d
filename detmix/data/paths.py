"""Files that annotations name: they lie in their folder, and are files."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
from collections.abc import Iterable
from pathlib import Path

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)  # there is no such file, or there cannot be
SUFFIXES = frozenset(  # of the images that Pillow reads
    ".apng .avif .avifs .bmp .bw .dds .dib .gif .icb .icns .ico .im .j2c .j2k "
    ".jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .msp .pbm .pcx .pfm .pgm "
    ".png .pnm .ppm .qoi .rgb .rgba .sgi .tga .tif .tiff .vda .vst .webp .xbm".split()
)
USUAL_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VOC_FOLDERS = ("Annotations", "JPEGImages")
_FEW = 10  # names in a message
_SEPARATORS = re.compile(r"[/\\]")


def image_suffix(name: str) -> str:
    """The suffix of an image's name as it is written; empty if it has none, however many dots there are in it."""
    suffix = posixpath.splitext(name)[1]
    return suffix if suffix.lower() in SUFFIXES else ""


def plain_name(name: str) -> str:
    """A file name as it is written with slashes, and without detours such as ``./``; empty stays empty."""
    return posixpath.normpath(name.replace("\\", "/")) if name else ""


class Folder:
    """A folder that file names start from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._prefix = os.path.normcase(os.path.join(os.path.abspath(path), ""))

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
            lacking = "" if name else ", so it is empty or there is none"
            raise ValueError(f"{where}: must be the name of a file, got {name!r}{lacking}")
        upwards = ".." in name and ".." in _SEPARATORS.split(name)
        if upwards or (_is_rooted(name) and not os.path.normcase(name).startswith(self._prefix)):
            raise ValueError(f"{where}: must lie in {self.path}, without '..' in its path, got {name!r}")


def _is_rooted(name: str) -> bool:
    """Whether a name does not begin where a folder ends; on Windows a drive or a slash alone will do."""
    return name[0] in (os.sep, os.altsep) or bool(os.path.splitdrive(name)[0])


def path_below(folder: Path, name: str) -> Path:
    """Where a file lies that annotations name; backslashes are slashes where no file has the name as it is written.

    Args:
        folder: that the name starts from, or that an absolute one lies below; see ``Folder``.
        name: as it is written. Nothing is looked up on disk for one without backslashes.
    """
    if "\\" not in name or os.path.lexists(folder / name):
        return folder / name
    written = os.path.join(folder, name)
    return Path(written[: len(written) - len(name)] + name.replace("\\", "/"))


def file_status(path: str | Path) -> os.stat_result:
    """What the system says of a file.

    Raises:
        FileNotFoundError: there is nothing, or can be nothing of such a name; a file that may be meant is named.
    """
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        hint = other_spelling(Path(path))
        said = f"{error.strerror} ({hint})" if hint else error.strerror
        raise FileNotFoundError(error.errno, said, str(path)) from None


def other_spelling(path: Path) -> str:
    """What to say of a file that is missing and may be there under another name; empty where nothing is like it.

    Names in small or in capital letters are tried, and those of images with another usual suffix. The folder is not
    listed: it may hold a million files, and many of those that are wanted may be missing. One of VOC's
    that is not there itself is named.
    """
    folder = path.parent
    if folder.name in VOC_FOLDERS and not folder.exists():
        return f"there is no folder {folder}: make it, or a link of that name to where the files are"
    if "\\" in path.name:
        return "the file name has backslashes, as Windows writes them: replace them by /"
    stem, suffix = os.path.splitext(path.name)
    suffixes = dict.fromkeys((suffix, *(USUAL_SUFFIXES if not suffix or image_suffix(path.name) else ())))
    names = (name + ending for suffix in suffixes for ending in _cases(suffix) for name in _cases(stem))
    found = next((name for name in names if os.path.exists(path.parent / name)), None)
    return f"there is {found}" if found else ""


def _cases(text: str) -> Iterable[str]:
    return dict.fromkeys((text, text.lower(), text.upper()))


def stamp_of(status: os.stat_result) -> tuple[int, int, int]:
    """What tells that a file was changed: its size, and when its content and its status were, in nanoseconds.

    The time of the content is what who unpacks or copies a file says; that of the status is the system's own.
    """
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def missing_folder(path: Path) -> Path | None:
    """The outermost on the way to a file that is no folder; None if all are."""
    outermost_first = reversed(Path(os.path.abspath(path)).parents)
    return next((folder for folder in outermost_first if not os.path.isdir(folder)), None)


def require_coco_file(path: Path) -> None:
    """Refuse a COCO annotation file that is not there.

    Raises:
        FileNotFoundError: there is nothing; the files beside it are named, or the folder that does not exist.
        ValueError: it is a folder, a pipe or a device.
        OSError: nobody may look.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such COCO annotation file; {_there_instead_of(path)}") from None
    require_file(path)


def _there_instead_of(path: Path) -> str:
    if missing := missing_folder(path):
        return f"there is no folder {missing}"
    found = sorted(
        file.name for file in path.parent.glob("*.json") if file.name != path.name
    )  # it may be a broken link
    if not found:
        return f"no .json file is in {path.parent}"
    return f"there are {found[:_FEW]}{' ...' if found[_FEW:] else ''}"


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
