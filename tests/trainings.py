"""Trainings of seconds from the command line, and what they have left."""

import json
from pathlib import Path

import pytest
import torch

from detmix.data import Shapes
from detmix.detectors import losses_and_detections
from detmix.training import build_detector, cli_main

from_lightning = pytest.mark.filterwarnings(  # of a Trainer that is made by hand
    "ignore:.*LeafSpec:FutureWarning", "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)

TINY = [
    "--data.shapes.train=8",
    "--data.shapes.val=4",
    "--data.shapes.test=4",
    "--data.shapes.size=64",
    "--data.shapes.max_extent=32",
    "--data.batch_size=4",
    "--model.options.min_size=64",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def mean_losses(folder, count):
    """The losses of a run's detector on each of its first validation scenes by itself, by hand: their mean."""
    model = build_detector("fasterrcnn_resnet18_small", 4, None, min_size=64, max_size=96)
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    scenes = Shapes(6, size=64, max_extent=32, seed=1)
    totals = {}
    for image, target in (scenes[index] for index in range(count)):
        with torch.no_grad():
            losses, _ = losses_and_detections(model, [image / 255], [target])
        for name, loss in {**losses, "loss": sum(losses.values())}.items():
            totals[name] = totals.get(name, 0.0) + float(loss)
    return {name: total / count for name, total in totals.items()}


def predictions_in(folder):
    """Image and class of each prediction, and its box and score as numbers."""
    rows = json.loads((folder / "predictions.json").read_text())
    return [(r["image_id"], r["category_id"]) for r in rows], [x for r in rows for x in (*r["bbox"], r["score"])]


def losses_in(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if name.startswith("loss")}


def runs_in(folder):
    """Calls the command line on a tiny version of the quickstart, which writes to a folder."""

    def call(subcommand, *arguments, config="configs/quickstart.yaml"):
        common = ["--config", config, "--runs", str(folder), *TINY]
        return cli_main([subcommand, *common, *arguments])

    return call


ONE_EPOCH = ["--trainer.max_epochs=1", "--data.mixup.no_mixup_epochs=0"]


def fit_once(folder, config):
    """Fit a tiny version of a config for one epoch, in a folder; that of the run."""
    cli_main(["fit", "--config", config, "--runs", str(folder), *TINY, *ONE_EPOCH])
    return folder / Path(config).stem


def read_json(file):
    return json.loads(file.read_text())


def fit_on_coco(root, config):
    """A call of ``fit`` on the COCO data set that lies in a folder; ``root`` is that, ``val`` its validation file."""

    def fit(*arguments):
        data = ["--data.format=coco", f"--data.root={root}", "--data.train=train2017", "--data.val=val2017"]
        options = ["--model.options={min_size: 64, max_size: 64}", "--trainer.enable_progress_bar=false"]
        cli_main(["fit", "--config", config, "--runs", str(root / "runs"), *data, *options, *ONE_EPOCH, *arguments])
        return root / "runs" / Path(config).stem

    fit.root, fit.val = root, root / "annotations" / "instances_val2017.json"
    return fit
