"""The cache file of VOC folders: what comes out is what the files say, whatever lies in the cache."""

import logging
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detmix.data import cache, read_voc, voc, voc_xml

from .test_data_voc import BCCD, document, folder, same, thing

AGE = 10  # seconds


def grow_old(root):
    """Let the files be no longer so young that they may change unnoticed."""
    for number, path in enumerate(sorted((root / "Annotations").iterdir())):
        changed = path.stat().st_mtime_ns - AGE * 10**9 - number
        os.utime(path, ns=(changed, changed))
    return root


def some_folder(root, **documents):
    flat = thing(box=(5, 5, 5, 5))
    documents = documents or {"a": document(thing(), flat), "b": document(), "c": document(thing())}
    return grow_old(folder(root / "voc", documents))


def read(tmp_path, **options):
    """The folder read with a cache, which must be as it is without."""
    root = tmp_path / "voc"
    found = read_voc(root, cache_dir=tmp_path / "cache", **options)
    same(found, read_voc(root, cache_dir=False, **options))
    return found


@pytest.fixture
def parsed(monkeypatch):
    """The names of the XML files that are parsed."""
    names = []
    parse = voc_xml._parse

    def note(path):
        names.append(path.stem)
        return parse(path)

    monkeypatch.setattr(voc_xml, "_parse", note)
    return names


def parses(parsed, tmp_path, **options):
    """Which files are parsed by reading with the cache, beside those that reading without it parses."""
    parsed.clear()
    found = read(tmp_path, **options)
    return parsed[: -len(found)]


def test_the_second_reading_parses_nothing_and_warns_all_the_same(tmp_path, parsed, caplog):
    some_folder(tmp_path)
    assert parses(parsed, tmp_path) == ["a", "b", "c"]
    caplog.clear()
    assert parses(parsed, tmp_path) == []
    cached, plain = (record.getMessage() for record in caplog.records)
    assert cached == plain
    assert "a.xml: object[2] has xyxy [5.0, 5.0, 5.0, 5.0]" in cached
    with pytest.raises(ValueError, match=r"a\.xml: object\[2\]"):
        read(tmp_path, on_invalid="raise")
    assert parses(parsed, tmp_path, class_names=("owl", "dog", "cat")) == []
    with pytest.raises(ValueError, match=r"a\.xml: object\[1\]: the class must be one of \['owl', 'cat'\], got 'dog'"):
        read(tmp_path, class_names=("owl", "cat"))


def change(root, name, text, *, seconds=1.0):
    path = root / "Annotations" / f"{name}.xml"
    before = path.stat()
    path.write_text(text)
    changed = before.st_mtime_ns + int(seconds * 10**9)
    os.utime(path, ns=(changed, changed))


def test_a_file_that_changes_is_read_again(tmp_path, parsed):
    root = some_folder(tmp_path)
    read(tmp_path)
    change(root, "c", document(thing("owl", (1, 2, 30, 40))))
    assert read(tmp_path).class_names == ("dog", "owl")
    assert parses(parsed, tmp_path) == []


@pytest.mark.parametrize("seconds", [1e-9, -3])
def test_so_is_one_of_the_same_size_whatever_its_new_time(seconds, tmp_path):
    root = some_folder(tmp_path)
    before = read(tmp_path)
    change(root, "c", document(thing(box=(12, 22, 41, 61))), seconds=seconds)
    assert (root / "Annotations" / "c.xml").stat().st_size == len(document(thing()))
    after = read(tmp_path)
    assert before.boxes[-1].tolist() == [10, 20, 40, 60]
    assert after.boxes[-1].tolist() == [11, 21, 41, 61]


def test_so_is_one_of_another_size_and_the_same_time(tmp_path):
    root = some_folder(tmp_path)
    read(tmp_path)
    change(root, "c", document(thing("elephant")), seconds=0)
    assert read(tmp_path).class_names == ("dog", "elephant")


