import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from detmix import check_target
from detmix.data import Augment, DetectionDataset, read_coco
from detmix.data.masks import decode_masks, require_polygons, require_runs, uncompressed, without_slivers
from detmix.evaluation.masks import encode_masks

SIZE = (30, 40)
TRIANGLE, SQUARE, PARTS = (
    [[3, 4, 20.5, 6, 9, 25]],
    [[1, 1, 4, 1, 4, 4, 1, 4]],
    [[5, 5, 9, 5, 9, 9], [20, 5, 25, 9, 20, 9]],
)


def decode(segmentation, size=SIZE):
    return decode_masks([("annotation 7", json.dumps(segmentation).encode())], size)[0]


def compressed(mask):
    found = coco_mask.encode(np.asfortranarray(mask))
    return found | {"counts": found["counts"].decode()}


def run_lengths(mask):
    """Counted pixel by pixel, down the columns, zeros first."""
    counts, value = [0], 0
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"counts": counts, "size": list(mask.shape)}


sizes = st.tuples(st.integers(1, 9), st.integers(1, 90))


@settings(max_examples=100, deadline=None)
@given(sizes.flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, 1))))
def test_run_lengths_give_the_mask_that_was_encoded(mask):
    for encode in (compressed, run_lengths):
        np.testing.assert_array_equal(decode(encode(mask), mask.shape), mask)


def test_run_lengths_of_a_large_mask():
    mask = np.zeros((1000, 1500), np.uint8)
    mask[100:900, 200:1300] = 1
    np.testing.assert_array_equal(decode(compressed(mask), mask.shape), mask)


def test_a_polygon_drawn_by_hand():
    expected = np.zeros(SIZE, np.uint8)
    expected[1:4, 1:4] = 1
    np.testing.assert_array_equal(decode(SQUARE), expected)


WRONG = {
    "a word": ("x", "Expected"),
    "nothing": ([], "length >= 1"),
    "a line": ([[1, 2, 3, 4]], "length >= 6"),
    "a box": ([1, 2, 3, 4], "Expected `array`, got `int`"),
    "half a point": ([[1, 2, 3, 4, 5, 6, 7]], "pairs of numbers, got 7"),
    "a null": ([[1, 2, None, 4, 5, 6]], "got `null`"),
    "far away": ([[1, 2, 1e9, 4, 5, 6]], r"the point \[1000000000.0, 4.0\] lies far outside the image of 40x30"),
    "further away": ([[1, 2, 3, 4, 5, -1e300]], "lies far outside the image"),
    "no counts": ({"size": [30, 40]}, "missing required field `counts`"),
    "another size": ({"counts": [1200], "size": [40, 30]}, r"its size is \[40, 30\], the image's \[30, 40\]"),
    "too few pixels": ({"counts": [1199], "size": [30, 40]}, "must add up to 1200 pixels, got 1199"),
    "no pixels": ({"counts": "", "size": [30, 40]}, "must add up to 1200 pixels, got 0"),
    "too many pixels": ({"counts": [2**31 - 1] * 4, "size": [30, 40]}, r"must lie in 0 \.\.\. 1200, got 2147483647"),
    "a negative count": ({"counts": [1300, -100], "size": [30, 40]}, "`int` >= 0"),
    "a negative sum": ({"counts": "0000O", "size": [30, 40]}, r"must lie in 0 \.\.\. 1200, got -1"),
    "other characters": ({"counts": "é\n ", "size": [30, 40]}, "not a segmentation"),
    "a count without end": ({"counts": "o" * 100_000, "size": [30, 40]}, "the last run length is cut short"),
    "a long count": ({"counts": "o" * 100_000 + "0", "size": [30, 40]}, "more than 35 bits"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_the_annotation(case):
    segmentation, message = WRONG[case]
    with pytest.raises(ValueError, match="annotation 7: not a segmentation: ") as caught:
        decode(segmentation)
    caught.match(message)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12))
def test_any_text_as_counts_is_a_mask_or_refused(counts):
    try:
        found = decode({"counts": counts, "size": [3, 4]}, (3, 4))
    except ValueError:
        return
    assert found.max() <= 1
    assert found.sum() == coco_mask.area({"counts": counts.encode(), "size": [3, 4]})


def naively_uncompressed(text):
    """rleFrString, character by character."""
    counts, value, shift = [], 0, 0
    for byte in text:
        digit = byte - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (1 << shift) if digit & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(32, 63), st.integers(0, 31)), max_size=8))
def test_compressed_counts_are_those_of_a_loop_over_characters(numbers):
    text = b"".join(bytes([48 + more]) * times + bytes([48 + last]) for times, more, last in numbers)
    assert uncompressed(text).tolist() == naively_uncompressed(text)


