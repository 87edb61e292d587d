"""The Python of the pages runs as it stands, block after block in one namespace, on few data and small detectors."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from PIL import Image
from torchvision import tv_tensors

import detmix
from detmix.data import read_voc
from detmix.training import DetectionData
from detmix.training.models import build_detector

from .api_page import api_page
from .conftest import ROOT
from .factories import write_coco_folder
from .test_configs import write_image, write_voc
from .test_readme import code_blocks


@pytest.fixture
def run_page(tmp_path, monkeypatch):
    """Runs all blocks of a page in an empty folder, and gives what they leave behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.models.detection, "fasterrcnn_resnet50_fpn", small_detector)

    def run(page, **names):
        for block in code_blocks(f"docs/{page}"):
            exec(compile(block, f"docs/{page}", "exec"), names)
        return names

    return run


def small_detector(*, num_classes):
    """In the place of a ResNet-50 with weights from the network; its layers have the same names."""
    torch.manual_seed(0)
    return build_detector("fasterrcnn_resnet18_small", num_classes, None, min_size=64, max_size=96)


def write_coco(root):
    """Seven images of each split, in COCO's layout."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        write_coco_folder(root / "made", 7)
        (root / "made" / "images").rename(root / split)
        content = json.loads((root / "made" / "set.json").read_text())
        for row in content["annotations"]:
            row["area"] = row["bbox"][2] * row["bbox"][3]
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        (root / "made" / "set.json").unlink()
        (root / "made").rmdir()


def test_data(run_page, tmp_path, monkeypatch):
    pytest.importorskip("webdataset")
    datasets = pytest.importorskip("datasets")
    from .test_data_streams import hub

    write_coco(tmp_path / "data" / "coco")
    write_voc(tmp_path / "data" / "voc" / "VOC2007", ("trainval",))
    write_voc(tmp_path / "data" / "voc" / "VOCdevkit" / "VOC2007", ("trainval",))
    write_voc(tmp_path / "data" / "own_voc", ("all", "more"))
    write_export(tmp_path / "data" / "own" / "result.json", tmp_path / "data" / "own", "")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hub())
    names = run_page("data.md")
    assert [len(names[name]) for name in ("coco", "voc")] == [7, 4]
    assert names["loss"].isfinite()
    split = [read_voc("data/own_voc", image_set).file_names.tobytes().decode() for image_set in ("val", "train", "all")]
    assert [part.count(".jpg") for part in split] == [1, 7, 4]
    assert split[0] not in split[1]
    assert {row["image_id"] for row in names["results"]} == set(range(100, 107))
    found = [target for _, targets in names["loader"] for target in targets]
    assert sorted(target["image_id"] for target in found) == list(range(100, 107))
    assert all("lam" in target for target in found)
    assert names["stream"].class_names == ("cat", "dog")
    mixed = [target for name in ("coco_set", "voc_set") for _, target in names[name]]
    assert (len(names["coco_set"]), len(names["voc_set"]), names["num_classes"]) == (6, 4, 4)
    assert all(target["boxes"].dtype == torch.float32 and "lam" in target for target in mixed)
    assert all(len(target[key]) == len(target["boxes"]) for target in mixed[:6] for key in ("area", "iscrowd"))
    boxes = tv_tensors.BoundingBoxes([[1, 2, 1, 9], [2, 2, 9, 9]], format="XYXY", canvas_size=(16, 16))
    columns = {"labels": torch.tensor([1, 2]), "area": [0.0, 49.0], "iscrowd": [0, 1]}
    _, kept = names["clean"](Image.new("RGB", (16, 16)), {"boxes": boxes, **columns})
    assert {key: rows.tolist() for key, rows in kept.items() if key != "boxes"} == {
        "labels": [2],
        "area": [49.0],
        "iscrowd": [1],
    }


EXPORTS = {  # where the file of a split or of all lies, and the images, and what comes before their names
    "Roboflow": ("{split}/_annotations.coco.json", "{split}", ""),
    "FiftyOne": ("{split}/labels.json", "{split}/data", ""),
    "CVAT": ("annotations/instances_default.json", "images/default", "a b/"),
    "Label Studio": ("result.json", "images", "images\\"),
    "labelme": ("dataset.json", ".", ""),
}


def write_export(file, images, before):
    """Five images with an object each, of three of the four categories."""
    numbers = range(5)
    for number in numbers:
        write_image(images / f"{number}.jpg", number)
    rows = [{"id": n, "image_id": n, "category_id": 1 + n % 3, "bbox": [5, 6, 30, 20]} for n in numbers]
    categories = [{"id": n, "name": name} for n, name in enumerate(("hats", "head", "helmet", "person"))]
    named = [{"id": n, "file_name": f"{before}{n}.jpg", "height": 48, "width": 64} for n in numbers]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": named, "annotations": rows, "categories": categories}))


@pytest.mark.parametrize("tool", EXPORTS)
def test_the_trainer_reads_exports_as_the_page_says(tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page, (file, images, before) = (ROOT / "docs" / "data.md").read_text(), EXPORTS[tool]
    [config] = re.findall(r"```yaml\n(data:.*?)```", page, flags=re.DOTALL)
    [row] = re.findall(rf"^\| {tool}.*\| `\"(.*)\"` \| `\"(.*)\"` \|$", page, flags=re.MULTILINE)
    settings = yaml.safe_load(config)["data"] | dict(zip(("annotations", "images"), row, strict=True))
    settings["val"] = settings["val"] if tool == "Roboflow" else "val"
    for split in ("train", settings["val"]) if "{split}" in file else ("",):
        placed = [Path("data/own", place.format(split=split)) for place in (file, images)]
        write_export(placed[0], placed[1] / "a b" if before == "a b/" else placed[1], before)
    if "{split}" not in file:
        [script] = [block for block in code_blocks("docs/data.md") if '"result.json"' in block]
        exec(script.replace("result.json", file), {})
    data = DetectionData(**settings)
    data.setup("fit")
    assert data.class_names == ("helmet", "head", "person")
    sets = data.train_set, data.evaluated_set("val")
    read = [[dataset[index] for index in range(len(dataset))] for dataset in sets]
    assert [len(samples) for samples in read] == ([5, 5] if "{split}" in file else [4, 1])


def test_mixing(run_page):
    names = run_page("mixing.md")
    assert sum(names["losses"].values()).isfinite()
    assert all("lam" in target for target in names["targets"])
    assert min(names["blended"]["weights"]) < 1
    assert list(names["rates"]) == ["mixup"]
    assert names["layers"].layers[0] == "backbone.body.layer2"
    assert Path("rates.png").stat().st_size > 0


def test_notebooks(run_page, tmp_path, monkeypatch):
    config = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    config["data"]["shapes"] = {"train": 4, "val": 2, "test": 2, "size": 64, "max_extent": 32}
    config["model"]["options"] = {"min_size": 64, "max_size": 96}
    config["trainer"] |= {"max_epochs": 2, "enable_progress_bar": False}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text(yaml.safe_dump(config))
    names = run_page("notebooks.md")
    page = (ROOT / "docs" / "notebooks.md").read_text()
    assert repr(detmix.MixupDataset(names["data"], alpha=1.5)) in page
    assert names["mixed"].epoch == 2
    assert names["run"].run_dir == Path("runs/notebook")
    saved = torch.load("runs/notebook/model.pt", weights_only=True)
    assert all(torch.equal(rows, saved[name]) for name, rows in names["run"].model.detector.state_dict().items())


def test_reference_script(run_page, tmp_path):
    write_coco(tmp_path / "data" / "coco")
    names = run_page("reference_script.md")
    assert names["loss"].isfinite()
    assert (names["mixed"].epoch, names["mixed"].enabled) == (1, False)
    assert not any("lam" in target for target in names["targets"])
    names["mixed"].enable()
    mixed = [target for _, targets in names["loader"] for target in targets]
    assert len(mixed) == 2 * (len(names["dataset"]) // 2)
    assert all("lam" in target and len(target["weights"]) == len(target["labels"]) for target in mixed)
    plain = detmix.unweight_losses(names["average"].module)
    assert type(plain.roi_heads) is torchvision.models.detection.roi_heads.RoIHeads


def test_resume(run_page):
    names = run_page("resume.md")
    assert names["train_set"].epoch == names["sampler"].epoch == 1
    assert len(names["targets"]) == 4
    mixer, whole, states = names["mixer"], [], []
    torch.manual_seed(0)
    for batch in names["loader"]:
        whole.append((mixer(*batch), torch.rand(1)))
        states.append({"mixer": mixer.state_dict(), "torch": torch.get_rng_state()})
    torch.manual_seed(1)
    rest = [(mixer(*batch), torch.rand(1)) for batch in names["rest_of_epoch"](1, 2, states[1])]
    assert len(rest) == 2
    torch.testing.assert_close(rest, whole[2:], rtol=0, atol=0)


def test_evaluation(run_page, tmp_path, capsys):
    pytest.importorskip("faster_coco_eval")
    annotations = write_coco_folder(tmp_path / "coco", 7)
    (tmp_path / "coco" / "set.json").rename(tmp_path / "instances_val.json")
    write_voc(tmp_path / "VOC2007", ("test",))
    found = [row | {"score": 0.5} for row in annotations.ground_truth()["annotations"]]
    for file, rows in (("results.json", found), ("others.json", found[:3])):
        (tmp_path / file).write_text(json.dumps(rows))
    row = {"image_id": 1, "category_id": 1, "bbox": [4, 5, 36, 25], "score": 0.5}
    (tmp_path / "voc_results.json").write_text(json.dumps([row]))
    names = run_page("evaluation.md")
    assert names["result"].metrics["AP"] == pytest.approx(1)
    assert capsys.readouterr().out.startswith("1.0 ")


def test_results(run_page, tmp_path):
    write_run(tmp_path / "runs" / "bccd")
    write_image(tmp_path / "photo.jpg", 0)
    names = run_page("results.md")
    assert set(names["names"]) <= {"RBC", "WBC"}
    assert names["trained"].category_ids == (3, 7)
    by_hand, opened = names["model"].state_dict(), names["trained"].model.state_dict()
    assert all(torch.equal(by_hand[name], opened[name]) for name in opened)


def write_run(folder):
    """What a training leaves, as far as its detector is concerned."""
    folder.mkdir(parents=True)
    options = {"min_size": 240, "max_size": 320}
    model = {"detector": "fasterrcnn_resnet18_small", "weights": None, "options": options}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    (folder / "classes.json").write_text(json.dumps([{"id": 3, "name": "RBC"}, {"id": 7, "name": "WBC"}]))
    torch.save(build_detector(model["detector"], 3, None, **options).state_dict(), folder / "model.pt")


def test_the_page_of_public_names_says_what_their_docstrings_say():
    assert (ROOT / "docs" / "api.md").read_text() == api_page(), "python -m tests.api_page > docs/api.md"


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_the_rows_of_a_table_have_as_many_cells_as_its_head(page):
    lines = page.read_text().splitlines()
    for in_table, rows in itertools.groupby(lines, key=lambda line: line.startswith("|")):
        if in_table:
            head, *others = rows
            for row in others:
                assert len(cells(row)) == len(cells(head)), row


def cells(row):
    """The parts between pipes; a pipe with a backslash before it stands for itself, in code too."""
    return re.split(r"(?<!\\)\|", row)
