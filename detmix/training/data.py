"""The Lightning data module: COCO, VOC or made-up shapes, mixed for training."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_dtype

from ..arguments import check_choice, check_count, check_integer
from ..batch import collate
from ..data import DetectionDataset
from ..data.augment import Augment
from ..data.dataset import OnError
from ..data.skeleton import Skeleton
from ..evaluation.reading import read_ground_truth
from ..evaluation.records import GroundTruth
from ..lookups import read_landscape
from ..seeding import SeededDataset
from .contents import Part, all_classes, described, doubts, unmeasured, unposed, unused
from .keypoints import check_wanted, mirrored_of, require_same, sigmas_of
from .loader import TrainingLoader, TrainingOrder
from .mixing import MixupOptions, mix_samples
from .signals import leave_signals_to_the_parent
from .splits import Format, ShapesOptions, Splits, require_first_image

Evaluated = Literal["val", "test"]  # splits


class DetectionData(L.LightningDataModule):
    """Training, validation and test data in COCO or VOC layout, or made-up shapes."""

    def __init__(
        self,
        format: Format = "shapes",
        *,
        root: str = "data",
        train: Sequence[str] | str = ("train",),
        val: str = "val",
        test: str = "test",
        annotations: str = "annotations/instances_{split}.json",
        images: str = "{split}",
        class_names: Sequence[str] | None = None,
        one_based: bool = True,
        masks: bool = False,
        keypoints: bool = False,
        keypoint_pairs: Sequence[tuple[str, str]] | None = None,
        oks_sigmas: Sequence[float] | None = None,
        empty_images: bool = True,
        shapes: ShapesOptions | None = None,
        mixup: MixupOptions | None = None,
        augment: list[v2.Transform] | None = None,
        batch_size: int = 2,
        aspect_ratio_grouping: bool = True,
        num_workers: int | None = None,
        on_error: OnError = "raise",
        reduce_to: int | None = None,
        seed: int = 0,
        run_seed: int = 0,
    ) -> None:
        """Read the annotations; images are read when a sample is asked for.

        Args:
            format: ``coco``, ``voc``, or ``shapes``, which needs no files.
            root: folder of the data set.
            train: name of the training split, or a list of them, which are joined. For VOC a split is an image set,
                such as ``train``, with the folder before it where the root holds several: ``VOC2007/trainval``.
            val: name of the validation split.
            test: name of the test split.
            annotations: COCO annotation file of a split, below the root; ``{split}`` stands for the split's name, as in
                ``{split}/_annotations.coco.json``.
            images: COCO image folder of a split, below the root; ``{split}`` stands for the split's name, and ``.``
                is the root itself.
            class_names: classes in the order of their labels. Unless given, they are those of the first training
                split, in alphabetical order (VOC) or in that of their ids (COCO), and after them those that objects of
                further training splits are of. A split may lack some of them; classes that are not among them may have
                no objects.
            one_based: VOC: corners count from 1, the last pixel included. False for the files of tools that write
                x, y, x + width, y + height from 0.
            masks: read the masks of objects too, which Mask R-CNN learns from; COCO files state them, and made-up
                scenes have them. A training object without one is left out, so what it shows is learnt as background;
                validation and test objects must have one each.
            keypoints: read the keypoints of objects too, which Keypoint R-CNN learns from; COCO files state them, and
                made-up scenes have some. All objects have as many. It needs torchvision 0.24 or newer.
            keypoint_pairs: names of keypoints that become each other where an image is mirrored, two by two, all that
                do; unless given, ``left`` and ``right`` in their names tell, as in ``left_eye`` and ``right_eye``.
            oks_sigmas: how far off each keypoint may lie, for COCO's measure of keypoints, a number above 0 for each;
                unless given, COCO's for 17 keypoints, otherwise 0.05 for each.
            empty_images: train on images without objects too, which teach what background is. False leaves them out, as
                torchvision's reference script does.
            shapes: settings of the made-up scenes.
            mixup: how training samples are mixed; null does not mix.
            augment: torchvision v2 transforms for each training image, before mixing; a horizontal flip
                half of the time unless given.
            batch_size: images in a batch of one device. The images that are left for the last training batch are
                fewer; a single one is left out, if there are others, since SSDlite cannot normalise it.
            aspect_ratio_grouping: training batches are of images that are all wider than high, or all not, as far as
                they go, since each is padded to the largest height and width in its batch. With the partner
                ``same_orientation`` that holds for mixed images too.
            num_workers: processes that load data; null takes up to 8 where a GPU trains, and none on a CPU,
                where they would take the cores from the training.
            on_error: what a training image that is missing, corrupt or of another size than annotated does: ``raise``
                ends the run; ``skip`` puts the next one in its place, and ``skipped_images.txt`` lists it. Validation
                and test images must be whole.
            reduce_to: given, training images that are JPEG files are decoded at a half, a quarter or an eighth of their
                size, as far as the shorter side keeps so many pixels; the detector's ``min_size`` is a good value.
            seed: of the made-up scenes; the mixing draws from this and ``run_seed`` together.
            run_seed: what order, augmentation and mixing of a run draw from; the scenes stay when it is changed. On the
                command line it is the number of ``--seed_everything``, and 0 under false.

        Raises:
            ValueError: the data is malformed, empty, or of other classes; the file is named. Or format or on_error is
                unknown, batch_size or reduce_to below 1, num_workers below 0, or an option of the mixing wrong. Or no
                training split is named; or ``one_based`` is false, and the data is not VOC; or VOC is to have masks or
                keypoints; or the keypoints differ from split to split, are not those that a setting is for, or are
                wanted of an older torchvision; or made-up scenes get settings of files.
            TypeError: a count or seed is not an integer, or class_names a text.
            FileNotFoundError: a file is missing.
        """
        super().__init__()
        check_choice("data.format", format, Format)
        if not one_based and format != "voc":
            raise ValueError(f"data.one_based=false says how VOC's corners count, and data.format is {format}")
        for what, wanted in {"masks": masks, "keypoints": keypoints}.items():
            if wanted and format == "voc":
                raise ValueError(f"data.{what}=true reads {what} from COCO files, and data.format is voc")
        check_wanted(keypoints, keypoint_pairs, oks_sigmas)
        batch_size = check_count("data.batch_size", batch_size, least=1)
        num_workers = None if num_workers is None else check_count("data.num_workers", num_workers)
        seed, run_seed = check_integer("data.seed", seed), check_integer("data.run_seed", run_seed)
        train = (train,) if isinstance(train, str) else tuple(train)
        named = {"root": root, "train": train, "val": val, "test": test, "annotations": annotations}
        if format == "shapes":
            reading = {"on_error": on_error, "reduce_to": reduce_to, "empty_images": empty_images}
            _refuse_files({**named, "images": images, "class_names": class_names, **reading})
        if not train:
            raise ValueError("data.train must have one name or more, got none")
        scenes = shapes or ShapesOptions()
        self._splits = Splits(
            format,
            Path(root),
            annotations,
            images,
            scenes,
            seed,
            on_error,
            reduce_to,
            one_based,
            masks,
            keypoints,
            empty_images,
        )
        self._names = {"val": val, "test": test}
        self.mixup = mixup
        self.masks = masks
        self.keypoints = keypoints
        self.batch_size = batch_size
        self.aspect_ratio_grouping = aspect_ratio_grouping
        self.num_workers = num_workers
        self.on_error: OnError = on_error
        self.seed = seed
        self.run_seed = run_seed
        self._threads_before: int | None = None
        self._evaluated: dict[str, Any] = {}
        self._truths: dict[str, GroundTruth] = {}
        self._train_names = train
        self._names_are_given = class_names is not None
        sources = [self._splits.open(split, "train", class_names) for split in train]
        self.class_names: tuple[str, ...] = tuple(class_names or all_classes(sources))
        self._sources = [
            source if source.class_names == self.class_names else self._splits.open(split, "train", self.class_names)
            for split, source in zip(train, sources, strict=True)
        ]
        self.skeleton: Skeleton | None = self._sources[0].skeleton
        self.oks_sigmas: list[float] | None = None
        self.mirrored: tuple[int, ...] | None = None
        if self.skeleton is not None:
            self.oks_sigmas = sigmas_of(self.skeleton, oks_sigmas)
            self.mirrored = mirrored_of(self.skeleton, keypoint_pairs)
        self.augment = Augment(augment, mirrored=self.mirrored)
        for source in self._sources:
            require_same(self.skeleton, source.skeleton, "data.train")
            source.transform = self.augment
        self.category_ids: tuple[int, ...] = self._sources[0].category_ids
        self.train_set = mix_samples(self._sources, self._mixing, self.mixing_seed)
        self.seeded_set = SeededDataset(self.train_set, seed=self.run_seed)
        self._landscape = read_landscape(self.train_set.dataset) if aspect_ratio_grouping else None
        self._order = self._training_order(0)

    @property
    def mixes(self) -> bool:
        """Whether training samples are mixed at all."""
        return self._mixing.mixes

    @property
    def mixing_seed(self) -> int:
        """What all mixing draws from: another for each run's seed, so that runs that differ in it are independent."""
        return self.seed + self.run_seed

    @property
    def num_keypoints(self) -> int | None:
        """P, how many keypoints each object has; None where they were not wanted."""
        return None if self.skeleton is None else len(self.skeleton.names)

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """The keypoints that a picture joins by lines, as pairs of their places."""
        return () if self.skeleton is None else self.skeleton.edges

    @property
    def in_mixed_epoch(self) -> bool:
        """Whether the epoch that was started last comes before the last ``no_mixup_epochs``."""
        return bool(self.train_set.enabled)

    @property
    def _mixing(self) -> MixupOptions:
        return self.mixup or MixupOptions(alpha=0.0)

    def skipped_images(self) -> list[str]:
        """The training images that this process and its workers could not read, under ``on_error="skip"``."""
        files = [s for s in self._sources if isinstance(s, DetectionDataset)]
        return [str(source.image_path(index)) for source in files for index in source.skipped]

    def evaluated_set(self, stage: Evaluated) -> Any:
        """The data set behind a stage, ``val`` or ``test``."""
        if stage not in self._evaluated:
            found = self._splits.open(self._names[stage], stage, self.class_names, self.category_ids)
            require_same(self.skeleton, found.skeleton, f"data.{stage}")
            self._evaluated[stage] = found
        return self._evaluated[stage]

    def ground_truth(self, stage: Evaluated) -> GroundTruth:
        """Ground truth of a stage, ``val`` or ``test``, with the masks and keypoints that the data has, read once."""
        if stage not in self._truths:
            self._truths[stage] = read_ground_truth(
                self.evaluated_set(stage).ground_truth(), masks=self.masks, keypoints=self.keypoints
            )
        return self._truths[stage]

    def setup(self, stage: str) -> None:
        """Open what the stage evaluates on, so that a mistake in it shows before the training.

        Raises:
            ValueError: that data is malformed, empty, or of other classes, or has masks or keypoints that cannot be
                measured; the file is named.
            FileNotFoundError: a file is missing, or the first image of a split that the stage reads.
        """
        if self.trainer is not None:
            self._share_cores()
        for part in self._parts(stage):
            if isinstance(part.source, DetectionDataset) and (stage == "fit" or part.stage != "train"):
                require_first_image(part.source, part.name)
            if isinstance(part.source, DetectionDataset) and part.stage != "train":
                _require_measurable(part)

    def described(self, stage: str) -> str:
        """One line on what a stage, ``fit``, ``validate`` or ``test``, reads, and the training data."""
        return described(self._splits.format, self._parts(stage), self.class_names, self.mirrored)

    def doubts(self, stage: str) -> list[str]:
        """What of that data can hardly be meant, each in a sentence: for warnings."""
        parts = self._parts(stage)
        asked = stage == "fit" and not self._names_are_given
        unlearnt = unused(parts, self.class_names) if asked else ()
        return [*doubts(parts), *unposed(parts), *unmeasured(parts, self.class_names), *unlearnt]

    def _parts(self, stage: str) -> list[Part]:
        evaluated: Evaluated = "test" if stage == "test" else "val"
        named = zip(self._train_names, self._sources, strict=True)
        return [
            *(Part("train", self._splits.file(name), source) for name, source in named),
            Part(evaluated, self._splits.file(self._names[evaluated]), self.evaluated_set(evaluated)),
        ]

    def check_schedule(self, max_epochs: int | None) -> None:
        """Refuse a ``no_mixup_epochs`` under which nothing would be mixed; see ``MixupOptions``."""
        self._mixing.check_schedule(max_epochs)

    def start_epoch(self, epoch: int, max_epochs: int | None) -> None:
        """Tell the training set which epoch it is; mixing is off in the last ``no_mixup_epochs``."""
        unmixed = self._mixing.unmixed_epochs(max_epochs)
        self.seeded_set.set_epoch(epoch)
        self.seeded_set.enable(unmixed == 0 or max_epochs is None or epoch < max_epochs - unmixed)

    def order(self) -> dict[str, int]:
        """What the order of the training samples depends on, beside the epoch."""
        return {
            "seed": self.run_seed,
            "images": len(self.train_set),
            "batch size": self.batch_size,
            "processes": self._processes,
            "aspect ratio grouping": self.aspect_ratio_grouping,
        }

    def go_on(self, epoch: int, batches: int, order: dict[str, int], threads: int) -> None:
        """Begin an epoch after some of its batches, as a run does that was interrupted there.

        Args:
            epoch: which epoch.
            batches: how many of its batches each process has had.
            order: what ``order`` gave when they were counted. If it is another one now, the epoch is no longer the
                one that was interrupted; that is warned about.
            threads: with which a CPU computed: it takes as many again, as far as it may, whatever the number of workers
                now, since sums are rounded differently with another number.
        """
        if not self._on_gpu():
            torch.set_num_threads(min(threads, _cores(), _most_threads()))
        now = self.order()
        changed = [f"{name} was {order.get(name)} and is {now[name]}" for name in now if order.get(name) != now[name]]
        if changed and batches:
            rank_zero_warn(
                f"the checkpoint lies within epoch {epoch}, and what the order of that depends on has changed: "
                f"{', '.join(changed)}. The rest of this epoch will miss some images and see others twice"
            )
        if batches and self.train_set.cache:
            rank_zero_warn(
                f"the checkpoint lies within epoch {epoch}, and partners come from what each worker loaded before "
                f"(data.mixup.cache={self.train_set.cache}): the rest of this epoch is mixed with others"
            )
        self._order.skip(epoch, batches * self.batch_size)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, mixed batches, in an order that depends on what ``order`` tells, and on the epoch."""
        rank = 0 if self.trainer is None else self.trainer.global_rank
        self._order = self._training_order(rank)
        return self._loader(TrainingLoader, self.seeded_set, sampler=self._order, drop_last=self._leaves_one_over())

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation images as they are."""
        return self._loader(DataLoader, self.evaluated_set("val"))

    def test_dataloader(self) -> DataLoader[Any]:
        """Test images as they are."""
        return self._loader(DataLoader, self.evaluated_set("test"))

    def on_after_batch_transfer(self, batch: tuple[Any, Any], dataloader_idx: int) -> tuple[Any, Any]:
        """Make uint8 images float in [0, 1], on the device: a quarter of the bytes travel."""
        images, targets = batch
        return [to_dtype(image, torch.float32, scale=True) for image in images], targets

    def _training_order(self, rank: int) -> TrainingOrder:
        return TrainingOrder(
            self.seeded_set,
            processes=self._processes,
            rank=rank,
            seed=self.run_seed,
            batch_size=self.batch_size,
            landscape=self._landscape,
        )

    @property
    def _processes(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    def _leaves_one_over(self) -> bool:
        """Whether the last of a process's training batches would hold one image, and others more."""
        images = -(-len(self.train_set) // self._processes)  # the distributed sampler fills up to a multiple
        return images > self.batch_size > 1 and images % self.batch_size == 1

    def _loader(self, kind: type[DataLoader[Any]], dataset: Any, **options: Any) -> DataLoader[Any]:
        return kind(
            dataset,
            batch_size=self.batch_size,
            collate_fn=collate,
            generator=torch.Generator(),  # for the workers' seeds, which would come from the model's generator else
            num_workers=self._workers(),
            worker_init_fn=_start_worker,
            persistent_workers=self._workers() > 0,
            pin_memory=self._on_gpu(),
            **options,
        )

    def _on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return min(8, _cores()) if self._on_gpu() else 0

    def teardown(self, stage: str) -> None:
        """Give the process the threads of torch back that it had before."""
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None

    def on_exception(self, exception: BaseException) -> None:
        """Lightning tears nothing down then."""
        self.teardown("")

    def _share_cores(self) -> None:
        """On a CPU, threads and workers of all processes take the cores and no more, or a step takes far longer."""
        assert self.trainer is not None
        if not self._on_gpu():
            self._threads_before = self._threads_before or torch.get_num_threads()
            share = _cores() // self.trainer.num_devices - self._workers()
            torch.set_num_threads(max(1, min(share, _most_threads())))


def _refuse_files(settings: dict[str, Any]) -> None:
    """Made-up scenes have no files: who names some has left out the format."""
    defaults = inspect.signature(DetectionData).parameters
    given = [f"data.{name}" for name, value in settings.items() if value != defaults[name].default]
    if given:
        raise ValueError(f"{', '.join(given)}: made-up shapes have no files. Pass data.format, coco or voc")


def _require_measurable(part: Part) -> None:
    """Look at the masks and keypoints of a split now, and not when it is evaluated after an epoch.

    Raises:
        ValueError: a mask is malformed, or no object has a keypoint that is visible.
    """
    if part.visible_keypoints is False:
        raise ValueError(f"{part.name}: none of its objects has a visible keypoint, so keypoints cannot be measured")
    try:
        part.source.annotations.require_masks()
    except ValueError as error:
        raise ValueError(f"{part.name}: {error}") from error


def data_of(trainer: Any) -> DetectionData:
    """The data module that a trainer runs on; Lightning attaches it at run time."""
    return trainer.datamodule


def _start_worker(worker: int) -> None:
    """Workers stand beside each other: threads of their own would only take turns."""
    cv2.setNumThreads(0)
    leave_signals_to_the_parent()


def _most_threads() -> int:
    """What ``OMP_NUM_THREADS`` allows, which holds for torch's threads too; all cores where it is no number."""
    stated = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(stated) if stated.isdecimal() and int(stated) else _cores()


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
