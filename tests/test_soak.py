"""The soak finds what it looks for: memory that grows, and mixing that breaks a promise."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from detmix import collate

from .random_mixing import check_sample, check_setting, make_samples, mix
from .soak import Reading, apart, by_window, check_settings, main, soak


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
    """Samples each of which may leave some megabytes behind; the tests around it have taken thousands."""

    def __init__(self, leak):
        self.leak, self.left = leak, []

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        self.left += [torch.ones(self.leak << 18)]
        return torch.zeros(3, 8, 8), {}


class Data:
    def __init__(self, leak):
        self.leak = leak

    def train_dataloader(self):
        return DataLoader(Samples(self.leak), batch_size=1, num_workers=1, collate_fn=collate)

    def start_epoch(self, epoch, max_epochs):
        pass


@pytest.mark.parametrize(("leak", "level"), [(16, False), (0, True)])
def test_a_worker_that_keeps_what_it_loaded_is_found(monkeypatch, leak, level):
    clock = SimpleNamespace(monotonic=map((0.1).__mul__, itertools.count()).__next__)  # ten batches a second
    monkeypatch.setattr("tests.soak.time", clock)
    assert soak("samples", Data(leak), 3.2) == level


def test_windows_begin_after_the_warm_up_and_are_compared_with_the_first():
    readings = [Reading(second, (100.0 if second >= 20 else 500.0, 200.0 + second)) for second in range(100)]
    main_process, worker = by_window(readings, 100)
    assert main_process == [100.0] * 10
    assert apart(main_process) == 0
    assert worker == [223.5 + 8 * window for window in range(10)]
    assert apart(worker) == pytest.approx(72 / 223.5)


def test_the_command_ends_with_an_error_where_memory_grows(monkeypatch, capsys):
    monkeypatch.setattr("tests.soak.data_sets", lambda: {"made up": None})
    for level, code in ((True, None), (False, "memory is not level within 2%")):
        monkeypatch.setattr("tests.soak.soak", lambda name, data, seconds, level=level: level)
        with pytest.raises(SystemExit) as ended:
            main(["--minutes", "1", "--settings", "2"])
        assert ended.value.code == code
    assert "2 random settings of the mixing: everything held" in capsys.readouterr().out
