import contextlib
import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from detmix.analysis import DetectionRates, detection_rates
from detmix.analysis.inference import as_input
from detmix.analysis.visibility import VISIBILITIES, draw_pairs, match
from tests.factories import ListDataset, make_assembled, make_sample

NAMES = ("cat", "dog", "bird")
BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])


def make_image(number, labels=(1, 2, 1)):
    """An image whose every pixel is 10 * (number + 1), with boxes that only this image has, and its target."""
    boxes = BOXES[: len(labels)] + torch.tensor([0, 12.0 * number, 0, 12.0 * number])
    image = torch.full((3, 80, 60), 10 * (number + 1), dtype=torch.uint8)
    return image, {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64), "image_id": number}


class Oracle(nn.Module):
    """Knows the images of a data set by their grey level, and finds those whose share is large enough.

    A blend of levels a and b is lam * a + (1 - lam) * b. `find` makes detections out of a target.
    """

    def __init__(self, samples, least, find=None):
        super().__init__()
        self.samples = samples
        self.least = least
        self.find = find or (lambda target: (target["boxes"], target["labels"], torch.ones(len(target["labels"]))))
        self.calls = []

    def forward(self, images):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls.append(len(images))
        return [self.detect(round(float(image[0, 0, 0]) * 255)) for image in images]

    def detect(self, level):
        shares = self.shares(level)
        found = [self.find(self.samples[n][1]) for n, share in shares.items() if share >= self.least - 1e-9]
        none = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
        boxes, labels, scores = (torch.cat(parts) for parts in zip(none, *found, strict=True))
        return {"boxes": boxes, "labels": labels, "scores": scores}

    def shares(self, level):
        """Levels 10 and 20 and ratios of tenths: level 10 + k is k tenths of the second image."""
        second = (level - 10) / 10
        return {0: 1 - second, 1: second}


def rates_of(find=None, least=0.6, labels=(1, 2, 1), **options):
    samples = [make_image(0, labels), make_image(1, labels)]
    return detection_rates(Oracle(samples, least, find), ListDataset(samples), class_names=NAMES, **options)


def test_rates_are_one_where_the_detector_sees_and_zero_where_it_does_not():
    result = rates_of(least=0.6)
    assert result.visibilities.tolist() == list(VISIBILITIES)
    assert result.rates.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert result.counts.tolist() == [4, 2, 0]
    assert result.rates_by_class[:, :2].tolist() == [[0, 0]] * 5 + [[1, 1]] * 4
    assert np.isnan(result.rates_by_class[:, 2]).all()


@pytest.mark.parametrize(
    ("find", "rates"),
    [
        (lambda t: (t["boxes"], t["labels"] % 2 + 1, torch.ones(3)), [0, 0]),  # every class confused
        (lambda t: (t["boxes"][:2], torch.tensor([1, 1]), torch.ones(2)), [0.5, 0]),  # the dog is called a cat
        (lambda t: (t["boxes"][[0, 0]], t["labels"][[0, 0]], torch.tensor([0.9, 0.8])), [0.5, 0]),  # one cat twice
        (lambda t: (t["boxes"][:0], t["labels"][:0], torch.ones(0)), [0, 0]),
        (lambda t: (t["boxes"] + torch.tensor([0, 0, 0, 10.0]), t["labels"], torch.ones(3)), [1, 1]),  # IoU is 1/2
        (lambda t: (t["boxes"] + torch.tensor([0, 0, 0, 10.1]), t["labels"], torch.ones(3)), [0, 0]),  # just below
        (lambda t: (t["boxes"], t["labels"], torch.tensor([0.04, 0.05, 0.06])), [0.5, 1]),  # one scores too little
    ],
)
def test_a_match_needs_class_overlap_and_score_and_an_object_is_found_once(find, rates):
    result = rates_of(find, least=0.3, visibilities=[0.4], batch_size=2)
    assert result.rates_by_class[0, :2].tolist() == rates
    assert result.rates[0] == (4 * rates[0] + 2 * rates[1]) / 6


def test_the_partners_objects_are_not_counted_and_take_their_own_detections():
    """Both images have a cat; they overlap by IoU 1/2 or more, and only B's is detected, exactly."""
    samples = [make_image(0, (1,)), make_image(1, (1,))]
    samples[1][1]["boxes"] = samples[0][1]["boxes"] + torch.tensor([0, 0, 0, 1.0])
    finds_the_faint = Oracle(samples, 0.6)
    result = detection_rates(finds_the_faint, ListDataset(samples), class_names=NAMES, visibilities=[0.3, 0.7])
    assert result.rates.tolist() == [0, 1]


