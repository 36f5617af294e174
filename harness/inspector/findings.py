"""Short constructors for findings, so that a check reads as its sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.records.base import Json
from harness.records.inspection import InspectionFinding, Severity


def finding(
    severity: Severity,
    code: str,
    message: str,
    *,
    expert: str = "",
    module: str = "",
    tensor: str = "",
    contract: str = "",
    evidence: Mapping[str, Any] | None = None,
    next_command: str = "",
) -> InspectionFinding:
    """A finding whose evidence is made JSON-clean: NaN and infinity become words, numpy scalars plain numbers."""
    clean: dict[str, Json] = {key: jsonable(value) for key, value in (evidence or {}).items()}
    return InspectionFinding(
        code=code,
        severity=severity,
        message=message,
        expert=expert,
        module=module,
        tensor=tensor,
        contract=contract,
        evidence=clean,
        next_command=next_command,
    )


def jsonable(value: Any) -> Json:
    """``value`` as JSON; numbers that are not finite become strings."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [jsonable(item) for item in value]
    number = float(value)
    return float(f"{number:.6g}") if abs(number) < float("inf") else str(number)


def some(names: Sequence[str], limit: int = 3) -> str:
    """The first names of a long list, and how many more there are."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