def test_so_is_one_of_the_same_size_and_time_as_archives_unpack_it(tmp_path):
    root = some_folder(tmp_path)
    read(tmp_path)
    time.sleep(0.05)  # the system's clock for files has ticks
    change(root, "c", document(thing(box=(12, 22, 41, 61))), seconds=0)
    assert read(tmp_path).boxes[-1].tolist() == [11, 21, 41, 61]


def test_the_list_may_change(tmp_path):
    root = some_folder(tmp_path)
    listed = root / "ImageSets" / "Main" / "train.txt"
    for lines in ("a\nb\nc\n", "c\na\nb\n", "c\n", "b\nc\n"):
        listed.write_text(lines)
        assert [read(tmp_path).file_name(i)[0] for i in range(lines.count("\n"))] == lines.split()
    listed.write_text("a\nd\n")
    with pytest.raises(FileNotFoundError, match=r"d\.xml: no such annotation file, and .*train\.txt lists it"):
        read(tmp_path)


def test_a_file_that_is_gone_is_named(tmp_path):
    root = some_folder(tmp_path)
    read(tmp_path)
    (root / "Annotations" / "b.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.xml: no such annotation file"):
        read(tmp_path)


def test_a_size_that_the_xml_lacks_is_the_images_as_it_is_now(tmp_path):
    root = some_folder(tmp_path, a=document(thing(), size=""))
    image = root / "JPEGImages" / "a.jpg"
    for size in ((90, 120), (60, 70)):
        Image.new("RGB", size).save(image)
        assert read(tmp_path).sizes.tolist() == [list(size[::-1])]


def test_sets_and_folders_have_indices_of_their_own(tmp_path, parsed):
    root = some_folder(tmp_path)
    folder(root, {"d": document(thing("owl"))}, image_set="val")
    (root / "ImageSets" / "Main" / "cats").mkdir()
    folder(root, {"e": document(thing("cat"))}, image_set="cats/train")
    grow_old(root)
    other = some_folder(tmp_path / "other", a=document(thing("yak")))
    for _ in range(2):
        assert read(tmp_path).class_names == ("dog",)
        assert read(tmp_path, image_set="val").class_names == ("owl",)
        assert read(tmp_path, image_set="cats/train").class_names == ("cat",)
        assert read_voc(other, cache_dir=tmp_path / "cache").class_names == ("yak",)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_a_folder_whose_path_is_no_text_has_an_index_too(tmp_path, parsed):
    place = tmp_path / os.fsdecode(b"caf\xe9")
    some_folder(place, a=document(thing()), b=document())  # no warning, which pytest's processes could not send
    assert parses(parsed, place) == ["a", "b"]
    assert parses(parsed, place) == []


def test_a_list_may_lie_elsewhere(tmp_path, parsed):
    some_folder(tmp_path)
    (tmp_path / "mine.txt").write_text("a\n")
    assert parses(parsed, tmp_path, image_set=str(tmp_path / "mine")) == ["a"]
    assert parses(parsed, tmp_path, image_set=str(tmp_path / "mine")) == []


def test_a_file_so_young_that_it_may_change_unnoticed_is_not_trusted(tmp_path, parsed):
    root = some_folder(tmp_path)
    soon = time.time() + 3600  # so that it is young however long the test takes
    os.utime(root / "Annotations" / "b.xml", (soon, soon))
    assert parses(parsed, tmp_path) == parses(parsed, tmp_path) == ["a", "b", "c"]
    assert not (tmp_path / "cache").exists()
    os.utime(root / "Annotations" / "b.xml")
    grow_old(root)
    read(tmp_path)
    assert parses(parsed, tmp_path) == []


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.sampled_from(["cut", "flipped", "longer", "empty"]))
def test_a_cache_file_that_is_not_whole_is_made_anew(tmp_path_factory, place, change, damage):
    tmp_path = tmp_path_factory.mktemp("voc")
    some_folder(tmp_path)
    expected = read(tmp_path)
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    at = int(place * len(whole))
    flipped = whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :]
    file.write_bytes({"cut": whole[:at], "flipped": flipped, "longer": whole + b"\0", "empty": b""}[damage])
    same(read(tmp_path), expected)
    assert file.read_bytes() == whole


