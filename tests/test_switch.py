import copy
import pickle
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import multiprocessing
from torch.utils.data import ChainDataset, ConcatDataset, DataLoader, IterableDataset, Subset
from torchvision.transforms import v2

from detmix import MixupBatch, MixupDataset, MixupIterable, SeededDataset
from detmix.data import Augment, Shapes
from detmix.switch import Switched, mixers_within, shares_itself_out

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


def test_a_mixer_says_what_it_wraps_how_it_is_set_and_its_state():
    data = ListDataset([make_sample(1, seed=seed) for seed in range(3)])
    outer = SeededDataset(MixupDataset(MixupDataset(data), cache=2, mix="cutmix"), seed=7)
    outer.set_epoch(4)
    outer.enable(False)
    state = "epoch=4, enabled=False)"
    inner = f"MixupDataset(MixupDataset(ListDataset, {state}, mix='cutmix', cache=2, {state}"
    assert repr(outer) == f"SeededDataset({inner}, seed=7, {state}"
    assert repr(MixupDataset(Shapes(9, size=96))).startswith("MixupDataset(<Shapes: 9 scenes of 96x96>, epoch=0")
    assert repr(MixupBatch(per_sample=True)) == "MixupBatch(per_sample=True, epoch=0, enabled=True)"
    assert (
        repr(MixupIterable(data.samples, buffer_size=2)) == "MixupIterable(list, buffer_size=2, epoch=0, enabled=True)"
    )
    assert repr(Switched()) == "Switched(epoch=0, enabled=True)"


def test_the_nearest_mixers_are_found_and_nothing_else():
    first, second = MAKERS["dataset"](), MAKERS["dataset"]()
    outer = MixupDataset(second)
    assert mixers_within(ConcatDataset([Subset(first, [0]), outer])) == [first, outer]
    assert mixers_within(outer) == [second]
    assert mixers_within([outer]) == [outer]
    assert mixers_within(second) == mixers_within(None) == []


class Holding:
    """A data set, or a stream, that keeps others under any names."""

    def __init__(self, **held):
        vars(self).update(held)
        self.itself, self.rows = self, [torch.zeros(2)]

    def __iter__(self):
        return iter(())


class Deriving(Holding):
    """One that makes what it wraps a property."""

    @property
    def dataset(self):
        return self.of[0]


HOLDERS = {
    "another name": lambda held: Holding(inner=held),
    "deep": lambda held: Holding(a=Holding(b=Subset(Holding(c=held), [0]))),
    "list": lambda held: Holding(parts=[ListDataset([]), held]),
    "list of other things": lambda held: Holding(parts=[None, "text", (held, 0.5)]),
    "list beside samples": lambda held: ConcatDataset([[make_sample(1, seed=0)], held]),
    "many": lambda held: ConcatDataset([ListDataset([make_sample(1, seed=0)]) for _ in range(200)] + [held]),
    "dict": lambda held: Holding(by_name={"a": ListDataset([]), "b": Holding(data=held)}),
    "property": lambda held: Deriving(of=(held,)),
}


@pytest.mark.parametrize("how", HOLDERS)
def test_mixers_are_found_under_any_name(how):
    mixer = MAKERS["dataset"]()
    outer = SeededDataset(HOLDERS[how](mixer))
    assert mixers_within(outer) == [mixer]
    outer.set_epoch(4)
    outer.enable(False)
    assert (mixer.epoch, mixer.enabled) == (4, False)


def test_a_stream_that_shares_itself_out_is_found_where_samples_come_from():
    stream = MAKERS["stream"]()
    for holder in (Passing(stream), ChainDataset([Passing([]), Passing(stream)]), Deriving(of=(stream,))):
        assert shares_itself_out(holder)
        assert not MixupIterable(holder).shard
    assert not shares_itself_out(Holding(backgrounds=stream))
    assert MixupIterable(Holding(backgrounds=stream)).shard


def test_data_sets_that_hold_each_other_are_looked_through_once():
    mixer = MAKERS["dataset"]()
    mixer.dataset.mixed, mixer.dataset.other = mixer, Holding(mixed=mixer, data=mixer.dataset)
    mixer.set_epoch(3)
    mixer.enable(False)
    assert (mixer.epoch, mixer.enabled, mixers_within(mixer)) == (3, False, [])


