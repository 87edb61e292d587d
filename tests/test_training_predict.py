import io
import json
import os
import shutil

import msgspec
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from rich.console import Console
from torch import nn

from detmix.training import cli_main
from detmix.training.predict import predict_images
from detmix.training.trained import Trained, open_trained

from .conftest import undrawn_report
from .test_configs import write_coco, write_image


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on four images in COCO's layout, ids of images and classes with gaps: the folders of run and data."""
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder)
    data = ["--data.format=coco", f"--data.root={folder}", "--data.train=[train2017]", "--data.val=val2017"]
    trainer = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--data.mixup.no_mixup_epochs=0"]
    options = [f"--runs={folder / 'runs'}", "--data.batch_size=3", "--model.options={min_size: 64, max_size: 96}"]
    with undrawn_report():
        cli_main(["fit", "--config=configs/quickstart.yaml", *data, *trainer, *options])
    return folder / "runs" / "quickstart", folder


def read(file):
    return json.loads(file.read_text())


@pytest.mark.parametrize("file", ["model.pt", "checkpoints/last.ckpt"])
def test_predictions_are_those_of_the_trainers_own_validation(finished, tmp_path, file):
    run, data = finished
    annotations = data / "annotations/instances_val2017.json"
    images = [str(data / "val2017")]
    predict_images(images, open_trained(str(run / file)), tmp_path / "out", batch_size=3, annotations=annotations)
    ours, trainers = read(tmp_path / "out/predictions.json"), read(run / "predictions.json")
    assert len(ours) == len(trainers) > 10
    for row, other in zip(ours, trainers, strict=True):
        assert (row["image_id"], row["category_id"]) == (other["image_id"], other["category_id"])
        assert [*row["bbox"], row["score"]] == pytest.approx([*other["bbox"], other["score"]], rel=1e-5, abs=1e-4)
    assert {row["category_id"] for row in ours} <= {3, 7}
    assert (
        read(tmp_path / "out/images.json")["categories"]
        == read(run / "classes.json")
        == read(annotations)["categories"]
    )


class Finds(nn.Module):
    """Finds as many objects in an image as the red of its first pixel says, with scores 0.9, 0.8 ... ."""

    def __init__(self):
        super().__init__()
        self.where = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        assert not self.training
        counts = [round(float(image[0, 0, 0]) * 255) for image in images]
        return [
            {
                "boxes": torch.tensor([[1.0, 2.0, 21.0, 32.0]] * n).reshape(-1, 4),
                "labels": torch.arange(n) % 2 + 1,
                "scores": 0.9 - 0.1 * torch.arange(n),
            }
            for n in counts
        ]


@pytest.fixture
def finder():
    return Trained(Finds(), ("cat", "[dog]"), (4, 8))


@pytest.fixture
def photos(tmp_path):
    """Three images, in which the finder sees 0, 1 and 6 objects."""
    for name, red in {"a.png": 0, "b/c.png": 1, "b/d.png": 6}.items():
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (red, 90, 90)).save(file)
    return tmp_path / "photos"


def shown(tables):
    """The lines of a terminal, without the spaces that align them."""
    text = io.StringIO()
    Console(width=100, file=text).print(tables)
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def test_results_pictures_and_tables(finder, photos, tmp_path):
    lines = shown(predict_images([str(photos)], finder, tmp_path / "out", batch_size=2))
    assert {"cat 3 2 0.90", "[dog] 2 1 0.80", "all 5 2 0.90"} <= set(lines)  # a score of 0.4 is below the threshold
    assert {"a.png -", "b/c.png cat 1", "b/d.png cat 2, [dog] 2"} <= set(lines)
    results = read(tmp_path / "out/predictions.json")
    assert [row["image_id"] for row in results] == [2, *[3] * 6]
    assert results[2] == {"image_id": 3, "category_id": 8, "bbox": [1, 2, 20, 30], "score": pytest.approx(0.8)}
    content = read(tmp_path / "out/images.json")
    assert content["images"][1] == {"id": 2, "file_name": "b/c.png", "height": 48, "width": 64}
    assert content["categories"] == [{"id": 4, "name": "cat"}, {"id": 8, "name": "[dog]"}]
    pictures = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out/pictures").rglob("*.*")}
    assert pictures == {"pictures/a.jpg", "pictures/b/c.jpg", "pictures/b/d.jpg"}
    for name in pictures:
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.format == "JPEG"


