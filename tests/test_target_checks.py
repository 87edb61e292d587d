import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.datasets import CocoDetection, VOCDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from detmix import MixupDataset, check_target
from detmix.data import Augment
from detmix.targets import plain

from .conftest import ROOT
from .factories import make_sample, make_target, write_coco_folder
from .test_configs import write_voc


def test_good_targets_pass():
    check_target(make_target(3, seed=0), size=(48, 64), num_classes=4)
    check_target(make_target(0, seed=0), size=(48, 64), num_classes=4)
    check_target({**make_target(2, seed=0), "weights": torch.tensor([0.0, 1.0]), "sources": torch.tensor([0, 1])})


@pytest.mark.parametrize(
    ("change", "error", "wanted"),
    [
        (
            {"boxes": torch.tensor([[0, 0, 5, 5], [1, 1, 1, 9.0]])},
            ValueError,
            r"y2 > y1, got \[1.0, 1.0, 1.0, 9.0\] in row 1",
        ),
        (
            {"boxes": torch.tensor([[0, 0, 5, 5], [4, 1, 2, 9.0]])},
            ValueError,
            "boxes are x1, y1, .* row 1",
        ),
        ({"boxes": torch.tensor([[0, 0, 5, torch.nan], [1, 1, 2, 9.0]])}, ValueError, "boxes must be finite, .* row 0"),
        (
            {"boxes": torch.tensor([[0, 0, 5, 5], [1, 1, 70, 9.0]])},
            ValueError,
            r"must lie in the image of 64x48 .*clip_boxes_to_image cuts them\), .* row 1",
        ),
        ({"boxes": torch.tensor([[0, -2, 5, 5], [1, 1, 7, 9.0]])}, ValueError, "must lie in the image .* row 0"),
        ({"boxes": torch.zeros(2, 5)}, ValueError, r"shape \(N, 4\), got \(2, 5\)"),
        ({"boxes": torch.zeros(2, 4, dtype=torch.int64)}, TypeError, "floating dtype, got torch.int64"),
        ({"boxes": [[0, 0, 1, 1]]}, TypeError, "boxes must be a torch.Tensor, got list"),
        ({"labels": torch.tensor([1, 0])}, ValueError, "labels must be 1 or more .* got 0 in row 1"),
        ({"labels": torch.tensor([4, 1])}, ValueError, "below the number of classes, 4, got 4 in row 0"),
        ({"labels": torch.tensor([[1], [2]])}, ValueError, r"labels must have 1 dimensions, got the shape \(2, 1\)"),
        ({"weights": torch.tensor(0.5)}, ValueError, r"weights must have 1 dimensions, got the shape \(\)"),
        ({"masks": torch.zeros(2)}, ValueError, "masks must have 3 dimensions"),
        ({"labels": torch.tensor([1])}, ValueError, "labels has 1 rows and boxes has 2"),
        ({"labels": torch.tensor([1.0, 2.0])}, TypeError, "labels must be int64"),
        ({"weights": torch.tensor([0.5, 1.5])}, ValueError, r"weights must lie in \[0, 1\], got 1.5 in row 1"),
        ({"weights": torch.tensor([torch.nan, 1])}, ValueError, "weights must lie"),
        ({"weights": torch.tensor([1, 1])}, TypeError, "weights must be of a floating dtype"),
        ({"weights": torch.tensor([1.0])}, ValueError, "weights has 1 rows"),
        ({"sources": torch.tensor([0.0, 1.0])}, TypeError, "sources must be int64"),
        ({"masks": torch.zeros(1, 48, 64)}, ValueError, "masks has 1 rows"),
        (
            {"masks": torch.stack([torch.ones(48, 64), 255 * torch.eye(48, 64)]).byte()},
            ValueError,
            "masks must be 0 or 1, got 255 in row 1",
        ),
        ({"keypoints": torch.zeros(2, 4, 2)}, ValueError, r"keypoints must have shape \(N, P, 3\), .* got \(2, 4, 2\)"),
        (
            {"keypoints": torch.zeros(2, 4, 3, dtype=torch.int64)},
            TypeError,
            r"keypoints .* floating dtype, .*float\(\)",
        ),
        (
            {"keypoints": torch.full((2, 4, 3), torch.nan)},
            ValueError,
            r"keypoints must be finite, got \[nan.* in row 0",
        ),
    ],
)
def test_what_is_wrong_is_named_with_image_key_and_row(change, error, wanted):
    with pytest.raises(error, match=f"target of image 7: .*{wanted}"):
        check_target({**make_target(2, seed=0), "image_id": 7, **change}, size=(48, 64), num_classes=4)


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match=r"the key 'labels' is missing; it has \['boxes'\]"):
        check_target({"boxes": torch.zeros(0, 4)})


