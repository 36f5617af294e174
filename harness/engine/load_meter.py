"""Measure a load: the share of the weights in the page cache, the time to read the rest, and the time to place them.

A load from a cold page cache takes half as long again or more, independently of the code. So the cached share is
measured first, and the rest is read ahead and timed separately. The remaining time is the part that a change of code
can make slower.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import mmap
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from harness.records.perf import LoadUsage, StageMemory

SUFFIXES = (".safetensors", ".gguf")
_CHUNK = 16 * 2**20
_LEAST_FREE = 1.5
"""Memory that must be available, as a multiple of the weights' size: else reading ahead would evict them again."""


def weight_files(paths: Mapping[str, Path]) -> tuple[Path, ...]:
    """Return the weight files of a case, sorted, without those of an expert that another folder overrides.

    Args:
        paths: folder by role, as a backend gets it: ``model``, and perhaps ``transformer`` and ``transformer_2``.
    """
    return tuple(sorted(set(_files(paths))))


def _files(paths: Mapping[str, Path]) -> Iterator[Path]:
    for role, folder in paths.items():
        # the anchor is read by the inspector; no engine loads it
        if role == "base":
            continue
        for path in folder.rglob("*") if folder.is_dir() else [folder]:
            inside = path.relative_to(folder).parts[:1] if path != folder else ()
            overridden = role == "model" and inside and inside[0] in paths and inside[0] != "model"
            if path.suffix in SUFFIXES and path.is_file() and not overridden:
                yield path.resolve()


def resident_share(files: tuple[Path, ...]) -> float | None:
    """Return the share of the bytes of ``files`` in the page cache, in [0, 1]; ``None`` if the system cannot report it.

    The kernel reports the truth for files that this user owns or may write to, and "all" for others (mincore(2)).
    """
    total = sum(path.stat().st_size for path in files)
    if not total or sys.platform != "linux":
        return None
    resident = 0
    for path in files:
        share = _resident(path)
        if share is None:
            return None
        resident += share
    return min(1.0, resident / total)


def _resident(path: Path) -> int | None:
    """Return how many bytes of one file are in the page cache; ``None`` if the file cannot be mapped."""
    size = path.stat().st_size
    if not size:
        return 0
    pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    flags = ctypes.create_string_buffer(pages)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        address = library.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            return None
        try:
            if library.mincore(address, size, flags) != 0:
                return None
        finally:
            library.munmap(address, size)
    finally:
        os.close(descriptor)
    return min(size, sum(flag & 1 for flag in flags.raw) * mmap.PAGESIZE)


class LoadMeter:
    """Measures one load: create it before, call `read` first, and `usage` after the model is loaded.

    Args:
        paths: folder by role, as the backend gets it.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._files = weight_files(paths)
        self._bytes = sum(path.stat().st_size for path in self._files)
        self._resident: float | None = None
        self._read = 0.0
        self._began = time.monotonic()

    def read(self) -> None:
        """Read the files into the page cache if they are not in it and fit into memory."""
        began = time.monotonic()
        with suppress(OSError):  # the backend reads the same files and reports the error better
            self._resident = resident_share(self._files)
            if self._resident is not None and self._resident < 1 and _available() > _LEAST_FREE * self._bytes:
                for path in self._files:
                    _read_through(path)
        self._read = time.monotonic() - began
        self._began = time.monotonic()

    def usage(self) -> LoadUsage:
        """Return the costs of the load, with the peak of GPU memory if the backend uses torch on a GPU."""
        return LoadUsage(
            checkpoint_bytes=self._bytes,
            cache_resident=self._resident,
            read_seconds=self._read,
            place_seconds=time.monotonic() - self._began,
            memory=_gpu_memory(),
        )


def _read_through(path: Path) -> None:
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _available() -> float:
    """Return the bytes of host memory that a new process could get without swapping."""
    return float(psutil.virtual_memory().available)


def _gpu_memory() -> StageMemory | None:
    """Return this process's peaks of GPU memory if it has a CUDA context. Never imports torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return StageMemory(
        stage="load",
        allocated=int(torch.cuda.max_memory_allocated()),
        reserved=int(torch.cuda.max_memory_reserved()),
    )
