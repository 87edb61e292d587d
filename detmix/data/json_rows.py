"""Arrays of a JSON object, some thousand rows at a time, in the memory of a few megabytes, or of the longest row.

msgspec decodes each piece. Where a piece ends is guessed first: at the last ``},`` that a ``{`` follows. Text that is
cut there decodes only if all that it opened is closed, so a wrong guess (inside a string, or in an array within a row)
shows, and the brackets are counted instead.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
from msgspec import Raw

from .bounds import EXACT

_WINDOW = 1 << 22  # bytes that are looked at together
_LONGEST_KEY = 1 << 16
_SPACE = b" \t\r\n"
_NOT_SPACE = re.compile(rb"[^ \t\r\n]")
_KEY = re.compile(rb'("(?:[^"\\]|\\.)*")[ \t\r\n]*:', re.DOTALL)
_DEEPEST = 1000  # brackets in each other, as far as Python goes
_QUOTE, _COMMA, _BACKSLASH, _HIDDEN = b'",\\.'
_STEPS = np.zeros(256, np.int8)  # how the depth changes at a byte
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_MARKS = _STEPS != 0
_MARKS[[_QUOTE, _COMMA]] = True


class Piece(NamedTuple):
    """Rows of one of the arrays."""

    section: str
    first: int  # number of the first row
    rows: list[Any]


def read_rows(file: BinaryIO, kinds: Mapping[str, Any]) -> Iterator[Piece]:
    """Decode some of the arrays that a JSON object holds; its other members are passed over.

    Args:
        file: JSON in any of its encodings, with or without a byte order mark. NaN and infinities, which are not JSON
            but occur, are read as null; whole floats are taken for the integers that a type wants.
        kinds: for each key, the type of the rows in its array, as ``msgspec.json.decode`` takes it.

    Yields:
        The rows in the order of the file.

    Raises:
        ValueError: the file is not JSON, not such an object, lacks a key or has it twice, nests deeper than 1000, or a
            row is not of its type; the section and row are named.
    """
    window = _Window(_in_utf8(file))
    missing = set(kinds)
    window.take(b"{")
    more = window.peek() != b"}"
    while more:
        key = window.take_key()
        if key not in kinds:
            window.skip_value()
        elif key not in missing:
            raise ValueError(f"the key {key!r} occurs twice")
        else:
            missing.remove(key)
            yield from _read_array(window, key, kinds[key])
        more = window.take(b",}") == b","
    if missing:
        raise ValueError(f"the key {min(missing)!r} is missing")
    window.take(b"")


def decode_object(text: bytes) -> dict[str, Any]:
    """A JSON object, in the encodings and with the NaN that ``read_rows`` takes.

    Raises:
        ValueError: it is none.
        RecursionError: it is nested too deeply.
    """
    try:
        return msgspec.json.decode(text, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError):
        content = _python_object(text)
        if content is None:
            raise
        return content


def _python_object(text: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(text, parse_float=parse_number, parse_constant=lambda _: None)
    except (ValueError, OverflowError):
        return None
    return content if isinstance(content, dict) else None


def whole_or_float(value: float) -> int | float:
    """An integer for a float that is whole, as some tools write ids; others as they are."""
    return int(value) if value.is_integer() and abs(value) <= EXACT else value


def parse_number(text: str) -> int | float:
    """What JSON writes with a point or an exponent, an integer if it is whole.

    Raises:
        ValueError: it is too large for a float.
    """
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large a number")
    return whole_or_float(value)


def _in_utf8(file: BinaryIO) -> BinaryIO:
    """The same text without the byte order mark that some tools write, and in UTF-8 whatever their encoding."""
    start = file.read(4)
    encoding = json.detect_encoding(start)
    file.seek(len(b"\xef\xbb\xbf") if encoding == "utf-8-sig" else 0)
    return file if encoding.startswith("utf-8") else io.BytesIO(file.read().decode(encoding).encode())


class _Window:
    """What is being looked at of a file: ``data[at:]`` comes next, and ``passed`` bytes came before ``data``."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.data, self.at, self.passed = file, b"", 0, 0
        self.ends = np.empty(0, np.int64)  # of members of the object, as far as they are known: places in the file

    @property
    def position(self) -> int:
        """The place in the file that comes next, in bytes from its start."""
        return self.passed + self.at

    def look(self, size: int) -> int:
        """Hold the next ``size`` bytes, or as many as are left; returns how many are held."""
        if len(self.data) - self.at < size:
            self.passed += self.at
            self.data = self.data[self.at :] + self.file.read(max(size, _WINDOW))
            self.at = 0
        return len(self.data) - self.at

    def peek(self) -> bytes:
        """The next byte that is no white space; nothing at the end of the file."""
        while self.look(1):
            found = _NOT_SPACE.search(self.data, self.at)
            if found:
                self.at = found.start()
                return found[0]
            self.at = len(self.data)
        return b""

    def take(self, wanted: bytes) -> bytes:
        """The next byte, which must be one of those wanted; if none is, the file must end."""
        found = self.peek()
        choices = [bytes([byte]) for byte in wanted] or [b""]
        if found not in choices:
            names = " or ".join(_name(choice) for choice in choices)
            raise ValueError(f"wanted {names}, got {_name(found)} at byte {self.position}")
        self.at += len(found)
        return found

    def take_key(self) -> str:
        """The next key of an object, and the colon."""
        self.peek()
        size, ended = 0, False
        while not (found := _KEY.match(self.data, self.at, self.at + _LONGEST_KEY)):
            if ended or size > _LONGEST_KEY:
                raise ValueError(f"wanted a key in quotes and a colon at byte {self.position}")
            size = max(_WINDOW, 2 * size)
            ended = self.look(size) < size
        self.at = found.end()
        return msgspec.json.decode(found[1], type=str)

    def skip_value(self) -> None:
        """Pass over the value of a key."""
        number = int(np.searchsorted(self.ends, self.position))
        if number == len(self.ends):
            commas, closing = self.boundaries("a value that is not needed", hold=False)
            self.ends = self.position + (commas if closing < 0 else np.append(commas, closing))
            number = 0
        self.at = int(self.ends[number]) - self.passed

    def boundaries(self, where: str, *, hold: bool = True) -> tuple[np.ndarray, int]:
        """The commas between the next values, and the bracket behind the last; how far ahead each is.

        One of both at least; the bracket is -1 if it is not within reach. Without ``hold`` most of a value that is
        longer than a window is passed.
        """
        nesting, seen = _Nesting(), 0
        while self.look(seen + 1) > seen:
            text = self.data[self.at + seen : self.at + seen + _WINDOW]
            commas, closing = nesting.boundaries(text)
            if len(commas) or closing >= 0:
                return commas + seen, closing + seen if closing >= 0 else -1
            if hold:
                seen += len(text)
            else:
                self.at += len(text)
        raise ValueError(f"the file ends within {where}")