def test_a_cache_file_of_something_else_is_made_anew(tmp_path):
    root = some_folder(tmp_path)
    expected = read(tmp_path)
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    index = cache.load(file, voc._Index)
    others = [
        {"what": "ever"},
        index.records,
        voc._Index(voc._LAYOUT + 1, index.root, index.stamps, index.records),
        voc._Index(index.layout, "/elsewhere", index.stamps, index.records),
        voc._Index(index.layout, index.root, index.stamps, index.records[::-1]),
        voc._Index(index.layout, index.root, index.stamps[:2], index.records[:2]),
    ]
    for other in others:
        cache.store(file, other)
        same(read(tmp_path), expected)
        assert file.read_bytes() == whole
    assert root.is_dir()


def test_corners_are_kept_as_the_files_have_them(tmp_path, parsed):
    some_folder(tmp_path)
    parses(parsed, tmp_path)
    assert parses(parsed, tmp_path, one_based=False) == []
    assert read(tmp_path, one_based=False).boxes.tolist() == [[11, 21, 40, 60]] * 2
    assert read(tmp_path).boxes.tolist() == [[10, 20, 40, 60]] * 2


def test_where_nothing_can_be_written_there_is_no_cache(tmp_path, parsed, caplog):
    some_folder(tmp_path)
    (tmp_path / "cache").write_text("a file where the folder should be")
    caplog.set_level(logging.INFO, "detmix.data")
    assert parses(parsed, tmp_path) == parses(parsed, tmp_path) == ["a", "b", "c"]
    assert "not written, so the next reading takes as long" in caplog.text


def test_an_error_leaves_nothing_behind(tmp_path):
    some_folder(tmp_path, a=document(thing()), b="<annotation>")
    with pytest.raises(ValueError, match=r"b\.xml: not a VOC annotation"):
        read(tmp_path)
    assert not (tmp_path / "cache").exists()


def test_a_size_that_no_image_has_is_named_with_a_cache_too(tmp_path):
    some_folder(tmp_path, a=document(size="<size><width>1e12</width><height>9</height></size>"))
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"a\.xml: size: <width> must be an integer in 0 \.\.\. 2147483647, got 1000000000000\.0"
        ):
            read_voc(tmp_path / "voc", cache_dir=tmp_path / "cache")


def test_where_the_cache_lies(tmp_path, monkeypatch):
    assert cache.cache_folder(None) is None  # the tests say so
    assert cache.cache_folder(False) is None
    assert cache.cache_folder("here") == Path("here")
    monkeypatch.setenv("DETMIX_CACHE_DIR", str(tmp_path))
    assert cache.cache_folder(None) == tmp_path
    monkeypatch.delenv("DETMIX_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/caches")
    assert cache.cache_folder(None) == Path("/var/caches/detmix")
    monkeypatch.setenv("HOME", "/home/someone")
    for unset in ("", "relative/caches"):  # which its specification has ignored
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache.cache_folder(None) == Path("/home/someone/.cache/detmix")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder(None) == Path("/home/someone/.cache/detmix")
    assert cache.cache_folder("~/caches") == Path("/home/someone/caches")
    monkeypatch.setenv("DETMIX_CACHE_DIR", "OFF")
    assert cache.cache_folder(None) is None


@pytest.mark.skipif(not BCCD.is_dir(), reason="the blood cell images are not in data/bccd")
@pytest.mark.parametrize("image_set", ["train", "val"])
def test_the_blood_cell_images(image_set, tmp_path, parsed, caplog):
    first, second = (read_voc(BCCD, image_set, cache_dir=tmp_path) for _ in range(2))
    same(first, second)
    assert len(parsed) == len(first)
    assert len({record.getMessage() for record in caplog.records}) == 1
    assert len(caplog.records) == 2
