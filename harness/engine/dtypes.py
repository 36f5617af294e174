"""Receipts of precision: count the dtype in which each kind of operation really computed, observed at the dispatcher.

A configuration states only the requested dtype. The dtype in which a norm, the residual stream or a softmax computed
is visible in the operations that torch dispatched, whichever code called them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SILENT = frozenset({
    "view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze",
    "split", "split_with_sizes", "chunk", "cat", "stack", "clone", "copy_", "detach", "alias", "as_strided", "unbind",
    "_reshape_alias", "repeat", "empty", "empty_like", "new_empty", "new_zeros", "zeros", "zeros_like", "ones",
    "ones_like", "full", "full_like", "arange", "index", "index_select", "embedding", "constant_pad_nd", "fill_",
    "lift_fresh", "unfold", "flip", "roll", "empty_strided", "contiguous", "scalar_tensor",
    "item", "_local_scalar_dense",
})  # fmt: skip
"""Operations that move values and compute nothing, so that they are not counted."""


class DtypeWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations by kind and by the dtype that they computed in, while the context lasts.

    Args:
        ignored: called before each operation is counted; true while other code computes (a sketch inside a hook).
    """

    def __init__(self, ignored: Callable[[], bool] = lambda: False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ignored = ignored
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> dict[str, int]:
        """Number of calls by ``operation:dtype``, sorted, for example ``native_layer_norm:float32``."""
        return dict(sorted(self._counts.items()))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func`` unchanged, and count it."""
        result = func(*args, **(kwargs or {}))
        if not self._ignored():
            name = str(func.overloadpacket.__name__)
            dtype = _computed(name, args, result)
            if name not in SILENT and dtype is not None:
                self._counts[f"{name}:{str(dtype).removeprefix('torch.')}"] += 1
        return result


def _computed(name: str, args: tuple[Any, ...], result: Any) -> torch.dtype | None:
    """Return the dtype that an operation computed in: the widest dtype of its inputs; of a cast, its result's dtype."""
    if name in ("_to_copy", "to", "type"):
        return result.dtype if isinstance(result, torch.Tensor) and _counts(result) else None
    dtypes = [tensor.dtype for tensor in _tensors(args) if _counts(tensor) and tensor.dim() > 0]
    return max(dtypes, key=lambda dtype: (dtype.itemsize, str(dtype))) if dtypes else None


def _counts(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.dtype == torch.int8


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


@contextmanager
def first_call(module: torch.nn.Module) -> Iterator[DtypeWatch]:
    """Watch the first call of a module while the context lasts."""
    watch, state = DtypeWatch(), {"calls": 0}

    def enter(*_: Any) -> None:
        state["calls"] += 1
        if state["calls"] == 1:
            watch.__enter__()  # type: ignore[no-untyped-call]

    def leave(*_: Any) -> None:
        if state["calls"] == 1:
            watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            state["calls"] += 1

    handles = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()
