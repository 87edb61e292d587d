"""Files that were damaged or made up to do harm, and what may come of reading one."""

from __future__ import annotations

import copy
import faulthandler
import io
import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

terminal = 2  # where the place of what hangs is shown; conftest.py sets a descriptor that no test captures

NESTED: Any = 0
for _ in range(200):
    NESTED = [NESTED]

NASTY = st.sampled_from(
    [None, True, -1, 0, 7, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e-320, 1e308, -1e308]
    + [float("nan"), float("inf"), "", "1", "nan", "\0", "../x", "/etc/passwd", "\ud800", "a" * 300]
    + [[], {}, [[]], [0] * 5, {"size": [3, 4], "counts": [12]}, NESTED]
)


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every container within a nest of lists and dicts, with each of its keys."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from places(content[key])


@st.composite
def changed(draw: Callable[..., Any], content: Any) -> Any:
    """A nest of lists and dicts in which some values are others, are gone or are there twice."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(list(places(content)) or [([None], 0)]))
        what = draw(st.sampled_from(["replace", "replace", "remove", "repeat"]))
        if what == "replace":
            container[key] = copy.deepcopy(draw(NASTY))
        elif what == "remove":
            del container[key]
        elif isinstance(container, list):
            container.append(container[key])
    return content


@st.composite
def damaged(draw: Callable[..., Any], data: bytes) -> bytes:
    """Bytes of which some are others, some are gone, and some are there twice."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 1, 2, 8, 64, len(data)])))
        middle = draw(st.sampled_from([b"", data[start:stop] * 2]) | st.binary(max_size=8))
        data = data[:start] + middle + data[stop:]
    return data


def read_or_refused(read: Callable[[], Any], *names: str) -> Any:
    """What is read; or None if that ended with an error of ours, which has one of the names."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in the tests they are errors, where users are they are not
            return read()
    except (ValueError, FileNotFoundError) as error:
        refusal = error
    assert type(refusal) in (ValueError, FileNotFoundError), repr(refusal)
    assert any(name in str(refusal) for name in names), f"{refusal} names none of {names}"
    return None


class Owned:
    """Leaves a file when it is made."""

    def __init__(self, file: str) -> None:
        Path(file).touch()


def compress(file: Path) -> None:
    """Write the parts of an archive anew, compressed."""
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))


def exchange(file: Path, name: str, data: bytes) -> None:
    """Write an archive anew with other bytes in the part whose path ends so."""
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as old, zipfile.ZipFile(file, "w") as new:
        for part in old.infolist():
            new.writestr(part.filename, data if part.filename.endswith(name) else old.read(part))


def beyond_zipfile(data: bytes) -> bytes:
    """A small archive that names a version of the format which ``zipfile`` does not read, and torch does."""
    start, stop = _directory(data)
    return data[:start] + _edited(data[start:stop], 6, "<H", 99) + data[stop:]


def listed_twice(data: bytes) -> bytes:
    """A small archive with a second list of parts, of few bytes each: ``zipfile`` finds that, torch the first."""
    start, stop = _directory(data)
    return data[:stop] + _edited(data[start:stop], 24, "<L", 1) + data[stop:]


def listed_twice_and_large(data: bytes) -> bytes:
    """The same with the ends of large archives, of which torch finds the first and ``zipfile`` the second."""
    start, stop = _directory(data)
    count = struct.unpack_from("<H", data, len(data) - 12)[0]
    first, second = (
        struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, stop - start, at)
        for at in (start, stop + 56)
    )
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, stop, 1)
    return data[:stop] + first + _edited(data[start:stop], 24, "<L", 1) + second + locator + data[stop:]


def _directory(data: bytes) -> tuple[int, int]:
    size, start = struct.unpack_from("<2L", data, len(data) - 10)
    return start, start + size


def _edited(directory: bytes, at: int, kind: str, value: int) -> bytes:
    edited, entry = bytearray(directory), -1
    while (entry := directory.find(b"PK\x01\x02", entry + 1)) >= 0:
        struct.pack_into(kind, edited, entry + at, value)
    return bytes(edited)


@contextmanager
def ending(seconds: int) -> Iterator[None]:
    """Ends the whole process, with the place where it hangs, if the block does not end in time."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=terminal)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def open_files() -> set[str]:
    """Paths of the files that this process holds open."""
    return {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
