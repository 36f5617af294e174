"""Constructors of findings, short enough that a check reads as its sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.records.base import Json
from harness.records.inspection import InspectionFinding, Severity

registered_codes: frozenset[str] | None = None
"""Codes that a finding may have; ``None``: any. Tests set it, so that a check with an undeclared code fails there and
not in an inspection of a user."""


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
    """Return a finding with evidence that JSON can hold: NaN and infinity become words, numpy scalars plain numbers.

    Raises:
        ValueError: in tests only, if no check declares the code.
    """
    if registered_codes is not None and code not in registered_codes:
        raise ValueError(f"{code!r} is among the codes of no check; add it to the check's @check(..., codes=...)")
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


LISTED = 20
"""Most names in the evidence of a finding; ``count`` has the number of all."""


def about(
    code: str,
    expert: str,
    text: str,
    *,
    linears: Sequence[str] = (),
    tensors: Sequence[str] = (),
    severity: Severity = "fault",
    module: str = "",
    tensor: str = "",
    contract: str = "",
    next_command: str = "",
    **evidence: Any,
) -> InspectionFinding:
    """Return a finding about an expert, or about several of its Linears or tensors.

    Args:
        code: see `finding`.
        expert: begins the message.
        text: rest of the message.
        linears: the Linears; the first `LISTED` of them and their number become evidence.
        tensors: instead of ``linears``, the tensors.
        severity: see `finding`.
        module: the Linear to look at first; default: the first of ``linears``.
        tensor: the tensor to look at first; default: the first of ``tensors``.
        contract: see `finding`.
        next_command: see `finding`.
        evidence: further evidence.
    """
    for kind, names in (("modules", linears), ("tensors", tensors)):
        if names:
            evidence |= {kind: names[:LISTED], "count": len(names)}
    return finding(
        severity,
        code,
        f"{expert}: {text}",
        expert=expert,
        module=module or next(iter(linears), ""),
        tensor=tensor or next(iter(tensors), ""),
        contract=contract,
        evidence=evidence,
        next_command=next_command,
    )


def jsonable(value: Any) -> Json:
    """Return ``value`` as JSON. Numbers that are not finite become strings; others keep six digits."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [jsonable(item) for item in value]
    number = float(value)
    return float(f"{number:.6g}") if abs(number) < float("inf") else str(number)
