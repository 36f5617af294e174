"""Secrets never come out of a stream, wherever it is cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from harness.pipeline.redaction import StreamRedactor, redact

SECRETS = {"A": "abcab", "B": "abcabcabd", "C": "da"}
TEXT = st.lists(st.sampled_from(["abcab", "abcabcabd", "da", "a", "ab", "abc", "d", "x", "\n"]), max_size=12).map(
    "".join
)


def streamed(chunks: list[bytes], secrets: dict[str, str]) -> bytes:
    redactor = StreamRedactor(secrets)
    return b"".join(map(redactor.feed, chunks)) + redactor.finish()


@given(TEXT, st.lists(st.integers(0, 60), max_size=6))
def test_no_cut_lets_a_secret_through(text: str, cuts: list[int]) -> None:
    data = text.encode()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[start:end] for start, end in pairwise(places)]
    shown = streamed(chunks, SECRETS)
    assert shown == streamed([data], SECRETS)
    bare = shown.replace(b"<A>", b"|").replace(b"<B>", b"|").replace(b"<C>", b"|")
    assert not any(value.encode() in bare for value in SECRETS.values())


@given(st.text("abcx\n", max_size=30))
def test_one_secret_is_redacted_as_in_one_piece(text: str) -> None:
    secrets = {"KEY": "abcab"}
    whole = redact(text + "\n", secrets).encode()
    assert streamed([bytes([byte]) for byte in (text + "\n").encode()], secrets) == whole


def test_what_cannot_become_a_secret_is_shown_at_once_and_a_begun_one_never() -> None:
    redactor = StreamRedactor({"KEY": "hunter2"})
    assert redactor.feed(b"hello hunt") == b"hello "
    assert redactor.feed(b"er") == b""
    assert redactor.finish() == b"<KEY>"
    assert redactor.finish() == b""
    assert redactor.feed(b"a hunter2 and h") == b"a <KEY> and "
    assert redactor.feed(b"ammer\n") == b"hammer\n"
