"""Where a session reads and writes, and on what it runs."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness.definitions.runner import RunnerProfile
from harness.goldens.store import GoldenStore
from harness.records.fingerprint import Device
from harness.session.perturbation import NONE, Perturbation


@dataclass(frozen=True)
class SessionContext:
    """Fixed for one session."""

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
    """Id of the plan that asked for this run; empty: none did."""
    perturbation: Perturbation = NONE
    """A healthy change that is forced on every engine: recorded with the subject, never part of the request."""
    probe_inputs: Mapping[str, Path] = field(default_factory=dict)
    """Recordings made just now, by case id: they are fed in instead of a golden's."""
    stop_on_probe: bool = True
    """Whether a probe that fails for certain saves the generation."""
    attribution_seconds: float = 120.0
    """Time that may be spent on finding the cause of a failure; 0: none."""
    allow_python_backend: bool = False
    """Accept ``module:Class`` as a backend: callers in Python only, never a case file."""
    leave_candidates: bool = True
    """Whether a case without a usable golden leaves a pending candidate."""

    @property
    def folder(self) -> Path:
        """Folder of this run."""
        return self.runs_dir / self.run

    def case_folder(self, case: str) -> Path:
        """Folder of one case in this run."""
        return self.folder / re.sub(r"[^A-Za-z0-9_.-]", "_", case)


def new_run_id(now: datetime | None = None) -> str:
    """A name for a run that sorts by time: ``20260102-030405-1a2b``."""
    moment = now or datetime.now(UTC)
    return f"{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
