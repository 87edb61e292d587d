"""The order of the training samples, and what is drawn for them: functions of the run's seed and the epoch."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from detmix.benchmark.photographs import write_coco
from detmix.training import DetectionData, MixupOptions
from detmix.training.loader import TrainingOrder, in_like_batches

from .test_training_mixing import SCENES

SEEDS, EPOCHS = st.integers(0, 10**6), st.integers(0, 300)


def visits(count=20, epoch=0, skipped=None, **settings):
    order = TrainingOrder(range(count), **settings)
    order.set_epoch(epoch)
    if skipped is not None:
        order.skip(*skipped)
    return list(order)


@given(st.integers(1, 40), SEEDS, EPOCHS)
def test_an_epoch_visits_each_sample_once(count, seed, epoch):
    assert sorted(visits(count, epoch, seed=seed)) == list(range(count))


def test_the_order_is_another_in_each_epoch_and_for_each_seed():
    assert len({tuple(visits(epoch=epoch, seed=7)) for epoch in range(20)}) == 20
    assert len({tuple(visits(epoch=7, seed=seed)) for seed in range(20)}) == 20
    assert visits(epoch=7, seed=3) == visits(epoch=7, seed=3)


@given(st.sets(st.integers(0, 4000), min_size=2, max_size=2), st.integers(0, 30))
def test_no_order_of_a_seed_is_one_of_another_seed(seeds, shift):
    """torch's sampler shuffles by seed + epoch: orders of the seeds 0 and 1 would be the same, an epoch apart."""
    first, second = ({tuple(visits(epoch=epoch, seed=seed)) for epoch in range(shift, shift + 10)} for seed in seeds)
    near = {tuple(visits(epoch=epoch, seed=max(seeds))) for epoch in range(3)} & {
        tuple(visits(epoch=epoch, seed=max(seeds) - 1)) for epoch in range(4)
    }
    assert not first & second
    assert not near


@given(st.integers(1, 40), st.integers(1, 4), SEEDS, EPOCHS)
def test_processes_share_an_epoch_evenly(count, processes, seed, epoch):
    shares = [visits(count, epoch, processes=processes, rank=rank, seed=seed) for rank in range(processes)]
    assert {len(share) for share in shares} == {-(-count // processes)}
    in_turn = [sample for together in zip(*shares, strict=True) for sample in together]
    alone = visits(count, epoch, seed=seed)
    assert in_turn[:count] == alone  # none twice
    assert in_turn[count:] == (alone * processes)[: len(in_turn) - count]  # the last round is filled up


@given(st.integers(1, 40), st.integers(0, 40), SEEDS, EPOCHS)
def test_what_was_visited_is_left_out_of_that_epoch_alone(count, done, seed, epoch):
    whole = visits(count, epoch, seed=seed)
    assert visits(count, epoch, (epoch, done), seed=seed) == whole[done:]
    assert visits(count, epoch, (epoch + 1, done), seed=seed) == whole


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 7), st.randoms(use_true_random=False))
def test_batches_are_of_one_orientation_and_miss_no_sample(landscape, batch_size, random):
    order = random.sample(range(len(landscape)), len(landscape))
    arranged = in_like_batches(order, np.array(landscape, bool), batch_size)
    assert sorted(arranged) == sorted(order)
    batches = [arranged[start : start + batch_size] for start in range(0, len(arranged), batch_size)]
    mixed = [number for number, batch in enumerate(batches) if len({landscape[i] for i in batch}) == 2]
    whole = sum(landscape.count(kind) // batch_size for kind in (False, True))
    assert mixed in ([], [whole])  # the first that is made of what fills none
    for kind in (False, True):
        alike = [i for i in order if landscape[i] == kind]
        assert [i for i in arranged if landscape[i] == kind] == alike  # in the order in which they were drawn


@given(st.integers(0, 40), st.integers(1, 7), st.booleans())
def test_images_that_are_alike_stay_in_order(count, batch_size, kind):
    order = list(range(count))[::-1]
    assert in_like_batches(order, np.full(count, kind), batch_size) == order


def test_a_batch_comes_when_its_last_sample_does():
    landscape = np.array([True, False, True, False, True, True, False, False, True])
    assert in_like_batches(range(9), landscape, 2) == [0, 2, 1, 3, 4, 5, 6, 7, 8]
    assert in_like_batches(range(9), landscape, 3) == [0, 2, 4, 1, 3, 6, 7, 5, 8]


@given(st.integers(1, 40), st.integers(0, 5), SEEDS)
def test_batches_that_were_visited_are_left_out(count, batches, seed):
    settings = {"seed": seed, "batch_size": 4, "landscape": np.arange(count) % 3 == 0}
    whole, drawn = visits(count, **settings), visits(count, seed=seed)
    alone = count - 1 if count % 4 == 1 else count  # what is left for a batch of one image is the last that was drawn
    assert whole == in_like_batches(drawn[:alone], settings["landscape"], 4) + drawn[alone:]
    assert visits(count, skipped=(0, 4 * batches), **settings) == whole[4 * batches :]


def test_no_orientation_is_always_the_last_one_which_may_be_left_out():
    """A single image that is left for the last batch is not trained on."""
    landscape = np.arange(9) < 8
    last = [visits(9, epoch, seed=0, batch_size=2, landscape=landscape)[-1] for epoch in range(300)]
    assert 10 < last.count(8) < 70  # of 300 / 9
    assert set(last) == set(range(9))


def test_batches_of_the_trainer_are_of_one_orientation_and_with_like_partners_their_canvases_too(tmp_path):
    write_coco(tmp_path, 24, (24, 32), objects=1, portraits=1 / 3)
    files = {"root": str(tmp_path), "annotations": "annotations.json", "images": "images"}

    def shapes(partner, **settings):
        """Of each batch of an epoch, its image shapes."""
        mixup = None if partner is None else MixupOptions(partner=partner)
        data = DetectionData("coco", **files, mixup=mixup, batch_size=4, **settings)
        return [{tuple(image.shape[1:]) for image in images} for images, _ in data.train_dataloader()]

    wide, high, square = (24, 32), (32, 24), (32, 32)
    for partner in (None, "same_orientation"):
        assert sorted(map(sorted, shapes(partner))) == sorted([[wide]] * 4 + [[high]] * 2)
    assert {wide, high} in shapes(None, aspect_ratio_grouping=False)
    found = shapes("any")
    assert any(square in batch for batch in found)
    assert not any({wide, high} <= batch for batch in found)


def test_order_and_augmentation_follow_the_seed_of_the_run():
    """The augmentation flips half of the images; the scenes are the same."""

    def epoch_of(seed):
        data = DetectionData("shapes", shapes=SCENES, batch_size=4, run_seed=seed)
        return list(data.train_dataloader().sampler), torch.stack([image for image, _ in data.seeded_set])

    (order, images), (again, same), (another, others) = map(epoch_of, (3, 3, 4))
    assert order == again != another
    assert torch.equal(images, same)
    assert 0 < (images != others).flatten(1).any(1).sum() < len(images)
