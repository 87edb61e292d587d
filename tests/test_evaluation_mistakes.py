"""find_mistakes and find_fates against its rules written out as loops, and a scene worked out by hand."""

from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle

from detmix.evaluation import Confusion, Mistakes, find_fates, find_mistakes, mistakes
from detmix.evaluation.overlaps import blocks_of_pairs
from detmix.evaluation.reading import read_ground_truth, read_predictions
from tests.test_evaluation_coco import make_scene

NAMES = ("cat", "dog", "bird")


def make_truth(objects, num_images=3):
    """Objects are (image, class, xywh, flags); classes have ids 10, 20, 30."""
    rows = [{"image_id": i, "category_id": 10 * k + 10, "bbox": box, **flags} for i, k, box, flags in objects]
    categories = [{"id": 10 * k + 10, "name": name} for k, name in enumerate(NAMES)]
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(num_images)]
    return {"images": images, "categories": categories, "annotations": rows}


def make_predictions(detections):
    return [{"image_id": i, "category_id": 10 * k + 10, "bbox": b, "score": s} for i, k, b, s in detections]


def overlap(a, b, crowd=False):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - shared)


def loop(objects, detections, iou, min_score, num_images=3):
    """Confusion matrix and, for each image, found, confused, missed and false."""
    confusion, images = np.zeros((4, 4), int), np.zeros((num_images, 4), int)
    detections = sorted((d for d in detections if d[3] >= min_score), key=lambda d: -d[3])
    ignored = [bool(flags) for *_, flags in objects]
    taken_by, target_of = {}, {}
    for own_class in (True, False):
        for d, (image, kind, box, _) in enumerate(detections):
            best, target = iou, None
            for o, (other, k, theirs, _) in enumerate(objects):
                fits = other == image and (k == kind) == own_class and o not in taken_by and not ignored[o]
                value = overlap(box, theirs) if fits and d not in target_of else -1.0
                if value > best or (value == best and target is None):
                    best, target = value, o
            if target is not None:
                taken_by[target], target_of[d] = d, target
    for d, (image, kind, box, _) in enumerate(detections):
        if d in target_of:
            wanted = objects[target_of[d]][1]
            confusion[wanted, kind] += 1
            images[image, 0 if wanted == kind else 1] += 1
        elif not any(
            ignored[o] and (other, k) == (image, kind) and overlap(box, theirs, bool(flags.get("iscrowd"))) >= iou
            for o, (other, k, theirs, flags) in enumerate(objects)
        ):
            confusion[3, kind] += 1
            images[image, 3] += 1
    for o, (image, kind, *_) in enumerate(objects):
        if o not in taken_by and not ignored[o]:
            confusion[kind, 3] += 1
            images[image, 2] += 1
    return confusion, images


starts, sides = st.integers(0, 4), st.integers(1, 4)
boxes = st.builds(lambda x, y, w, h: [x, y, w, h], starts, starts, sides, sides)
flags = st.sampled_from([{}, {}, {}, {"difficult": 1}, {"iscrowd": 1}])
images, kinds = st.integers(0, 2), st.integers(0, 2)
scores = st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0])
scenes = st.tuples(
    st.lists(st.tuples(images, kinds, boxes, flags), max_size=12),
    st.lists(st.tuples(images, kinds, boxes, scores), max_size=20),
)


@settings(max_examples=150, deadline=None)
@given(scenes, st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 0.6]), st.sampled_from([1, 5, 1 << 18]))
def test_equals_the_loop(scene, iou, min_score, block):
    objects, detections = scene
    with patch.object(mistakes, "blocks_of_pairs", partial(blocks_of_pairs, size=block)):
        result = find_mistakes(make_truth(objects), make_predictions(detections), iou=iou, min_score=min_score)
    confusion, images = loop(objects, detections, iou, min_score)
    np.testing.assert_array_equal(result.confusion, confusion)
    counts = [[i.found, i.confused, i.missed, i.false] for i in result.images]
    np.testing.assert_array_equal(counts, images)
    fates = find_fates(make_truth(objects), make_predictions(detections), iou=iou, min_score=min_score)
    for image, counted in enumerate(images.tolist()):
        of_objects = [fate for fate, row in zip(fates.objects, objects, strict=True) if row[0] == image]
        of_detections = [fate for fate, row in zip(fates.detections, detections, strict=True) if row[0] == image]
        assert [*map(of_objects.count, ("found", "confused", "missed"))] == counted[:3]
        assert [*map(of_detections.count, ("found", "confused", "false"))] == [*counted[:2], counted[3]]


