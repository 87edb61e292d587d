"""Streams that go on where a state was taken."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from detmix import collate
from detmix.stream import MixupIterable

from .test_stream import COUNT, Stream, assert_same, loaded, make_samples, numbered, partners, process_group


@given(st.integers(0, 20), st.integers(1, 6), st.data())
@settings(max_examples=40, deadline=None)
def test_a_resumed_stream_gives_what_would_have_come(count, buffer_size, data):
    taken = data.draw(st.integers(0, count))
    options = {"buffer_size": buffer_size, "p": 0.7, "seed": 5}
    stream = MixupIterable(Stream(make_samples(count)), **options)
    stream.set_epoch(2)
    reading = iter(stream)
    for _ in range(taken):
        next(reading)
    state = pickle.loads(pickle.dumps(stream.state_dict())) if taken else {"epoch": 2, "position": 0, "readers": 1}
    expected = list(reading)
    resumed = MixupIterable(Stream(make_samples(count)), **options)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.set_epoch(2)  # as a training loop does at the start of the epoch it resumes
    assert_same(list(resumed), expected)
    assert_same(list(resumed), list(stream))  # a state counts for one reading


def test_a_loader_without_workers_resumes_between_batches():
    def make():
        stream = MixupIterable(make_samples(), buffer_size=4)
        return stream, DataLoader(stream, batch_size=3, collate_fn=collate)

    stream, loader = make()
    batches = iter(loader)
    next(batches), next(batches)
    state = stream.state_dict()
    assert state["position"] == 6
    resumed, resumed_loader = make()
    resumed.load_state_dict(state)
    for (images, targets), expected in zip(resumed_loader, batches, strict=True):
        assert_same(zip(images, targets, strict=True), zip(*expected, strict=True))


class Saved(IterableDataset):
    """Gives each sample of a stream together with the state taken after it, as a loader of states would."""

    def __init__(self, stream):
        self.stream = stream

    def __iter__(self):
        for sample in self.stream:
            yield get_worker_info().id, sample, self.stream.state_dict()


class Resumed(IterableDataset):
    """Gives the rest of a stream from each worker's own state."""

    def __init__(self, stream, states):
        self.stream, self.states = stream, states

    def __iter__(self):
        self.stream.load_state_dict(self.states[get_worker_info().id])
        for sample in self.stream:
            yield get_worker_info().id, sample, None


def test_each_worker_resumes_from_its_own_state():
    def read(dataset):
        return list(DataLoader(dataset, batch_size=None, num_workers=2))

    def make():
        return MixupIterable(make_samples(), buffer_size=3)

    given = read(Saved(make()))
    states = [[state for worker, _, state in given if worker == w][position] for w, position in ((0, 4), (1, 2))]
    resumed = read(Resumed(make(), states))
    for worker, position in ((0, 5), (1, 3)):
        expected = [sample for w, sample, _ in given if w == worker][position:]
        assert_same([sample for w, sample, _ in resumed if w == worker], expected)


@pytest.mark.parametrize(("workers", "method"), [(2, "fork"), (1, "spawn")])
def test_a_loaded_state_counts_once_for_each_worker_and_not_for_later_ones(workers, method):
    stream = MixupIterable(numbered(COUNT), buffer_size=3)
    whole = partners(loaded(stream, workers)[0])
    stream.load_state_dict({"epoch": 0, "position": 5, "readers": workers})
    resumed, later = (partners(loaded(stream, workers, method=method)[0]) for method in (method, None))
    assert sorted(resumed) == sorted(pair for pair in whole if pair[0] >= 5 * workers)
    assert later == whole


def test_a_loaded_state_does_not_count_after_another_epoch():
    stream = MixupIterable(numbered(COUNT), buffer_size=3)
    stream.load_state_dict({"epoch": 0, "position": 5, "readers": 2})
    assert [len(samples) for samples in loaded(stream, 2, epochs=(1, 0))] == [COUNT, COUNT]
    assert len(loaded(stream, 2)[0]) == COUNT


def test_a_state_from_the_start_may_be_loaded_by_any_number_of_readers():
    stream = MixupIterable(numbered(COUNT), buffer_size=3)
    fresh = stream.state_dict()
    assert fresh["position"] == 0
    stream.load_state_dict(fresh)
    with process_group(1, 2):
        assert [own for own, _ in partners(stream)] == list(range(1, COUNT, 2))


def test_readings_of_one_stream_count_for_themselves():
    stream = MixupIterable(numbered(COUNT), buffer_size=3)
    first, second = iter(stream), iter(stream)
    for _ in range(5):
        next(first)
    assert stream.state_dict()["position"] == 5
    next(second), next(second)
    next(first)
    assert stream.state_dict()["position"] == 2
    state, rest = stream.state_dict(), list(second)
    resumed = MixupIterable(numbered(COUNT), buffer_size=3)
    resumed.load_state_dict(state)
    assert_same(list(resumed), rest)


def test_the_state_is_not_made_up_where_workers_read():
    stream = MixupIterable(make_samples())
    loaded(stream, 1)
    with pytest.raises(RuntimeError, match="read by worker processes"):
        stream.state_dict()
    list(stream)
    assert stream.state_dict()["position"] == COUNT


def test_a_state_of_another_number_of_readers_or_another_kind_is_refused():
    stream = MixupIterable(make_samples())
    stream.load_state_dict({"epoch": 0, "position": 3, "readers": 4})
    with pytest.raises(ValueError, match="taken with 4 readers .* now there are 1"):
        next(iter(stream))
    with pytest.raises(ValueError, match=r"keys \['epoch', 'position', 'readers'\], got \['step'\]"):
        stream.load_state_dict({"step": 3})


@pytest.mark.parametrize(
    ("changed", "error", "wanted"),
    [
        ({"epoch": -1}, ValueError, "epoch must be 0 or more, got -1"),
        ({"position": -5}, ValueError, "position must be 0 or more, got -5"),
        ({"position": 1.5}, TypeError, "position must be an integer, got 1.5"),
        ({"readers": -1}, ValueError, "readers must be 1 or more, got -1"),
        ({"readers": 0}, ValueError, "readers must be 1 or more, got 0"),
        ({"readers": None}, TypeError, "readers must be an integer, got None"),
    ],
)
def test_a_state_with_a_wrong_number_is_refused_and_changes_nothing(changed, error, wanted):
    stream = MixupIterable(make_samples())
    before = stream.state_dict()
    with pytest.raises(error, match=wanted):
        stream.load_state_dict({"epoch": 3, "position": 2, "readers": 1, **changed})
    assert stream.state_dict() == before
    assert stream.epoch == 0
