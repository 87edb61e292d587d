import copy
import pickle

import pytest
import torch
from torch import multiprocessing
from torch.utils.data import ChainDataset, ConcatDataset, IterableDataset, Subset

from detmix import MixupBatch, MixupDataset, MixupIterable, SeededDataset
from detmix.data import Shapes
from detmix.switch import Switched, mixers_within

from .factories import ListDataset, make_sample

MAKERS = {
    "plain": Switched,
    "dataset": lambda: MixupDataset(ListDataset([make_sample(1, seed=seed) for seed in range(3)])),
    "stream": lambda: MixupIterable([make_sample(1, seed=seed) for seed in range(3)]),
    "batch": MixupBatch,
}


@pytest.fixture(params=sorted(MAKERS))
def switched(request):
    return MAKERS[request.param]()


def test_it_starts_enabled_in_epoch_0_and_keeps_what_is_set(switched):
    assert isinstance(switched, Switched)
    assert (switched.epoch, switched.enabled) == (0, True)
    switched.set_epoch(7)
    switched.enable(False)
    assert (switched.epoch, switched.enabled) == (7, False)
    switched.enable()
    assert (switched.epoch, switched.enabled) == (7, True)


@pytest.mark.parametrize(
    ("epoch", "error", "message"),
    [(1.5, TypeError, "epoch must be an integer, got 1.5"), (-1, ValueError, "epoch must be 0 or more, got -1")],
)
def test_an_epoch_that_is_none_is_refused(switched, epoch, error, message):
    with pytest.raises(error, match=message):
        switched.set_epoch(epoch)
    assert switched.epoch == 0


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_keep_what_was_set_in_shared_memory(switched, duplicate):
    switched.set_epoch(3)
    switched.enable(False)
    other = duplicate(switched)
    assert (other.epoch, other.enabled) == (3, False)
    assert other._shared.values.is_shared()
    if duplicate is not copy.copy:
        other.set_epoch(4)
        assert switched.epoch == 3


class Passing(IterableDataset):
    """A stream that gives what another one gives."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return iter(self.dataset)


WRAPPERS = {
    "itself": lambda mixer: mixer,
    "subset": lambda mixer: Subset(Subset(mixer, range(3)), range(3)),
    "concat": lambda mixer: ConcatDataset([ListDataset([make_sample(1, seed=9)]), mixer]),
    "passing": lambda mixer: Passing(Passing(mixer)),
    "chain": lambda mixer: ChainDataset([Passing([]), mixer]),
}
NESTED = [("dataset", "itself"), ("dataset", "subset"), ("dataset", "concat")]
NESTED += [("stream", "itself"), ("stream", "passing"), ("stream", "chain")]


@pytest.mark.parametrize(("kind", "wrapper"), NESTED)
def test_epoch_and_switch_reach_every_level_through_wrappers(kind, wrapper):
    outermost = {"dataset": MixupDataset, "stream": MixupIterable}[kind]
    levels = [MAKERS[kind]()]
    for _ in range(2):
        levels.append(outermost(WRAPPERS[wrapper](levels[-1])))
    levels[-1].set_epoch(5)
    assert [level.epoch for level in levels] == [5] * 3
    for flag in (False, True):
        levels[-1].enable(flag)
        assert [level.enabled for level in levels] == [flag] * 3
    levels[0].set_epoch(7)
    levels[0].enable(False)
    assert (levels[1].epoch, levels[1].enabled) == (5, True)


def test_the_nearest_mixers_are_found_and_nothing_else():
    first, second = MAKERS["dataset"](), MAKERS["dataset"]()
    outer = MixupDataset(second)
    assert mixers_within(ConcatDataset([Subset(first, [0]), outer])) == [first, outer]
    assert mixers_within(outer) == [second]
    assert mixers_within(second) == mixers_within([outer]) == mixers_within(None) == []


@pytest.mark.parametrize("kind", [MixupDataset, MixupIterable])
def test_the_epoch_reaches_a_transform_that_asks_for_it(kind):
    samples = ListDataset([make_sample(1, seed=seed) for seed in range(3)])
    dataset = kind(samples if kind is MixupDataset else samples.samples, transform=Dated())
    dataset.set_epoch(4)
    assert [target["epoch"] for _, target in dataset] == [4] * 3
    kind(samples if kind is MixupDataset else samples.samples, transform=lambda *sample: sample).set_epoch(4)


class Dated:
    """A transform that knows the epoch."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __call__(self, image, target):
        return image, {**target, "epoch": self.epoch}


@pytest.mark.parametrize("wrap", [MixupDataset, SeededDataset])
def test_the_epoch_reaches_transforms_of_what_is_wrapped(wrap):
    scenes = [Shapes(2, size=64, max_extent=32, transform=Dated()) for _ in range(2)]
    dataset = wrap(ConcatDataset([Subset(scenes[0], [0, 1]), scenes[1]]))
    dataset.set_epoch(4)
    assert [target["epoch"] for _, target in (dataset[i] for i in range(4))] == [4] * 4


def test_other_tensors_of_a_subclass_stay_in_memory_of_their_own():
    class WithTensor(Switched):
        pass

    switched = WithTensor()
    switched.large = torch.zeros(3)
    assert not copy.deepcopy(switched).large.is_shared()


def answer(switched, asked, told):
    for _ in iter(asked.get, None):
        told.put((switched.epoch, switched.enabled))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_already_runs_sees_every_change(method):
    context, switched = multiprocessing.get_context(method), Switched()
    asked, told = context.Queue(), context.Queue()
    process = context.Process(target=answer, args=(switched, asked, told))
    process.start()
    for epoch, enabled in ((0, True), (5, False), (6, True)):
        switched.set_epoch(epoch)
        switched.enable(enabled)
        asked.put(True)
        assert told.get(timeout=300) == (epoch, enabled)
    asked.put(None)
    process.join()
    assert process.exitcode == 0
