"""Open a session for a command: the runner that was named or detected, one device of it, leased."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.definitions.runner import load_runners, match_runner, named_runner
from harness.goldens.store import open_store
from harness.lane.devices import cpu_device, gpu_devices
from harness.lane.leases import acquire
from harness.session.context import SessionContext, new_run_id
from harness.session.devices import devices_for

LEASE_SECONDS = 1800.0
"""How long a command waits for a GPU that another run holds, as ``pytest --gpu-wait`` does."""


@contextmanager
def open_context(root: Path, runner: str, run_id: str, kind: str) -> Iterator[SessionContext]:
    """A context whose device is this process's own for as long as it lasts.

    Args:
        root: the repository's root.
        runner: name of a profile; empty: detected from the device.
        run_id: name of the run's folder; empty: ``kind`` and the time.
        kind: what the run is for, such as ``regenerate``.

    Raises:
        InvalidCaseError: no profile has that name.
        NoRunnerError: no device of the runner is in this machine.
        InfraError: all of them are held by other runs for too long.
    """
    gpus = () if runner else gpu_devices()
    if runner:
        profile = named_runner(root / "runners", runner)
    else:
        profile = match_runner(gpus[0] if gpus else cpu_device(), load_runners(root / "runners"))
    run = run_id or f"{kind}-{new_run_id()}"
    lease = acquire(devices_for(profile), LEASE_SECONDS, run=run)
    try:
        yield SessionContext(
            root=root,
            run=run,
            runs_dir=root / "runs",
            runner=profile,
            device=lease.device,
            store=open_store(root / "goldens"),
            thresholds=root / "thresholds",
            device_env=lease.env,
            leave_candidates=False,
        )
    finally:
        lease.release()
