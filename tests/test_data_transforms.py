import math
import subprocess
import sys

import albumentations as A
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

import detmix
from detmix.data import to_tv_tensors
from detmix.data.transforms import Albumentations

HEIGHT, WIDTH = 60, 90


def weight_of(row):
    return (row + 1) / 64


def make_sample(boxes, image_id=5):
    """Each object carries its row number in every key, and its box as a filled mask."""
    count = len(boxes)
    rows = torch.arange(count)
    ys, xs = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    x1, y1, x2, y2 = (column[:, None, None] for column in boxes.unbind(1))
    target = {
        "boxes": boxes,
        "labels": rows + 1,
        "weights": weight_of(rows.float()),
        "sources": rows % 2,
        "area": rows.float() * 3,
        "difficult": rows % 3,
        "masks": ((xs >= x1) & (xs < x2) & (ys >= y1) & (ys < y2)).to(torch.uint8),
        "keypoints": torch.stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 1], 2 - rows % 2], dim=1)[:, None],
        "mine": torch.stack([rows, -rows], dim=1),
        "image_id": image_id,
        "remark": "stays",
    }
    image = torch.arange(3 * HEIGHT * WIDTH).reshape(3, HEIGHT, WIDTH).remainder(251).to(torch.uint8)
    return image, target


def integers(low, high):
    return st.integers(low, high)


@st.composite
def box_lists(draw):
    boxes = []
    for _ in range(draw(integers(0, 8))):
        x1, y1 = draw(integers(0, WIDTH - 2)), draw(integers(0, HEIGHT - 2))
        boxes.append([x1, y1, draw(integers(x1 + 1, WIDTH)), draw(integers(y1 + 1, HEIGHT))])
    return boxes


def assert_aligned(given, result):
    """Every key of every surviving object still tells the same row."""
    rows = result["labels"] - 1
    assert torch.equal(result["weights"], given["weights"][rows])
    for key in ("sources", "area", "difficult", "mine"):
        assert torch.equal(result[key], given[key][rows])
    assert (result["image_id"], result["remark"]) == (given["image_id"], "stays")
    assert rows.tolist() == sorted(set(rows.tolist()))
    return rows.tolist()


def expected_crop(boxes, crop, flip, min_visibility, min_area):
    """The naive loop: rows and boxes that survive a crop, then a flip."""
    left, top, right, bottom = crop
    kept = []
    for row, (x1, y1, x2, y2) in enumerate(boxes):
        box = [max(x1, left) - left, max(y1, top) - top, min(x2, right) - left, min(y2, bottom) - top]
        width, height = max(box[2] - box[0], 0), max(box[3] - box[1], 0)
        share = width * height / ((x2 - x1) * (y2 - y1))
        if width * height == 0 or share < min_visibility or width * height < min_area:
            continue
        if flip:
            box[0], box[2] = right - left - box[2], right - left - box[0]
        kept.append((row, box))
    return kept


@settings(max_examples=60, deadline=None)
@given(
    box_lists(),
    st.tuples(integers(0, 40), integers(0, 25), integers(41, WIDTH), integers(26, HEIGHT)),
    st.booleans(),
    st.sampled_from([0.0, 0.29, 0.51]),
    st.sampled_from([0.0, 20.5]),
)
def test_albumentations_crop_and_flip_are_a_loop_with_every_key_in_step(boxes, crop, flip, min_visibility, min_area):
    image, target = make_sample(boxes)
    transforms = [A.Crop(*crop), A.HorizontalFlip(p=float(flip))]
    augment = Albumentations(transforms, min_visibility=min_visibility, min_area=min_area)
    cropped, result = augment(image, target)
    expected = expected_crop(boxes, crop, flip, min_visibility, min_area)

    left, top, right, bottom = crop
    reference = image[:, top:bottom, left:right]
    assert torch.equal(cropped, reference.flip(-1) if flip else reference)
    assert assert_aligned(target, result) == [row for row, _ in expected]
    corners = torch.tensor([box for _, box in expected], dtype=torch.float32).reshape(-1, 4)
    torch.testing.assert_close(result["boxes"], corners, rtol=0, atol=1e-4)
    assert result["masks"].shape == (len(expected), *cropped.shape[1:])
    if len(expected):  # a filled mask of whole pixels has its box's area
        sizes = corners[:, 2:] - corners[:, :2]
        assert torch.equal(result["masks"].flatten(1).sum(1), sizes.prod(1).to(torch.int64))
    for row, point in zip((row for row, _ in expected), result["keypoints"][:, 0], strict=True):
        x, y, seen = target["keypoints"][row, 0].tolist()
        x, y = x - left, y - top
        x = right - left - 1 - x if flip else x  # a pixel's index, not an edge's
        inside = 0 <= x + 0.5 < right - left and 0 <= y + 0.5 < bottom - top  # a point is the middle of its pixel
        assert point.tolist() == [x, y, seen * inside]


