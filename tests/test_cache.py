import copy
import pickle
from collections import Counter
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from detmix import MixupDataset, collate, mix_pair
from detmix.cache import Loaded, PartnerCache
from detmix.draws import MIXING, generator_at

from .datasets import Labelled, assert_same, epochs
from .factories import ListDataset, make_sample

COUNT = 16


class Counting(Labelled):
    """Counts what is loaded."""

    def __init__(self, samples):
        super().__init__(samples)
        self.loaded = []

    def __getitem__(self, index):
        self.loaded.append(index)
        return super().__getitem__(index)


def make_counting(count=COUNT):
    return Counting([make_sample(index % 3, seed=index, size=(16 + index, 32)) for index in range(count)])


def partner_of(sample, source):
    """The index whose objects came second, by its boxes; None if it had none."""
    _, target = sample
    boxes = target["boxes"][target["sources"] == 1]
    found = [i for i, (_, t) in enumerate(source.samples) if len(boxes) and torch.equal(t["boxes"], boxes)]
    return found[0] if found else None


def test_only_the_first_sample_needs_a_second_decode():
    source = make_counting()
    dataset = MixupDataset(source, cache=4)
    for index in range(COUNT):
        dataset[index]
    assert source.loaded == [0, dataset.draw(0).partner, *range(1, COUNT)]


@pytest.mark.parametrize("cache", [1, 2, 3, 5])
def test_a_partner_is_one_of_the_last_that_were_loaded_and_never_the_sample_itself(cache):
    source = ListDataset([make_sample(1 + index % 2, seed=index) for index in range(COUNT)])
    dataset = MixupDataset(source, cache=cache)
    order = np.random.default_rng(0).integers(COUNT, size=200).tolist()
    held, oldest = [], 0
    for index in order:
        partner = partner_of(dataset[index], source)
        eligible = [one for one in held if one != index]
        assert partner == dataset.draw(index).partner if not eligible else partner in eligible
        oldest += len(held) == cache and partner == held[0]
        for loaded in (index,) if eligible else (partner, index):
            held = [*(one for one in held if one != loaded), loaded][-cache:]
    assert oldest > 200 / cache / 2


def test_partners_are_drawn_equally_often_from_what_is_held():
    cache = PartnerCache(5)
    cache.add([0], *(Loaded(index, (None, {})) for index in range(8)))
    drawn = Counter(cache.draw([0], lambda index: index != 5, generator_at(0, 0, i, MIXING)).index for i in range(4000))
    assert set(drawn) == {3, 4, 6, 7}
    assert max(abs(count - 1000) for count in drawn.values()) < 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_a_sample_that_is_loaded_again_is_held_once_and_as_it_was_loaded_last():
    cache = PartnerCache(3)
    for number, index in enumerate([0, 1, 0, 2, 0, 0]):
        cache.add([0], Loaded(index, (number, {})))
    drawn = Counter(cache.draw([0], lambda _: True, generator_at(0, 0, i, MIXING)).sample[0] for i in range(3000))
    assert set(drawn) == {1, 3, 5}
    assert max(abs(count - 1000) for count in drawn.values()) < 5 * np.sqrt(3000 * 2 / 9)
    cache.add([0], Loaded(3, (6, {})))
    assert sorted(loaded.index for loaded in cache._ring) == [0, 2, 3]  # of 0, 1 and 2, 1 was loaded first


def test_what_is_rare_is_found_among_many():
    cache = PartnerCache(1000)
    cache.add([0], *(Loaded(index, (None, {})) for index in range(1000)))
    assert cache.draw([0], lambda index: index == 777, generator_at(0, 0, 0, MIXING)).index == 777
    assert cache.draw([0], lambda index: False, generator_at(0, 0, 0, MIXING)) is None


def test_whether_and_how_much_is_mixed_is_as_without_a_cache():
    source = make_counting()
    plain, cached = MixupDataset(source, p=0.5, seed=1), MixupDataset(source, p=0.5, seed=1, cache=4)
    for index in range(COUNT):
        assert plain.draw(index) == cached.draw(index)
        assert plain[index][1].get("lam") == cached[index][1].get("lam")


@pytest.mark.parametrize("partner", ["any", "with_boxes", "background", "other_class", "same_orientation"])
def test_no_sample_is_mixed_with_its_own_older_copy(partner):
    labels = [[1], [2], [], []]
    samples = [(torch.full((3, 8, 8), 60 * index, dtype=torch.uint8), labelled(of)) for index, of in enumerate(labels)]
    source, unmixed = Labelled(samples), 0
    dataset = MixupDataset(source, partner=partner, cache=4)
    for index in [0, 0, 1, 1, 2, 2, 3, 3] * 5:
        image, target = dataset[index]
        unmixed += "lam" not in target
        assert "lam" not in target or not torch.equal(image, source[index][0])
    assert not unmixed


