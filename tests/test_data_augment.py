import copy
import pickle
from contextlib import nullcontext

import albumentations as A
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from detmix import MixupBatch, MixupDataset, MixupIterable, cutmix_pair, cutout, object_keys
from detmix.data import Augment, MixupBatchTransform, to_tv_tensors
from detmix.data.transforms import Albumentations
from detmix.targets import OBJECT_KEYS

from .factories import make_sample


def tied_sample(seed):
    """A sample whose weight, source and own key tell which box they belong to."""
    image, target = make_sample(6, seed=seed, dtype=torch.float32)
    rows = torch.arange(6)
    return image, target | {"weights": (rows + 1) / 10, "sources": rows % 2, "mine": rows}


@pytest.mark.parametrize("seed", range(8))
def test_keys_stay_with_their_boxes_through_flip_and_crop(seed):
    torch.manual_seed(seed)
    image, target = tied_sample(seed)
    cropped, result = Augment([v2.RandomIoUCrop(), v2.RandomHorizontalFlip(p=1.0)])(image, target)
    rows = result["mine"]
    assert torch.equal(result["weights"], target["weights"][rows])
    assert torch.equal(result["sources"], target["sources"][rows])
    assert torch.equal(result["labels"], target["labels"][rows])
    assert len(result["boxes"]) == len(rows)
    assert not any(isinstance(value, tv_tensors.TVTensor) for value in (cropped, *result.values()))


def test_a_box_that_is_left_thinner_than_a_thousandth_of_a_pixel_leaves_with_its_keys():
    def narrow(image, target):
        boxes = target["boxes"].clone()
        boxes[:, 0] = 0
        boxes[:3, 2] = torch.tensor([5e-4, 2e-3, 9e-4])
        return image, {**target, "boxes": boxes}

    image, target = tied_sample(0)
    assert Augment([narrow])(image, target)[1]["mine"].tolist() == [1, *target["mine"][3:].tolist()]


def test_without_transforms_a_sample_stays_as_it_is():
    image, target = tied_sample(0)
    same, result = Augment([])(image, target)
    assert torch.equal(same, image)
    assert all(torch.equal(torch.as_tensor(result[key]), torch.as_tensor(target[key])) for key in target)


def test_the_default_flips_half_of_the_time_and_boxes_with_the_image():
    torch.manual_seed(0)
    augment, (image, target) = Augment(), tied_sample(0)
    flips = 0
    for _ in range(200):
        result, labelled = augment(image, target)
        if torch.equal(result, image.flip(-1)):
            flips += 1
            x1, y1, x2, y2 = target["boxes"].T
            torch.testing.assert_close(labelled["boxes"], torch.stack([64 - x2, y1, 64 - x1, y2], 1))
        else:
            assert torch.equal(result, image)
    assert 65 <= flips <= 135  # five standard deviations about 100


@given(st.lists(st.tuples(*[st.floats(0, 60)] * 2, *[st.floats(2e-3, 3)] * 2), min_size=1, max_size=5))
def test_no_object_is_too_small_to_stay(boxes):
    image, boxes = torch.zeros(3, 64, 64), torch.tensor(boxes, dtype=torch.float64)
    boxes[:, 2:] += boxes[:, :2]
    target = {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)}
    _, same = Augment([])(image, target)
    assert torch.equal(same["boxes"], boxes)
    _, flipped = Augment(v2.Compose([v2.RandomHorizontalFlip(1.0)]))(image, target)
    torch.testing.assert_close(flipped["boxes"][:, 2], 64 - boxes[:, 0])


def test_arrays_are_refused():
    image, target = tied_sample(0)
    with pytest.raises(TypeError, match=r"take \(C, H, W\) tensors and PIL images, got ndarray"):
        Augment()(image.permute(1, 2, 0).numpy(), target)


def test_pil_images_stay_such_unless_a_transform_makes_tensors_of_them():
    image, target = make_sample(6, seed=0)
    picture = v2.functional.to_pil_image(image)
    flipped, result = Augment([v2.RandomHorizontalFlip(p=1)])(picture, target)
    expected, labelled = Augment([v2.RandomHorizontalFlip(p=1)])(image, target)
    assert isinstance(flipped, Image.Image)
    assert torch.equal(v2.functional.pil_to_tensor(flipped), expected)
    assert type(result["boxes"]) is torch.Tensor
    assert torch.equal(result["boxes"], labelled["boxes"])
    converted, _ = Augment([v2.ToImage()])(picture, target)
    assert type(converted) is torch.Tensor
    assert torch.equal(converted, image)


