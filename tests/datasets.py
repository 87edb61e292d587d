"""Data sets that the tests mix, and what comes out of them."""

import torch

from .factories import ListDataset, make_sample

COUNT = 12


def make_dataset(count=COUNT):
    return ListDataset([make_sample(index % 3, seed=index, size=(16 + index, 32)) for index in range(count)])


class Labelled(ListDataset):
    """Samples whose labels can be had without their images."""

    def labels_of(self, index):
        return self.samples[index][1]["labels"]

    def get_height_and_width(self, index):
        return self.samples[index][0].shape[-2:]


def make_labelled(count=COUNT):
    return Labelled(make_dataset(count).samples)


def assert_same(samples, others):
    for (image, target), (other, other_target) in zip(samples, others, strict=True):
        assert torch.equal(image, other)
        assert target.keys() == other_target.keys()
        assert all(torch.equal(torch.as_tensor(target[k]), torch.as_tensor(other_target[k])) for k in target)


def epochs(loader, dataset, numbers=(0, 1)):
    """All samples of some epochs, by epoch."""
    samples = []
    for epoch in numbers:
        dataset.set_epoch(epoch)
        samples.append([sample for batch in loader for sample in zip(*batch, strict=True)])
    return samples
