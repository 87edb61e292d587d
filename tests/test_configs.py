"""Every config in the repository builds and trains two steps, on the real data or on a tiny copy of its layout."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image
from torchvision.transforms import v2

from detmix.sweep import make_plan
from detmix.training import DetectionData, cli_main
from detmix.training.trained import open_run

from .conftest import ROOT

EXPERIMENTS = ROOT / "configs" / "experiments"
CONFIGS = sorted([*(ROOT / "configs").glob("*.yaml"), *EXPERIMENTS.glob("base_*.yaml")])
ARMS = sorted(set(EXPERIMENTS.glob("*.yaml")) - set(CONFIGS))
TWO_STEPS = [
    "--trainer.max_epochs=1",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=2",  # not 1: where it is taken for a float, which depends on imports, that is all
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",  # it warns that it does not know bf16
    "--trainer.devices=1",
    "--data.mixup.no_mixup_epochs=0",
    "--data.num_workers=0",
    "--data.batch_size=2",
    "--model.weights=null",
    "--model.options.min_size=64",
    "--model.options.max_size=96",
]
ALL_OF_TRAINING = "annotations/instances_train2017.json"  # for each split
OBJECT = "<object><name>{}</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object>"

SIZE = "<size><width>64</width><height>48</height><depth>3</depth></size>"


def write_image(path: Path, seed: int):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_voc(root: Path, image_sets: tuple[str, ...]):
    for number, image_set in enumerate(image_sets):
        names = [f"{image_set}_{n}" for n in range(4)]
        for n, name in enumerate(names):
            write_image(root / "JPEGImages" / f"{name}.jpg", 10 * number + n)
            thing = OBJECT.format(("cat", "dog")[n % 2])
            xml = f"<annotation><filename>{name}.jpg</filename>{SIZE}{thing}</annotation>"
            (root / "Annotations").mkdir(exist_ok=True)
            (root / "Annotations" / f"{name}.xml").write_text(xml)
        main = root / "ImageSets" / "Main"
        main.mkdir(parents=True, exist_ok=True)
        (main / f"{image_set}.txt").write_text("\n".join(names) + "\n")


def write_coco(root: Path):
    """COCO's layout, each object with a mask and with keypoints as COCO's people have them."""
    for number, split in enumerate(("train2017", "val2017")):
        images = [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in range(4)]
        for n in range(4):
            write_image(root / split / f"{n}.jpg", 10 * number + n)
        objects = [
            {
                "id": n + 1,
                "image_id": n,
                "category_id": 3 + 4 * (n % 2),
                "bbox": [5, 6, 30, 20],
                "area": 600,
                "iscrowd": 0,
                "segmentation": [[5, 6, 35, 6, 35, 26]],
                "keypoints": [20, 16, 2] * 17,
            }
            for n in range(4)
        ]
        categories = [{"id": 3, "name": "car"}, {"id": 7, "name": "train"}]
        for kind in ("instances", "person_keypoints"):
            file = root / "annotations" / f"{kind}_{split}.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))


@pytest.fixture
def made_up_root(tmp_path):
    """Folders laid out as the configs expect them, by config name."""
    write_voc(tmp_path / "voc" / "VOC2007", ("trainval", "test"))
    write_voc(tmp_path / "voc" / "VOC2012", ("trainval",))
    write_coco(tmp_path / "coco")
    coco, own = tmp_path / "coco", tmp_path / "own"
    for split, source in (("train", "train2017"), ("valid", "val2017"), ("test", "val2017")):
        shutil.copytree(coco / source, own / split)
        shutil.copy(coco / "annotations" / f"instances_{source}.json", own / split / "_annotations.coco.json")
    voc = tmp_path / "voc"
    of_coco = dict.fromkeys(("coco_fasterrcnn_r50", "coco_maskrcnn_r50", "coco_keypointrcnn_r50"), coco)
    return {**of_coco, "own_coco": own, "voc0712_fasterrcnn_r50": voc}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config_trains_two_steps(config, made_up_root, tmp_path, in_repository, no_report):
    if "bccd" in config.stem and not Path("data/bccd").exists():
        pytest.skip("data/bccd is absent: the README says where to get it")
    if "keypoint" in config.stem and not hasattr(v2, "SanitizeKeyPoints"):
        pytest.skip("v2 transforms of this torchvision move no keypoints")
    arguments = ["--config", str(config.relative_to(ROOT)), "--runs", str(tmp_path / "runs"), *TWO_STEPS]
    if config.stem in made_up_root:
        arguments.append(f"--data.root={made_up_root[config.stem]}")
    cli_main(["fit", *arguments])
    assert "AP50" in json.loads((tmp_path / "runs" / config.stem / "metrics.json").read_text())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config_tells_its_cost_its_command_and_what_to_expect(config):
    text = config.read_text()
    head = text[: text.index("seed_everything")]
    assert f"python tools/train.py fit --config {config.relative_to(ROOT)}" in head
    assert "--data.mixup null" in head
    assert "seed_everything" in text


@pytest.mark.parametrize("arms", ARMS, ids=lambda path: path.stem)
def test_every_arm_of_an_experiment_builds_and_its_head_has_the_command(arms, in_repository):
    base = EXPERIMENTS / "base_shapes.yaml"
    plan = make_plan(base, arms_file=arms)
    assert plan.baseline == "plain"
    for name in plan.arms:
        data, detector = open_run(base, plan.arguments(name)[1:])
        data.check_schedule(60)
        settings = plan.arms[name]
        assert data.mixes == (settings.get("data.mixup") != "null" and "model.manifold" not in settings)
    command = f"python tools/sweep.py --config {base.relative_to(ROOT)} --arms {arms.relative_to(ROOT)}"
    assert command in arms.read_text()


def test_a_missing_annotation_file_is_named(tmp_path, in_repository, capsys):
    arguments = ["--config", "configs/coco_fasterrcnn_r50.yaml", "--runs", str(tmp_path), "--data.root", str(tmp_path)]
    with pytest.raises(SystemExit):
        cli_main(["fit", *arguments])
    assert "instances_train2017.json" in capsys.readouterr().err


def test_images_that_are_not_there_are_told_with_the_file_that_lists_them(tmp_path):
    write_coco(tmp_path)
    data = DetectionData("coco", root=str(tmp_path), train=["train2017"], val="val2017", annotations=ALL_OF_TRAINING)
    (tmp_path / "val2017" / "0.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"0\.jpg: not found.* data\.val, in {tmp_path / ALL_OF_TRAINING}, is to"
    ):
        data.setup("fit")


def test_an_unknown_class_is_named_with_its_file(made_up_root, tmp_path, in_repository, capsys):
    root = made_up_root["voc0712_fasterrcnn_r50"]
    file = root / "VOC2007" / "Annotations" / "test_1.xml"
    file.write_text(file.read_text().replace("dog", "horse"))
    arguments = ["--config", "configs/voc0712_fasterrcnn_r50.yaml", "--runs", str(tmp_path), f"--data.root={root}"]
    with pytest.raises(SystemExit):
        cli_main(["fit", *arguments, *TWO_STEPS])
    assert re.search(r"test_1\.xml.*horse", capsys.readouterr().err)


def test_how_corners_count_is_told_for_voc_alone(tmp_path):
    write_voc(tmp_path, ("train",))
    from_0, from_1 = (
        DetectionData("voc", root=str(tmp_path), augment=[], one_based=one_based).train_set[0][1]["boxes"]
        for one_based in (False, True)
    )
    assert (from_0 - from_1).tolist() == [[1, 1, 0, 0]]
    for format in ("coco", "shapes"):
        with pytest.raises(ValueError, match=f"one_based=false says how VOC's corners count, and .*format is {format}"):
            DetectionData(format, one_based=False)


def test_training_splits_are_of_the_classes_of_all_and_others_of_no_more(tmp_path):
    for folder, names in (("A", ("cat", "dog")), ("B", ("dog", "cat")), ("C", ("cat", "bird"))):
        write_voc(tmp_path / folder, ("train", "val"))
        for number, name in enumerate(names * 2):
            file = tmp_path / folder / "Annotations" / f"train_{number}.xml"
            file.write_text(re.sub("<name>.*</name>", f"<name>{name}</name>", file.read_text()))
    options = {"root": str(tmp_path), "val": "A/val", "augment": []}
    data = DetectionData("voc", train=["A/train", "B/train"], **options)
    assert data.class_names == ("cat", "dog")
    assert [data.train_set[index][1]["labels"].item() for index in range(8)] == [1, 2, 1, 2, 2, 1, 2, 1]
    data = DetectionData("voc", train=["A/train", "C/train"], **options)
    assert (data.class_names, data.category_ids) == (("cat", "dog", "bird"), (1, 2, 3))
    assert [data.train_set[index][1]["labels"].item() for index in range(8)] == [1, 2, 1, 2, 1, 3, 1, 3]
    data = DetectionData("voc", train="C/train", **options)
    with pytest.raises(ValueError, match=r"^data\.val=A/val: .*'dog'.*name all of them with data\.class_names$"):
        data.setup("fit")
    with pytest.raises(FileNotFoundError, match=r"^data\.train=A/trian: .*no such image set"):
        DetectionData("voc", train="A/trian", **options)


def test_a_class_without_objects_in_a_further_training_split_is_none(tmp_path):
    write_coco(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["categories"] = [{"id": number, "name": name} for number, name in ((1, "all"), (3, "bus"), (7, "car"))]
    file.write_text(json.dumps(content))
    data = DetectionData("coco", root=str(tmp_path), train=["train2017", "val2017"], augment=[])
    assert (data.class_names, data.category_ids) == (("car", "train", "bus"), (3, 7, 1))
    assert [data.train_set[index][1]["labels"].item() for index in range(8)] == [1, 2, 1, 2, 3, 1, 3, 1]


@pytest.mark.parametrize(("argument", "train"), [("one", "one"), ("[one]", ["one"]), ("[one,two]", ["one", "two"])])
def test_a_training_split_is_a_name_or_a_list_of_them(argument, train):
    parser = LightningArgumentParser()
    parser.add_class_arguments(DetectionData, "data")
    assert parser.parse_args([f"--data.train={argument}"]).data.train == train
