"""What a run leaves behind: metrics, predictions, weights, pictures and the report."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
import msgspec
from PIL import Image
from torch import Tensor

from ..canvas import image_size
from ..data.paths import plain_name
from ..evaluation.numbering import CLASSES_FILE, IMAGES_FILE, PREDICTIONS_FILE, categories, stated_ids
from ..figures import draw_boxes, image_grid
from ..figures.boxes import SHOWN
from ..files import write_text, write_whole
from ..machine import machine
from ..reporting.tables import number_text
from ..targets import Target
from ..terminal import tell
from .callbacks import callbacks_of, mixing_of
from .checkpoints import save_whole
from .data import DetectionData, Evaluated, data_of
from .evaluation import Evaluation
from .log import log_picture
from .module import DetectionModule
from .run_report import (
    MIN_SCORE,
    SAMPLES,
    as_detections,
    read_results,
    write_facts,
    write_run_report,
    write_sample,
)
from .skipped import SkippedImages

_LOGGER = logging.getLogger("detmix.training")
_PICTURES = 8  # images in a grid


class RunFiles(L.Callback):
    """Writes the settings of a run before its first step, its numbers after each validation, and its report at its end.

    A fit writes to the run's folder

    - before its first step, so not if it is finished already: ``config.yaml`` and ``classes.json`` (COCO's
      ``categories``, in the order of the labels);
    - in its first steps: ``train_samples/``;
    - after each validation: ``metrics.json`` (flat; accuracy, ``loss`` and its terms, ``images``, how many were
      measured, ``epoch`` and ``step``), ``predictions.json`` (COCO
      results), ``images.json`` (which id is which image and class there; only of images with names that tell them
      apart, so of no made-up scenes), ``detections.jpg`` and ``run.json`` (what the report says of how the run was
      made);
    - at its end: ``model.pt`` (torchvision's ``state_dict``, on the CPU) and ``report.html``.

    ``validate`` and ``test`` write their numbers, predictions, ids and picture to a folder of that name inside it, the
    path of the ``checkpoint`` among the numbers.
    Every file is written under a temporary name and moved into place.
    """

    def __init__(
        self, run_dir: Path, command: str, config_text: str, seed: str, measured: dict[str, int | str]
    ) -> None:
        """Remember where to write.

        Args:
            run_dir: the run's folder.
            command: how the run was started, for the report.
            config_text: the resolved config.
            seed: of the run, for the report.
            measured: outside of fits, for ``metrics.json``: ``epoch`` and ``step`` of the weights, and their file.
        """
        self.run_dir = run_dir
        self.command = command
        self.config_text = config_text
        self.seed = seed
        self.measured = measured
        self._commands: list[tuple[int, str]] = []  # by the step from which on each has trained
        self._start = time.time()
        self._seconds_before = 0.0  # of the run, in processes before this one
        self._trained = False
        self._samples: list[Image.Image] = []
        self._first_start = True  # a run that goes on keeps the picture of its beginning

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Say what the run reads, and warn of what of that can hardly be meant."""
        if trainer.is_global_zero:
            tell(f"Data: {data_of(trainer).described(stage)}")
            for doubt in data_of(trainer).doubts(stage):
                _LOGGER.warning("%s", doubt)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start = time.time() - self._seconds_before
        self._first_start = not (self.run_dir / SAMPLES).exists()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """There is something to train, or a finished run would keep its files: save the config and what labels mean."""
        self._trained = True
        if not self._commands or _words(self._commands[-1][1]) != _words(self.command):
            self._commands.append((trainer.global_step, self.command))
        if trainer.is_global_zero:
            write_text(self.run_dir / "config.yaml", self.config_text)
            write_text(self.run_dir / CLASSES_FILE, json.dumps(_classes(data_of(trainer)), indent=2) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """The commands that have trained the run, and how long it has taken, for the checkpoint."""
        return {"commands": self._commands, "seconds": time.time() - self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the run that the checkpoint is of."""
        self._commands, self._seconds_before = list(state_dict["commands"]), state_dict["seconds"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw the first training images as the model gets them."""
        if trainer.is_global_zero and len(self._samples) < _PICTURES and self._first_start:
            names, edges = data_of(trainer).class_names, data_of(trainer).edges
            samples = list(zip(*batch, strict=True))[: _PICTURES - len(self._samples)]
            for number, (image, target) in enumerate(samples, start=len(self._samples) + 1):
                self._samples.append(draw_boxes(image, _on_cpu(target), names, max_side=SHOWN, edges=edges))
                write_sample(self.run_dir / SAMPLES, number, self._samples[-1], target, names)
            if len(self._samples) == _PICTURES:
                self._show(trainer, SAMPLES, image_grid(self._samples))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the numbers and the predictions."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            folder = self.run_dir if trainer.state.fn == "fit" else self.run_dir / "validate"
            module = _module(pl_module)
            self._write_evaluation(trainer, module, folder, "val")
            if trainer.state.fn == "fit" and module.evaluation is not None:
                tell(_in_a_line(trainer, module.evaluation))
                write_facts(folder, self._summary(trainer, module), machine(), module.evaluation)

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
        save_whole(self.run_dir / "model.pt", weights)
        if self._samples and len(self._samples) < _PICTURES:
            self._show(trainer, SAMPLES, image_grid(self._samples))
        if module.evaluation is not None:
            write_facts(self.run_dir, self._summary(trainer, module), machine(), module.evaluation)
            tell("Writing report.html")
            write_run_report(self.run_dir, data_of(trainer), module.evaluation, read_results(self.run_dir))

    def _write_evaluation(self, trainer: L.Trainer, module: DetectionModule, folder: Path, stage: Evaluated) -> None:
        assert module.evaluation is not None
        evaluation = module.evaluation
        progress = self.measured or {"epoch": trainer.current_epoch, "step": trainer.global_step}
        metrics = evaluation.metrics() | evaluation.losses | {"images": evaluation.measured} | progress
        write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        _write_ids(folder / IMAGES_FILE, data_of(trainer), stage)
        content = msgspec.json.encode(module.predictions)  # none is NaN, or they could not have been measured
        write_whole(folder / PREDICTIONS_FILE, lambda path: path.write_bytes(content))
        title = f"Detections with a score of {MIN_SCORE:g} or more"
        grid = image_grid(self._detections(trainer, module, stage), title=title)
        write_whole(folder / "detections.jpg", lambda path: grid.save(path, format="JPEG", quality=90))
        self._show(trainer, "detections", grid)

    def _detections(self, trainer: L.Trainer, module: DetectionModule, stage: Evaluated) -> list[Image.Image]:
        assert module.evaluation is not None
        data = data_of(trainer)
        dataset = data.evaluated_set(stage)
        found = [row for row in module.predictions if row["score"] >= MIN_SCORE]
        pictures = []
        for index in range(min(_PICTURES, module.evaluation.measured)):
            image, target = dataset[index]
            rows = [row for row in found if row["image_id"] == target["image_id"]]
            shown = as_detections(rows, data.category_ids, image_size(image))
            pictures.append(draw_boxes(image, shown, data.class_names, max_side=SHOWN, edges=data.edges))
        return pictures

    def _show(self, trainer: L.Trainer, name: str, grid: Image.Image) -> None:
        for logger in trainer.loggers:
            log_picture(logger, name, grid, trainer.global_step)

    def _summary(self, trainer: L.Trainer, module: DetectionModule) -> dict[str, str]:
        seconds = round(time.time() - self._start)
        return {
            "Command": "; ".join(f"from step {step} on: {text}" if step else text for step, text in self._commands),
            "Data": data_of(trainer).described("fit") + ("" if module.evaluation is None else module.evaluation.part()),
            "Detector": f"{module.detector_name}, starting from {module.weights or 'nothing'}",
            "Mixing": "; ".join(mixing_of(data_of(trainer), module, callbacks_of(trainer))) or "none",
            "Objective": f"{module.objective}, normalizer {module.normalizer}",
            **_measure_of_keypoints(data_of(trainer), module),
            "Epochs": f"{trainer.current_epoch} ({trainer.global_step} steps)",
            "Duration": f"{seconds // 60} min {seconds % 60} s",
            "Seed": self.seed,
        } | _skipped(trainer)


def _classes(data: DetectionData) -> list[dict[str, Any]]:
    """COCO's ``categories`` in the order of the labels, with their keypoints where the data has some."""
    points = {} if data.skeleton is None else data.skeleton.of_category()
    return [row | points for row in categories(data.class_names, data.category_ids)]


def _in_a_line(trainer: L.Trainer, evaluation: Evaluation) -> str:
    """A validation within a fit, for the log of a job that nobody watches."""
    found = evaluation.summary()
    place = f"Epoch {trainer.current_epoch}, step {trainer.global_step}"
    others = "".join(f", AP of {what} {number_text(value)}" for what, value in evaluation.ap_of_parts().items())
    return f"{place}: AP {number_text(found['AP'])}, AP50 {number_text(found['AP50'])}{others}{evaluation.part()}"


def _words(command: str) -> list[str]:
    """What of a command tells of settings."""
    return [word for word in command.split() if word not in ("--resume", "--resume=true")]


def _measure_of_keypoints(data: DetectionData, module: DetectionModule) -> dict[str, str]:
    """The constants of the measure of keypoints, without which it cannot be repeated."""
    if data.oks_sigmas is None or not module.measures_keypoints:
        return {}
    return {"OKS sigmas": ", ".join(f"{sigma:g}" for sigma in data.oks_sigmas)}


def _skipped(trainer: L.Trainer) -> dict[str, str]:
    """How many training images were skipped, if that may be."""
    if data_of(trainer).on_error == "raise":
        return {}
    count = sum(len(callback.files) for callback in callbacks_of(trainer) if isinstance(callback, SkippedImages))
    return {"Skipped images": f"{count} of {len(data_of(trainer).train_set)}"}


def _on_cpu(target: Target) -> Target:
    return {key: value.cpu() if isinstance(value, Tensor) else value for key, value in target.items()}


def _module(module: L.LightningModule) -> DetectionModule:
    assert isinstance(module, DetectionModule)
    return module


def _write_ids(file: Path, data: DetectionData, stage: Evaluated) -> None:
    """Say which id is which image and class, where the images have names that tell them apart."""
    truth = data.ground_truth(stage)
    columns = (truth.image_ids.tolist(), truth.file_names, *truth.sizes.T.tolist())
    images = [dict(zip(("id", "file_name", "height", "width"), row, strict=True)) for row in zip(*columns, strict=True)]
    names = [plain_name(name) for name in truth.file_names]
    if all(names) and len(set(names)) == len(names):
        write_text(file, json.dumps(stated_ids(images, data.class_names, data.category_ids)))
    else:
        file.unlink(missing_ok=True)  # of other data that was evaluated before