def test_an_image_of_more_pixels_than_can_be_counted_has_no_masks():
    for check, given_ in ((require_polygons, SQUARE), (require_runs, np.array([2**31]))):
        with pytest.raises(ValueError, match=r"fewer than 2\^31 pixels, got 32768x65536"):
            check(given_, (2**16, 2**15))


def test_outlines_are_as_long_as_any_image_needs_and_no_longer():
    side = 13_377  # squared it is Pillow's limit
    frame = [0, 0, side, 0, side, side, 0, side]
    require_polygons([frame] * 78, (side, side))
    with pytest.raises(ValueError, match="outlines must be at most 4194304 pixels long, got 4227132"):
        require_polygons([frame] * 79, (side, side))
    with pytest.raises(ValueError, match="got 10000000"):
        require_polygons([[0, 0, 500, 500] * 10_000], (500, 500))  # the last edge, to the first point, counts too


def test_polygons_need_sides_that_pycocotools_can_take_five_times():
    size = (1, 214_748_363)
    for x in (0, size[1] // 2, size[1] - 50):
        corners = [[x, 0, x + 50, 0, x + 50, 1, x, 1]]
        require_polygons(corners, size)
        assert coco_mask.toBbox(coco_mask.frPyObjects(corners, *size)).tolist() == [[x, 0, 50, 1]]
    with pytest.raises(ValueError, match="sides of at most 214748363 pixels, got 214748364x1"):
        require_polygons(SQUARE, (1, 214_748_364))


@pytest.fixture
def file(tmp_path):
    """Two images; a crowd, an empty box and an object without a segmentation stand among the others."""
    mask = np.zeros(SIZE, np.uint8)
    mask[10:20, 5:30] = 1
    rows = [
        (2, SQUARE),
        (1, PARTS),
        (2, run_lengths(mask)),
        (1, TRIANGLE),
        (2, []),
        (2, compressed(mask)),
        (2, TRIANGLE),
    ]
    annotations = [
        {"id": i, "image_id": image, "category_id": 1, "bbox": [i, 2, 5, 9], "segmentation": s}
        for i, (image, s) in enumerate(rows, start=10)
    ]
    annotations[2]["iscrowd"] = 1
    annotations[3]["bbox"] = [3, 3, 0, 4]
    images = [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)]
    for image in images:
        Image.new("RGB", SIZE[::-1]).save(tmp_path / image["file_name"])
    path = tmp_path / "set.json"
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "dog"}]}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # annToMask, with numpy 2
def test_samples_have_the_masks_that_pycocotools_draws(file, caplog):
    dataset = DetectionDataset(read_coco(file, file.parent, masks=True))
    assert "1 of 7 objects without a segmentation, dropped: " in caplog.text
    assert "annotations[4]" in caplog.text
    theirs = COCO(str(file))
    for index, ids in enumerate([[11], [10, 15, 16]]):
        image, target = dataset[index]
        assert target["masks"].dtype == torch.uint8
        assert target["masks"].tolist() == [theirs.annToMask(theirs.anns[i]).tolist() for i in ids]
        assert target["boxes"][:, 0].tolist() == [i for i in ids]
        check_target(target, size=SIZE)
        flipped = Augment()(image, target)[1]["masks"]
        assert flipped.flatten().sum() == target["masks"].sum()


def test_masks_are_left_out_unless_wanted(file):
    found = read_coco(file, file.parent)
    assert found.segmentations is None
    assert found.ids.tolist() == [11, 10, 12, 14, 15, 16]
    assert "masks" not in DetectionDataset(found).target_of(1)


def test_an_object_without_a_segmentation_can_be_an_error(file):
    with pytest.raises(ValueError, match=r"set\.json: .*1 of 7 objects without a segmentation: .*annotations\[4\]"):
        read_coco(file, file.parent, masks=True, on_invalid="raise")
    with pytest.raises(ValueError, match=r"set\.json: 1 of 7 objects have no segmentation, annotations\[4\] for one"):
        read_coco(file, file.parent, masks="required")
    with pytest.raises(ValueError, match="masks must be True, False or 'required', got 'require'"):
        read_coco(file, file.parent, masks="require")


def test_the_ground_truth_has_the_segmentations_of_the_file(file):
    truth = read_coco(file, file.parent, masks=True).ground_truth()
    given = {row["id"]: row["segmentation"] for row in json.loads(file.read_text())["annotations"]}
    assert {row["id"]: row["segmentation"] for row in truth["annotations"]} == {
        i: given[i] for i in (10, 11, 12, 15, 16)
    }


def test_a_segmentation_that_is_no_text_is_named_when_it_is_read(file):
    file.write_bytes(file.read_bytes().replace(b'{"size"', b'{"\x80": 0, "size"', 1))
    with pytest.raises(ValueError, match=r"set\.json: .*annotations\[5\]: the segmentation is not JSON in UTF-8"):
        read_coco(file, file.parent, masks=True)


