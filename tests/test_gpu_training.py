"""The trainer on a GPU: what it waits for, and what it computes."""

from contextlib import ExitStack

import lightning as L
import pytest
import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy

from detmix.training import (
    DetectionData,
    DetectionModule,
    ManifoldOptions,
    MixBatches,
    MixupOptions,
    ProgressBar,
    ShapesOptions,
    Throughput,
)

from .trainings import from_lightning

pytestmark = [pytest.mark.gpu, from_lightning]


class Simulated(Accelerator):
    """What Lightning asks of an accelerator."""

    def setup_device(self, device):
        pass

    def teardown(self):
        pass

    def get_device_stats(self, device):
        return {}

    @staticmethod
    def parse_devices(devices):
        return devices

    @staticmethod
    def get_parallel_devices(devices):
        return devices

    @staticmethod
    def auto_device_count():
        return 1

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def name():
        return "simulated"


def on_gpu(gpu):
    if gpu.simulated:
        return {"strategy": SingleDeviceStrategy(gpu.device, accelerator=Simulated())}
    return {"accelerator": "gpu", "devices": 1}


def fit(folder, place, *, mixup, callbacks=(), data=None, validated=1.0, **settings):
    """Train four steps, and validate; gives the trainer. A worker loads the batches: its work is not counted."""
    scenes = ShapesOptions(train=8, val=2, size=64, max_extent=32)
    data = DetectionData(shapes=scenes, mixup=mixup, batch_size=2, num_workers=1, **(data or {}))
    torch.manual_seed(0)
    settings = {"detector": "fasterrcnn_resnet18_small", **settings}
    module = DetectionModule(weights=None, options={"min_size": 64}, warmup_steps=1, lr=0.01, **settings)
    trainer = L.Trainer(
        max_epochs=1,
        default_root_dir=folder,
        logger=CSVLogger(folder),
        log_every_n_steps=1000,
        limit_val_batches=validated,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[*callbacks, ProgressBar()],
        **place,
    )
    trainer.fit(module, data)
    return trainer


class OneCycle(L.Callback):
    """Counts what the host waits for from the start of the third batch to that of the fourth."""

    def __init__(self, gpu):
        self.gpu = gpu
        self.counting = ExitStack()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            self.batch = [image.clone() for image in batch[0]], [dict(target) for target in batch[1]]
            self.waits = self.counting.enter_context(self.gpu.count_waits())
        elif batch_idx == 3:
            self.counting.close()


@pytest.mark.parametrize("objective", ["weighted", "pair"])
def test_the_trainer_waits_no_more_often_than_the_losses(gpu, tmp_path, monkeypatch, objective):
    monkeypatch.setattr(ProgressBar, "_INTERVAL", 1e9)
    cycle = OneCycle(gpu)
    callbacks = [cycle, Throughput()]
    trainer = fit(tmp_path, on_gpu(gpu), mixup=MixupOptions(), callbacks=callbacks, validated=0, objective=objective)
    detector = trainer.lightning_module.detector.to(gpu.device)
    with gpu.count_waits() as waits:
        torch.stack(list(detector.train()(*cycle.batch).values())).sum().backward()
    assert 0 < len(cycle.waits) <= len(waits)


UNMIXED = MixupOptions(alpha=0)
RUNS = {
    "unmixed": {"mixup": None},
    "mixed": {},
    "cutmix": {"mixup": MixupOptions(mix="cutmix")},
    "pair": {"objective": "pair"},
    "masks": {"detector": "maskrcnn_resnet18_small", "data": {"masks": True}},
    "keypoints": {"detector": "keypointrcnn_resnet18_small", "data": {"keypoints": True}},
    "input": {"mixup": UNMIXED, "manifold": ManifoldOptions(layers=["input"])},
    "features": {"mixup": UNMIXED, "manifold": ManifoldOptions(layers=["backbone.body.layer2"])},
    "roi": {"mixup": UNMIXED, "manifold": ManifoldOptions(layers=["roi"])},
    "channels_last": {"channels_last": True},
}


@pytest.mark.parametrize("name", [*RUNS, "batches"])
def test_a_simulated_gpu_trains_and_measures_as_the_cpu_does(gpu, tmp_path, name):
    if not gpu.simulated:
        pytest.skip("a real one draws other rows, and rounds differently")
    settings = {"mixup": MixupOptions(), **RUNS.get(name, {"mixup": UNMIXED})}
    numbers = []
    for place in ({"accelerator": "cpu"}, on_gpu(gpu)):
        callbacks = [MixBatches(pairing="shuffle", per_sample=True)] if name == "batches" else []
        found = fit(tmp_path, place, callbacks=callbacks, **settings).callback_metrics
        numbers.append({key: float(value) for key, value in found.items()})
    expected, measured = numbers
    assert {"train/loss", "val/loss", "val/AP50"} <= set(expected)
    assert measured == pytest.approx(expected, rel=1e-3, abs=1e-5, nan_ok=True)
