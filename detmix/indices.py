"""Row numbers that the host knows, on the device whose rows they are."""

import torch
from torch import Tensor


def indices_on(device: torch.device, indices: Tensor) -> Tensor:
    """The same (R,) int64 on a device; no GPU is waited for.

    Args:
        device: of the tensors that are indexed.
        indices: (R,) int64 on the CPU.
    """
    if device.type != "cuda":
        return indices.to(device)
    return indices.pin_memory().to(device, non_blocking=True)  # of other memory a copy would wait
