"""How entangled the classes are at each layer of a detector: the soft nearest neighbour loss of its objects' features.

Letters: N objects of all images, D features of an object, K classes with background, L layers; B images
of a batch, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..arguments import check_count
from ..detectors.modes import evaluating
from ..draws import ANALYSIS, generator_at
from ..targets import Target
from .features import box_features, check_layers
from .inference import OnStep, as_input, as_json, classes_of, device_of, names_of
from .neighbours import Temperature, check_temperature, choose_temperature, losses_at, squared_distances


@dataclass(frozen=True, eq=False)
class Entanglement:
    """Soft nearest neighbour loss by layer and class, in nats: low where the classes are well apart.

    Attributes:
        layers: names of the L layers; those of a module that gives several maps end with the map's: ``backbone.fpn:0``.
            Each is a layer to ask for again, or for ``ManifoldMixup`` to mix.
        class_names: K - 1 names; label l is ``class_names[l - 1]``.
        losses: (L,) float64, mean over all objects that have another one of their class.
        losses_by_class: (L, K - 1) float64, mean over a class's objects; NaN for a class with fewer than two.
        temperatures: (L,) float64, in squared units of the features.
        counts: (K - 1,) int64, objects by class.
        left_out: objects that are the only one of their class. They have no loss, having no neighbour to be
            close to, but stay neighbours of the others.
        uninformed: what the loss would be if all objects were equally far from each other.
        uninformed_by_class: (K - 1,) float64, the same by class: the more objects of it, the lower; NaN as above.
    """

    layers: tuple[str, ...]
    class_names: tuple[str, ...]
    losses: NDArray[np.float64]
    losses_by_class: NDArray[np.float64]
    temperatures: NDArray[np.float64]
    counts: NDArray[np.int64]
    left_out: int
    uninformed: float
    uninformed_by_class: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        """All numbers as lists, ready for ``json.dump``; NaN becomes None."""
        return {name: as_json(value) for name, value in asdict(self).items()}


def entanglement(
    model: nn.Module,
    dataset: Any,
    layers: Sequence[str],
    *,
    temperature: Temperature = "optimised",
    max_objects: int = 1000,
    grid: int = 1,
    class_names: Sequence[str] | None = None,
    batch_size: int = 4,
    device: torch.device | str | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Entanglement:
    """Measure how well the features of ground-truth boxes tell the classes apart, layer by layer.

    The image goes through the detector's own resize and backbone, in evaluation mode. Each ground-truth box
    is cut out of a layer's map by RoIAlign and averaged over ``grid`` x ``grid`` cells; the map's pixels are
    taken to cover the batch's picture evenly.

    Args:
        model: a detector of torchvision's, or one with its ``transform`` and ``backbone``.
        dataset: map-style, of (image, target) samples, not mixed, with ``boxes`` and ``labels``.
        layers: ``"input"``, the resized and normalised image; dotted names of modules in the backbone, such
            as ``backbone.body.layer2`` or ``backbone.fpn``, of which each level becomes a layer of its own, or
            some of these by their keys, ``backbone.fpn:0,pool``; ``"roi"``, the box head's output on the
            ground-truth boxes, for R-CNN detectors. A module that is called several times in one pass counts with
            its last output.
        temperature: T of the loss. ``"optimised"`` takes at each layer the T of the lowest mean loss, as the paper
            does, so that layers compare whatever the scale and number of their features; it looks at 2**(k/2) times
            the median squared distance of two objects, k from -24 to 12, where the paper descends a gradient.
            ``"median"`` takes that median, which is quicker, and in which many features look alike. A number is
            used at every layer.
        max_objects: at most so many objects, of images taken in random order.
        grid: cells a side; 1 averages over the whole box (D is C), more keep its layout (D is C * grid**2).
        class_names: names of the labels 1 ... K-1; the data set's own ``class_names`` unless given.
        batch_size: images in one pass. Images of unequal size are padded to the largest, which borders can feel.
        device: where the model is; where its parameters are unless given.
        seed: of the order of the images.
        on_step: called with the objects done and their number at most, after each pass.

    Raises:
        ValueError: there is no such layer (near ones are named), its output lacks a key or is no map, features are
            not finite, no class has two objects, or a number is out of its range.
        TypeError: the model has no transform and backbone, a layer returns something else than tensors, or
            max_objects, grid or batch_size is not an integer.

    Source: Frosst, Papernot, Hinton, Analyzing and Improving Representations with the Soft Nearest Neighbor
    Loss, arXiv:1902.01889.
    """
    max_objects = check_count("max_objects", max_objects, least=1)
    grid, batch_size = check_count("grid", grid, least=1), check_count("batch_size", batch_size, least=1)
    check_temperature(temperature)
    check_layers(model, layers)
    names = names_of(dataset, class_names)
    place = device_of(model) if device is None else torch.device(device)
    labels: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {}
    done = 0
    with torch.no_grad(), evaluating(model):
        for batch in _batches(dataset, max_objects, batch_size, seed):
            images = [as_input(image, place) for image, _ in batch]
            pooled = box_features(model, images, [target["boxes"].to(place) for _, target in batch], layers, grid)
            labels += [target["labels"].cpu() for _, target in batch]
            for name, rows in pooled.items():
                parts.setdefault(name, []).append(rows.cpu())
            done += sum(len(target["labels"]) for _, target in batch)
            if on_step is not None:
                on_step(done, max_objects)
    classes = classes_of(torch.cat(labels) if labels else torch.zeros(0, dtype=torch.int64), names)
    return _measure({name: torch.cat(rows) for name, rows in parts.items()}, classes, names, temperature)


def _batches(dataset: Any, max_objects: int, batch_size: int, seed: int) -> Iterator[list[tuple[Any, Target]]]:
    """Samples with objects in random order, until there are enough objects; the last may lose some."""
    batch: list[tuple[Any, Target]] = []
    left = max_objects
    for index in generator_at(seed, 0, 0, ANALYSIS + 1).permutation(len(dataset)):
        image, target = dataset[int(index)]
        kept = {key: target[key].as_subclass(Tensor)[:left] for key in ("boxes", "labels")}
        if len(kept["labels"]):
            batch.append((image, kept))
            left -= len(kept["labels"])
        if len(batch) == batch_size or left == 0:
            yield batch
            batch = []
        if left == 0:
            return
    if batch:
        yield batch


def _measure(
    features: dict[str, Tensor], classes: NDArray[np.int64], names: tuple[str, ...], temperature: Temperature
) -> Entanglement:
    counts = np.bincount(classes, minlength=len(names))
    if not (counts >= 2).any():
        raise ValueError(f"a class with two objects or more is needed, got {dict(zip(names, counts, strict=True))}")
    labels = torch.from_numpy(classes)
    losses, chosen = [], []
    for layer, rows in features.items():
        if not rows.isfinite().all():
            raise ValueError(f"the features of layer {layer!r} are not finite")
        distances = squared_distances(rows)
        chosen.append(choose_temperature(distances, labels, temperature))
        losses.append(losses_at(distances, labels, chosen[-1]).numpy())
    by_class = [_by_class(loss, classes, len(names)) for loss in losses]
    uninformed = losses_at(torch.zeros(len(classes), len(classes), dtype=torch.float64), labels, 1.0).numpy()
    return Entanglement(
        layers=tuple(features),
        class_names=names,
        losses=np.array([np.nanmean(loss) for loss in losses]),
        losses_by_class=np.array(by_class),
        temperatures=np.array(chosen),
        counts=counts,
        left_out=int((counts == 1).sum()),
        uninformed=float(np.nanmean(uninformed)),
        uninformed_by_class=np.array(_by_class(uninformed, classes, len(names))),
    )


def _by_class(losses: NDArray[np.float64], classes: NDArray[np.int64], count: int) -> list[float]:
    """The mean of the losses of each class's objects; NaN where it has none."""
    of_classes = [losses[classes == row] for row in range(count)]
    return [float(of_class.mean()) if len(of_class) else float("nan") for of_class in of_classes]
