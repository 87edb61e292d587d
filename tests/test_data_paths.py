import json
import ntpath
import os
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest
from PIL import Image

from detmix.data import DetectionDataset, read_coco, read_voc
from detmix.data.paths import Folder, image_suffix, other_spelling, path_below, read_file


def write_coco(folder, name):
    content = {
        "images": [
            {"id": 0, "file_name": "0.png", "height": 3, "width": 4},
            {"id": 1, "file_name": name, "height": 3, "width": 4},
        ],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 0, 2, 2]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path = folder / "set.json"
    path.write_text(json.dumps(content))
    return path


OUT = ["../secret.png", "a/../../secret.png", "a/../1.png", "..", "/etc/passwd", "..\\secret.png", "", "a\0b.png"]
WITHIN = ["1.png", "a/b/1.png", "a..b.png", "..png", "...", "a/..b/1.png", "ä ö.png", ".hidden/1.png"]


@pytest.mark.parametrize("name", OUT)
def test_a_name_that_leads_out_of_the_folder_is_refused_with_its_row(name, tmp_path):
    path = write_coco(tmp_path, name)
    with pytest.raises(ValueError, match=r"set\.json: images\[1\]\.file_name: must") as caught:
        read_coco(path, tmp_path / "images")
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", WITHIN)
def test_a_name_that_stays_is_taken(name, tmp_path):
    assert read_coco(write_coco(tmp_path, name), "images").file_name(1) == name


def test_an_absolute_name_is_taken_below_the_folder(tmp_path, monkeypatch):
    photo = tmp_path / "images" / "1.png"
    photo.parent.mkdir()
    Image.new("RGB", (4, 3)).save(photo)
    path = write_coco(tmp_path, str(photo))
    monkeypatch.chdir(tmp_path)
    for folder in (photo.parent, "images", "/"):
        assert DetectionDataset(read_coco(path, folder))[1][0].shape == (3, 3, 4)
    for folder in ("image", photo):
        with pytest.raises(ValueError, match="must lie in"):
            read_coco(path, folder)


def test_names_on_windows_stay_in_the_folder(monkeypatch):
    monkeypatch.setattr("detmix.data.paths.os", SimpleNamespace(path=ntpath, sep="\\", altsep="/"))
    folder = Folder(PureWindowsPath(r"D:\data\images"))
    for name in (
        "C:1.png",
        "D:1.png",
        r"\1.png",
        "/1.png",
        r"C:\data\images\1.png",
        r"..\1.png",
        r"\\host\share\1.png",
    ):
        with pytest.raises(ValueError, match=r"file: must lie in D:\\data\\images, without"):
            folder.require(name, "file")
    for name in (
        "1.png",
        r"a\1.png",
        "a/1.png",
        r"D:\data\images\1.png",
        "D:/data/images/1.png",
        r"d:\Data\Images\1.png",
    ):
        folder.require(name, "file")


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/../../../secret"])
def test_an_image_set_that_leads_out_of_the_folder_is_refused_before_anything_is_read(name, tmp_path):
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(f"{name} 1\n")
    with pytest.raises(ValueError, match=r"train\.txt: must lie in .*Annotations"):
        read_voc(tmp_path)


def test_a_name_with_backslashes_is_read_with_slashes_where_there_is_no_other_file(tmp_path):
    folder, name = tmp_path / "images", "sub\\1.png"
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (4, 3), "red").save(folder / "sub" / "1.png")
    for written in (name, f"{folder}/{name}"):
        annotations = read_coco(write_coco(tmp_path, written), folder)
        assert annotations.file_name(1) == written
        assert DetectionDataset(annotations)[1][0][0].min() == 255
    content = json.loads(write_coco(tmp_path, name).read_text())
    del content["images"][1]["height"], content["images"][0]
    (tmp_path / "set.json").write_text(json.dumps(content | {"annotations": []}))
    assert read_coco(tmp_path / "set.json", folder).sizes.tolist() == [[3, 4]]
    Image.new("RGB", (4, 3)).save(folder / name)
    assert DetectionDataset(read_coco(write_coco(tmp_path, name), folder))[1][0][0].max() == 0


@pytest.mark.parametrize("folder", ["images", ".", "", "/images"])
def test_a_name_with_backslashes_stays_in_its_folder(folder):
    wanted = Path(folder) / "etc/passwd"
    assert path_below(Path(folder), "\\etc\\passwd") == path_below(Path(folder), "etc\\passwd") == wanted


def test_a_link_is_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "images").symlink_to(tmp_path / "elsewhere")
    Folder(tmp_path / "images").require("1.png", "set.json")


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"content")
    assert read_file(tmp_path / "file") == b"content"
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match=rf"{path}: not a file, but a folder, a pipe or a device"):
            read_file(path)
    for nothing in ("nothing", "file/nothing", "n" * 300):
        with pytest.raises(FileNotFoundError, match=nothing):
            read_file(tmp_path / nothing)


@pytest.mark.parametrize(
    ("wanted", "there", "hint"),
    [
        ("g.jpg", "g.JPG", "there is g.JPG"),
        ("G.jpg", "g.jpg", "there is g.jpg"),
        ("h", "h.png", "there is h.png"),
        ("h.jpg", "h.jpeg", "there is h.jpeg"),
        ("img_1.jpeg", "IMG_1.JPG", "there is IMG_1.JPG"),
        ("A.xml", "a.XML", "there is a.XML"),
        ("2020.05.12.jpg", "2020.05.12.png", "there is 2020.05.12.png"),
        ("IMGS\\i.jpg", "i.jpg", "the file name has backslashes, as Windows writes them: replace them by /"),
    ],
)
def test_a_missing_file_that_is_there_under_another_spelling_is_told(wanted, there, hint, tmp_path):
    (tmp_path / there).touch()
    (tmp_path / "other.jpg").touch()
    with pytest.raises(FileNotFoundError) as caught:
        read_file(tmp_path / wanted)
    assert f"({hint})" in str(caught.value)
    assert str(caught.value.filename) == str(tmp_path / wanted)


def test_what_pillow_writes_and_reads_as_pixels_is_an_image():
    Image.init()
    formats = set(Image.OPEN) & set(Image.SAVE) - {"BLP", "BUFR", "EPS", "GRIB", "HDF5", "PDF", "WMF"}
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    assert len(suffixes) > 30
    assert all(image_suffix(f"a.v2{suffix.upper()}") == suffix.upper() for suffix in suffixes)


def test_a_folder_is_not_listed_for_a_missing_file(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()
    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, lambda *arguments: pytest.fail("a folder of a million files may be listed"))
    assert other_spelling(tmp_path / "a.jpg") == "there is a.png"
    assert other_spelling(tmp_path / "b.jpg") == ""


@pytest.mark.parametrize(("wanted", "there"), [("a.jpg", "a.xml"), ("a.xml", "a.jpg"), ("a.jpg", "b.jpg")])
def test_what_is_of_another_kind_or_name_is_not_told(wanted, there, tmp_path):
    (tmp_path / there).touch()
    assert not other_spelling(tmp_path / wanted)
    assert not other_spelling(tmp_path / "nothing" / wanted)


def test_an_image_of_another_spelling_is_told_where_a_sample_is_read(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "A.PNG")
    with pytest.raises(FileNotFoundError, match=r"\(there is A\.PNG\)"):
        DetectionDataset(read_coco(write_coco(tmp_path, "a.png"), tmp_path))[1]
