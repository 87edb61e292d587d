"""Files of torch's, read without running code from them, and in hardly more memory than they have bytes.

torch's own ``weights_only=True`` runs no code, but a few bytes may ask it for any amount of memory or time. So the
pickle in a file is looked through first.
"""

from __future__ import annotations

import os
import pickletools
import struct
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor

_DEEPEST = 50  # containers around a value
_LEGACY_PICKLES = 5  # in torch's format of before 2020: three of a header, the content, the keys of its tensors
_ARCHIVE, _END, _LOCATOR = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x07"  # how a zip archive and its last records begin
_TAIL = 56 + 20 + 22  # bytes of those: the end for large archives, what tells where that lies, and the end for all
_TENSOR = "tensor"
# what may be called, and with the names of which opcodes as arguments; None: with any. All that a state_dict, a
# checkpoint of the trainer's and one of torchvision's reference training need
_CALLS: dict[str, tuple[str, ...] | None] = {
    "torch._utils _rebuild_tensor_v2": None,
    "torch._utils _rebuild_parameter": None,
    "collections OrderedDict": (),
    "collections Counter": ("EMPTY_DICT",),
    "argparse Namespace": (),
}
_INTO_THE_FIRST = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"}  # opcodes that put the rest into the first
# opcodes that make a text, or another value without parts
_TEXTS = {"BINUNICODE", "SHORT_BINSTRING"}
_SINGLE = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_LARGEST_KEY = 2**63


class _Made(NamedTuple):
    """What stands on the stack of a pickle: how it was made, how deep it nests, and how its parts were made."""

    kind: str
    depth: int = 0
    parts: tuple[_Made, ...] = ()
    text: Any = None


