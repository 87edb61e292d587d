"""Names from data, as they can be shown."""

from __future__ import annotations

import re

_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def one_line(text: str) -> str:
    """A text without line breaks and other control characters; each becomes a �.

    No font has them, Pillow refuses to draw some, and a terminal obeys others.
    """
    return _BREAKS.sub("\ufffd", text)
