"""Fingerprint of an engine: its device, packages and code, reported by the engine's own process."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import harness
from harness.git import head_of
from harness.machine.devices import cpu_device, driver_version
from harness.records.identity import Device, Fingerprint

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "ftfy", "triton", "quantgate")


def take_fingerprint(runner: str, device: str) -> Fingerprint:
    """Return the fingerprint of this process.

    Args:
        runner: name of the runner.
        device: ``cpu``, ``cuda`` or ``auto``. torch is queried only if the backend has imported it.
    """
    torch = sys.modules.get("torch")
    with_gpu = device != "cpu" and torch is not None and torch.cuda.is_available()
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    return Fingerprint(
        runner=runner,
        device=_gpu() if with_gpu else _cpu(),
        driver=driver_version() if with_gpu else None,
        cuda=torch.version.cuda if torch is not None and with_gpu else None,
        cpu_capability=torch.backends.cpu.get_cpu_capability() if torch is not None else "",
        threads=torch.get_num_threads() if torch is not None else 1,
        python=platform.python_version(),
        packages=packages,
        code=head_of(Path(harness.__file__).resolve().parent.parent),
    )


def _gpu() -> Device:
    import torch

    properties = torch.cuda.get_device_properties(0)
    return Device(
        kind="cuda",
        name=properties.name,
        compute_capability=f"{properties.major}.{properties.minor}",
        uuid=f"GPU-{properties.uuid}",
        memory_bytes=properties.total_memory,
    )


def _cpu() -> Device:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return cpu_device().model_copy(update={"memory_bytes": memory})
