"""What every record shares: frozen, strict, and the same value in memory and on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic import JsonValue as Json

from harness.records.temporary import temporary_beside

__all__ = ["Json", "Record", "write_bytes_atomic", "write_text_atomic"]

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """A frozen value that one stage hands to the next, and that is written to disk as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings", allow_inf_nan=False)

    def to_json(self) -> str:
        """The record as indented JSON, ending in a newline; the same record always gives the same bytes."""
        return self.model_dump_json(indent=2, exclude_none=False) + "\n"

    def write(self, path: Path) -> Path:
        """Write the record to ``path`` atomically: a reader sees the old file or the new one, never a part."""
        write_text_atomic(path, self.to_json())
        return path

    @classmethod
    def read(cls: type[R], path: Path) -> R:
        """Read a record back.

        Raises:
            pydantic.ValidationError: the file is not this record.
            OSError: the file cannot be read.
        """
        return cls.model_validate_json(path.read_text(encoding="utf-8"))


def write_text_atomic(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` through a temporary file in the same folder and one rename."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` through a temporary file in the same folder and one rename."""
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
