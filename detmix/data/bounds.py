"""Integers of JSON files, as large as arrays of them can be."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

Id: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # int64
Pixels: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]  # the side of an image, int32
PixelsOrNone: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)] | None  # 0 and null where it is not known
