"""What the session tells whoever watches. Every surface only consumes these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from harness.records.case_record import CaseRecord

Stage = Literal["identity", "inspect", "load", "probe", "generate", "compare", "judge"]


@dataclass(frozen=True)
class StageStarted:
    """A stage of a case begins."""

    case: str
    stage: Stage


@dataclass(frozen=True)
class Progress:
    """A denoising step is done."""

    case: str
    done: int
    total: int


@dataclass(frozen=True)
class CaseFinished:
    """The case is judged, and its record is on disk."""

    record: CaseRecord
    folder: Path


Event: TypeAlias = StageStarted | Progress | CaseFinished