@pytest.mark.parametrize("transform", [Augment(), Albumentations([A.HorizontalFlip()])])
def test_what_is_blended_of_pil_images_is_transformed_too(transform):
    samples = [make_sample(2, seed=n) for n in range(3)]
    pictures = [(v2.functional.to_pil_image(image), target) for image, target in samples]
    image, target = MixupDataset(pictures, transform=transform)[0]
    assert isinstance(image, Image.Image)
    assert [len(target[key]) for key in ("boxes", "labels", "weights", "sources")] == [4] * 4


def test_boxes_in_another_format_are_refused():
    image, target = tied_sample(0)
    boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYWH", canvas_size=image.shape[-2:])
    with pytest.raises(ValueError, match="format XYXY, got XYWH"):
        Augment()(image, target | {"boxes": boxes})
    with pytest.raises(ValueError, match="format XYXY, got XYWH"):
        Augment([v2.ConvertBoundingBoxFormat("XYWH")])(image, target)


def test_transforms_may_come_in_a_container_of_torch():
    image, target = tied_sample(0)
    twice = [v2.RandomHorizontalFlip(1.0), v2.RandomVerticalFlip(1.0)]
    for kind in (list, torch.nn.ModuleList, lambda parts: torch.nn.Sequential(*parts), v2.Compose):
        assert torch.equal(Augment(kind(twice))(image, target)[0], image.flip(-1, -2))


def test_what_came_as_tv_tensors_leaves_as_such_and_can_be_flipped_after():
    image, target = to_tv_tensors(*tied_sample(0))
    flipped, moved = v2.RandomHorizontalFlip(1.0)(*Augment([v2.ColorJitter(0.1)])(image, target))
    assert isinstance(flipped, tv_tensors.Image)
    assert isinstance(moved["boxes"], tv_tensors.BoundingBoxes)
    x1, _, x2, _ = target["boxes"].as_subclass(torch.Tensor).T
    torch.testing.assert_close(moved["boxes"].as_subclass(torch.Tensor)[:, 0], 64 - x2)


@pytest.mark.parametrize("transforms", [5, [v2.RandomHorizontalFlip(), 5]])
def test_what_is_no_transform_is_refused(transforms):
    with pytest.raises(TypeError, match="transforms must be v2 transforms, or one, got .*5"):
        Augment(transforms)


def test_a_transform_that_leaves_out_boxes_alone_is_named():
    image, target = tied_sample(0)
    target["boxes"][2, 2:] = target["boxes"][2, :2] + 0.5  # below a pixel
    with pytest.raises(ValueError, match=r"left 5 boxes, and 'weights' of shape .6,.: give SanitizeBounding"):
        Augment([v2.SanitizeBoundingBoxes()])(image, target)
    _, result = Augment([v2.SanitizeBoundingBoxes(labels_getter=object_keys)])(image, target)
    assert result["mine"].tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("mixing", [MixupDataset, MixupIterable])
def test_a_transform_behind_mixing_that_leaves_out_boxes_alone_is_named(mixing):
    samples = [to_tv_tensors(*make_sample(3, seed=n)) for n in range(2)]
    samples[0][1]["boxes"][0, 2:] = samples[0][1]["boxes"][0, :2] + 0.5
    for getter, refusal in (
        ("default", pytest.raises(ValueError, match="0: .* 5 boxes, and .* shape .6")),
        (object_keys, nullcontext()),
    ):
        clean = v2.SanitizeBoundingBoxes(labels_getter=getter)
        for transform in (clean, lambda *sample, clean=clean: list(clean(*sample))):
            with refusal:
                _, target = next(iter(mixing(samples, transform=transform)))
                assert [len(target[key]) for key in ("boxes", "labels", "weights", "sources")] == [5] * 4
    with pytest.raises(ValueError, match=r"6 boxes, and 'area' of shape \(\)"):
        next(iter(mixing(samples, transform=lambda image, target: (image, {**target, "area": torch.tensor(3.0)}))))
    _, target = next(iter(mixing(samples, transform=lambda image, target: (image, len(target["boxes"])))))
    assert target == 6


