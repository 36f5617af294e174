"""Select the goldens that a run is compared with: the four identity classes, as one pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from harness.goldens.golden import Golden
from harness.records.identity import FieldChange, Identity, IdentityClass, differences


class MatchKind(StrEnum):
    """How far the run may be judged by the nearest golden, best first."""

    EXACT = "exact"
    """Request, hardware, weights and env are the same: pixels gate. The subject may differ; the report shows it."""
    CPU = "cpu"
    """Another CPU architecture: the frames are compared nevertheless, and inside their limits the run is green."""
    WEIGHTS = "weights"
    """Other weights or environment: the frames are compared nevertheless, and a clean result is ``golden_stale``."""
    HARDWARE = "hardware"
    """Another class of hardware: ``environment_mismatch``."""
    REQUEST = "request"
    """The case's request has changed since: ``golden_stale``, and the run leaves its candidate like a first one."""
    MISSING = "missing"
    """The case accepts no golden: ``golden_missing``."""


# Weights and env rank alike: both may move the frames, and only the frames show if they did.
_RANK: dict[IdentityClass, int] = {"subject": 0, "env": 2, "weights": 2, "hardware": 3, "request": 4}
_OTHER_CPU = 1
_KIND = (MatchKind.EXACT, MatchKind.CPU, MatchKind.WEIGHTS, MatchKind.HARDWARE, MatchKind.REQUEST)


@dataclass(frozen=True)
class Match:
    """The result of :func:`select`.

    Attributes:
        kind: how the run may be judged.
        goldens: the goldens that the run is compared with: all exact ones (several if a case is bistable), otherwise
            the nearest golden, which ``changes`` describes, with ``CPU`` or ``WEIGHTS`` also the others of its
            identity; empty if there is none.
        changes: every field in which the first of ``goldens`` differs from the run, the subject's included.
    """

    kind: MatchKind
    goldens: tuple[Golden, ...]
    changes: tuple[FieldChange, ...]

    def of(self, *classes: IdentityClass) -> tuple[FieldChange, ...]:
        """Return the changes that belong to ``classes``."""
        return tuple(change for change in self.changes if change.identity_class in classes)


def kind_of(changes: Sequence[FieldChange]) -> MatchKind:
    """Return the kind that a set of differences means. The request outranks the hardware: it has no golden yet."""
    ranks = (_OTHER_CPU if change.is_other_cpu else _RANK[change.identity_class] for change in changes)
    return _KIND[max(ranks, default=0)]


def without_harmless(changes: Sequence[FieldChange], harmless_env: Sequence[str]) -> tuple[FieldChange, ...]:
    """Return the changes; environment variables that the runner's profile lists as harmless count as the subject's."""
    return tuple(
        change.model_copy(update={"identity_class": "subject", "field": f"env.{change.field}"})
        if change.identity_class == "env" and any(fnmatchcase(change.field, glob) for glob in harmless_env)
        else change
        for change in changes
    )


def select(goldens: Sequence[Golden], run: Identity, harmless_env: Sequence[str] = ()) -> Match:
    """Return the goldens that a run is compared with.

    Args:
        goldens: accepted goldens of the case on this runner, in the order of the list (newest last).
        run: identity of the run. Its ``subject`` may still be incomplete: it never decides.
        harmless_env: names or globs of environment variables that change no pixel, from the runner's profile.
    """
    compared = [
        (golden, without_harmless(differences(golden.manifest.identity, run), harmless_env)) for golden in goldens
    ]
    if not compared:
        return Match(MatchKind.MISSING, (), ())
    exact = [(golden, changes) for golden, changes in compared if kind_of(changes) is MatchKind.EXACT]
    if exact:
        # the newest first: its code is nearest to the run's, so its "what changed" table is the shortest
        exact.reverse()
        return Match(MatchKind.EXACT, tuple(golden for golden, _ in exact), exact[0][1])
    # Reversed, so that of equally near goldens the newest is chosen.
    nearest, changes = min(reversed(compared), key=_distance)
    kind, alike = kind_of(changes), [nearest]
    if kind in (MatchKind.CPU, MatchKind.WEIGHTS):
        # frames are compared, and a bistable case may show any of its right answers
        digest = nearest.manifest.identity.digest()
        alike += [golden for golden in reversed(goldens) if golden is not nearest and _is_of(golden, digest)]
    return Match(kind, tuple(alike), changes)


def _is_of(golden: Golden, identity: str) -> bool:
    return golden.manifest.identity.digest() == identity


def _distance(item: tuple[Golden, tuple[FieldChange, ...]]) -> tuple[int, int]:
    blocking = [change for change in item[1] if change.identity_class != "subject"]
    return _KIND.index(kind_of(item[1])), len(blocking)
