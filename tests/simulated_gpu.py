"""A GPU that is simulated: its tensors lie in the memory of the host, and meet the host's as those of a GPU do.

An operation on tensors of both is an error, but for numbers of the host's. What torch makes there, by ``device=``,
``.to``, ``zeros_like`` and the like, lies there; every operation gives the numbers that it gives on the CPU, the random
ones too. Noted are operations for which the host would wait for a GPU: it needs their values, or how many there are, or
copies without ``non_blocking``. Whether memory is pinned is not looked at.

torch registers a device for the whole process and for good: what uses this runs in a process of its own.
"""

from contextlib import contextmanager
from functools import cache

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "simulated"
waited_for = []  # the operations, as text

_aten = torch.ops.aten
_COPIES = (_aten._to_copy.default, _aten.copy_.default)
_READ = (
    "_local_scalar_dense",
    "nonzero",
    "unique",
    "masked_select",
    "equal.",
    "bincount",
    "repeat_interleave.Tensor",
    "nms",
)
_ALIKE = (_aten.cat, _aten.stack, _aten.gather, _aten.scatter, _aten.index_select)  # a number must lie there too
_INDEXED = (_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_)


def is_possible():
    """Whether this version of torch takes a device that is written in Python."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


@contextmanager
def simulated_gpu():
    """While this is open, there is a device ``simulated``."""
    _register()
    with _Made(), _MadeOfValues():
        yield torch.device(NAME, 0)


class There(torch.Tensor):
    """A tensor of the device; ``host`` is a tensor of the host with its values."""

    @staticmethod
    def __new__(cls, host):
        layout = {"strides": host.stride(), "storage_offset": host.storage_offset(), "dtype": host.dtype}
        there = torch.Tensor._make_wrapper_subclass(cls, host.size(), device=torch.device(NAME, 0), **layout)
        there.host = host
        return there

    def __repr__(self):
        return f"There({self.host})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


class _Made(TorchDispatchMode):
    """Tensors that are made on the device, of none that lie there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


class _MadeOfValues(TorchFunctionMode):
    """The same, of Python's numbers, and tensors as those: no dispatch mode is asked for these."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.tolist and isinstance(args[0], There):
            return args[0].cpu().tolist()
        if function is torch.Tensor.pin_memory:
            return args[0]
        if function in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor):
            device = kwargs.pop("device", None)
            made = function(*args, **kwargs)
            return made if device is None else made.to(device)
        return function(*args, **kwargs)


def _compute(function, args, kwargs):
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    on_device = any(isinstance(value, There) for value in tensors)
    device = kwargs.get("device")
    there = on_device if device is None else torch.device(device).type == NAME
    if function is _aten.copy_.default:
        there = isinstance(args[0], There)
    if on_device and function not in _COPIES:
        _require_all_there(function, tensors)
    if _is_waited_for(function, args, kwargs, on_device, there):
        waited_for.append(str(function))
    host_args, host_kwargs = tree_map(lambda value: value.host if isinstance(value, There) else value, (args, kwargs))
    made = function(*host_args, **(host_kwargs if device is None else {**host_kwargs, "device": "cpu"}))
    if not there:
        return made
    made = tree_map(lambda value: There(value) if isinstance(value, torch.Tensor) else value, made)
    return return_and_correct_aliasing(function, args, kwargs, made)


def _require_all_there(function, tensors):
    for value in tensors:
        if (value.dim() or function.overloadpacket in _ALIKE) and not isinstance(value, There):
            raise RuntimeError(f"{function} of the device's tensors and one of the host's, {tuple(value.shape)}")


def _is_waited_for(function, args, kwargs, on_device, there):
    if function in _COPIES:
        return on_device != there and not (kwargs.get("non_blocking") or True in args[2:])
    if not on_device:
        return False
    if function.overloadpacket in _INDEXED:
        masked = any(index is not None and index.dtype == torch.bool for index in args[1])
        return masked and not (function.overloadpacket != _aten.index and args[2].numel() == 1)  # that fills
    return any(word in str(function) for word in _READ)


@cache
def _register():
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")  # what torch's own code in C++ calls past the modes

    def empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
        return There(torch.empty_strided(size, stride, dtype=dtype))

    def copy_(to, source, non_blocking=False):
        return _compute(_aten.copy_.default, (to, source, non_blocking), {})

    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("copy_", copy_, "PrivateUse1")
    return library
