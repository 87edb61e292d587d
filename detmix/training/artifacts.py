"""What a run leaves behind: metrics, predictions, weights, pictures and the report."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from PIL import Image
from torch import Tensor

from ..figures import draw_boxes, image_grid, precision_recall_figure
from ..files import write_whole
from ..targets import Target
from .callbacks import callbacks_of, mixing_of
from .data import data_of
from .files import read_history
from .module import DetectionModule
from .report import write_report
from .skipped import SkippedImages
from .trained import CLASSES_FILE, categories

_PICTURES = 8  # images in a grid
_MIN_SCORE = 0.5  # of a detection that is drawn


class RunFiles(L.Callback):
    """Writes ``metrics.json`` and ``predictions.json`` after each validation, the rest when the fit ends.

    A fit writes to the run's folder: ``config.yaml``, ``classes.json`` (COCO's ``categories``, in the order of
    the labels), ``metrics.json`` (flat; accuracy, ``loss`` and its terms),
    ``predictions.json`` (COCO results), ``model.pt`` (torchvision's ``state_dict``, on the CPU),
    ``train_samples.png``, ``detections.png`` and ``report.html``. ``validate`` and ``test`` write their
    numbers, predictions and picture to a folder of that name inside it. Every file is written under a
    temporary name and moved into place.
    """

    def __init__(self, run_dir: Path, command: str, config_text: str) -> None:
        """Remember where to write.

        Args:
            run_dir: the run's folder.
            command: how the run was started, for the report.
            config_text: the resolved config.
        """
        self.run_dir = run_dir
        self.command = command
        self.config_text = config_text
        self._start = time.time()
        self._seconds_before = 0.0  # of the run, in processes before this one
        self._trained = False
        self._samples: list[Image.Image] = []
        self._first_start = True  # a run that goes on keeps the picture of its beginning

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and save the resolved config and what the labels mean."""
        self._start = time.time() - self._seconds_before
        self._first_start = not (self.run_dir / "train_samples.png").exists()
        if trainer.is_global_zero:
            classes = json.dumps(categories(data_of(trainer).class_names, data_of(trainer).category_ids), indent=2)
            write_whole(self.run_dir / "config.yaml", lambda path: path.write_text(self.config_text))
            write_whole(self.run_dir / CLASSES_FILE, lambda path: path.write_text(classes + "\n"))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """There is something to train: a run that is finished already keeps its files."""
        self._trained = True

    def state_dict(self) -> dict[str, Any]:
        """How the run was started, and how long it has taken, for the checkpoint."""
        return {"command": self.command, "seconds": time.time() - self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the run that the checkpoint is of."""
        self.command, self._seconds_before = state_dict["command"], state_dict["seconds"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw the first training images as the model gets them."""
        if trainer.is_global_zero and len(self._samples) < _PICTURES and self._first_start:
            names = data_of(trainer).class_names
            for image, target in zip(*batch, strict=True):
                self._samples.append(draw_boxes(image, _on_cpu(target), names))
            if len(self._samples) >= _PICTURES:
                self._picture(trainer, "train_samples", self._samples[:_PICTURES])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the numbers and the predictions."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            folder = self.run_dir if trainer.state.fn == "fit" else self.run_dir / "validate"
            self._write_evaluation(trainer, _module(pl_module), folder, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the numbers and the predictions."""
        if trainer.is_global_zero:
            self._write_evaluation(trainer, _module(pl_module), self.run_dir / "test", "test")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the weights and the report."""
        if not trainer.is_global_zero or not self._trained:
            return
        module = _module(pl_module)
        assert module.detector is not None
        weights = {name: value.cpu() for name, value in module.detector.state_dict().items()}
        write_whole(self.run_dir / "model.pt", lambda path: torch.save(weights, path))
        if self._samples and len(self._samples) < _PICTURES:
            self._picture(trainer, "train_samples", self._samples)
        if module.evaluation is not None:
            self._report(trainer, module)

    def _write_evaluation(self, trainer: L.Trainer, module: DetectionModule, folder: Path, stage: str) -> None:
        assert module.evaluation is not None
        evaluation = module.evaluation
        progress = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        metrics = evaluation.metrics() | evaluation.losses | progress
        write_whole(folder / "metrics.json", lambda path: path.write_text(json.dumps(metrics, indent=2) + "\n"))
        write_whole(folder / "predictions.json", lambda path: path.write_text(json.dumps(evaluation.predictions)))
        self._picture(trainer, "detections", self._detections(trainer, module, stage), folder)

    def _detections(self, trainer: L.Trainer, module: DetectionModule, stage: str) -> list[Image.Image]:
        assert module.evaluation is not None
        data = data_of(trainer)
        dataset = data.evaluated_set(stage)
        label_of = {category: label for label, category in enumerate(data.category_ids, start=1)}
        found = [row for row in module.evaluation.predictions if row["score"] >= _MIN_SCORE]
        pictures = []
        for index in range(min(_PICTURES, len(module.evaluation.ground_truth["images"]))):
            image, target = dataset[index]
            rows = [row for row in found if row["image_id"] == target["image_id"]]
            pictures.append(draw_boxes(image, _as_detections(rows, label_of), data.class_names))
        return pictures

    def _picture(
        self, trainer: L.Trainer, name: str, pictures: Sequence[Image.Image], folder: Path | None = None
    ) -> None:
        grid = image_grid(pictures)
        write_whole((folder or self.run_dir) / f"{name}.png", lambda path: grid.save(path, format="PNG"))
        for logger in trainer.loggers:
            add_image = getattr(getattr(logger, "experiment", None), "add_image", None)
            if add_image is not None:
                pixels = torch.frombuffer(bytearray(grid.tobytes()), dtype=torch.uint8)
                add_image(name, pixels.reshape(grid.height, grid.width, 3), trainer.global_step, dataformats="HWC")

    def _report(self, trainer: L.Trainer, module: DetectionModule) -> None:
        assert module.evaluation is not None
        metrics = module.evaluation.metrics()
        write_report(
            self.run_dir / "report.html",
            title=f"detmix: {self.run_dir.name}",
            summary=self._summary(trainer, module),
            metrics={name: metrics[name] for name in (*module.evaluation.coco.metrics, "voc/AP50", "voc/AP50_11point")},
            per_class=module.evaluation.by_class(),
            history=read_history(self.run_dir),
            config_text=self.config_text,
            figures=self._figures(module),
            environment=_environment(),
        )

    def _figures(self, module: DetectionModule) -> list[tuple[str, str, str, Any]]:
        assert module.evaluation is not None
        pictures: list[tuple[str, str, str, Any]] = []
        for name, title, alt, caption in _GRIDS:
            file = self.run_dir / f"{name}.png"
            if file.exists():
                with Image.open(file) as picture:
                    pictures.append((title, alt, caption, picture.copy()))
        curves = precision_recall_figure(module.evaluation.coco.curves)
        return [*pictures, ("Precision and recall", "Precision against recall by class", "At IoU 0.5.", curves)]

    def _summary(self, trainer: L.Trainer, module: DetectionModule) -> dict[str, str]:
        seconds = round(time.time() - self._start)
        return {
            "Command": self.command,
            "Detector": f"{module.detector_name}, starting from {module.weights or 'nothing'}",
            "Mixing": ", ".join(mixing_of(data_of(trainer), module, callbacks_of(trainer))) or "none",
            "Objective": f"{module.objective}, normalizer {module.normalizer}",
            "Epochs": f"{trainer.current_epoch} ({trainer.global_step} steps)",
            "Duration": f"{seconds // 60} min {seconds % 60} s",
            "Seed": os.environ.get("PL_GLOBAL_SEED", "none"),
        } | _skipped(trainer)


_GRIDS = (
    (
        "train_samples",
        "Training samples",
        "Grid of training images as the detector got them, most of them two images blended, with their boxes",
        "Each outline is as opaque as its box's weight, which stands beside the class name.",
    ),
    (
        "detections",
        "Detections",
        "Grid of validation images with the boxes that were detected and their scores",
        f"Detections with a score of at least {_MIN_SCORE}.",
    ),
)


def _skipped(trainer: L.Trainer) -> dict[str, str]:
    """How many training images were skipped, if that may be."""
    if data_of(trainer).on_error == "raise":
        return {}
    count = sum(len(callback.files) for callback in callbacks_of(trainer) if isinstance(callback, SkippedImages))
    return {"Skipped images": f"{count} of {len(data_of(trainer).train_set)}"}


def _as_detections(rows: Sequence[dict[str, Any]], label_of: Mapping[int, int]) -> Target:
    """COCO results of one image as torchvision's detections."""
    xywh = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4)
    return {
        "boxes": torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1),
        "labels": torch.tensor([label_of[row["category_id"]] for row in rows], dtype=torch.int64),
        "scores": torch.tensor([row["score"] for row in rows], dtype=torch.float32),
    }


def _on_cpu(target: Target) -> Target:
    return {key: value.cpu() if isinstance(value, Tensor) else value for key, value in target.items()}


def _environment() -> dict[str, str]:
    packages = ("detmix", "torch", "torchvision", "lightning", "pycocotools", "numpy")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    return {name: version(name) for name in packages} | {"Python": platform.python_version(), "Device": device}


def _module(module: L.LightningModule) -> DetectionModule:
    assert isinstance(module, DetectionModule)
    return module
