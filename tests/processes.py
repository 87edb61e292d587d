"""Processes of their own for tests: forked from one that has the libraries and has done nothing else.

Another Python would take seconds to import them each time. ``conftest.py`` says which libraries these are.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from torch import distributed

FORKSERVER = multiprocessing.get_context("forkserver")


def run_apart(function: Callable[..., Any], *arguments: Any, output: Path, timeout: float = 300) -> int:
    """Call a function in a process, and a process group, of its own.

    Args:
        function: of a module; what it gives is lost.
        arguments: of it; they are pickled.
        output: the file that what it prints goes to.
        timeout: seconds after which it is killed.

    Returns:
        The exit code: 1 after an exception, whose traceback is printed; minus its number after a signal.
    """
    return end_of(start_apart(function, *arguments, output=output), timeout)


def start_apart(function: Callable[..., Any], *arguments: Any, output: Path) -> ForkServerProcess:
    """Begin to call it, and do not wait."""
    process = FORKSERVER.Process(target=_call, args=(function, arguments, output))
    process.start()
    return process


def end_of(process: ForkServerProcess, timeout: float = 300) -> int:
    """Wait for its exit code."""
    process.join(timeout)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], output: Path) -> None:
    os.setsid()
    with output.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    function(*arguments)


@contextmanager
def rank_of_group(rank: int, ranks: int, folder: str) -> Iterator[None]:
    """Be one of several processes that train together on the CPU; let go of what was trained before the end.

    Args:
        rank: number of this process.
        ranks: how many there are.
        folder: where they meet.
    """
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    yield
    # torch's threads let go of gradients a moment later, for which a model that outlives the group can wait for ever
    distributed.barrier()
    distributed.destroy_process_group()
