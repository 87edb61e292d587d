import json
import shutil
from urllib.error import URLError

import pytest
import torch
import yaml
from torchvision.models import get_model, get_model_weights

from detmix.evaluation.numbering import categories
from detmix.training.models import coco_classes, untrained_detector
from detmix.training.module import DetectionModule
from detmix.training.trained import device_named, open_trained
from detmix.training.weights import read_state

from .conftest import ROOT
from .test_training_weights import Hostile

SMALL = "fasterrcnn_resnet18_small"
SSDLITE = "ssdlite320_mobilenet_v3_large"
CLASSES = ["circle", "square", "triangle"]


@pytest.fixture(scope="module")
def weights():
    """The weights of the quickstart's detector before any training."""
    return untrained_detector(SMALL, 4).state_dict()


@pytest.fixture
def run(tmp_path, weights):
    """The folder of a run, of which only the checkpoint, model.pt and the config are left."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(weights, folder / "model.pt")
    torch.save({"state_dict": {f"detector.{name}": w for name, w in weights.items()}}, folder / "checkpoints/last.ckpt")
    shutil.copy(ROOT / "configs/quickstart.yaml", folder / "config.yaml")
    return folder


def classes_file(classes):
    return json.dumps([{"id": number, "name": name} for number, name in classes.items()])


@pytest.mark.parametrize("file", ["model.pt", "checkpoints/last.ckpt"])
def test_a_run_brings_its_config_and_its_classes(run, weights, file):
    (run / "classes.json").write_text(classes_file({3: "a", 9: "b", 2: "c"}))
    trained = open_trained(str(run / file))
    assert (trained.class_names, trained.category_ids) == (("a", "b", "c"), (3, 9, 2))
    assert trained.model.transform.min_size == (96,)
    state = trained.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items())


def test_the_classes_of_a_run_in_another_order_are_refused_and_other_names_for_them_are_not(run):
    (run / "classes.json").write_text(classes_file({3: "a", 9: "b", 2: "c"}))
    with pytest.raises(ValueError, match="in another order, and the labels of these weights mean a, b, c: leave it"):
        open_trained(str(run / "model.pt"), classes=["b", "a", "c"])
    for names in (("a", "b", "c"), ("x", "b", "a")):
        assert open_trained(str(run / "model.pt"), classes=names).class_names == names


@pytest.fixture
def devices(monkeypatch):
    """Where detectors are built, in order."""
    found, build = [], DetectionModule.build

    def watched(module, *arguments):
        found.append(torch.empty(0).device.type)
        build(module, *arguments)

    monkeypatch.setattr(DetectionModule, "build", watched)
    return found


def test_classes_that_weights_are_not_for_are_refused_before_a_detector_is_made(run, devices):
    (run / "classes.json").write_text(classes_file(dict(enumerate("abcdefgh"))))
    with pytest.raises(ValueError, match=r"model\.pt: wanted weights for 9 classes, background included, got .* for 4"):
        open_trained(str(run / "model.pt"))
    assert devices == ["meta"]
    open_trained(str(run / "model.pt"), classes=CLASSES)
    assert devices == ["meta", "meta", "cpu"]


def test_weights_that_shape_their_detector_are_opened(run, cached):
    """Torchvision's own are read on the way."""
    torch.save(get_model(SSDLITE, weights=None, weights_backbone=None).state_dict(), cached)
    state = get_model(SSDLITE, weights=None, weights_backbone=None, num_classes=4).state_dict()
    torch.save(state, run / "model.pt")
    (run / "config.yaml").write_text(f"model: {{detector: {SSDLITE}, weights: coco}}")
    trained = open_trained(str(run / "model.pt"), classes=CLASSES).model.state_dict()
    assert all(torch.equal(trained[name], value) for name, value in state.items())


def test_without_its_classes_a_run_has_those_given_or_those_of_the_data_of_a_config_that_was_named(run):
    assert open_trained(str(run / "model.pt"), config=run / "config.yaml").class_names == tuple(CLASSES)
    assert open_trained(str(run / "model.pt"), classes=["x", "y", "z"]).class_names == ("x", "y", "z")
    with pytest.raises(FileNotFoundError, match=r"classes\.json: .* Pass --classes; or --config .*config\.yaml"):
        open_trained(str(run / "model.pt"))


