import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch.utils.data import DataLoader

from detmix import MixupDataset, collate
from detmix.data import DetectionDataset, HuggingFaceStream, WebDatasetStream, read_coco, read_image
from detmix.data.reduction import reduce_target
from detmix.target_checks import check_target

BOXES = [(8, 16, 40, 24), (48, 8, 24, 56)]  # x, y, width, height: on the edges of a JPEG's blocks
COLOURS = [(250, 20, 20), (20, 20, 250)]


@pytest.fixture(params=["jpg", "png"])
def annotations(request, tmp_path):
    """An image with two objects in colour on grey, and their outlines."""
    pixels = np.full((71, 101, 3), 120, np.uint8)
    objects = []
    for number, ((x, y, width, height), colour) in enumerate(zip(BOXES, COLOURS, strict=True), start=1):
        pixels[y : y + height, x : x + width] = colour
        outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        row = {"id": number, "image_id": 5, "category_id": number, "bbox": [x, y, width, height], "iscrowd": 0}
        objects.append(row | {"area": width * height / 2, "segmentation": outline})
    name = f"image.{request.param}"
    Image.fromarray(pixels).save(tmp_path / name, **({"quality": 95, "subsampling": 0} if name.endswith("jpg") else {}))
    images = [{"id": 5, "file_name": name, "height": 71, "width": 101}]
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return read_coco(file, tmp_path, masks=True)


def is_colour(image, colour):
    return (image.int() - torch.tensor(colour)[:, None, None]).abs().amax(0) < 60


