"""The report of a run, from what lies in its folder and its validation data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from ..analysis import DetectionRates
from ..canvas import image_size
from ..data.masks import decode_masks
from ..evaluation import Fate, ImageMistakes, find_fates, find_mistakes
from ..evaluation.numbering import PREDICTIONS_FILE
from ..evaluation.reading import read_predictions
from ..evaluation.records import GroundTruth, of_images
from ..figures import draw_boxes, history_series
from ..figures.boxes import SHOWN
from ..files import write_whole
from ..targets import Target
from .data import DetectionData
from .evaluation import Evaluation, evaluate
from .files import read_history
from .report import Illustration, ImageResult, Report, write_report
from .trained import open_data

SAMPLES = "train_samples"
MIN_SCORE = 0.5  # of a detection that is drawn

_FACTS = "run.json"
_VISIBILITY = "visibility.json"
_WORST, _BEST = 10, 4
_LEGEND = {
    "found": "✓ and a whole line: found",
    "confused": "confused, long dashes: taken for another class",
    "missed": "missed, short dashes: no detection",
    "false": "false, short dashes: no object",
    "ignored": "ignored, dots: counts for nothing",
}


class _Facts(msgspec.Struct):
    """What else a report needs to know of a run."""

    summary: dict[str, str]
    environment: dict[str, str]
    images: list[int]  # ids of those that were validated on


class _Pictured(NamedTuple):
    """What the pictures of validation images are made of."""

    data: DetectionData
    annotations: dict[str, Any]  # COCO dict
    truth: GroundTruth
    predictions: list[dict[str, Any]]  # COCO results


def report_run(run_dir: Path) -> Path:
    """Write a run's ``report.html`` anew from its folder: after ``visibility.json`` came, or where a fit was cut off.

    Args:
        run_dir: the folder; its ``config.yaml`` must still find the data.

    Returns:
        The page.

    Raises:
        FileNotFoundError: a file of the run or of its data is missing.
        ValueError: one is damaged.
    """
    facts = _read_facts(run_dir)
    data = open_data(run_dir / "config.yaml")
    predictions = read_results(run_dir)
    try:
        evaluation = evaluate(
            data.ground_truth("val"),
            predictions,
            set(facts.images),
            {},
            masks=_all_have("segmentation", predictions),
            keypoints=_all_have("keypoints", predictions),
            sigmas=data.oks_sigmas,
        )
    except ValueError as error:
        raise ValueError(f"{run_dir / PREDICTIONS_FILE}: {error}") from error
    return write_run_report(run_dir, data, evaluation, predictions)


def _all_have(key: str, predictions: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all of some predictions have a key; those of a detector of boxes have no other parts."""
    return bool(predictions) and all(key in row for row in predictions)


def write_facts(
    run_dir: Path, summary: Mapping[str, str], environment: Mapping[str, str], evaluation: Evaluation
) -> None:
    """Keep in ``run.json`` what a report says of how a run was made.

    Args:
        run_dir: the folder.
        summary: what was trained, by name.
        environment: versions and hardware, by name.
        evaluation: of the last validation.
    """
    images = evaluation.ground_truth.image_ids.tolist()
    facts = {"summary": dict(summary), "environment": dict(environment), "images": images}
    # a command may hold bytes that are no text
    content = json.dumps(facts, ensure_ascii=False).encode("utf-8", errors="replace")
    write_whole(run_dir / _FACTS, lambda path: path.write_bytes(content + b"\n"))


def write_run_report(
    run_dir: Path, data: DetectionData, evaluation: Evaluation, predictions: list[dict[str, Any]]
) -> Path:
    """Write a run's ``report.html``.

    Args:
        run_dir: the folder, which has ``run.json`` and ``config.yaml``, and may have ``train_samples/``, logs and
            ``visibility.json``, as ``tools/analyze.py visibility --json`` writes it.
        data: what the run was validated on.
        evaluation: of the last validation.
        predictions: COCO results, of the same validation.

    Returns:
        The page.
    """
    facts = _read_facts(run_dir)
    truth = evaluation.ground_truth
    found = read_predictions(predictions, truth, is_xywh=True)
    mistakes = find_mistakes(truth, found, min_score=MIN_SCORE)
    pictured = _Pictured(data, data.evaluated_set("val").ground_truth(), truth, predictions)
    report = Report(
        title=f"detmix: {run_dir.resolve().name}",
        summary=facts.summary,
        metrics=evaluation.summary(),
        per_class=evaluation.by_class(),
        curves=evaluation.coco.curves,
        mistakes=mistakes,
        worst=_image_results(mistakes.worst(_WORST), pictured),
        best=_image_results(mistakes.best(_BEST), pictured),
        history=history_series(read_history(run_dir)),
        samples=_read_samples(run_dir / SAMPLES),
        visibility=_read_visibility(run_dir / _VISIBILITY),
        config_text=(run_dir / "config.yaml").read_text("utf-8"),
        environment=facts.environment,
    )
    write_report(run_dir / "report.html", report)
    return run_dir / "report.html"


def write_sample(folder: Path, number: int, picture: Image.Image, target: Target, class_names: Sequence[str]) -> None:
    """Keep a picture of a training sample, with what is to be seen as its comment.

    Args:
        folder: of all samples.
        number: of this one, from 1.
        picture: the sample with its boxes.
        target: its boxes, in words.
        class_names: as in ``draw_boxes``.
    """
    words = f"Training sample {number}: {_made(target)}, with {_objects(target['labels'].tolist(), class_names)}"
    write_whole(folder / f"{number}.jpg", lambda path: picture.save(path, format="JPEG", quality=90, comment=words))


