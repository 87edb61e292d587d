import io
import os
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detmix import check_target
from detmix.data import DetectionDataset, read_voc

from .hostile import ending

BCCD = Path(__file__).parent.parent / "data" / "bccd"


def thing(name="dog", box=(11, 21, 40, 60), difficult=0, extra=""):
    corners = "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox>{extra}</object>"


SIZE = "<size><width>100</width><height>80</height><depth>3</depth></size>"


def document(*objects, size=SIZE, name="<filename>a.jpg</filename>"):
    return f"<annotation><folder>VOC</folder>{name}{size}{''.join(objects)}</annotation>"


def folder(root, documents, image_set="train", lines=None):
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for name, text in documents.items():
        (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
    listed = "\n".join(documents) if lines is None else lines
    (root / "ImageSets" / "Main" / f"{image_set}.txt").write_text(listed)
    return root


def read_one(root, text, **options):
    return read_voc(folder(root, {"a": text}), **options)


def same(first, second):
    for field in fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))


def test_a_folder_read_by_hand(tmp_path):
    documents = {
        "b": document(thing("dog"), thing("cat", (1, 1, 100, 80), 1), name="<filename>b.png</filename>"),
        "a": document(),
        "c": document(thing("dog", (2, 3, 4, 6)), name=""),
    }
    found = read_voc(folder(tmp_path, documents))
    assert [found.image_path(i) for i in range(3)] == [tmp_path / "JPEGImages" / n for n in ("b.png", "a.jpg", "c.jpg")]
    assert found.image_ids.tolist() == [1, 2, 3]
    assert found.sizes.tolist() == [[80, 100]] * 3
    assert (found.class_names, found.category_ids) == (("cat", "dog"), (1, 2))
    assert found.boxes.tolist() == [[10, 20, 40, 60], [0, 0, 100, 80], [1, 2, 4, 6]]
    assert found.labels.tolist() == [2, 1, 2]
    assert found.offsets.tolist() == [0, 2, 2, 3]
    assert found.difficult.tolist() == [False, True, False]
    assert found.area.tolist() == [1200, 8000, 12]
    assert not found.iscrowd.any()
    assert [row["difficult"] for row in found.ground_truth()["annotations"]] == [0, 1, 0]


pixels = st.tuples(st.integers(1, 100), st.integers(1, 80))


@settings(max_examples=30, deadline=None)
@given(pixels, pixels)
def test_a_box_covers_its_pixels_the_last_ones_included(tmp_path_factory, a, b):
    (x1, x2), (y1, y2) = sorted({a[0], b[0]} | {100, 1})[:2], sorted({a[1], b[1]} | {80, 1})[:2]
    found = read_one(tmp_path_factory.mktemp("voc"), document(thing(box=(x1, y1, x2, y2))))
    assert found.area.tolist() == [len(range(x1, x2 + 1)) * len(range(y1, y2 + 1))]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 99), st.integers(-3, 79), st.integers(2, 40), st.integers(2, 40))))
def test_corners_from_0_are_corners_from_1_moved_by_a_pixel(tmp_path_factory, xywh):
    root = tmp_path_factory.mktemp("voc")
    things = [[thing(box=(x + one, y + one, x + w, y + h)) for x, y, w, h in xywh] for one in (0, 1)]
    from_0 = read_one(root, document(*things[0]), one_based=False, cache_dir=False)
    from_1 = read_one(root, document(*things[1]), cache_dir=False)
    same(from_0, from_1)


ZERO = thing(box=(0, 20, 40, 60))


@pytest.mark.parametrize(
    ("things", "warned"),
    [
        ([thing(), ZERO], True),
        ([thing(box=(0.5, 2, 9, 9)), thing()], True),
        ([thing(box=(1, 2, 9, 9)), ZERO], False),  # a slip in a file that counts from 1
        ([thing(box=(0, 0, 9, 9)), thing(box=(1, 5, 9, 9))], False),  # as many boxes at 1 as at 0
        ([thing(), thing(box=(0, 0, 0, 0))], False),  # what tools write for nothing
        ([thing(), thing(box=(-0.5, -3, 9, 9))], False),
        ([], False),
    ],
)
def test_a_file_that_seems_to_count_from_0_is_told_of(things, warned, tmp_path, caplog):
    text = document(thing(box=(2, 2, 9, 9)), *things)
    read_one(tmp_path, text)
    told = [message for message in caplog.messages if "--data.one_based false" in message]
    assert len(told) == warned
    if warned:
        row = next(number for number, item in enumerate(things, start=2) if "min>0" in item)
        assert re.search(rf"train\.txt: 1 of 3 boxes begin at 0, .*a\.xml: object\[{row}\] has xyxy \[0", told[0])
    caplog.clear()
    read_one(tmp_path, text, one_based=False)
    assert "one_based" not in caplog.text


