"""Minutes of data loading in which memory must stay level, and thousands of random settings of the mixing.

    python -m tests.soak --minutes 10 --settings 10000

The loader is the trainer's, with two workers, mixing and a cache, over made-up shapes and over BCCD where it is at
``data/bccd``, half of the time each. Every second the memory of each process is read: what is its own and what it
shares with the others (``RssAnon`` and ``RssShmem`` of Linux; files that it has mapped come and go with the system).
The first fifth of the time is warm-up. The rest is cut into ten windows, and the median of none may differ from that of
the first by more than 2 %.
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
from detmix.training.data import DetectionData, MixupOptions, ShapesOptions

from .random_mixing import check_setting

TOLERANCE = 0.02
WINDOWS = 10
BCCD = Path("data/bccd")


class Reading(NamedTuple):
    """Memory at one moment, in MB: of this process, then of its workers."""

    seconds: float  # since the loading began
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
    level = [soak(name, data, 60 * chosen.minutes / len(sets)) for name, data in sets.items()]
    sys.exit(None if all(level) else f"memory is not level within {TOLERANCE:.0%}")


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


def soak(name: str, data: DetectionData, seconds: float) -> bool:
    """Load for a time, show what came of the memory, and say whether it was level."""
    samples, readings, loader = 0, [], data.train_dataloader()
    with progress_bars() as bars:
        done = bar_of(bars, name, "seconds")
        for loaded, reading in load(loader, lambda epoch: data.start_epoch(epoch, None), seconds):
            samples = loaded
            readings.append(reading)
            done(int(reading.seconds), int(seconds))
    windows = by_window(readings, seconds)
    table = table_of(f"{name}: {samples} samples in {seconds:.0f} s", ["process"], ["first MB", "last MB", "apart"])
    for number, medians in enumerate(windows):
        process = f"worker {number}" if number else "main"
        table.add_row(process, f"{medians[0]:.1f}", f"{medians[-1]:.1f}", f"{apart(medians):.2%}")
    Console().print(table)
    return all(apart(medians) <= TOLERANCE for medians in windows)


def load(loader: DataLoader, start_epoch: Callable[[int], None], seconds: float) -> Iterator[tuple[int, Reading]]:
    """Load epoch after epoch; each second, how many samples there were and how much memory is taken."""
    began, samples, epoch, reading = time.monotonic(), 0, 0, None
    while reading is None or reading.seconds < seconds:
        start_epoch(epoch)
        for images, _ in loader:
            samples += len(images)
            now = time.monotonic() - began
            if reading is None or now - reading.seconds >= 1:
                reading = Reading(now, tuple(map(memory_of, processes())))
                yield samples, reading
            if now >= seconds:
                return
        epoch += 1


def processes() -> list[int]:
    """The ids of this process and of its workers, in a lasting order."""
    return [os.getpid(), *sorted(child.pid for child in multiprocessing.active_children())]


def memory_of(process: int) -> float:
    """MB that a process has for itself and that it shares with others, mapped files aside."""
    lines = (line.split() for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return sum(int(line[1]) for line in lines if line[0] in ("RssAnon:", "RssShmem:")) / 1024


def by_window(readings: Sequence[Reading], seconds: float) -> list[list[float]]:
    """For each process, the median of its memory in each window after the warm-up."""
    start = seconds / 5
    windows: list[list[Reading]] = [[] for _ in range(WINDOWS)]
    for reading in readings:
        if reading.seconds >= start:
            windows[min(int(WINDOWS * (reading.seconds - start) / (seconds - start)), WINDOWS - 1)].append(reading)
    filled = [window for window in windows if window]
    count = len(readings[-1].memory)
    return [[statistics.median(r.memory[process] for r in window) for window in filled] for process in range(count)]


def apart(medians: Sequence[float]) -> float:
    """By how much the windows differ from the first, as a share of it, at most."""
    return max(abs(median - medians[0]) for median in medians) / medians[0]


if __name__ == "__main__":
    main()
