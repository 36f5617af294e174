"""The log of an engine on disk holds no secret, however it is printed and cut, and its size is bounded."""

from __future__ import annotations

import base64
import json
import os
import resource
import urllib.parse
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.engine import log as engine_log
from harness.engine.log import LINE_BYTES, LogRedactor, RedactedLog

PLAIN = {"A": "abcabc", "B": "abcabcabd", "C": "dadada"}
TEXT = st.lists(
    st.sampled_from(["abcabc", "abcabcabd", "dadada", "a", "ab", "abc", "d", "x", "\n", "\r"]), max_size=12
).map("".join)
CERTIFICATE = "-----BEGIN CERT-----\nMIIBxTCCAWug\nAwIBAgIUab==\n-----END CERT-----"
PRIVATE = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSj\n-----END PRIVATE KEY-----\n"


def streamed(chunks: list[bytes], secrets: dict[str, str]) -> bytes:
    redactor = LogRedactor(secrets)
    return b"".join(map(redactor.feed, chunks)) + redactor.finish()


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(TEXT, st.lists(st.integers(0, 90), max_size=6))
@example("abc\rabc\n", [4])
def test_no_cut_lets_a_secret_through(text: str, cuts: list[int]) -> None:
    data = text.encode()
    places = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    shown = streamed([data[start:end] for start, end in pairwise(places)], PLAIN)
    assert shown == streamed([data], PLAIN)
    bare = shown.replace(b"<A>", b"|").replace(b"<B>", b"|").replace(b"<C>", b"|")
    assert not any(value.encode() in bare for value in PLAIN.values())


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("printed", "secret"),
    [
        ("token is hf_abcdefghijklmnopqrstuv here\n", "hf_abcdefghijklmnopqrstuv"),
        ("GET https://user:hunter2hunter2@host/x\n", "hunter2hunter2"),
        ("password: correct-horse\n", "correct-horse"),
        ("x\r\x1b[Kapi_key='abcdef0123'\r", "abcdef0123"),
        (PRIVATE + "after\n", "AQEFAASCBKcwggSj"),
    ],
)
def test_tokens_of_known_shapes_do_not_reach_the_disk(printed: str, secret: str, size: int) -> None:
    shown = streamed(cut(f"before\n{printed}".encode(), size), {}).decode()
    assert secret not in shown
    assert shown.startswith("before\n")
    assert "after" in shown or "after" not in printed


@pytest.mark.parametrize("size", [1, 5, 64, 5000])
def test_a_value_of_several_lines_is_replaced_in_every_form(size: int) -> None:
    forms = [
        CERTIFICATE,
        json.dumps(CERTIFICATE),
        repr(CERTIFICATE),
        urllib.parse.quote(CERTIFICATE),
        base64.b64encode(CERTIFICATE.encode()).decode(),
        CERTIFICATE.encode().hex(),
        CERTIFICATE.replace("\n", "\n  "),
    ]
    for form in forms:
        shown = streamed(cut(f"a\nkey={form} end\nz\n".encode(), size), {"CERT": CERTIFICATE}).decode()
        assert "MIIBxTCCAWug" not in shown
        assert "AwIBAgIUab" not in shown
        assert form not in shown
        assert shown.startswith("a\n")
        assert shown.endswith("end\nz\n"), "a healthy line stays"


def test_the_beginning_of_a_value_is_hidden_if_the_engine_dies_while_it_prints_it() -> None:
    assert streamed([b"hello hunter2-va"], {"KEY": "hunter2-value"}) == b"hello <KEY>"
    assert streamed([b"hello hum"], {"KEY": "hunter2-value"}) == b"hello hum"


def test_a_private_key_that_never_ends_does_not_silence_the_log() -> None:
    printed = b"-----BEGIN RSA PRIVATE KEY-----\n" + b"MIIEvQIBADANBgkqhkiG9w0B\n" * 20_000 + b"the crash\n"
    shown = streamed(cut(printed, 4096), {})
    assert shown.endswith(b"the crash\n")


@pytest.mark.parametrize("shift", [*range(-30, 1), 4000, 4090])
def test_a_value_across_the_end_of_the_kept_part_of_a_line_is_not_shown_by_half(shift: int) -> None:
    value = "hunter2-hunter3-hunter4"
    for end in (LINE_BYTES, LINE_BYTES + engine_log.OVERLAP):
        line = b"x" * (end + shift) + value.encode() + b"y" * 50_000 + b"\nlast\n"
        for size in (777, 1 << 16):
            shown = streamed(cut(line, size), {"KEY": value})
            assert b"hunt" not in shown
            assert shown.endswith(b"more bytes)\nlast\n")
            assert len(shown) < LINE_BYTES + 200


def test_300_mb_without_a_newline_cost_no_more_disk_and_memory_than_1_mb(tmp_path: Path) -> None:
    sizes = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for megabytes in (1, 300):
        path = tmp_path / f"{megabytes}.log"
        writer = RedactedLog(path, {"KEY": "hunter2-value"})
        block = b"\xffpassword:x" * 100_000
        for _ in range(megabytes):
            os.write(writer.writer, block)
        os.close(writer.writer)
        writer.close()
        sizes.append(path.stat().st_size)
    assert max(sizes) < LINE_BYTES + 200
    assert sizes[1] - sizes[0] < 10, "only the count of dropped bytes is longer"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


def test_a_log_that_grows_for_ever_keeps_its_beginning_and_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("MAX_BYTES", 100_000), ("HEAD_BYTES", 10_000), ("TAIL_BYTES", 20_000)):
        monkeypatch.setattr(engine_log, name, size)
    path = tmp_path / "engine.log"
    writer = RedactedLog(path, {})
    largest = 0
    for number in range(20_000):
        os.write(writer.writer, b"line %d of many that an engine prints\n" % number)
        if number % 500 == 0:
            writer.settle()
            largest = max(largest, path.stat().st_size)
    os.close(writer.writer)
    writer.close()
    lines = path.read_bytes().splitlines()
    assert lines[0] == b"line 0 of many that an engine prints"
    assert lines[-1] == b"line 19999 of many that an engine prints"
    assert sum(b"bytes of this log were dropped" in line for line in lines) == 1
    assert max(largest, path.stat().st_size) < 200_000


def test_text_of_the_parent_goes_through_the_same_redactor(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    writer = RedactedLog(path, {"KEY": "hunter2-value"})
    os.write(writer.writer, b"half a line")
    writer.append("Traceback: hunter2-value password: correct-horse\n")
    os.close(writer.writer)
    writer.close()
    writer.append("later hunter2-value\n")
    assert path.read_text() == "half a lineTraceback: <KEY> password: <redacted>\nlater <KEY>\n"
