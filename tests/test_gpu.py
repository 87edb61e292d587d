"""What must hold on a GPU as on the CPU: ``pytest -m gpu`` runs these alone."""

import copy
import warnings

import pytest
import torch

from detmix import losses_and_detections, mix_pair, weight_losses

from .factories import FAMILIES, make_assembled, make_batch, make_sample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


MIXED = {"weights": ((0.3, 0.7, 0.7), (0.4, 0.6), ()), "sources": ((0, 1, 1), (0, 1), ())}
every_family = pytest.mark.parametrize("family", FAMILIES)


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


@every_family
@pytest.mark.parametrize("objective", ["weighted", "pair"])
def test_unit_weights_give_torchvisions_losses(family, objective):
    model = make_assembled(family).cuda()
    plain = step(copy.deepcopy(model), to_gpu(*make_batch((3, 2, 0))))
    weights = ((1.0,) * 3, (1.0,) * 2, ())
    weighted = step(weight_losses(model, objective), to_gpu(*make_batch((3, 2, 0), weights=weights)))
    torch.testing.assert_close(weighted, plain, rtol=1e-4, atol=1e-5)


@every_family
@pytest.mark.parametrize("objective", ["weighted", "pair"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite(family, objective, dtype):
    model = weight_losses(make_assembled(family), objective).cuda()
    with torch.autocast("cuda", dtype=dtype):
        losses = step(model, to_gpu(*make_batch((3, 2, 0), **MIXED)))
    assert all(loss.isfinite() for loss in losses.values())


@every_family
def test_validation_losses_leave_no_trace(family):
    model = weight_losses(make_assembled(family)).cuda()
    before, state = copy.deepcopy(model.state_dict()), torch.cuda.get_rng_state()
    first, second = (losses_and_detections(model, *to_gpu(*make_batch((3, 2, 0)))) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


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


@every_family
def test_weighted_losses_synchronise_no_more_than_torchvision(family):
    model = make_assembled(family).cuda()
    plain = count_synchronisations(copy.deepcopy(model), to_gpu(*make_batch((3, 2, 0))))
    assert count_synchronisations(weight_losses(model), to_gpu(*make_batch((3, 2, 0), **MIXED))) <= plain
