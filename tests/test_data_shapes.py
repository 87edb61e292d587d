import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from torchvision.ops import masks_to_boxes

from detmix import check_target
from detmix.data import Shapes
from detmix.data.shapes import SKELETON


def test_scenes_are_a_function_of_seed_and_index():
    scenes, again, others = Shapes(4), Shapes(9), Shapes(4, seed=1)
    for index in (2, 0, 3):
        assert torch.equal(scenes[index][0], again[index][0])
        assert not torch.equal(scenes[index][0], others[index][0])


def test_every_scene_has_objects_inside_it_and_one_covers_no_more_than_half_of_another():
    for index in range(50):
        image, target = Shapes(50, size=96, max_objects=5, max_extent=40)[index]
        assert image.shape == (3, 96, 96)
        assert image.dtype == torch.uint8
        check_target(target, size=(96, 96), num_classes=4)
        assert 1 <= len(target["boxes"]) <= 5
        for row, box in enumerate(target["boxes"].numpy()):
            for cover in target["boxes"].numpy()[row + 1 :]:
                shared = np.clip(np.minimum(box[2:], cover[2:]) - np.maximum(box[:2], cover[:2]), 0, None).prod()
                assert shared <= 0.5 * (box[2:] - box[:2]).prod()


def test_a_lone_shape_fills_its_box_and_nothing_else(monkeypatch):
    monkeypatch.setattr("detmix.data.shapes._texture", textures := Textures())
    image, target = Shapes(1, max_objects=1)[0]
    assert textures.calls == 2
    rows, columns = np.nonzero(image[0].numpy() == 2)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert target["boxes"].tolist() == [box]


def test_the_mask_of_a_lone_shape_is_of_the_pixels_that_it_fills(monkeypatch):
    for seed in range(6):
        monkeypatch.setattr("detmix.data.shapes._texture", Textures())
        image, target = Shapes(1, max_objects=1, seed=seed, masks=True)[0]
        assert torch.equal(target["masks"][0], (image[0] == 2).byte())


def test_masks_are_of_whole_shapes_and_change_nothing_else():
    scenes, plain = Shapes(12, masks=True), Shapes(12)
    covered = 0
    for index in range(12):
        (image, target), (same, boxes_alone) = scenes[index], plain[index]
        assert torch.equal(image, same)
        check_target(target, size=(128, 128))
        masks = target.pop("masks")
        assert torch.equal(masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1]), target["boxes"])
        assert target.keys() == boxes_alone.keys()
        covered += int((masks.sum(0) > 1).sum())
    assert covered > 0  # shapes overlap, or whole ones would be no other than what is seen of them


def test_the_ground_truth_has_the_masks_of_the_scenes():
    scenes = Shapes(5, masks=True)
    truth = scenes.ground_truth()
    for index in range(5):
        rows = [row for row in truth["annotations"] if row["image_id"] == index]
        for row, mask in zip(rows, scenes[index][1]["masks"].numpy(), strict=True):
            encoded = rle.encode(np.asfortranarray(mask))
            assert row["segmentation"] == {**encoded, "counts": encoded["counts"].decode()}
            assert row["area"] == mask.sum()
    for row, plain in zip(truth["annotations"], Shapes(5).ground_truth()["annotations"], strict=True):
        del row["segmentation"]
        assert row == plain | {"area": row["area"]}


class Textures:
    """Stands in for the noise: the first texture is all 1, the second all 2 ..."""

    calls = 0

    def __call__(self, rng, size):
        self.calls += 1
        return np.full((3, size, size), self.calls, np.uint8)


def test_ground_truth_has_the_objects_of_the_scenes():
    scenes = Shapes(5)
    truth = scenes.ground_truth()
    assert [image["id"] for image in truth["images"]] == list(range(5))
    for index in range(5):
        rows = [row for row in truth["annotations"] if row["image_id"] == index]
        x, y, width, height = torch.tensor([row["bbox"] for row in rows]).T
        assert torch.equal(torch.stack([x, y, x + width, y + height], 1), scenes[index][1]["boxes"])
        assert [row["category_id"] for row in rows] == scenes[index][1]["labels"].tolist()
        assert [row["area"] for row in rows] == (width * height).tolist()


