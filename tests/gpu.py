"""The GPU of the tests that are marked ``gpu``: CUDA's or, with SIMULATED_GPU=1, one that is simulated."""

import os
import warnings
from contextlib import contextmanager

import pytest
import torch

from .simulated_gpu import NAME, is_possible, simulated_gpu, waited_for


class Gpu:
    """A device of torch's."""

    def __init__(self, device, waits):
        self.device = device
        self.simulated = device.type != "cuda"
        self._waits = waits

    def move(self, value):
        """Tensors, those in lists, tuples and dicts too, on the device."""
        if isinstance(value, dict):
            return {key: self.move(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.move(item) for item in value)
        return value.to(self.device) if isinstance(value, torch.Tensor) else value

    @contextmanager
    def count_waits(self):
        """Gives a list, which after the block has an entry for each time that the host waited for the device."""
        found = []
        with self._waits() as noted:
            yield found
        found += noted


@contextmanager
def open_gpu(patch):
    """A ``Gpu``; where there is none the test is skipped."""
    if torch.cuda.is_available():
        yield Gpu(torch.device("cuda"), _waits_on_cuda)
    elif os.environ.get("SIMULATED_GPU") == "1" and is_possible():
        patch.setattr("detmix.indices._PINNED", {NAME})
        with simulated_gpu() as device:
            yield Gpu(device, _waits_simulated)
    else:
        pytest.skip("no CUDA device; tests/test_simulated_gpu.py runs it on a simulated one")


@contextmanager
def _waits_on_cuda():
    noted = []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield noted
    finally:
        torch.cuda.set_sync_debug_mode("default")
    noted += [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)]


@contextmanager
def _waits_simulated():
    noted, before = [], len(waited_for)
    yield noted
    noted += waited_for[before:]
