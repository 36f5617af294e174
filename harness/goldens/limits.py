"""Compute a case's new limits when another golden is accepted.

Limits are samples measured against one golden of one configuration. So:

- new limits that were measured against the candidate come with it;
- without them, and with the same request, hardware, weights and environment (only the code changed), the old ones are
  carried over: the noise of a configuration is a property of the configuration. The file records that;
- without them, and with another configuration, the old ones are removed: they do not describe this one, and a case
  without limits ends red with the command that measures them, while wrong limits might end green;
- if the old golden stays accepted (a bistable case), they hold for the new one too, and the file records that: the
  noise around each group is that of the configuration, until `quantgate regenerate` compares every run with the
  nearest golden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import GoldenError
from harness.limits.stored import edited, place_again
from harness.reading import UnreadableError, reason
from harness.records.golden import CLIP, GoldenManifest
from harness.records.limits import LimitFile

Fate = Literal["new", "carried", "removed", "extended", "none"]


@dataclass(frozen=True)
class LimitChange:
    """The new state of a limit file.

    Attributes:
        fate: the decision, in one word.
        limits: the new content; ``None`` if the file is removed or never existed.
    """

    fate: Fate
    limits: LimitFile | None


def limits_after(
    manifest: GoldenManifest, measured: LimitFile | None, path: Path, *, remaining: Sequence[str]
) -> LimitChange:
    """Return the limits of a case after ``manifest`` is accepted.

    Args:
        manifest: the new golden.
        measured: limits that were measured against its clip (``golden_digest`` is the clip's sha256).
        path: the present limit file, if there is one.
        remaining: digests of older goldens of the same configuration that stay accepted.

    Raises:
        GoldenError: the limit file cannot be read, or ``measured`` is of another case, runner, identity or clip.
    """
    digest, identity = manifest.digest(), manifest.identity.digest()
    if measured is not None:
        clip = manifest.parts.get(CLIP)
        expected_values = (manifest.case, manifest.runner, identity, clip.sha256 if clip is not None else "")
        measured_values = (measured.case, measured.runner, measured.identity_digest, measured.golden_digest)
        for field, expected, value in zip(
            ("case", "runner", "identity", "clip"), expected_values, measured_values, strict=True
        ):
            if expected != value:
                raise GoldenError(
                    f"the new limits were measured for another {field}: {value[:24]!r}, not {expected[:24]!r}",
                    place=f"{manifest.runner}/{manifest.case}",
                    remedy="quantgate regenerate, which measures limits and golden together",
                )
        return LimitChange("new", _checked(measured, golden_digest=digest, also=tuple(remaining)))
    old = read_committed(path)
    if old is None:
        return LimitChange("none", None)
    # Limits of another configuration might pass a bad run; without limits the case ends red.
    if old.identity_digest != identity:
        return LimitChange("removed", None)
    others = tuple(digest for digest in old.also if digest in remaining)
    if old.golden_digest in remaining:
        return LimitChange("extended", _checked(old, also=(*others, digest), notes=(*old.notes, _beside(old, digest))))
    note = f"carried over from golden {old.golden_digest[:16]}, which its samples were measured against"
    changed = _checked(
        old,
        golden_digest=digest,
        also=others,
        author=manifest.author,
        created=manifest.created,
        reason=f"{note}: {manifest.reason}",
    )
    return LimitChange("carried", changed)


def read_committed(path: Path) -> LimitFile | None:
    """Read the committed limits at ``path``. Return ``None`` if there are none.

    Raises:
        GoldenError: the limits cannot be read, or were edited by hand.
    """
    try:
        limits = LimitFile.read(path)
    except FileNotFoundError:
        return None
    except (OSError, UnreadableError) as error:
        raise GoldenError(
            f"the limits cannot be read: {reason(error)}", place=str(path), remedy="git checkout it"
        ) from error
    if fault := edited(limits):
        raise GoldenError(fault, place=str(path), remedy=f"git checkout {path}, or {place_again(limits)}")
    return limits


def _beside(old: LimitFile, digest: str) -> str:
    return (
        f"golden {digest[:16]} was accepted beside {old.golden_digest[:16]}, and no sample is measured against it yet: "
        f"quantgate regenerate --case {old.case} --runner {old.runner}"
    )


def _checked(limits: LimitFile, **changes: object) -> LimitFile:
    return LimitFile.model_validate({**limits.model_dump(), **changes})
