"""Read how long cases took on a runner, and estimate the time of a case that was never measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from harness.definitions.case import Case
from harness.engine.starter import imports_itself
from harness.errors import InvalidCaseError
from harness.reading import UnreadableError, reason
from harness.records.base import Record
from harness.records.case_record import CaseRecord
from harness.records.run_folder import RECORD_FILE

KEPT_SAMPLES = 7
"""Number of newest samples kept per case. Their median is robust to a run on a cold disk."""
DEFAULT_LOAD_SECONDS = {"cpu": 5.0, "cuda": 90.0}
OWN_PROCESS_SECONDS = {"cpu": 7.0, "cuda": 12.0}
"""Added to the load of an engine that cannot be forked from the starter: it makes all imports itself."""
DEFAULT_SECONDS_PER_GIGASTEP = {"cpu": 2000.0, "cuda": 120.0}
"""Seconds per 1e9 pixels times denoising steps, if nothing was measured. A plan only needs their ratio."""


LONGEST_SECONDS = 1e7
"""Four months. A record with a longer time is wrong, and would make every later plan wrong."""
Seconds = Annotated[float, Field(ge=0, le=LONGEST_SECONDS)]


class CaseTimes(Record):
    """Measured seconds of one case on one runner, oldest first."""

    seconds: tuple[Seconds, ...] = ()
    """Everything but the load of the model."""
    loads: tuple[Seconds, ...] = ()
    """Seconds to load the model, from the runs in which this case was the first of its engine."""


class History(Record):
    """Measured times: runner to case to samples."""

    schema_version: Literal[1] = 1
    runners: dict[str, dict[str, CaseTimes]] = {}

    def with_records(self, records: Iterable[CaseRecord]) -> History:
        """Return the history with the times of ``records`` added; a case without a generation adds nothing."""
        runners = {runner: dict(cases) for runner, cases in self.runners.items()}
        for record in sorted(records, key=lambda item: item.started):
            if record.generation is None or not _believable(record):
                continue
            times = runners.setdefault(record.runner, {}).get(record.case, CaseTimes())
            # The load is kept apart, because a plan counts it once per engine and shard.
            seconds = max(0.0, record.timing.total - record.timing.load)
            # A case on a running engine waits next to no time for the load, however long the engine had needed.
            loaded = record.engine is not None and record.timing.load > 0.5 * record.engine.load_seconds
            runners[record.runner][record.case] = CaseTimes(
                seconds=(*times.seconds, round(seconds, 3))[-KEPT_SAMPLES:],
                loads=((*times.loads, round(record.timing.load, 3)) if loaded else times.loads)[-KEPT_SAMPLES:],
            )
        return History(runners=runners)


def _believable(record: CaseRecord) -> bool:
    """Return whether the times of a record are possible: others must not reach the file that later plans read."""
    timing = record.timing
    return 0 <= timing.load <= LONGEST_SECONDS and 0 <= timing.total <= LONGEST_SECONDS


class Duration(NamedTuple):
    """Expected seconds of a case."""

    seconds: float
    load: float
    measured: bool


def work(case: Case) -> float:
    """Return pixels times denoising steps, in units of 1e9: the time of a case grows with it."""
    sampling = case.sampling
    return sampling.width * sampling.height * sampling.num_frames * sampling.num_inference_steps / 1e9


def durations(cases: Sequence[Case], history: History, runner: str, kind: str) -> dict[str, Duration]:
    """Return the expected duration by case id.

    A case that was never measured is estimated from its work at the median rate of the measured cases, or at a fixed
    rate if no case was measured.

    Args:
        cases: cases to plan.
        history: measured times.
        runner: name of the runner profile.
        kind: ``cpu`` or ``cuda``, for the fixed rates.
    """
    by_case = history.runners.get(runner, {})
    timed = [(case, by_case[case.id]) for case in cases if case.id in by_case and by_case[case.id].seconds]
    rates = [median(times.seconds) / work(case) for case, times in timed]
    loads = [load for times in by_case.values() for load in times.loads]
    rate = median(rates) if rates else DEFAULT_SECONDS_PER_GIGASTEP[kind]
    load = median(loads) if loads else DEFAULT_LOAD_SECONDS[kind]
    result = {}
    for case in cases:
        times = by_case.get(case.id, CaseTimes())
        seconds = median(times.seconds) if times.seconds else rate * work(case)
        unmeasured = load + (OWN_PROCESS_SECONDS[kind] if imports_itself(case) else 0.0)
        result[case.id] = Duration(seconds, median(times.loads) if times.loads else unmeasured, bool(times.seconds))
    return result


def read_history(paths: Iterable[Path]) -> History:
    """Read and join history files and folders of records.

    A path that does not exist is an empty history: a first run has none.

    Raises:
        InvalidCaseError: a history file cannot be read.
    """
    history = History()
    for path in paths:
        if path.is_dir():
            history = history.with_records(read_records(path))
        elif path.exists():
            try:
                history = _joined(history, History.read(path))
            except (OSError, UnreadableError) as error:
                raise InvalidCaseError(
                    f"not a history file: {reason(error)}", place=str(path), remedy=f"mv {path} {path}.damaged"
                ) from error
    return history


def read_records(folder: Path) -> list[CaseRecord]:
    """Return every readable record below ``folder``. Unreadable records are skipped: a history may have gaps."""
    records = []
    for path in sorted(folder.rglob(RECORD_FILE)):
        try:
            records.append(CaseRecord.read(path))
        except (OSError, UnreadableError):
            continue
    return records


def _joined(first: History, second: History) -> History:
    runners: dict[str, Mapping[str, CaseTimes]] = dict(first.runners)
    for runner, cases in second.runners.items():
        both = dict(runners.get(runner, {}))
        for name, times in cases.items():
            before = both.get(name, CaseTimes())
            both[name] = CaseTimes(
                seconds=(*before.seconds, *times.seconds)[-KEPT_SAMPLES:],
                loads=(*before.loads, *times.loads)[-KEPT_SAMPLES:],
            )
        runners[runner] = both
    return History(runners={runner: dict(cases) for runner, cases in runners.items()})
