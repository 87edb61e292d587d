"""Trainings that learn from keypoints: what they measure, write and draw."""

import json

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from detmix.data import Shapes
from detmix.data.shapes import SKELETON
from detmix.detectors import losses_and_detections
from detmix.evaluation import evaluate_coco
from detmix.evaluation.coco import KEYPOINT_METRICS
from detmix.figures import draw_boxes
from detmix.training import DetectionData, DetectionModule, cli_main
from detmix.training.models import build_detector
from detmix.training.predict import predict_images
from detmix.training.preview import write_preview
from detmix.training.run_report import as_detections, report_run
from detmix.training.trained import open_data, open_trained

from .test_configs import write_coco
from .test_training_report import Page
from .trainings import ONE_EPOCH, TINY, fit_on_coco, fit_once, losses_in
from .trainings import read_json as read

if not hasattr(v2, "SanitizeKeyPoints"):
    pytest.skip("v2 transforms of this torchvision move no keypoints", allow_module_level=True)

CONFIG = "configs/shapes_keypoints.yaml"
NAMES = ["nose", "left_ear", "right_ear", "tail"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished fit of one epoch."""
    return fit_once(tmp_path_factory.mktemp("runs"), CONFIG)


def test_the_numbers_are_those_of_the_results_that_are_written(finished):
    truth = Shapes(4, size=64, max_extent=32, seed=1, keypoints=True).ground_truth()
    predictions, metrics = read(finished / "predictions.json"), read(finished / "metrics.json")
    assert len(predictions) > 10
    assert all(len(row["keypoints"]) == 9 for row in predictions)
    for prefix, kind in {"": "bbox", "keypoints/": "keypoints"}.items():
        wanted = evaluate_coco(truth, predictions, kind)
        assert {name: metrics[f"{prefix}{name}"] for name in wanted.metrics} == pytest.approx(wanted.metrics)
    assert wanted.metrics.keys() == KEYPOINT_METRICS.keys()
    assert losses_in(finished)["loss_keypoint"] > 0


def test_the_report_has_keypoints_and_can_be_written_anew(finished, in_repository):
    page = Page((finished / "report.html").read_text())
    assert {"keypoints/AP", "keypoints/APm", "keypoint AP"} <= {text.strip() for text in page.text("th")}
    before = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    report_run(finished)
    assert (finished / "report.html").read_bytes() == before


def test_the_run_says_what_its_keypoints_are(finished):
    classes = read(finished / "classes.json")
    assert [row["keypoints"] for row in classes] == [list(SKELETON.names)] * 3
    assert open_trained(str(finished / "model.pt")).skeleton == SKELETON


def test_other_images_get_keypoints_too(finished, tmp_path):
    scene = Shapes(4, size=64, max_extent=32, seed=1)[2][0]
    Image.fromarray(scene.permute(1, 2, 0).numpy()).save(tmp_path / "scene.png")
    predict_images([str(tmp_path / "scene.png")], open_trained(str(finished / "model.pt")), tmp_path / "out")
    found = read(tmp_path / "out/predictions.json")
    wanted = [row for row in read(finished / "predictions.json") if row["image_id"] == 2]
    assert len(found) == len(wanted) > 0
    for row, other in zip(found, wanted, strict=True):
        assert row["score"] == pytest.approx(other["score"], rel=1e-4)
        assert row["keypoints"] == pytest.approx(other["keypoints"], abs=0.1)


def test_weights_for_any_number_of_keypoints_are_opened_by_the_name_of_their_detector(tmp_path):
    state = build_detector("keypointrcnn_resnet18_small", 3, None, num_keypoints=5).state_dict()
    torch.save(state, tmp_path / "weights.pt")
    trained = open_trained(str(tmp_path / "weights.pt"), detector="keypointrcnn_resnet18_small", classes=["cat", "dog"])
    assert trained.model.roi_heads.keypoint_predictor.kps_score_lowres.out_channels == 5
    assert trained.skeleton is None


@pytest.fixture
def coco(tmp_path, in_repository, no_report):
    """Calls ``fit`` on a COCO data set of four images in each split, each with an object; its folder is ``root``."""
    write_coco(tmp_path)
    for file in (tmp_path / "annotations").iterdir():
        data = read(file)
        for row in data["categories"]:
            row |= {"keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}
        for row in data["annotations"]:
            row["keypoints"] = [8, 10, 2, 30, 12, 2, 20, 24, 1, 0, 0, 0]
        file.write_text(json.dumps(data))

    return fit_on_coco(tmp_path, CONFIG)


def annotated(shift):
    """Detections that are what is annotated, the keypoints moved aside."""

    def detect(detector, images, targets, **options):
        losses, _ = losses_and_detections(detector, images, targets, **options)
        aside = torch.tensor([shift, 0.0, 0.0])
        found = [{**t, "keypoints": t["keypoints"] + aside, "scores": torch.ones(1)} for t in targets]
        return losses, found

    return detect


@pytest.mark.parametrize("shift", [0, 2])
def test_keypoints_of_a_coco_file_are_mixed_trained_on_and_measured(coco, monkeypatch, shift):
    monkeypatch.setattr("detmix.training.visits.losses_and_detections", annotated(shift))
    folder = coco("--data.mixup.mix=cutmix")
    metrics, predictions = read(folder / "metrics.json"), read(folder / "predictions.json")
    assert metrics["AP"] == pytest.approx(1)
    assert (metrics["keypoints/AP"] == pytest.approx(1)) == (shift == 0)
    assert metrics["keypoints/AP50"] > 0
    wanted = evaluate_coco(str(coco.val), predictions, "keypoints").metrics
    assert {name: metrics[f"keypoints/{name}"] for name in wanted} == pytest.approx(wanted)


def test_the_constants_of_the_measure_can_be_given(coco, monkeypatch):
    monkeypatch.setattr("detmix.training.visits.losses_and_detections", annotated(2))
    folder = coco("--data.oks_sigmas=[0.001, 0.001, 0.001, 0.001]")
    assert read(folder / "metrics.json")["keypoints/AP"] == 0
    report_run(folder)  # measured anew
    assert "<strong>0.000</strong>AP (keypoints)" in (folder / "report.html").read_text()
    assert read(coco("--data.oks_sigmas=[1, 1, 1, 1]") / "metrics.json")["keypoints/AP"] == pytest.approx(1)


def test_the_terminal_tells_the_accuracy_of_keypoints(coco, monkeypatch, capsys):
    monkeypatch.setattr("detmix.training.visits.losses_and_detections", annotated(0))
    coco()
    told = capsys.readouterr().out
    assert ", 4 keypoints (2 of them left or right); train" in told
    assert "AP 1.000, AP50 1.000, AP of keypoints 1.000" in told
    assert "AP50 1.000 (COCO)  AP 1.000 (keypoints)  AP50 1.000 (VOC)" in told


def test_every_picture_gets_the_lines_between_keypoints(coco, monkeypatch, tmp_path):
    drawn = {}

    def noting(module):
        def draw(*arguments, edges=(), **options):
            drawn.setdefault(module, []).append(edges)
            return draw_boxes(*arguments, edges=edges, **options)

        return draw

    for module in ("artifacts", "run_report", "predict", "preview"):
        monkeypatch.setattr(f"detmix.training.{module}.draw_boxes", noting(module))
    folder = coco("--data.on_error=raise")
    report_run(folder)
    photo = str(coco.root / "val2017" / "0.jpg")
    predict_images([photo], open_trained(str(folder / "model.pt")), tmp_path / "out")
    write_preview(open_data(folder / "config.yaml"), tmp_path, samples=2)
    assert drawn.keys() == {"artifacts", "run_report", "predict", "preview"}
    assert {tuple(edges) for of_module in drawn.values() for edges in of_module} == {((0, 1), (0, 2))}


def test_all_training_splits_must_have_the_same_keypoints(coco):
    data = read(coco.val)
    for row in data["categories"]:
        row["keypoints"] = [*NAMES[:3], "paw"]
    coco.val.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"data\.train: its keypoints are nose, left_ear, right_ear, paw, and those"):
        DetectionData("coco", root=str(coco.root), train=["train2017", "val2017"], keypoints=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"oks_sigmas": [1, 1]}, r"data\.oks_sigmas: sigmas must be one for each of 3 keypoints, got 2"),
        ({"keypoint_pairs": [("left", "bottom")]}, r"data\.keypoint_pairs: a pair must be two of .* top, left, right"),
        ({"oks_sigmas": [1, 1, 1], "keypoints": False}, r"oks_sigmas are of keypoints, and data\.keypoints is false"),
        ({"augment": [v2.Compose([v2.ClampKeyPoints()])]}, r"leave v2\.ClampKeyPoints out"),
        ({"keypoint_pairs": [], "keypoints": False}, r"data\.keypoint_pairs .* and data\.keypoints is false"),
    ],
)
def test_wrong_settings_of_keypoints_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DetectionData(**{"keypoints": True, **settings})


def test_pairs_that_are_named_are_exchanged_in_mirror_images():
    flip = v2.RandomHorizontalFlip(1.0)
    plain, told, others = (
        DetectionData(keypoints=True, augment=augment, keypoint_pairs=pairs).train_set[0][1]["keypoints"]
        for augment, pairs in (([], None), ([flip], None), ([flip], [("top", "right")]))
    )
    mirrored = plain * torch.tensor([-1, 1, 1]) + torch.tensor([127, 0, 0])
    assert torch.equal(told, mirrored[:, [0, 2, 1]])
    assert torch.equal(others, mirrored[:, [2, 1, 0]])


def test_an_older_torchvision_is_told_of_before_the_training(monkeypatch):
    monkeypatch.setattr("detmix.data.pixel_points._SUPPORTED", False)
    with pytest.raises(ValueError, match=r"data\.keypoints=true: v2 transforms move keypoints from torchvision 0\.24"):
        DetectionData(keypoints=True)


@pytest.mark.parametrize("options", [{}, {"num_keypoints": 3}], ids=["of the data", "of the options"])
def test_a_detector_for_other_keypoints_is_refused(options):
    module = DetectionModule("keypointrcnn_resnet18_small", weights=None, options=options)
    module.build("fit", ["cat"], None if options else 3)
    module.build("fit", ["cat"], 3)
    with pytest.raises(ValueError, match="built for 3 keypoints, and this data has 4"):
        module.build("fit", ["cat"], 4)


def test_a_detector_of_boxes_does_not_mind_how_many_keypoints_there_are():
    module = DetectionModule("fasterrcnn_resnet18_small", weights=None)
    for count in (None, 3, 4):
        module.build("fit", ["cat"], count)


def test_detections_of_whole_pixels_are_floats_too():
    row = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "score": 1.0, "keypoints": [1, 2, 1]}
    assert as_detections([row], [1], (8, 8))["keypoints"].dtype == torch.float32
    assert as_detections([], [1], (8, 8)).keys() == {"boxes", "labels", "scores"}


def test_a_mirrored_training_image_has_left_and_right_exchanged(coco, monkeypatch):
    data = DetectionData("coco", root=str(coco.root), train="train2017", val="val2017", keypoints=True)
    plain = data.train_set.dataset.annotations.keypoints[0]
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        points = data.train_set.dataset[0][1]["keypoints"][0].numpy()
        mirrored = plain[[0, 2, 1, 3]].copy()
        mirrored[:, 0] = 63 - mirrored[:, 0]
        known = plain[:, 2] > 0
        as_it_was, flipped = (points[known] == plain[known]).all(), (points[:3, :2] == mirrored[:3, :2]).all()
        assert as_it_was != flipped
        seen.add(bool(flipped))
    assert seen == {True, False}


def test_splits_with_other_keypoints_are_refused(coco, capsys):
    data = read(coco.val)
    for row in data["categories"]:
        row["keypoints"] = [*NAMES[:3], "paw"]
    coco.val.write_text(json.dumps(data))
    with pytest.raises(SystemExit):
        coco()
    told = capsys.readouterr().err
    assert "data.val: its keypoints are nose, left_ear, right_ear, paw" in told
    assert not (coco.root / "runs").exists()


def test_validation_data_without_visible_keypoints_is_refused_before_the_training(coco, capsys):
    data = read(coco.val)
    for row in data["annotations"]:
        row["keypoints"] = [0] * 12
    coco.val.write_text(json.dumps(data))
    with pytest.raises(SystemExit):
        coco()
    assert "instances_val2017.json: none of its objects has a visible keypoint" in capsys.readouterr().err
    assert not (coco.root / "runs").exists()


def test_a_split_that_does_not_name_its_keypoints_goes_with_one_that_does(coco, monkeypatch):
    monkeypatch.setattr("detmix.training.visits.losses_and_detections", annotated(0))
    data = read(coco.val)
    for row in data["categories"]:
        del row["keypoints"]
    coco.val.write_text(json.dumps(data))
    assert read(coco() / "metrics.json")["keypoints/AP"] == pytest.approx(1)


def test_training_data_without_visible_keypoints_is_warned_of(coco, capsys, caplog):
    file = coco.root / "annotations/instances_train2017.json"
    data = read(file)
    for row in data["annotations"]:
        row["keypoints"] = [0] * 12
    file.write_text(json.dumps(data))
    coco()
    assert f"{file}: no keypoint of an object is visible in data.train" in caplog.text


def test_the_run_says_by_which_constants_it_was_measured(finished):
    assert read(finished / "run.json")["summary"]["OKS sigmas"] == "0.05, 0.05, 0.05"


def test_a_detector_of_keypoints_needs_some(capsys, tmp_path, in_repository):
    with pytest.raises(SystemExit):
        cli_main(["fit", "--config", CONFIG, "--runs", str(tmp_path), *TINY, *ONE_EPOCH, "--data.keypoints=false"])
    assert "learns from keypoints, and the data has none: pass --data.keypoints true" in capsys.readouterr().err


def test_another_number_of_keypoints_than_the_datas_is_refused(capsys, tmp_path, in_repository):
    with pytest.raises(SystemExit):
        cli_main(
            ["fit", "--config", CONFIG, "--runs", str(tmp_path), *TINY, *ONE_EPOCH, "--model.options.num_keypoints=4"]
        )
    assert "num_keypoints is 4, but each object of the data has 3 keypoints" in capsys.readouterr().err


def test_a_detector_of_boxes_may_train_on_the_same_objects(coco):
    folder = coco("--model.detector=fasterrcnn_resnet18_small")
    assert not [name for name in read(folder / "metrics.json") if name.startswith("keypoints")]
    assert all("keypoints" not in row for row in read(folder / "predictions.json"))


def test_keypoints_of_voc_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.keypoints=true reads keypoints from COCO files, .* is voc"):
        DetectionData("voc", root=str(tmp_path), keypoints=True)


def test_coco_weights_keep_their_keypoints_where_there_are_as_many(monkeypatch):
    given = build_detector("keypointrcnn_resnet50_fpn", 2, None).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: given)
    name = "roi_heads.keypoint_predictor.kps_score_lowres.weight"
    for count in (17, 4):
        module = DetectionModule("keypointrcnn_resnet50_fpn", weights="coco")
        module.build("fit", ["cat", "dog"], count)
        state = module.detector.state_dict()
        assert state[name].shape[1] == count
        assert torch.equal(state[name], given[name]) == (count == 17)
        assert state["roi_heads.box_predictor.cls_score.weight"].shape[0] == 3


def test_images_without_objects_are_left_out_of_the_training_on_request(coco, capsys):
    data = read(coco.root / "annotations/instances_train2017.json")
    data["annotations"] = data["annotations"][:2]
    (coco.root / "annotations/instances_train2017.json").write_text(json.dumps(data))
    options = {"root": str(coco.root), "train": "train2017", "val": "val2017"}
    assert len(DetectionData("coco", **options).train_set) == 4
    assert len(DetectionData("coco", **options, empty_images=False).train_set) == 2
    data["annotations"] = []
    (coco.root / "annotations/instances_train2017.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"data\.train=train2017: .*none of its images .*empty_images is false"):
        DetectionData("coco", **options, class_names=["car", "train"], empty_images=False)
