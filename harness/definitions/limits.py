"""Reads ``thresholds/<runner>/<case>.json``."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from harness.errors import InvalidCaseError
from harness.records.limits import LimitFile


def limit_path(folder: Path, runner: str, case: str) -> Path:
    """Where the limits of a case on a runner lie, whether or not there are any."""
    return folder / runner / f"{case}.json"


def load_limits(folder: Path, runner: str, case: str) -> LimitFile | None:
    """The limits of ``case`` on ``runner``, or ``None`` where none were measured yet.

    Args:
        folder: ``thresholds/``.

    Raises:
        InvalidCaseError: the file is there and wrong: each fault with its JSON pointer (RFC 6901).
    """
    path = limit_path(folder, runner, case)
    # regenerate reads the old file too, so one that cannot be read must go first
    again = f"quantgate regenerate --case {case} --runner {runner} --reason '...'"
    remedy = f"restore it from git, or remove it and measure anew: {again}"
    try:
        limits = LimitFile.read(path)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidCaseError(f"cannot be read: {error}", where=str(path), remedy=remedy) from None
    except ValidationError as error:
        said = [f"{_pointer(detail['loc'])}: {detail['msg']}" for detail in error.errors(include_url=False)]
        raise InvalidCaseError("; ".join(said), where=str(path), remedy=remedy) from None
    for field, stated, meant in (("case", limits.case, case), ("runner", limits.runner, runner)):
        if stated != meant:
            raise InvalidCaseError(f"/{field}: says {stated!r}, and lies where {meant!r} is read", where=str(path))
    return limits


def _pointer(loc: tuple[str | int, ...]) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in loc) or "/"