def test_at_full_visibility_the_detector_sees_the_image_alone():
    small, large = make_image(0), (torch.full((3, 90, 99), 20, dtype=torch.uint8), make_image(1)[1])
    seen = []
    model = Oracle([small, large], 0.6)
    model.register_forward_pre_hook(lambda module, inputs: seen.extend(image.shape[1:] for image in inputs[0]))
    result = detection_rates(model, ListDataset([small, large]), class_names=NAMES, visibilities=[1.0, 0.7])
    assert seen == [(80, 60), (90, 99), (90, 99), (90, 99)]
    assert result.rates.tolist() == [1, 1]


def test_images_without_boxes_add_nothing_and_without_any_box_there_is_no_rate():
    samples = [make_image(0), make_image(1, ())]
    result = detection_rates(Oracle(samples, 0.5), ListDataset(samples), class_names=NAMES, visibilities=[0.5])
    assert (result.counts.tolist(), result.rates.tolist()) == ([2, 1, 0], [1])
    empty = rates_of(labels=(), visibilities=[0.5])
    assert np.isnan(empty.rates).all()
    assert empty.to_json()["rates"] == [None]


@pytest.mark.parametrize("key", ["difficult", "iscrowd"])
def test_objects_that_are_difficult_or_crowds_do_not_count(key):
    samples = [make_image(0), make_image(1)]
    for _, target in samples:
        target[key] = torch.tensor([1, 0, 0])
    result = detection_rates(Oracle(samples, 0.5), ListDataset(samples), class_names=NAMES, visibilities=[0.5, 1])
    assert (result.counts.tolist(), result.rates.tolist()) == ([2, 2, 0], [1, 1])


def test_the_model_is_left_in_its_mode_after_an_exception_too():
    def fail(target):
        raise RuntimeError("out of memory")

    samples = [make_image(0), make_image(1)]
    for find in (None, fail):
        model = Oracle(samples, 0.5, find)
        model.norm, model.dropout = nn.BatchNorm2d(3), nn.Dropout().eval()
        with pytest.raises(RuntimeError, match="out of memory") if find else contextlib.nullcontext():
            detection_rates(model, ListDataset(samples), class_names=NAMES)
        assert (model.training, model.norm.training, model.dropout.training) == (True, True, False)


def test_measuring_leaves_the_random_state_alone():
    samples = [make_image(0), make_image(1)]
    before = torch.get_rng_state()
    detection_rates(Oracle(samples, 0.5), ListDataset(samples), class_names=NAMES)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_workers_change_nothing_and_progress_is_told(batch_size, workers):
    samples = [make_sample(n % 3, seed=n) for n in range(5)]
    model = make_assembled("FasterRCNN")
    options = {"class_names": NAMES, "visibilities": (0.3, 1.0), "score_threshold": 0.0, "iou_threshold": 0.1}
    steps = []
    wanted = detection_rates(model, ListDataset(samples), **options)
    result = detection_rates(
        model,
        ListDataset(samples),
        batch_size=batch_size,
        num_workers=workers,
        on_step=lambda *step: steps.append(step),
        **options,
    )
    assert result.to_json() == wanted.to_json()
    assert wanted.found.sum() > 0
    assert steps == [(min(done, 5), 5) for done in range(batch_size, 5 + batch_size, batch_size)]


@given(st.integers(2, 40), st.integers(0, 2**40), st.data())
def test_pairs_are_of_two_images_and_fewer_pairs_are_some_of_them(count, seed, data):
    pairs = draw_pairs(count, None, seed)
    assert pairs[:, 0].tolist() == list(range(count))
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert ((pairs >= 0) & (pairs < count)).all()
    some = data.draw(st.integers(1, count))
    chosen = draw_pairs(count, some, seed)
    assert len(set(map(tuple, chosen))) == some
    assert set(map(tuple, chosen)) <= set(map(tuple, pairs))


def test_every_partner_is_equally_likely():
    drawn = np.array([draw_pairs(5, None, seed)[2, 1] for seed in range(4000)])
    counts = np.bincount(drawn, minlength=5)[[0, 1, 3, 4]]
    assert ((counts - 1000) ** 2 / 1000).sum() < 16.3  # chi-square of 3 degrees of freedom, 0.1 %


@pytest.mark.parametrize("key", ["difficult", "iscrowd"])
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_found=st.integers(0, 12),
    num_objects=st.integers(0, 6),
    iou=st.sampled_from([0.3, 0.5, 0.7]),
    share=st.sampled_from([0.0, 0.3, 0.7]),
    equals=st.booleans(),
)
def test_matching_is_that_of_pycocotools(key, seed, num_found, num_objects, iou, share, equals):
    rng = np.random.default_rng(seed)

    def draw(count):
        corners = rng.integers(0, 3, (count, 2)) * 3.0 if equals else rng.uniform(0, 12, (count, 2))
        sides = 10 if equals else rng.uniform(6, 14, (count, 2))
        return np.concatenate([corners, corners + sides], axis=1), rng.integers(1, 3, count)

    (boxes, labels), (found, kinds) = draw(num_objects), draw(num_found)
    scores = rng.permutation(num_found) / 20
    ignored = rng.random(num_objects) < share
    target = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels), key: torch.tensor(ignored)}
    detection = {"boxes": torch.tensor(found).reshape(-1, 4), "labels": torch.tensor(kinds)}
    hits = match(detection | {"scores": torch.tensor(scores)}, target, iou_threshold=iou, score_threshold=0.0)
    wanted = coco_matches(boxes, labels, ignored, found, kinds, scores, iou)
    assert hits.tolist() == [hit and not left_out for hit, left_out in zip(wanted, ignored, strict=True)]


