"""Keeps values of passed-through environment variables out of everything that is shown or kept."""

from __future__ import annotations

import contextlib
import os
import re
import select
import threading
from collections.abc import Mapping
from pathlib import Path

from harness.definitions.causes import CAUSES
from harness.errors import KINDS
from harness.outcomes import RULES
from harness.records.base import Json
from harness.redaction import Redactor

SHORTEST_SECRET = 6
TAIL_BYTES = 256 << 10
"""Most bytes that are read from the end of a log."""
CUT_BYTES = 16 << 10
"""Bytes after the cut that are left out where a log has no newline: the longest secret that could lie across it."""
LINE_CHARACTERS = 2000
"""Most characters of one line of a log that a record keeps."""
NOT_SECRET = frozenset(
    {
        *RULES,
        *KINDS,
        *CAUSES,
        "command",
        "diffusers",
        "transformer",
        "transformer_2",
        "generate",
        "default",
        "enabled",
        "disabled",
    }
)
"""Words of the program's own: replaced, a report would no longer say what happened, and guessing one takes one try."""


_MACHINE = {
    "kind": KINDS,
    "code": CAUSES,
    "type": ("InvalidCaseError", "CheckpointFaultError", "ClipError", "InfraError", "NoRunnerError"),
}


def worth_hiding(value: str) -> bool:
    """Whether ``value`` may be a secret.

    A switch (``1``, ``true``, ``crash``) is none: it is in every other line by chance, and replacing it there makes the
    line wrong and the value plain. What is shorter than six characters keeps nobody out.
    """
    return len(value) >= SHORTEST_SECRET and value.lower() not in NOT_SECRET


def redact(text: str, secrets: Mapping[str, str]) -> str:
    """``text`` with every secret's value replaced by ``<NAME>``, in every form that `harness.redaction` knows, longer
    ones first, as one may hold another."""
    return Redactor({value: f"<{name}>" for name, value in secrets.items()}, {}).values(text)


def redact_answer(data: Json, secrets: Mapping[str, str]) -> Json:
    """An engine's answer without secrets: receipts and fingerprints go into records, goldens and reports.

    Only the passed values are replaced here: what else looks like a secret is redacted where records are written, so
    that numbers, paths and digests of a healthy answer stay what they are.
    """
    redactor = Redactor({value: f"<{name}>" for name, value in secrets.items()}, {})

    def cleaned(value: Json) -> Json:
        if isinstance(value, dict):
            return {redactor.values(key): cleaned(item) for key, item in value.items()}
        if isinstance(value, list):
            return [cleaned(item) for item in value]
        return redactor.values(value) if isinstance(value, str) else value

    return cleaned(data) if secrets else data


def redact_error(data: Mapping[str, Json], secrets: Mapping[str, str]) -> dict[str, Json]:
    """An error of a worker, see ``failures.describe``, without secrets; a code of ours is no text to look in."""
    return {
        key: redact(value, secrets) if isinstance(value, str) and value not in _MACHINE.get(key, ()) else value
        for key, value in data.items()
    }


class StreamRedactor:
    """``redact`` for bytes that come in pieces: what may become a secret is held back until it did or did not.

    Args:
        secrets: values that are not empty, by the name that is shown in their place.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._names = {os.fsencode(value): f"<{name}>".encode() for name, value in secrets.items()}
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(re.escape(value) for value in longest_first))
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What can be shown once ``chunk`` came too."""
        data, shown, at = self._held + chunk, bytearray(), 0
        hold = self._begun(data, at)
        for match in self._pattern.finditer(data):
            if match.start() >= hold:  # a longer value may begin here
                break
            shown += data[at : match.start()] + self._names[match.group()]
            at = match.end()
            if at > hold:
                hold = self._begun(data, at)
        shown += data[at:hold]
        self._held = data[hold:]
        return bytes(shown)

    def finish(self) -> bytes:
        """What is left at the end. The beginning of a value is no less secret than all of it."""
        name = next((name for value, name in self._names.items() if self._held and value.startswith(self._held)), b"")
        self._held = b""
        return name

    def _begun(self, data: bytes, at: int) -> int:
        """Where, from ``at`` on, the earliest value begins that the data's end cuts off; the end where none does."""
        longest = max(
            (
                size
                for value in self._names
                for size in range(1, min(len(value), len(data) - at + 1))
                if data.endswith(value[:size])
            ),
            default=0,
        )
        return len(data) - longest


def tail(path: Path, lines: int, secrets: Mapping[str, str]) -> tuple[str, ...]:
    """The last ``lines`` lines of a log, redacted; empty where there is no log.

    However long the log or one of its lines is, ``TAIL_BYTES`` are read and ``LINE_CHARACTERS`` of a line are kept.
    """
    if not path.is_file():
        return ()
    with path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - TAIL_BYTES))
        data = handle.read(TAIL_BYTES)
    if size > TAIL_BYTES:  # what the cut left of a line may be half a secret, which nobody would recognise
        newline = data.find(b"\n", 0, CUT_BYTES)
        data = data[newline + 1 if newline >= 0 else CUT_BYTES :]
    text = Redactor({value: f"<{name}>" for name, value in secrets.items()}).text(data.decode(errors="replace"))
    return tuple(_capped(line) for line in text.splitlines()[-lines:])


def _capped(line: str) -> str:
    if len(line) <= LINE_CHARACTERS:
        return line
    return f"{line[:LINE_CHARACTERS]}… ({len(line) - LINE_CHARACTERS} more characters)"


# The log of an engine that was given secrets: its output passes through the parent, which writes it without them.


CHUNK = 1 << 16
END_SECONDS = 5.0


class RedactedLog:
    """Reads a pipe in a thread of its own and appends to a file.

    Args:
        path: the file.
        secrets: values that must not reach it, by name.
    """

    def __init__(self, path: Path, secrets: Mapping[str, str]) -> None:
        self._file = path.open("ab", buffering=0)
        self._read, self.writer = os.pipe()
        """``writer`` is for the engine; who started it closes it."""
        self._redactor = StreamRedactor(secrets)
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Write what the engine has said so far."""
        while self._take():
            pass

    def close(self) -> None:
        """Wait for the end of the output, which is there once every process of the engine is gone."""
        self._thread.join(END_SECONDS)

    def _pump(self) -> None:
        while self._take() != b"":
            select.select([self._read], [], [])
        with self._lock:
            self._ended = True
            self._write(self._redactor.finish())
            self._file.close()
            os.close(self._read)

    def _take(self) -> bytes | None:
        """Write one chunk: ``None`` where nothing is there yet, nothing at the end."""
        with self._lock:
            if self._ended or not select.select([self._read], [], [], 0)[0]:
                return None
            chunk = os.read(self._read, CHUNK)
            self._write(self._redactor.feed(chunk))
            return chunk

    def _write(self, data: bytes) -> None:
        # A full disk loses lines of the log; not reading on would block the engine.
        with contextlib.suppress(OSError):
            while data:
                data = data[self._file.write(data) or 0 :]
