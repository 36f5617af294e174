"""Remove the values of passed-through environment variables from logs, records and errors of an engine."""

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
"""Number of bytes that are read from the end of a log."""
CUT_BYTES = 16 << 10
"""Bytes after the cut that are dropped if they hold no newline: longer than a secret that could lie across it."""
LINE_CHARACTERS = 2000
"""Number of characters that a record keeps of one log line."""
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
"""The program's own words. Replacing them would make reports unreadable, and they are guessed in one try anyway."""


# values of these keys are fixed codes of the program, so they are not searched for secrets
_MACHINE = {
    "kind": KINDS,
    "code": CAUSES,
    "type": ("InvalidCaseError", "CheckpointFaultError", "ClipError", "InfraError", "NoRunnerError"),
}


def worth_hiding(value: str) -> bool:
    """Return whether ``value`` may be a secret.

    A switch (``1``, ``true``, ``crash``) is no secret: it occurs in other lines by chance, and replacing it there
    falsifies the line and reveals the value. A value shorter than six characters protects nothing.
    """
    return len(value) >= SHORTEST_SECRET and value.lower() not in NOT_SECRET


def redact(text: str, secrets: Mapping[str, str]) -> str:
    """Return ``text`` with every secret's value replaced by ``<NAME>``, in every form that `harness.redaction`
    recognizes; longer forms first, because a form may contain another.
    """
    return Redactor({value: f"<{name}>" for name, value in secrets.items()}, {}).values(text)


def redact_answer(data: Json, secrets: Mapping[str, str]) -> Json:
    """Return an engine's answer without secrets, since receipts and fingerprints go into records and reports.

    Only the passed-through values are replaced here. Other text that looks like a secret is redacted when a record is
    written, so that numbers, paths and digests of a healthy answer stay unchanged until then.
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
    """Redact a worker error (from ``failures.describe``). Known codes (``kind``, ``code``, ``type``) are left as is."""
    return {
        key: redact(value, secrets) if isinstance(value, str) and value not in _MACHINE.get(key, ()) else value
        for key, value in data.items()
    }


class StreamRedactor:
    """Streaming ``redact``. Bytes that could be the start of a secret are buffered until the next chunk decides.

    Args:
        secrets: values that are not empty, by the name that is shown in their place.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._names = {os.fsencode(value): f"<{name}>".encode() for name, value in secrets.items()}
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(re.escape(value) for value in longest_first))
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Add ``chunk`` and return the bytes that can be shown now."""
        data, shown, at = self._held + chunk, bytearray(), 0
        hold = self._begun(data, at)
        for match in self._pattern.finditer(data):
            if match.start() >= hold:  # a longer value may begin here, so wait for the next chunk
                break
            shown += data[at : match.start()] + self._names[match.group()]
            at = match.end()
            if at > hold:
                hold = self._begun(data, at)
        shown += data[at:hold]
        self._held = data[hold:]
        return bytes(shown)

    def finish(self) -> bytes:
        """Return the rest at the end of the stream. The beginning of a value is replaced like the whole value."""
        name = next((name for value, name in self._names.items() if self._held and value.startswith(self._held)), b"")
        self._held = b""
        return name

    def _begun(self, data: bytes, at: int) -> int:
        """Return the offset, from ``at`` on, at which the earliest value cut off by the end begins; else the length."""
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
    """Return the last ``lines`` lines of a log, redacted; empty if there is no log.

    At most ``TAIL_BYTES`` of the log are read and ``LINE_CHARACTERS`` of a line are kept.
    """
    if not path.is_file():
        return ()
    with path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - TAIL_BYTES))
        data = handle.read(TAIL_BYTES)
    if size > TAIL_BYTES:  # the first, cut line may hold half a secret, which the redactor cannot recognize
        newline = data.find(b"\n", 0, CUT_BYTES)
        data = data[newline + 1 if newline >= 0 else CUT_BYTES :]
    text = Redactor({value: f"<{name}>" for name, value in secrets.items()}).text(data.decode(errors="replace"))
    return tuple(_capped(line) for line in text.splitlines()[-lines:])


def _capped(line: str) -> str:
    if len(line) <= LINE_CHARACTERS:
        return line
    return f"{line[:LINE_CHARACTERS]}… ({len(line) - LINE_CHARACTERS} more characters)"


# The log of an engine with secrets: its output goes through a pipe to the parent, which redacts and writes it.


CHUNK = 1 << 16
END_SECONDS = 5.0


class RedactedLog:
    """Reads a pipe in its own thread and appends the redacted bytes to a file.

    Args:
        path: the file.
        secrets: values that must not reach it, by name.
    """

    def __init__(self, path: Path, secrets: Mapping[str, str]) -> None:
        self._file = path.open("ab", buffering=0)
        self._read, self.writer = os.pipe()
        """``writer`` is the engine's end of the pipe; the starter of the engine closes it."""
        self._redactor = StreamRedactor(secrets)
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Write all output that has arrived so far."""
        while self._take():
            pass

    def close(self) -> None:
        """Wait (``END_SECONDS``) for the end of the output, which comes when every process of the engine is gone."""
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
        """Write one chunk and return it: ``None`` if nothing is there yet, empty bytes at the end."""
        with self._lock:
            if self._ended or not select.select([self._read], [], [], 0)[0]:
                return None
            chunk = os.read(self._read, CHUNK)
            self._write(self._redactor.feed(chunk))
            return chunk

    def _write(self, data: bytes) -> None:
        # a full disk loses log lines; to stop reading would fill the pipe and block the engine
        with contextlib.suppress(OSError):
            while data:
                data = data[self._file.write(data) or 0 :]