class _Nesting:
    """Brackets and strings that are open within some values, of which one part is looked at after the other."""

    def __init__(self) -> None:
        self.depth, self.quotes, self.escaping = 0, 0, False

    def boundaries(self, text: bytes) -> tuple[np.ndarray, int]:
        """The commas of depth 0 and the bracket that closes what came before the values, -1 if none does."""
        codes = self._unescaped(text)
        places = np.flatnonzero(_MARKS[codes])
        marks = codes[places]
        quotes = self.quotes + np.cumsum(marks == _QUOTE, dtype=np.int32)
        outside = quotes % 2 == 0
        depth = self.depth + np.cumsum(np.where(outside, _STEPS[marks], 0), dtype=np.int32)
        closing = np.flatnonzero(depth < 0)[:1]
        end = len(places) if not len(closing) else int(closing[0])
        if depth[:end].max(initial=0) > _DEEPEST:
            raise ValueError("nested too deeply")
        if len(places):
            self.depth, self.quotes = int(depth[-1]), int(quotes[-1]) % 2
        commas = places[:end][(depth[:end] == 0) & outside[:end] & (marks[:end] == _COMMA)]
        return commas, int(places[end]) if len(closing) else -1

    def _unescaped(self, text: bytes) -> np.ndarray:
        """The bytes, but for those that a backslash hides, a quote for one."""
        codes = np.frombuffer(text, np.uint8)
        if not self.escaping and b"\\" not in text:
            return codes
        codes = np.frombuffer(bytearray(text + b" "), np.uint8)  # with a place for what the last byte hides
        if self.escaping:
            codes[0] = _HIDDEN
        slashes = np.flatnonzero(codes == _BACKSLASH)
        starts = np.where(np.diff(slashes, prepend=-2) > 1, slashes, 0)
        hiding = slashes[(slashes - np.maximum.accumulate(starts)) % 2 == 0]  # of several the first, the third ...
        codes[hiding + 1] = _HIDDEN
        self.escaping = len(hiding) > 0 and int(hiding[-1]) == len(text) - 1
        return codes[:-1]


