import json

import pytest

from detmix.data.find import find_images, names_below_common_folder, stated_images


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of files, and the folder above it as the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "notes.txt", "deep/er/c.jpeg", ".hidden/d.jpg", "deep/._b.jpg", "[1].jpg"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "empty").mkdir()
    return tmp_path / "photos"


def found(*sources):
    return [path.as_posix() for path in find_images(sources)]


def test_a_folder_is_searched_with_all_below_it_and_hidden_files_are_left_out(photos):
    names = ["photos/[1].jpg", "photos/a.PNG", "photos/b.jpg", "photos/deep/er/c.jpeg"]
    assert found("photos") == names
    assert found("photos/") == names


def test_files_keep_their_order_and_come_once(photos):
    assert found("photos/notes.txt", "photos/b.jpg", "photos/a.PNG", f"{photos}/b.jpg") == [
        "photos/notes.txt",
        "photos/b.jpg",
        "photos/a.PNG",
    ]


def test_patterns_find_files_and_a_file_whose_name_looks_like_one_is_itself(photos):
    assert found("photos/**/*.jp*g") == ["photos/[1].jpg", "photos/b.jpg", "photos/deep/er/c.jpeg"]
    assert found("photos/[1].jpg") == ["photos/[1].jpg"]
    assert found("photos/*[!1]*.jpg") == ["photos/[1].jpg", "photos/b.jpg"]


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("photos/*.gif", r"photos/\*.gif: no such file or folder, and no file whose name fits"),
        ("empty", r"empty: no images in this folder, no file ending in \.jpg, \.jpeg.* or the like"),
    ],
)
def test_what_finds_nothing_is_named(photos, source, wanted):
    with pytest.raises(FileNotFoundError, match=wanted):
        find_images(["photos", source])


def test_names_start_below_the_folder_that_all_have_in_common(photos):
    assert [name.as_posix() for name in names_below_common_folder(find_images(["photos/deep", "photos/b.jpg"]))] == [
        "deep/er/c.jpeg",
        "b.jpg",
    ]
    assert [name.as_posix() for name in names_below_common_folder(find_images(["photos/deep"]))] == ["c.jpeg"]


@pytest.fixture
def ids_of(photos):
    """The ids of some files, by the file names of a COCO file."""

    def read(names, *files):
        images = [{"id": number, "file_name": name, "width": 4} for name, number in names.items()]
        (photos / "coco.json").write_text(json.dumps({"images": images, "annotations": [], "info": {}}))
        return [image.id for image in stated_images(photos / "coco.json", [photos / file for file in files])]

    return read


def test_ids_are_those_of_the_file_names_in_which_a_path_ends(ids_of):
    assert ids_of({"b.jpg": 7, "er/c.jpeg": 9, "other.jpg": 1}, "deep/er/c.jpeg", "b.jpg") == [9, 7]


def test_names_may_be_written_as_windows_does_and_with_detours(ids_of):
    assert ids_of({"./b.jpg": 7, "er\\c.jpeg": 9}, "deep/er/c.jpeg", "b.jpg") == [9, 7]


def test_a_name_that_two_images_have_is_refused(photos):
    images = [{"id": 1, "file_name": "b.jpg"}, {"id": 2, "file_name": "./b.jpg"}]
    (photos / "coco.json").write_text(json.dumps({"images": images}))
    with pytest.raises(ValueError, match=r"coco\.json: two images are called '\./b\.jpg'"):
        stated_images(photos / "coco.json", [photos / "b.jpg"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_the_file_is_read_as_for_training_whatever_its_encoding(photos, encoding):
    text = json.dumps({"annotations": [{"bbox": [float("nan"), 0, 1, 1]}], "images": [{"id": 7, "file_name": "ä.jpg"}]})
    (photos / "coco.json").write_bytes(text.encode(encoding))
    assert stated_images(photos / "coco.json", [photos / "ä.jpg"])[0].id == 7


def test_sizes_are_stated_if_both_sides_are(photos):
    sides = [{"height": 3.0, "width": 4}, {"height": 3}, {"height": 0, "width": 4}]
    images = [{"id": number, "file_name": f"{number}.jpg", **side} for number, side in enumerate(sides)]
    (photos / "coco.json").write_text(json.dumps({"images": images}))
    found = stated_images(photos / "coco.json", [photos / f"{number}.jpg" for number in range(3)])
    assert [image.size for image in found] == [(3, 4), None, None]


def test_ids_may_be_whole_floats_and_annotations_anything(photos):
    (photos / "coco.json").write_text('{"images": [{"id": 7.0, "file_name": "b.jpg"}], "annotations": [NaN, "x"]}')
    assert stated_images(photos / "coco.json", [photos / "b.jpg"])[0].id == 7


def test_a_file_name_may_be_the_whole_path(ids_of, photos):
    assert ids_of({"b.jpg": 7, f"{photos}/b.jpg": 8, f"{photos}/a.PNG": 9}, "b.jpg", "a.PNG") == [8, 9]


def test_an_image_that_has_no_id_or_shares_one_is_named(ids_of):
    with pytest.raises(ValueError, match=r"photos/a\.PNG: .*coco\.json has no image of this name; it has b\.jpg"):
        ids_of({"b.jpg": 7}, "b.jpg", "a.PNG")
    with pytest.raises(ValueError, match=r"deep/b\.jpg: is image 7 of .*coco\.json, and so is .*photos/b\.jpg"):
        ids_of({"b.jpg": 7}, "b.jpg", "deep/b.jpg")


def test_a_file_that_is_no_annotation_file_is_named(photos):
    (photos / "set.json").write_text('{"images": [{"id": "7", "file_name": "b.jpg"}]}')
    with pytest.raises(ValueError, match=r"set\.json: .* images\[0\]: Expected `int`, got `str`"):
        stated_images(photos / "set.json", [])
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such COCO annotation file"):
        stated_images(photos / "none.json", [])
    (photos / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"list\.json: not a COCO annotation file: wanted '\{', got '\['"):
        stated_images(photos / "list.json", [])


def test_an_image_without_a_name_is_named_by_its_row(tmp_path):
    (tmp_path / "coco.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 3}]}))
    with pytest.raises(ValueError, match=r"coco\.json: images\[1\] has no file_name"):
        stated_images(tmp_path / "coco.json", [tmp_path / "a.jpg"])
