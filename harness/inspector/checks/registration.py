"""The decorator by which a check registers itself.

    @check("my_check", cost="header", codes=("my_code",))
    def my_check(context: Context) -> Iterator[InspectionFinding]:
        ...

A module of this package is all that a new check needs: `harness.inspector.checks.registry` imports every module here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from harness.inspector.context import Context
from harness.records.inspection import InspectionFinding

Cost: TypeAlias = Literal["header", "scalar", "rows", "full"]
"""The bytes that a check's evidence needs: headers, scales, sampled rows, or every byte."""
Run: TypeAlias = Callable[[Context], Iterator[InspectionFinding]]

LAST: Final = 10_000


@dataclass(frozen=True)
class Check:
    """One registered check."""

    name: str
    cost: Cost
    codes: tuple[str, ...]
    """Codes of its findings that can be the cause of a verdict; a negative control may wait for them (``expect:``)."""
    notes: tuple[str, ...]
    """Codes of its findings that are hints only (severity ``info`` or ``warning``), never the cause of a verdict."""
    order: int
    """Checks run by rising order. The first fault names the cause, so the check that explains others comes first."""
    run: Run


registered: Final[dict[str, Check]] = {}
"""All checks whose modules are imported, by name."""


def check(
    name: str, *, cost: Cost, codes: tuple[str, ...], notes: tuple[str, ...] = (), order: int = LAST
) -> Callable[[Run], Run]:
    """Register the decorated function as a check. It is returned as it is.

    Args:
        name: unique name.
        cost: see `Cost`.
        codes: see `Check.codes`. After a new code run ``python -m harness.inspector.checks --write``: the loader of
            case files reads the codes from the file that it writes.
        notes: see `Check.notes`.
        order: see `Check.order`; by default after all others, in the order of names.

    Raises:
        ValueError: another check has that name.
    """

    def register(run: Run) -> Run:
        if name in registered and registered[name].run.__module__ != run.__module__:
            raise ValueError(f"two checks are called {name!r}: {registered[name].run.__module__} and {run.__module__}")
        registered[name] = Check(name, cost, codes, notes, order, run)
        return run

    return register
