"""WebDataset's shards that are damaged, changed or wrong."""

import gzip
import json
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detmix.data import WebDatasetStream

from .hostile import changed, damaged, open_files, read_or_refused
from .test_data_streams import CLASSES, ids, members_of, picture, row, write_tar
from .test_hostile import fuzz

BROKEN = {
    "no json": ({"json": None}, r"wanted json and one image, got \['png'\]: the files of a sample stand side by side"),
    "no image": ({"png": None}, r"wanted json and one image, got \['json'\]"),
    "two images": ({"jpg": b"x"}, r"wanted json and one image, got \['png', 'json', 'jpg'\]"),
    "no JSON": ({"json": b"{"}, "json: Input data was truncated"),
    "JSON without end": ({"json": b'{"a":' + b"[" * 100_000}, "json: .*recursion"),
    "a list": ({"json": b"[]"}, "json: Expected `object`, got `array`"),
    "no objects": ({"json": b"{}"}, "the key 'objects' is missing"),
    "not an image": ({"png": b"GIF8"}, "corrupt, truncated or not an image"),
    "half an image": ({"png": picture(1)[:45]}, "corrupt, truncated or not an image"),
    "another size": ({"json": json.dumps(row(1) | {"height": 13}).encode()}, "the annotations say 13 high"),
    "another size in floats": (
        {"json": json.dumps(row(1) | {"height": 13.0, "width": 16.0}).encode()},
        "the annotations say 13 high",
    ),
    "a size in quotes": (
        {"json": json.dumps(row(1) | {"height": "12"}).encode()},
        "height: Expected `int | null`, got `str`",
    ),
    "another class": (
        {"json": json.dumps(row(1) | {"objects": {"bbox": [[1, 1, 2, 2]], "category": ["yak"]}}).encode()},
        r"objects\[0\]: category must be one of \['cat', 'dog'\], got 'yak'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_named_with_shard_and_key(case, tmp_path):
    change, message = BROKEN[case]
    content = {"png": picture(1), "json": json.dumps(row(1)).encode()} | change
    members = members_of([0]) | {f"b/001.{kind}": data for kind, data in content.items() if data is not None}
    shard = write_tar(tmp_path / "part.tar", members)
    stream = iter(WebDatasetStream(shard, classes=CLASSES))
    next(stream)
    assert str(shard) in open_files()
    with pytest.raises(ValueError, match=r"part\.tar: sample b/001: ") as caught:
        next(stream)
    caught.match(message)
    assert str(shard) not in open_files()


def test_a_size_that_is_not_known_is_not_compared(tmp_path):
    for size in ({"height": 0, "width": 0}, {"height": None, "width": None}, {"height": 12.0, "width": 16}):
        content = json.dumps(row(1) | size)
        shard = write_tar(tmp_path / "part.tar", {"a.png": picture(1), "a.json": content.encode()})
        assert ids(WebDatasetStream(shard, classes=CLASSES)) == [1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_may_hold_what_tools_write_into_it(encoding, tmp_path):
    objects = row(1)["objects"] | {"area": [float("nan")], "category": ["cat"]}
    content = json.dumps(row(1) | {"objects": objects, "note": "ä"}, ensure_ascii=False).encode(encoding)
    shard = write_tar(tmp_path / "part.tar", {"a.png": picture(1), "a.json": content})
    [(_, target)] = WebDatasetStream(shard, classes=CLASSES)
    x1, y1, x2, y2 = target["boxes"][0].tolist()
    assert target["area"].tolist() == [(x2 - x1) * (y2 - y1)]


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_a_shard_that_is_cut_short_is_refused_and_never_loses_a_sample(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("cut")
    whole = write_tar(folder / "whole.tar", members_of(range(3))).read_bytes()
    cut = folder / "cut.tar"
    cut.write_bytes(whole[: int(share * len(whole))])
    try:
        found = ids(WebDatasetStream(cut, classes=CLASSES))
    except ValueError as error:
        found = str(error)
    assert found == [0, 1, 2] or "cut.tar: " in found  # some of the zeros at the end are enough


def test_a_shard_that_changes_while_it_is_in_use_loses_no_sample_silently(tmp_path):
    shard = write_tar(tmp_path / "a.tar", members_of(range(2)))
    stream = WebDatasetStream(shard, classes=CLASSES)
    assert ids(stream) == [0, 1]
    write_tar(shard, members_of(range(3)))
    assert ids(stream) == [0, 1, 2]
    shard.write_bytes(shard.read_bytes()[: 4 * 1024])  # two samples, four blocks each
    with pytest.raises(ValueError, match=r"a\.tar: cut short"):
        list(stream)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.tar: no such shard"):
        list(stream)


def test_a_file_that_a_shard_has_twice_is_named(tmp_path):
    shard = write_tar(tmp_path / "a.tar", members_of([0]) | {"000.PNG": picture(1)})
    with pytest.raises(ValueError, match=r"^.*a\.tar: 000\.PNG: duplicate file name"):
        list(WebDatasetStream(shard, classes=CLASSES))


def test_a_shard_that_is_no_tar_file_is_named(tmp_path):
    shard = tmp_path / "a.tar"
    shard.write_bytes(b"x" * 4096 + bytes(1024))
    with pytest.raises(ValueError, match=r"a\.tar: not a tar file, or not whole"):
        list(WebDatasetStream(shard, classes=CLASSES))


def sparse(shard):
    """The shard behind a file of GNU's sparse kind: a block of zeros that stands for a gigabyte."""
    header = tarfile.TarInfo("000.png")
    header.size, header.type = 512, tarfile.GNUTYPE_SPARSE
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"%011o\0%011o\0" % (2**30 - 512, 512)  # where the block belongs
    block[483:495] = b"%011o\0" % 2**30
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(512) + shard


def compressed(shard):
    """The shard behind a file of 64 megabytes, all of it compressed; and the zeros that a tar file ends with."""
    zeros = tarfile.TarInfo("000.png")
    zeros.size = 2**26
    return gzip.compress(zeros.tobuf() + bytes(zeros.size) + shard, 1) + bytes(1024)


@pytest.mark.parametrize(
    ("change", "message"),
    [(sparse, r"part\.tar: 000\.png: sparse files are not read"), (compressed, r"part\.tar: not a tar file")],
)
def test_a_small_shard_that_claims_much_is_refused_in_little_memory(change, message, tmp_path):
    shard = write_tar(tmp_path / "part.tar", members_of([0]))
    shard.write_bytes(change(shard.read_bytes()))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            list(WebDatasetStream(shard, classes=CLASSES))
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_shards_may_be_compressed_where_their_name_says_so(tmp_path):
    shard = write_tar(tmp_path / "part.tar", members_of(range(3)) | {"__index__": b"about the shard"})
    packed = tmp_path / "part.tar.gz"
    packed.write_bytes(gzip.compress(shard.read_bytes()))
    assert ids(WebDatasetStream(packed, classes=CLASSES)) == ids(WebDatasetStream(shard, classes=CLASSES)) == [0, 1, 2]


def test_a_shard_of_long_names_without_end_is_refused(tmp_path):
    shard = tmp_path / "part.tar"
    name = tarfile.TarInfo("././@LongLink")
    name.size, name.type = 1, tarfile.GNUTYPE_LONGNAME
    shard.write_bytes((name.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 2000 + bytes(1024))
    with pytest.raises(ValueError, match=r"part\.tar: not a tar file, or not whole: "):
        list(WebDatasetStream(shard, classes=CLASSES))


@fuzz(data=st.data())
def test_shards_with_other_bytes(tmp_path, data):
    shard = write_tar(tmp_path / "part.tar", members_of([0, 1]))
    shard.write_bytes(data.draw(damaged(shard.read_bytes())))
    read_or_refused(lambda: list(WebDatasetStream(shard, classes=CLASSES)), str(shard))


@fuzz(changed(row(1)))
def test_samples_with_other_values(tmp_path, content):
    shard = write_tar(tmp_path / "part.tar", {"a.png": picture(1), "a.json": json.dumps(content).encode()})
    read_or_refused(lambda: list(WebDatasetStream(shard, classes=CLASSES)), f"{shard}: sample a")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shards": []}, ValueError, "there must be a shard at least, got none"),
        ({"shards": ["pipe:a", "pipe:a"]}, ValueError, "shards must be unique, got 'pipe:a' more than once"),
        ({"shards": "none-{0..2}.tar"}, FileNotFoundError, r"none-0\.tar: no such shard"),
        ({"share": "rows"}, ValueError, "share must be one of shards, samples, got 'rows'"),
        ({"shuffle": -1}, ValueError, "shuffle must be 0 or more, got -1"),
        ({"shuffle": 1.5}, TypeError, "integer"),
        ({"seed": None}, TypeError, "integer"),
        ({"classes": "cat"}, TypeError, "classes must be a list of names, got the text 'cat'"),
        ({"box_format": "yx"}, ValueError, "box_format must be one of xywh, xyxy"),
    ],
)
def test_bad_settings_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        WebDatasetStream(**{"shards": "pipe:a", "classes": CLASSES} | arguments)