def test_labels_are_told_without_drawing_the_scene():
    def never(image, target):
        raise AssertionError

    told = Shapes(6, transform=never)
    for index in (*range(6), -1):
        labels = Shapes(6)[index][1]["labels"]
        assert told.labels_of(index).dtype == labels.dtype == torch.int64
        assert told.labels_of(index).tolist() == labels.tolist()
    with pytest.raises(IndexError):
        told.labels_of(6)
    assert told.get_height_and_width(-1) == (128, 128)
    with pytest.raises(IndexError):
        told.get_height_and_width(6)


def test_iteration_ends():
    assert len(list(Shapes(3))) == 3


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"num_scenes": 0}, "num_scenes must be 1 or more, got 0"),
        ({"num_scenes": 1, "max_objects": 0}, "max_objects must be 1 or more, got 0"),
        ({"num_scenes": 1, "min_extent": 60}, "min_extent=60, max_extent=56"),
        ({"num_scenes": 1, "size": 50}, "size=50"),
    ],
)
def test_impossible_settings_are_refused(options, wanted):
    with pytest.raises(ValueError, match=wanted):
        Shapes(**options)


@pytest.mark.parametrize("name", ["num_scenes", "max_objects", "size", "min_extent", "max_extent"])
def test_settings_that_are_no_integers_are_refused(name):
    with pytest.raises(TypeError, match=f"{name} must be an integer, got 2.5"):
        Shapes(**{"num_scenes": 2, name: 2.5})
    with pytest.raises(TypeError, match="integer"):
        Shapes(2, seed=1.5)


def test_a_scene_has_the_keys_that_are_promised():
    image, target = Shapes(2, size=96, max_extent=40, masks=True)[1]
    assert (image.shape, image.dtype) == ((3, 96, 96), torch.uint8)
    count = len(target["boxes"])
    assert count >= 1
    found = {key: (tuple(value.shape), value.dtype) for key, value in target.items() if key != "image_id"}
    assert found == {
        "boxes": ((count, 4), torch.float32),
        "labels": ((count,), torch.int64),
        "masks": ((count, 96, 96), torch.uint8),
    }
    assert target["image_id"] == 1


def test_keypoints_lie_on_their_shape_and_change_nothing_else():
    scenes, plain = Shapes(40, masks=True, keypoints=True), Shapes(40, masks=True)
    for index in range(40):
        (image, target), (same, others) = scenes[index], plain[index]
        assert torch.equal(image, same)
        assert target.keys() - others.keys() == {"keypoints"}
        check_target(target, size=(128, 128))
        x, y = target["keypoints"][..., :2].long().unbind(2)
        assert target["masks"][torch.arange(len(x))[:, None], y, x].all()
        top, left, right = range(3)
        assert SKELETON.names == ("top", "left", "right")
        assert torch.equal(y[:, top], target["boxes"][:, 1].long())
        assert torch.equal(x[:, left], target["boxes"][:, 0].long())
        assert torch.equal(x[:, right], target["boxes"][:, 2].long() - 1)


def test_a_keypoint_is_hidden_where_a_later_shape_lies_over_it():
    seen = []
    for index in range(40):
        target = Shapes(40, masks=True, keypoints=True)[index][1]
        for number, points in enumerate(target["keypoints"].long().tolist()):
            for x, y, visibility in points:
                covered = bool(target["masks"][number + 1 :, y, x].any())
                assert visibility == (1 if covered else 2)
                seen.append(covered)
    assert any(seen)
    assert not all(seen)


def test_the_ground_truth_has_the_keypoints_of_the_scenes():
    scenes = Shapes(5, keypoints=True)
    truth = scenes.ground_truth()
    assert truth["categories"][2] == {
        "id": 3,
        "name": "triangle",
        "keypoints": ["top", "left", "right"],
        "skeleton": [[1, 2], [2, 3], [3, 1]],
    }
    rows = [row["keypoints"] for row in truth["annotations"]]
    assert rows == [points.ravel().tolist() for index in range(5) for points in scenes[index][1]["keypoints"].numpy()]
    assert {row["num_keypoints"] for row in truth["annotations"]} == {3}
    assert scenes.skeleton == SKELETON
    assert Shapes(5).skeleton is None
