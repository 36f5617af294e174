"""Define the input of the judge: all evidence of one case. Absent evidence is ``None``, never a default."""

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
    """The golden that a run is compared with."""

    digest: str
    changes: tuple[FieldChange, ...]
    """Fields of its identity that differ from the run's."""
    trace: Trace | None = None
    limits: LimitFile | None = None
    """The limits of the case. They apply only if ``limits.goldens`` contains this golden."""
    contents: tuple[ContentChange, ...] = ()
    """Tensors and documents of the checkpoint that differ from the golden's, per component."""

    def changed(self, *classes: str) -> tuple[FieldChange, ...]:
        """Return the changes of the named identity classes."""
        return tuple(change for change in self.changes if change.identity_class in classes)


@dataclass(frozen=True)
class Evidence:
    """Input of the judge."""

    case: Case
    node: str
    run_dir: str
    native_formats: frozenset[Format] = frozenset()
    """Formats that the runner's device must multiply natively, from the runner profile."""
    golden: GoldenEvidence | None = None
    inspection: InspectionReport | None = None
    error: QuantgateError | None = None
    """The error that stopped the run, if any."""
    probe: ProbeEvidence | None = None
    generation: Generation | None = None
    promised: dict[Expert, frozenset[str]] = field(default_factory=dict)
    """Names of the modules that the checkpoint stores quantized, per expert."""
    sanity: SanityEvidence | None = None
    comparison: ComparisonEvidence | None = None
    perf: PerfReport | None = None
    """Time and memory, compared with the baseline."""

    def plus(self, **more: Any) -> Evidence:
        """Return a copy with the fields ``more`` set."""
        return replace(self, **more)
