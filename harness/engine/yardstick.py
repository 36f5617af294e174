"""Time a fixed computation beside the measured work, to know how fast the CPU is at that moment.

A shared processor changes its speed by a third within minutes (other tenants on its sibling threads, caches and memory
channels, its clock), and no counter of the system shows it. The same thread does the same work here at every
version of the code under test: only numpy and the machine decide how long it takes, never torch or a model.
"""

from __future__ import annotations

import mmap
import time

import numpy as np
import numpy.typing as npt

_SIDE = 64
"""Rows of the matrices. OpenBLAS keeps a product of this size on the calling thread."""
_VECTOR = 1 << 15
"""float32 values of a vector. The arrays before the stream (300 KiB together) fit the second cache of a core."""
_STREAM = 1 << 20
"""float32 values that a copy reads: 4 MiB, which no second cache holds beside what it writes."""
_PRODUCTS, _PASSES, _COPIES = 200, 160, 2


class Yardstick:
    """A fixed computation of about three milliseconds, half in the core's own caches and half in memory.

    Neighbours slow either half without the other: those on the sibling thread the first, those who stream through
    memory the second. A model does both.

    Attributes:
        spent: seconds of all measurements so far.
    """

    def __init__(self) -> None:
        # one mapping with fixed offsets: arrays of the allocator lie differently in each process, and the distance
        # between input and output modulo 4 KiB alone changes the time by a fifth
        self._arena = mmap.mmap(-1, 10 << 20)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):  # whether a process is given huge pages is chance, and changes the copy
            self._arena.madvise(mmap.MADV_NOHUGEPAGE)
        self._square, self._product = self._array(0, _SIDE, _SIDE), self._array(20 << 10, _SIDE, _SIDE)
        self._vector, self._scaled = self._array(64 << 10, _VECTOR), self._array(200 << 10, _VECTOR)
        self._stream, self._copy = self._array(1 << 20, _STREAM), self._array((5 << 20) + (4 << 10), _STREAM)
        # constants, not random numbers: no generator's state may depend on whether times are taken
        self._square[:] = np.linspace(0, 1, self._square.size, dtype=np.float32).reshape(_SIDE, _SIDE)
        self._stream[:] = 1.0
        self._vector[:] = np.linspace(0, 1, _VECTOR, dtype=np.float32)
        self.spent = 0.0

    def seconds(self) -> float:
        """Do the computation once and return its seconds on the host's clock."""
        began = time.perf_counter()
        self._work(1, 1, 1)  # the work before has displaced the arrays from the caches: how far is no matter of speed
        warm = time.perf_counter()
        self._work(_PRODUCTS, _PASSES, _COPIES)
        now = time.perf_counter()
        self.spent += now - began
        return now - warm

    def _work(self, products: int, passes: int, copies: int) -> None:
        for _ in range(products):
            np.matmul(self._square, self._square, out=self._product)
        for _ in range(passes):
            np.multiply(self._vector, self._vector, out=self._scaled)
        for _ in range(copies):
            np.copyto(self._copy, self._stream)

    def _array(self, offset: int, *shape: int) -> npt.NDArray[np.float32]:
        count = int(np.prod(shape))
        return np.frombuffer(self._arena, np.float32, count, offset).reshape(shape)
