"""Zeros in the place of a part of a JPEG, as a failing disk or a torn copy leaves them: decoders read on silently.

Source: ITU-T T.81, B.2 (markers and segments) and F.1.2.2 (codes of coefficients).
"""

from __future__ import annotations

from collections.abc import Iterator

_ZEROS = bytes(512)  # a sector of a disk
_END = b"\xff\xd9"
_SEQUENTIAL, _TABLES, _SCAN = (0xC0, 0xC1), 0xC4, 0xDA  # markers
_OF_AC = 0x10
_END_OF_BLOCK = 0


def find_zeros(data: bytes) -> int | None:
    """Where 512 bytes of zeros or more stand in the place of a JPEG's picture.

    They can be told from a picture in sequential JPEGs of one scan, where a Huffman table for AC coefficients that the
    scan uses does not map the code of zero bits alone to end-of-block; the standard's table for brightness does not.
    Zeros would then be tens of blocks in a row, each with the same coefficients up to the last, which no picture has.
    In other files they may be a plain area.

    Args:
        data: what the file holds.

    Returns:
        The place of the first of them, counted from 0; None if there are none, or none that can be told.
    """
    if _ZEROS not in data:  # nearly always
        return None
    components = 0
    firsts: dict[int, int] = {}
    for marker, content, end in _segments(data):
        if marker in _SEQUENTIAL:
            components = content[5]
        elif marker == _TABLES:
            firsts.update(_first_symbols(content))
        elif marker == _SCAN and components == content[0]:
            used = {_OF_AC | chosen & 15 for chosen in content[2 : 2 * components + 1 : 2]}
            place = data[end:].partition(_END)[0].find(_ZEROS)
            told = any(firsts.get(table, _END_OF_BLOCK) != _END_OF_BLOCK for table in used)
            return end + place if told and place >= 0 else None
    return None


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, content and end of each segment, up to the first scan's header."""
    place = 2  # behind the marker that every JPEG begins with
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker, end = data[place + 1], place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xFF:  # a byte that fills
            place += 1
            continue
        yield marker, data[place + 4 : end], end
        if marker == _SCAN:
            return
        place = end


def _first_symbols(tables: bytes) -> dict[int, int]:
    """What a code of zero bits alone stands for, by class and number of the table: codes are given out in order."""
    firsts: dict[int, int] = {}
    place = 0
    while place + 17 < len(tables):
        firsts[tables[place]] = tables[place + 17]
        place += 17 + sum(tables[place + 1 : place + 17])
    return firsts
