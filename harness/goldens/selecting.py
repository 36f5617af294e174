"""Select the candidates of a command: cases by name, by glob, with or without a runner, or all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from harness.errors import GoldenError

_SHOWN = 10


class Held(NamedTuple):
    """A candidate, named by runner and case."""

    runner: str
    case: str

    def __str__(self) -> str:
        return f"{self.runner}/{self.case}"


def is_plain(names: Sequence[str], everything: bool) -> bool:
    """Return whether a command names one case by its plain id: the errors for a single case are then more precise."""
    return len(names) == 1 and not everything and not any(sign in names[0] for sign in "*?[/")


def select(
    names: Sequence[str], everything: bool, present: Iterable[tuple[str, str]], *, runner: str = "", place: str = ""
) -> tuple[Held, ...]:
    """Return the candidates that a command is for, sorted, without duplicates.

    Args:
        names: ``case``, ``runner/case``, or a glob of either, such as ``wan22_*`` or ``b200/*``.
        everything: select all of them; no name may be given then.
        present: runner and case of each present candidate.
        runner: select only candidates of this runner; empty: of every runner.
        place: folder or artifact of the candidates, for errors.

    Raises:
        GoldenError: neither names nor ``everything`` is given, or both are, there is no candidate, or a name matches
            none.
    """
    pairs = sorted({Held(*pair) for pair in present if runner in ("", pair[0])})
    if bool(names) == everything:
        raise GoldenError(
            "both names and --all are given" if names else "no case is named",
            remedy="name cases, globs such as 'wan22_*', or --all",
        )
    candidate_names = ", ".join(map(str, pairs[:_SHOWN])) + (
        f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    )
    if not pairs:
        of_runner = f" of runner {runner}" if runner else ""
        raise GoldenError(f"no candidate{of_runner} is there", place=place, remedy="run the cases first")
    if everything:
        return tuple(pairs)
    chosen: set[Held] = set()
    for name in names:
        matching = [pair for pair in pairs if fnmatchcase(pair.case, name) or fnmatchcase(str(pair), name)]
        if not matching:
            raise GoldenError(f"no candidate matches {name!r}", place=place, remedy=f"there are: {candidate_names}")
        chosen.update(matching)
    return tuple(sorted(chosen))
