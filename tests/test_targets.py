import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from detmix import object_keys
from detmix.targets import concatenate, plain, select_objects

from .factories import make_target


def test_select_objects_keeps_every_key_in_step():
    target = make_target(4, seed=0)
    target |= {"weights": torch.rand(4), "mine": torch.arange(4), "image_id": torch.tensor([9]), "name": "cat"}
    target["boxes"] = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=(48, 64))
    rows = torch.tensor([True, False, False, True])
    chosen = select_objects(target, rows)
    assert isinstance(chosen["boxes"], tv_tensors.BoundingBoxes)
    for key in ("boxes", "labels", "weights", "mine"):
        assert torch.equal(chosen[key], target[key][rows])
    assert (chosen["image_id"].tolist(), chosen["name"]) == ([9], "cat")


def test_object_keys_gives_all_per_object_tensors_but_the_boxes():
    target = make_target(2, seed=0) | {"weights": torch.rand(2), "lam": 0.5}
    image = torch.zeros(3, 48, 64)
    for sample in (target, (image, target)):
        assert [id(tensor) for tensor in object_keys(sample)] == [id(target["labels"]), id(target["weights"])]


@pytest.mark.skipif(not hasattr(tv_tensors, "KeyPoints"), reason="this torchvision has no KeyPoints")
@pytest.mark.parametrize(("key", "shape"), [("points", (4, 2)), ("points", (4, 5, 2)), ("keypoints", (4, 5, 2))])
def test_keypoints_of_torchvision_leave_with_the_box_that_is_sanitized(key, shape):
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[1.0, 1, 9, 9]] * 4), format="XYXY", canvas_size=(48, 64))
    boxes[1, 2] = 1.0
    points = tv_tensors.KeyPoints(torch.rand(shape), canvas_size=(48, 64))
    target = {
        "boxes": boxes,
        "labels": torch.arange(1, 5),
        "masks": tv_tensors.Mask(torch.ones(4, 48, 64)),
        key: points,
    }
    clean = v2.SanitizeBoundingBoxes(labels_getter=object_keys)
    _, kept = clean(tv_tensors.Image(torch.zeros(3, 48, 64)), target | {"seen": boxes.clone()})
    assert {k: len(rows) for k, rows in kept.items()} == dict.fromkeys(["boxes", "labels", "masks", key, "seen"], 3)
    assert type(kept[key]) is torch.Tensor
    assert torch.equal(kept[key], plain(points)[[0, 2, 3]])


def test_a_key_that_follows_the_boxes_in_one_target_only_is_refused():
    first, second = (
        make_target(2, seed=0) | {"depth": torch.zeros(2)},
        make_target(2, seed=1) | {"depth": torch.zeros(3)},
    )
    with pytest.raises(ValueError, match="depth has one row for each box in one of the two"):
        concatenate(first, second, size=(48, 64))
    with pytest.raises(ValueError, match="image 0 has the per-object key 'depth' and target of image 1 has not"):
        concatenate(first, make_target(2, seed=1), size=(48, 64))


@pytest.mark.parametrize("size", [(3, 2), (0, 2), (3, 0), (0, 0)])
@pytest.mark.parametrize("first_has", [(), ("weights",), ("sources",), ("weights", "sources")], ids="-".join)
@pytest.mark.parametrize("second_has", [(), ("weights",), ("sources",), ("weights", "sources")], ids="-".join)
def test_absent_weights_count_as_one_and_absent_sources_as_zero(size, first_has, second_has):
    columns = ([0.25, 0.5, 1.0], [0, 2, 1]), ([0.75, 0.125], [1, 0])
    targets, weights, sources = [], [], []
    for count, has, (shares, ids), fade in zip(size, (first_has, second_has), columns, (0.5, 0.25), strict=True):
        shares, ids = shares[:count], ids[:count]
        given = {"weights": torch.tensor(shares), "sources": torch.tensor(ids, dtype=torch.int64)}
        targets.append(make_target(count, seed=count) | {key: given[key] for key in has})
        past = max(sources, default=0) + 1 if targets[1:] else 0
        weights += [fade * (share if "weights" in has else 1.0) for share in shares]
        sources += [past + (number if "sources" in has else 0) for number in ids]
    joined = concatenate(*targets, size=(48, 64), shares=(0.5, 0.25))
    assert joined["weights"].dtype == torch.float32
    assert joined["weights"].tolist() == weights
    assert joined["sources"].dtype == torch.int64
    assert joined["sources"].tolist() == sources


@pytest.mark.parametrize("sizes", [((48, 64), (48, 64)), ((48, 64), (20, 30)), ((20, 64), (48, 30))])
@pytest.mark.parametrize("dtypes", [(torch.bool, torch.bool), (torch.uint8, torch.float32)])
def test_masks_stay_at_the_top_left_of_the_canvas(sizes, dtypes):
    generator = torch.Generator().manual_seed(0)
    targets = [
        make_target(count, seed=count) | {"masks": (torch.rand(count, *size, generator=generator) > 0.5).to(dtype)}
        for count, size, dtype in zip((2, 3), sizes, dtypes, strict=True)
    ]
    joined = concatenate(*targets, size=(48, 64))["masks"]
    assert (joined.shape, joined.dtype) == ((5, 48, 64), torch.promote_types(*dtypes))
    for rows, target in ((joined[:2], targets[0]), (joined[2:], targets[1])):
        height, width = target["masks"].shape[1:]
        assert torch.equal(rows[:, :height, :width], target["masks"].to(rows.dtype))
        assert rows.sum() == target["masks"].sum()


def test_columns_of_two_dtypes_lose_nothing_in_either_order():
    whole = make_target(1, seed=0) | {"area": torch.tensor([5])}
    part = make_target(1, seed=1) | {"area": torch.tensor([10.7])}
    assert concatenate(whole, part, size=(48, 64))["area"].tolist() == pytest.approx([5, 10.7])
    assert concatenate(part, whole, size=(48, 64))["area"].tolist() == pytest.approx([10.7, 5])


@pytest.mark.skipif(not hasattr(tv_tensors, "KeyPoints"), reason="this torchvision has no KeyPoints")
def test_keypoints_of_torchvision_get_the_new_canvas():
    def target(seed, size):
        points = tv_tensors.KeyPoints(torch.zeros(1, 3, 2), canvas_size=size)
        return make_target(1, seed=seed, size=size) | {"keypoints": points}

    joined = concatenate(target(0, (50, 60)), target(1, (80, 90)), size=(80, 90))
    assert joined["keypoints"].canvas_size == (80, 90)
    assert joined["keypoints"].shape == (2, 3, 2)