@pytest.mark.parametrize("reduce_to", [None, 100, 35, 17, 1])
def test_boxes_areas_and_masks_match_the_picture(reduce_to, annotations):
    image, target = DetectionDataset(annotations, reduce_to=reduce_to)[0]
    jpeg = annotations.file_name(0).endswith("jpg")
    part = {35: 2, 17: 4, 1: 8}.get(reduce_to, 1) if jpeg else 1
    assert image.shape == (3, -(-71 // part), -(-101 // part))
    check_target(target, size=tuple(image.shape[1:]))
    for row, colour in enumerate(COLOURS):
        shown = is_colour(image, colour)
        ys, xs = torch.where(shown)
        found = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert target["boxes"][row].tolist() == found.tolist()
        assert target["area"][row].item() == shown.sum().item() / 2
        assert torch.equal(target["masks"][row].bool(), shown)


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("orientation", [1, 6])  # 6 is turned by EXIF; its sides of 72x104 divide
def test_streams_are_reduced_as_data_sets_are(orientation, stated, tmp_path):
    pytest.importorskip("webdataset")
    datasets = pytest.importorskip("datasets")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (104, 72), (90, 20, 160)).save(tmp_path / "image.jpg", exif=exif)
    size = {"width": 104, "height": 72} if orientation == 1 else {"width": 72, "height": 104}
    objects = [{"id": 1, "image_id": 5, "category_id": 3, "bbox": [8, 16, 40, 24], "area": 800, "iscrowd": 0}]
    content = {"images": [{"id": 5, "file_name": "image.jpg", **size}], "annotations": objects}
    (tmp_path / "annotations.json").write_text(json.dumps(content | {"categories": [{"id": 3, "name": "red"}]}))
    [(image, target)] = DetectionDataset(read_coco(tmp_path / "annotations.json", tmp_path), reduce_to=18)
    assert sorted(image.shape[1:]) == [18, 26]

    row = {"image_id": 5, "objects": {"bbox": [[8, 16, 40, 24]], "category": ["red"], "area": [800]}}
    row |= size if stated else {}
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        (tmp_path / "row.json").write_text(json.dumps(row))
        shard.add(tmp_path / "image.jpg", "5.jpg")
        shard.add(tmp_path / "row.json", "5.json")
    rows = datasets.Dataset.from_list([row | {"image": str(tmp_path / "image.jpg")}])
    for stream in (
        WebDatasetStream(tmp_path / "shard.tar", classes=["red"], reduce_to=18),
        HuggingFaceStream(rows.to_iterable_dataset(), classes=["red"], box_format="xywh", reduce_to=18),
    ):
        [(streamed, streamed_target)] = stream
        assert torch.equal(streamed, image)
        assert streamed_target.keys() == target.keys()
        assert all(torch.equal(torch.as_tensor(streamed_target[k]), torch.as_tensor(target[k])) for k in target)


def test_a_target_reduced_by_hand():
    masks = torch.zeros(1, 5, 9, dtype=torch.uint8)
    masks[0, 2, 6] = masks[0, 4, 8] = masks[0, 1, 1] = 1
    target = {"boxes": torch.tensor([[2.0, 1, 9, 5]]), "labels": torch.tensor([3]), "area": torch.tensor([8.0])}
    points = torch.tensor([[[8.0, 3, 2], [0, 0, 0]]])
    reduced = reduce_target({**target, "masks": masks, "keypoints": points}, (5, 9), (2, 3))
    assert reduced["keypoints"].tolist() == [[[1.625, 0.375, 2], [-0.375, -0.375, 0]]]
    assert reduced["boxes"].tolist() == [[0.5, 0.25, 2.25, 1.25]]
    assert reduced["area"].tolist() == [0.5]
    assert reduced["masks"].tolist() == [[[0, 1, 0], [0, 0, 1]]]
    assert reduced["labels"] is target["labels"]
    assert target["boxes"].tolist() == [[2, 1, 9, 5]]
    assert reduce_target(target, (5, 9), (5, 9)) is target


def test_an_image_that_is_no_part_of_the_annotated_one_is_refused():
    with pytest.raises(ValueError, match=r"of \(3, 9\) pixels is no part of one that is annotated as \(5, 9\)"):
        reduce_target({"boxes": torch.zeros(0, 4), "area": torch.zeros(0)}, (5, 9), (3, 9))


def test_an_image_without_objects_is_reduced_too():
    nothing = {"boxes": torch.zeros(0, 4), "area": torch.zeros(0), "masks": torch.zeros(0, 20, 30, dtype=torch.uint8)}
    reduced = reduce_target(nothing, (20, 30), (5, 8))
    assert [tuple(value.shape) for value in reduced.values()] == [(0, 4), (0,), (0, 5, 8)]


def test_reduced_images_are_mixed_and_loaded(annotations):
    data = torch.utils.data.ConcatDataset([DetectionDataset(annotations, reduce_to=to) for to in (None, 17)])
    loader = DataLoader(MixupDataset(data, cache=2), batch_size=2, collate_fn=collate, num_workers=1)
    [(images, targets)] = list(loader)
    for image, target in zip(images, targets, strict=True):
        assert image.shape == (3, 71, 101)
        assert len(target["boxes"]) == 4
        assert target["masks"].shape == (4, 71, 101)


def test_ground_truth_and_targets_without_images_are_as_annotated(annotations):
    whole, reduced = DetectionDataset(annotations), DetectionDataset(annotations, reduce_to=17)
    assert whole.ground_truth() == reduced.ground_truth()
    assert torch.equal(whole.target_of(0)["boxes"], reduced.target_of(0)["boxes"])


@pytest.mark.parametrize(
    ("reduce_to", "error", "message"),
    [
        (0, ValueError, "reduce_to must be 1 or more pixels, or None, got 0"),
        ("800", TypeError, "reduce_to must be an integer or None, got '800'"),
        (float("nan"), TypeError, "reduce_to must be an integer or None, got nan"),
    ],
)
def test_a_size_that_is_no_number_of_pixels_is_refused(reduce_to, error, message, annotations):
    with pytest.raises(error, match=message):
        DetectionDataset(annotations, reduce_to=reduce_to)
    with pytest.raises(error, match=message):
        WebDatasetStream("train.tar", classes=["red"], reduce_to=reduce_to)
    with pytest.raises(error, match=message):
        read_image(annotations.image_path(0), reduce_to=reduce_to)