def test_a_data_set_may_keep_several_mixers_of_itself():
    data = ListDataset([make_sample(1, seed=seed) for seed in range(3)])
    data.weak, data.strong = MixupDataset(data), MixupDataset(data, alpha=5.0)
    data.weak.set_epoch(2)
    data.strong.enable(False)
    assert [(mixer.epoch, mixer.enabled) for mixer in (data.weak, data.strong)] == [(2, False)] * 2
    data.strong.set_epoch(3)
    assert (data.weak.epoch, data.strong.epoch) == (3, 3)


def test_large_containers_of_data_are_not_looked_through():
    class Rows(list):
        def __iter__(self):
            raise AssertionError("looked through")

    class Named(dict):
        def values(self):
            yield torch.zeros(1)
            raise AssertionError("looked through")

    data = ListDataset([make_sample(1, seed=seed) for seed in range(3)])
    data.rows, data.by_name = Rows(range(900)), Named((number, 0) for number in range(900))
    MixupDataset(data).set_epoch(1)


class Closed(Holding):
    """One whose attributes cannot be read."""

    @property
    def dataset(self):
        raise RuntimeError("closed")

    transforms = dataset


class Chained(Holding):
    """A link of a long chain, such as a tree of parsed text has."""

    def __init__(self, after):
        self.after = after


def test_what_cannot_be_looked_through_is_passed_over():
    data, link = ListDataset([make_sample(1, seed=seed) for seed in range(3)]), None
    for _ in range(3000):
        link = Chained(link)
    data.closed, data.link, data.anything = Closed(), link, MagicMock()
    mixer = MixupDataset(data)
    mixer.set_epoch(3)
    mixer.enable(False)
    assert (mixer.epoch, mixer.enabled) == (3, False)


def test_an_epoch_is_handed_on_by_a_wrapper_that_takes_it_from_what_it_wraps():
    inner = MAKERS["dataset"]()
    wrapper = Holding()
    wrapper.set_epoch = inner.set_epoch
    MixupDataset(ListDataset([make_sample(1, seed=seed) for seed in range(3)])).dataset = wrapper
    outer = MAKERS["dataset"]()
    outer.dataset.wrapper = wrapper
    outer.set_epoch(6)
    assert inner.epoch == 6


@pytest.mark.parametrize("flag", ["False", 2, None, 0.0])
def test_a_switch_that_is_neither_on_nor_off_is_refused(switched, flag):
    with pytest.raises(TypeError, match=r"flag must be (an integer|True or False), got"):
        switched.enable(flag)
    assert switched.enabled


@pytest.mark.parametrize("flag", [np.bool_(False), torch.tensor(False), 0])
def test_a_switch_may_be_another_kind_of_bool(switched, flag):
    switched.enable(flag)
    assert not switched.enabled


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


PIPELINES = {
    "itself": lambda it: it,
    "v2": lambda it: v2.Compose([v2.Identity(), v2.Compose([it])]),
    "Augment": lambda it: Augment([v2.Identity(), it]),
}


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("kind", [MixupDataset, MixupIterable])
def test_the_epoch_reaches_the_parts_of_a_transform(kind, pipeline):
    samples, dated = [make_sample(1, seed=seed) for seed in range(3)], Dated()
    dataset = kind(ListDataset(samples) if kind is MixupDataset else samples, transform=PIPELINES[pipeline](dated))
    dataset.set_epoch(4)
    assert dated.epoch == 4


def test_the_transform_of_a_stream_hears_of_the_epoch_in_running_workers():
    dataset = MixupIterable([make_sample(1, seed=seed) for seed in range(3)], transform=Dated())
    loader = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in (0, 4):
        dataset.set_epoch(epoch)
        assert [target["epoch"] for _, target in loader] == [epoch] * 3


def test_the_epoch_reaches_other_attributes_that_ask_for_it_and_is_theirs_to_hand_on():
    data, inner = ListDataset([make_sample(1, seed=seed) for seed in range(3)]), Dated()
    data.augment, data.later = Dated(), Dated()
    data.later.inner = inner
    MixupDataset(data).set_epoch(5)
    assert (data.augment.epoch, data.later.epoch, inner.epoch) == (5, 5, 0)


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