def labelled(labels):
    return {"boxes": torch.tensor([[1.0, 1, 7, 7]] * len(labels)).reshape(-1, 4), "labels": torch.tensor(labels).long()}


def test_a_sample_is_the_mix_of_what_was_loaded():
    source = make_counting()
    dataset = MixupDataset(source, cache=1)
    dataset[3]
    assert_same([dataset[5]], [mix_pair(*source[5], *source[3], lam=dataset.draw(5).lam)])


@pytest.mark.parametrize("partner", ["with_boxes", "background", "other_class"])
def test_the_choice_of_partners_holds_for_what_is_held(partner):
    source = make_counting()
    dataset = MixupDataset(source, partner=partner, cache=3)
    for index in np.random.default_rng(1).permutation(COUNT).tolist() * 2:
        _, target = dataset[index]
        own, other = (set(target["labels"][target["sources"] == s].tolist()) for s in (0, 1))
        assert {"with_boxes": len(other) > 0, "background": not other, "other_class": not own & other}[partner]
    assert len(source.loaded) < 2 * 2 * COUNT


def test_a_partner_that_is_not_held_is_loaded_and_held():
    source = Counting([make_sample(0 if index == 7 else 1, seed=index) for index in range(COUNT)])
    dataset = MixupDataset(source, partner="background", cache=4)
    for index in range(6):
        dataset[index]
    assert source.loaded == [0, 7, 1, 2, 3, 4, 7, 5]  # 7 left when 3, the fourth after it, came


@pytest.mark.parametrize(("workers", "method"), [(0, None), (1, "fork"), (2, "fork"), (1, "spawn"), (1, "forkserver")])
def test_the_same_workers_give_the_same_samples_in_every_run_and_epoch(workers, method):
    def run(numbers, warm=False):
        source = ListDataset([make_sample(2, seed=index) for index in range(COUNT)])
        dataset = MixupDataset(source, cache=4, seed=3)
        if warm:  # what this process holds must not reach the workers
            [dataset[index] for index in (9, 3, 8)]
            dataset.set_epoch(0)
        options = {"multiprocessing_context": method, "persistent_workers": True} if workers else {}
        loader = DataLoader(dataset, batch_size=2, collate_fn=collate, num_workers=workers, **options)
        return epochs(loader, dataset, numbers)

    first, second, again = run((0, 1, 0))
    assert_same(first, again)
    assert [t["lam"] for _, t in first] != [t["lam"] for _, t in second]
    assert_same(run((1,), warm=True)[0], second)


def test_each_process_visits_its_own_part():
    source = ListDataset([make_sample(1, seed=index) for index in range(COUNT)])
    dataset = MixupDataset(source, cache=COUNT)
    loader = DataLoader(dataset, batch_size=1, collate_fn=collate, num_workers=2)
    [samples] = epochs(loader, dataset, (0,))
    partners = [partner_of(sample, source) for sample in samples]
    first = {dataset.draw(0).partner}, {dataset.draw(1).partner}  # what either has to load at its start
    assert all(partner % 2 == index % 2 or partner in first[index % 2] for index, partner in enumerate(partners))


def test_what_is_held_goes_with_the_epoch_and_the_switch():
    dataset = MixupDataset(make_counting(), cache=4)
    dataset[0], dataset[1]
    assert dataset.cache_bytes > 0
    dataset.enable(False)
    dataset[2]
    assert dataset.cache_bytes == 0
    dataset.enable(True)
    dataset.dataset.loaded.clear()
    dataset[3]
    assert dataset.dataset.loaded == [3, dataset.draw(3).partner]
    dataset.set_epoch(0)
    dataset.dataset.loaded.clear()
    dataset[4]
    assert dataset.dataset.loaded == [4, dataset.draw(4).partner]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_begin_empty(duplicate):
    dataset = MixupDataset(make_counting(), cache=4)
    dataset[0]
    other = duplicate(dataset)
    assert other.cache_bytes == 0
    assert dataset.cache_bytes > 0
    other[1]
    assert other.cache_bytes > 0


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_what_is_held_is_never_written_to(mix):
    source = make_counting()
    before = copy.deepcopy(source.samples)
    dataset = MixupDataset(source, cache=4, mix=mix, p=0.7, transform=lambda image, target: (image.zero_(), target))
    for index in range(COUNT):
        _, target = dataset[index]
        for value in target.values():
            if isinstance(value, torch.Tensor):
                value.zero_()
    assert_same(source.samples, before)
    for loaded in dataset._held._ring:
        assert_same([loaded.sample], [before[loaded.index]])


