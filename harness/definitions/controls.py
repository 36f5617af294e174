"""Cases that are compared with the golden of another one: both must ask for the same video, in the same file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from harness.definitions.case import Case
from harness.definitions.suggest import did_you_mean


def absent_golden_of(golden_of: object, ids: Collection[str]) -> str | None:
    """What is wrong with a ``golden_of`` that names no case of its file, or ``None``."""
    if not isinstance(golden_of, str) or golden_of in ids:
        return None
    return f"no case {golden_of!r} in this file; {did_you_mean(golden_of, ids)}"


def check_golden_of(cases: Sequence[Case]) -> Iterator[tuple[str, str, str]]:
    """Case id, field and sentence of each ``golden_of`` of one file that names a case which it cannot be held against.

    A case that is wrong itself is not among ``cases``, and nothing is said of who names it.
    """
    by_id = {case.id: case for case in cases}
    for case in cases:
        if case.golden_of is None:
            continue
        other = by_id.get(case.golden_of)
        if other is None:
            continue
        if other.golden_of is not None:
            yield case.id, "golden_of", f"{other.id} has no golden of its own; name {other.golden_of}"
        else:
            for part in ("sampling", "scheduler"):
                if getattr(case, part) != getattr(other, part):
                    yield case.id, part, f"differs from that of {other.id}, whose golden it is compared with"
            if missing := [name for name in case.runners if name not in other.runners]:
                yield case.id, "runners", f"{other.id} has no golden on {', '.join(missing)}"
