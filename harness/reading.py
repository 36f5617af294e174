"""Read every file as untrusted: bounded size, UTF-8, bounded nesting, errors of one sentence.

Files that quantgate wrote, or that claim so, are strict JSON (:func:`parse_json`). Files of others, such as the
configurations of a checkpoint, may hold anything that their own loaders accept (:func:`parse_foreign`). ruff refuses
``json.loads`` and ``tomllib.loads`` in every other module of this package.

A record may come from a broken disk, an older version, a pull request or a stranger's artifact. Every fault in its
content becomes an :class:`UnreadableError` of one sentence that names the place. The sentence may name a field, and
never quotes a value, which may be a secret. Errors of the system (no such file, no permission, a bad disk) stay
``OSError``: they are no evidence about the file's content.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree as ET

from pydantic import BaseModel, ValidationError

from harness.errors import QuantgateError
from harness.outcomes import Outcome

R = TypeVar("R", bound=BaseModel)

MAX_BYTES = 64 << 20
"""Most bytes of one JSON file. The record of a case with 1,000 steps and 800 receipts is below 5 MB."""
MAX_HEADER_BYTES = 8 << 20
"""Longest header of a clip or an observation. A clip of 16,000 frames needs 1.5 MB."""
MAX_DEPTH = 64
"""Deepest nesting of JSON. Records nest 12 levels; code that walks one recursively must never hit Python's limit."""
MAX_BITS = 128
"""Largest whole number, in bits: Python reads numbers of any size, and converting one to a float raises."""
MAX_FOREIGN_DEPTH = 100
"""Deepest nesting of JSON that others wrote. Configurations nest 6 levels, tokenizers 8."""
MAX_XML_DEPTH = 16
"""Deepest nesting of JUnit: test suites, suite, case, result, properties, property are six levels."""
_SHOWN = 80


class UnreadableError(QuantgateError, ValueError):
    """The content of a file breaks a rule of its format."""

    outcome = Outcome.INVALID_CASE


