import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from detmix.data.images import decode_image
from detmix.data.jpeg import find_zeros

ZEROS = bytes(512)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width):
    return cv2.resize(noise(9, 13), (width, height), interpolation=cv2.INTER_CUBIC)


def write(pixels, mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def picture_of(data):
    """Where the picture of a file of one scan begins."""
    start = data.index(b"\xff\xda") + 2
    return start + int.from_bytes(data[start : start + 2], "big")


@st.composite
def pictures(draw):
    height, width, level = draw(st.integers(1, 500)), draw(st.integers(1, 500)), draw(st.integers(0, 255))
    plain = np.full((height, width, 3), level, np.uint8)
    if draw(st.booleans()):
        return plain
    tile = noise(8, 8, draw(st.integers(0, 99))) // draw(st.sampled_from([1, 4, 32]))
    repeated = np.tile(tile, (-(-height // 8), -(-width // 8), 1))[:height, :width]
    drawn = draw(st.sampled_from([repeated, smooth(height, width), noise(height, width)]))
    return np.where(np.arange(height)[:, None, None] < draw(st.integers(0, height)), plain, drawn)


@settings(max_examples=60)
@given(
    pictures(),
    st.sampled_from(["RGB", "L", "CMYK"]),
    st.fixed_dictionaries(
        {"quality": st.integers(1, 100), "subsampling": st.integers(0, 2)},
        optional={name: st.booleans() for name in ("progressive", "optimize")} | {"restart_marker_rows": st.just(1)},
    ),
)
def test_nothing_that_pillow_or_opencv_writes_is_refused(pixels, mode, options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "MAXBLOCK", 1 << 22)  # Pillow's own is too small for some noise
        data = write(pixels, mode, exif=b"Exif\0\0" + bytes(2000), icc_profile=bytes(2000), **options)
    assert ZEROS in data
    assert find_zeros(data) is None
    assert find_zeros(data + bytes(2000) + b"\xff\xd9") is None  # what follows the picture is no part of it
    flags = [
        *(cv2.IMWRITE_JPEG_QUALITY, options["quality"]),
        *(cv2.IMWRITE_JPEG_PROGRESSIVE, options.get("progressive", False)),
        *(cv2.IMWRITE_JPEG_OPTIMIZE, options.get("optimize", False)),
    ]
    assert find_zeros(cv2.imencode(".jpg", pixels, [int(flag) for flag in flags])[1].tobytes()) is None


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"subsampling": 0, "restart_marker_blocks": 50}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_sector_of_zeros_in_the_picture_is_an_error(mode, options, share):
    data = bytearray(write(smooth(300, 400), mode, quality=95, **options))
    first = picture_of(data)
    start = first + int(share * (len(data) - 2 - 512 - first))
    data[start : start + 512] = ZEROS
    with pytest.raises(ValueError, match=r"a\.jpg: corrupt, .*: zeros stand in the place of its picture from byte \d+"):
        decode_image(bytes(data), name="a.jpg")
    assert start - 3 < find_zeros(bytes(data)) <= start


def test_a_plain_area_may_be_zeros():
    for options in ({"optimize": True}, {"progressive": True}):
        data = write(np.full((900, 900, 3), 255, np.uint8), **options)
        assert ZEROS in data[picture_of(data) :]
        assert decode_image(data, name="white.jpg").unique().tolist() == [255]
