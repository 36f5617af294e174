"""Whether this machine may run the lane now, before a model is loaded. Looks, names, and changes nothing."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.architecture import hardware_class
from harness.definitions.case import CheckpointRef
from harness.definitions.runner import RunnerProfile
from harness.errors import InfraError
from harness.lane.gpu_checks import check_gpu
from harness.lane.host_checks import check_cache, check_disk, check_packages
from harness.lane.kernel_log import read_kernel_log
from harness.lane.nvml import GpuFacts, process_name, read_gpus, started
from harness.lane.preflight import Check, Preflight
from harness.lane.version import at_least


@dataclass(frozen=True)
class Host:
    """Where the doctor looks. Tests put their own things here."""

    nvml: Any = None
    """The ``pynvml`` module, or something like it; the real one if not given."""
    kernel_log: Callable[[], tuple[str, ...] | None] = read_kernel_log
    comm: Callable[[int], str] = process_name
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    machine: Callable[[], str] = platform.machine
    own: frozenset[int] = frozenset()
    """Processes that are this run's own."""


def examine(
    profile: RunnerProfile,
    root: Path,
    *,
    checkpoints: Sequence[CheckpointRef] = (),
    uuid: str | None = None,
    host: Host | None = None,
) -> Preflight:
    """Examine this machine for ``profile``.

    Args:
        profile: the runner it should be.
        root: repository: the disk below it takes the runs.
        checkpoints: what must be in the model cache where the hub is offline.
        uuid: the one GPU to look at; every GPU of the profile if not given.
        host: where to look.
    """
    place = host or Host()
    checks = [
        *(_cpu(profile, place) if profile.device_kind == "cpu" else _gpus(profile, uuid, place)),
        *check_packages(profile.packages),
        *check_disk(root, place.environ),
        *check_cache(checkpoints, place.environ),
    ]
    return Preflight(runner=profile.name, checks=tuple(checks))


def require_fit(preflight: Preflight) -> None:
    """Refuse a machine that is not fit.

    Raises:
        InfraError: kind ``device``, with every reason.
    """
    bad = preflight.unfit()
    if bad:
        raise InfraError(
            "this machine is not fit: " + "; ".join(f"{check.name}: {check.message}" for check in bad),
            kind="device",
            remedy=next(
                (check.remedy for check in bad if check.remedy), f"quantgate doctor --runner {preflight.runner}"
            ),
        )


def _cpu(profile: RunnerProfile, host: Host) -> list[Check]:
    machine = hardware_class(host.machine())
    if machine in profile.architectures:
        return [Check(name="device", state="fit", found=machine, wanted=", ".join(profile.architectures))]
    return [
        Check(
            name="device",
            state="unfit",
            missing_device=True,
            found=machine,
            wanted=", ".join(profile.architectures),
            message=f"this CPU is {machine}, and runner {profile.name} is {' or '.join(profile.architectures)}",
            remedy="run on such a machine, or name another runner",
        )
    ]


def _gpus(profile: RunnerProfile, uuid: str | None, host: Host) -> list[Check]:
    nvml = host.nvml or importlib.import_module("pynvml")
    wanted = " or ".join(profile.device_names)
    try:
        with started(nvml) as there:
            gpus = read_gpus(nvml, host.comm) if there else ()
            driver = _text(nvml.nvmlSystemGetDriverVersion()) if there else ""
    except nvml.NVMLError as error:
        message = f"the NVIDIA driver does not answer: {error}"
        return [Check(name="driver", state="unfit", wanted=profile.driver or "", message=message, remedy="nvidia-smi")]
    mine = [gpu for gpu in gpus if gpu.name in profile.device_names and uuid in (None, gpu.uuid)]
    if not mine:
        found = ", ".join(f"{gpu.name} {gpu.uuid}" for gpu in gpus) or "no GPU"
        message = f"runner {profile.name} is {wanted}{f' {uuid}' if uuid else ''}, and this machine has {found}"
        remedy = "run on a machine that has one, or name another runner"
        return [
            Check(
                name="device",
                state="unfit",
                missing_device=True,
                found=found,
                wanted=wanted,
                message=message,
                remedy=remedy,
            )
        ]
    log = host.kernel_log()
    return [_driver(driver, profile), *(check for gpu in mine for check in _one(gpu, profile, log, host))]


def _one(gpu: GpuFacts, profile: RunnerProfile, log: tuple[str, ...] | None, host: Host) -> list[Check]:
    return check_gpu(gpu, profile, log, frozenset({os.getpid(), *host.own}))


def _driver(found: str, profile: RunnerProfile) -> Check:
    if profile.driver is None or at_least(found, profile.driver):
        return Check(name="driver", state="fit", found=found, wanted=f">= {profile.driver}" if profile.driver else "")
    return Check(
        name="driver",
        state="unfit",
        found=found,
        wanted=f">= {profile.driver}",
        message=f"the driver is {found}, and runner {profile.name} needs {profile.driver} at least",
        remedy="install a newer driver on the node",
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
