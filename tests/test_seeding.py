"""Samples whose transforms draw by (seed, epoch, index), whichever generator they use."""

import copy
import pickle
import random
from functools import partial

import albumentations as A
import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torchvision.transforms import v2

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


class Flipping:
    """A data set whose sample is whether albumentations has flipped it, which it draws from Python's generator."""

    def __init__(self):
        self.flip = A.Compose([A.HorizontalFlip(p=0.5)])

    def __len__(self):
        return 200

    def __getitem__(self, index):
        return bool(self.flip(image=np.array([[0, 1]], np.uint8))["image"][0, 0])


def test_pythons_generator_of_albumentations_draws_by_seed_epoch_and_index():
    def flips(seed, epoch=0):
        samples = SeededDataset(Flipping(), seed=seed)
        samples.set_epoch(epoch)
        return [*samples]

    drawn = flips(3)
    assert abs(sum(drawn) - 100) < 5 * np.sqrt(200 * 0.25)  # five standard deviations of a binomial count
    assert flips(3) == drawn
    assert len({tuple(drawn), tuple(flips(4)), tuple(flips(3, epoch=1))}) == 3


class Holder:
    """A transform that holds something else than itself, under whatever names and however deep."""

    def __init__(self, **held):
        vars(self).update(held)
        self.itself = self

    def __call__(self, image, target):
        return image, target


class Making(Holder):
    """One that makes what it holds anew when it is unpickled."""

    def __init__(self):
        super().__init__(aug=make_compose())

    def __reduce__(self):
        return Making, ()


class Shared:
    """One that holds it for all of its kind."""

    def __call__(self, image, target):
        return image, target


def class_with(**held):
    return type("Heir", (type("Parent", (Shared,), held),), {})()


def make_compose():
    return A.Compose([A.GaussNoise(p=1)])


def unchanged(*arguments, **_):
    return arguments[-2:]


def function_around(compose):
    def call(image, target):
        return (image, target) if compose else undefined

    if not compose:
        undefined = None
    return call


HOLDERS = {
    "attribute": lambda it: Holder(aug=it),
    "attribute of an attribute": lambda it: Holder(augment=Holder(_inner=it)),
    "list": lambda it: Holder(stages=[(it, None), "other"]),
    "dict": lambda it: Holder(by_class={1: it}),
    "class": lambda it: class_with(aug=it),
    "list of a class": lambda it: class_with(stages=[it]),
    "class method": lambda it: class_with(aug=classmethod(partial(unchanged, it))),
    "static method": lambda it: class_with(aug=staticmethod(partial(unchanged, it))),
    "torchvision": lambda it: v2.Compose([v2.RandomGrayscale(), Holder(aug=it)]),
    "partial": lambda it: partial(unchanged, it),
    "partial by name": lambda it: partial(unchanged, aug=it),
    "method": lambda it: Holder(aug=it).__call__,
    "closure": function_around,
    "default": lambda it: lambda image, target, aug=it: (image, target),
}


@pytest.mark.parametrize("how", HOLDERS)
@pytest.mark.parametrize("where", ["data", "transform"])
def test_what_keeps_its_own_generator_is_found_wherever_it_is_held(how, where):
    compose = make_compose()
    held = HOLDERS[how](compose)
    data = ListDataset([make_sample(2, seed=seed) for seed in range(6)])
    if where == "data":
        data.aug = held
    samples = SeededDataset(Subset(MixupDataset(data, transform=held if where == "transform" else None), range(6)))
    drawn = [(samples[index], compose.random_generator.random(), compose.py_random.random()) for index in (2, 3, 2)]
    assert drawn[0][1:] == drawn[2][1:]
    assert drawn[0][1:] != drawn[1][1:]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.parametrize("make", [Making, lambda: Holder(aug=make_compose())])
def test_a_copy_finds_its_own_generators(make, copied):
    samples = SeededDataset(ListDataset([make_sample(2, seed=0)]))
    samples.dataset.aug = make()
    drawn = []
    for each in (copied(samples), copied(copied(samples))):
        each[0]
        drawn.append(each.dataset.aug.aug.random_generator.random())
    assert drawn[0] == drawn[1]


def test_data_are_not_looked_through():
    class Data(list):
        def __iter__(self):
            raise AssertionError("looked through")

    data = ListDataset([make_sample(2, seed=0)])
    data.rows, data.by_image = Data(range(1000)), {index: make_compose() for index in range(1000)}
    samples = SeededDataset(data)
    before = data.by_image[7].random_generator
    samples[0]
    assert data.by_image[7].random_generator is before


def test_what_is_mixed_is_the_same_with_and_without_and_around_it():
    plain = MixupDataset(ListDataset([make_sample(2, seed=seed) for seed in range(6)]), seed=5)
    outside, inside = SeededDataset(plain), MixupDataset(SeededDataset(plain.dataset), seed=5)
    for index in range(6):
        assert torch.equal(outside[index][0], plain[index][0])
        assert inside.draw(index) == plain.draw(index)
    outside.enable(False)
    assert not plain.enabled
