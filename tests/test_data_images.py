import io
import os
import struct

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detmix.data import read_image
from detmix.data.images import decode_image, size_in_header

# four flat quarters, so that lossy formats keep them and every orientation shows
QUARTERS = np.zeros((48, 64, 3), dtype=np.uint8)
QUARTERS[:24, :32], QUARTERS[:24, 32:] = (200, 40, 40), (40, 200, 40)
QUARTERS[24:, :32], QUARTERS[24:, 32:] = (40, 40, 200), (230, 230, 230)

EXIF_ORIENTATION = 0x0112
# what a viewer does to the stored pixels, EXIF 2.32, 4.6.4 A
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def save(path, image=None, **options):
    (Image.fromarray(QUARTERS) if image is None else image).save(path, **options)
    return path


def assert_shows(image, expected, tolerance=8):
    assert (image.dtype, image.shape) == (torch.uint8, (3, *expected.shape[:2]))
    assert image.permute(1, 2, 0).is_contiguous()
    difference = np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected)
    assert np.median(difference) <= tolerance
    assert np.mean(difference > tolerance) < 0.1


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "tga"])
def test_lossless_files_come_back_exactly(suffix, tmp_path):
    image = read_image(save(tmp_path / f"image.{suffix}"))
    assert torch.equal(image, torch.from_numpy(QUARTERS).permute(2, 0, 1))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_files_show_the_picture(suffix, options, tmp_path):
    assert_shows(read_image(save(tmp_path / f"image.{suffix}", quality=95, **options)), QUARTERS)


STORED = {
    "png": ["L", "LA", "RGBA", "P", "1"],
    "tif": ["L", "LA", "RGBA", "P", "PA", "1", "CMYK"],
    "jpg": ["L", "CMYK", "YCbCr"],
    "webp": ["RGBA"],
    "gif": ["L", "P", "1"],
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in STORED.items() for mode in modes])
def test_every_mode_that_a_format_stores_becomes_rgb(suffix, mode, tmp_path):
    stored = Image.fromarray(QUARTERS).convert(mode)
    assert_shows(read_image(save(tmp_path / f"image.{suffix}", stored)), np.asarray(stored.convert("RGB")).astype(int))


def test_out_of_memory_is_no_fault_of_the_file(tmp_path, monkeypatch):
    def no_room(*arguments, **options):
        raise MemoryError("no room")

    path = save(tmp_path / "image.png")
    for place in ("PIL.Image.Image.convert", "PIL.Image.open"):
        monkeypatch.setattr(place, no_room)
        with pytest.raises(MemoryError, match="no room"):
            read_image(path)
    with pytest.raises(MemoryError, match="no room"):
        size_in_header(path)


def test_alpha_is_dropped_not_blended(tmp_path):
    rgba = np.dstack([QUARTERS, np.zeros((48, 64), np.uint8)])
    image = read_image(save(tmp_path / "image.png", Image.fromarray(rgba)))
    assert torch.equal(image, torch.from_numpy(QUARTERS).permute(2, 0, 1))


@pytest.mark.parametrize("transparency", [3, bytes(range(200))])
def test_a_palette_with_transparency_keeps_its_colours_without_a_warning(transparency, tmp_path):
    palette = Image.fromarray(QUARTERS).convert("P", palette=Image.Palette.ADAPTIVE)
    path = save(tmp_path / "image.png", palette, transparency=transparency)
    assert_shows(read_image(path), QUARTERS)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_not_clipped(suffix, tmp_path):
    grey = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / f"image.{suffix}"), grey)
    image = read_image(tmp_path / f"image.{suffix}")
    assert image.shape == (3, 48, 64)
    np.testing.assert_allclose(image[0].numpy(), grey / 257, atol=1)
    assert torch.equal(image[0], image[2])


def test_sixteen_bit_colour_is_scaled(tmp_path):
    assert cv2.imwrite(str(tmp_path / "image.png"), QUARTERS[..., ::-1].astype(np.uint16) * 257)
    assert_shows(read_image(tmp_path / "image.png"), QUARTERS, tolerance=1)


def test_sixteen_bits_of_a_pgm_are_scaled_though_they_come_as_thirty_two(tmp_path):
    grey = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "image.pgm"), grey)
    np.testing.assert_allclose(read_image(tmp_path / "image.pgm")[0].numpy(), grey / 257, atol=1)


