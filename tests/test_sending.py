import copy
import gc
import os
import pickle
from collections import OrderedDict
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.multiprocessing import get_sharing_strategy, set_sharing_strategy
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from detmix import MixupBatch, collate
from detmix.sending import SentTargets, SentTensors

from .conftest import needs_linux
from .datasets import assert_same
from .factories import ListDataset, make_sample
from .stand_in import wait_until

KINDS = {
    "masks": torch.ones(3, 90, 90, dtype=torch.uint8),
    "nothing": torch.empty(0, 4),
    "scalar": torch.tensor(7),
    "strided": torch.arange(12).reshape(3, 4).T[:3],
    "bfloat16": torch.ones(3, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False, True]),
    "differentiable": torch.nn.Parameter(torch.ones(3)),
    "negated": torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
    "boxes": tv_tensors.BoundingBoxes(torch.ones(3, 4), format="XYXY", canvas_size=(5, 5)),
    "array": np.arange(3),
    "image_id": 5,
    "name": "a.jpg",
}


IMAGES = {
    "planar": torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4),
    "interleaved": torch.arange(105, dtype=torch.uint8).reshape(7, 5, 3).permute(2, 0, 1),
    "floats": torch.rand(3, 4, 5),
    "doubles": torch.rand(1, 2, 3, dtype=torch.float64),
    "cropped": torch.arange(300).reshape(3, 10, 10)[:, 2:7, 3:9],
    "gray as colour": torch.rand(1, 4, 5).expand(3, 4, 5),
    "no channels": torch.rand(4, 5),
    "one pixel": torch.ones(3, 1, 1, dtype=torch.bool),
    "empty": torch.empty(3, 0, 5),
    "bfloat16": torch.rand(3, 4, 5).bfloat16(),
    "differentiable": torch.rand(3, 4, 5, requires_grad=True),
    "negated": torch.rand(3, 4, 5, dtype=torch.complex64).conj().imag,
    "video": tv_tensors.Image(torch.rand(3, 4, 5)),
    "array": np.arange(24).reshape(2, 3, 4),
    "pillow": Image.new("RGB", (5, 4), "red"),
    "nothing": None,
}
GAPPED = ("cropped", "gray as colour", "negated")  # have gaps or overlap


def send(batch):
    """What another process gets; it must be asked for once only, since shared memory is handed over."""
    return pickle.loads(bytes(ForkingPickler.dumps(batch)))


def assert_arrived(arrived, sent):
    assert type(arrived) is type(sent)
    if isinstance(sent, torch.Tensor):
        torch.testing.assert_close(arrived, sent, rtol=0, atol=0)
        assert arrived.requires_grad == sent.requires_grad
        arrived.detach().zero_()  # it can be written to
    else:
        np.testing.assert_array_equal(arrived, sent)


@pytest.mark.parametrize("names", [list(IMAGES), ["planar"], ["interleaved", "floats"], ["empty", "array"], []])
def test_images_arrive_as_they_were(names):
    sent = [IMAGES[name] for name in names]
    arrived = send(SentTensors(sent))
    assert type(arrived) is list
    for name, one, other in zip(names, arrived, sent, strict=True):
        assert_arrived(one, other)
        if isinstance(other, torch.Tensor) and name not in GAPPED:
            assert one.stride() == other.stride()


@needs_linux
def test_images_share_one_piece_of_memory_and_do_not_touch_each_other():
    sent = [torch.full((3, size, 7), size, dtype=torch.uint8) for size in range(1, 9)]
    message = bytes(ForkingPickler.dumps(SentTensors(sent)))
    assert b"rebuild_storage" not in message
    arrived = pickle.loads(message)
    assert len({image.untyped_storage().data_ptr() for image in arrived}) == 1
    for row, image in enumerate(arrived):
        image.fill_(100 + row)
    assert [image.unique().tolist() for image in arrived] == [[100 + row] for row in range(8)]


def assert_sent_as_torch_does(images):
    message = bytes(ForkingPickler.dumps(SentTensors(images)))
    assert b"rebuild_storage" in message
    for one, other in zip(pickle.loads(message), images, strict=True):
        assert torch.equal(one, other)


def test_images_go_as_torch_sends_them_where_it_shares_by_names(request):
    request.addfinalizer(partial(set_sharing_strategy, get_sharing_strategy()))
    set_sharing_strategy("file_system")
    assert_sent_as_torch_does([IMAGES["planar"], IMAGES["floats"], IMAGES["negated"]])


