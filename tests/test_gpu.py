"""What must hold on a GPU as on the CPU: ``pytest -m gpu`` runs these alone."""

import copy
import warnings

import pytest
import torch

from detmix import mix_pair, weight_losses

from .factories import make_batch, make_detector, make_sample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def to_gpu(images, targets):
    moved = [{k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in t.items()} for t in targets]
    return [image.cuda() for image in images], moved


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_mix_pair_on_the_gpu_is_the_mix_on_the_cpu(dtype):
    a, b = (make_sample(2, seed=s, size=(40 + 8 * s, 50 - 8 * s), dtype=dtype) for s in range(2))
    expected, expected_target = mix_pair(*a, *b, lam=0.3)
    (image_a, image_b), (target_a, target_b) = to_gpu(*zip(a, b, strict=True))
    mixed, target = mix_pair(image_a, target_a, image_b, target_b, lam=0.3)
    assert mixed.device.type == target["weights"].device.type == "cuda"
    tolerance = 1 if dtype == torch.uint8 else 1e-2  # a tie may round either way
    torch.testing.assert_close(mixed.cpu().double(), expected.double(), rtol=0, atol=tolerance)
    torch.testing.assert_close(target["weights"].cpu(), expected_target["weights"])


def step(model, batch):
    torch.manual_seed(0)
    losses = model(*batch)
    sum(losses.values()).backward()
    return losses


def test_unit_weights_give_torchvisions_losses():
    model = make_detector().cuda()
    plain = step(copy.deepcopy(model), to_gpu(*make_batch((3, 2, 0))))
    weights = ((1.0,) * 3, (1.0,) * 2, ())
    weighted = step(weight_losses(model), to_gpu(*make_batch((3, 2, 0), weights=weights)))
    torch.testing.assert_close(weighted, plain, rtol=1e-4, atol=1e-5)


def test_bf16_is_finite():
    model = weight_losses(make_detector()).cuda()
    batch = to_gpu(*make_batch((3, 2, 0), weights=((0.3,) * 3, (0.7,) * 2, ())))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        losses = step(model, batch)
    assert all(loss.isfinite() for loss in losses.values())


def count_synchronisations(model, batch):
    step(model, batch)  # the first step also chooses kernels
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step(model, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def test_weighted_losses_synchronise_no_more_than_torchvision():
    model = make_detector().cuda()
    plain = count_synchronisations(copy.deepcopy(model), to_gpu(*make_batch((3, 2))))
    weighted = to_gpu(*make_batch((3, 2), weights=((0.5,) * 3, (0.5,) * 2)))
    assert count_synchronisations(weight_losses(model), weighted) <= plain