def as_detections(rows: Sequence[Mapping[str, Any]], category_ids: Sequence[int], size: tuple[int, int]) -> Target:
    """COCO results of one image as torchvision's detections.

    ``masks`` (N, H, W) uint8 and ``keypoints`` (N, P, 3) float32 are among them where all results have them.

    Args:
        rows: the results.
        category_ids: K-1 of them; ``category_ids[l - 1]`` becomes label l.
        size: (H, W) of the image in pixels.
    """
    scores = torch.tensor([row["score"] for row in rows], dtype=torch.float32)
    return {**_as_target(rows, category_ids, size), "scores": scores}


def _as_target(rows: Sequence[Mapping[str, Any]], category_ids: Sequence[int], size: tuple[int, int]) -> Target:
    label_of = {category: label for label, category in enumerate(category_ids, start=1)}
    xywh = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4)
    target: Target = {
        "boxes": box_convert(xywh, "xywh", "xyxy"),
        "labels": torch.tensor([label_of[row["category_id"]] for row in rows], dtype=torch.int64),
    }
    if _all_have("segmentation", rows):
        masks = [("mask", msgspec.json.encode(row["segmentation"])) for row in rows]
        target["masks"] = torch.from_numpy(decode_masks(masks, size))
    if _all_have("keypoints", rows):
        points = torch.tensor([row["keypoints"] for row in rows], dtype=torch.float32)
        target["keypoints"] = points.reshape(len(rows), -1, 3)
    return target


def _image_results(images: Sequence[ImageMistakes], pictured: _Pictured) -> list[ImageResult]:
    places = {image["id"]: place for place, image in enumerate(pictured.annotations["images"])}
    dataset = pictured.data.evaluated_set("val")
    return [_image_result(image, dataset[places[image.image_id]][0], pictured) for image in images]


def _image_result(image: ImageMistakes, pixels: Tensor, pictured: _Pictured) -> ImageResult:
    title, size, data = image.file_name or f"Image {image.image_id}", image_size(pixels), pictured.data
    objects = [row for row in pictured.annotations["annotations"] if row["image_id"] == image.image_id]
    rows = [row for row in pictured.predictions if row["image_id"] == image.image_id and row["score"] >= MIN_SCORE]
    truth = of_images(pictured.truth, {image.image_id})
    fates = find_fates(truth, read_predictions(rows, truth, is_xywh=True), min_score=MIN_SCORE)
    return ImageResult(
        title,
        f"Objects found: {image.found}, missed: {image.missed}, taken for another class: {image.confused}; "
        f"detections without an object: {image.false}.",
        _illustration(pixels, _as_target(objects, data.category_ids, size), data, fates.objects, title, "annotated"),
        _illustration(pixels, as_detections(rows, data.category_ids, size), data, fates.detections, title, "detected"),
    )


def _illustration(
    pixels: Tensor, target: Target, data: DetectionData, fates: Sequence[Fate], title: str, what: str
) -> Illustration:
    names = data.class_names
    alt = f"{title}, {what}: {_objects(target['labels'].tolist(), names)}"
    nothing = "no objects" if what == "annotated" else f"nothing has a score of {MIN_SCORE:g} or more"
    legend = "; ".join(words for fate, words in _LEGEND.items() if fate in fates) or nothing
    picture = draw_boxes(pixels, target, names, fates, max_side=SHOWN, edges=data.edges)
    return Illustration(picture, alt, f"{what.capitalize()}. {legend[0].upper()}{legend[1:]}.")


def _objects(labels: Sequence[int], class_names: Sequence[str]) -> str:
    """Labels in words: ``9 RBC, 1 WBC``."""
    counts = Counter(class_names[label - 1] for label in labels)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "no objects"


def _made(target: Target) -> str:
    if "lam" in target:
        return "two images blended"
    return "an image with a part cut out" if "covers" in target else "an image"


def _read_samples(folder: Path) -> list[Illustration]:
    files = sorted(folder.glob("*.jpg"), key=lambda file: (len(file.name), file.name))
    samples = []
    for file in files:
        with Image.open(file) as picture:
            words = picture.info.get("comment", b"Training sample").decode("utf-8", errors="replace")
            samples.append(Illustration(picture.copy(), words))
    return samples


def _read_visibility(file: Path) -> dict[str, DetectionRates]:
    if not file.is_file():
        return {}
    try:
        return {name: DetectionRates.from_json(rates) for name, rates in _read_json(file, dict[str, Any]).items()}
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def read_results(run_dir: Path) -> list[dict[str, Any]]:
    """The COCO results in a run's ``predictions.json``."""
    predictions: list[dict[str, Any]] = _read_json(run_dir / PREDICTIONS_FILE, list[dict[str, Any]])
    return predictions


def _read_facts(run_dir: Path) -> _Facts:
    facts: _Facts = _read_json(run_dir / _FACTS, _Facts)
    return facts


def _read_json(file: Path, form: Any) -> Any:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; a run of tools/train.py leaves one after its first validation")
    try:
        return msgspec.json.decode(file.read_bytes(), type=form)
    except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
        raise ValueError(f"{file}: {error}") from error
