"""Remove the values of passed-through environment variables from logs, records and errors of an engine."""

from __future__ import annotations

import os
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
