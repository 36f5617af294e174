"""Reads ``thresholds/<runner>/<case>.json``."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from harness.errors import InvalidCaseError
from harness.reading import UnreadableError
from harness.records.limits import LimitFile


def limit_paths(folder: Path, runner: str = "*") -> list[Path]:
    """Every limit file of ``thresholds/``, of one runner or of all; baselines of times (``*.perf.json``) are none."""
    return sorted(path for path in folder.glob(f"{runner}/*.json") if not path.name.endswith(".perf.json"))


def limit_path(folder: Path, runner: str, case: str) -> Path:
    """Where the limits of a case on a runner lie, whether or not there are any."""
    return folder / runner / f"{case}.json"


class EditedLimitsError(InvalidCaseError):
    """A limit file is not as the command that placed its limits wrote it.

    Args:
        limits: what the file says now.
        path: where it lies.
        detail: which limits are not what their samples give, where somebody compared them.
    """

    def __init__(self, limits: LimitFile, path: Path, detail: str = "") -> None:
        self.limits, self.path = limits, path
        super().__init__(
            f"{edited(limits)}{f': {detail}' if detail else ''}",
            where=str(path),
            remedy=f"git checkout {path}, or place its limits by its own samples: {place_again(limits)}",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.limits, self.path))


def edited(limits: LimitFile) -> str:
    """Why the content of a limit file cannot be used: it was changed after it was sealed. Empty if it can."""
    if limits.is_sealed:
        return ""
    if limits.seal:
        return "the file was changed after its limits were placed; its seal does not fit"
    return "the file carries no seal, so nobody knows whether its limits are those that were placed"


def place_again(limits: LimitFile) -> str:
    """The command that places the limits of a file anew from the samples in it, and seals it."""
    return f"quantgate regenerate --from-samples --case {limits.case} --runner {limits.runner} --reason '...'"


def load_limits(folder: Path, runner: str, case: str, *, allow_edited: bool = False) -> LimitFile | None:
    """Read the limits of ``case`` on ``runner``. Returns ``None`` if none were measured yet.

    Args:
        folder: ``thresholds/``.
        runner: name of the profile.
        case: id of the case.
        allow_edited: read a file that was edited by hand too, in order to place its limits anew.

    Raises:
        InvalidCaseError: the file is there and wrong: each fault with its JSON pointer (RFC 6901).
        EditedLimitsError: it was changed after its limits were placed, or it carries no seal.
    """
    path = limit_path(folder, runner, case)
    # regenerate reads the old file too, so one that cannot be read must go first
    again = f"quantgate regenerate --case {case} --runner {runner} --reason '...'"
    remedy = f"restore it from git, or remove it and measure anew: {again}"
    try:
        limits = LimitFile.read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidCaseError(f"cannot be read: {error.strerror}", where=str(path), remedy=remedy) from None
    except UnreadableError as error:
        fields = error.__cause__
        if not isinstance(fields, ValidationError):
            raise InvalidCaseError(f"cannot be read: {error.what}", where=error.where, remedy=remedy) from None
        said = [f"{_pointer(detail['loc'])}: {detail['msg']}" for detail in fields.errors(include_input=False)]
        raise InvalidCaseError("; ".join(said), where=str(path), remedy=remedy) from None
    for field, stated, meant in (("case", limits.case, case), ("runner", limits.runner, runner)):
        if stated != meant:
            raise InvalidCaseError(f"/{field}: says {stated!r}, and lies where {meant!r} is read", where=str(path))
    if not allow_edited and not limits.is_sealed:
        raise EditedLimitsError(limits, path)
    return limits


def _pointer(loc: tuple[str | int, ...]) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in loc) or "/"
