"""The record of one case: all evidence, for passed cases too."""

from __future__ import annotations

from typing import ClassVar, Literal

from harness.records.attribution import Attribution
from harness.records.base import Json, Record
from harness.records.frames import ComparisonEvidence, SanityEvidence
from harness.records.generation import EngineStart, Generation
from harness.records.identity import FieldChange, Fingerprint, Identity
from harness.records.inspection import InspectionReport
from harness.records.limits import LimitCheck
from harness.records.perf import Conditions, PerfReport
from harness.records.probe import ProbeEvidence
from harness.records.verdict import Verdict


class Timing(Record):
    """Seconds per stage, host clock."""

    inspect: float = 0.0
    load: float = 0.0
    probe: float = 0.0
    generate: float = 0.0
    compare: float = 0.0
    time: float = 0.0
    """Comparing times and memory, further generations included."""
    total: float = 0.0


class Checkout(Record):
    """The checkout from which a run was started. The header of a report shows it."""

    commit: str = ""
    """Of the project's repository, with ``+dirty`` if tracked files were changed."""
    branch: str = ""
    pull_request: str = ""
    """Its number."""
    ci_run: str = ""
    """Address of the CI run; empty outside CI."""


class CaseRecord(Record):
    """``runs/<run>/<case>/record.json``."""

    redact_on_write: ClassVar[bool] = True
    plain: ClassVar[tuple[str, ...]] = ("request", "identity")

    schema_version: Literal[1] = 1
    run: str
    plan: str = ""
    """Id of the plan that requested the case; empty without a plan."""
    case: str
    node: str
    """pytest id, such as ``cases/tiny.yaml::nvfp4``."""
    source: str
    """``file:line`` of the case."""
    runner: str
    started: str
    """UTC, ISO 8601."""
    checkout: Checkout | None = None
    """The checkout that started the run; ``None`` in records of older versions."""
    newest: str = ""
    """Newest of the times of the run's clock, commit and limits. Waivers expire by it. ISO 8601."""
    attempt: int = 1
    request: dict[str, Json]
    """The resolved case, as data, with values of passed-through environment variables left out."""
    verdict: Verdict
    attribution: Attribution | None = None
    """Why the case failed; ``None`` if it passed, or if attribution did not run."""
    fingerprint: Fingerprint | None = None
    identity: Identity | None = None
    golden: str | None = None
    """Digest of the golden that the frames were compared with."""
    changes: tuple[FieldChange, ...] = ()
    inspection: InspectionReport | None = None
    engine: EngineStart | None = None
    probe: ProbeEvidence | None = None
    generation: Generation | None = None
    sanity: SanityEvidence | None = None
    comparison: ComparisonEvidence | None = None
    limits: tuple[LimitCheck, ...] = ()
    conditions: Conditions | None = None
    """The machine while the generation ran."""
    perf: PerfReport | None = None
    """Time and memory, compared with the baseline; ``None`` if nothing was generated."""
    timing: Timing = Timing()
    artifacts: dict[str, str] = {}
    """Name to path, relative to the record's folder: ``candidate``, ``golden``, ``log``."""
    log_tail: tuple[str, ...] = ()
