"""Folders, runner, device and options of a session, and the events that it emits."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

from harness.definitions.case import Case
from harness.definitions.runner import RunnerProfile, load_runners, match_runner, named_runner
from harness.engine.environment import RUNTIME_PYTHON
from harness.errors import NoRunnerError
from harness.goldens.store import GoldenStore, open_store
from harness.machine.devices import cpu_device, gpu_devices
from harness.machine.leases import acquire
from harness.project import Project
from harness.records.case_record import CaseRecord
from harness.records.identity import Device
from harness.records.run_folder import RunFolder
from harness.runtimes.environments import interpreter_of
from harness.session.perturbation import NONE, Perturbation


@dataclass(frozen=True)
class SessionContext:
    """Settings that are fixed for one session."""

    root: Path
    """Repository root: case paths are relative to it."""
    run: str
    runs_dir: Path
    runner: RunnerProfile
    device: Device
    store: GoldenStore
    thresholds: Path
    device_env: Mapping[str, str] = field(default_factory=dict)
    """Environment that pins the engines to the leased device, such as ``CUDA_VISIBLE_DEVICES``."""
    plan: str = ""
    """Id of the plan that requested this run; empty without a plan."""
    perturbation: Perturbation = NONE
    """A healthy change that is forced on every engine. Recorded under the subject, never part of the request."""
    probe_inputs: Mapping[str, Path] = field(default_factory=dict)
    """Recordings made for this session, by case id. They replace the golden's recording."""
    stop_on_probe: bool = True
    """Skip the generation if a probe fails beyond doubt."""
    attribution_seconds: float = 120.0
    """Seconds that may be spent on finding the cause of a failure; 0: no search."""
    allow_python_backend: bool = False
    """Accept ``module:Class`` as a backend. Set only by Python callers: a case file must not name code to import."""
    leave_candidates: bool = True
    """Leave a pending candidate for a case without a usable golden."""
    contents_from: GoldenStore | None = None
    """Goldens whose content digests count for equal files, if no golden of ``store`` may decide a verdict. An older
    version may have computed a digest by another rule; equal files are the same weights all the same."""

    def runtime_env(self, case: Case) -> dict[str, str]:
        """Return the variable that names the interpreter of the case's runtime; empty if the case names no runtime.

        Raises:
            InfraError: this machine has no environment of that runtime.
        """
        python = interpreter_of(case.runtime, self.runner.runtimes)
        return {} if python is None else {RUNTIME_PYTHON: str(python)}

    @property
    def folder(self) -> Path:
        """Folder of this run: ``runs_dir/run``."""
        return self.runs_dir / self.run

    def case_folder(self, case: str) -> Path:
        """Return the folder of one case in this run."""
        return RunFolder(self.folder).case(case)


def new_run_id(now: datetime | None = None) -> str:
    """Return a run name that sorts by time: ``20260102-030405-1a2b``."""
    moment = now or datetime.now(UTC)
    return f"{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


# Events of a session. Terminal, pytest and reports only read them.


Stage = Literal["identity", "inspect", "load", "probe", "generate", "compare", "time", "judge"]


@dataclass(frozen=True)
class StageStarted:
    """A stage of a case has started."""

    case: str
    stage: Stage


@dataclass(frozen=True)
class Progress:
    """A part of a stage is done: a denoising step, or a loaded component."""

    case: str
    done: int
    total: int
    stage: str = "denoise"
    """``denoise`` or ``load``."""


@dataclass(frozen=True)
class CaseFinished:
    """The case is judged, and its record is on disk unless the disk refused it."""

    record: CaseRecord
    folder: Path


Event: TypeAlias = StageStarted | Progress | CaseFinished


# Match the devices of this machine with a runner.


def devices_for(profile: RunnerProfile) -> tuple[Device, ...]:
    """Return every device of this machine that matches ``profile``, by exact name and compute capability.

    Raises:
        NoRunnerError: no device matches.
    """
    present = (cpu_device(),) if profile.device_kind == "cpu" else gpu_devices()
    matching = tuple(device for device in present if is_of(device, profile))
    if not matching:
        names = ", ".join(f"{device.name} ({device.compute_capability})" for device in present) or "no GPU"
        raise NoRunnerError(
            f"runner {profile.name} is {' or '.join(profile.identifiers)}, and this machine has {names}",
            remedy="run on a machine that has one, or name another runner with --runner",
        )
    return matching


def is_of(device: Device, profile: RunnerProfile) -> bool:
    """Return whether ``device`` matches ``profile``: the exact name, not a part of it, and equal compute capability."""
    if device.kind != profile.device_kind or device.name not in profile.identifiers:
        return False
    return device.kind == "cpu" or device.compute_capability == profile.compute_capability


# Open a session for a command: select the runner and lease one of its devices.


LEASE_SECONDS = 1800.0
"""Seconds that a command waits for a GPU that another run holds, as ``pytest --gpu-wait`` does."""


@contextmanager
def open_context(root: Path, runner: str, run_id: str, kind: str) -> Iterator[SessionContext]:
    """Yield a context with a leased device; release the lease at the end.

    Args:
        root: the repository's root.
        runner: name of a profile; empty: detected from the device.
        run_id: name of the run's folder; empty: ``kind`` and the time.
        kind: purpose of the run, such as ``regenerate``.

    Raises:
        InvalidCaseError: no profile has that name.
        NoRunnerError: this machine has no device of the runner.
        InfraError: other runs hold all devices for longer than ``LEASE_SECONDS``.
    """
    # only the detection of a runner needs the GPUs here
    gpus = () if runner else gpu_devices()
    if runner:
        profile = named_runner(Project(root).runners, runner)
    else:
        profile = match_runner(gpus[0] if gpus else cpu_device(), load_runners(Project(root).runners))
    run = run_id or f"{kind}-{new_run_id()}"
    lease = acquire(devices_for(profile), LEASE_SECONDS, run=run)
    try:
        yield SessionContext(
            root=root,
            run=run,
            runs_dir=Project(root).runs,
            runner=profile,
            device=lease.device,
            store=open_store(Project(root).goldens),
            thresholds=Project(root).thresholds,
            device_env=lease.env,
            # a command reports its result itself; only a run of pytest proposes goldens
            leave_candidates=False,
        )
    finally:
        lease.release()
