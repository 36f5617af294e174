"""When goldens and limits must not be made: each refusal with its way out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.definitions.case import Case
from harness.errors import GoldenError, InvalidCaseError
from harness.git import dirty_files
from harness.goldens.matching import Match, MatchKind
from harness.in_ci import ci_variable

_SHOWN = 5


def refuse_in_ci(environ: Mapping[str, str], allowed: bool) -> None:
    """Refuse inside CI, which would make its own failures right.

    Raises:
        InvalidCaseError: a variable says that this is a CI job, and nobody passed ``--in-ci``.
    """
    if ci_variable(environ) and not allowed:
        raise InvalidCaseError(
            "goldens and limits are not regenerated in CI, where nobody looks at them",
            remedy="add --in-ci in the one job that is made for it and proposes a pull request",
        )


def refuse_dirty(root: Path, allowed: bool) -> tuple[str, ...]:
    """Refuse where what is measured is not what is committed.

    Returns:
        The changed files, where that was allowed.

    Raises:
        InvalidCaseError: there are some, and nobody said ``--allow-dirty``.
    """
    changed = dirty_files(root)
    if changed and not allowed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise InvalidCaseError(
            f"the working tree has changes, so nobody could measure this again: {', '.join(changed[:_SHOWN])}{more}",
            where=str(root),
            remedy="commit or stash them; --allow-dirty measures all the same and says so in the file",
        )
    return changed


def refuse_other_identity(match: Match, case: Case, where: str, replace: bool, reason: str) -> None:
    """Refuse to put a golden in place of one that answers another question, unless that is said aloud.

    Raises:
        GoldenError: the case accepts a golden of another identity.
    """
    if match.kind in (MatchKind.EXACT, MatchKind.MISSING) or (replace and reason.strip()):
        return
    rows = ", ".join(f"{change.field}" for change in match.of("request", "hardware", "weights", "env")[:_SHOWN])
    raise GoldenError(
        f"the accepted golden {match.goldens[0].digest[:16]} is of another identity ({match.kind.value}: {rows})",
        where=where,
        remedy=f"quantgate regenerate --case {case.id} --replace-golden --reason '...', if the new one is right",
    )
