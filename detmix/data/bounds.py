"""Numbers of files, as large as arrays of them can be, and flags."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

EXACT = 2.0**53  # beyond, doubles do not tell integers, or pixels, apart
LARGEST_SIDE = 2**31 - 1  # of an image: int32

Id: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # int64
Pixels: TypeAlias = Annotated[int, Meta(ge=1, le=LARGEST_SIDE)]
PixelsOrNone: TypeAlias = Annotated[int, Meta(ge=0, le=LARGEST_SIDE)] | None  # 0 and null where it is not known
Flag: TypeAlias = bool | Annotated[int, Meta(ge=0, le=1)] | None  # null is no
