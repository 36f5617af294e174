"""Check whether this machine may run the lane now, before a model is loaded. Reports only, changes nothing."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from harness.architecture import hardware_class
from harness.definitions.case import UNRESOLVED, CheckpointRef
from harness.definitions.runner import RunnerProfile
from harness.definitions.validation import near_folder
from harness.errors import InfraError
from harness.machine.devices import GpuFacts, process_name, read_gpus, started, text_of
from harness.machine.gpu_checks import at_least, check_gpu, read_kernel_log
from harness.machine.preflight import Check, Preflight
from harness.project import local_folder

# Checks of everything but the GPU: packages, disk, model cache, checkpoint folders.


GIB = 2**30
LEAST_DISK_GIB = 2.0
LOW_DISK_GIB = 20.0
_YES = {"1", "ON", "YES", "TRUE"}


def check_packages(specifiers: Mapping[str, str]) -> Iterator[Check]:
    """Compare installed versions with the specifiers of the runner's profile."""
    for name, specifier in sorted(specifiers.items()):
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = ""
        if installed and SpecifierSet(specifier).contains(installed, prereleases=True):
            yield Check(name="package", state="fit", actual=f"{name} {installed}", wanted=specifier)
            continue
        message = f"{name} is {installed or 'not installed'}, and the runner's profile wants {specifier}"
        remedy = f"pip install '{name}{specifier}'"
        yield Check(name="package", state="unfit", actual=installed, wanted=specifier, message=message, remedy=remedy)


def check_disk(root: Path, environ: Mapping[str, str]) -> Iterator[Check]:
    """Check the free space of the disks that hold the runs and the models."""
    for label, path in (("runs", root), ("models", hub_cache(environ))):
        # The folder may not exist yet: its nearest existing parent lies on the same disk.
        present = next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))
        free = shutil.disk_usage(present).free / GIB
        space = f"{free:.1f} GiB free at {present} ({label})"
        if free < LEAST_DISK_GIB:
            remedy = "make room: rm -r runs/<old run>, hf cache prune"
            yield Check(name="disk", state="unfit", actual=space, message=f"only {space}", remedy=remedy)
        elif free < LOW_DISK_GIB:
            yield Check(name="disk", state="warning", actual=space, message=f"only {space}")
        else:
            yield Check(name="disk", state="fit", actual=space)


def check_cache(checkpoints: Sequence[CheckpointRef], environ: Mapping[str, str]) -> Iterator[Check]:
    """Check the folder of the model cache and, if the hub is offline, that it holds every pinned revision."""
    cache = hub_cache(environ)
    named = environ.get("HF_HOME") or environ.get("HF_HUB_CACHE")
    if named and not Path(named).is_dir():
        message = f"HF_HOME is {named}, and there is no such folder"
        yield Check(name="hf_home", state="unfit", actual=named, message=message, remedy="mount the model cache there")
    else:
        yield Check(name="hf_home", state="fit", actual=named or f"not set: {cache}")
    if environ.get("HF_HUB_OFFLINE", "").upper() not in _YES:
        return
    pinned = {(ref.path, ref.revision) for ref in checkpoints if not ref.is_local}
    for path, revision in sorted(pinned, key=str):
        if revision in (None, UNRESOLVED):
            continue  # the case itself is refused, with its own remedy
        snapshot = cache / f"models--{path.replace('/', '--')}" / "snapshots" / str(revision)
        checkpoint = f"{path}@{str(revision)[:12]}"
        if snapshot.is_dir():
            yield Check(name="model_cache", state="fit", actual=checkpoint)
            continue
        message = f"{checkpoint} is not in the cache {cache}, and the hub is offline"
        remedy = f"HF_HUB_OFFLINE=0 hf download {path} --revision {revision}"
        yield Check(
            name="model_cache", state="unfit", actual="absent", wanted=checkpoint, message=message, remedy=remedy
        )


def check_folders(checkpoints: Sequence[CheckpointRef], root: Path) -> Iterator[Check]:
    """Check that every folder that a case names as a checkpoint exists: without it the case fails."""
    for path in sorted({ref.path for ref in checkpoints if ref.is_local}):
        made_by = next((ref.made_by for ref in checkpoints if ref.path == path and ref.made_by), None)
        folder = local_folder(path, root)
        if folder.is_dir():
            yield Check(name="checkpoint", state="fit", actual=path)
            continue
        near = near_folder(folder)
        hint = f"; did you mean {near}?" if near else ""
        message = f"a case names the folder {path}, and it is not there{hint}"
        remedy = made_by or "make the folder, or correct the path in the case"
        yield Check(name="checkpoint", state="unfit", actual="absent", wanted=path, message=message, remedy=remedy)


