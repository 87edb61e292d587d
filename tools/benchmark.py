"""What detmix costs, as ratios measured in one run: a table for each part.

python tools/benchmark.py blend                 # on the CPU, one thread
python tools/benchmark.py sample                # JPEG files, made up
python tools/benchmark.py loader --workers 8    # the same files, through a data loader
python tools/benchmark.py dataset               # files like train2017's, made up; on Linux
python tools/benchmark.py evaluate              # half a million detections, by COCO's rules and VOC's
python tools/benchmark.py step --detector retinanet_resnet50_fpn --threads 2 --json step.json
python tools/benchmark.py step --device cuda --batch_size 8 --size 800
python tools/benchmark.py train --device cuda --batch_size 16 --size 800 --workers 8 --steps 20 --rounds 5

The sides of a ratio are timed in turn, A B A B ..., and the median of the pairwise ratios is printed with its
quartiles, so that a machine that slows down half-way spoils both alike. Each part takes less than five minutes unless
told otherwise. BENCHMARKS.md holds what they printed, and what it means.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import torch
from jsonargparse import ArgumentParser
from rich.console import Console

from detmix import benchmark
from detmix.files import write_text
from detmix.machine import machine
from detmix.terminal import replace_unprintable, require_text
from detmix.training.parser import Formatter

PARTS: dict[str, Callable[..., benchmark.BenchmarkReport]] = {
    "blend": benchmark.measure_blend,
    "dataset": benchmark.measure_dataset,
    "evaluate": benchmark.measure_evaluate,
    "loader": benchmark.measure_loader,
    "sample": benchmark.measure_sample,
    "step": benchmark.measure_step,
    "train": benchmark.measure_train,
}

NARROWEST = 110  # characters that a table may take


def main() -> None:
    """Parse the command line, measure one part and print its table."""
    parser = ArgumentParser(description=__doc__, formatter_class=Formatter)
    parts = parser.add_subcommands(dest="part")
    for name, measure in PARTS.items():
        summary = str(measure.__doc__).partition("\n")[0]
        part = ArgumentParser(description=summary)
        part.add_function_arguments(measure)
        part.add_argument("--threads", type=int, default=1, help="CPU threads of torch and OpenCV")
        part.add_argument("--json", type=Path | None, help="write all numbers to this file")
        parts.add_subcommand(name, part, help=summary)
    require_text(parser)
    options = parser.parse_args()
    replace_unprintable()
    settings = vars(options[options.part])
    for name, value in settings.items():
        least = 0 if name in ("workers", "cache") else 1
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            parser.error(f"--{name} must be {least} or more, got {value}")
    json_file, threads = settings.pop("json"), settings.pop("threads")
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        report = PARTS[options.part](**settings)
    except benchmark.TooLittle as error:
        parser.error(str(error))
    console = Console()
    console.width = max(console.width, NARROWEST)
    console.print(report.table())
    if json_file is not None:
        content = {"machine": machine(), "threads": threads, **asdict(report)}
        write_text(json_file, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