@pytest.mark.parametrize("target", [None, (), "cat"])
def test_what_is_no_dict_is_refused(target):
    with pytest.raises(TypeError, match=r"a target must be a dict with boxes and labels, got \w+$"):
        check_target(target)


def test_the_rows_of_torchvisions_data_set_of_coco_are_refused_with_the_way(tmp_path):
    write_coco_folder(tmp_path / "coco", 2)
    rows = CocoDetection(str(tmp_path / "coco" / "images"), str(tmp_path / "coco" / "set.json"))
    with pytest.raises(RuntimeError, match=r"got list: .* take DetectionDataset\(read_coco\(\.{3}\)\) of detmix\.data"):
        MixupDataset(rows, alpha=1.5)[0]


def test_the_annotation_of_torchvisions_data_set_of_voc_is_refused_with_the_way(tmp_path):
    write_voc(tmp_path / "VOCdevkit" / "VOC2012", ("train",))
    rows = VOCDetection(str(tmp_path), image_set="train")
    with pytest.raises(ValueError, match=r"\['annotation'\]: .* take DetectionDataset\(read_voc\(\.{3}\)\) of detmix"):
        check_target(rows[0][1])


def test_boxes_of_integers_are_refused_with_a_way_that_works(tmp_path):
    write_voc(tmp_path / "VOCdevkit" / "VOC2012", ("train",))
    whole = wrap_dataset_for_transforms_v2(VOCDetection(str(tmp_path), image_set="train"))
    with pytest.raises(TypeError, match=r"got torch.int64: v2.ToDtype\(.*\) in transforms=") as error:
        check_target(whole[0][1])
    [way] = re.findall(r"v2.ToDtype\(.*\)", str(error.value))
    converts = eval(way, {"v2": v2, "tv_tensors": tv_tensors, "torch": torch})
    wrapped = wrap_dataset_for_transforms_v2(VOCDetection(str(tmp_path), image_set="train", transforms=converts))
    check_target(wrapped[0][1], size=(48, 64))
    with pytest.raises(TypeError, match=r"got torch.int64: boxes.float\(\) converts them"):
        check_target({**whole[0][1], "boxes": plain(whole[0][1]["boxes"])})


def test_lists_and_missing_objects_of_a_wrapped_data_set_of_coco_are_refused_with_the_way(tmp_path):
    write_coco_folder(tmp_path / "coco", 2)
    rows = CocoDetection(str(tmp_path / "coco" / "images"), str(tmp_path / "coco" / "set.json"))
    wrapped = wrap_dataset_for_transforms_v2(rows, target_keys=("image_id", "boxes", "labels", "iscrowd"))
    with pytest.raises(TypeError, match=r"image 100: iscrowd must be a torch.Tensor, got list: torch.as_tensor makes"):
        check_target(wrapped[0][1])
    with pytest.raises(ValueError, match=r"image 101: .* has \['image_id'\]: an image without .* shape \(0, 4\) and"):
        check_target(wrapped[1][1])


def test_boxes_of_another_format_are_refused():
    target = make_target(2, seed=0)
    target["boxes"] = tv_tensors.BoundingBoxes(target["boxes"], format="XYWH", canvas_size=(48, 64))
    with pytest.raises(ValueError, match=r"target of image 0: .* the format XYXY, got XYWH: v2\.Convert.*'XYXY'\)"):
        check_target(target)
    check_target(v2.ConvertBoundingBoxFormat("XYXY")(target))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights", 0.5),
        ("weights", torch.tensor([3.5, 1.0])),
        ("weights", torch.tensor([1, 1])),
        ("weights", torch.ones(3)),
        ("sources", "a file"),
        ("sources", torch.ones(2)),
        ("covers", torch.ones(2)),
        ("covers", torch.ones(2, 1, 3)),
    ],
)
def test_a_key_of_detmix_that_holds_something_else_is_told_to_be_one(key, value):
    with pytest.raises((TypeError, ValueError), match=rf"{key} .*\('{key}' is a key of detmix: .* another name\)"):
        check_target({**make_target(2, seed=0), key: value})
    with pytest.raises(ValueError, match=r"labels must be 1 or more \(0 is background\), got 0 in row 0$"):
        check_target({**make_target(2, seed=0), "labels": torch.tensor([0, 1])})