OBJECTS = [
    (0, 0, [0, 0, 10, 10], {}),  # found
    (0, 1, [20, 0, 10, 10], {}),  # taken for a bird
    (1, 1, [0, 0, 10, 10], {}),  # missed
    (1, 2, [20, 0, 10, 10], {"difficult": 1}),
    (1, 2, [40, 0, 50, 50], {"iscrowd": 1}),
]
DETECTIONS = [
    (0, 0, [0, 0, 10, 9], 0.9),
    (0, 0, [0, 0, 10, 10], 0.8),  # a second time: false
    (0, 2, [20, 0, 10, 10], 0.7),
    (1, 1, [0, 0, 10, 4], 0.9),  # IoU 0.4: false
    (1, 2, [20, 0, 10, 10], 0.9),  # difficult: counts for nothing
    (1, 2, [50, 10, 5, 5], 0.9),  # in the crowd: counts for nothing
    (1, 1, [0, 0, 10, 10], 0.4),  # below the score
]


def test_a_scene_by_hand():
    result = find_mistakes(make_truth(OBJECTS), make_predictions(DETECTIONS))
    assert result.class_names == NAMES
    np.testing.assert_array_equal(result.confusion, [[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]])
    first, second, third = result.images
    assert (first.found, first.confused, first.missed, first.false) == (1, 1, 0, 1)
    assert (second.found, second.confused, second.missed, second.false) == (0, 0, 1, 1)
    assert (first.image_id, first.file_name, third.file_name) == (0, "0.jpg", "2.jpg")
    assert [i.f1 for i in result.images] == [pytest.approx(2 / 5), 0.0, 1.0]


def test_fates_of_a_scene_by_hand():
    fates = find_fates(make_truth(OBJECTS), make_predictions(DETECTIONS))
    assert fates.objects == ("found", "confused", "missed", "ignored", "ignored")
    assert fates.detections == ("found", "false", "confused", "false", "ignored", "ignored", "ignored")
    nothing = find_fates(make_truth([]), make_predictions(DETECTIONS[:1]))
    assert (nothing.objects, nothing.detections) == ((), ("false",))


def test_of_many_equal_scores_the_first_takes_the_object():
    objects = [(0, 0, [20 * n, 0, 10, 10], {}) for n in range(10)]
    found = [(*one[:3], score) for one in objects for score in (0.6, 0.9, 0.9, 0.6, 0.9)]
    fates = find_fates(make_truth(objects), make_predictions(found))
    assert fates.detections == ("false", "found", "false", "false", "false") * 10


def test_own_class_comes_before_a_better_overlap_with_another():
    objects = [(0, 0, [0, 0, 10, 8], {}), (0, 1, [0, 0, 10, 10], {})]
    result = find_mistakes(make_truth(objects), make_predictions([(0, 0, [0, 0, 10, 10], 0.9)]))
    np.testing.assert_array_equal(result.confusion[:2], [[1, 0, 0, 0], [0, 0, 0, 1]])


def test_worst_and_best_images():
    objects = [(i, 0, [0, 0, 10, 10], {}) for i in (0, 1, 1, 2, 3)] + [(3, 0, [50, 0, 10, 10], {})]
    hits = [(i, 0, box, 0.9) for i, _, box, _ in objects if i in (0, 3)]
    result = find_mistakes(make_truth(objects, 5), make_predictions([*hits, (0, 0, [90, 0, 5, 5], 0.9)]))
    assert [i.image_id for i in result.worst()] == [1, 0, 2]
    assert [i.image_id for i in result.worst(2)] == [1, 0]
    assert [i.image_id for i in result.best()] == [3, 0]


