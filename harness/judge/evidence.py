"""Everything that may be known of a case when it is judged. Absent evidence is ``None``, never a default."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from harness.definitions.case import Case, Format
from harness.errors import QuantgateError
from harness.records.contents import ContentChange
from harness.records.frames import ComparisonEvidence, SanityEvidence
from harness.records.generation import Expert, Generation, Trace
from harness.records.identity import FieldChange
from harness.records.inspection import InspectionReport
from harness.records.limits import LimitFile
from harness.records.perf import PerfReport
from harness.records.probe import ProbeEvidence


@dataclass(frozen=True)
class GoldenEvidence:
    """The golden that a run is held against."""

    digest: str
    changes: tuple[FieldChange, ...]
    """Where its identity differs from the run's."""
    trace: Trace | None = None
    limits: LimitFile | None = None
    """The limits of the case, which must hold for this golden (``limits.goldens``)."""
    contents: tuple[ContentChange, ...] = ()
    """Which tensors and documents of the checkpoint are not the golden's, by component."""

    def changed(self, *classes: str) -> tuple[FieldChange, ...]:
        """The changes of the named identity classes."""
        return tuple(change for change in self.changes if change.identity_class in classes)


@dataclass(frozen=True)
class Evidence:
    """Input of the judge."""

    case: Case
    node: str
    run_dir: str
    native_formats: frozenset[Format] = frozenset()
    """Formats that the runner's device is to multiply itself, as its profile says."""
    golden: GoldenEvidence | None = None
    inspection: InspectionReport | None = None
    error: QuantgateError | None = None
    """What stopped the run, if something did."""
    probe: ProbeEvidence | None = None
    generation: Generation | None = None
    promised: dict[Expert, frozenset[str]] = field(default_factory=dict)
    """Names of the modules that the checkpoint stores quantized, by expert."""
    sanity: SanityEvidence | None = None
    comparison: ComparisonEvidence | None = None
    perf: PerfReport | None = None
    """Time and memory, compared with the baseline."""

    def plus(self, **more: Any) -> Evidence:
        """The same evidence and ``more`` of it."""
        return replace(self, **more)