@settings(max_examples=25, deadline=None)
@given(box_lists(), integers(0, 1000))
def test_albumentations_random_transforms_keep_every_key_in_step(boxes, seed):
    image, target = make_sample(boxes)
    transforms = [
        A.RandomCrop(40, 50),
        A.OneOf([A.HorizontalFlip(p=1), A.VerticalFlip(p=1), A.Affine(rotate=(-20, 20), p=1)], p=0.9),
        A.RandomBrightnessContrast(p=0.5),
        A.Resize(30, 45),
    ]
    augmented, result = Albumentations(transforms, min_visibility=0.2, seed=seed)(image, target)
    assert_aligned(target, result)
    assert augmented.shape == (3, 30, 45)
    assert result["masks"].shape[1:] == (30, 45)
    detmix.check_target(result, size=(30, 45))


fractions = st.floats(0, 1, width=32).filter(lambda v: v == 0 or v > 1e-3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(fractions, fractions, fractions, fractions), max_size=6), st.booleans())
def test_no_transforms_is_no_change_to_the_last_bit(corners, colour_only):
    boxes = [[a * 50, b * 30, 50 + c * 40 + 0.01, 30 + d * 30 + 0.01] for a, b, c, d in corners]
    boxes = [[x1, y1, min(x2, WIDTH), min(y2, HEIGHT)] for x1, y1, x2, y2 in boxes]
    image, target = make_sample(boxes)
    transforms = [A.RandomBrightnessContrast(p=0)] if colour_only else []
    same, result = Albumentations(transforms)(image, target)
    assert torch.equal(same, image)
    assert result.keys() == target.keys()
    for key in detmix.targets.per_object_keys(target):
        assert torch.equal(result[key], target[key]), key


def test_valid_boxes_that_albumentations_is_fussy_about_come_through():
    boxes = [[0, 0, WIDTH, HEIGHT], [89.99, 59.99, 90, 60], [3, 4, 3.002, 4.002], [1e-7, 0, 90, 60]]
    image, target = make_sample(boxes)
    _, result = Albumentations([])(image, target)
    assert torch.equal(result["boxes"], target["boxes"])


def test_a_box_over_the_edge_by_rounding_is_clipped_and_one_outside_leaves():
    image, target = make_sample([[-0.5, 3, 90.75, 60.25], [-1, 3, 0, 9]])
    _, result = Albumentations([])(image, target)
    assert result["boxes"].tolist() == [[0, 3, 90, 60]]
    assert result["labels"].tolist() == [1]


def test_a_box_that_left_does_not_come_back_as_a_line_made_wide():
    image, target = make_sample([[0, 30, 20, 60], [40, 20, 50, 30]])
    out_and_turned = [A.Affine(translate_px={"x": (-20, -20), "y": (0, 0)}, p=1), A.Affine(rotate=(30, 30), p=1)]
    _, result = Albumentations(out_and_turned)(image, target)
    assert result["labels"].tolist() == [2]


def test_colour_changes_alone_still_filter_by_area():
    image, target = make_sample([[0, 0, 5, 5], [0, 0, 20, 20]])
    _, result = Albumentations([A.RandomBrightnessContrast(p=1)], min_area=30)(image, target)
    assert result["labels"].tolist() == [2]


def test_images_come_back_as_the_kind_that_they_were():
    image, target = make_sample([[0, 0, 5, 5]])
    augment = Albumentations([A.HorizontalFlip(p=1)])
    expected = image.flip(-1)
    plain, _ = augment(image, target)
    assert type(plain) is torch.Tensor
    assert plain.is_contiguous()
    array, _ = augment(image.permute(1, 2, 0).numpy(), target)
    assert isinstance(array, np.ndarray)
    wrapped_image, wrapped = augment(*to_tv_tensors(image, {k: v for k, v in target.items() if k != "keypoints"}))
    assert isinstance(wrapped_image, tv_tensors.Image)
    assert isinstance(wrapped["boxes"], tv_tensors.BoundingBoxes)
    assert isinstance(wrapped["masks"], tv_tensors.Mask)
    assert torch.equal(plain, expected)
    assert np.array_equal(array, expected.permute(1, 2, 0).numpy())
    assert torch.equal(wrapped_image, expected)
    assert wrapped["boxes"].tolist() == [[85, 0, 90, 5]]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_pil_images_come_back_in_their_mode(mode):
    image, target = make_sample([[0, 0, 5, 5]])
    picture = v2.functional.to_pil_image(image).convert(mode)
    flipped, result = Albumentations([A.HorizontalFlip(p=1)])(picture, target)
    assert flipped.mode == mode
    assert np.array_equal(np.asarray(flipped), np.asarray(picture)[:, ::-1])
    assert result["boxes"].tolist() == [[85, 0, 90, 5]]