def test_of_images_without_mistakes_those_with_most_objects_are_best():
    objects = [(i, 0, [20 * n, 0, 10, 10], {}) for i, count in enumerate((1, 3, 2)) for n in range(count)]
    found = [(i, 0, box, 0.9) for i, _, box, _ in objects]
    assert [i.image_id for i in find_mistakes(make_truth(objects), make_predictions(found)).best()] == [1, 2, 0]


@given(st.integers(0, 5), st.integers(1, 30), st.data())
def test_confusions_are_the_counts_off_the_diagonal_the_largest_first(classes, count, data):
    size = (classes + 1) ** 2
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))).reshape(classes + 1, -1)
    names = tuple("abcde"[:classes])
    result = Mistakes(names, counts, (), 0.5, 0.5)
    pairs = [(i, j) for i in range(classes) for j in range(classes) if i != j and counts[i, j]]
    wanted = [Confusion(names[i], names[j], counts[i, j], counts[i, j] / sum(counts[i])) for i, j in pairs]
    assert result.most_confused(count) == sorted(wanted, key=lambda one: -one.times)[:count]
    assert result.confused.sum() == sum(one.times for one in wanted)


def test_every_object_and_detection_is_counted_once():
    truth, predictions = make_scene(0)
    result = find_mistakes(truth, predictions, min_score=0.3)
    counted = [a for a in truth["annotations"] if not a["iscrowd"]]
    assert result.confusion[:-1].sum() == len(counted)
    assert result.confusion[:, :-1].sum() <= sum(p["score"] >= 0.3 for p in predictions)
    assert sum(i.found for i in result.images) == np.diag(result.confusion).sum() > 10


def test_masks_are_compared_as_masks():
    above, below = [[0, 0, 10, 0, 10, 10]], [[0, 0, 0, 10, 10, 10]]  # halves of one box
    truth = make_truth([(0, 0, [0, 0, 10, 10], {"segmentation": above})], 1)
    truth["images"][0] |= {"height": 20, "width": 30}
    for polygon, found in ((above, 1), (below, 0)):
        mask = rle.frPyObjects(polygon, 20, 30)[0]
        rows = [{**make_predictions([(0, 0, [0, 0, 10, 10], 0.9)])[0], "segmentation": mask}]
        assert find_mistakes(truth, rows).confusion[0, 0] == 1
        np.testing.assert_array_equal(find_mistakes(truth, rows, masks=True).confusion[0, [0, -1]], [found, 1 - found])
        known = read_ground_truth(truth, masks=True)
        assert find_mistakes(known, read_predictions(rows, known, masks=True)).confusion[0, 0] == 1  # by their boxes


def test_boxes_are_those_of_the_file_and_not_those_of_masks():
    truth = make_truth([(0, 0, [0, 0, 10, 10], {"segmentation": [[0, 0, 3, 0, 3, 3]]})], 1)
    truth["images"][0] |= {"height": 20, "width": 30}
    for known in (truth, read_ground_truth(truth, masks=True)):
        assert find_mistakes(known, make_predictions([(0, 0, [0, 0, 10, 10], 0.9)])).confusion[0, 0] == 1


@pytest.mark.parametrize("iou", [0, -0.5, 1.5, float("nan")])
def test_refuses_an_iou_out_of_range(iou):
    with pytest.raises(ValueError, match=r"iou must lie in \(0, 1\]"):
        find_mistakes(make_truth([]), [], iou=iou)
    with pytest.raises(TypeError, match="iou must be a number, got 'a'"):
        find_mistakes(make_truth([]), [], iou="a")


def test_refuses_a_score_that_is_no_number():
    with pytest.raises(ValueError, match="min_score must be a number, got nan"):
        find_mistakes(make_truth([]), [], min_score=float("nan"))
