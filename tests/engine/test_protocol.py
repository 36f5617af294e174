"""Messages survive any cutting into chunks; nonsense is an error."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engine.protocol import LineBuffer, Writer, encode
from harness.errors import InfraError

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text()
messages = st.dictionaries(st.text(), st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=8))


@given(st.lists(messages, max_size=5), st.lists(st.integers(1, 40), min_size=1))
def test_any_cut_gives_the_same_messages(sent: list[dict[str, object]], cuts: list[int]) -> None:
    stream = b"".join(encode(message) for message in sent)  # type: ignore[arg-type]
    buffer, got, at = LineBuffer(), [], 0
    while at < len(stream):
        cut = cuts[at % len(cuts)]
        got.extend(buffer.feed(stream[at : at + cut]))
        at += cut
    assert got == sent


@pytest.mark.parametrize("line", [b"no json\n", b"[1]\n", b"\xff\xfe\n", b"\n"])
def test_nonsense_is_a_protocol_error(line: bytes) -> None:
    with pytest.raises(InfraError) as caught:
        list(LineBuffer().feed(line))
    assert caught.value.kind == "protocol"


def test_a_line_without_end_is_a_protocol_error() -> None:
    buffer = LineBuffer(limit=1000)
    assert list(buffer.feed(b"x" * 900)) == []
    with pytest.raises(InfraError, match="longer than 1000 bytes"):
        list(buffer.feed(b"x" * 200))


def test_the_writer_says_when_the_other_end_is_gone() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        with pytest.raises(OSError, match="Broken pipe"):
            Writer(write).send({"a": 1})
    finally:
        os.close(write)