def test_masks_of_another_size_than_the_image_are_refused():
    target = make_target(1, seed=0) | {"masks": torch.zeros(1, 96, 64, dtype=torch.uint8)}
    check_target(target)
    check_target(target, size=[96, 64])
    with pytest.raises(ValueError, match="target of image 0: masks must be of the image's 64x48 pixels, got 64x96"):
        check_target(target, size=(48, 64))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_masks_of_integers_are_refused_if_one_pixel_is_above_one(dtype):
    masks = torch.randint(0, 2, (3, 48, 64), generator=torch.Generator().manual_seed(0), dtype=dtype)
    target = make_target(3, seed=0) | {"masks": tv_tensors.Mask(masks)}
    check_target(target, size=(48, 64))
    masks[1, 47, 63] = 2
    check_target(target, size=(48, 64), values=False)
    with pytest.raises(ValueError, match="target of image 0: masks must be 0 or 1, got 2 in row 1"):
        check_target(target, size=(48, 64))


def test_masks_of_negative_integers_are_refused():
    masks = -torch.ones(2, 48, 64, dtype=torch.int8)  # 255 as signed bytes
    with pytest.raises(ValueError, match="masks must be 0 or 1, got -1 in row 0"):
        check_target(make_target(2, seed=0) | {"masks": masks}, size=(48, 64))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64])
def test_values_of_other_masks_and_of_none_are_left_alone(dtype):
    check_target(make_target(2, seed=0) | {"masks": torch.full((2, 48, 64), 2).to(dtype)}, size=(48, 64))
    check_target(make_target(0, seed=0) | {"masks": torch.zeros(0, 48, 64, dtype=torch.uint8)}, size=(48, 64))
    check_target(make_target(0, seed=0) | {"masks": torch.zeros(0, 0, 0, dtype=torch.uint8)})


def test_masks_that_a_transform_fills_with_grey_are_refused_and_pass_with_the_fill_of_the_page():
    sample = make_sample(2, seed=0)
    sample[1]["masks"] = torch.ones(2, 48, 64, dtype=torch.uint8)
    grey = Augment([v2.RandomZoomOut(fill=114, p=1)])(*sample)
    with pytest.raises(ValueError, match="masks must be 0 or 1, got 114 in row 0"):
        check_target(grey[1], size=grey[0].shape[1:])
    [fill] = re.findall(r"`RandomZoomOut\(fill=(.*?)\)`", (ROOT / "docs" / "data.md").read_text())
    image, target = Augment([v2.RandomZoomOut(fill=eval(fill, {"tv_tensors": tv_tensors}), p=1)])(*sample)
    check_target(target, size=image.shape[1:])
    assert (image == 114).all(0).sum() >= (image.shape[1] * image.shape[2] - 48 * 64)


BOX = st.tuples(
    *[st.sampled_from([-2.0, -1.25, -1.0, 0.0, 8.0, 16.0, 17.0, 17.25, 18.0, torch.inf, -torch.inf, torch.nan])] * 4
)


@given(st.lists(BOX, max_size=4), st.sampled_from([None, (16, 16)]))
def test_boxes_are_refused_if_one_is_empty_infinite_or_outside(boxes, size):
    low, high = (-torch.inf, torch.inf) if size is None else (-1.0, 17.0)
    good = [
        all(math.isfinite(side) and low <= side <= high for side in box) and box[0] < box[2] and box[1] < box[3]
        for box in boxes
    ]
    target = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.ones(len(boxes), dtype=torch.int64)}
    if all(good):
        check_target(target, size=size)
    else:
        with pytest.raises(ValueError, match=f"in row {good.index(False)}"):
            check_target(target, size=size)