def test_pil_images_that_cannot_come_back_are_refused():
    image, target = make_sample([[0, 0, 5, 5]])
    picture = v2.functional.to_pil_image(image)
    with pytest.raises(TypeError, match="uint8 and of mode RGB, got float32 in 3 channels"):
        Albumentations([A.Normalize()])(picture, target)
    with pytest.raises(TypeError, match="of mode L, RGB, .* got P: convert it first"):
        Albumentations([])(picture.convert("P"), target)


def test_the_canvas_of_wrapped_boxes_follows_the_image():
    image, target = make_sample([[0, 0, 50, 50]])
    del target["keypoints"]
    _, result = Albumentations([A.Resize(30, 45)])(*to_tv_tensors(image, target))
    assert result["boxes"].canvas_size == (30, 45)
    assert result["boxes"].tolist() == [[0, 0, 25, 25]]


def test_float_images_and_single_channels_work():
    image, target = make_sample([[0, 0, 5, 5]])
    flipped, _ = Albumentations([A.HorizontalFlip(p=1)])(image.float() / 255, target)
    torch.testing.assert_close(flipped, image.flip(-1).float() / 255)
    grey, _ = Albumentations([A.Resize(30, 45)])(image[:1], target)
    assert grey.shape == (1, 30, 45)


def test_bool_masks_stay_bool():
    image, target = make_sample([[0, 0, 5, 5]])
    target["masks"] = target["masks"].bool()
    _, result = Albumentations([A.HorizontalFlip(p=1)])(image, target)
    assert torch.equal(result["masks"], target["masks"].flip(-1))


def test_inputs_are_left_untouched():
    image, target = make_sample([[0, 0, 40, 40], [50, 20, 80, 50]])
    copy = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in target.items()}
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    before = pixels.copy()
    augment = Albumentations([A.CoarseDropout(p=1), A.RandomBrightnessContrast(p=1), A.RandomCrop(30, 30)], seed=1)
    augment(pixels, target)
    assert np.array_equal(pixels, before)
    for key, value in copy.items():
        assert torch.equal(value, target[key]) if isinstance(value, torch.Tensor) else value == target[key]


class Losing(A.HorizontalFlip):
    """A flip that leaves out every second point, as distortions leave out those that they cannot find."""

    def apply_to_keypoints(self, keypoints, **params):
        return super().apply_to_keypoints(keypoints, **params)[::2]


@pytest.mark.parametrize("points", [0, 3])
def test_points_that_a_transform_leaves_out_lose_their_visibility_and_the_others_stay_in_step(points):
    image, target = make_sample([[2, 3, 12, 20], [5, 1, 30, 9]])
    given = torch.tensor([[x, y, 2.0] for x, y in ((3, 4), (6, 8), (9, 12), (7, 2), (14, 4), (28, 6))])
    target["keypoints"] = given.reshape(2, 3, 3)[:, :points]
    result = Albumentations([Losing(p=1)])(image, target)[1]["keypoints"]
    assert result.shape == (2, points, 3)
    for number, (new, old) in enumerate(zip(result.reshape(-1, 3), target["keypoints"].reshape(-1, 3), strict=True)):
        if number % 2:
            assert new[2] == 0
        else:
            assert new.tolist() == [WIDTH - 1 - old[0], old[1], 2]


def test_errors_say_what_was_wanted():
    image, target = make_sample([[0, 0, 5, 5]])
    with pytest.raises(TypeError, match="tensor, an .* array or a PIL image, got str"):
        Albumentations([])("image.jpg", target)
    with pytest.raises(TypeError, match="numpy has no bfloat16: give it uint8 or float32"):
        Albumentations([])(image.bfloat16(), target)
    with pytest.raises(TypeError, match="ToTensorV2"):
        Albumentations([A.ToTensorV2()])(image, target)
    del target["image_id"]
    with pytest.raises(ValueError, match="a seed needs targets with an image_id"):
        Albumentations([], seed=1)(image, target)
    with pytest.raises(ValueError, match="do not move keypoints"):
        to_tv_tensors(image, target)


GEOMETRY = {
    "points": lambda boxes: tv_tensors.KeyPoints(boxes[:, :2], canvas_size=(HEIGHT, WIDTH)),
    "keypoints": lambda boxes: tv_tensors.KeyPoints(boxes[:, None, :2], canvas_size=(HEIGHT, WIDTH)),
    "seen": lambda boxes: tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(HEIGHT, WIDTH)),
    "road": lambda boxes: tv_tensors.Mask(torch.zeros(HEIGHT, WIDTH)),
}


