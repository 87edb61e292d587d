import pickle
from collections import OrderedDict
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from detmix import MixupBatch, collate
from detmix.sending import SentTogether

from .factories import ListDataset, make_sample
from .test_dataset import assert_same

KINDS = {
    "masks": torch.ones(3, 90, 90, dtype=torch.uint8),
    "nothing": torch.empty(0, 4),
    "scalar": torch.tensor(7),
    "strided": torch.arange(12).reshape(3, 4).T[:3],
    "bfloat16": torch.ones(3, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False, True]),
    "differentiable": torch.nn.Parameter(torch.ones(3)),
    "negated": torch.zeros(3, dtype=torch.complex64).conj().imag,
    "boxes": tv_tensors.BoundingBoxes(torch.ones(3, 4), format="XYXY", canvas_size=(5, 5)),
    "array": np.arange(3),
    "image_id": 5,
    "name": "a.jpg",
}


def send(targets):
    """What another process gets; it must be asked for once only, since shared memory is handed over."""
    return pickle.loads(bytes(ForkingPickler.dumps(SentTogether(targets))))


def test_targets_arrive_as_they_were():
    [arrived] = received = send([KINDS])
    assert (type(received), type(arrived)) == (list, dict)
    assert list(arrived) == list(KINDS)
    for key, value in KINDS.items():
        assert type(arrived[key]) is type(value)
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(arrived[key], value, rtol=0, atol=0)
            assert arrived[key].requires_grad == value.requires_grad
            arrived[key].detach().zero_()
        else:
            np.testing.assert_array_equal(arrived[key], value)
    assert arrived["boxes"].canvas_size == (5, 5)
    assert send([]) == []


def test_targets_that_are_no_plain_dicts_arrive_too():
    targets = [[{"bbox": [1, 2, 3, 4]}], torch.ones(2, 5), None, OrderedDict(labels=torch.ones(2))]
    listed, tensor, nothing, ordered = send(targets)
    assert (listed, nothing, type(ordered)) == (targets[0], None, OrderedDict)
    assert torch.equal(tensor, targets[1])
    assert torch.equal(ordered["labels"], targets[3]["labels"])


def test_what_is_small_is_in_the_message_and_what_is_large_is_not():
    sample = make_sample(4, seed=0)[1]
    small, large = (bytes(ForkingPickler.dumps(SentTogether([sample | more]))) for more in ({}, KINDS))
    assert sample["boxes"].numpy().tobytes() in small
    assert b"rebuild_storage" not in small
    assert len(large) < KINDS["masks"].nbytes
    assert b"rebuild_storage" in large


@pytest.mark.parametrize("mixed", [False, True])
def test_batches_of_workers_are_lists_of_dicts_as_without_workers(mixed):
    source = ListDataset([make_sample(index % 3, seed=index) for index in range(6)])
    joined = MixupBatch().collate if mixed else collate
    here = DataLoader(source, batch_size=2, collate_fn=joined)
    there = DataLoader(source, batch_size=2, collate_fn=joined, num_workers=1)
    for (images, targets), (others, arrived) in zip(here, there, strict=True):
        assert type(arrived) is type(targets) is list
        assert_same(zip(images, targets, strict=True), zip(others, arrived, strict=True))


@pytest.mark.parametrize("joined", [collate, MixupBatch().collate])
def test_batches_of_workers_are_sent_together(joined, monkeypatch):
    monkeypatch.setattr("detmix.sending.get_worker_info", lambda: object())
    assert type(joined([make_sample(1, seed=index) for index in range(2)])[1]) is SentTogether