def test_images_go_as_torch_sends_them_where_the_system_has_no_files_in_memory(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert_sent_as_torch_does([IMAGES["planar"], IMAGES["floats"], IMAGES["negated"]])


@needs_linux
def test_images_go_as_torch_sends_them_where_no_memory_is_left_for_a_file(monkeypatch):
    monkeypatch.setattr(os, "memfd_create", lambda name: os.open("/dev/full", os.O_WRONLY))
    assert_sent_as_torch_does([IMAGES["planar"], IMAGES["floats"], IMAGES["negated"]])


@needs_linux
def test_images_take_no_room_in_dev_shm_which_is_small_in_containers():
    [arrived] = send(SentTensors([torch.ones(3, 40, 30, dtype=torch.uint8)]))
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    [name] = [
        name for at, *_, name in maps if int(at.split("-")[0], 16) <= arrived.data_ptr() < int(at.split("-")[1], 16)
    ]
    assert name.startswith("/memfd:batch")


def files_in_memory():
    gc.collect()
    links = (link for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return sum(os.path.realpath(link).startswith("/memfd:batch") for link in links)


@needs_linux
def test_no_file_stays_open_once_the_images_are_gone():
    before = files_in_memory()
    arrived = [send(SentTensors([torch.rand(3, 40, 50) for _ in range(2)])) for _ in range(5)]
    wait_until(lambda: files_in_memory() == before + 5)  # a thread hands them over
    del arrived
    assert files_in_memory() == before


@needs_linux
@pytest.mark.parametrize("keep", [pickle.dumps, lambda batch: pickle.dumps(copy.deepcopy(batch))])
def test_what_a_worker_keeps_is_whole_and_holds_no_file(keep):
    images, before = [IMAGES["planar"], IMAGES["interleaved"]], files_in_memory()
    kept = keep((SentTensors(images), SentTargets([{"masks": KINDS["masks"], "name": "a"}])))
    assert files_in_memory() == before
    assert len(kept) > KINDS["masks"].nbytes
    arrived, [target] = pickle.loads(kept)
    assert type(arrived) is list
    assert all(map(torch.equal, arrived, images))
    assert torch.equal(target["masks"], KINDS["masks"])


def test_targets_arrive_as_they_were():
    [arrived] = received = send(SentTargets([KINDS]))
    assert (type(received), type(arrived)) == (list, dict)
    assert list(arrived) == list(KINDS)
    for key, value in KINDS.items():
        assert_arrived(arrived[key], value)
    assert arrived["boxes"].canvas_size == (5, 5)
    assert send(SentTargets([])) == []


def test_targets_that_are_no_plain_dicts_arrive_too():
    targets = [[{"bbox": [1, 2, 3, 4]}], torch.ones(2, 5), None, OrderedDict(labels=torch.ones(2))]
    listed, tensor, nothing, ordered = send(SentTargets(targets))
    assert (listed, nothing, type(ordered)) == (targets[0], None, OrderedDict)
    assert torch.equal(tensor, targets[1])
    assert torch.equal(ordered["labels"], targets[3]["labels"])


def test_what_is_small_is_in_the_message_and_what_is_large_is_not():
    sample = make_sample(4, seed=0)[1]
    small, large = (bytes(ForkingPickler.dumps(SentTargets([sample | more]))) for more in ({}, KINDS))
    assert sample["boxes"].numpy().tobytes() in small
    assert b"rebuild_storage" not in small
    assert len(large) < KINDS["masks"].nbytes


@needs_linux
def test_large_tensors_of_all_targets_share_one_piece_of_memory():
    sent = [{"masks": torch.full((2, 90, 95), row, dtype=torch.uint8), "image_id": row} for row in range(3)]
    message = bytes(ForkingPickler.dumps(SentTargets(sent)))
    assert b"rebuild_storage" not in message
    arrived = pickle.loads(message)
    assert len({target["masks"].untyped_storage().data_ptr() for target in arrived}) == 1
    assert [target["masks"].unique().tolist() for target in arrived] == [[0], [1], [2]]
    assert [list(target.items())[1] for target in arrived] == [("image_id", row) for row in range(3)]


def test_small_tensors_are_sent_as_they_were_though_their_memory_is_sent_with_a_large_one():
    boxes = torch.rand(200_000, 4)
    cuts = [(0, 1200), *((row, row + 90) for row in range(1200, 2550, 90))]  # an image with many objects, then others
    data = [(torch.zeros(3, 2, 2), {"boxes": boxes[first:last]}) for first, last in cuts]
    [(images, targets)] = DataLoader(data, batch_size=16, collate_fn=collate, num_workers=1)
    assert_same(zip(images, targets, strict=True), data)


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
    images, targets = joined([make_sample(1, seed=index) for index in range(2)])
    assert (type(images), type(targets)) == (SentTensors, SentTargets)
