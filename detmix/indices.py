"""Row numbers that the host knows, on the device whose rows they are."""

import torch
from torch import Tensor

_PINNED = {"cuda"}  # devices that copy from pinned memory while the host goes on; Apple's would read what was freed


def indices_on(device: torch.device, indices: Tensor) -> Tensor:
    """The same (R,) int64 on a device; no CUDA device is waited for.

    Args:
        device: of the tensors that are indexed.
        indices: (R,) int64 on the CPU.
    """
    if device.type not in _PINNED:
        return indices.to(device)
    return indices.pin_memory().to(device, non_blocking=True)  # of other memory a copy would wait
