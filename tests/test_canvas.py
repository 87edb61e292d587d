import re
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detmix import MixupBatch, MixupDataset, MixupIterable, mix_pair
from detmix.canvas import _blend_floats, blend, compiled_blend, paste
from detmix.data.transforms import Mixup

from .factories import make_sample
from .test_mixing import naive_blend

SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))


def noise(size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, *size), dtype=np.uint8))


def interleaved(image):
    return image.permute(1, 2, 0).contiguous().permute(2, 0, 1)


LAYOUTS = {
    "planar": lambda image: image,
    "interleaved": interleaved,
    "cropped": lambda image: torch.nn.functional.pad(image, (3, 5, 2, 1))[:, 2:-1, 3:-5],
    "cropped interleaved": lambda image: interleaved(torch.nn.functional.pad(image, (3, 5, 2, 1)))[:, 2:-1, 3:-5],
    "transposed": lambda image: image.transpose(1, 2).contiguous().transpose(1, 2),
    "thinned": lambda image: image.repeat_interleave(2, dim=2)[:, :, ::2],
}
PAIRS = [(a, b) for a in LAYOUTS for b in LAYOUTS]


@pytest.mark.parametrize(("layout_a", "layout_b"), PAIRS)
@pytest.mark.parametrize("size_b", [(20, 30), (30, 20), (8, 9)])
def test_images_may_lie_in_memory_in_any_way(layout_a, layout_b, size_b):
    a, b = noise((20, 30)), noise(size_b, seed=1)
    blended = blend(LAYOUTS[layout_a](a), LAYOUTS[layout_b](b), 0.3)
    assert torch.equal(blended, blend(a, b, 0.3))
    assert np.abs(blended.numpy() - naive_blend(a, b, 0.3)).max() <= 0.5 + 1e-4


JOINED = {
    "blend": lambda a, b: blend(a, b, 0.3),
    "blend on an accelerator": lambda a, b: _blend_floats(a, b, 0.3),
    "blend of floats": lambda a, b: blend(a.float(), b.float(), 0.3),
    "blend of halves": lambda a, b: blend(a.half(), b.half(), 0.3),
    "paste": lambda a, b: paste(a, b, (2, 3, 8, 9)),
    "paste of floats": lambda a, b: paste(a.float(), b.float(), (2, 3, 8, 9)),
    "cutout": lambda a, b: paste(a, None, (2, 3, 8, 9)),
}


@pytest.mark.parametrize("join", JOINED.values(), ids=JOINED)
@pytest.mark.parametrize("size_b", [(20, 30), (30, 20)])
def test_the_canvas_lies_in_memory_as_the_first_image_does(size_b, join):
    a, b = noise((20, 30)), noise(size_b, seed=1)
    assert join(a, interleaved(b)).is_contiguous()
    assert join(interleaved(a), b).permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("join", JOINED.values(), ids=JOINED)
def test_a_canvas_is_planar_where_one_channel_stands_for_all(join):
    a = noise((20, 30))[:1].expand(3, 20, 30)
    joined = join(a, a)
    assert joined.is_contiguous()
    assert torch.equal(joined, join(a.contiguous(), a))