def test_class_names_set_the_labels_and_may_hold_more_than_the_set(tmp_path):
    found = read_one(tmp_path, document(thing("dog"), thing("cat")), class_names=("owl", "dog", "cat"))
    assert found.class_names == ("owl", "dog", "cat")
    assert found.category_ids == (1, 2, 3)
    assert found.labels.tolist() == [2, 3]


def test_one_name_is_not_taken_for_a_list_of_letters(tmp_path):
    with pytest.raises(TypeError, match="class_names must be a list of names, got the text 'dog'"):
        read_one(tmp_path, document(thing()), class_names="dog")


def test_oddities_of_real_files(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    odd = (
        f"<object>{part}<name> dog\n</name><bndbox><ymax> 60 </ymax><ymin>21.5</ymin>"
        "<xmax>40.25</xmax><xmin>11</xmin></bndbox></object>"
    )
    found = read_voc(folder(tmp_path, {"a": document(odd)}, lines="a  1\n\n"))
    assert found.boxes.tolist() == [[10, 20.5, 40.25, 60]]
    assert found.class_names == ("dog",)
    assert found.difficult.tolist() == [False]


_NOT_STATED = (("0", "0"), ("", ""))


@pytest.mark.parametrize(
    "size", ["", "<size/>", *(SIZE.replace("100", width).replace("80", height) for width, height in _NOT_STATED)]
)
def test_a_size_that_is_not_stated_is_read_from_the_image(size, tmp_path):
    folder(tmp_path, {})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (90, 120)).save(tmp_path / "JPEGImages" / "a.jpg", exif=exif)
    found = read_one(tmp_path, document(thing(), size=size))
    assert found.sizes.tolist() == [[90, 120]]
    image, target = DetectionDataset(found)[0]
    assert image.shape == (3, 90, 120)
    check_target(target, size=(90, 120), num_classes=2)


@pytest.mark.parametrize(
    ("word", "wanted"),
    [("", False), ("0", False), ("1", True), ("False", False), ("true", True), ("Unspecified", False)],
)
def test_difficult_may_be_a_word_or_empty(word, wanted, tmp_path):
    assert read_one(tmp_path, document(thing(difficult=word))).difficult.tolist() == [wanted]


def test_a_line_is_a_name_where_there_are_such_annotations(tmp_path):
    root = folder(tmp_path, {"photo": document(thing("cat")), "photo 1": document(thing("dog")), "b": document()})
    (root / "ImageSets" / "Main" / "train.txt").write_text("photo 1\nb -1\n", encoding="utf-8-sig")
    found = read_voc(root, "train")
    assert [found.image_path(index).name for index in range(2)] == ["photo 1.jpg", "b.jpg"]
    assert found.class_names == ("dog",)


@pytest.mark.parametrize(
    ("stated", "suffix"),
    [
        ("2020.05.12", ".jpg"),
        ("photo.v2", ".jpg"),
        (f"a.{'x' * 300}", ".jpg"),
        ("a.v2.PNG", ".PNG"),
        ("b.jfif", ".jfif"),
        ("b.TGA", ".TGA"),
    ],
)
def test_the_suffix_is_one_of_an_image_and_no_part_of_a_name_with_dots(stated, suffix, tmp_path):
    found = read_voc(folder(tmp_path, {"photo.v1": document(name=f"<filename> {stated}\n</filename>")}))
    assert found.image_path(0).name == f"photo.v1{suffix}"


def test_invalid_boxes_are_dropped_with_one_warning_or_raised(tmp_path, caplog):
    text = document(thing(box=(5, 5, 5, 5)), thing(), thing(box=(90, 70, 120, 81)), thing(box=(200, 1, 210, 9)))
    found = read_one(tmp_path, text)
    assert found.boxes.tolist() == [[10, 20, 40, 60], [89, 69, 100, 80]]
    ((name, _, message),) = caplog.record_tuples
    assert name == "detmix.data"
    assert "train.txt: 2 of 4 boxes without width or height" in message
    assert "a.xml: object[1] has xyxy [5.0, 5.0, 5.0, 5.0]" in message
    assert "clipped:" in message
    assert "a.xml: object[3] has xyxy [90.0, 70.0, 120.0, 81.0]" in message
    with pytest.raises(ValueError, match=r"a\.xml: object\[1\]"):
        read_one(tmp_path, text, on_invalid="raise")