def test_the_results_are_what_pycocotools_reads(finder, photos, tmp_path, capsys):
    predict_images([str(photos)], finder, tmp_path / "out", pictures="none")
    coco = COCO(tmp_path / "out/images.json").loadRes(str(tmp_path / "out/predictions.json"))
    assert len(coco.getAnnIds(catIds=[4])) == 4
    assert not (tmp_path / "out/pictures").exists()


@pytest.mark.parametrize(("size", "wanted"), [((48, 64), (48, 64)), ((64, 48), (64, 48)), (None, (64, 48))])
def test_photos_are_turned_as_their_annotations_are(finder, tmp_path, size, wanted):
    """As a data set reads them: one whose stated size is that of the pixels as stored is left so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg", exif=exif)
    stated = {} if size is None else {"height": size[0], "width": size[1]}
    content = {"images": [{"id": 7, "file_name": "a.jpg", **stated}], "annotations": [], "categories": []}
    (tmp_path / "set.json").write_text(json.dumps(content))
    out = tmp_path / "out"
    predict_images([str(tmp_path / "a.jpg")], finder, out, pictures="none", annotations=tmp_path / "set.json")
    assert read(out / "images.json")["images"] == [
        {"id": 7, "file_name": "a.jpg", "height": wanted[0], "width": wanted[1]}
    ]


def test_batches_and_workers_change_nothing(finder, photos, tmp_path):
    for name, options in {"one": {"batch_size": 1}, "two": {"batch_size": 3, "num_workers": 1}}.items():
        predict_images([str(photos)], finder, tmp_path / name, pictures="none", **options)
    for file in ("predictions.json", "images.json"):
        assert read(tmp_path / "one" / file) == read(tmp_path / "two" / file)


def test_the_threshold_says_what_is_drawn_and_counted(finder, photos, tmp_path):
    for name, threshold in {"none": 1.0, "all": 0.0}.items():
        lines = shown(predict_images([str(photos)], finder, tmp_path / name, score_threshold=threshold, pictures="png"))
        assert ("all 7 2 0.90" in lines) is (name == "all")
    assert read(tmp_path / "none/predictions.json") == read(tmp_path / "all/predictions.json")
    for file, same in {"a.png": True, "b/d.png": False}.items():
        pictures = [(tmp_path / name / "pictures" / file).read_bytes() for name in ("none", "all")]
        assert (pictures[0] == pictures[1]) is same


def test_pictures_of_files_that_differ_in_their_suffix_alone_keep_it(finder, photos, tmp_path):
    for name in ("a.bmp", "a.png.png"):
        shutil.copy(photos / "a.png", photos / name)
    predict_images([str(photos)], finder, tmp_path / "out", pictures="png")
    names = sorted(path.name for path in (tmp_path / "out/pictures").glob("*.png"))
    assert names == ["a.bmp.png", "a.png.png", "a.png.png.png"]


@pytest.mark.parametrize(
    ("other", "wanted"),
    [("A.bmp", ["A.bmp.png", "a.png.png"]), ("A.png", ["1-A.png.png", "2-a.png.png"])],
)
def test_pictures_have_names_that_differ_where_capital_letters_do_not_count(finder, tmp_path, other, wanted):
    for number, name in enumerate((other, "a.png")):
        write_image(tmp_path / "photos" / name, number)
    if len(list((tmp_path / "photos").iterdir())) == 1:
        pytest.skip("needs a file system on which they do")
    predict_images([str(tmp_path / "photos")], finder, tmp_path / "out", pictures="png")
    assert sorted(path.name for path in (tmp_path / "out/pictures").iterdir()) == wanted


def test_many_images_are_summed_up_by_class(finder, tmp_path):
    for n in range(21):
        write_image(tmp_path / f"photos/{n}.png", n)
    lines = shown(predict_images([str(tmp_path / "photos")], finder, tmp_path / "out", pictures="none"))
    assert not any(".png" in line for line in lines)
    assert any("Found in 21 images" in line for line in lines)


def test_an_image_that_cannot_be_read_is_named_and_nothing_is_left(finder, photos, tmp_path):
    (photos / "b/broken.jpg").write_bytes(b"\xff\xd8 cut short")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        ValueError, match=r"broken\.jpg: corrupt, truncated or not an image.*written; with --on-error skip"
    ):
        predict_images([str(photos)], finder, tmp_path / "out", batch_size=1)
    assert sorted(tmp_path.rglob("*")) == before


def test_images_that_cannot_be_read_can_be_left_out(finder, photos, tmp_path):
    (photos / "b/broken.jpg").write_bytes(b"\xff\xd8 cut short")
    lines = shown(predict_images([str(photos)], finder, tmp_path / "out", on_error="skip"))
    [left_out] = read(tmp_path / "out/images.json")["skipped"]
    assert left_out["file_name"] == "b/broken.jpg"
    assert "corrupt" in left_out["error"]
    assert [image["id"] for image in read(tmp_path / "out/images.json")["images"]] == [1, 3, 4]
    assert len(read(tmp_path / "out/predictions.json")) == 7
    assert any("1 image was left out as unreadable: b/broken.jpg" in line for line in lines)
    with pytest.raises(ValueError, match=r"none of the images could be read; the first: .*broken\.jpg"):
        predict_images([str(photos / "b/broken.jpg")], finder, tmp_path / "none", on_error="skip")
    assert not (tmp_path / "none").exists()


def test_a_name_that_is_no_text_can_be_read_in_the_files(finder, photos, tmp_path):
    os.rename(photos / "a.png", photos / "a\udcff.png")
    (photos / "b/\udcff.jpg").write_bytes(b"\xff\xd8 cut short")
    lines = shown(predict_images([str(photos)], finder, tmp_path / "out", on_error="skip"))
    content = msgspec.json.decode((tmp_path / "out/images.json").read_bytes())  # no lone surrogates
    assert content["images"][0]["file_name"] == "a\ufffd.png"
    assert content["skipped"][0]["file_name"] == "b/\ufffd.jpg"
    assert "\ufffd.jpg: corrupt" in content["skipped"][0]["error"]
    assert (tmp_path / "out/pictures/a\udcff.jpg").exists()
    assert "a\ufffd.png -" in lines


def test_an_earlier_folder_is_kept(finder, photos, tmp_path):
    for _ in range(2):
        lines = shown(predict_images([str(photos)], finder, tmp_path / "out"))
    assert read(tmp_path / "out-1/predictions.json") == read(tmp_path / "out/predictions.json")
    assert "out is now in" in " ".join(lines)  # however long the path to it is


def test_a_setting_that_cannot_work_is_named_before_anything_is_done(finder, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "photos")
    for output in (photos, photos / "b", tmp_path):
        with pytest.raises(ValueError, match="the output must be a folder of its own, got .*which holds"):
            predict_images(["b"], finder, output)
    with pytest.raises(ValueError, match=r"the output must be a folder, got .*a\.png, a file"):
        predict_images(["b"], finder, photos / "a.png")
    for setting in ({"score_threshold": 1.5}, {"batch_size": 0}, {"num_workers": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(setting))} .*got .*{next(iter(setting.values()))}"):
            predict_images(["b"], finder, tmp_path / "out", **setting)
    assert not (tmp_path / "out").exists()