@pytest.mark.parametrize(("layout_a", "layout_b"), PAIRS)
@pytest.mark.parametrize("size_b", [(400, 600), (600, 400)])
def test_a_blend_takes_no_memory_but_its_canvas(layout_a, layout_b, size_b):
    a, b = LAYOUTS[layout_a](noise((400, 600))), LAYOUTS[layout_b](noise(size_b, seed=1))
    tracemalloc.start()
    try:
        blended = blend(a, b, 0.3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert blended.numel() <= peak <= 1.25 * blended.numel()


@pytest.mark.parametrize(("layout_a", "layout_b"), PAIRS)
def test_floats_may_lie_in_memory_in_any_way(layout_a, layout_b):
    a, b = noise((20, 30)) / 255, noise((30, 20), seed=1) / 255
    blended = blend(LAYOUTS[layout_a](a), LAYOUTS[layout_b](b), 0.3)
    np.testing.assert_allclose(blended, naive_blend(a, b, 0.3), rtol=0, atol=1e-7)


@given(SIZES, SIZES, st.floats(0, 1))
def test_every_pixel_of_the_canvas_is_written(size_a, size_b, lam):
    a, b = np.ones((3, *size_a), np.uint8), np.ones((3, *size_b), np.uint8)
    canvas = np.full((3, *map(max, size_a, size_b)), 255, np.uint8)
    compiled_blend()(canvas, a, b, lam)
    assert canvas.max() <= 1


@given(st.floats(0, 1) | st.sampled_from([2**-25, 2**-24, 2**-16, 2**-8, 0.25, 1 / 3, 0.5, 1 - 2**-25]))
def test_any_two_levels_are_blended_to_the_nearest_one(lam):
    levels = np.arange(256, dtype=np.uint8)
    a, b = np.broadcast_to(levels[None, :, None], (1, 256, 256)), np.broadcast_to(levels[None, None], (1, 256, 256))
    canvas = np.empty((1, 256, 256), np.uint8)
    compiled_blend()(canvas, a, b, lam)
    assert np.abs(canvas - (lam * a + (1 - lam) * b)).max() <= 0.5 + 255 * 2.0**-25 + 1e-9


@given(SIZES, SIZES, st.floats(0, 1))
def test_uint8_is_rounded_to_nearest_on_an_accelerator_too(size_a, size_b, lam):
    a, b = noise(size_a), noise(size_b, seed=1)
    blended = _blend_floats(a, b, lam)  # its way, here on the CPU
    assert blended.dtype == torch.uint8
    assert np.abs(blended.numpy() - naive_blend(a, b, lam)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@given(SIZES, SIZES, st.floats(0, 1), st.sampled_from([1, 255]))
def test_floats_are_the_float64_blend_rounded_once(dtype, size_a, size_b, lam, scale):
    a, b = ((noise(size, seed=seed).double() * scale / 255).to(dtype) for seed, size in enumerate((size_a, size_b)))
    blended = blend(a, b, lam)
    assert blended.dtype == dtype
    exact = torch.from_numpy(naive_blend(a.double(), b.double(), lam))
    spacing = torch.finfo(dtype).eps * exact.clamp(torch.finfo(dtype).tiny)  # at most, of numbers of that size
    rounding = 2 * torch.finfo(torch.float32).eps * scale  # of the sum, in float32
    assert ((blended.double() - exact).abs() <= spacing / 2 + rounding).all()


@pytest.mark.parametrize("shape", [(0, 8, 8), (3, 0, 8), (3, 8, 0)])
@pytest.mark.parametrize("kind", [torch.zeros, np.zeros])
def test_an_image_without_pixels_or_channels_is_refused(kind, shape):
    image = kind(shape, dtype=torch.uint8 if kind is torch.zeros else np.uint8)
    _, target = make_sample(0, seed=0)
    with pytest.raises(ValueError, match="at least one pixel and one channel"):
        mix_pair(image, target, image, target, lam=0.3)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("make", [lambda image: image.permute(1, 2, 0), lambda image: image.numpy()])
def test_channels_at_the_other_end_are_refused_with_the_way(channels, make):
    image, target = torch.zeros(channels, 48, 64, dtype=torch.uint8), make_sample(2, seed=0)[1]
    with pytest.raises(ValueError, match=r"must have shape \(\w, \w, \w\), got .*: image\.\w+\(.*\) turns") as error:
        mix_pair(make(image), target, make(image), target, lam=0.3)
    [way] = re.findall(r"image\.(?:permute|transpose)\([\d, ]*\)", str(error.value))
    turned = eval(way, {"image": make(image)})
    assert len(mix_pair(turned, target, turned, target, lam=0.3)[1]["boxes"]) == 4


def test_gaps_are_rounded_to_nearest_too():
    levels = torch.arange(256, dtype=torch.uint8)[None, None]
    for lam in (0.1, 0.25, 1 / 3, 0.5, 0.9):
        gap = blend(levels, torch.zeros(1, 1, 1, dtype=torch.uint8), lam)[..., 1:].double()
        assert (gap - lam * levels[..., 1:]).abs().max() <= 0.5 + 1e-4


MIXERS = {
    "samples": lambda **options: MixupDataset([make_sample(1, seed=seed) for seed in range(2)], **options),
    "stream": lambda **options: MixupIterable([], **options),
    "batch": MixupBatch,
    "albumentations": Mixup,
}


@pytest.mark.parametrize("make", MIXERS.values(), ids=MIXERS)
def test_the_blend_is_compiled_before_workers_are_forked(make):
    for options, compiled in (({"alpha": 0.0}, 0), ({}, 1)):
        compiled_blend.cache_clear()
        make(**options)
        assert compiled_blend.cache_info().currsize == compiled


ARRAYS = {
    "as it is": lambda image: image,
    "colours turned round": lambda image: image[..., ::-1],
    "flipped": lambda image: image[:, ::-1],
    "thinned": lambda image: image[::2, ::2],
    "gray": lambda image: image[..., 0],
    "one colour": lambda image: image[..., :1],
}


@pytest.mark.parametrize("view", ARRAYS.values(), ids=ARRAYS)
def test_arrays_become_arrays_that_others_can_draw_on(view):
    a, b = (view(noise((20, 30), seed=seed).permute(1, 2, 0).numpy().copy()) for seed in (0, 1))
    blended = blend(a, b, 0.3)
    assert blended.flags.c_contiguous
    assert np.abs(blended - (0.3 * a + 0.7 * b)).max() <= 0.5 + 1e-4