@pytest.mark.parametrize("key", ["difficult", "iscrowd"])
def test_a_detection_goes_to_the_object_that_counts_before_one_that_does_not(key):
    """It meets the ignored object at IoU 1 and the counted one at 0.8."""
    samples = [make_image(0, (1, 1)), make_image(1, (1, 1))]
    for _, target in samples:
        target["boxes"][1] = target["boxes"][0] + torch.tensor([0, 0, 0, 2.5])
        target[key] = torch.tensor([1, 0])
    only_the_ignored = Oracle(samples, 0.6, lambda t: (t["boxes"][:1], t["labels"][:1], torch.ones(1)))
    result = detection_rates(only_the_ignored, ListDataset(samples), class_names=NAMES, visibilities=[0.7, 1.0])
    assert (result.counts.tolist(), result.rates.tolist()) == ([2, 0, 0], [1, 1])


def coco_matches(boxes, labels, ignored, found, kinds, scores, iou):
    def rows(corners, classes, crowds):
        for n, (box, label, crowd) in enumerate(zip(corners, classes, crowds, strict=True), start=1):
            bbox = [*box[:2], *(box[2:] - box[:2])]
            row = {"id": n, "image_id": 1, "category_id": label, "bbox": bbox, "area": bbox[2] * bbox[3]}
            yield row | {"iscrowd": int(crowd)}

    def index(annotations):
        coco = COCO()
        coco.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}, {"id": 2}], "annotations": annotations}
        coco.createIndex()
        return coco

    detections = [row | {"score": s} for row, s in zip(rows(found, kinds, [0] * len(found)), scores, strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(list(rows(boxes, labels, ignored))), index(detections), "bbox")
        evaluation.params.iouThrs = np.array([iou])
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
    matched = {
        number
        for image in evaluation.evalImgs
        if image is not None
        for number, other in zip(image["gtIds"], image["gtMatches"][0], strict=True)
        if other > 0
    }
    return [n + 1 in matched for n in range(len(boxes))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"visibilities": []}, r"visibilities must be one or more numbers in \(0, 1\], got \[\]"),
        ({"visibilities": [0.5, 0.0]}, r"visibilities .* got \[0.5, 0.0\]"),
        ({"visibilities": [float("nan")]}, "visibilities"),
        ({"iou_threshold": 0.0}, r"iou_threshold must lie in \(0, 1\], got 0.0"),
        ({"score_threshold": 1.5}, r"score_threshold must lie in \[0, 1\], got 1.5"),
        ({"num_pairs": 3}, r"num_pairs must lie in \[1, 2\], the number of images, got 3"),
        ({"num_pairs": 0}, "num_pairs"),
        ({"class_names": ("cat",)}, r"labels must lie in \[1, 1\], one for each class name, got 2"),
        ({"class_names": None}, "ListDataset has no class_names"),
    ],
)
def test_wrong_settings_of_the_rates_are_named(options, message):
    samples = [make_image(0), make_image(1)]
    with pytest.raises(ValueError, match=message):
        detection_rates(Oracle(samples, 0.5), ListDataset(samples), **{"class_names": NAMES, **options})


def test_one_image_is_no_pair():
    with pytest.raises(ValueError, match="a pair needs two images, the data set has 1"):
        detection_rates(Oracle([], 0.5), ListDataset([make_image(0)]), class_names=NAMES)


def test_rates_go_to_json():
    content = json.loads(json.dumps(rates_of(visibilities=[0.5, 0.9]).to_json(), allow_nan=False))
    assert content["rates"] == [0, 1]
    assert content["rates_by_class"] == [[0, 0, None], [1, 1, None]]
    assert content["class_names"] == list(NAMES)


def test_rates_come_back_from_json():
    rates = rates_of(visibilities=[0.9, 0.5])
    content = json.loads(json.dumps(rates.to_json()))
    again = DetectionRates.from_json(content)
    assert again.to_json() == rates.to_json()
    for missing in ("found", "counts", "iou_threshold"):
        with pytest.raises(ValueError, match=f"not detection rates, as tools/analyze.py writes them: .*{missing}"):
            DetectionRates.from_json({key: value for key, value in content.items() if key != missing})


def test_arrays_whose_colours_were_turned_round_are_taken():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    turned = as_input(pixels[..., ::-1], torch.device("cpu"))
    assert torch.equal(turned, as_input(pixels, torch.device("cpu")).flip(0))
