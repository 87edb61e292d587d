"""Which checkpoint is the best, and by which accuracy."""

import dataclasses
import math
import shutil

import lightning as L
import pytest
import torch
from torch import nn

from detmix.training.best import BestCheckpoint
from detmix.training.evaluation import evaluate
from detmix.training.files import read_history

TWO_EPOCHS = ["--trainer.max_epochs=2", "--data.mixup.no_mixup_epochs=0"]


class Scored(L.LightningModule):
    """Trains one step in an epoch, and is then as good as the next of the scores: AP, and AP of a class."""

    def __init__(self, ap, of_class):
        super().__init__()
        self.ap, self.of_class, self.layer = ap, of_class, nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.log_dict({"val/AP": self.ap[self.current_epoch], "val/AP/red cell": self.of_class[self.current_epoch]})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder, ap, best_by="AP", of_class=(0.0, 0.0, 0.0)):
    """Train three epochs; give the epoch of the best checkpoint, counted from 1, or None where there is none."""
    batches = torch.utils.data.DataLoader(torch.ones(1, 1))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = L.Trainer(accelerator="cpu", max_epochs=3, callbacks=[BestCheckpoint(folder, best_by)], **quiet)
    trainer.fit(Scored(ap, of_class), batches, batches)
    assert {file.name for file in folder.iterdir()} <= {"best.ckpt"}
    file = folder / "best.ckpt"
    return torch.load(file, weights_only=True)["global_step"] if file.exists() else None


pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning")


@pytest.mark.parametrize(
    ("scores", "best"), [([0.1, 0.2, 0.3], 3), ([0.3, 0.2, 0.1], 1), ([0.2, 0.4, 0.1], 2), ([0.4, 0.1, 0.5], 3)]
)
def test_the_best_checkpoint_is_that_of_the_highest_ap(tmp_path, scores, best):
    assert train(tmp_path, scores) == best


def test_the_best_checkpoint_goes_by_the_accuracy_that_is_chosen(tmp_path):
    assert train(tmp_path, [0.1, 0.2, 0.3], "AP/red cell", [0.1, 0.5, 0.4]) == 2


@pytest.mark.parametrize("mark", [-1.0, math.nan])
def test_what_is_no_accuracy_is_never_the_best(tmp_path, caplog, mark):
    assert train(tmp_path, [mark, 0.0, mark]) == 2
    [told] = [record.getMessage() for record in caplog.records if record.name == "detmix.training"]
    assert told.startswith(f"val/AP is {mark:g}: no object that it could be of is in the images that were measured")
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    assert train(tmp_path, [mark] * 3) is None


@pytest.fixture
def fit(run, tmp_path, monkeypatch):
    """Trains two epochs and more, of which AP gets better and AP50 worse; gives the folder of the checkpoints."""
    scores = iter([(0.1, 0.9), (0.2, 0.8), (0.3, 0.7), (0.4, 0.6)])

    def scored(*arguments, **options):
        evaluation = evaluate(*arguments, **options)
        numbers = dict(zip(("AP", "AP50"), next(scores), strict=True))
        return evaluation._replace(coco=dataclasses.replace(evaluation.coco, metrics=evaluation.coco.metrics | numbers))

    monkeypatch.setattr("detmix.training.module.evaluate", scored)

    def train(*arguments):
        run("fit", *TWO_EPOCHS, "--trainer.num_sanity_val_steps=0", *arguments)
        return tmp_path / "quickstart" / "checkpoints"

    return train


def epoch_of(file):
    return torch.load(file, weights_only=True)["epoch"]


def test_a_run_keeps_the_best_by_its_option_and_goes_on_comparing_by_it(fit, tmp_path):
    folder = fit("--best_by=AP50")
    assert epoch_of(folder / "best.ckpt") == 0
    config = ["--config", str(tmp_path / "quickstart" / "config.yaml")]
    fit(*config, "--resume", "--trainer.max_epochs=4")
    assert epoch_of(folder / "last.ckpt") == 3
    assert epoch_of(folder / "best.ckpt") == 0


def test_a_run_that_goes_on_by_another_accuracy_keeps_its_best_until_that_is_moved_away(fit, capsys):
    folder = fit()
    more = ["--resume", "--best_by=AP50", "--trainer.max_epochs=4"]
    with pytest.raises(SystemExit):
        fit(*more)
    told = capsys.readouterr().err
    assert (
        f"{folder / 'best.ckpt'} is of the highest AP so far, and best_by is AP50 now: go on with --best_by AP" in told
    )
    assert len([row for row in read_history(folder.parent) if "val/AP" in row]) == 2
    (folder / "best.ckpt").rename(folder / "best_by_AP.ckpt")
    fit(*more)
    assert epoch_of(folder / "best_by_AP.ckpt") == 1
    assert epoch_of(folder / "best.ckpt") == 2


@pytest.mark.parametrize("name", ["loss", "val/AP", "segm/AP", "AP/platelets", "epoch", ""])
def test_what_is_not_measured_is_refused_before_an_earlier_run_is_moved(run, tmp_path, capsys, name):
    earlier = tmp_path / "quickstart" / "model.pt"
    earlier.parent.mkdir()
    earlier.write_text("precious")
    with pytest.raises(SystemExit):
        run("fit", *TWO_EPOCHS, f"--best_by={name}")
    told = capsys.readouterr().err
    assert "best_by must be an accuracy that this training measures, of which more is better: AP, AP50, AP75," in told
    assert f"voc/AP50/<class> of the classes circle, square, triangle; got {name!r}" in told
    assert earlier.read_text() == "precious"
