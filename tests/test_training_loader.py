"""The order of the training samples, and what is drawn for them: functions of the run's seed and the epoch."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from detmix.training import DetectionData
from detmix.training.loader import TrainingOrder

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


def test_order_and_augmentation_follow_the_seed_of_the_run():
    """The augmentation flips half of the images; the scenes are the same."""

    def epoch_of(seed):
        data = DetectionData("shapes", shapes=SCENES, batch_size=4, run_seed=seed)
        return list(data.train_dataloader().sampler), torch.stack([image for image, _ in data.seeded_set])

    (order, images), (again, same), (another, others) = map(epoch_of, (3, 3, 4))
    assert order == again != another
    assert torch.equal(images, same)
    assert 0 < (images != others).flatten(1).any(1).sum() < len(images)
