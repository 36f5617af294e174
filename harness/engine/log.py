"""Write the log of an engine: the engine prints into a pipe, the parent redacts line by line and writes the file.

No byte of an engine reaches the disk before the redactor has seen its whole line, so the file holds no secret that a
record would not hold either. The file is bounded: a line keeps ``LINE_BYTES``, a log keeps its beginning and its end.
A log of 300 MB without a newline therefore costs as much time and disk as a log of one line.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Mapping
from pathlib import Path

from harness.redaction import KEY_BEGIN, KEY_END, Redactor

LINE_BYTES = 16 << 10
"""Bytes that are kept of one line."""
OVERLAP = 4 << 10
"""Bytes that are read after the kept part of a line: a secret that lies across the cut is recognized with them."""
KEY_BYTES = 64 << 10
"""Bytes that may lie between the first and the last line of a private key; RSA with 16,384 bits takes 13 KB."""
MAX_BYTES = 64 << 20
"""Largest log. If it grows further, its middle is dropped."""
HEAD_BYTES = 4 << 20
TAIL_BYTES = 16 << 20
"""Bytes of the beginning and of the end that remain if the middle is dropped."""
CHUNK = 1 << 16
END_SECONDS = 5.0
_MOST_LINES = 4096
"""Lines of a value that are matched as one text; a longer value is recognized per line only."""


class LogRedactor:
    """Redacts a stream of bytes line by line. A line ends in a newline or a carriage return (progress bars).

    Args:
        secrets: values that must not be shown, by the name that is shown in their place. Values and shapes that
            ``harness.redaction`` recognises are replaced as well.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._redactor = Redactor({value: f"<{name}>" for name, value in secrets.items()})
        self._overlap = max(OVERLAP, self._redactor.longest)
        self._beginnings = _beginnings(self._redactor.several_lines)
        self._open = b""
        """The line that has not ended."""
        self._pending = b""
        """Complete lines that may be the beginning of a value of several lines."""
        self._dropped = 0
        """Bytes that were dropped of the present line, after its kept part was shown; 0: it is not too long."""
        self._key_left = 0
        """Bytes in which the end of a private key is still expected."""

    def feed(self, chunk: bytes) -> bytes:
        """Add ``chunk`` and return the bytes that can be written now."""
        shown = b""
        if self._dropped:
            chunk, ended = self._skip(chunk)
            if not ended:
                return b""
            shown = ended
        data = self._open + chunk
        cut = data.rfind(b"\n") + 1
        if len(data) - cut > LINE_BYTES:
            # a progress bar: only here, because a secret with a carriage return inside is recognized in one piece only
            cut = max(cut, data.rfind(b"\r") + 1)
        block, self._open = self._pending + data[:cut], data[cut:]
        if len(self._open) > LINE_BYTES + self._overlap:
            # the line is shown up to its bound; the rest of it is counted and dropped
            self._pending = b""
            shown += self._clean(block) + self._cut(self._open)
            self._dropped, self._open = max(1, len(self._open) - LINE_BYTES), b""
            return shown
        hold = next((len(block) - len(begun) for begun in self._beginnings if block.endswith(begun)), len(block))
        self._pending = block[hold:]
        return shown + self._clean(block[:hold])

    def finish(self) -> bytes:
        """Return the rest, redacted: the stream ended, or something else is written next."""
        rest, self._pending, self._open = self._pending + self._open, b"", b""
        shown = _note(self._dropped) if self._dropped else b""
        self._dropped = 0
        text = rest.decode("utf-8", "surrogateescape")
        return shown + self._clean(self._redactor.cut_off(text).encode("utf-8", "surrogateescape"))

    def _skip(self, chunk: bytes) -> tuple[bytes, bytes]:
        """Drop the rest of a line that is too long: return the bytes after it, and a note if the line has ended."""
        ends = [place for place in (chunk.find(b"\n"), chunk.find(b"\r")) if place >= 0]
        if not ends:
            self._dropped += len(chunk)
            return b"", b""
        note, self._dropped = _note(self._dropped + min(ends)), 0
        return chunk[min(ends) + 1 :], note

    def _cut(self, line: bytes) -> bytes:
        """Return the kept part of a line whose end is not known.

        A secret that lies across the end of ``line`` is not recognized. Its beginning is shorter than the overlap, and
        is unchanged at the end of the redacted text, so the overlap is taken off after redaction.
        """
        return self._clean(line)[: -self._overlap][:LINE_BYTES]

    def _clean(self, block: bytes) -> bytes:
        text = block.decode("utf-8", "surrogateescape")
        if self._key_left and text:
            text = self._inside_key(text)
        opened = 0
        for begin in KEY_BEGIN.finditer(text):
            opened = begin.end()
        if opened and KEY_END.search(text, opened) is None:
            # the redactor drops everything after the beginning; the following lines are dropped up to the end
            self._key_left = KEY_BYTES
            cleaned = self._redactor.text(text) + "\n"
        else:
            cleaned = self._redactor.text(text)
        shown = cleaned.encode("utf-8", "surrogateescape")
        # redaction can lengthen a line: a name may be longer than the value that it replaces
        if len(shown) > LINE_BYTES:
            shown = b"".join(map(_capped, shown.splitlines(keepends=True)))
        return shown

    def _inside_key(self, text: str) -> str:
        end = KEY_END.search(text)
        if end is not None:
            self._key_left = 0
            return text[end.end() :]
        # a key that never ends must not silence the log
        shown = text[self._key_left :]
        self._key_left = max(0, self._key_left - len(text))
        return shown


