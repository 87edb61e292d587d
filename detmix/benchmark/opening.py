"""A COCO file opened by one of two libraries: the time, the memory, and what a forked worker adds to it.

``python opening.py LIBRARY FILE`` prints that as JSON, so that nothing but the library is in the process. It needs the
``/proc`` of Linux.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

_PROCESS = Path("/proc/self")


def main() -> None:
    """Open the file, fork a worker, and print the figures."""
    library, file = sys.argv[1:]
    open_file, visit = LIBRARIES[library]()
    start = time.perf_counter()
    with redirect_stdout(StringIO()):  # pycocotools prints
        data, peak = with_peak(lambda: open_file(file))
    figures = {"seconds": time.perf_counter() - start, "peak": peak}
    print(json.dumps(figures | {"worker": _growth_of_worker(data, visit), "arrays": _arrays(data)}))


def _detmix() -> tuple[Callable[[str], Any], Callable[[Any], None]]:
    from detmix.data import DetectionDataset, read_coco

    def visit(data: DetectionDataset) -> None:
        for index in range(len(data)):
            data.image_path(index)
            data.target_of(index)

    return lambda file: DetectionDataset(read_coco(file, ".")), visit


def _pycocotools() -> tuple[Callable[[str], Any], Callable[[Any], None]]:
    from pycocotools.coco import COCO

    def visit(coco: COCO) -> None:  # as torchvision's CocoDetection does
        for image_id in sorted(coco.imgs):
            coco.loadImgs(image_id)
            coco.loadAnns(coco.getAnnIds(image_id))

    return COCO, visit


LIBRARIES = {"detmix": _detmix, "pycocotools": _pycocotools}


def _growth_of_worker(data: Any, visit: Callable[[Any], None]) -> float:
    """By how much the memory of a forked process grows that is its own, in MiB."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        before = _own_memory()
        visit(data)
        sender.send(_own_memory() - before)

    worker = context.Process(target=work)
    worker.start()
    growth: float = receiver.recv()
    worker.join()
    return growth


def _own_memory() -> float:
    return _memory("smaps_rollup", "Private_Clean") + _memory("smaps_rollup", "Private_Dirty")


def with_peak(action: Callable[[], Any]) -> tuple[Any, float]:
    """What an action returns, and by how much the memory of this process rose at most meanwhile, in MiB."""
    (_PROCESS / "clear_refs").write_text("5")  # the peak starts anew
    before = _memory("status", "VmRSS")
    result = action()
    return result, _memory("status", "VmHWM") - before


def _memory(file: str, key: str) -> float:
    """A line of a file about this process, in MiB."""
    lines = (_PROCESS / file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def _arrays(data: Any) -> float:
    """The arrays that a detmix data set is made of, in MiB."""
    arrays = vars(getattr(data, "annotations", data)).values()
    return sum(getattr(array, "nbytes", 0) for array in arrays) / 2**20


if __name__ == "__main__":
    main()
