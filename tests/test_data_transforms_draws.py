"""What the random transforms of albumentations draw by: seed, epoch and image, in workers too."""

import copy
import pickle

import albumentations as A
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from detmix.data.transforms import Albumentations

from .test_data_transforms import HEIGHT, WIDTH, make_sample


def shift_of(augment, image_id):
    """How far a random crop went, read off the box of one object that covers the image."""
    image = torch.arange(HEIGHT * WIDTH).reshape(1, HEIGHT, WIDTH).float() / (HEIGHT * WIDTH)
    cropped, _ = augment(image, make_sample([[0, 0, WIDTH, HEIGHT]], image_id)[1])
    return round(float(cropped[0, 0, 0]) * HEIGHT * WIDTH)


def crops(augment, image_ids):
    return [shift_of(augment, image_id) for image_id in image_ids]


def test_with_a_seed_draws_depend_on_seed_epoch_and_image_alone():
    def make(seed):
        return Albumentations([A.RandomCrop(20, 20)], seed=seed)

    first, second = make(3), make(3)
    forward = crops(first, range(8))
    assert crops(second, reversed(range(8))) == forward[::-1]
    assert len(set(forward)) > 1
    assert crops(make(4), range(8)) != forward
    second.set_epoch(1)
    later = crops(second, range(8))
    assert later != forward
    second.set_epoch(0)
    assert crops(second, range(8)) == forward
    first.set_epoch(1)
    assert crops(first, range(8)) == later


def test_without_a_seed_every_call_and_every_pipeline_draws_anew():
    augment = Albumentations([A.RandomCrop(20, 20)])
    assert len(set(crops(augment, [7] * 20))) > 1
    assert crops(augment, range(10)) != crops(Albumentations([A.RandomCrop(20, 20)]), range(10))


def test_global_random_state_is_neither_read_nor_written():
    augment = Albumentations([A.RandomCrop(20, 20)], seed=3)
    np.random.seed(0)
    torch.manual_seed(0)
    first = crops(augment, range(5))
    numpy_after, torch_after = np.random.random(), torch.rand(())
    np.random.seed(0)
    torch.manual_seed(0)
    assert (np.random.random(), torch.rand(())) == (numpy_after, torch_after)
    assert crops(augment, range(5)) == first


def test_an_image_id_may_be_any_int64():
    drawn = crops(Albumentations([A.RandomCrop(20, 20)], seed=0), (-1, -(2**63), 2**63 - 1, 0))
    assert len(set(drawn)) == 4


class Crops(torch.utils.data.Dataset):
    def __init__(self, augment):
        self.augment = augment

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return shift_of(self.augment, index)


def unpickled(augment):
    return pickle.loads(pickle.dumps(augment))


@pytest.mark.parametrize("prepare", [lambda augment: augment, copy.deepcopy, unpickled])
def test_persistent_workers_see_the_epoch_and_draw_the_same(prepare):
    augment = prepare(Albumentations([A.RandomCrop(20, 20)], seed=3))
    loader = DataLoader(
        Crops(augment),
        batch_size=None,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    for epoch in (0, 1):
        augment.set_epoch(epoch)
        assert list(loader) == crops(augment, range(6))
