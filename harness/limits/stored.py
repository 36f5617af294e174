"""Read limit files: ``thresholds/<runner>/<case>.json``."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from harness.errors import InvalidCaseError
from harness.reading import UnreadableError
from harness.records.limits import LimitFile


def limit_paths(folder: Path, runner: str = "*") -> list[Path]:
    """Return every limit file of ``thresholds/``, of one runner or of all, without baselines (``*.perf.json``)."""
    return sorted(path for path in folder.glob(f"{runner}/*.json") if not path.name.endswith(".perf.json"))


def limit_path(folder: Path, runner: str, case: str) -> Path:
    """Return the path of the limit file of a case on a runner. The file may not exist."""
    return folder / runner / f"{case}.json"


class EditedLimitsError(InvalidCaseError):
    """A limit file was changed after the command that placed its limits wrote it.

    Args:
        limits: the present content of the file.
        path: its path.
        detail: the limits that differ from those of their samples, if they were compared.
    """

    def __init__(self, limits: LimitFile, path: Path, detail: str = "") -> None:
        self.limits, self.path = limits, path
        super().__init__(
            f"{edited(limits)}{f': {detail}' if detail else ''}",
            place=str(path),
            remedy=f"git checkout {path}, or place its limits by its own samples: {place_again(limits)}",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.limits, self.path))


def edited(limits: LimitFile) -> str:
    """Return why a limit file cannot be used: its seal does not fit or is missing. Empty if it can be used."""
    if limits.is_sealed:
        return ""
    if limits.seal:
        return "the file was changed after its limits were placed; its seal does not fit"
    return "the file carries no seal, so its limits may differ from those that were placed"


def place_again(limits: LimitFile) -> str:
    """Return the command that places the limits of a file again from its samples, and seals the file."""
    return f"quantgate regenerate --from-samples --case {limits.case} --runner {limits.runner} --reason '...'"


def load_limits(folder: Path, runner: str, case: str, *, allow_edited: bool = False) -> LimitFile | None:
    """Read the limits of ``case`` on ``runner``. Return ``None`` if none were measured yet.

    Args:
        folder: ``thresholds/``.
        runner: name of the runner profile.
        case: id of the case.
        allow_edited: also read a file that was edited by hand, to place its limits again.

    Raises:
        InvalidCaseError: the file exists and is invalid; each fault has its JSON pointer (RFC 6901).
        EditedLimitsError: the file was changed after its limits were placed, or it has no seal.
    """
    path = limit_path(folder, runner, case)
    # `regenerate` reads the old file too, so an unreadable file must be restored or removed first.
    again = f"quantgate regenerate --case {case} --runner {runner} --reason '...'"
    remedy = f"restore it from git, or remove it and measure anew: {again}"
    try:
        limits = LimitFile.read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidCaseError(f"cannot be read: {error.strerror}", place=str(path), remedy=remedy) from None
    except UnreadableError as error:
        fields = error.__cause__
        if not isinstance(fields, ValidationError):
            raise InvalidCaseError(f"cannot be read: {error.message}", place=error.place, remedy=remedy) from None
        problems = [f"{_pointer(detail['loc'])}: {detail['msg']}" for detail in fields.errors(include_input=False)]
        raise InvalidCaseError("; ".join(problems), place=str(path), remedy=remedy) from None
    for field, stated, expected in (("case", limits.case, case), ("runner", limits.runner, runner)):
        if stated != expected:
            raise InvalidCaseError(f"/{field}: says {stated!r}, and lies where {expected!r} is read", place=str(path))
    if not allow_edited and not limits.is_sealed:
        raise EditedLimitsError(limits, path)
    return limits


def _pointer(loc: tuple[str | int, ...]) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in loc) or "/"
