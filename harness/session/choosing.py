"""Which pairs of runner and case ``regenerate --check`` is about: the same filters as of ``regenerate``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.definitions.case import Located
from harness.definitions.choosing import matcher
from harness.definitions.suggest import did_you_mean
from harness.errors import InvalidCaseError

Pair = tuple[str, str]
"""Name of a runner, id of a case."""


@dataclass(frozen=True)
class Filters:
    """All of them hold at once; an empty one lets everything through."""

    runner: str = ""
    ids: tuple[str, ...] = ()
    keyword: str = ""
    files: tuple[Path, ...] = ()
    """Absolute."""

    def choose(self, root: Path, cases: Mapping[str, Located], pairs: Collection[Pair]) -> frozenset[Pair]:
        """Those of ``pairs`` that are meant; a golden or limits of no case are in no file.

        Args:
            root: the repository's root, absolute.
            cases: by id.
            pairs: of cases, goldens and limits.

        Raises:
            InvalidCaseError: nothing is, and a check of nothing is not green.
        """
        known = cases.keys() | {case for _, case in pairs}
        if unknown := sorted(set(self.ids) - known):
            raise InvalidCaseError(
                f"there is no case {', '.join(unknown)}", where="--case", remedy=did_you_mean(unknown[0], known)
            )
        matches = matcher(self.keyword)
        found = frozenset(
            (runner, case)
            for runner, case in pairs
            if self.runner in ("", runner)
            and (not self.ids or case in self.ids)
            and matches(case)
            and (not self.files or (case in cases and root / cases[case].path in self.files))
        )
        if all(case in cases and cases[case].case.golden_of is not None for _, case in found):
            raise InvalidCaseError(
                f"no case with a golden of its own{self._said()}", where=str(root), remedy="quantgate cases"
            )
        return found

    def _said(self) -> str:
        parts = {
            "--runner": self.runner,
            "--case": ", ".join(self.ids),
            "-k": self.keyword,
            "--file": ", ".join(map(str, self.files)),
        }
        said = " and ".join(f"{option} {value}" for option, value in parts.items() if value)
        return f" matches {said}" if said else " in cases/"
