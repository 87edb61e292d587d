"""Images that break while a training runs: named, or skipped and counted."""

import re
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest

from detmix.training import DetectionData
from detmix.training.checkpoints import read_checkpoint
from detmix.training.files import read_history
from detmix.training.skipped import SkippedImages

from .test_configs import write_coco
from .test_training_faults import ONE_EPOCH, fail, require_way_on
from .test_training_resume import callback, differences, outcome, train


class Breaks(L.Callback):
    """Overwrites a file after the first epoch, as a failing disk may."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_epoch_end(self, trainer, pl_module):
        self.file.write_bytes(self.file.read_bytes()[:200])


@pytest.fixture
def photographs(tmp_path):
    """The folder of a COCO data set, and the settings that train on it."""
    root = tmp_path / "data"
    write_coco(root)
    splits = ["--data.train=[train2017]", "--data.val=val2017", "--data.test=val2017"]
    return root, ["--data.format=coco", f"--data.root={root}", *splits]


def test_an_image_that_breaks_between_two_epochs_is_named_and_the_run_goes_on_when_it_is_mended(
    tmp_path, in_repository, photographs
):
    root, data = photographs
    data += ["--checkpoint_every=1"]
    wanted = outcome(train(tmp_path / "whole", *data))
    image = root / "train2017" / "2.jpg"
    pixels = image.read_bytes()
    said = fail(tmp_path, callback("tests.test_training_skipped.Breaks", file=str(image)), *data)
    assert f"{image}: corrupt, truncated or not an image" in said
    assert "last.ckpt holds the run up to step" in said
    image.write_bytes(pixels)
    assert differences(wanted, outcome(train(tmp_path, "--resume", *data))) == []


def test_where_images_are_skipped_the_run_goes_on_and_lists_them(tmp_path, in_repository, photographs, capsys):
    root, data = photographs
    image = root / "train2017" / "2.jpg"
    breaks = callback("tests.test_training_skipped.Breaks", file=str(image))
    skipping = ["--data.on_error=skip", "--data.num_workers=1", "--trainer.max_epochs=3"]
    run = train(tmp_path, breaks, *skipping, *data, report=True)
    assert (run / "skipped_images.txt").read_text() == f"{image}\n"
    said = " ".join(capsys.readouterr().out.split())
    files = [f"{root}/annotations/instances_{split}.json" for split in ("train2017", "val2017")]
    read = f"coco, 2 classes (car, train); train {files[0]}, 4 images, 4 objects; val {files[1]}, 4 images, 4 objects"
    assert said.count(f"Data: {read}") == 1
    assert f'<th scope="row">Data</th><td>{read}</td>' in (run / "report.html").read_text()
    assert said.count("1 of 4 training images skipped") == 1
    assert '<th scope="row">Skipped images</th><td>1 of 4</td>' in (run / "report.html").read_text()
    state = read_checkpoint(run / "checkpoints" / "last.ckpt")["callbacks"]["SkippedImages"]
    assert state == {"files": [str(image)]}


def test_an_image_skipped_before_a_checkpoint_within_an_epoch_is_listed_after_it(tmp_path, capsys):
    def run_with(images):
        data = SimpleNamespace(on_error="skip", skipped_images=lambda: images, train_set=range(9))
        return SimpleNamespace(datamodule=data, world_size=1, is_global_zero=True)

    folder = tmp_path / "[" / "y]"  # in which rich would see the end of a markup
    folder.mkdir(parents=True)
    interrupted, resumed = SkippedImages(folder), SkippedImages(folder)
    interrupted.setup(run_with(["a.jpg"]), None, "fit")
    resumed.setup(run_with([]), None, "fit")
    resumed.load_state_dict(interrupted.state_dict())
    resumed.on_train_epoch_end(run_with([]), None)
    assert (folder / "skipped_images.txt").read_text() == "a.jpg\n"
    assert f"1 of 9 training images skipped: see {folder}/skipped_images.txt" in capsys.readouterr().out
    assert resumed.files == ["a.jpg"]


def test_the_list_is_in_utf8_under_any_locale(tmp_path, ascii_locale):
    data = SimpleNamespace(on_error="skip", skipped_images=lambda: ["é.jpg"], train_set=range(9))
    run = SimpleNamespace(datamodule=data, world_size=1, is_global_zero=True)
    skipped = SkippedImages(tmp_path)
    skipped.setup(run, None, "fit")
    for _ in range(2):
        skipped.on_train_epoch_end(run, None)
    assert (tmp_path / "skipped_images.txt").read_bytes() == "é.jpg\n".encode()


def test_a_validation_image_is_never_skipped(tmp_path, photographs):
    root, data = photographs
    (root / "val2017" / "1.jpg").write_bytes(b"no image")
    said = fail(tmp_path, "--data.on_error=skip", ONE_EPOCH, *data)
    assert "1.jpg: corrupt, truncated or not an image" in said
    require_way_on(tmp_path, said, 1)
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "classes.json",
        "train_samples",
        "checkpoints",
        "csv",
        "tensorboard",
    }
    rows = read_history(run)
    assert rows
    assert not any(name.startswith("val/") for row in rows for name in row)


@pytest.mark.parametrize(
    ("folder", "arguments", "named"),
    [
        ("train2017", [], "train2017/0.jpg"),
        ("train2017", ["--data.on_error=skip"], "train2017"),
        ("val2017", ["--data.on_error=skip"], "val2017/0.jpg"),
    ],
)
def test_a_folder_that_is_not_there_is_named_before_an_earlier_run_is_moved(
    tmp_path, in_repository, photographs, capsys, folder, arguments, named
):
    root, data = photographs
    (root / folder).rename(root / "elsewhere")
    earlier = tmp_path / "run" / "model.pt"
    earlier.parent.mkdir()
    earlier.write_text("precious")
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, *arguments, *data)
    assert ended.value.code == 2
    assert f"error: {root / named}: not found" in capsys.readouterr().err
    assert earlier.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "data"}


def test_a_first_image_under_another_name_is_named(photographs):
    root, _ = photographs
    data = DetectionData("coco", root=str(root), train=["train2017"], val="val2017", test="val2017")
    first = data.evaluated_set("val").image_path(0)
    first.rename(first.with_suffix(".JPG"))
    with pytest.raises(FileNotFoundError, match=r"0\.jpg: not found, .* to be there; there is 0\.JPG$"):
        data.setup("validate")


@pytest.mark.parametrize("wrong", ["{splt}", "{}", "{split", "{split.x}"])
def test_a_pattern_of_folders_that_is_none_is_named(wrong, photographs):
    root, _ = photographs
    for setting in ("images", "annotations"):
        with pytest.raises(ValueError, match=f"data: '{re.escape(wrong)}' is no path in which {{split}} stands for"):
            DetectionData("coco", root=str(root), train=["train2017"], **{setting: wrong})
