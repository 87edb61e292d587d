"""What the module does with its settings: the losses, the learning rate, the seed of the mixing; no fit takes part."""

import gc
import re
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from detmix import weight_losses
from detmix.data import Shapes
from detmix.manifold import ManifoldMixup
from detmix.training import DetectionData, DetectionModule, ShapesOptions, Throughput, build_detector
from detmix.training.mixing import ManifoldOptions

from .factories import make_assembled, make_batch
from .test_training_mixing import make_data
from .trainings import from_lightning

# half a period of the cosine in eighths, 0.5 * (1 + cos(pi * n / 8))
COSINE = [1.0, 0.96193977, 0.85355339, 0.69134172, 0.5, 0.30865828, 0.14644661, 0.03806023]
WARM_UP = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1, 1, 1, 1, 1]),
        ("multistep", [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("cosine", COSINE),
    ],
)
def test_the_rates_of_a_training_are_those_of_its_settings(schedule, factors):
    module = DetectionModule(schedule=schedule, lr=0.8, milestones=(0.5, 0.75), warmup_steps=3)
    module.detector = nn.Linear(1, 1)
    module.trainer = trainer = SimpleNamespace(estimated_stepping_batches=8)
    made = module.configure_optimizers()
    optimizer, scheduler, rates = made["optimizer"], made["lr_scheduler"], []
    for _ in range(trainer.estimated_stepping_batches):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler["scheduler"].step()
    assert scheduler["interval"] == "step"
    assert rates == pytest.approx([0.8 * warm * factor for warm, factor in zip(WARM_UP, factors, strict=True)])


@pytest.mark.parametrize(
    ("detector", "part"), [("fasterrcnn_resnet18_small", "roi_heads"), ("retinanet_resnet50_fpn", "head")]
)
def test_a_step_loses_what_the_objective_and_the_normalizer_say(monkeypatch, detector, part):
    options = {"min_size": 64, "max_size": 64}
    settings = {"objective": "pair", "normalizer": "weight"}
    module = DetectionModule(detector, weights=None, options=options, **settings)
    torch.manual_seed(0)
    module.build("fit", ["cat", "dog", "owl"])
    built = module.detector.get_submodule(part)
    assert (built.objective, built.normalizer) == ("pair", "weight")

    torch.manual_seed(0)
    wanted = weight_losses(build_detector(detector, 4, None, **options), **settings).train()
    batch = make_batch((2, 3), weights=((0.3, 0.7), (0.2, 0.8, 0.2)), sources=((0, 1), (0, 1, 0)))
    trainer = SimpleNamespace(datamodule=SimpleNamespace(in_mixed_epoch=False))
    module.trainer = trainer  # which holds it weakly
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    losses = []
    for step in (lambda: module.train().training_step(batch, 0), lambda: sum(wanted(*batch).values())):
        torch.manual_seed(1)  # which rows are sampled
        losses.append(step())
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)


def test_features_are_mixed_by_the_seed_of_the_run():
    def drawn(seed):
        module.trainer = trainer = SimpleNamespace(datamodule=make_data(run_seed=seed))
        module.mixer = ManifoldMixup(detector, ["input"])
        module.on_fit_start()
        assert module.mixer.seed == trainer.datamodule.mixing_seed
        with module.mixer:
            return module.mixer.lam

    module, detector = DetectionModule(), weight_losses(make_assembled("RetinaNet")).eval()
    assert drawn(3) == drawn(3) != drawn(4)


def tiny_module(*names):
    module = DetectionModule("fasterrcnn_resnet18_small", weights=None, options={"min_size": 32, "max_size": 32})
    module.build("fit", names)
    return module


def quiet_trainer(**settings):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(accelerator="cpu", enable_model_summary=False, **quiet, **settings)


class BreaksOff(L.Callback):
    """An error after the last batch of a validation, as of a user's own callback."""

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if batch_idx + 1 == trainer.num_val_batches[0]:
            raise ArithmeticError


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning")
def test_a_validation_that_broke_off_leaves_nothing_for_the_next_pass():
    scenes = ShapesOptions(train=2, val=4, test=4, size=64, max_extent=32)
    module, data = tiny_module("circle", "square", "triangle"), DetectionData("shapes", shapes=scenes, batch_size=2)
    with pytest.raises(ArithmeticError):
        quiet_trainer(callbacks=[BreaksOff()]).validate(module, data)
    quiet_trainer(limit_test_batches=1).test(module, data)
    first = [data.evaluated_set("test")[index][1]["image_id"] for index in range(2)]
    assert module.evaluation.ground_truth.image_ids.tolist() == first
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.detector.modules())


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning")
def test_the_objects_of_a_split_are_read_once_however_often_it_is_measured(monkeypatch):
    read = []
    monkeypatch.setattr(Shapes, "ground_truth", lambda self, own=Shapes.ground_truth: read.append(self) or own(self))
    module = tiny_module("circle", "square", "triangle")
    data = DetectionData("shapes", shapes=ShapesOptions(val=3, size=64, max_extent=32), masks=True)
    for batches in (2, 3):
        quiet_trainer(limit_val_batches=batches).validate(module, data, verbose=False)
    assert len(read) == 1
    assert len(data.ground_truth("val").objects.masks) == len(data.ground_truth("val").objects) > 0


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize(("many", "said"), [(1, True), (1_000_000, False)])
def test_that_many_detections_are_being_measured_is_said(monkeypatch, capsys, many, said):
    monkeypatch.setattr("detmix.training.module._MANY", many)
    module, data = tiny_module("circle", "square", "triangle"), DetectionData("shapes", shapes=ShapesOptions(val=2))
    quiet_trainer().validate(module, data, verbose=False)
    assert bool(re.search(r"^Measuring [\d,]+ detections of 2 images\.$", capsys.readouterr().out, re.M)) == said


