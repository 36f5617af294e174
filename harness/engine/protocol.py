"""Messages between the two ends of an engine: JSON lines on two dedicated pipes.

Parent to worker, one request per line: ``{"id": 3, "method": "generate", "params": {...}}``.
Worker to parent, events: ``{"id": 3, "event": "progress" | "result" | "error", "data": {...}}`` and, without an id,
``{"event": "heartbeat"}``. Exactly one ``result`` or ``error`` ends a request. The worker's standard streams belong
to libraries and go to the log, so that their output cannot disturb the protocol.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator

from harness.errors import InfraError
from harness.reading import UnreadableError, parse_object
from harness.records.base import Json

LINE_LIMIT = 64 * 1024 * 1024
"""Largest message in bytes. A generation with 1000 steps and 800 receipts is below 5 MB."""


class LineBuffer:
    """Splits chunks of bytes into messages."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> Iterator[dict[str, Json]]:
        """Yield every message that ``chunk`` completes.

        Raises:
            InfraError: kind ``protocol``: a line is too long, is no JSON, or is no object.
        """
        start = len(self._pending)
        self._pending += chunk
        while (end := self._pending.find(b"\n", start)) >= 0:
            line = bytes(self._pending[:end])
            del self._pending[: end + 1]
            start = 0
            yield parse(line)
        if len(self._pending) > self._limit:
            raise InfraError(f"a message is longer than {self._limit} bytes", kind="protocol")


def parse(line: bytes) -> dict[str, Json]:
    """Parse one line as a message.

    Raises:
        InfraError: kind ``protocol``: the line is no JSON object.
    """
    try:
        return parse_object(line, "a message of the engine", finite=False)
    except UnreadableError as error:
        # do not quote the line: it may hold secrets that were passed to the engine
        raise InfraError(f"a message of {len(line)} bytes is not JSON: {error.message}", kind="protocol") from None


def encode(message: dict[str, Json]) -> bytes:
    """Return a message as one line.

    Raises:
        InfraError: kind ``protocol``: the message does not fit into one line of ``LINE_LIMIT`` bytes.
    """
    line = json.dumps(message, separators=(",", ":"), allow_nan=True).encode() + b"\n"
    if len(line) > LINE_LIMIT:
        raise InfraError(f"a message is longer than {LINE_LIMIT} bytes", kind="protocol")
    return line


class Writer:
    """Writes whole lines to a file descriptor. Thread-safe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, message: dict[str, Json]) -> None:
        """Write one message.

        Raises:
            OSError: the other end is gone.
        """
        line = memoryview(encode(message))
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]
