"""The log of an engine that was given secrets: its output passes through the parent, which writes it without them.

Redacting afterwards would be too late: whoever kills the parent leaves the file as it is. If the parent dies, the pipe
breaks instead of filling up, and the supervisor ends the engine anyway.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Mapping
from pathlib import Path

from harness.pipeline.redaction import StreamRedactor

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
