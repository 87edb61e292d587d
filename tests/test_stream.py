import copy
import pickle
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import ChainDataset, DataLoader, IterableDataset, get_worker_info

from detmix import collate, mix_pair
from detmix.stream import MixupIterable

from .datasets import assert_same
from .factories import make_sample

COUNT = 17


@contextmanager
def process_group(rank, total):
    """This process as one of several that train together, without the others."""
    distributed.init_process_group("fake", rank=rank, world_size=total, store=FakeStore())
    try:
        yield
    finally:
        distributed.destroy_process_group()


def make_samples(count=COUNT):
    return [make_sample(index % 3, seed=index, size=(16 + index, 32)) for index in range(count)]


def numbered(count):
    """Samples whose box says which of them it is."""
    return [
        (
            torch.zeros(1, 2, count + 1),
            {
                "boxes": torch.tensor([[index, 0.0, index + 1.0, 1.0]]),
                "labels": torch.tensor([1]),
                "image_id": index,
            },
        )
        for index in range(count)
    ]


def partners(samples):
    """(sample, partner) numbers of numbered samples, the partner -1 where there is none."""
    rows = [target["boxes"][:, 0].tolist() for _, target in samples]
    return [(int(row[0]), int(row[1]) if len(row) == 2 else -1) for row in rows]


class Stream(IterableDataset):
    """Samples in the order of the epoch: each begins one further on. Shares itself out if told to."""

    def __init__(self, samples, *, shares=False):
        self.samples, self.shares, self.epoch, self.read = samples, shares, 0, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        worker = get_worker_info()
        number, total = (worker.id, worker.num_workers) if self.shares and worker else (0, 1)
        for index in range(number, len(self.samples), total):
            self.read += 1
            yield self.samples[(index + self.epoch) % len(self.samples)]


def loaded(dataset, workers, *, epochs=(0,), method=None):
    """The samples that a loader gives, for each epoch."""
    loader = DataLoader(
        dataset,
        batch_size=2,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context=method,
        persistent_workers=workers > 0,
    )
    found = []
    for epoch in epochs:
        dataset.set_epoch(epoch)
        found.append([sample for batch in loader for sample in zip(*batch, strict=True)])
    return found