@pytest.mark.parametrize("key", GEOMETRY)
def test_geometry_that_albumentations_would_leave_where_it_is_is_refused(key):
    if "points" in key and not hasattr(tv_tensors, "KeyPoints"):
        pytest.skip("this torchvision has no KeyPoints")
    image, target = make_wrapped([[0, 0, 20, 20], [50, 30, 80, 55]])
    with pytest.raises(TypeError, match=rf"would leave '{key}', a tv_tensors\.\w+, where it is"):
        Albumentations([A.HorizontalFlip(p=1)])(image, target | {key: GEOMETRY[key](target["boxes"])})


@pytest.mark.parametrize(
    "alone", [A.HorizontalFlip(p=1), A.Compose([A.HorizontalFlip(p=1)]), A.OneOf([A.HorizontalFlip(p=1)] * 2, p=1)]
)
def test_a_transform_may_come_alone(alone):
    image, target = make_sample([[0, 0, 20, 20], [50, 30, 80, 55]])
    flipped, moved = Albumentations(alone)(image, target)
    assert torch.equal(flipped, image.flip(-1))
    assert moved["boxes"].tolist() == [[70, 0, 90, 20], [10, 30, 40, 55]]
    assert torch.equal(moved["masks"], target["masks"].flip(-1))
    assert torch.equal(moved["keypoints"][..., 0], WIDTH - 1 - target["keypoints"][..., 0])


@pytest.mark.parametrize("transforms", [5, [A.HorizontalFlip(), 5]])
def test_what_is_no_transform_is_refused(transforms):
    with pytest.raises(TypeError, match=r"transforms must be albumentations', or one of them, got .*5"):
        Albumentations(transforms)


def test_a_compose_alone_keeps_its_probability():
    image, target = make_sample([[0, 0, 20, 20]])
    assert torch.equal(Albumentations(A.Compose([A.HorizontalFlip(p=1)], p=0))(image, target)[0], image)


def sanitizing(*transforms):
    clean = [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(labels_getter=detmix.object_keys)]
    return v2.Compose([*transforms, *clean])


def make_wrapped(boxes):
    image, target = make_sample(boxes)
    del target["keypoints"]
    return to_tv_tensors(image, target)


@settings(max_examples=40, deadline=None)
@given(box_lists(), integers(0, 10**6))
def test_torchvision_pipelines_keep_every_key_in_step(boxes, seed):
    image, target = make_wrapped(boxes)
    torch.manual_seed(seed)
    cut, result = sanitizing(v2.RandomIoUCrop(), v2.RandomHorizontalFlip())(image, target)
    rows = assert_aligned(target, result)
    assert len(result["boxes"]) == len(result["masks"]) == len(rows)
    sizes = result["boxes"][:, 2:] - result["boxes"][:, :2]  # a filled mask tells its box
    assert torch.equal(result["masks"].flatten(1).sum(1), sizes.prod(1).to(torch.int64))
    assert result["boxes"].canvas_size == cut.shape[1:]


def test_torchvision_sanitizing_drops_what_a_crop_cut_away_with_all_its_keys():
    image, target = make_wrapped([[0, 0, 20, 20], [50, 30, 80, 55], [10, 10, 60, 40]])
    left_half = v2.Lambda(lambda value: v2.functional.crop(value, 0, 0, HEIGHT, 45), tv_tensors.TVTensor)
    _, result = sanitizing(left_half)(image, target)
    assert result["labels"].tolist() == [1, 3]
    assert result["weights"].tolist() == [weight_of(0), weight_of(2)]
    assert result["boxes"].tolist() == [[0, 0, 20, 20], [10, 10, 45, 40]]


def test_wrapping_shares_memory_and_keeps_every_key():
    image, target = make_sample([[0, 0, 20, 20]])
    del target["keypoints"]
    wrapped_image, wrapped = to_tv_tensors(image, target)
    assert wrapped.keys() == target.keys()
    assert wrapped_image.data_ptr() == image.data_ptr()
    assert wrapped["boxes"].data_ptr() == target["boxes"].data_ptr()
    assert wrapped["boxes"].canvas_size == (HEIGHT, WIDTH)
    assert isinstance(wrapped["masks"], tv_tensors.Mask)
    assert not isinstance(target["boxes"], tv_tensors.TVTensor)


OFFLINE = """
import socket, sys, warnings
warnings.simplefilter("error")
warnings.simplefilter("ignore", ResourceWarning)  # torch 2.6 leaves a temporary folder to the end
def refuse(*arguments, **options):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import detmix, detmix.data
assert "albumentations" not in sys.modules
import detmix.data.transforms
assert "albumentations" in sys.modules
"""


def test_only_the_bridge_imports_albumentations_and_never_asks_the_network():
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_area_and_visibility_thresholds_are_inclusive_of_the_whole_box():
    image, target = make_sample([[0, 0, 10, 10]])
    _, result = Albumentations([], min_visibility=1.0 - 1e-6, min_area=100)(image, target)
    assert math.prod(result["boxes"].shape) == 4
