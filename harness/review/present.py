"""What the repository says now of a case whose candidate is accepted: its request, and the lock of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.definitions.case import Case
from harness.definitions.files import case_files
from harness.definitions.loading import load_cases
from harness.errors import QuantgateError
from harness.records.base import Json
from harness.session.identity import request_of


@dataclass(frozen=True)
class Present:
    """A case as it is written now.

    Attributes:
        request: what it asks for; ``None`` where the repository has no such case.
        extra: files that change with the golden: the lock, where the case's checkpoints are other ones by now.
        notes: sentences for the person who accepts.
    """

    request: Mapping[str, Json] | None = None
    extra: Mapping[Path, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def present_case(root: Path, case_id: str) -> Present:
    """Look a case up.

    Args:
        root: the repository's root, absolute.
        case_id: id of the case.

    Raises:
        InvalidCaseError: the case files, or the lock, cannot be read.
    """
    case = next((one.case for one in load_cases(case_files(root), root) if one.case.id == case_id), None)
    if case is None:
        return Present(notes=(f"note: no case file has a case {case_id}",))
    extra, notes = _lock(root, case)
    return Present(request_of(case), extra, notes)


def present_requests(root: Path) -> dict[str, Mapping[str, Json]]:
    """What every case asks for as it is written now, by case id. Raises ``InvalidCaseError`` for a wrong case file."""
    return {one.case.id: request_of(one.case) for one in load_cases(case_files(root), root)}


def _lock(root: Path, case: Case) -> tuple[dict[Path, bytes], tuple[str, ...]]:
    from harness.checkpoint.lock import LOCK_NAME, make_lock, read_lock

    path = root / "cases" / LOCK_NAME
    if not path.exists():
        return {}, ()
    held = read_lock(path)
    try:
        now, left = make_lock([case], root, held)
    except QuantgateError as error:
        return {}, (f"note: the lock stays as it is: {error.what}; quantgate lock",)
    notes = tuple(f"note: not locked: {sentence}" for sentence in left)
    mine = now.cases.get(case.id, {})
    if held.cases.get(case.id, {}) == mine or not mine:
        return {}, notes
    cases = dict(sorted({**held.cases, case.id: mine}.items()))
    return {path: held.model_copy(update={"cases": cases}).to_json().encode()}, notes
