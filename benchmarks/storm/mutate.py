"""Damage the bytes of a file: at random, by its JSON structure, by its encoding, and the file itself."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.storm.trial import NEEDLE

Change = Callable[[random.Random, bytes], bytes]
_RAW = "\0raw\0"
"""Marks a text that is written into the JSON as it is, without quotes."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, 1e308, -1e308, 5e-324, 2**63, 2**200, "", " ", NEEDLE, "x" * 100_000),
    *(
        [],
        {},
        [[]],
        {"": ""},
        [NEEDLE],
        {"needle": NEEDLE},
        "../../etc/passwd",
        "/etc/passwd",
        "\x00\x1b[31m",
        "\u202e",
    ),
    *(f"{_RAW}NaN{_RAW}", f"{_RAW}1e999{_RAW}", f"{_RAW}-Infinity{_RAW}", f"{_RAW}{'9' * 5000}{_RAW}"),
    *(f'{_RAW}"\\ud800"{_RAW}', f"{_RAW}{'[' * 90}{']' * 90}{_RAW}", f"{_RAW}{'[' * 60_000}{_RAW}"),
)


def flip(rng: random.Random, data: bytes) -> bytes:
    """Change some bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if out:
            out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def truncate(rng: random.Random, data: bytes) -> bytes:
    """Keep a beginning."""
    return data[: rng.randrange(len(data) + 1)]


def insert(rng: random.Random, data: bytes) -> bytes:
    """Put foreign bytes somewhere."""
    place = rng.randrange(len(data) + 1)
    foreign = rng.choice(
        (rng.randbytes(rng.randrange(1, 40)), b"\xff\xfe", b"\x00" * 9, b"{" * 3000, b'"', b"\n" * 70, b"\x1b[31m")
    )
    return data[:place] + foreign + data[place:]


def repeat(rng: random.Random, data: bytes) -> bytes:
    """Repeat a part, which gives keys and entries twice."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((1, 10, 100, 5000)))
    return data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:]


def encode(rng: random.Random, data: bytes) -> bytes:
    """Write the text in another encoding."""
    text = data.decode("utf-8", "replace")
    return text.encode(rng.choice(("utf-16", "utf-16-be", "utf-32", "utf-7", "utf-8-sig", "cp037")), "replace")


def replace_all(rng: random.Random, _data: bytes) -> bytes:
    """Replace the whole content."""
    content = rng.choice(
        (b"", b"\x00", b"[]", b"{}", b"null", b"1", b'"x"', b"[" * 100_000, b'{"a":' * 50_000, b"<a>" * 2_000,
         b"PK\x03\x04", b"SQLite format 3\x00" + b"\xff" * 200, rng.randbytes(300),
         b"\xff" * 8 + b"{}", b"\n" * 100_000,
         b"<?xml version='1.0' encoding='utf-16'?><a/>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", b"- " * 3_000,
         b"a: &a [x]\n" + b"".join(b"b%d: [*a, *a]\n" % n for n in range(40)), b"%TAG: " * 9)
    )  # fmt: skip
    assert isinstance(content, bytes)  # noqa: S101 - for mypy
    return content


def restructure(rng: random.Random, data: bytes) -> bytes:
    """Change one value, key or entry of a JSON text; other content is changed by bytes."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return flip(rng, data)
    places = _places([body])
    for _ in range(rng.choice((1, 1, 1, 3))):
        holder, key = rng.choice(places)
        change = rng.randrange(5)
        if change == 0 and isinstance(holder, dict):
            holder.pop(key, None)
        elif change == 1 and isinstance(holder, dict):
            holder[rng.choice(("extra", "", "__class__", "x" * 500, "$ref", "\x1b[31m\u202e"))] = rng.choice(VALUES)
        elif change == 2 and isinstance(holder, list) and isinstance(key, int) and key < len(holder):
            holder.insert(key, holder[key])
        elif isinstance(holder, dict) or (isinstance(key, int) and key < len(holder)):
            holder[key] = rng.choice(VALUES)
    try:
        text = json.dumps(places[0][0][0])
    except ValueError:  # a value that now holds itself
        return flip(rng, data)
    quoted = json.dumps(_RAW)[1:-1]
    return "".join(_unquoted(text, quoted)).encode()


def _unquoted(text: str, mark: str) -> list[str]:
    parts = text.split(mark)
    # every second part stood between marks: it was quoted as a string, and is written bare
    bare = [json.loads(f'"{part}"') if index % 2 else part for index, part in enumerate(parts)]
    for index in range(1, len(bare), 2):
        bare[index - 1] = bare[index - 1].removesuffix('"')
        bare[index + 1] = bare[index + 1].removeprefix('"')
    return bare


def texts(body: Any) -> list[tuple[Any, Any]]:
    """Return holder and key of every text in a JSON value."""
    return [(holder, key) for holder, key in _places(body) if isinstance(holder[key], str)]


def _places(root: Any) -> list[tuple[Any, Any]]:
    """Return holder and key of every value in a JSON object or array."""
    places: list[tuple[Any, Any]] = []
    stack = [root]
    while stack:
        holder = stack.pop()
        for key in holder if isinstance(holder, dict) else range(len(holder)):
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                stack.append(holder[key])
    return places


CHANGES: tuple[Change, ...] = (
    *(restructure, restructure, restructure, restructure, flip, flip, truncate, insert, repeat, encode, replace_all),
)


def misplace(rng: random.Random, path: Path) -> str:
    """Put something else in the place of a file; return its name."""
    kind = rng.choice(("pipe", "folder", "endless", "device", "loop", "dangling", "sparse"))
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(1 << 36)
    else:
        target = {"endless": "/dev/zero", "device": "/dev/full", "loop": path.name, "dangling": "absent"}[kind]
        path.symlink_to(target)
    return kind