def test_an_image_without_objects_has_no_masks(file):
    content = json.loads(file.read_text())
    content["annotations"] = []
    file.write_text(json.dumps(content))
    assert DetectionDataset(read_coco(file, file.parent, masks=True)).target_of(0)["masks"].shape == (0, *SIZE)


def with_segmentations(file, segmentations):
    content = json.loads(file.read_text())
    rows = [{"id": i, "image_id": 1, "category_id": 1, "bbox": [i, 2, 5, 9]} for i in range(1, len(segmentations) + 1)]
    content["annotations"] = rows
    for i, row in enumerate(rows):
        row["segmentation"] = f"segmentation {i}"
    text = json.dumps(content)
    for i, segmentation in enumerate(segmentations):
        text = text.replace(f'"segmentation {i}"', segmentation)
    file.write_text(text)


NOTHING = ["null", "[]", "[ ]", "[[]]", "{}", "{ }", "[[1, 2, 3, 4]]", "[[1,2,3,4], []]"]


def test_segmentations_of_nothing_are_found_while_reading(file, caplog):
    with_segmentations(file, [json.dumps(TRIANGLE), *NOTHING])
    dataset = DetectionDataset(read_coco(file, file.parent, masks=True))
    assert f"{len(NOTHING)} of {1 + len(NOTHING)} objects without a segmentation, dropped" in caplog.text
    assert dataset.annotations.ids.tolist() == [1]
    assert dataset[0][1]["masks"].shape == (1, *SIZE)


@pytest.mark.parametrize("segmentation", NOTHING)
def test_a_segmentation_of_nothing_can_be_an_error(segmentation, file):
    with_segmentations(file, [json.dumps(TRIANGLE), segmentation])
    with pytest.raises(ValueError, match=r"set\.json: 1 of 2 objects without a segmentation: .*annotations\[1\]"):
        read_coco(file, file.parent, masks=True, on_invalid="raise")


@pytest.mark.parametrize("count", [3, 5, 6])
def test_polygons_of_pairs_are_another_format_and_not_too_few_points(count, file):
    with_segmentations(file, [json.dumps([[[5 * number, number**2] for number in range(count)]])])
    with pytest.raises(ValueError, match="not a segmentation: Expected `float`, got `array`"):
        DetectionDataset(read_coco(file, file.parent, masks=True))[0]


NUMBERS = st.lists(st.integers(0, 30) | st.floats(0, 30), max_size=12)


@given(st.lists(NUMBERS, max_size=4), st.sampled_from([None, 1]))
def test_polygons_of_three_points_or_more_stay_and_others_go(polygons, indent):
    text = json.dumps(polygons, indent=indent).encode()
    kept = [polygon for polygon in polygons if len(polygon) >= 6]
    found = without_slivers(text)
    assert (json.loads(found) if found else []) == kept
    if kept == polygons != []:
        assert found == text


def test_a_malformed_segmentation_is_named_with_its_image(file):
    with_segmentations(file, ["[[1, 2, 3, 4, 5, 6, 7]]"])
    dataset = DetectionDataset(read_coco(file, file.parent, masks=True))
    for look in (lambda: dataset[0], dataset.annotations.require_masks):
        with pytest.raises(ValueError, match=r"1\.png: annotation 1: not a segmentation"):
            look()
    with_segmentations(file, ["[[1, 2, 3, 4, 5, 6]]"])
    read_coco(file, file.parent, masks=True).require_masks()
    read_coco(file, file.parent).require_masks()  # none were read


def test_the_evaluator_leaves_out_the_same_polygons_and_says_where_none_is_left():
    sizes = np.array([SIZE])
    whole, lines = encode_masks([TRIANGLE], sizes, "a", "{}"), [[1, 2, 3, 4], *TRIANGLE, [5, 6, 7, 8]]
    assert encode_masks([lines], sizes, "a", "{}") == whole
    theirs = coco_mask.merge(coco_mask.frPyObjects([*TRIANGLE, [5, 6, 7, 8]], *SIZE))
    assert theirs == whole[0]  # a line covers nothing in pycocotools
    for nothing in ([], [[]], [[1, 2, 3, 4]]):
        with pytest.raises(ValueError, match=r"a: a mask must be .*: no polygon has three points, got .* - at `0`"):
            encode_masks([nothing], sizes, "a", "{}")


def test_an_image_with_a_malformed_segmentation_can_be_skipped(file, caplog):
    with_segmentations(file, ["[[1, 2, 3, 4, 5, 6, 7]]"])
    dataset = DetectionDataset(read_coco(file, file.parent, masks=True), on_error="skip")
    assert dataset[0][1]["image_id"] == 2
    assert dataset.skipped == [0]
    assert "annotation 1: not a segmentation" in caplog.text
