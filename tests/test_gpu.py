"""What must hold on a GPU as on the CPU: ``pytest -m gpu`` runs these, and those of other files, alone."""

import copy

import pytest
import torch

from detmix import losses_and_detections, mix_pair, weight_losses
from detmix.analysis import detection_rates, entanglement

from .factories import FAMILIES, ListDataset, make_assembled, make_batch, make_sample

pytestmark = pytest.mark.gpu


MIXED = {"weights": ((0.3, 0.7, 0.7), (0.4, 0.6), ()), "sources": ((0, 1, 1), (0, 1), ())}
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_mix_pair_on_the_gpu_is_the_mix_on_the_cpu(gpu, dtype):
    a, b = (make_sample(2, seed=s, size=(40 + 8 * s, 50 - 8 * s), dtype=dtype) for s in range(2))
    expected, expected_target = mix_pair(*a, *b, lam=0.3)
    mixed, target = mix_pair(*gpu.move(a), *gpu.move(b), lam=0.3)
    assert mixed.device.type == target["weights"].device.type == gpu.device.type
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
def test_unit_weights_give_torchvisions_losses(gpu, family, objective):
    plain = step(make_assembled(family).to(gpu.device), gpu.move(make_batch((3, 2, 0))))
    model = weight_losses(make_assembled(family).to(gpu.device), objective)
    weighted = step(model, gpu.move(make_batch((3, 2, 0), weights=((1.0,) * 3, (1.0,) * 2, ()))))
    torch.testing.assert_close(weighted, plain, rtol=1e-4, atol=1e-5)


@every_family
@pytest.mark.parametrize("objective", ["weighted", "pair", "unweighted"])
def test_a_simulated_gpu_gives_the_losses_and_gradients_of_the_cpu(gpu, family, objective):
    if not gpu.simulated:
        pytest.skip("a real one draws other rows")
    models = [weight_losses(make_assembled(family).to(device), objective) for device in ("cpu", gpu.device)]
    batch = make_batch((3, 2, 0), **MIXED)
    expected, losses = step(models[0], batch), step(models[1], gpu.move(batch))
    assert {loss.device.type for loss in losses.values()} == {gpu.device.type}
    torch.testing.assert_close({name: loss.cpu() for name, loss in losses.items()}, expected)
    for parameter, wanted in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(parameter.grad.cpu(), wanted.grad)


@every_family
@pytest.mark.parametrize("objective", ["weighted", "pair"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_half_precision_is_finite(gpu, family, objective, dtype):
    model = weight_losses(make_assembled(family), objective).to(gpu.device)
    with torch.autocast("cuda", dtype=dtype):
        losses = step(model, gpu.move(make_batch((3, 2, 0), **MIXED)))
    assert all(loss.isfinite() for loss in losses.values())


@every_family
def test_validation_losses_leave_no_trace(gpu, family):
    model = weight_losses(make_assembled(family)).to(gpu.device)
    state = torch.random if gpu.simulated else torch.cuda
    before, random_state = copy.deepcopy(model.state_dict()), state.get_rng_state()
    first, second = (losses_and_detections(model, *gpu.move(make_batch((3, 2, 0)))) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert torch.equal(state.get_rng_state(), random_state)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def count_waits(gpu, model, batch):
    """Of the second step: the first one also chooses kernels."""
    step(model, batch)
    with gpu.count_waits() as waits:
        step(model, batch)
    return len(waits)


@every_family
def test_weighted_losses_wait_no_more_often_than_torchvision(gpu, family):
    plain = count_waits(gpu, make_assembled(family).to(gpu.device), gpu.move(make_batch((3, 2, 0))))
    model = weight_losses(make_assembled(family).to(gpu.device))
    assert 0 < count_waits(gpu, model, gpu.move(make_batch((3, 2, 0), **MIXED))) <= plain


@every_family
def test_pair_waits_for_the_sources_of_a_batch_once_or_twice_however_many_images_it_has(gpu, family):
    more = []
    for images in (2, 4):
        ones, zeros = (((value,) * 3,) * images for value in (1.0, 0))  # of one source: matched as often as without
        batch = gpu.move(make_batch((3,) * images, weights=ones, sources=zeros))
        models = [weight_losses(make_assembled(family).to(gpu.device), name) for name in ("pair", "weighted")]
        counts = [count_waits(gpu, model, batch) for model in models]
        more.append(counts[0] - counts[1])
    assert more[0] == more[1] == (2 if "RCNN" in family else 1)


def test_what_is_measured_of_a_model_on_the_gpu_is_that_of_one_on_the_cpu(gpu):
    scenes = ListDataset([make_sample(3, seed=seed) for seed in range(4)])
    common = {"class_names": ["a", "b", "c"]}
    rates, distances = [], []
    for device in ("cpu", gpu.device):
        model = make_assembled("FasterRCNN").eval().to(device)
        rates.append(detection_rates(model, scenes, score_threshold=0.0, iou_threshold=0.1, **common))
        distances.append(entanglement(model, scenes, ["input", "backbone.1", "roi"], **common))
    assert 0 < rates[0].found.sum()
    assert rates[0].found.tolist() == rates[1].found.tolist()
    assert distances[0].losses.tolist() == pytest.approx(distances[1].losses.tolist(), rel=1e-3)


def test_a_simulated_gpu_refuses_what_a_real_one_would_and_notes_what_is_waited_for(gpu):
    there, here = torch.arange(3.0).to(gpu.device), torch.ones(3)
    with pytest.raises(RuntimeError, match="host|same device"):
        there + here
    with pytest.raises((TypeError, RuntimeError), match="numpy"):
        there.numpy()
    with pytest.raises(RuntimeError, match="host|same device"):
        torch.stack([there[0], here[0]])
    assert (there + torch.tensor(2.0)).tolist() == [2, 3, 4]
    mask = there > 0
    for expected, action in {
        1: lambda: there[mask],
        2: lambda: [float(there.sum()), torch.where(mask)],
        3: lambda: [there.tolist(), here.to(gpu.device), there.cpu()],
        0: lambda: [there[None] @ there[:, None], there.masked_fill(mask, 1), torch.zeros_like(there)],
    }.items():
        with gpu.count_waits() as waits:
            action()
        assert len(waits) == expected
