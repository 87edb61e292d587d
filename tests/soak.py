"""Minutes of data loading in which memory must stay level, and thousands of random settings of the mixing.

    python -m tests.soak --minutes 10 --settings 10000

The loader is the trainer's, with two workers, mixing and a cache, over made-up shapes and over BCCD where it is at
``data/bccd``, half of the time each; and longer where the machine is so busy that there were not ten epochs by then.
Every second the memory of each process is read: what is its own and what it shares with the others (``RssAnon`` and
``RssShmem`` of Linux; files that it has mapped come and go with the system). The first fifth of the samples is warm-up.
The rest is cut into ten windows of as many samples; each must have readings, and the median of none may differ from
that of the first by more than 2 %.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from torch.utils.data import DataLoader

from detmix.terminal import bar_of, progress_bars, table_of
from detmix.training import DetectionData, MixupOptions, ShapesOptions

from .random_mixing import check_setting

TOLERANCE = 0.02
WINDOWS = 10
EPOCHS = 10  # at least; the first epoch or two fill caches and the heap, on a slow machine as on a fast one
WARM_UP = 0.2  # of the samples
BCCD = Path("data/bccd")


class Reading(NamedTuple):
    """Memory at one moment, in MB: of this process, then of its workers."""

    seconds: float  # since the loading began
    samples: int  # loaded by then
    memory: tuple[float, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both and say what came out; ends with an error where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of data loading, all data sets together")
    parser.add_argument("--settings", type=int, default=10_000, help="random settings of the mixing")
    chosen = parser.parse_args(arguments)
    with progress_bars() as bars:
        check_settings(chosen.settings, bar_of(bars, "mixing", "settings"))
    Console().print(f"{chosen.settings} random settings of the mixing: everything held.")
    sets = data_sets()
    faults = [soak(name, data, 60 * chosen.minutes / len(sets)) for name, data in sets.items()]
    sys.exit("\n".join(filter(None, faults)) or None)


def check_settings(count: int, done: Callable[[int, int], None]) -> None:
    """Check as many random settings; the first that fails is named."""
    for number in range(count):
        try:
            check_setting(number)
        except Exception as error:
            raise AssertionError(f"setting {number}: tests.random_mixing.check_setting({number}) fails") from error
        done(number + 1, count)


def data_sets() -> dict[str, DetectionData]:
    """What is loaded, by name."""
    options = {"mixup": MixupOptions(cache=32), "batch_size": 4, "num_workers": 2}
    sets = {"shapes": DetectionData("shapes", shapes=ShapesOptions(train=400), **options)}
    if BCCD.is_dir():
        sets["BCCD"] = DetectionData("voc", root=str(BCCD), **options)
    else:
        Console().print(f"There is no {BCCD}: only shapes are loaded.")
    return sets


def soak(name: str, data: DetectionData, seconds: float) -> str:
    """Load for a time, show what came of the memory, and say what is wrong with it; nothing where it was level."""
    readings, loader = [], data.train_dataloader()
    with progress_bars() as bars:
        done = bar_of(bars, name, "seconds")
        for reading in load(loader, lambda epoch: data.start_epoch(epoch, None), seconds):
            readings.append(reading)
            done(int(reading.seconds), int(seconds))
    if any(len(reading.memory) != 1 + loader.num_workers for reading in readings):
        return f"{name}: not all workers were seen"
    windows = by_window(readings)
    if not all(windows):
        return f"{name}: too little was seen, {len(readings)} readings, to fill {WINDOWS} windows: try more --minutes"
    medians = list(zip(*map(medians_of, windows), strict=True))
    last = readings[-1]
    table = table_of(
        f"{name}: {last.samples} samples in {last.seconds:.0f} s", ["process"], ["first MB", "last MB", "apart"]
    )
    for number, row in enumerate(medians):
        process = f"worker {number}" if number else "main"
        table.add_row(process, f"{row[0]:.1f}", f"{row[-1]:.1f}", f"{apart(row):.2%}")
    Console().print(table)
    level = all(apart(row) <= TOLERANCE for row in medians)
    return "" if level else f"{name}: memory is not level within {TOLERANCE:.0%}"


def load(loader: DataLoader, start_epoch: Callable[[int], None], seconds: float) -> Iterator[Reading]:
    """Load whole epochs until the time is up, but enough of them; read the memory each second."""
    others = multiprocessing.active_children()
    began, due, samples, epoch = time.monotonic(), 0.0, 0, 0
    while epoch < EPOCHS or time.monotonic() - began < seconds:
        start_epoch(epoch)
        for images, _ in loader:
            samples += len(images)
            now = time.monotonic() - began
            if now >= due:
                workers = sorted(child.pid for child in multiprocessing.active_children() if child not in others)
                yield Reading(now, samples, tuple(map(memory_of, (os.getpid(), *workers))))
                due = now + 1
        epoch += 1
        if not samples:
            raise ValueError("there are no samples to load")


def memory_of(process: int) -> float:
    """MB that a process has for itself and that it shares with others, mapped files aside."""
    lines = (line.split() for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return sum(int(line[1]) for line in lines if line[0] in ("RssAnon:", "RssShmem:")) / 1024


def by_window(readings: Sequence[Reading]) -> list[list[Reading]]:
    """The readings after the warm-up, in windows of as many samples."""
    windows: list[list[Reading]] = [[] for _ in range(WINDOWS)]
    end = readings[-1].samples
    begin = WARM_UP * end
    for reading in readings:
        if reading.samples >= begin:
            window = int(WINDOWS * (reading.samples - begin) / (end - begin))
            windows[min(window, WINDOWS - 1)].append(reading)
    return windows


def medians_of(window: Sequence[Reading]) -> list[float]:
    """The median of the memory of each process."""
    return [statistics.median(memory) for memory in zip(*(reading.memory for reading in window), strict=True)]


def apart(medians: Sequence[float]) -> float:
    """By how much the windows differ from the first, as a share of it, at most."""
    return max(abs(median - medians[0]) for median in medians) / medians[0]


if __name__ == "__main__":
    main()