@pytest.mark.parametrize("file", ["model.pt", "checkpoints/last.ckpt"])
def test_a_folder_of_weights_from_a_stranger_runs_nothing(run, file):
    """The config that lies there is not named by the user, who may not know of it."""
    touch = {"class_path": "pathlib.Path", "init_args": {"args": str(run)}}
    runs = {"class_path": "tests.hostile.Owned", "init_args": {"file": str(run / "owned")}}
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["augment"] = [runs, touch]
    config["model"]["manifold"] = runs
    config["trainer"]["callbacks"] = [runs]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(FileNotFoundError, match="Pass --classes"):
        open_trained(str(run / file))
    open_trained(str(run / file), classes=CLASSES)
    config["model"]["options"]["box_score_thresh"] = runs  # jsonargparse makes an object of it, whatever the type
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    trained = open_trained(str(run / file), classes=CLASSES)
    assert trained.model.roi_heads.score_thresh == runs
    assert not (run / "owned").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [1]", r"Expected `object`, got `array` - at `\$\.model`"),
        ("model: {options: 3}", r"Expected `object \| null`, got `int`"),
        ("model: {weights: mine}", "Invalid enum value 'mine'"),
        ("model: {detector: yolo}", "there is no detector 'yolo'"),
        ("model: {" + "[" * 60, "nested 50 deep"),
        ("model: {detector: !!timestamp abc}", "a number or a date in it cannot be read"),
        ("\xff", "utf-8"),
    ],
)
def test_a_config_beside_weights_that_is_none_is_named(run, text, message):
    (run / "config.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as refused:
        open_trained(str(run / "model.pt"), classes=CLASSES)
    assert "config.yaml" in str(refused.value) or "yolo" in text


def test_the_config_may_lie_elsewhere_and_its_options_be_changed(run, tmp_path):
    lonely = shutil.move(run / "model.pt", tmp_path / "lonely.pt")
    trained = open_trained(str(lonely), config=run / "config.yaml", options={"min_size": 64})
    assert (trained.model.transform.min_size, trained.model.transform.max_size) == ((64,), 96)
    with pytest.raises(ValueError, match=r"lonely\.pt: there is no config\.yaml beside it.*--detector"):
        open_trained(str(lonely))


def test_a_file_of_weights_trained_elsewhere_needs_the_detector_and_the_names_of_its_classes(run, weights):
    file = str(run / "model.pt")
    trained = open_trained(file, detector=SMALL, classes=CLASSES, options={"min_size": 64, "max_size": 64})
    assert categories(trained.class_names, trained.category_ids) == [
        {"id": 1, "name": "circle"},
        {"id": 2, "name": "square"},
        {"id": 3, "name": "triangle"},
    ]
    with pytest.raises(ValueError, match=r"model\.pt: has 4 classes, background included: pass --classes with 3 names"):
        open_trained(file, detector=SMALL)
    with pytest.raises(ValueError, match=r"wanted weights for 3 classes, background included, got them for 4"):
        open_trained(file, detector=SMALL, classes=["circle", "square"])
    with pytest.raises(ValueError, match=f"wanted weights of fcos_resnet50_fpn, got those of {SMALL}"):
        open_trained(file, detector="fcos_resnet50_fpn", classes=CLASSES)


def test_a_file_is_read_once_and_one_detector_is_made_for_it(run, monkeypatch):
    read, built = [], []

    def watched_read(path):
        read.append(path)
        return read_state(path)

    def watched_build(*arguments, **options):
        built.append(torch.empty(0).device.type)
        return untrained_detector(*arguments, **options)

    monkeypatch.setattr("detmix.training.trained.read_state", watched_read)
    monkeypatch.setattr("detmix.training.trained.untrained_detector", watched_build)
    torch.save(untrained_detector(SMALL, 91).state_dict(), run / "coco.pt")
    assert open_trained(str(run / "coco.pt"), detector=SMALL).class_names == coco_classes()
    assert (len(read), built) == (1, ["meta", "cpu"])
    with pytest.raises(ValueError, match="has 4 classes"):
        open_trained(str(run / "model.pt"), detector=SMALL)
    assert (len(read), built) == (2, ["meta", "cpu", "meta"])


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A file that stands for the one that torchvision downloads for SSDlite: where it is kept."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = tmp_path / "torch/hub/checkpoints" / get_model_weights(SSDLITE)["COCO_V1"].url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    return file


def test_torchvisions_own_weights_bring_cocos_classes(cached):
    state = get_model(SSDLITE, weights=None, weights_backbone=None).state_dict()
    torch.save(state, cached)
    by_name = open_trained("COCO_V1", detector=SSDLITE, options={"score_thresh": 0.2})
    by_file = open_trained(str(cached), detector=SSDLITE)
    assert by_name.model.score_thresh == 0.2
    for trained in (by_name, by_file):
        assert all(torch.equal(value, state[name]) for name, value in trained.model.state_dict().items())
        assert (trained.class_names, trained.category_ids) == (coco_classes(), tuple(range(1, 91)))
        used = categories(trained.class_names, trained.category_ids)
        assert len(used) == 80
        assert (used[0], used[-1]) == ({"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"})


def test_what_lies_in_torchvisions_cache_runs_no_code(cached, tmp_path):
    torch.save({"evil": Hostile(tmp_path / "owned")}, cached)
    with pytest.raises(ValueError, match=r"TORCH_HOME/hub/checkpoints/ssdlite320.*\.pth: not a file of weights"):
        open_trained("COCO_V1", detector=SSDLITE)
    assert not (tmp_path / "owned").exists()


def test_a_failed_download_says_how_to_go_on(monkeypatch):
    def offline(*arguments, **options):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(RuntimeError, match=rf"COCO_V1 of {SSDLITE} could not be downloaded .*no route.*path of a file"):
        open_trained("COCO_V1", detector=SSDLITE)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"weights": "COCO_V7", "detector": SSDLITE}, f"{SSDLITE} has no weights 'COCO_V7' in torchvision; .* COCO_V1"),
        ({"weights": "COCO_V1", "detector": SMALL}, f"{SMALL} has no weights 'COCO_V1' in torchvision; there are none"),
        ({"weights": "COCO_V1", "detector": "yolo"}, "there is no detector 'yolo'; known are .*maskrcnn_resnet50_fpn"),
        ({"weights": "COCO_V1", "detector": SSDLITE, "options": {"min_size": 3}}, "has no min_size"),
        ({"weights": "COCO_V1", "detector": SSDLITE, "classes": ["a"]}, "has classes of its own: leave out --classes"),
        ({"weights": "a.pt", "detector": SSDLITE, "config": "c.yaml"}, "--config for a run's model or --detector"),
        ({"weights": "a.pt", "config": "c.yaml"}, "c.yaml: no such config file"),
        ({"weights": "a.pt", "detector": SSDLITE, "classes": ["a"]}, "a.pt: no such file of weights"),
        ({"weights": "a.pt"}, "a.pt: no such file of weights .torchvision's own, by name, need --detector"),
    ],
)
def test_settings_that_cannot_work_are_named(arguments, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "config" in arguments:
        arguments = {**arguments, "config": tmp_path / arguments["config"]}
    with pytest.raises((ValueError, FileNotFoundError), match=wanted):
        open_trained(**arguments)


@pytest.mark.parametrize("more", [{}, {"detector": SMALL, "classes": CLASSES}], ids=["a run's", "torchvision's"])
def test_the_folder_of_a_run_is_no_file_of_weights(run, more):
    with pytest.raises(ValueError, match=r"run: a folder and no file of weights; pass .*/run/model\.pt, or a"):
        open_trained(str(run), **more)


def test_a_damaged_file_of_classes_is_named(run):
    (run / "classes.json").write_text('[{"id": "one", "name": "circle"}]')
    with pytest.raises(ValueError, match=r"classes\.json: Expected `int`, got `str` - at `\$\[0\]\.id`"):
        open_trained(str(run / "model.pt"))


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_named(None) == device_named("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="--device cuda:0: there is no GPU here .* pass --device cpu"):
        device_named("cuda:0")
    with pytest.raises(ValueError, match="--device cdua: torch knows no such device; pass cpu, or cuda for a GPU"):
        device_named("cdua")
