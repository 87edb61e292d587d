"""What makes the trainer fast changes nothing that it computes."""

import json
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar

from detmix.benchmark.photographs import write_coco
from detmix.training import (
    DetectionData,
    MixupOptions,
    ProgressBar,
    ShapesOptions,
    cli_main,
)
from detmix.training import data as training_data

from .conftest import ROOT, undrawn_report
from .test_detectors_precision import is_exact
from .trainings import TINY


def fit(folder, *arguments):
    common = [
        "--config",
        str(ROOT / "configs/quickstart.yaml"),
        "--runs",
        str(folder),
        *TINY,
        "--trainer.max_epochs=1",
        "--data.mixup.no_mixup_epochs=0",
    ]
    with undrawn_report():
        return cli_main(["fit", *common, *arguments])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("plain")).model


def test_channels_last_is_another_layout_of_the_same_training(plain, tmp_path):
    module = fit(tmp_path, "--model.channels_last=true").model
    weight = module.detector.backbone.body.layer2[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    torch.testing.assert_close(module.state_dict(), plain.state_dict(), rtol=1e-2, atol=1e-3)
    loaded = torch.load(tmp_path / "quickstart" / "model.pt", weights_only=True)
    assert list(loaded) == list(plain.detector.state_dict())


def test_a_fit_in_bfloat16_measures_boxes_that_are_not_rounded(tmp_path):
    run = fit(tmp_path, "--trainer.precision=bf16-mixed", "--trainer.limit_train_batches=1")
    hooked = [name for name, m in run.model.detector.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooked == []  # or it could not be scripted
    rows = json.loads((tmp_path / "quickstart" / "predictions.json").read_text())
    assert len(rows) > 10
    assert is_exact(torch.tensor([row["score"] for row in rows]))
    assert is_exact(torch.tensor([row["bbox"] for row in rows]))


def test_a_compiled_backbone_trains_the_same_and_keeps_its_names(plain, tmp_path):
    module = fit(tmp_path, "--model.compile=eager").model
    assert module.detector.backbone._compiled_call_impl is not None
    torch.testing.assert_close(module.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-5)


def test_an_unknown_backend_of_compile_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        fit(tmp_path, "--model.compile=fastest")
    message = capsys.readouterr().err
    assert "model.compile" in message
    assert "'fastest'" in message
    assert "inductor" in message


class Logged:
    """A trainer whose numbers change whenever they are read."""

    def __init__(self, training):
        self.training = training
        self.reads = 0

    @property
    def callback_metrics(self):
        self.reads += 1
        return {"train/loss": torch.tensor(float(self.reads)), "train/loss_objectness": torch.tensor(0.0)}


@pytest.mark.parametrize(("training", "reads"), [(True, 2), (False, 3)])
def test_in_training_the_bar_reads_numbers_twice_a_second(monkeypatch, training, reads):
    monkeypatch.setattr(RichProgressBar, "get_metrics", lambda *_: {})
    times = iter([10.0, 10.4, 10.6])
    monkeypatch.setattr("detmix.training.callbacks.time.perf_counter", lambda: next(times))
    trainer, bar = Logged(training), ProgressBar()
    shown = [bar.get_metrics(trainer, None)["train/loss"] for _ in range(3)]
    assert trainer.reads == reads
    assert shown == ([1.0, 1.0, 2.0] if training else [1.0, 2.0, 3.0])


def test_training_images_are_reduced_and_those_that_are_evaluated_are_not(tmp_path):
    write_coco(tmp_path / "coco", 2, (64, 96))
    files = {"root": str(tmp_path / "coco"), "annotations": "annotations.json", "images": "images"}
    data = DetectionData("coco", augment=[], reduce_to=20, mixup=MixupOptions(), **files)
    image, target = data.train_set[0]
    assert image.shape == (3, 32, 48)
    assert target["boxes"][:, 2].max() <= 48
    assert data.evaluated_set("val")[0][0].shape == (3, 64, 96)


@pytest.mark.parametrize(
    ("cores", "devices", "workers", "allowed", "threads"),
    [
        (6, 1, 0, None, 6),
        (6, 1, 2, None, 4),
        (6, 2, 1, None, 2),
        (6, 1, 6, None, 1),
        (6, 1, 0, "2", 2),
        (6, 1, 0, "3,1", 3),
        (6, 1, 5, "4", 1),
        (6, 1, 0, "8", 6),
        (6, 1, 0, "many", 6),
    ],
)
def test_threads_and_workers_take_the_cores_that_they_are_allowed(
    monkeypatch, cores, devices, workers, allowed, threads
):
    monkeypatch.setattr(training_data.os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    if allowed is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    taken = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    data = DetectionData(shapes=ShapesOptions(train=2, val=1), num_workers=workers)
    data.trainer = SimpleNamespace(num_devices=devices, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    before = torch.get_num_threads()
    data.setup("fit")
    assert taken == [threads]
    data.teardown("fit")
    data.teardown("fit")
    assert taken == [threads, before]
    data.setup("fit")
    data.on_exception(RuntimeError("out of memory"))
    assert taken == [threads, before] * 2


def test_a_run_that_goes_on_takes_no_more_threads_than_it_is_allowed(monkeypatch):
    monkeypatch.setattr(training_data.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    taken = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    data = DetectionData(shapes=ShapesOptions(train=2, val=1))
    for allowed in ("2", "6"):
        monkeypatch.setenv("OMP_NUM_THREADS", allowed)
        data.go_on(0, 0, data.order(), threads=4)
    assert taken == [2, 4]
