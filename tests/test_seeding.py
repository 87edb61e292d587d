"""Samples whose transforms draw by (seed, epoch, index), whichever generator they use."""

import random

import albumentations as A
import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

from detmix import MixupDataset, SeededDataset, collate
from detmix.data.transforms import Albumentations

from .factories import ListDataset, make_sample

GENERATORS = {
    "torch": lambda: torch.rand(()).item(),
    "numpy": np.random.random,
    "random": random.random,
}


class Drawing:
    """A data set without images: a sample is what the global generators give."""

    def __init__(self, *names):
        self.names = names or tuple(GENERATORS)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return tuple(GENERATORS[name]() for name in self.names)


@pytest.mark.parametrize("name", GENERATORS)
def test_each_global_generator_draws_by_seed_epoch_and_index(name):
    samples = SeededDataset(Drawing(name), seed=3)
    first = [samples[index] for index in range(6)]
    assert len(set(first)) == 6
    assert [samples[index] for index in reversed(range(6))] == first[::-1]
    assert samples[-1] == first[5]
    samples.set_epoch(1)
    assert not set(first) & {samples[index] for index in range(6)}
    assert SeededDataset(Drawing(name), seed=4)[0] != first[0]


def test_the_three_generators_do_not_draw_alike():
    drawn = SeededDataset(Drawing())[0]
    assert len(set(drawn)) == 3


def states():
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


def test_global_generators_are_afterwards_as_they_were_after_an_error_too():
    before = states()
    SeededDataset(Drawing())[0]
    assert states() == before
    assert isinstance(np.random.get_bit_generator(), np.random.MT19937)
    with pytest.raises(KeyError):
        SeededDataset(Drawing("none of them"))[0]
    assert states() == before


def shuffle_pixels(image, target):
    """A transform that draws from all three generators."""
    shift = int(torch.randint(100, ())) + int(np.random.randint(100)) + random.randrange(100)
    return image.roll(shift % 64, dims=-1), target


class Composed(A.Compose):
    """albumentations' own Compose, called as a transform of samples."""

    def __call__(self, image, target=None, **rest):
        if target is None:
            return super().__call__(image=image, **rest)
        return torch.from_numpy(super().__call__(image=image.numpy())["image"]), target


TRANSFORMS = {
    "functions": lambda: shuffle_pixels,
    "bridge": lambda: Albumentations([A.CoarseDropout(p=1)]),
    "compose": lambda: Composed([A.GaussNoise(p=1)]),
}


def make_mixed(transform, *, inside):
    data = ListDataset([make_sample(2, seed=seed) for seed in range(6)])
    data.transform = None
    if inside:  # reached through torch's own wrappers
        data = MixupDataset(data, alpha=0.0, transform=transform)
        return MixupDataset(ConcatDataset([Subset(data, range(4)), Subset(data, [4, 5])]), alpha=1.5, seed=1)
    return MixupDataset(data, alpha=1.5, seed=1, transform=transform)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", TRANSFORMS)
def test_a_sample_depends_neither_on_workers_nor_on_the_order_of_visits(kind, inside):
    samples = SeededDataset(make_mixed(TRANSFORMS[kind](), inside=inside), seed=1)
    samples.set_epoch(2)
    wanted = [samples[index] for index in range(6)]
    torch.manual_seed(99)
    loader = DataLoader(
        samples, batch_size=1, num_workers=2, sampler=[5, 0, 3, 1, 4, 2], collate_fn=collate, persistent_workers=True
    )
    for index, ([image], [target]) in zip(loader.sampler, loader, strict=True):
        assert torch.equal(image, wanted[index][0])
        assert torch.equal(target["weights"], wanted[index][1]["weights"])
    again = SeededDataset(make_mixed(TRANSFORMS[kind](), inside=inside), seed=1)  # as after a restart
    again.set_epoch(2)
    assert torch.equal(again[4][0], wanted[4][0])
    samples.set_epoch(3)  # reaches workers that already run
    changed = [
        not torch.equal(image, wanted[index][0]) for index, ([image], _) in zip(loader.sampler, loader, strict=True)
    ]
    assert all(changed)


def test_what_is_mixed_is_the_same_with_and_without_and_around_it():
    plain = MixupDataset(ListDataset([make_sample(2, seed=seed) for seed in range(6)]), seed=5)
    outside, inside = SeededDataset(plain), MixupDataset(SeededDataset(plain.dataset), seed=5)
    for index in range(6):
        assert torch.equal(outside[index][0], plain[index][0])
        assert inside.draw(index) == plain.draw(index)
    outside.enable(False)
    assert not plain.enabled
