"""In which epochs a training mixes, and after which steps it validates."""

import json

import lightning as L
import pytest

from detmix.training import DetectionData, DetectionModule, MixupOptions, ShapesOptions, Throughput
from detmix.training.files import read_history

from .trainings import from_lightning


def test_mixing_is_off_in_the_last_epochs(run, monkeypatch):
    fractions = {}

    class Recording(Throughput):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            mixed = sum("lam" in target for target in batch[1]) / len(batch[1])
            fractions.setdefault(trainer.current_epoch, []).append(mixed)
            super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    monkeypatch.setattr("detmix.training.cli.Throughput", Recording)
    run("fit", "--trainer.max_epochs=4", "--data.mixup.no_mixup_epochs=2")
    assert fractions == {0: [1, 1], 1: [1, 1], 2: [0, 0], 3: [0, 0]}


class Own(DetectionModule):
    """A user's, with hooks of its own."""

    def on_train_start(self):
        pass

    def on_train_epoch_start(self):
        pass


@from_lightning
def test_a_trainer_that_is_made_by_hand_keeps_to_the_epochs_and_the_schedule(tmp_path):
    drawn = {}

    class Recording(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            drawn.setdefault(trainer.current_epoch, set()).update(target.get("lam") for target in batch[1])

    shapes = ShapesOptions(train=4, val=1, size=64, max_extent=32)
    data = DetectionData("shapes", shapes=shapes, batch_size=2, mixup=MixupOptions(no_mixup_epochs=1))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    quiet |= {"accelerator": "cpu", "default_root_dir": tmp_path, "enable_checkpointing": False}
    module = Own("fasterrcnn_resnet18_small", weights=None, options={"min_size": 64, "max_size": 96})
    L.Trainer(max_epochs=3, callbacks=[Recording()], **quiet).fit(module, data)
    assert (len(drawn[0]), len(drawn[1]), drawn[2]) == (4, 4, {None})
    assert not drawn[0] & drawn[1]
    with pytest.raises(ValueError, match=r"data\.mixup\.no_mixup_epochs must lie in 0 \.\.\. 0"):
        L.Trainer(max_epochs=1, **quiet).fit(module, data)


@pytest.mark.parametrize(
    ("stated", "max_epochs", "mixed"),
    [
        (0, 60, 60),
        (0.1, 60, 54),
        (0.3, 45, 31),
        (0.1, 45, 40),
        (5, 45, 40),
        (0.1, 4, 4),
        (0.1, 15, 13),
        (0.87, 4, 1),
        (0, None, 9),
    ],
)
def test_the_epochs_without_mixing_may_be_a_share_of_all(stated, max_epochs, mixed):
    data = DetectionData("shapes", mixup=MixupOptions(no_mixup_epochs=stated), shapes=ShapesOptions(train=4, val=1))
    data.check_schedule(max_epochs)
    enabled = []
    for epoch in range(max_epochs or 9):
        data.start_epoch(epoch, max_epochs)
        enabled.append(data.in_mixed_epoch)
    assert enabled == [epoch < mixed for epoch in range(max_epochs or 9)]


@pytest.mark.parametrize(
    ("stated", "max_epochs"), [(0.5, 1), (0.9, 4), (0.95, 10), (4, 4), (1.5, 4), (-1, 4), (float("inf"), 4)]
)
def test_epochs_without_mixing_that_leave_none_are_refused(stated, max_epochs):
    data = DetectionData("shapes", mixup=MixupOptions(no_mixup_epochs=stated), shapes=ShapesOptions(train=4, val=1))
    with pytest.raises(ValueError, match=f"must lie in 0 ... {max_epochs - 1}.* got {stated}"):
        data.check_schedule(max_epochs)


@pytest.mark.parametrize(
    ("arguments", "validated"),
    [
        (["max_epochs=2", "check_val_every_n_epoch=3"], [8]),
        (["max_epochs=1", "val_check_interval=0.75"], [3, 4]),
        (["max_epochs=2", "val_check_interval=5", "check_val_every_n_epoch=null"], [5, 8]),
        (["max_epochs=1", "val_check_interval=01:00:00:00"], [4]),  # by the clock: each day
        (["max_epochs=-1", "max_steps=6", "check_val_every_n_epoch=3"], [6]),
    ],
)
def test_the_last_step_is_validated_whatever_the_interval(run, tmp_path, arguments, validated):
    settings = ["--data.batch_size=2", "--data.mixup.no_mixup_epochs=0"]
    run("fit", *settings, *(f"--trainer.{argument}" for argument in arguments))
    metrics = json.loads((tmp_path / "quickstart" / "metrics.json").read_text())
    rows = read_history(tmp_path / "quickstart")
    assert [int(row["step"]) + 1 for row in rows if "val/AP" in row] == validated
    assert metrics["step"] == validated[-1]
    assert any("images_per_s" in row for row in rows)  # of steps without a pause between them