def tiff_of(pixels):
    """The file of signed 16-bit pixels (H, W), which no library here writes."""
    (height, width), data = pixels.shape, pixels.astype("<i2").tobytes()
    tags = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data), 339: 2}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = 8 + len(data)
    return struct.pack("<2sHI", b"II", 42, start) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_sixteen_bits_with_a_sign_are_scaled_and_refused_below_0(tmp_path):
    grey = np.linspace(0, 32767, 48 * 64).reshape(48, 64).astype(np.int16)
    (tmp_path / "image.tif").write_bytes(tiff_of(grey))
    assert torch.equal(read_image(tmp_path / "image.tif")[0], torch.from_numpy((grey >> 8).astype(np.uint8)))
    (tmp_path / "image.tif").write_bytes(tiff_of(grey - 1))
    with pytest.raises(ValueError, match=r"image\.tif: .*integers of 8 or 16 bits, 0 or more, got -1 in int32"):
        read_image(tmp_path / "image.tif")


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_range_are_refused_by_name(dtype, tmp_path):
    path = save(tmp_path / "depth.tif", Image.fromarray(np.ones((4, 4), dtype)))
    with pytest.raises(ValueError, match=r"depth\.tif: .*integers of 8 or 16 bits"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = save(tmp_path / f"image.{suffix}", exif=exif)
    expected = UPRIGHT[orientation](QUARTERS)
    assert_shows(read_image(path), expected)
    assert_shows(read_image(path, expected.shape[:2]), expected)
    assert size_in_header(path) == expected.shape[:2]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_an_image_annotated_as_stored_is_left_as_stored(orientation, tmp_path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = save(tmp_path / "image.jpg", exif=exif)
    assert_shows(read_image(path, (48, 64)), QUARTERS)


def test_a_tiff_that_is_annotated_as_stored_is_refused_since_pillow_turns_it(tmp_path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    path = save(tmp_path / "image.tif", exif=exif)
    with pytest.raises(ValueError, match=r"image\.tif: the annotations say 48 high and 64 wide, the image is 64 high"):
        read_image(path, (48, 64))


def test_sixteen_bit_grey_is_turned_too(tmp_path):
    grey = (QUARTERS[..., 0].astype(np.uint16)) * 257
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    path = save(tmp_path / "image.png", Image.fromarray(grey), exif=exif)
    assert_shows(read_image(path), np.rot90(np.repeat(QUARTERS[..., :1], 3, axis=2), -1), tolerance=1)


def test_another_size_than_annotated_names_the_file_and_both_sizes(tmp_path):
    path = save(tmp_path / "image.png")
    with pytest.raises(
        ValueError, match=r"image\.png: the annotations say 64 high and 48 wide, the image is 48 high and"
    ):
        read_image(path, (64, 48))


@pytest.mark.parametrize("read", [read_image, size_in_header])
def test_a_missing_file_is_named(read, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        read(tmp_path / "missing.jpg")


@pytest.mark.parametrize("read", [read_image, size_in_header])
@pytest.mark.parametrize("content", [b"", b"\xff", b"not an image at all", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_named(read, content, tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.jpg: corrupt, truncated or not an image") as raised:
        read(path)
    assert "0x" not in str(raised.value)  # no address in memory


@pytest.mark.parametrize("options", [{"format": "JPEG"}, {"format": "JPEG", "progressive": True}, {"format": "PNG"}])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_an_error_not_a_grey_half_image(share, options, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, **options)
    path = tmp_path / "half.img"
    path.write_bytes(whole.getvalue()[: int(share * len(whole.getvalue()))])
    with pytest.raises(ValueError, match=r"half\.img: corrupt, truncated"):
        read_image(path)


def test_a_jpeg_cut_two_bytes_short_is_noticed_and_bytes_after_its_end_are_not(tmp_path):
    whole = save(tmp_path / "image.jpg").read_bytes()
    (tmp_path / "short.jpg").write_bytes(whole[:-2])
    (tmp_path / "long.jpg").write_bytes(whole + b"\0" * 100)
    with pytest.raises(ValueError, match=r"short\.jpg"):
        read_image(tmp_path / "short.jpg")
    assert torch.equal(read_image(tmp_path / "long.jpg"), read_image(tmp_path / "image.jpg"))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
def test_damage_inside_a_jpeg_is_noticed_though_it_ends_as_it_should(share, mode, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    path = save(tmp_path / "image.jpg", Image.fromarray(noise).convert(mode))
    data = bytearray(path.read_bytes())
    start = int(share * len(data))
    data[start : start + 6] = b"\xff\xc4\x00\x03\x22\x00"  # a table that is too short for itself
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"image\.jpg: corrupt, truncated"):
        read_image(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"keep_rgb": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_have_the_pixels_that_pillow_gives(mode, subsampling, options, tmp_path):
    noise = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8), (61, 43))
    if "keep_rgb" in options:  # then colours are not subsampled
        mode, subsampling = "RGB", 0
    path = save(tmp_path / "image.jpg", Image.fromarray(noise).convert(mode), subsampling=subsampling, **options)
    with Image.open(path) as image:
        expected = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(read_image(path).permute(1, 2, 0).numpy(), expected)


def test_a_jpeg_whose_last_pixel_is_grey_is_read(tmp_path):
    grey = Image.new("RGB", (16, 16), (128, 128, 128))
    assert read_image(save(tmp_path / "image.jpg", grey)).unique().tolist() == [128]


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path):
    data = bytearray(save(tmp_path / "image.png").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "image.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"image\.png"):
        read_image(tmp_path / "image.png")


def test_the_smallest_image_is_writable(tmp_path):
    image = read_image(save(tmp_path / "dot.png", Image.new("RGB", (1, 1), (1, 2, 3))))
    image += 1
    assert image.flatten().tolist() == [2, 3, 4]


def test_an_image_that_claims_more_pixels_than_annotated_is_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = save(tmp_path / "bomb.png", Image.new("1", (9000, 9000)))
    assert path.stat().st_size < 20_000
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"bomb\.png: the annotations say 40 high and 60 wide, the image is 9000"):
        read_image(path, (40, 60))


def test_an_image_of_more_pixels_than_any_photograph_is_refused(tmp_path):
    path = save(tmp_path / "bomb.png", Image.new("1", (20000, 20000)))
    with pytest.raises(ValueError, match=r"bomb\.png: corrupt, .*decompression bomb"):
        read_image(path)


def test_an_image_that_is_a_program_is_not_run(tmp_path, monkeypatch):
    path = save(tmp_path / "image.jpg", format="EPS")
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ValueError, match=r"image\.jpg: .*EPS files are not read"):
        read_image(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("reduce_to", "part"), [(None, 1), (49, 1), (25, 1), (24, 2), (12, 4), (6, 8), (1, 8)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_jpeg_is_reduced_as_far_as_its_shorter_side_allows(orientation, reduce_to, part, tmp_path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = save(tmp_path / "image.jpg", exif=exif, quality=95)
    whole, reduced = read_image(path), read_image(path, reduce_to=reduce_to)
    height, width = whole.shape[1:]
    expected = whole.double().reshape(3, height // part, part, width // part, part).mean((2, 4))
    assert_shows(reduced, expected.permute(1, 2, 0).numpy())
    assert min(reduced.shape[1:]) >= min(reduce_to or 48, 48)


@pytest.mark.parametrize(("orientation", "part"), [(1, 8), (2, 2), (5, 2)])
def test_pixels_that_stand_for_less_stay_at_the_right_and_the_bottom(orientation, part, tmp_path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = save(tmp_path / "image.jpg", Image.fromarray(QUARTERS[:46, :62]), exif=exif)
    height, width = read_image(path).shape[1:]
    assert read_image(path, reduce_to=1).shape == (3, -(-height // part), -(-width // part))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30))
def test_pillow_reduces_what_it_decodes_as_opencv_does(height, width, reduce_to):
    file = io.BytesIO()
    Image.new("RGB", (width, height), (10, 20, 30)).save(file, "JPEG")
    plain, with_bytes_after = file.getvalue(), file.getvalue() + b"\0"
    reduced = [decode_image(data, name="x", reduce_to=reduce_to) for data in (plain, with_bytes_after)]
    assert torch.equal(*reduced)
    assert min(reduced[0].shape[1:]) >= min(reduce_to, height, width)


def test_a_file_that_is_no_jpeg_keeps_its_size(tmp_path):
    assert_shows(read_image(save(tmp_path / "image.png"), reduce_to=8), QUARTERS)


def test_the_size_that_is_stated_is_that_of_the_file(tmp_path):
    path = save(tmp_path / "image.jpg")
    assert read_image(path, (48, 64), reduce_to=10).shape == (3, 12, 16)
    with pytest.raises(ValueError, match="the annotations say 12 high and 16 wide, the image is 48 high"):
        read_image(path, (12, 16), reduce_to=10)
