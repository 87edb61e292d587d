"""Names of accuracies: those that a training measures are known before it begins."""

import json

import pytest

from detmix.training.accuracies import accuracies, is_accuracy, listed

OTHERS = {"loss", "images", "epoch", "step"}


@pytest.mark.parametrize(
    ("config", "parts"),
    [("quickstart", {}), ("shapes_masks", {"masks": True}), ("shapes_keypoints", {"keypoints": True})],
    ids=["boxes", "boxes and masks", "boxes and keypoints"],
)
def test_they_are_all_in_metrics_json_but_losses_and_counts(run, tmp_path, config, parts):
    run("fit", "--trainer.max_epochs=1", "--data.mixup.no_mixup_epochs=0", config=f"configs/{config}.yaml")
    metrics = json.loads((tmp_path / config / "metrics.json").read_text())
    found = [name for name in metrics if name not in OTHERS and not name.startswith("loss_")]
    assert accuracies(["circle", "square", "triangle"], **parts) == found
    assert [name for name in metrics if is_accuracy(name)] == found


@pytest.mark.parametrize("name", ["", "AP50,AP", "val/", "val/loss", "loss_mask", "AP/", "/AP", "Lap", "images"])
def test_other_names_are_none(name):
    assert not is_accuracy(name)


def test_a_class_may_be_called_anything():
    for name in ("voc", "AP", "a/b", "red cell", "<class>", "é\n"):
        assert set(accuracies([name])) >= {"AP", f"AP/{name}", f"voc/AP50/{name}"}
        assert all(map(is_accuracy, accuracies([name])))


def test_those_of_classes_are_listed_once():
    names = ["AP", "AR100", "segm/AP", "AP/cat", "AP/a/b", "voc/AP50/cat", "voc/AP50/a/b", "loss", "epoch"]
    assert listed(names) == "AP, AR100, segm/AP, AP/<class>, voc/AP50/<class> of the classes cat, a/b"
    assert listed(["AP", "step"]) == "AP"