def load_plain(path: Path, *, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """Tensors and plain values from a file.

    Args:
        path: the file, of ``torch.save``.
        map_location: see ``torch.load``.
        mmap: leave the values of the tensors on disk until they are looked at.

    Raises:
        UnpicklingError: it holds more than tensors and plain values, or something that takes much more memory or time
            than it has bytes.
        Exception: a damaged file makes torch raise almost anything.
    """
    for pickled in _pickles(path):
        _require_plain(pickled)
    with torch.serialization.safe_globals([Namespace]):  # torchvision's training keeps its arguments in one
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    if any(tensor.nbytes > tensor.untyped_storage().nbytes() for tensor in _tensors(content)):
        raise UnpicklingError("a tensor has more elements than the file has numbers for it")
    return content


def _pickles(path: Path) -> Iterator[Any]:
    """The pickles in a file as torch finds them, as bytes or as an open file at the place of one."""
    with path.open("rb") as file:
        if file.read(4) == _ARCHIVE:
            _require_own_size(path)
            yield torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
        else:
            file.seek(0)
            yield from (file for _ in range(_LEGACY_PICKLES))


def _require_own_size(path: Path) -> None:
    """Refuse an archive that would be larger in memory than it has bytes: its parts are compressed or overlap.

    torch's reader is not asked, since it fills memory from a part as soon as it is made.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
        listed = archive.start_dir == _directory_start(path, size)
    except Exception as error:  # a damaged one makes zipfile raise almost anything
        raise ValueError(f"its archive is damaged: {error}") from error
    claimed = sum(part.file_size for part in parts)
    if claimed > size:
        raise UnpicklingError(f"it has {size} bytes and claims to hold {claimed}, and torch writes no such file")
    if not listed or any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise UnpicklingError("its archive is compressed or lists its parts twice, and torch writes no such file")


def _directory_start(path: Path, size: int) -> int:
    """Where the end of an archive tells torch's reader that the list of parts begins; -1 if it may look elsewhere.

    ``zipfile`` takes the list that lies just before the end, wherever that is told to be.
    """
    with path.open("rb") as file:
        file.seek(-_TAIL, os.SEEK_END)
        large, locator, end = (file.read(count) for count in (56, 20, 22))
    if not end.startswith(_END) or not end.endswith(b"\0\0"):  # a comment follows, which may hold another end
        return -1
    if not locator.startswith(_LOCATOR):
        return int(struct.unpack_from("<L", end, 16)[0])
    place = struct.unpack_from("<Q", locator, 8)[0]
    return int(struct.unpack_from("<Q", large, 48)[0]) if place == size - _TAIL else -1


def _require_plain(pickled: Any) -> None:
    """Follow a pickle without making what it describes, and refuse what is more than its own bytes.

    Containers that are used twice are refused: hashing, copying or comparing what nests so takes time without end.
    """
    stack: list[_Made] = []
    marks: list[int] = []
    memo: dict[Any, _Made] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "MARK":
            marks.append(len(stack))
        elif "PUT" in opcode.name:
            memo[argument] = stack[-1]
        elif "GET" in opcode.name:
            stack.append(_again(memo[argument]))
        else:
            taken = _pop(stack, marks, opcode)
            if opcode.stack_after:
                stack.append(_make(opcode.name, argument, taken))


def _pop(stack: list[_Made], marks: list[int], opcode: Any) -> list[_Made]:
    wanted = opcode.stack_before
    if pickletools.markobject in wanted:
        start = marks.pop() - wanted.index(pickletools.markobject)
    else:
        start = len(stack) - len(wanted)
    taken = stack[start:]
    del stack[start:]
    return taken


def _make(name: str, argument: Any, taken: list[_Made]) -> _Made:
    if name == "GLOBAL":
        return _Made(_known(argument))
    into = name in _INTO_THE_FIRST
    if name.startswith("SETITEM"):
        _require_keys(taken[1::2])
    depth = max((made.depth + 1 for made in taken[into:]), default=0)
    if into:
        made = taken[0]._replace(depth=max(taken[0].depth, depth))
    elif name in ("REDUCE", "NEWOBJ"):
        made = _Made(_called(taken[0].kind, tuple(part.kind for part in taken[1].parts)), depth)
    else:
        made = _Made(name, depth, tuple(taken), argument)
    if name == "BINPERSID":
        _require_numbered(taken[0])
    if made.depth > _DEEPEST:
        raise UnpicklingError(f"it nests more than {_DEEPEST} deep")
    return made


def _require_keys(keys: list[_Made]) -> None:
    """Refuse keys that can be chosen so that all have one hash: each would be compared with all before it."""
    for key in keys:
        if key.kind not in _TEXTS | _SINGLE or (key.kind == "LONG1" and not -_LARGEST_KEY <= key.text < _LARGEST_KEY):
            raise UnpicklingError("a key of a dict is neither text nor a number of 64 bits")


def _require_numbered(storage: _Made) -> None:
    """Refuse other keys of tensors than torch's, which are numbers: it would read a part again for ``A`` and ``a``."""
    keys = [part.text for part in storage.parts[2:3]]
    if not all(isinstance(key, str) and key.isascii() and key.isdigit() for key in keys):
        raise UnpicklingError("the numbers of a tensor have another key than torch writes")


def _known(name: str) -> str:
    """The name of something outside the pickle: of a call, or of a kind of storage, which is not called."""
    if name not in _CALLS and not (name.startswith("torch ") and name.endswith("Storage")):
        raise UnpicklingError(f"{name.replace(' ', '.')} is not among what weights and checkpoints need")
    return name


def _called(name: str, arguments: tuple[str, ...]) -> str:
    wanted = _CALLS.get(name, ("nothing",))
    if wanted not in (None, arguments):
        raise UnpicklingError(f"{name.replace(' ', '.')} is called as no file of torch's does")
    return _TENSOR if wanted is None else "REDUCE"


def _again(made: _Made) -> _Made:
    """What is used once more: a name, a text, a tensor, or a flat tuple, such as torch's settings of an optimizer."""
    flat = made.kind.startswith("TUPLE") and made.depth <= 1
    if not flat and made.kind not in {_TENSOR, *_TEXTS} and " " not in made.kind:
        raise UnpicklingError("it holds a list or dict at two places")
    return made


def _tensors(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, (dict, list, tuple)):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _tensors(value)
