"""Base class of all records: frozen, strict, and equal in memory and on disk."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic import JsonValue as Json

from harness.records.temporary import temporary_beside

__all__ = ["Json", "Record", "SealedRecord", "write_bytes_atomic", "write_text_atomic"]

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """A frozen value that a stage passes to the next stage, and that is written to disk as JSON."""

    # pydantic would quote the offending value in every message, and that may be a secret
    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="strings", allow_inf_nan=False, hide_input_in_errors=True
    )

    redact_on_write: ClassVar[bool] = False
    """Whether people and CI read this record: then writing it redacts it. A record under a digest is not redacted."""
    plain: ClassVar[tuple[str, ...]] = ()
    """Fields in which only known values are replaced: they come from committed files and are compared by digest."""

    def to_json(self) -> str:
        """Return the record as indented JSON, ending in a newline; equal records give equal bytes."""
        return self.model_dump_json(indent=2, exclude_none=False) + "\n"

    def as_json(self) -> Any:
        """Return the record as the value that its JSON holds."""
        return json.loads(self.to_json())  # noqa: TID251 - text of this process, and the reader imports records

    def write(self, path: Path) -> Path:
        """Write the record to ``path`` atomically: a reader sees the old file or the new one, never a part."""
        write_text_atomic(path, (self.redacted() if self.redact_on_write else self).to_json())
        return path

    def redacted(self: R) -> R:
        """Return the record without secrets, see `harness.redaction`; the same record if it holds no secret."""
        from harness.redaction import Redactor  # only writing needs the redactor, which reads the environment

        data = self.as_json()
        cleaned = Redactor().json(data, plain=self.plain)
        return self if cleaned == data else type(self).model_validate(cleaned)

    @classmethod
    def read(cls: type[R], path: Path) -> R:
        """Read a record back.

        Raises:
            UnreadableError: the content is not this record; one sentence, see `harness.reading`.
            OSError: the system cannot read the file.
        """
        from harness.reading import read_record  # the reader's errors need verdicts, which are records

        return read_record(cls, path)

    @classmethod
    def parse(cls: type[R], data: bytes | str, place: str) -> R:
        """Read a record back from its bytes.

        Args:
            data: the record's JSON.
            place: place of the bytes, for messages.

        Raises:
            UnreadableError: the bytes are not this record.
        """
        from harness.reading import parse_record

        return parse_record(cls, data, place)


class SealedRecord(Record):
    """A committed record with a seal, so that no edit by hand stays unnoticed. The seal is no signature.

    A subclass declares ``seal: str = ""`` as its last field: a field of this class would precede all others in the
    file.
    """

    if TYPE_CHECKING:
        seal: str

    def expected_seal(self) -> str:
        """Compute the seal of the other fields: sha256 (hex).

        Fields with their default value are left out, so that a field of a later version changes no existing seal.
        """
        body = self.model_dump(mode="json", exclude={"seal"}, exclude_defaults=True)
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    @property
    def is_sealed(self) -> bool:
        """Whether a command of this project wrote this content: the seal is the expected seal."""
        return self.seal == self.expected_seal()

    def to_json(self) -> str:
        """Return the file's content, with the seal of this content."""
        return Record.to_json(self.model_copy(update={"seal": self.expected_seal()}))


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
            # without it a power cut after the rename could leave an empty file
            os.fsync(out.fileno())
        # `mkstemp` creates files that only their owner can read
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