def read_bytes(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises:
        OSError: the system cannot read it.
        UnreadableError: it is larger, or no regular file (a pipe or a device could block or never end).
    """
    with _regular(path) as (file, size):
        # one byte more than the limit shows that the file grew after its size was read
        data = file.read(limit + 1) if size <= limit else b""
    if size > limit or len(data) > limit:
        raise UnreadableError(f"it is larger than {limit} bytes, which is the most that is read", place=str(path))
    return data


@contextmanager
def _regular(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file for reading. Yields it and its size in bytes.

    Raises:
        OSError: the system cannot read it.
        UnreadableError: it is no regular file.
    """
    # O_NONBLOCK: opening a pipe without a writer must not block; the type is checked on the open descriptor
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(handle, "rb") as file:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise UnreadableError("it is not a regular file", place=str(path))
        yield file, state.st_size


def digest_file(path: Path) -> str:
    """Return the sha256 (hex) of a regular file of any size, read piece by piece.

    Raises:
        OSError: the system cannot read it.
        UnreadableError: it is no regular file.
    """
    with _regular(path) as (file, _):
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_file(path: Path) -> bool:
    """Return whether a path names a regular file; a name that the file system refuses (too long, NUL) names none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def decode(data: bytes, place: str) -> str:
    """Decode UTF-8 and drop a byte order mark at the beginning.

    Raises:
        UnreadableError: it is not UTF-8; the message names byte and line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(f"it is not UTF-8: byte 0x{data[error.start]:02x}", place=f"{place}:{line}") from None


def read_text(path: Path, *, limit: int = MAX_BYTES) -> str:
    """Read a UTF-8 text file.

    Raises:
        OSError: the system cannot read it.
        UnreadableError: it is too large, no regular file, or not UTF-8.
    """
    return decode(read_bytes(path, limit=limit), str(path))


def parse_json(data: bytes | str, place: str, *, finite: bool = True) -> Any:
    """Parse strict JSON.

    Args:
        data: UTF-8 bytes, or text.
        place: name of the file, for messages.
        finite: refuse NaN and infinities, which no JSON file may hold; the engine protocol allows them.

    Raises:
        UnreadableError: not UTF-8, not JSON, a key twice in one object, nested deeper than ``MAX_DEPTH``, a number
            that is not finite or larger than ``MAX_BITS`` bits, or text with half a surrogate pair.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        # `json` alone would silently keep the last of two equal keys
        if len(result) != len(pairs):
            raise UnreadableError(f"the key {_short(_twice(pairs))} stands twice in one object", place=place)
        return result

    def constant(word: str) -> float:
        if finite:
            raise UnreadableError(f"{word} is no JSON", place=place)
        return float(word)

    long_number = f"it holds a number of more than {MAX_BITS} bits"
    value = _loads(data, place, MAX_DEPTH, long_number, object_pairs_hook=unique, parse_constant=constant)
    _check_values(value, place, finite)
    return value


def parse_foreign(data: bytes | str, place: str) -> Any:
    """Parse JSON as the loaders of others do: NaN, large numbers and repeated keys (the last counts) are accepted.

    Raises:
        UnreadableError: not UTF-8, not JSON, or nested deeper than ``MAX_FOREIGN_DEPTH``.
    """
    value = _loads(data, place, MAX_FOREIGN_DEPTH, "it holds a number of thousands of digits")
    for _ in _containers(value, place, MAX_FOREIGN_DEPTH):
        pass  # only their depth is checked
    return value


def _loads(data: bytes | str, place: str, deepest: int, long_number: str, **hooks: Any) -> Any:
    """Decode JSON. ``json`` itself stops only far beyond ``deepest`` levels: `_containers` checks the depth."""
    text = decode(data, place) if isinstance(data, bytes) else data
    try:
        return json.loads(text, **hooks)
    except UnreadableError:  # of a hook
        raise
    except json.JSONDecodeError as error:
        raise UnreadableError(f"it is not JSON: {error.msg}", place=f"{place}:{error.lineno}") from None
    except RecursionError:
        raise UnreadableError(f"it is nested deeper than {deepest} levels", place=place) from None
    except ValueError:  # the only other one: Python refuses to convert thousands of digits
        raise UnreadableError(long_number, place=place) from None


def _containers(root: Any, place: str, deepest: int) -> Iterator[dict[str, Any] | list[Any]]:
    """Yield the objects and lists of a JSON value, and a list of the value itself.

    Raises:
        UnreadableError: they are nested deeper than ``deepest`` levels.
    """
    stack: list[tuple[Any, int]] = [([root], 0)]
    while stack:
        # a stack and no recursion, so that deep nesting never hits Python's limit
        holder, depth = stack.pop()
        if depth > deepest:
            raise UnreadableError(f"it is nested deeper than {deepest} levels", place=place)
        yield holder
        items = holder.values() if isinstance(holder, dict) else holder
        stack.extend((item, depth + 1) for item in items if isinstance(item, dict | list))


def as_json(value: Any, *, default: Callable[[Any], Any] | None = None) -> Any:
    """Return a value as it comes back from JSON: tuples as lists, keys as text; ``default`` converts other types."""
    return json.loads(json.dumps(value, default=default))


def read_foreign(path: Path, *, limit: int = MAX_BYTES) -> Any:
    """Read one JSON file that others wrote, with the rules of :func:`parse_foreign`.

    Raises:
        OSError: the system cannot read it.
        UnreadableError: its content breaks a rule.
    """
    return parse_foreign(read_bytes(path, limit=limit), str(path))


def parse_toml(data: bytes | str, place: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        UnreadableError: not UTF-8, not TOML, or nested too deep.
    """
    text = decode(data, place) if isinstance(data, bytes) else data
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UnreadableError("it is nested too deep", place=place) from None
    except ValueError as error:  # ``TOMLDecodeError`` is one; thousands of digits raise another
        raise UnreadableError(f"it is not TOML: {' '.join(str(error).split())[:200]}", place=place) from None


def read_json(path: Path, *, limit: int = MAX_BYTES) -> Any:
    """Read one JSON file with the rules of :func:`parse_json`.

    Raises:
        OSError: the system cannot read it.
        UnreadableError: its content is not strict JSON.
    """
    return parse_json(read_bytes(path, limit=limit), str(path))


def parse_object(data: bytes | str, place: str, *, finite: bool = True) -> dict[str, Any]:
    """Parse strict JSON that must be an object. Raises ``UnreadableError``."""
    value = parse_json(data, place, finite=finite)
    if not isinstance(value, dict):
        raise UnreadableError("it holds no JSON object", place=place)
    return value


def parse_record(kind: type[R], data: bytes | str, place: str) -> R:
    """Parse one record.

    Raises:
        UnreadableError: not strict JSON, or not this record: the first field that is wrong is named, its value is not.
    """
    text = decode(data, place) if isinstance(data, bytes) else data
    # pydantic's JSON parser accepts repeated keys; the strict parser refuses them first
    parse_json(text, place)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise UnreadableError(sentence(error), place=place) from error
    except RecursionError:
        raise UnreadableError(f"it is nested deeper than {MAX_DEPTH} levels", place=place) from None


def read_record(kind: type[R], path: Path, *, limit: int = MAX_BYTES) -> R:
    """Read one record from a file.

    Raises:
        OSError: the system cannot read it.
        UnreadableError: its content is not this record.
    """
    return parse_record(kind, read_bytes(path, limit=limit), str(path))


def parse_xml(data: bytes, place: str) -> ET.Element:
    """Parse XML in UTF-8 without a document type, nested at most ``MAX_XML_DEPTH`` levels.

    Only entities make XML grow while it is read, and entities need a document type. An encoding other than UTF-8
    could hide a document type from the check, so it is refused.

    Raises:
        UnreadableError: the data is no such XML.
    """
    text = decode(data, place)
    if "<!" in text.replace("<![CDATA[", "").replace("<!--", ""):
        raise UnreadableError("it declares a document type", place=place)
    depth = 0
    root: ET.Element | None = None
    parser: Any = ET.XMLPullParser(events=("start", "end"))
    try:
        # in pieces, so that depth is checked before a whole file of open tags has become a tree
        for start in range(0, len(text), 1 << 16):
            parser.feed(text[start : start + (1 << 16)])
            for event, element in parser.read_events():
                root = element if root is None else root
                depth += 1 if event == "start" else -1
                if depth > MAX_XML_DEPTH:
                    raise UnreadableError(f"it is nested deeper than {MAX_XML_DEPTH} levels", place=place)
        parser.close()
    except ET.ParseError as error:
        raise UnreadableError(f"it is not XML: {error}", place=place) from None
    if root is None:
        raise UnreadableError("it is not XML: no element found", place=place)
    return root


def check_safetensors(path: Path, *, limit: int = MAX_HEADER_BYTES) -> None:
    """Check the length of a safetensors header before a library reads it: the format allows 100 MB.

    Raises:
        OSError: the system cannot read the file.
        UnreadableError: no regular file, shorter than a header, or a header of more than ``limit`` bytes.
    """
    with _regular(path) as (file, size):
        first = file.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length < 2 or length + 8 > size:
        raise UnreadableError("its header is incomplete", place=str(path))
    if length > limit:
        raise UnreadableError(f"its header of {length} bytes is longer than {limit}", place=str(path))


def reason(error: Exception) -> str:
    """Return in one line why a file could not be read, without the path that an ``OSError`` repeats."""
    if isinstance(error, UnreadableError):
        place = error.place.rpartition(":")[2]
        return f"{error.message} (line {place})" if place.isdigit() else error.message
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return " ".join(str(error).split())


def sentence(error: ValidationError) -> str:
    """Say which field is wrong and how, without the value that was there, which may be a secret."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    if not details:
        return "it is not valid"
    place = ".".join(str(step) for step in details[0]["loc"])
    message = " ".join(details[0]["msg"].split())[:300]
    if details[0]["type"] == "union_tag_invalid":  # the only message of pydantic's that quotes the value
        message = "its kind is none of those that are known"
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{_short(place, quote=False)}: {message}{more}" if place else f"{message}{more}"


def _check_values(root: Any, place: str, finite: bool) -> None:
    """Check depth, numbers, and text that cannot be written as UTF-8 again."""
    for holder in _containers(root, place, MAX_DEPTH):
        if isinstance(holder, dict):
            for key in holder:
                _check_text(key, place)
        for item in holder.values() if isinstance(holder, dict) else holder:
            if isinstance(item, str):
                _check_text(item, place)
            elif isinstance(item, float):
                if finite and not math.isfinite(item):
                    raise UnreadableError("it holds a number that is not finite", place=place)
            elif isinstance(item, int) and item.bit_length() > MAX_BITS:
                raise UnreadableError(f"it holds a number of more than {MAX_BITS} bits", place=place)


def _check_text(text: str, place: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnreadableError("it holds half a surrogate pair, which is no character", place=place) from None


def _twice(pairs: list[tuple[str, Any]]) -> str:
    keys: set[str] = set()
    for key, _ in pairs:
        if key in keys:
            return key
        keys.add(key)
    return ""


def _short(text: str, *, quote: bool = True) -> str:
    cut = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return ascii(cut) if quote or not cut.isprintable() else cut