def _read_array(window: _Window, section: str, kind: Any) -> Iterator[Piece]:
    if window.peek() != b"[":
        raise ValueError(f"{section} must be an array, got {_name(window.peek())}")
    window.take(b"[")
    more, first = window.peek() != b"]", 0
    if not more:
        window.take(b"]")
    while more:
        if window.peek() in (b",", b"]"):
            raise ValueError(f"wanted a row, {section}[{first}], got {_name(window.peek())} at byte {window.position}")
        rows = _guessed_rows(window, kind)
        if rows is None:
            rows = _counted_rows(window, section, first, kind)
        yield Piece(section, first, rows)
        first += len(rows)
        more = window.take(b",]") == b","


def _guessed_rows(window: _Window, kind: Any) -> list[Any] | None:
    window.look(_WINDOW)
    cut = _guess(window.data, window.at)
    if cut < 0:
        return None
    try:
        rows: list[Any] = msgspec.json.decode(_array_text(window, cut - window.at), type=list[kind])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    window.at = cut
    return rows


def _guess(data: bytes, start: int) -> int:
    """Where a row may end in data: behind the last ``}`` that is followed by a comma and a ``{``; -1 for nowhere."""
    brace = data.rfind(b"},", start)
    while brace >= 0 and data[brace + 2 : brace + 64].lstrip(_SPACE)[:1] != b"{":
        brace = data.rfind(b"},", start, brace + 1)
    return brace + 1 if brace >= 0 else -1


def _counted_rows(window: _Window, section: str, first: int, kind: Any) -> list[Any]:
    commas, closing = window.boundaries(f"{section}[{first}] or a later row")
    length = closing if closing >= 0 else int(commas[-1])
    text = _array_text(window, length)
    try:
        rows: list[Any] = msgspec.json.decode(text, type=list[kind])
    except (msgspec.DecodeError, UnicodeDecodeError):
        rows = _decode_leniently(text, section, first, kind, window.position)
    window.at += length
    return rows


def _decode_leniently(text: bytes, section: str, first: int, kind: Any, position: int) -> list[Any]:
    """The same with NaN as null and whole floats as integers, or an error that names the row."""
    try:
        text = msgspec.json.encode(json.loads(text, parse_float=parse_number))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at byte {position + error.pos - 1}, in {section}: {error.msg}") from None
    except (ValueError, OverflowError) as error:
        raise ValueError(f"not JSON, in {section}[{first}] or a later row: {error}") from None
    rows = []
    for number, row in enumerate(msgspec.json.decode(text, type=list[Raw]), start=first):
        try:
            rows.append(msgspec.json.decode(row, type=kind))
        except msgspec.ValidationError as error:
            raise ValueError(f"{section}[{number}]: {error}") from None
    return rows


def _array_text(window: _Window, length: int) -> bytes:
    return b"".join((b"[", memoryview(window.data)[window.at : window.at + length], b"]"))


def _name(byte: bytes) -> str:
    return repr(byte.decode("latin-1")) if byte else "the end of the file"