def test_levels_of_mixing_hold_samples_each_for_itself():
    source = make_counting()
    inner = MixupDataset(source, cache=2)
    outer = MixupDataset(Subset(inner, range(COUNT)), cache=3)
    for index in range(COUNT):
        _, target = outer[index]
        assert len(target["weights"]) == len(target["boxes"])
    assert source.loaded == [0, inner.draw(0).partner, outer.draw(0).partner, *range(1, COUNT)]
    assert inner.cache_bytes > 0
    outer.set_epoch(1)
    source.loaded.clear()
    outer[5]
    assert source.loaded[0] == 5
    assert len(source.loaded) == 3


def test_memory_is_bounded_and_told():
    dataset = MixupDataset(ListDataset([make_sample(1, seed=i, size=(20, 30)) for i in range(COUNT)]), cache=3)
    one = 3 * 20 * 30 + 4 * 4 + 8
    for index in range(COUNT):
        dataset[index]
        assert dataset.cache_bytes == min(index + 2, 3) * one


def test_no_more_is_held_than_there_is(monkeypatch):
    monkeypatch.setattr("detmix.memory.available_memory", lambda: 10**6)
    dataset = MixupDataset(make_counting(), cache=10**12)
    assert len({dataset[index][1]["lam"] for index in range(COUNT)}) == COUNT


@pytest.mark.parametrize(
    ("worker", "wanted"),
    [
        (None, " take 2 MB, and 2 MB of memory are available: at most cache=3"),
        (SimpleNamespace(num_workers=2), " in each of 2 workers take 5 MB, and 2 MB .* at most cache=2"),
    ],
)
def test_a_cache_larger_than_memory_is_refused_with_both_figures(worker, wanted, monkeypatch):
    monkeypatch.setattr("detmix.memory.available_memory", lambda: 2_000_000)
    monkeypatch.setattr("detmix.memory.get_worker_info", lambda: worker)
    dataset = MixupDataset(ListDataset([make_sample(1, seed=i, size=(500, 800)) for i in range(4)]), cache=4)
    with pytest.raises(ValueError, match=f"2 more samples of 1.2 MB, as large as the last one read,{wanted} fits"):
        dataset[0]


def test_larger_samples_that_come_later_are_bounded(monkeypatch):
    monkeypatch.setattr("detmix.memory.available_memory", lambda: 4_000_000)
    cache = PartnerCache(8)
    cache.add([0], *(Loaded(i, (torch.zeros(250), {})) for i in range(8)))
    cache.add([0], *(Loaded(8 + i, (torch.zeros(250_000), {})) for i in range(3)))
    with pytest.raises(ValueError, match=r"sample 11 of 1 MB the 8 samples held take 4 MB, .* part of memory is 4 MB"):
        cache.add([0], Loaded(11, (torch.zeros(250_000), {})))


def test_images_of_one_tensor_take_no_memory_of_their_own(monkeypatch):
    monkeypatch.setattr("detmix.memory.available_memory", lambda: 10_000)
    images = torch.zeros(20, 1000)
    cache = PartnerCache(10)
    cache.add([0], *(Loaded(i, (images[i], {})) for i in range(20)))
    assert cache.nbytes == 80_000


def test_what_the_workers_of_a_loader_hold_is_not_asked_for_again_in_the_next_epoch(monkeypatch):
    caches, samples = [PartnerCache(4) for _ in range(2)], [Loaded(i, (torch.zeros(1000), {})) for i in range(4)]
    monkeypatch.setattr("detmix.memory.get_worker_info", lambda: SimpleNamespace(num_workers=2))
    monkeypatch.setattr("detmix.memory.available_memory", lambda: 40_000 - sum(cache.nbytes for cache in caches))
    for epoch, loaded, cache in product(range(3), samples, caches):
        cache.add([epoch], loaded)
    assert [cache.nbytes for cache in caches] == [16_000, 16_000]


@pytest.mark.parametrize(
    ("options", "error", "wanted"),
    [
        ({"cache": -1}, ValueError, "cache must be 0 or more, got -1"),
        ({"cache": 2, "mix": "cutout"}, ValueError, "cutout takes no partner that could be held, got cache=2"),
        ({"cache": 2.5}, TypeError, "integer"),
    ],
)
def test_bad_settings_are_refused(options, error, wanted):
    with pytest.raises(error, match=wanted):
        MixupDataset(make_counting(), **options)


def test_a_partner_that_is_held_and_does_not_fit_is_named():
    source = make_counting()
    dataset = MixupDataset(source, cache=1)
    odd = next(index for index in range(1, COUNT) if index != dataset.draw(0).partner)
    source.samples[odd] = (source.samples[odd][0].float(), source.samples[odd][1])
    dataset[0]
    with pytest.raises(RuntimeError, match=f"mixing sample {odd} with its partner sample 0 failed: both images must"):
        dataset[odd]
