"""Refuse to make goldens and limits in unsafe situations; each error names the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.definitions.case import Case
from harness.errors import GoldenError, InvalidCaseError
from harness.git import dirty_files
from harness.goldens.matching import Match, MatchKind
from harness.in_ci import ci_variable
from harness.text import listed

_SHOWN = 5


def refuse_in_ci(environ: Mapping[str, str], allowed: bool) -> None:
    """Refuse to regenerate inside CI: a job could accept its own failures.

    Raises:
        InvalidCaseError: a variable marks this as a CI job, and ``--in-ci`` was not passed.
    """
    if ci_variable(environ) and not allowed:
        raise InvalidCaseError(
            "goldens and limits are not regenerated in CI, where nobody looks at them",
            remedy="add --in-ci in the one job that is made for it and proposes a pull request",
        )


def refuse_dirty(root: Path, allowed: bool) -> tuple[str, ...]:
    """Refuse if the working tree has changes: the measured state would not be the committed one.

    Returns:
        The changed files, if they are allowed.

    Raises:
        InvalidCaseError: files are changed, and ``--allow-dirty`` was not passed.
    """
    changed = dirty_files(root)
    if changed and not allowed:
        raise InvalidCaseError(
            f"the working tree has changes, so this measurement could not be repeated: {listed(changed, _SHOWN)}",
            place=str(root),
            remedy="commit or stash them; --allow-dirty measures all the same and notes it in the file",
        )
    return changed


def refuse_other_identity(match: Match, case: Case, source: str, replace: bool, reason: str) -> None:
    """Refuse to replace a golden of another identity, unless ``replace`` is set and a reason is given.

    Raises:
        GoldenError: the accepted golden of the case is of another identity.
    """
    if match.kind in (MatchKind.EXACT, MatchKind.MISSING) or (replace and reason.strip()):
        return
    rows = ", ".join(f"{change.field}" for change in match.of("request", "hardware", "weights", "env")[:_SHOWN])
    raise GoldenError(
        f"the accepted golden {match.goldens[0].digest[:16]} is of another identity ({match.kind.value}: {rows})",
        place=source,
        remedy=f"quantgate regenerate --case {case.id} --replace-golden --reason '...', if the new one is right",
    )
