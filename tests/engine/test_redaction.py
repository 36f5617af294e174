"""Secrets never come out of a stream, wherever it is cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.definitions.causes import CAUSES
from harness.engine import failures
from harness.engine.environment import secrets_of
from harness.engine.secrets import StreamRedactor, redact, redact_error, worth_hiding
from harness.errors import KINDS, InfraError

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


@pytest.mark.parametrize("value", ["", "1", "true", "12345", "crash", "regression", "Protocol", "scale_missing"])
def test_a_switch_is_no_secret(make_case: Any, value: str) -> None:
    assert secrets_of(make_case(pass_env=["MODE"]), {"MODE": value}) == {}


@pytest.mark.parametrize("value", ["123456", "crash1", "hunter2-value", "regressions"])
def test_everything_else_is_one(make_case: Any, value: str) -> None:
    assert secrets_of(make_case(pass_env=["MODE"]), {"MODE": value}) == {"MODE": value}


def test_a_code_stays_what_it_is_and_a_secret_in_its_place_does_not() -> None:
    secrets = {"MODE": "missing", "KEY": "hunter2"}
    said = {"type": "InfraError", "kind": "oom", "code": "scale_missing", "what": "missing hunter2", "where": ""}
    assert redact_error(said, secrets) == {**said, "what": "<MODE> <KEY>"}
    assert redact_error({"kind": "hunter2", "code": "hunter2"}, secrets) == {"kind": "<KEY>", "code": "<KEY>"}


def test_every_type_kind_and_code_of_an_error_survives() -> None:
    machine = {"type": failures._CARRIED, "kind": KINDS, "code": CAUSES}
    for key, words in machine.items():
        for word in words:
            assert redact_error({key: word}, {"A": word}) == {key: word}


@given(st.text(min_size=6).filter(worth_hiding), st.text(max_size=8), st.text(max_size=8))
def test_no_secret_is_left_in_the_text_of_an_error(value: str, before: str, after: str) -> None:
    described = failures.describe(InfraError(before + value + after, where=value, remedy=value, kind="crash"))
    cleaned = redact_error(described, {"": value})
    assert all(value not in str(cleaned[key]).replace("<>", "") for key in ("where", "remedy"))
    assert str(cleaned["what"]) == (before + value + after).replace(value, "<>")
