"""A pretended second device, to find code that mixes devices where there is no GPU.

Inside ``pretended()`` a tensor that is moved to ``DEVICE`` keeps its numbers in ordinary memory, and an operation on
tensors of both devices is refused by the rules of a GPU: numbers without a dimension may come from the CPU, and so may
rows of an index and the source of a copy. Everything else computes what it would compute on the CPU.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
_COPIES = ("aten.copy_.default", "aten._to_copy.default")
_INDEXING = ("aten.index.Tensor", "aten.index_put_.default", "aten.index_put.default", "aten._index_put_impl_.default")


class MixedDevicesError(RuntimeError):
    """What CUDA would say."""


class Elsewhere(torch.Tensor):
    """A tensor that says it is on ``DEVICE``; its numbers are in ``here``."""

    @staticmethod
    def __new__(cls, here):
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, here.shape, **layout, device=DEVICE)

    def __init__(self, here):
        self.here = here

    def tolist(self):
        return self.here.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def compute(func, args, kwargs):
    """Run an operation on the numbers, and say on which device its result is."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    away = [x for x in tensors if isinstance(x, Elsewhere)]
    at_home = [x for x in tensors if not isinstance(x, Elsewhere)]
    name = str(func)
    if name in _INDEXING:  # rows may come from the CPU; the table, and what is put into it, may not
        at_home = [x for x in at_home if x is args[0] or (len(args) > 2 and x is args[2])]
    if away and name not in _COPIES and any(x.dim() for x in at_home):
        raise MixedDevicesError(f"{name} was given tensors of both devices")
    kwargs = dict(kwargs)
    target = kwargs.get("device")
    is_away = bool(away) if target is None else torch.device(target) == DEVICE
    if name == "aten.copy_.default":
        is_away = isinstance(args[0], Elsewhere)
    if target is not None and torch.device(target) == DEVICE:
        kwargs["device"] = torch.device("cpu")
    plain = tree_map(lambda x: x.here if isinstance(x, Elsewhere) else x, (args, kwargs))
    found = func(*plain[0], **plain[1])
    if not is_away:
        return found
    wrapped = tree_map(lambda x: Elsewhere(x) if type(x) is torch.Tensor else x, found)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


class _Pretended(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


@contextlib.contextmanager
def pretended():
    """Let tensors be moved to ``DEVICE``."""
    with _Pretended():
        yield DEVICE
