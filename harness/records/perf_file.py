"""``thresholds/<runner>/<case>.perf.json``: the runs that a case's times and memory are compared with."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.records.base import Json, Record, SealedRecord
from harness.records.perf import CpuSpeed, PerfFacts


class PerfRun(Record):
    """One run of a baseline."""

    run: str
    started: str
    """UTC, ISO 8601."""
    machine: str
    fresh: bool
    """Whether it was the first generation of its engine, which compiles, autotunes and loads."""
    steps: tuple[float, ...] = ()
    """Seconds of each denoising step, the first included."""
    values: dict[str, float] = {}
    """Measure to seconds or bytes, as `harness.perf.measures` names them."""
    cpu: CpuSpeed | None = None
    """Speed of the CPU during the run, as far as its engine measured it."""


class PerfPool(Record):
    """Machines whose times proved to be alike, and their runs."""

    label: str
    machines: tuple[str, ...] = Field(min_length=1)
    runs: tuple[PerfRun, ...] = Field(min_length=1)
    """Oldest first."""

    @property
    def days(self) -> int:
        """Number of days (UTC) on which the runs were made."""
        return len({run.started[:10] for run in self.runs})


class PerfFile(SealedRecord):
    """Baseline of one case on one runner, pool by pool."""

    schema_version: Literal[1] = 1
    case: str
    runner: str
    request: dict[str, Json]
    """The case's fields that decide the amount of work. Another request has no baseline here."""
    pools: tuple[PerfPool, ...] = Field(min_length=1)
    facts: PerfFacts = PerfFacts()
    covers: str
    """Coverage of the runs in words: numbers of runs, days and machines per pool."""
    notes: tuple[str, ...] = ()
    """Promises that this baseline does not make."""
    author: str
    reason: str
    created: str
    """UTC, ISO 8601."""
    seal: str = ""
    """sha256 (hex) over all other fields, as in `harness.records.limits.LimitFile`."""