@given(st.integers(0, 30), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_every_sample_comes_once_in_order_with_a_partner_from_its_window(count, buffer_size, seed):
    found = partners(MixupIterable(numbered(count), buffer_size=buffer_size, seed=seed))
    assert [own for own, _ in found] == list(range(count))
    for own, partner in found:
        first = max(0, own - buffer_size)
        window = set(range(first, min(first + buffer_size + 1, count))) - {own}
        assert partner in window or (partner == -1 and count == 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_sample_is_the_mix_of_itself_and_its_partner(dtype):
    samples = [make_sample(1 + index % 2, seed=index, size=(16 + index, 32), dtype=dtype) for index in range(8)]
    found = list(MixupIterable(samples, buffer_size=3, alpha=0.7, min_weight=0.3))
    for own, (image, target) in enumerate(found):
        mixes = [
            mix_pair(*samples[own], *other, lam=target["lam"], min_weight=0.3)
            for other in samples[:own] + samples[own + 1 :]
        ]
        [expected] = [(mixed, mixed_target) for mixed, mixed_target in mixes if torch.equal(mixed, image)]
        assert_same([(image, target)], [expected])


def test_partners_are_all_others_of_the_window_equally_often():
    stream = MixupIterable(numbered(10), buffer_size=4)
    counts = np.zeros((10, 10), int)
    for epoch in range(600):
        stream.set_epoch(epoch)
        counts[tuple(zip(*partners(stream), strict=True))] += 1
    for own in range(10):
        first = max(0, own - 4)
        window = [other for other in range(first, first + 5) if other != own]
        assert counts[own].sum() == counts[own, window].sum() == 600
        assert stats.chisquare(counts[own, window]).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [0.2, 1.0, 1.5])
def test_ratios_are_of_the_beta_distribution(alpha):
    lams = [target["lam"] for _, target in MixupIterable(numbered(2) * 500, alpha=alpha, seed=2)]
    assert stats.kstest(lams, stats.beta(alpha, alpha).cdf).pvalue > 1e-4


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_p_is_the_share_of_samples_that_are_mixed(p):
    mixed = sum("lam" in target for _, target in MixupIterable(numbered(2) * 500, p=p))
    assert abs(mixed - 1000 * p) <= 5 * np.sqrt(1000 * p * (1 - p))


def test_epochs_and_seeds_draw_differently_and_repeat():
    def drawn(seed, epoch):
        stream = MixupIterable(numbered(8), seed=seed)
        stream.set_epoch(epoch)
        return [target["lam"] for _, target in stream]

    assert drawn(0, 0) == drawn(0, 0)
    assert not set(drawn(0, 0)) & set(drawn(0, 1))
    assert not set(drawn(0, 0)) & set(drawn(1, 0))


def test_a_loader_without_workers_changes_nothing():
    expected = list(MixupIterable(make_samples(), buffer_size=4))
    assert_same(loaded(MixupIterable(make_samples(), buffer_size=4), 0)[0], expected)


@pytest.mark.parametrize("shares", [False, True])
def test_workers_give_every_sample_once_with_the_ratios_of_any_number_of_workers(shares):
    def found(workers):
        stream = MixupIterable(Stream(make_samples(), shares=shares), buffer_size=4, p=0.7, shard=not shares)
        given = loaded(stream, workers, epochs=(0, 3))
        return [{target["image_id"]: target.get("lam") for _, target in samples} for samples in given]

    one, two = found(0), found(2)
    assert one == two
    assert [len(ratios) for ratios in two] == [COUNT, COUNT]
    assert one[0] != one[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_epoch_reaches_the_wrapped_data_set_where_it_is_read(workers):
    stream = MixupIterable(Stream(numbered(COUNT)), buffer_size=3)
    first, later = loaded(stream, workers, epochs=(0, 5))
    assert [own for own, _ in partners(first)] == list(range(COUNT))
    assert [own for own, _ in partners(later)] == [(index + 5) % COUNT for index in range(COUNT)]


def test_workers_repeat_what_they_gave():
    first, second = (loaded(MixupIterable(make_samples(), buffer_size=4), 2)[0] for _ in range(2))
    assert_same(first, second)


def read_by_rank(rank, workers, method=None):
    stream = MixupIterable(numbered(COUNT), buffer_size=3)  # before the process group, as trainers do
    with process_group(rank, 3):
        [samples] = loaded(stream, workers, method=method)
    return partners(samples)


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_give_every_sample_once_between_them(workers):
    pairs = [read_by_rank(rank, workers) for rank in range(3)]
    assert sorted(own for read in pairs for own, _ in read) == list(range(COUNT))
    readers = 3 * max(workers, 1)
    assert all(own % readers == partner % readers for read in pairs for own, partner in read)


def test_workers_that_are_spawned_know_their_rank():
    assert read_by_rank(1, 1, "spawn") == read_by_rank(1, 0)


def test_the_switch_reaches_persistent_workers():
    stream = MixupIterable(make_samples(), buffer_size=4)
    loader = DataLoader(stream, batch_size=2, collate_fn=collate, num_workers=1, persistent_workers=True)
    assert all("lam" in target for _, targets in loader for target in targets)
    stream.enable(False)
    assert_same([sample for batch in loader for sample in zip(*batch, strict=True)], make_samples())


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"p": 0.0}])
def test_switched_off_the_very_samples_come_and_nothing_is_read_ahead(options):
    samples = make_samples()
    stream = Stream(samples)
    for (image, target), source in zip(MixupIterable(stream, **options), samples, strict=True):
        assert image is source[0]
        assert target is source[1]
        assert stream.read <= target["image_id"] + 2


def test_samples_that_stay_as_they_are_are_checked_too():
    samples = make_samples()
    samples[4][1]["labels"] = samples[4][1]["labels"].int()
    with pytest.raises(TypeError, match="target of image 4: labels must be int64"):
        list(MixupIterable(samples, alpha=0))


@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_done_to_a_sample_reaches_neither_the_source_nor_later_samples(enabled):
    source = make_samples()
    before, expected = copy.deepcopy(source), list(MixupIterable(make_samples(), p=0.5, buffer_size=4))
    stream = MixupIterable(source, p=0.5, buffer_size=4)
    stream.enable(enabled)
    for (image, target), (unspoilt, unspoilt_target) in zip(stream, expected if enabled else before, strict=True):
        assert_same([(image, target)], [(unspoilt, unspoilt_target)])
        image.zero_()
        target["boxes"].zero_()
        target["image_id"] = None
    assert_same(source, before)


def test_transform_sees_the_mixed_sample():
    def shout(image, target):
        return image, {**target, "count": len(target["weights"])}

    for _, target in MixupIterable(make_samples(), transform=shout):
        assert target["count"] == len(target["boxes"])


