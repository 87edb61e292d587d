import torch
from torch.overrides import TorchFunctionMode

from detmix.indices import indices_on


class Copies(TorchFunctionMode):
    """Notes of each copy to a device whether it is waited for."""

    def __init__(self):
        super().__init__()
        self.waited_for = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.to:
            self.waited_for.append(not (kwargs or {}).get("non_blocking", False))
        return function(*args, **(kwargs or {}))


def test_rows_are_copied_before_their_memory_is_given_back():
    with Copies() as copies:  # Apple's GPUs read what was freed: https://github.com/pytorch/pytorch/issues/189690
        rows = indices_on(torch.device("meta"), torch.arange(3))
    assert copies.waited_for == [True]
    assert rows.is_meta
    assert rows.shape == (3,)


def test_on_the_cpu_they_are_what_they_were():
    rows = torch.tensor([2, 0, 1])
    assert indices_on(torch.device("cpu"), rows) is rows
