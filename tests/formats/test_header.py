"""Hostile headers are refused with a typed error, in bounded memory; honest ones read as the reference reader does."""

from __future__ import annotations

import contextlib
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from harness.formats.errors import HeaderError
from harness.formats.header import parse_header, read_header


def blob(body: object, data: bytes = b"", raw: bytes | None = None, length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = json.dumps(body).encode() if raw is None else raw
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def read(file: bytes) -> Any:
    return read_header("x.safetensors", len(file), lambda start, size: file[start : start + size], guess=64)


def entry(start: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


HOSTILE = {
    "header_truncated": [b"", b"\x01\x02", blob({}, length=5000)],
    "header_too_large": [blob({}, length=1 << 62), blob({}, length=100_000_001)],
    "header_not_json": [
        blob(None, raw=b"not json"),
        blob(None, raw=b"[1, 2]"),
        blob(None, raw=b'{"a": '),
        blob(None, raw=b'{"a": "\xff"}'),
        blob(None, raw=b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    ],
    "header_duplicate_key": [
        blob(None, raw=b'{"a": {"dtype":"U8","shape":[1],"data_offsets":[0,1]}, "a": 1}', data=b"\0"),
        blob(None, raw=b'{"a": {"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', data=b"\0"),
    ],
    "header_bad_entry": [
        blob({"a": 3}),
        blob({"a": {"dtype": "U8", "shape": [1]}}),
        blob({"a": entry(0, 1, dtype="X9")}, b"\0"),
        blob({"a": entry(0, 1, shape=[-1])}, b"\0"),
        blob({"a": entry(0, 1, shape=[True])}, b"\0"),  # type: ignore[list-item]
        blob({"a": entry(0, 1, shape=[1 << 62, 1 << 62])}, b"\0"),
        blob({"a": entry(0, 4, shape=[2])}, b"\0" * 4),
        blob({"a": {**entry(0, 1), "data_offsets": [1, 0]}}, b"\0"),
        blob({"a": {**entry(0, 1), "data_offsets": [-1, 0]}}, b"\0"),
        blob({"a": {**entry(0, 1), "more": 1}}, b"\0"),
        blob({"__metadata__": {"a": 1}}),
        blob({"a": entry(0, 1, shape=[1] * 40)}, b"\0"),
    ],
    "header_overlap": [blob({"a": entry(0, 4), "b": entry(2, 6)}, b"\0" * 6)],
    "header_hole": [blob({"a": entry(0, 4), "b": entry(6, 8)}, b"\0" * 8)],
    "data_truncated": [blob({"a": entry(0, 400)}, b"\0" * 100)],
    "data_trailing": [blob({"a": entry(0, 4)}, b"\0" * 9)],
}


@pytest.mark.parametrize(("code", "file"), [(code, file) for code, files in HOSTILE.items() for file in files])
def test_hostile_header_is_refused_by_name(code: str, file: bytes) -> None:
    with pytest.raises(HeaderError) as caught:
        read(file)
    assert caught.value.code == code
    assert "x.safetensors" in str(caught.value)


def test_huge_header_is_refused_before_it_is_read() -> None:
    asked: list[int] = []

    def record(start: int, size: int) -> bytes:
        asked.append(size)
        return (struct.pack("<Q", 99_000_000_000) + b"{" * size)[:size]

    tracemalloc.start()
    with pytest.raises(HeaderError):
        read_header("x", 1 << 60, record)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(asked) <= 256 * 1024
    assert peak < 16 << 20


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_header_or_a_typed_error(data: bytes) -> None:
    with contextlib.suppress(HeaderError):  # any other exception fails the test
        read(blob(None, raw=data))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), JSON, max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_entry_gives_a_header_or_a_typed_error(value: dict[str, object]) -> None:
    raw = json.dumps({"a": value}).encode()
    with contextlib.suppress(HeaderError):
        parse_header("x", raw, 8 + len(raw))


@given(
    st.dictionaries(
        st.text("abc.", min_size=1, max_size=8),
        st.tuples(
            st.sampled_from([np.uint8, np.float32, np.float16, np.int64]),
            st.lists(st.integers(0, 5), max_size=3),
        ),
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_agrees_with_the_reference_writer_and_reader(tmp_path_factory: pytest.TempPathFactory, shapes: Any) -> None:
    tensors = {name: np.ones(shape, dtype) for name, (dtype, shape) in shapes.items()}
    path: Path = tmp_path_factory.mktemp("st") / "a.safetensors"
    save_file(tensors, path, metadata={"k": "v"})
    data = path.read_bytes()
    header = read(data)
    assert header.metadata == {"k": "v"}
    with safe_open(path, framework="np") as reference:
        assert set(header.tensors) == set(reference.keys())
        for name, item in header.tensors.items():
            mine = np.frombuffer(data[item.start : item.start + item.nbytes], tensors[name].dtype).reshape(item.shape)
            np.testing.assert_array_equal(mine, reference.get_tensor(name))
