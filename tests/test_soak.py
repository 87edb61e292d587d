"""The soak finds what it looks for: memory that grows, and mixing that breaks a promise."""

import itertools
import mmap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from detmix import collate

from .conftest import needs_linux
from .random_mixing import check_sample, check_setting, make_samples, mix
from .soak import Reading, apart, by_window, check_settings, load, main, medians_of, soak


def test_a_few_settings_of_the_mixing_hold():
    check_settings(120, lambda done, total: None)


def moved(image, target):
    target["boxes"] = target["boxes"] - 1


def misaligned(image, target):
    target["labels"] = target["labels"].roll(1)


def shortened(image, target):
    target["track"] = target["track"][1:]


def too_visible(image, target):
    target["weights"] = target["weights"] + 1


def lost(image, target):
    del target["labels"]


def written(image, target):
    np.asarray(image)[..., 0] = 300


@pytest.mark.parametrize("spoil", [moved, misaligned, shortened, too_visible, lost, written])
def test_a_broken_promise_is_found(spoil):
    rng, number = np.random.default_rng(1), 0
    while True:  # a setting with several objects, whose labels differ
        samples, number = make_samples(np.random.default_rng(number), alike=False), number + 1
        image, target = mix("mix_pair", samples, rng)[0]
        if (
            len(target["labels"]) > 2
            and len(target["labels"].unique()) > 1
            and "float" in str(getattr(image, "dtype", ""))
        ):
            break
    check_sample((image, target), samples)
    spoil(image, target)
    with pytest.raises((AssertionError, ValueError)):
        check_sample((image, target), samples)


def test_an_input_that_is_written_to_and_a_draw_that_is_not_repeated_are_found(monkeypatch):
    def write(mixer, samples, rng):
        samples[0][1]["labels"] += 1
        return samples

    def draw(mixer, samples, rng):
        return [(samples[0][0], {**samples[0][1], "lam": np.random.default_rng().random()})]

    for spoilt, said in ((write, "an input was written to"), (draw, "the same setting drew something else")):
        monkeypatch.setattr("tests.random_mixing.mix", spoilt)
        with pytest.raises(AssertionError, match="setting 0: .*") as raised:
            check_settings(1, lambda done, total: None)
        assert said in str(raised.value.__cause__)
    monkeypatch.undo()
    check_setting(0)


class Samples(Dataset):
    """Samples each of which may leave some megabytes behind: 36 of them are to stand out before all that is there.

    They come from the system: what the process has freed before would take in hundreds of megabytes unseen.
    """

    def __init__(self, leak):
        self.leak, self.left = leak, []

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if self.leak:
            held = mmap.mmap(-1, self.leak << 20)
            held.write(bytes([1]) * len(held))
            self.left.append(held)
        return torch.zeros(3, 8, 8), {}


class Data:
    def __init__(self, leak, **options):
        self.leak, self.options = leak, options

    def train_dataloader(self):
        return DataLoader(Samples(self.leak), batch_size=1, num_workers=1, collate_fn=collate, **self.options)

    def start_epoch(self, epoch, max_epochs):
        pass


def set_clock(monkeypatch, step):
    """A clock that goes on by so many seconds each time that it is read: after each batch and each epoch."""
    clock = SimpleNamespace(monotonic=map(step.__mul__, itertools.count()).__next__)
    monkeypatch.setattr("tests.soak.time", clock)


@needs_linux
@pytest.mark.parametrize(("leak", "said"), [(8, "samples: memory is not level within 2%"), (0, "")])
def test_a_worker_that_keeps_what_it_loaded_is_found(monkeypatch, leak, said):
    set_clock(monkeypatch, 1.0)
    assert soak("samples", Data(leak, persistent_workers=True), 1) == said


@pytest.mark.parametrize(("readings", "said"), [(1, "1 readings"), (7, "7 readings")])
def test_a_soak_that_has_seen_too_little_is_no_good(monkeypatch, readings, said):
    seen = [Reading(second, 5 * second + 5, (100.0, 100.0)) for second in range(readings)]
    monkeypatch.setattr("tests.soak.load", lambda loader, start_epoch, seconds: iter(seen))
    assert said in soak("samples", Data(0), 1)


def test_a_soak_that_has_not_seen_the_workers_is_no_good(monkeypatch):
    seen = [Reading(second, 5 * second + 5, (100.0,)) for second in range(100)]
    monkeypatch.setattr("tests.soak.load", lambda loader, start_epoch, seconds: iter(seen))
    assert soak("samples", Data(0), 1) == "samples: not all workers were seen"


@needs_linux
@pytest.mark.parametrize(("seconds", "epochs"), [(0, 10), (3, 10), (100, 27)])
def test_whole_epochs_are_loaded_until_the_time_is_up_but_ten_at_least(monkeypatch, seconds, epochs):
    set_clock(monkeypatch, 0.5)
    begun, loader = [], [(["image", "image"], None)] * 7
    readings = list(load(loader, begun.append, seconds))
    assert begun == list(range(epochs))
    assert readings[0].samples == 2
    assert readings[-1].samples in (14 * epochs, 14 * epochs - 2)
    assert all(1 <= after.seconds - before.seconds <= 1.5 for before, after in itertools.pairwise(readings))
    with pytest.raises(ValueError, match="no samples to load"):
        list(load([], begun.append, seconds))


def test_windows_begin_after_the_warm_up_and_are_compared_with_the_first():
    readings = [Reading(0.0, seen, (100.0 if seen >= 20 else 500.0, 200.0 + seen)) for seen in range(1, 101)]
    windows = by_window(readings)
    assert [window[0].samples for window in windows] == list(range(20, 100, 8))
    main_process, worker = zip(*map(medians_of, windows), strict=True)
    assert main_process == (100.0,) * 10
    assert apart(main_process) == 0
    assert worker[:9] == tuple(223.5 + 8 * window for window in range(9))
    assert apart(worker[:9]) == pytest.approx(64 / 223.5)


def test_the_command_ends_with_an_error_where_memory_grows(monkeypatch, capsys):
    monkeypatch.setattr("tests.soak.data_sets", lambda: {"first": None, "second": None})
    for fault, code in (("", None), ("memory is not level", "memory is not level\nmemory is not level")):
        monkeypatch.setattr("tests.soak.soak", lambda name, data, seconds, fault=fault: fault)
        with pytest.raises(SystemExit) as ended:
            main(["--minutes", "1", "--settings", "2"])
        assert ended.value.code == code
    assert "2 random settings of the mixing: everything held" in capsys.readouterr().out