BOMB = (
    '<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>' + document(thing("&c;"))
)
WRONG = {
    "not XML": ("{}", "not a VOC annotation: not well-formed"),
    "an empty file": ("", "not a VOC annotation"),
    "XML cut short": (document(thing())[:-30], "not a VOC annotation"),
    "another document": ("<html/>", "the outer tag must be <annotation>, got <html>"),
    "entities": (BOMB, "document type declarations and entities are not accepted"),
    "an external file": ('<!DOCTYPE a SYSTEM "file:///etc/hosts">' + document(), "document type declarations"),
    "no name": (document(thing(), thing("")), r"object\[2\]: the tag <name> is missing or empty"),
    "no box": (document("<object><name>dog</name></object>"), r"object\[1\]: the tag <bndbox> is missing"),
    "no ymax": (document(thing().replace("ymax", "ymid")), r"object\[1\]: bndbox: the tag <ymax> is missing"),
    "a word in a box": (
        document(thing(box=(1, "two", 3, 4))),
        r"object\[1\]: bndbox: <ymin> must be a finite number, got 'two'",
    ),
    "NaN in a box": (
        document(thing(), thing(box=(1, "nan", 3, 4))),
        r"object\[2\]: bndbox: <ymin> must be a finite number, got 'nan'",
    ),
    "infinity in a box": (
        document(thing(box=(1, 2, "inf", 4))),
        r"object\[1\]: bndbox: <xmax> must be a finite number, got 'inf'",
    ),
    "a word in difficult": (document(thing(difficult="very")), r"object\[1\]: <difficult> must be a finite number"),
    "NaN in a size": (document(size=SIZE.replace("80", "nan")), "size: <height> must be a finite number, got 'nan'"),
    "a size past all images": (
        document(size=SIZE.replace("80", "1e300")),
        r"size: <height> must be an integer in 0 \.\.\. 2147483647, got 1e\+300",
    ),
    "a width that no array holds": (
        document(size=SIZE.replace("100", "2147483648")),
        r"size: <width> must be an integer in 0 \.\.\. 2147483647, got 2147483648\.0",
    ),
    "a size below nothing": (
        document(size=SIZE.replace("80", "-1")),
        r"size: <height> must be an integer in 0 \.\.\. 2147483647, got -1\.0",
    ),
    "half a pixel": (
        document(size=SIZE.replace("100", "40.5")),
        r"size: <width> must be an integer in 0 \.\.\. 2147483647, got 40\.5",
    ),
    "half a size": (document(size="<size><width>9</width></size>"), "size: the tag <height> is missing"),
    "unknown class": (
        document(thing(), thing("yak")),
        r"object\[2\]: the class must be one of \['dog', 'cat'\], got 'yak'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_the_file_and_the_object(case, tmp_path):
    text, message = WRONG[case]
    with pytest.raises(ValueError, match=r"a\.xml: ") as caught:
        read_voc(folder(tmp_path, {"first": document(thing()), "a": text}), class_names=("dog", "cat"))
    caught.match(message)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_declaration_does_not_hide_behind_an_encoding(encoding, tmp_path):
    folder(tmp_path, {"a": ""})
    (tmp_path / "Annotations" / "a.xml").write_bytes(BOMB.encode(encoding))
    with pytest.raises(ValueError, match=r"a\.xml: .*document type declarations"):
        read_voc(tmp_path)


def test_missing_files_are_named(tmp_path):
    folder(tmp_path, {"a": document(thing())}, image_set="trainval")
    with pytest.raises(FileNotFoundError, match=r"val\.txt: no such image set; there are \['trainval'\]"):
        read_voc(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match=r"val\.txt: no such image set; there is no folder /.*/nowhere$"):
        read_voc(tmp_path / "nowhere" / "deeper", "val")
    with pytest.raises(FileNotFoundError, match=r"val\.txt: no such image set; it is .*/Main the folder that holds"):
        read_voc(tmp_path / "ImageSets" / "Main", "val")
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("a\nb\n")
    with pytest.raises(FileNotFoundError, match=r"b\.xml: no such annotation file, and .*val\.txt lists it"):
        read_voc(tmp_path, "val")
    for file in (tmp_path / "ImageSets" / "Main").iterdir():
        file.rename(tmp_path / file.name)
    with pytest.raises(FileNotFoundError, match=r"val\.txt: no such image set; it is a text file .*: write it$"):
        read_voc(tmp_path, "val")
    (tmp_path / "trainval.txt").rename(tmp_path / "ImageSets" / "Main" / "trainval.txt")
    with pytest.raises(FileNotFoundError, match=r"a\.jpg"):
        DetectionDataset(read_voc(tmp_path, "trainval"))[0]
    with pytest.raises(FileNotFoundError, match=r"a\.jpg"):
        read_one(tmp_path, document(size=""))


def test_what_a_flat_folder_lacks_is_told_one_after_the_other(tmp_path):
    root = tmp_path / "flat"
    root.mkdir()
    (root / "a.xml").write_text(document(thing()))
    Image.new("RGB", (100, 80)).save(root / "a.jpg")
    written = "a text file with the name of one image a line, without its suffix: write it"
    with pytest.raises(FileNotFoundError, match=rf"train\.txt: .*{written}; is .*flat the folder that holds"):
        read_voc(root)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    with pytest.raises(FileNotFoundError, match=rf"lists it; there is no folder {root}/Annotations: make it"):
        read_voc(root)
    (root / "Annotations").symlink_to(".")
    found = read_voc(root)
    with pytest.raises(FileNotFoundError, match=rf"there is no folder {root}/JPEGImages: make it, or a link"):
        DetectionDataset(found)[0]
    (root / "JPEGImages").symlink_to(".")
    assert DetectionDataset(found)[0][0].shape == (3, 80, 100)


@pytest.mark.parametrize("suffix", [".jpg", ".PNG", ".xml", ".jpg 1"])
def test_a_list_may_write_suffixes(suffix, tmp_path):
    documents = {"a": document(), "b.jpg": document(), "c.v2": document()}
    read = read_voc(folder(tmp_path, documents, lines=f"a{suffix}\nb.jpg\nc.v2\n"))
    assert [read.file_name(index) for index in range(3)] == ["a.jpg", "b.jpg.jpg", "c.v2.jpg"]


def test_a_pipe_in_the_place_of_an_image_is_not_waited_for(tmp_path):
    folder(tmp_path, {"a": document(size="")})
    os.mkfifo(tmp_path / "JPEGImages" / "a.jpg")
    with ending(60), pytest.raises(ValueError, match=r"a\.jpg: not a file, but a folder, a pipe or a device"):
        read_voc(tmp_path)


@pytest.mark.parametrize("name", ["a" * 300, "a.xml/b"])
def test_a_name_that_no_file_can_have_is_missing(name, tmp_path):
    folder(tmp_path, {"a": document()}, lines=f"a\n{name}\n")
    with pytest.raises(FileNotFoundError, match=rf"{name}\.xml: no such annotation file, and .*train\.txt lists it"):
        read_voc(tmp_path)


@pytest.mark.parametrize(("lines", "message"), [("\n", "there is no image"), ("a\nb\na", "unique, got 'a'")])
def test_an_image_set_that_is_empty_or_repeats_itself_is_named(lines, message, tmp_path):
    with pytest.raises(ValueError, match=rf"train\.txt: .*{message}"):
        read_voc(folder(tmp_path, {"a": document(), "b": document()}, lines=lines))


def test_a_name_that_repeats_is_found_among_many(tmp_path):
    names = "\n".join(map(str, range(200_000)))
    with ending(120), pytest.raises(ValueError, match="unique, got '199999' more than once"):
        read_voc(folder(tmp_path, {}, lines=f"{names}\n199999"))


@pytest.mark.skipif(not BCCD.is_dir(), reason="the blood cell images are not in data/bccd")
@pytest.mark.parametrize(
    ("image_set", "images", "boxes", "dropped"),
    [("train", 205, 2804, "BloodImage_00343"), ("val", 87, 1137, "BloodImage_00338"), ("test", 72, 945, None)],
)
def test_the_blood_cell_images(image_set, images, boxes, dropped, caplog):
    found = read_voc(BCCD, image_set)
    assert (len(found), len(found.boxes)) == (images, boxes)
    assert found.class_names == ("Platelets", "RBC", "WBC")
    assert [f"{dropped}.xml: object[" in record.getMessage() for record in caplog.records] == (
        [True] if dropped else []
    )
    dataset = DetectionDataset(found)
    image, target = dataset[0]
    assert image.shape == (3, 480, 640)
    for i in range(len(found)):
        rows = found.rows(i)
        assert dataset.labels_of(i).tolist() == found.labels[rows].tolist()
    check_target(target, size=(480, 640), num_classes=4)


def test_a_picture_and_its_boxes_agree_pixel_by_pixel(tmp_path):
    """A box drawn in VOC's own way, both corner pixels part of it, is the crop of a tensor."""
    folder(tmp_path, {"a": document(thing(box=(11, 21, 40, 60)), name="<filename>a.png</filename>")})
    picture = Image.new("RGB", (100, 80))
    for x in range(11, 41):
        for y in range(21, 61):
            picture.putpixel((x - 1, y - 1), (255, 255, 255))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    (tmp_path / "JPEGImages" / "a.png").write_bytes(buffer.getvalue())
    image, target = DetectionDataset(read_voc(tmp_path))[0]
    x1, y1, x2, y2 = target["boxes"][0].int().tolist()
    assert image[:, y1:y2, x1:x2].min() == 255
    assert image.sum() == image[:, y1:y2, x1:x2].sum()
