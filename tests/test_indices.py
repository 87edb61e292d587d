import torch
from torch.overrides import TorchFunctionMode

from detmix.indices import indices_on


class Copies(TorchFunctionMode):
    """Notes of each copy to a device whether it is waited for."""

    def __init__(self):
        super().__init__()
        self.waited_for = []
        self.copied = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.to:
            self.waited_for.append(not (kwargs or {}).get("non_blocking", False))
            self.copied.append(args[0])
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


def test_a_device_that_copies_from_pinned_memory_is_not_waited_for(monkeypatch):
    pinned = torch.arange(3)
    monkeypatch.setattr("detmix.indices._PINNED", {"meta"})
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda rows: pinned)
    with Copies() as copies:
        rows = indices_on(torch.device("meta"), torch.arange(3))
    assert copies.waited_for == [False]
    assert copies.copied[0] is pinned
    assert rows.is_meta