def hub_cache(environ: Mapping[str, str]) -> Path:
    """Return the folder of the hub's cache, by the rules of huggingface_hub."""
    if environ.get("HF_HUB_CACHE"):
        return Path(environ["HF_HUB_CACHE"])
    home = environ.get("HF_HOME") or str(Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(home).expanduser() / "hub"


@dataclass(frozen=True)
class Host:
    """Access to the machine for the checks. Tests pass stand-ins."""

    nvml: Any = None
    """The ``pynvml`` module, or a stand-in with the same functions; the real module if not given."""
    kernel_log: Callable[[], tuple[str, ...] | None] = read_kernel_log
    comm: Callable[[int], str] = process_name
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    machine: Callable[[], str] = platform.machine
    own_pids: frozenset[int] = frozenset()
    """Process ids of this run's own processes, besides the current one."""


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
        profile: the runner profile that the machine must match.
        root: root of the repository: its disk holds the runs.
        checkpoints: checkpoints of the cases: folders must exist; hub models must be cached if the hub is offline.
        uuid: UUID of the only GPU to check; every GPU of the profile if not given.
        host: access to the machine.
    """
    place = host or Host()
    checks = [
        *(_cpu(profile, place) if profile.device_kind == "cpu" else _gpus(profile, uuid, place)),
        *check_packages(profile.packages),
        *check_disk(root, place.environ),
        *check_cache(checkpoints, place.environ),
        *check_folders(checkpoints, root),
    ]
    return Preflight(runner=profile.name, checks=tuple(checks))


def require_fit(preflight: Preflight) -> None:
    """Raise if the machine is not fit.

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
        return [Check(name="device", state="fit", actual=machine, wanted=", ".join(profile.architectures))]
    return [
        Check(
            name="device",
            state="unfit",
            missing_device=True,
            actual=machine,
            wanted=", ".join(profile.architectures),
            message=f"this CPU is {machine}, and runner {profile.name} is {' or '.join(profile.architectures)}",
            remedy="run on such a machine, or name another runner",
        )
    ]


def _gpus(profile: RunnerProfile, uuid: str | None, host: Host) -> list[Check]:
    nvml = host.nvml or importlib.import_module("pynvml")
    wanted = " or ".join(profile.device_names)
    try:
        with started(nvml) as nvml_works:
            gpus = read_gpus(nvml, host.comm) if nvml_works else ()
            driver = text_of(nvml.nvmlSystemGetDriverVersion()) if nvml_works else ""
    except nvml.NVMLError as error:
        message = f"the NVIDIA driver does not answer: {error}"
        return [Check(name="driver", state="unfit", wanted=profile.driver or "", message=message, remedy="nvidia-smi")]
    matching = [gpu for gpu in gpus if gpu.name in profile.device_names and uuid in (None, gpu.uuid)]
    if not matching:
        present = ", ".join(f"{gpu.name} {gpu.uuid}" for gpu in gpus) or "no GPU"
        message = f"runner {profile.name} is {wanted}{f' {uuid}' if uuid else ''}, and this machine has {present}"
        remedy = "run on a machine that has one, or name another runner"
        return [
            Check(
                name="device",
                state="unfit",
                missing_device=True,
                actual=present,
                wanted=wanted,
                message=message,
                remedy=remedy,
            )
        ]
    # The log is read once for all GPUs.
    log = host.kernel_log()
    return [
        _driver(driver, profile),
        *(check for gpu in matching for check in _check_listed_gpu(gpu, profile, log, host)),
    ]


def _check_listed_gpu(gpu: GpuFacts, profile: RunnerProfile, log: tuple[str, ...] | None, host: Host) -> list[Check]:
    return check_gpu(gpu, profile, log, frozenset({os.getpid(), *host.own_pids}))


def _driver(driver: str, profile: RunnerProfile) -> Check:
    if profile.driver is None or at_least(driver, profile.driver):
        return Check(name="driver", state="fit", actual=driver, wanted=f">= {profile.driver}" if profile.driver else "")
    return Check(
        name="driver",
        state="unfit",
        actual=driver,
        wanted=f">= {profile.driver}",
        message=f"the driver is {driver}, and runner {profile.name} needs {profile.driver} at least",
        remedy="install a newer driver on the node",
    )