@pytest.mark.parametrize("mixing", [MixupDataset, MixupIterable])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_key_of_ones_own_that_a_transform_leaves_behind_is_named(mixing, p):
    def first(image, target):
        return image, {key: value[:1] if key in OBJECT_KEYS else value for key, value in target.items()}

    samples = [
        (image, target | {"track": torch.arange(3)}) for image, target in (make_sample(3, seed=n) for n in (0, 1))
    ]
    with pytest.raises(ValueError, match=r"the transforms left 1 boxes, and 'track' of shape \((3|6),\)"):
        next(iter(mixing(samples, p=p, transform=first)))


TRANSFORMS = {
    "flip": Augment([v2.RandomHorizontalFlip(1.0)]),
    "vertical flip": Augment([v2.RandomVerticalFlip(1.0)]),
    "crop": Augment([v2.CenterCrop((30, 40))]),
    "albumentations flip": Albumentations([A.HorizontalFlip(p=1.0)]),
    "albumentations vertical flip": Albumentations([A.VerticalFlip(p=1.0)]),
    "albumentations crop": Albumentations([A.CenterCrop(30, 40)]),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_cut_after_a_transform_takes_what_is_visible_to_lie_evenly_over_the_box(transform):
    image, target = cutmix_pair(*make_sample(4, seed=0), *make_sample(4, seed=1), region=(20, 10, 60, 40))
    target["row"] = torch.arange(len(target["boxes"]))
    moved, moved_target = transform(image, target)
    rows = moved_target["row"]
    for key in ("weights", "labels"):
        assert torch.equal(moved_target[key], target[key][rows])
    height, width = moved.shape[1:]
    _, again = cutout(moved, moved_target, region=(0, 0, width // 2, height))
    left = moved_target["boxes"].clone()
    left[:, 0] = left[:, 0].clamp(min=width // 2)
    share = (left[:, 2] - left[:, 0]).clamp(min=0) / (moved_target["boxes"][:, 2] - moved_target["boxes"][:, 0])
    expected = moved_target["weights"] * share
    torch.testing.assert_close(again["weights"], expected[share > 0])


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("library", ["v2", "albumentations"])
def test_a_flip_that_leaves_a_box_in_place_voids_its_record_too(library, vertical):
    box, regions = (
        ([5, 0, 35, 60], [(0, 0, 60, 30), (0, 30, 60, 60)])
        if vertical
        else ([0, 5, 60, 35], [(0, 0, 30, 60), (30, 0, 60, 60)])
    )
    name = "vertical flip" if vertical else "flip"
    transform = TRANSFORMS[name if library == "v2" else f"albumentations {name}"]
    target = {"boxes": torch.tensor([box]).float(), "labels": torch.tensor([1])}
    moved, flipped = transform(*cutout(torch.ones(3, 60, 60), target, region=regions[0]))
    assert flipped["boxes"].tolist() == [box]
    assert "covers" not in flipped
    assert cutout(moved, flipped, region=regions[1])[1]["weights"].tolist() == [0.25]


def make_images_and_targets(count, *, stacked=False, wrapped=False):
    sizes = [(48, 64) if stacked else (40 + row, 64 - 2 * row) for row in range(count)]
    samples = [make_sample(row % 3, seed=row, size=size) for row, size in enumerate(sizes)]
    samples = [to_tv_tensors(*sample) for sample in samples] if wrapped else samples
    images, targets = [list(column) for column in zip(*samples, strict=True)]
    if not stacked:
        return images, targets
    return (tv_tensors.Image if wrapped else torch.Tensor.contiguous)(torch.stack(images)), targets


def assert_same_batch(given, expected):
    (images, targets), (wanted_images, wanted_targets) = given, expected
    assert type(images) is type(wanted_images)
    for image, wanted in zip(images, wanted_images, strict=True):
        assert type(image) is type(wanted)
        assert torch.equal(image, wanted)
    for target, wanted in zip(targets, wanted_targets, strict=True):
        assert target.keys() == wanted.keys()
        for key, value in target.items():
            assert type(value) is type(wanted[key])
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(wanted[key])), key


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "alpha": st.sampled_from([0, 0.4, 1.5]),
            "p": st.sampled_from([0.5, 1.0]),
            "mix": st.sampled_from(["mixup", "cutmix"]),
            "pairing": st.sampled_from(["roll", "shuffle"]),
            "per_sample": st.booleans(),
            "min_weight": st.sampled_from([0.0, 0.4]),
            "seed": st.integers(0, 9),
        }
    ),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
def test_a_batch_through_v2_is_the_batch_through_mixup_batch_step_by_step(options, count, stacked, wrapped):
    batch = make_images_and_targets(count, stacked=stacked, wrapped=wrapped)
    pipeline, mixer = v2.Compose([MixupBatchTransform(**options), v2.Identity()]), MixupBatch(**options)
    for _ in range(2):
        assert_same_batch(pipeline(*batch), mixer(*batch))


@pytest.mark.parametrize("stacked", [False, True])
def test_kinds_of_tensors_are_kept_and_boxes_know_the_canvas(stacked):
    images, targets = MixupBatchTransform(per_sample=True)(*make_images_and_targets(4, stacked=stacked, wrapped=True))
    assert all(type(image) is tv_tensors.Image for image in ([images] if stacked else images))
    for image, target in zip(images, targets, strict=True):
        assert type(target["boxes"]) is tv_tensors.BoundingBoxes
        assert target["boxes"].canvas_size == image.shape[-2:]


def test_a_pair_in_one_argument_is_a_batch_too():
    batch = make_images_and_targets(3)
    assert_same_batch(v2.Compose([MixupBatchTransform()])(batch), MixupBatch()(*batch))


def test_it_stands_behind_other_transforms_of_batches():
    images, targets = make_images_and_targets(3, wrapped=True)
    pipeline = v2.Compose([v2.RandomHorizontalFlip(p=1), v2.ToDtype(torch.float32, scale=True), MixupBatchTransform()])
    flipped = [v2.functional.to_dtype(image.flip(-1), torch.float32, scale=True) for image in images]
    mixed, _ = pipeline(images, targets)
    expected, _ = MixupBatch()([tv_tensors.Image(image) for image in flipped], targets)
    for image, wanted in zip(mixed, expected, strict=True):
        torch.testing.assert_close(image, wanted)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_the_mixer_inside_can_be_switched_off_resumed_and_copied(duplicate):
    batch = make_images_and_targets(3)
    transform = MixupBatchTransform(seed=4)
    first, second = transform(*batch), transform(*batch)
    other = duplicate(transform)
    other.mixer.load_state_dict({"step": 1, "epoch": 0})
    assert_same_batch(other(*batch), second)
    assert first[1][0]["lam"] != second[1][0]["lam"]
    transform.mixer.enable(False)
    assert transform(*batch)[0] is batch[0]
    assert other.mixer.enabled


def test_no_draw_comes_from_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    MixupBatchTransform()(*make_images_and_targets(3))
    assert torch.rand(()) == expected


def test_the_arguments_show():
    assert repr(MixupBatchTransform(alpha=0.4, mix="cutmix", per_sample=True, seed=2)) == (
        "MixupBatchTransform(alpha=0.4, p=1.0, mix='cutmix', pairing='roll', per_sample=True, min_weight=0.0, seed=2)"
    )


def test_what_is_no_batch_is_refused():
    images, targets = make_images_and_targets(2)
    with pytest.raises(TypeError, match=r"expected images and targets, got \[\]"):
        MixupBatchTransform()()
    with pytest.raises(TypeError, match=r"expected images and targets, got \['Tensor'\]"):
        MixupBatchTransform()(images[0])
    with pytest.raises(TypeError, match=r"got \['list', 'list', 'int'\]"):
        MixupBatchTransform()(images, targets, 3)
    with pytest.raises(ValueError, match="as many images as targets, got 2 and 1"):
        MixupBatchTransform()(images, targets[:1])
    with pytest.raises(ValueError, match="alpha must be"):
        MixupBatchTransform(alpha=-1)
