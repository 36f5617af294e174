"""Healthy runs that were made elsewhere: other hosts, other days, downloaded artifacts. Read, never repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InvalidCaseError
from harness.frames.clip import read_clip
from harness.frames.errors import FramesError
from harness.reading import UnreadableError, reason
from harness.records.case_record import CaseRecord
from harness.records.verdict import Outcome

RECORD = "record.json"
HEALTHY = frozenset({Outcome.PASS, Outcome.GOLDEN_MISSING})


@dataclass(frozen=True)
class Result:
    """One run of a case, as it lies in a folder of results."""

    label: str
    record: CaseRecord
    folder: Path


def read_results(folders: Sequence[Path], runner: str) -> tuple[Result, ...]:
    """Every record below ``folders`` that generated something, of this runner.

    Args:
        folders: of runs, at any depth.
        runner: the runner whose limits are placed.

    Raises:
        InvalidCaseError: a folder holds no record, a record cannot be read, is of another runner, or its frames are
            not those that it speaks of.
    """
    found: list[Result] = []
    for number, folder in enumerate(folders):
        rows = list(_read(folder, number, runner))
        if not rows:
            raise InvalidCaseError("holds no record of a run", where=str(folder), remedy="name a folder below runs/")
        found += rows
    return tuple(found)


def _read(folder: Path, number: int, runner: str) -> Iterator[Result]:
    for path in sorted(folder.rglob(RECORD)):
        try:
            record = CaseRecord.read(path)
        except (OSError, UnreadableError) as error:
            raise InvalidCaseError(f"cannot be read: {reason(error)}", where=str(path)) from None
        if record.runner != runner:
            raise InvalidCaseError(
                f"is a run on {record.runner}, and the limits are those of {runner}",
                where=str(path),
                remedy=f"name results of {runner} only, or add --runner {record.runner}",
            )
        if record.generation is None:
            continue
        _check_frames(path.parent, record)
        yield Result(f"result-{number}/{record.run}", record, path.parent)


def _check_frames(folder: Path, record: CaseRecord) -> None:
    if record.generation is None:
        return
    path = folder / record.generation.clip
    try:
        digest = read_clip(path).digest
    except (OSError, ValueError, FramesError) as error:
        raise InvalidCaseError(f"its frames cannot be read: {error}", where=str(path)) from None
    if digest != record.generation.clip_sha256:
        raise InvalidCaseError("these are not the frames that its record speaks of", where=str(path))


def healthy(results: Sequence[Result], case: str, identity: str) -> tuple[Result, ...]:
    """The results of a case that may stand on the healthy side: of this identity, and found healthy.

    A run that failed by its frames alone is what limits are measured for, so it counts; one that anything else found
    broken does not, nor does a negative control, however it ended.
    """
    mine = [one for one in results if one.record.case == case]
    return tuple(
        one for one in mine if one.record.identity and one.record.identity.digest() == identity and _is_healthy(one)
    )


def _is_healthy(result: Result) -> bool:
    verdict = result.record.verdict
    if verdict.observed is not None or result.record.request.get("expect", "pass") != "pass":
        return False  # a negative control or a waived case: its verdict was turned, or is to be
    if verdict.outcome in HEALTHY:
        return True
    gating = {finding.stage for finding in verdict.findings if finding.gating}
    return verdict.outcome is Outcome.REGRESSION and gating == {"frames"}
