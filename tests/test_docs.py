"""The Python of the pages runs as it stands, block after block in one namespace, on few data and small detectors."""

import pytest
import torchvision

from .factories import make_assembled, write_coco_folder
from .test_configs import write_voc
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
    return make_assembled("FasterRCNN", num_classes=num_classes)


def write_coco(root):
    """Seven images of each split, in COCO's layout."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        write_coco_folder(root / "made", 7)
        (root / "made" / "images").rename(root / split)
        (root / "made" / "set.json").rename(root / "annotations" / f"instances_{split}.json")
        (root / "made").rmdir()


def test_data(run_page, tmp_path, monkeypatch):
    pytest.importorskip("webdataset")
    datasets = pytest.importorskip("datasets")
    from .test_data_streams import hub

    write_coco(tmp_path / "data" / "coco")
    write_voc(tmp_path / "data" / "voc" / "VOC2007", ("trainval",))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hub())
    names = run_page("data.md")
    assert [len(names[name]) for name in ("coco", "voc")] == [7, 4]
    assert names["loss"].isfinite()
    assert {row["image_id"] for row in names["results"]} == set(range(100, 107))
    found = [target for _, targets in names["loader"] for target in targets]
    assert sorted(target["image_id"] for target in found) == list(range(100, 107))
    assert all("lam" in target for target in found)
    assert names["stream"].class_names == ("cat", "dog")
