"""The Lightning module: a torchvision detector with weighted losses, and its COCO and VOC evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BaseFinetuning, StochasticWeightAveraging, Timer, WeightAveraging
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..detectors import Objective, keep_boxes_exact, weight_losses
from ..losses import Normalizer
from ..manifold import ManifoldMixup
from ..targets import Target
from ..terminal import tell
from .checkpoints import require_same_classes, require_same_tensors
from .data import DetectionData, Evaluated, data_of
from .evaluation import Evaluation, evaluate
from .loadable import require_loadable, require_resumable
from .logged_values import feature_numbers, mixing_numbers, total_and_terms
from .mixing import ManifoldOptions, mix_features
from .models import COCO_KEYPOINTS, Weights, build_detector, learns_keypoints, learns_masks, weights_shape_the_model
from .optimization import OptimizerName, Schedule, change_settings, check_warm_up, lr_factor, make_optimizer
from .schedule import MixupSchedule
from .visits import Visit, gather, mean_losses, visit_images

Batch = tuple[Sequence[Tensor], Sequence[Target]]

_MANY = 100_000  # detections: measuring them takes seconds
_CHANGES_IT = (BaseFinetuning, StochasticWeightAveraging)  # the optimizer or its schedule, during the run


class DetectionModule(L.LightningModule):
    """Trains a torchvision detector on batches of (images, targets) and evaluates it."""

    def __init__(
        self,
        detector: str = "fasterrcnn_resnet50_fpn",
        *,
        weights: Weights | None = "backbone",
        num_classes: int | None = None,
        objective: Objective = "weighted",
        normalizer: Normalizer = "count",
        optimizer: OptimizerName = "sgd",
        lr: float = 0.0025,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        schedule: Schedule = "cosine",
        milestones: tuple[float, ...] = (0.67, 0.92),
        warmup_steps: int = 500,
        options: dict[str, Any] | None = None,
        manifold: ManifoldOptions | None = None,
        channels_last: bool | None = None,
        compile: str | None = None,
    ) -> None:
        """Keep the settings; the detector is built when the data is known.

        Args:
            detector: one of torchvision's detection builders: ``fasterrcnn_resnet50_fpn``,
                ``fasterrcnn_resnet50_fpn_v2``, ``fasterrcnn_mobilenet_v3_large_fpn``,
                ``fasterrcnn_mobilenet_v3_large_320_fpn``, ``retinanet_resnet50_fpn``,
                ``retinanet_resnet50_fpn_v2``, ``fcos_resnet50_fpn``, ``ssd300_vgg16``,
                ``ssdlite320_mobilenet_v3_large``; with ``data.masks``, ``maskrcnn_resnet50_fpn`` and
                ``maskrcnn_resnet50_fpn_v2``; with ``data.keypoints``, ``keypointrcnn_resnet50_fpn``; or one that a CPU
                can train: ``fasterrcnn_resnet18_small`` and, with ``data.masks``, ``maskrcnn_resnet18_small``, with
                ``data.keypoints``, ``keypointrcnn_resnet18_small``.
            weights: where to start: ``backbone`` (torchvision's ImageNet backbone), ``coco`` (its detector
                trained on COCO, but for the last layers whose outputs are by class: in Faster, Mask and Keypoint R-CNN
                those of the boxes, and of the masks, too; and that of the keypoints unless there are 17), or null, from
                nothing.
            num_classes: background included. It comes from the data; a number here is checked against it.
            objective: what an object of a blended image counts: ``weighted`` multiplies its losses by its
                visible share; ``pair`` matches each of the two images on its own, and lets every row learn
                both by their shares; ``unweighted`` ignores the shares.
            normalizer: ``count`` divides by the number of rows as torchvision does, ``weight`` by the sum of
                their weights. RESULTS.md compares the two on made-up scenes.
            optimizer: ``sgd``, which torchvision's published schedules use, or ``adamw``, which learns faster
                from nothing.
            lr: learning rate after the warm-up, for the whole batch of all devices. torchvision trains on COCO with SGD
                at 0.02 for 16 images a step, which is 0.00125 for each: 0.0025 for a batch of 2, n times that on n
                devices.
            momentum: of SGD.
            weight_decay: of either; 0.05 suits AdamW.
            schedule: of the learning rate after the warm-up: ``cosine`` to zero, ``multistep`` (a tenth at
                each milestone), or ``constant``.
            milestones: of ``multistep``, as shares of all steps.
            warmup_steps: steps in which the learning rate grows from nothing; a fifth of all steps at most, or the
                run says so.
            options: keyword arguments for the torchvision builder, such as min_size and max_size (which SSD
                and SSDlite do not have: their image size is fixed) or trainable_backbone_layers.
            manifold: how features are mixed in training; null does not mix them. It is off in the last
                ``data.mixup.no_mixup_epochs``. What it draws is logged: ``train/lambda`` is then its ratio, and
                ``train/layer`` the place of the layer in the list, from 0.
            channels_last: keep images and features in memory pixel by pixel, as a GPU's half-precision
                convolutions want them; null does so on a GPU.
            compile: a backend of ``torch.compile`` for the backbone, such as ``inductor``; null does not compile.

        Raises:
            ValueError: torch has no such backend; or a number is negative, or lr is not above 0.
        """
        super().__init__()
        _check_backend(compile)
        if not (lr > 0 and math.isfinite(lr)):
            raise ValueError(f"model.lr must be a finite number above 0, got {lr}")
        for name, number in {"momentum": momentum, "weight_decay": weight_decay, "warmup_steps": warmup_steps}.items():
            if not (number >= 0 and math.isfinite(number)):
                raise ValueError(f"model.{name} must be a finite number of 0 or more, got {number}")
        self.detector_name = detector
        self.weights = weights
        self.num_classes = num_classes
        self.objective = objective
        self.normalizer = normalizer
        self.optimizer_name = optimizer
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.milestones = milestones
        self.warmup_steps = warmup_steps
        self.options = options or {}
        self.manifold = manifold
        self.channels_last = channels_last
        self.compile_backend = compile
        self.mixer: ManifoldMixup | None = None
        self._restored = False  # from a checkpoint, and not yet trained
        self.detector: nn.Module | None = None
        self.class_names: tuple[str, ...] | None = None  # that it was built for, without background
        self._num_keypoints: int | None = None  # of each object, for which it was built, if it learns them
        self.evaluation: Evaluation | None = None
        self.predictions: list[dict[str, Any]] = []  # COCO results of a pass, until its end
        self._visits: dict[int, Visit] = {}
        self._hooks: list[RemovableHandle] = []

    @property
    def mixes(self) -> bool:
        """Whether features are mixed at all."""
        return self.manifold is not None and self.manifold.mixes

    def setup(self, stage: str) -> None:
        """Build the detector for the classes of the data, as the device wants it.

        Raises:
            RuntimeError: a callback averages weights, and has copied the module without them.
            ValueError: the data does not suit the detector; see ``check_data`` and ``build``.
        """
        if stage == "fit" and self.detector is None and _averages(self.trainer):
            raise RuntimeError(
                "weights are averaged of a detector that is there when the trainer starts: call "
                "module.build('fit', data.class_names, data.num_keypoints) before Trainer.fit, as tools/train.py does"
            )
        self.teardown(stage)  # Lightning leaves that out after an error
        data = data_of(self.trainer)
        self.check_data(data)
        self.build(stage, data.class_names, data.num_keypoints)
        assert self.detector is not None
        self._hooks = keep_boxes_exact(self.detector)
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        if on_gpu if self.channels_last is None else self.channels_last:
            self.detector.to(memory_format=torch.channels_last)
        if self.compile_backend is not None:
            self.detector.get_submodule("backbone").compile(backend=self.compile_backend)  # names of parameters stay

    @property
    def measures_masks(self) -> bool:
        """Whether the detector learns from masks, and gives some."""
        return learns_masks(self.detector_name)

    @property
    def measures_keypoints(self) -> bool:
        """Whether the detector learns from keypoints, and gives some."""
        return learns_keypoints(self.detector_name)

    def check_data(self, data: DetectionData) -> None:
        """Refuse data without the masks or the keypoints that the detector learns from.

        Raises:
            ValueError: so it is; the message says what to pass.
        """
        if self.measures_masks and not data.masks:
            raise ValueError(
                f"{self.detector_name} learns from masks, and the data has none: pass --data.masks true, which COCO "
                "files and made-up shapes take"
            )
        if self.measures_keypoints and not data.keypoints:
            raise ValueError(
                f"{self.detector_name} learns from keypoints, and the data has none: pass --data.keypoints true, which "
                "COCO files and made-up shapes take"
            )

    def teardown(self, stage: str) -> None:
        """Remove what computes in float32 under autocast, so that the detector can be scripted."""
        while self._hooks:
            self._hooks.pop().remove()

    def build(self, stage: str, names: Sequence[str], num_keypoints: int | None = None) -> None:
        """Build the detector, unless it is there already, of the same classes.

        Args:
            stage: ``fit``; or ``validate`` or ``test``, whose checkpoint brings the weights.
            names: the classes, without background.
            num_keypoints: of each object, for a detector that learns them: those of the data, where it has some.

        Raises:
            ValueError: ``num_classes`` or the detector that is there disagrees with the classes, ``num_keypoints`` with
                that option, or a setting of the detector or of the mixing of its features is wrong.
            TypeError: its losses cannot be weighted.
            RuntimeError: the weights to start from could not be downloaded.
        """
        if self.num_classes not in (None, len(names) + 1):
            raise ValueError(
                f"model.num_classes is {self.num_classes}, but the data has {len(names)} classes and background, "
                f"{len(names) + 1} in all: {', '.join(names)}. Leave it out and it comes from the data"
            )
        if self.class_names not in (None, tuple(names)):
            raise ValueError(
                f"the detector was built for the classes {', '.join(self.class_names or ())}, and this data has "
                f"{', '.join(names)}. Make another DetectionModule for it"
            )
        if self._num_keypoints is not None and num_keypoints not in (None, self._num_keypoints):
            raise ValueError(
                f"the detector was built for {self._num_keypoints} keypoints, and this data has {num_keypoints}. Make "
                "another DetectionModule for it"
            )
        if self.detector is None:
            started_from = weights_shape_the_model(self.detector_name, self.weights)
            weights = self.weights if stage == "fit" or started_from else None
            options = self.options | self._keypoint_options(num_keypoints)
            self._num_keypoints = options.get("num_keypoints", COCO_KEYPOINTS) if self.measures_keypoints else None
            model = build_detector(self.detector_name, len(names) + 1, weights, **options)
            model = weight_losses(model, self.objective, self.normalizer)
            self.mixer = None if self.manifold is None else mix_features(model, self.manifold)
            self.detector, self.class_names = model, tuple(names)

    def _keypoint_options(self, count: int | None) -> dict[str, int]:
        stated = self.options.get("num_keypoints", count)
        if not self.measures_keypoints or count is None:
            return {}
        if stated != count:
            raise ValueError(
                f"model.options.num_keypoints is {stated}, but each object of the data has {count} keypoints. Leave it "
                "out and it comes from the data"
            )
        return {"num_keypoints": count}

    def on_fit_start(self) -> None:
        """Let the mixing of features draw from the seed of the mixing."""
        if self.mixer is not None:
            self.mixer.seed = data_of(self.trainer).mixing_seed

    def configure_callbacks(self) -> list[L.Callback]:
        """What every training needs, whatever the trainer."""
        return [MixupSchedule()]

    def on_train_start(self) -> None:
        """Let this run's settings of the optimizer hold where a checkpoint has brought others."""
        if self._restored and self._knows_its_optimizer(self.trainer):
            scheduler = self.trainer.lr_scheduler_configs[0].scheduler
            change_settings(self.trainer.optimizers[0], scheduler, **self._settings())
        self._restored = False

    def _knows_its_optimizer(self, trainer: Any) -> bool:
        """Whether the optimizer of a run is the one of this class, over all parameters as one group."""
        own = type(self).configure_optimizers is DetectionModule.configure_optimizers
        return own and not any(isinstance(callback, _CHANGES_IT) for callback in trainer.callbacks)

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detections of a list of (3, H, W) float images in [0, 1], as torchvision's detectors give them."""
        assert self.detector is not None
        return self.detector(list(images))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the detector's losses on one batch."""
        assert self.detector is not None
        images, targets = batch
        mixer = self.mixer if data_of(self.trainer).in_mixed_epoch else None
        losses: dict[str, Tensor] = (mixer or self.detector)(list(images), list(targets))
        terms: dict[str, Any] = {f"train/{name}": loss for name, loss in total_and_terms(losses).items()}
        # numbers of the host stay there: a copy to a GPU would wait for it
        numbers = {n: torch.tensor(value) for n, value in (mixing_numbers(targets) | feature_numbers(mixer)).items()}
        self.log_dict(terms | numbers, batch_size=len(images))
        return terms["train/loss"]

    def on_validation_epoch_start(self) -> None:
        """Forget what the pass before has detected, which may have been broken off."""
        self._visits, self.predictions = {}, []

    on_test_epoch_start = on_validation_epoch_start
    on_validation_end = on_test_end = on_validation_epoch_start  # callbacks have had it by then

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect what was detected and lost on each image of a batch."""
        assert self.detector is not None
        self._visits |= visit_images(self.detector, *batch, data_of(self.trainer).category_ids)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Evaluate what was detected, by the rules of COCO and of VOC, and log it with the losses."""
        if not self.trainer.sanity_checking:
            self._evaluate("val")

    def on_test_epoch_end(self) -> None:
        """Evaluate what was detected, by the rules of COCO and of VOC, and log it with the losses."""
        self._evaluate("test")

    def require_own(self, checkpoint: dict[str, Any], path: Path, trainer: L.Trainer, stage: str) -> None:
        """Refuse a checkpoint of another model, or one that would not load, before anything is written.

        Args:
            checkpoint: as it was read.
            path: where it comes from, for the message.
            trainer: that of the run.
            stage: ``fit``, which goes on from all of it; or ``validate`` or ``test``.

        Raises:
            ValueError: its classes, tensors or optimizer are not those of this model, both sides are named; or a part
                of it is missing or of another kind.
        """
        self._require_own_classes(checkpoint, path)
        require_same_tensors(path, checkpoint["state_dict"], self)
        require_loadable(checkpoint, path, trainer, self)
        if self.mixer is not None and not _is_step(checkpoint.get("manifold", {"step": 0})):
            raise ValueError(f"{path}: no checkpoint to go on from: manifold holds no step")
        if stage != "fit":
            return
        optimizer = checkpoint.get("optimizer", self.optimizer_name)
        if optimizer != self.optimizer_name:
            raise ValueError(
                f"{path}: trained with --model.optimizer {optimizer}, and this run is to go on with "
                f"{self.optimizer_name}; its state would not fit"
            )
        require_resumable(checkpoint, path, trainer, self._optimizer() if self._knows_its_optimizer(trainer) else None)

    def _require_own_classes(self, checkpoint: dict[str, Any], source: Path | str) -> None:
        if self.class_names is not None:
            require_same_classes(source, checkpoint.get("class_names"), self.class_names)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the classes, the name of the optimizer, and the step that the mixing of features draws next."""
        checkpoint["optimizer"] = self.optimizer_name
        if self.class_names is not None:
            checkpoint["class_names"] = list(self.class_names)
        if self.mixer is not None:
            checkpoint["manifold"] = self.mixer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on drawing where the checkpoint was written.

        Raises:
            ValueError: the checkpoint is of other classes, or of another order of them.
        """
        self._require_own_classes(checkpoint, "the checkpoint")
        self._restored = True
        if self.mixer is not None and "manifold" in checkpoint:
            self.mixer.load_state_dict(checkpoint["manifold"])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer chosen, with warm-up and schedule."""
        optimizer = self._optimizer()
        steps = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            return lr_factor(self.schedule, step, steps, warmup_steps=self.warmup_steps, milestones=self.milestones)

        check_warm_up(self.warmup_steps, steps, factor)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def check_schedule(self, trainer: L.Trainer) -> None:
        """Refuse a schedule over all steps for a training without an end.

        Raises:
            ValueError: neither epochs nor steps are limited (time may be), and the schedule is not ``constant``.
        """
        if _never_ends(trainer) and self.schedule != "constant":
            raise ValueError(
                f"--model.schedule {self.schedule} goes over all steps of a training: set --trainer.max_epochs or "
                "--trainer.max_steps, or --model.schedule constant; --trainer.max_time does not tell how many there are"
            )

    def _optimizer(self) -> torch.optim.Optimizer:
        return make_optimizer(self.optimizer_name, self.parameters(), **self._settings())

    def _settings(self) -> dict[str, float]:
        return {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}

    def _evaluate(self, stage: Evaluated) -> None:
        visits = gather(self._visits)
        self.predictions = rows = [row for visit in visits.values() for row in visit.predictions]
        if self.trainer.is_global_zero and len(rows) >= _MANY:
            tell(f"Measuring {len(rows):,} detections of {len(visits):,} images.")
        data, losses = data_of(self.trainer), mean_losses([*visits.values()])
        self.evaluation = evaluate(
            data.ground_truth(stage),
            rows,
            visits.keys(),
            losses,
            masks=self.measures_masks,
            keypoints=self.measures_keypoints,
            sigmas=data.oks_sigmas,
        )
        numbers = self.evaluation.metrics() | self.evaluation.losses
        self.log_dict({f"{stage}/{name}": value for name, value in numbers.items()}, batch_size=1)


def _is_step(state: Any) -> bool:
    return isinstance(state, dict) and type(state.get("step")) is int and state["step"] >= 0


def _check_backend(name: str | None) -> None:
    known = [] if name is None else torch.compiler.list_backends(exclude_tags=())
    if name is not None and name not in known:
        raise ValueError(f"model.compile must be null or a backend of torch.compile: {', '.join(known)}; got {name!r}")


def _never_ends(trainer: Any) -> bool:
    """Whether neither epochs nor steps are limited: without a number of epochs Lightning takes 1000, unless time is."""
    timed = trainer.max_epochs is None and any(isinstance(callback, Timer) for callback in trainer.callbacks)
    return trainer.max_steps == -1 and (trainer.max_epochs == -1 or timed)


def _averages(trainer: Any) -> bool:
    return any(isinstance(callback, (WeightAveraging, StochasticWeightAveraging)) for callback in trainer.callbacks)