class Passing(IterableDataset):
    """Gives what another stream gives."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return iter(self.dataset)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: Passing(Passing(s)), lambda s: ChainDataset([Passing([]), s])])
def test_mixing_what_is_mixed_draws_anew_and_is_shared_out_once(wrap):
    inner = MixupIterable(numbered(COUNT), buffer_size=4)
    outer = MixupIterable(wrap(inner), buffer_size=4)
    lams = {target["lam"] for _, target in inner}
    for workers in (0, 2):
        [samples] = loaded(outer, workers)
        assert sorted(target["image_id"] for _, target in samples) == list(range(COUNT))
        assert all(target["sources"].tolist() == [0, 1, 2, 3] for _, target in samples)
        assert not lams & {target["lam"] for _, target in samples}


@pytest.mark.parametrize("workers", [0, 1])
def test_epoch_and_switch_reach_what_is_mixed_within_a_wrapper(workers):
    stream = MixupIterable(Passing(MixupIterable(numbered(COUNT), buffer_size=4)), buffer_size=4)
    first, second = loaded(stream, workers, epochs=(0, 1))
    direct = MixupIterable(MixupIterable(numbered(COUNT), buffer_size=4), buffer_size=4)
    direct.set_epoch(1)
    assert_same(second, list(direct))
    assert [t["boxes"][:, 0].tolist() for _, t in first] != [t["boxes"][:, 0].tolist() for _, t in second]
    stream.enable(False)
    assert_same(loaded(stream, workers)[0], numbered(COUNT))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_have_switches_of_their_own(duplicate):
    stream = MixupIterable(make_samples())
    other = duplicate(stream)
    other.enable(False)
    other.set_epoch(5)
    assert (stream.enabled, stream.epoch) == (True, 0)
    assert other._shared.values.is_shared()
    assert other._read_by_workers.values.is_shared()
    assert other._to_resume.values.is_shared()


@pytest.mark.parametrize("options", [{"buffer_size": 2}, {"p": 0}, {"alpha": 0}])
@pytest.mark.parametrize(
    ("changed", "wanted"),
    [(lambda sample: (*sample, "cat.jpg"), "3 values"), (lambda sample: {"image": sample[0]}, "dict")],
)
def test_samples_that_are_no_pairs_are_refused(options, changed, wanted):
    samples = make_samples(6)
    samples[4] = changed(samples[4])
    with pytest.raises(TypeError, match=rf"must give \(image, target\), got {wanted} for sample 4 of this reader"):
        list(MixupIterable(samples, **options))


def test_a_pair_that_cannot_be_mixed_is_named():
    samples = make_samples(2)
    samples[1] = (samples[1][0].float(), samples[1][1])
    with pytest.raises(RuntimeError, match="mixing sample 0 of this reader with sample 1 failed: both images must be"):
        list(MixupIterable(samples))


def test_out_of_memory_stays_what_it_is_and_names_both_samples(monkeypatch):
    def no_room(*arguments, **options):
        raise MemoryError("no room")

    monkeypatch.setattr("detmix.stream.mix_pair", no_room)
    with pytest.raises(MemoryError, match="no room") as caught:
        list(MixupIterable(make_samples(2)))
    assert caught.value.__notes__ == ["mixing sample 0 of this reader with sample 1 failed"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_window_larger_than_memory_is_refused_before_it_is_read(workers, monkeypatch):
    monkeypatch.setattr("detmix.memory.available_memory", lambda: 100_000)
    stream = Stream([make_sample(1, seed=seed, size=(50, 80)) for seed in range(10)])
    list(MixupIterable(stream, buffer_size=4))
    stream.read = 0
    fits = 2 + 100_000 // (3 * 50 * 80 + 24) // max(workers, 1)
    wanted = rf"buffer_size=1000000000: .* as large as the last one read.* at most buffer_size={fits} fits"
    with pytest.raises(ValueError, match=wanted):
        loaded(MixupIterable(stream, buffer_size=10**9), workers)
    assert stream.read == (0 if workers else 3)


def test_what_windows_take_is_not_asked_for_again_in_the_next_epoch(monkeypatch):
    stream = MixupIterable(make_samples(), buffer_size=8)
    first = list(stream)
    monkeypatch.setattr("detmix.memory.available_memory", lambda: 0)
    assert_same(list(stream), first)


@pytest.mark.parametrize(
    ("dataset", "options", "error", "wanted"),
    [
        (3, {}, TypeError, "iterable of .* got int: for indices see MixupDataset"),
        (iter([]), {}, TypeError, "readable again every epoch, got the iterator list_iterator"),
        ([], {"alpha": -1}, ValueError, "alpha must be"),
        ([], {"p": 1.5}, ValueError, r"p must lie in \[0, 1\]"),
        ([], {"min_weight": -0.5}, ValueError, "min_weight must lie"),
        ([], {"buffer_size": 0}, ValueError, "buffer_size must be 1 or more, got 0"),
        ([], {"buffer_size": 2.5}, TypeError, "buffer_size must be an integer, got 2.5"),
        ([], {"seed": None}, TypeError, "integer"),
    ],
)
def test_bad_settings_are_refused(dataset, options, error, wanted):
    with pytest.raises(error, match=wanted):
        MixupIterable(dataset, **options)


def test_streams_in_a_chain_hear_of_the_epoch_when_they_are_read():
    parts = [Stream([make_sample(1, seed=seed) for seed in range(4)]) for _ in range(2)]
    mixed = MixupIterable(ChainDataset(parts), p=0.0)
    mixed.set_epoch(3)
    assert [part.epoch for part in parts] == [0, 0]
    list(mixed)
    assert [part.epoch for part in parts] == [3, 3]
