"""How much memory there is, and how much samples take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PILImage
from torch import Tensor
from torch.utils.data import get_worker_info

MB = 1_000_000
_UNLIMITED = 1 << 60  # version 1 of cgroups writes a number of this size for "no limit"


class Held:
    """The memory that samples keep, however small a part of it they show; what several share counts once.

    Counted are tensors, numpy arrays and PIL images, also within tuples, lists and dicts. Of memory that belongs to
    something else, such as ``bytes``, a file, or the numpy array below a tensor, only the part shown is seen.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._pieces: dict[int, set[_Piece]] = {}
        self._users: dict[_Piece, int] = {}  # how many samples show it

    def add(self, key: int, sample: Any) -> int:
        """Count a sample under a key that is free; returns the bytes by which what is held has grown."""
        pieces = self._pieces[key] = set(_pieces(sample))
        grown = sum(piece.nbytes for piece in pieces if piece not in self._users)
        for piece in pieces:
            self._users[piece] = self._users.get(piece, 0) + 1
        self.nbytes += grown
        return grown

    def remove(self, key: int) -> None:
        """Count the sample of a key no more."""
        for piece in self._pieces.pop(key):
            self._users[piece] -= 1
            if not self._users[piece]:
                del self._users[piece]
                self.nbytes -= piece.nbytes


class _Piece(NamedTuple):
    """A piece of memory."""

    address: int
    nbytes: int


def _pieces(sample: Any) -> Iterator[_Piece]:
    if isinstance(sample, Tensor):
        storage = sample.untyped_storage()
        yield _Piece(storage.data_ptr(), storage.nbytes())
    elif isinstance(sample, np.ndarray):
        if isinstance(sample.base, (np.ndarray, Tensor)):
            yield from _pieces(sample.base)
        else:
            yield _Piece(sample.ctypes.data, sample.nbytes)
    elif isinstance(sample, PILImage.Image):
        yield _Piece(id(sample), sample.width * sample.height * len(sample.getbands()))
    elif isinstance(sample, (dict, tuple, list)):
        for part in sample.values() if isinstance(sample, dict) else sample:
            yield from _pieces(part)


def part_of_memory(option: str, count: int, size: int) -> int | None:
    """Bytes that this process may take beside what it holds; None if nobody knows.

    Refuses samples that cannot fit, before the system kills the process that holds them.

    Args:
        option: by which a user says how many samples each process holds.
        count: what it says; two of the samples are held.
        size: bytes that the last one read takes.

    Raises:
        ValueError: ``count - 2`` samples of that size do not fit, in all workers of this loader together.
    """
    worker = get_worker_info()
    processes = 1 if worker is None else worker.num_workers
    available = available_memory()
    more = (count - 2) * size * processes
    if available is not None and more > available:
        holders = "" if worker is None else f" in each of {processes} workers"
        raise ValueError(
            f"{option}={count}: {count - 2} more samples of {size / MB:.3g} MB, as large as the last one read,"
            f"{holders} take {more / MB:,.0f} MB, and {available / MB:,.0f} MB of memory are available: "
            f"at most {option}={2 + available // (size * processes)} fits"
        )
    return None if available is None else available // processes


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: what the machine has left, or its control group if that is less.

    Args:
        root: where ``proc`` and ``sys`` are.

    Returns:
        None where the system does not tell, as on macOS and Windows.
    """
    return min([*_left_on_machine(root / "proc/meminfo"), *_left_in_groups(root)], default=None)


def _left_on_machine(meminfo: Path) -> Iterator[int]:
    for line in meminfo.read_text().splitlines() if meminfo.is_file() else ():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _left_in_groups(root: Path) -> Iterator[int]:
    """What is left to each of the control groups that this process is in, of version 2 or 1."""
    groups, mount = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left_up_from(mount, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            yield from _left_up_from(mount / "memory", path, *names)


def _left_up_from(mount: Path, path: str, limit: str, usage: str, cached: str) -> Iterator[int]:
    folder = mount / path.lstrip("/")
    for group in (folder, *folder.parents):
        if not group.is_relative_to(mount):
            return
        try:
            most = int((group / limit).read_text())
            taken = int((group / usage).read_text())
            reclaimable = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no limit, or a group that cannot be seen from inside a container
            continue
        if most < _UNLIMITED:
            yield max(0, most - taken + int(reclaimable.get(cached, 0)))
