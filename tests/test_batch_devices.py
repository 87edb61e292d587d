"""Batches that do not fit together, and batches on an accelerator."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detmix.batch import MixupBatch

from .test_batch import assert_same, make_lists


def on_meta(batch):
    images, targets = batch
    targets = [{k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in t.items()} for t in targets]
    images = images.to("meta") if isinstance(images, torch.Tensor) else [image.to("meta") for image in images]
    return images, targets


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_off_the_cpu_no_value_is_ever_read(dtype, stacked):
    images, targets = make_lists(4, dtype=dtype, size=(20, 24) if stacked else None)
    for target in targets:
        target |= {"image_id": torch.tensor(3), "weights": torch.ones(len(target["boxes"]))}
    batch = torch.stack(images) if stacked else images, targets
    mixer = MixupBatch(pairing="shuffle", per_sample=True, p=0.9)
    for _ in range(3):  # what is mixed already too; meta tensors have no values: reading one raises
        shapes = [target["boxes"].shape for target in mixer(*batch)[1]]
        mixer.step -= 1
        images, targets = mixer(*on_meta(batch))
        assert images[0].device.type == targets[0]["weights"].device.type == "meta"
        assert [target["boxes"].shape for target in targets] == shapes
        mixer.step -= 1
        batch = mixer(*batch)


class Largest(TorchDispatchMode):
    """Watches how many bytes the largest tensor has that is made."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.nbytes = max([self.nbytes, *(x.nbytes for x in tree_leaves(made) if isinstance(x, torch.Tensor))])
        return made


def test_off_the_cpu_no_floats_of_a_whole_batch_are_made():
    images, targets = make_lists(8, dtype=torch.uint8, size=(200, 240))
    images, targets = on_meta((torch.stack(images), targets))
    with Largest() as largest:
        MixupBatch()(images, targets)
    assert largest.nbytes == images.nbytes


@pytest.mark.gpu
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_on_a_gpu_nothing_waits_and_the_mix_is_that_of_the_cpu(gpu, dtype, stacked):
    images, targets = make_lists(4, dtype=dtype, size=(20, 24) if stacked else None)
    images = torch.stack(images) if stacked else images
    on_gpu = gpu.move(images)
    gpu_targets = [{k: gpu.move(torch.as_tensor(v)) for k, v in target.items()} for target in targets]
    mixer, gpu_mixer = (MixupBatch(pairing="shuffle", per_sample=True, p=0.9) for _ in range(2))
    for first in (True, False):
        expected, expected_targets = mixer(images, targets)
        with gpu.count_waits() as waits:
            mixed, mixed_targets = gpu_mixer(on_gpu, gpu_targets)
        assert first or not waits  # the first step also takes memory
        for image, target, wanted, wanted_target in zip(mixed, mixed_targets, expected, expected_targets, strict=True):
            tolerance = 1 if dtype == torch.uint8 else 1e-6  # a tie may round either way
            torch.testing.assert_close(image.cpu().double(), wanted.double(), rtol=0, atol=tolerance)
            assert_same([{k: torch.as_tensor(v).cpu() for k, v in target.items()}], [wanted_target])


BAD_ROWS = [
    (lambda image, target: (image.float(), target), TypeError, "uint8 on cpu and Tensor of torch.float32"),
    (lambda image, target: (image[:1], target), ValueError, "same channels, got 3 and 1"),
    (lambda image, target: (image.to("meta"), target), TypeError, "on cpu and Tensor of torch.uint8 on meta"),
    (lambda image, target: (image.permute(1, 2, 0).numpy(), target), TypeError, "numpy array"),
    (lambda image, target: (image, {**target, "labels": target["labels"] * 0}), ValueError, "labels must be 1 or more"),
    (
        lambda image, target: (image, on_meta(([], [target]))[1][0]),
        ValueError,
        "one device, got boxes on meta",
    ),
    (
        lambda image, target: (image, {**target, "labels": target["labels"].to("meta")}),
        ValueError,
        "got labels on meta",
    ),
    (lambda image, target: (image, {"labels": target["labels"]}), ValueError, "'boxes' is missing"),
    (lambda image, target: (image, None), TypeError, "a target must be a dict"),
]


@pytest.mark.parametrize(("spoil", "error", "wanted"), BAD_ROWS)
def test_a_row_that_does_not_fit_the_batch_is_named(spoil, error, wanted):
    images, targets = make_lists(4)
    images[2], targets[2] = spoil(images[2], targets[2])
    with pytest.raises(error, match=f"row 2 of the batch: .*{wanted}"):
        MixupBatch(alpha=0)(images, targets)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_rows_that_do_not_fit_each_other_are_named(mix):
    images, targets = make_lists(3)
    targets[2] = {**targets[2], "depth": torch.zeros(len(targets[2]["boxes"]))}
    with pytest.raises(ValueError, match="rows 0 and 2 of the batch: .* has the per-object key 'depth' and .* has not"):
        MixupBatch(mix=mix)(images, targets)


@pytest.mark.parametrize(
    ("change", "error", "wanted"),
    [
        ({"boxes": torch.zeros(2, 5)}, ValueError, r"boxes must have shape \(N, 4\), got \(2, 5\)"),
        ({"boxes": torch.zeros(2, 4, dtype=torch.int64)}, TypeError, "boxes must be of a floating dtype"),
        ({"labels": torch.ones(2)}, TypeError, "labels must be int64, got torch.float32"),
        ({"labels": None}, ValueError, "'labels' is missing"),
        ({"weights": torch.zeros(3)}, ValueError, "weights has 3 rows and boxes has 2"),
        ({"weights": torch.ones(2, dtype=torch.int64)}, TypeError, "weights must be of a floating dtype"),
        ({"masks": torch.zeros(2, 8, 9)}, ValueError, "masks must be of the image's 38x18 pixels, got 9x8"),
        ({"area": [1.0, 2.0]}, TypeError, "area must be a torch.Tensor, got list"),
    ],
)
def test_off_the_cpu_keys_shapes_and_dtypes_are_still_checked(change, error, wanted):
    images, targets = make_lists(3)
    spoilt = {k: v for k, v in {**targets[2], **change}.items() if v is not None}
    with pytest.raises(error, match=f"row 2 of the batch: .*{wanted}"):
        MixupBatch()(*on_meta((images, [*targets[:2], spoilt])))


def test_a_batch_of_the_wrong_shape_is_refused():
    images, targets = make_lists(3, size=(20, 24))
    with pytest.raises(ValueError, match="as many images as targets, got 3 and 2"):
        MixupBatch()(images, targets[:2])
    with pytest.raises(ValueError, match=r"shape \(B, C, H, W\), got \(3, 20, 24\)"):
        MixupBatch()(images[0], targets)