class KeepsResults(L.Callback):
    """What callbacks find of a pass at its end."""

    def on_validation_end(self, trainer, pl_module):
        self.found = list(pl_module.predictions)

    on_test_end = on_validation_end


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_detections_are_let_go_once_the_callbacks_have_had_them(stage):
    module, keeper, others = tiny_module("circle", "square", "triangle"), KeepsResults(), results_in_memory()
    data = DetectionData("shapes", shapes=ShapesOptions(val=2, test=2, size=64, max_extent=32))
    getattr(quiet_trainer(callbacks=[keeper]), stage)(module, data, verbose=False)
    assert {row["image_id"] for row in keeper.found} == {0, 1}
    del keeper.found
    known = {id(row) for row in others}  # of other tests
    assert [row for row in results_in_memory() if id(row) not in known] == []


def results_in_memory():
    return [row for row in gc.get_objects() if type(row) is dict and row.keys() >= {"image_id", "score", "bbox"}]


def test_a_detector_of_other_classes_is_not_trained_on():
    module = tiny_module("cat", "dog", "owl")
    module.build("validate", ["cat", "dog", "owl"])
    for names in (["cat", "dog"], ["dog", "cat", "owl"]):
        with pytest.raises(
            ValueError, match=f"built for the classes cat, dog, owl, and this data has {', '.join(names)}"
        ):
            module.build("fit", names)


def test_a_detector_that_could_not_be_built_is_of_no_classes():
    module = DetectionModule("fasterrcnn_resnet18_small", weights=None, manifold=ManifoldOptions(layers=["nowhere"]))
    with pytest.raises(ValueError, match="nowhere"):
        module.build("fit", ["cat"])
    module.manifold.layers = ["input"]
    module.build("fit", ["dog", "owl"])
    assert module.class_names == ("dog", "owl")
    assert module.mixer is not None


class Clock(L.Callback):
    """A clock that moves by a second with each batch, and by minutes with each validation."""

    def __init__(self):
        self.seconds = 0.0

    def perf_counter(self):
        return self.seconds

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seconds += 1

    def on_validation_start(self, trainer, pl_module):
        self.seconds += 120


class SlowFiles(TorchCheckpointIO):
    """Writes no checkpoint, and takes minutes of a clock for it."""

    def __init__(self, clock):
        self.clock = clock

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        self.clock.seconds += 300


class Learner(BoringModel):
    """Keeps what is logged of the speed."""

    def __init__(self):
        super().__init__()
        self.speeds = []

    def log(self, name, value, **options):
        if name == "images_per_s":
            self.speeds.append(float(value))


@from_lightning
def test_validations_and_checkpoints_are_none_of_the_time_of_training(monkeypatch, tmp_path):
    clock, module = Clock(), Learner()
    monkeypatch.setattr("detmix.training.callbacks.time", clock)
    trainer = L.Trainer(
        max_epochs=2,
        limit_train_batches=8,
        val_check_interval=5,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[SlowFiles(clock)],
        callbacks=[clock, Throughput(), ModelCheckpoint(tmp_path, every_n_train_steps=3)],
    )
    trainer.fit(module)
    # after steps 3, 6, 9, 12 and 15 there is a checkpoint, after 5 and 13 a validation, and after 8 the epoch ends
    assert module.speeds == [32.0] * (15 - 5 - 2 - 1)  # rows of a batch of BoringModel's, in a second


@pytest.mark.parametrize("callback", [EMAWeightAveraging(), StochasticWeightAveraging(swa_lrs=0.1)])
def test_weights_are_not_averaged_of_a_detector_that_is_not_there(callback):
    module = DetectionModule("fasterrcnn_resnet18_small", weights=None)
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", callbacks=[callback], **options)
    with pytest.raises(RuntimeError, match=r"call module\.build\('fit', data\.class_names, .*\) before Trainer\.fit"):
        trainer.fit(module, make_data())
