"""Names from data, as they can be shown."""

from __future__ import annotations

import re

_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NO_TEXT = re.compile("[\ud800-\udfff]")  # what Python has for the bytes of a file's name that are no UTF-8


def one_line(text: str) -> str:
    """A text without line breaks, other control characters and what is no UTF-8; each becomes a �.

    No font has them, Pillow refuses to draw some, and a terminal obeys others.
    """
    return as_utf8(_BREAKS.sub("\ufffd", text))


def as_utf8(text: str) -> str:
    """A text that can be written in UTF-8, with a � for each byte of a file's name that cannot."""
    return _NO_TEXT.sub("\ufffd", text)