def _beginnings(values: tuple[str, ...]) -> tuple[bytes, ...]:
    """Return what complete lines end in while a value of several lines is being printed, longest first."""
    beginnings: set[bytes] = set()
    for value in values:
        lines = os.fsencode(value).splitlines(keepends=True)
        if len(lines) <= _MOST_LINES:
            beginnings |= {b"".join(lines[:count]) for count in range(1, len(lines))}
    return tuple(sorted(beginnings, key=len, reverse=True))


def _capped(line: bytes) -> bytes:
    if len(line) <= LINE_BYTES:
        return line
    return line[:LINE_BYTES] + _note(len(line) - LINE_BYTES)


def _note(count: int) -> bytes:
    return f"… ({count} more bytes)\n".encode()


class RedactedLog:
    """Reads a pipe in its own thread and appends redacted lines to a file of at most ``MAX_BYTES``.

    Args:
        path: the file; it is created, or appended to.
        secrets: values that must not reach it, by name.
    """

    def __init__(self, path: Path, secrets: Mapping[str, str]) -> None:
        self._path = path
        self._file = path.open("a+b", buffering=0)
        self._size = self._file.seek(0, os.SEEK_END)
        self._read, self.writer = os.pipe()
        """``writer`` is the engine's end of the pipe; the starter of the engine closes it."""
        self._redactor = LogRedactor(secrets)
        self._lock = threading.Lock()
        self._ended = False
        # daemon: a program that keeps the pipe open must not keep the parent from ending
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Write all complete lines that have arrived so far."""
        while self._take():
            pass

    def append(self, text: str) -> None:
        """Write a text of the parent, such as a traceback that the engine sent, after the engine's output so far."""
        self.settle()
        with self._lock:
            shown = self._redactor.finish()
            shown += self._redactor.feed(text.encode("utf-8", "surrogateescape"))
            self._write(shown + self._redactor.finish())

    def close(self) -> None:
        """Wait (``END_SECONDS``) for the end of the output, which comes when every process of the engine is gone."""
        self._thread.join(END_SECONDS)

    def _pump(self) -> None:
        while self._take() != b"":
            select.select([self._read], [], [])
        with self._lock:
            self._write(self._redactor.finish())
            self._ended = True
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
        with contextlib.suppress(OSError, ValueError):
            if self._ended:  # the engine is gone, and its last error is still written
                with self._path.open("ab", buffering=0) as file:
                    file.write(data)
                return
            while data:
                written = self._file.write(data) or 0
                data, self._size = data[written:], self._size + written
            if self._size > MAX_BYTES:
                self._shorten()

    def _shorten(self) -> None:
        """Drop the middle of the file. Its beginning shows how the engine was set up, its end how it died."""
        head = os.pread(self._file.fileno(), HEAD_BYTES, 0)
        last = os.pread(self._file.fileno(), TAIL_BYTES, self._size - TAIL_BYTES)
        head = head[: head.rfind(b"\n") + 1]
        last = last[last.find(b"\n") + 1 :]
        note = f"… ({self._size - len(head) - len(last)} bytes of this log were dropped)\n".encode()
        self._file.truncate(len(head))  # the file is open for appending, so the next write begins here
        self._size = len(head)
        for part in (note, last):
            self._size += self._file.write(part) or 0
