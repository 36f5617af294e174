"""Whatever lies in a file of ours, reading it ends in a value or in one sentence that does not quote it."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from harness.lane.durations import History, read_history
from harness.lane.merge import join_junit
from harness.lane.plan import read_plan
from harness.reading import MAX_DEPTH, UnreadableError, parse_json, parse_xml, read_bytes, sentence
from harness.records.case_record import CaseRecord
from harness.text import clean

SECRET = "s3cr3t-value-that-nobody-may-quote"  # noqa: S105 - a needle
BAD = {
    "not UTF-8": b'{"a": "\xff"}',
    "cut": b'{"a": "' + SECRET.encode(),
    "deep": b"[" * 100_000,
    "deep but whole": b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2),
    "NaN": b'{"a": NaN}',
    "infinite": b'{"a": 1e999}',
    "long number": b'{"a": ' + b"9" * 10_000 + b"}",
    "large number": b'{"a": ' + b"9" * 400 + b"}",
    "twice": b'{"a": 1, "a": 2}',
    "half a pair": rb'{"a": "\ud800"}',
    "wrong field": b'{"%s": 1}' % SECRET.encode()[:0] + b'{"run": ["' + SECRET.encode() + b'"]}',
    "empty": b"",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_one_sentence_without_its_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(BAD[name])
    with pytest.raises(UnreadableError) as caught:
        CaseRecord.read(path)
    assert str(path) in caught.value.place
    assert "\n" not in caught.value.message
    assert SECRET not in str(caught.value)
    assert len(caught.value.message) < 600


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for read in (lambda: parse_json(data, "x"), lambda: parse_xml(data, "x")):
        with contextlib.suppress(UnreadableError):
            read()


def test_sound_json_is_read(tmp_path: Path) -> None:
    deep: object = 1.5
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert parse_json(str(deep), "x") == deep
    assert parse_json(b'\xef\xbb\xbf{"a": "\xc3\xa9"}', "x") == {"a": "é"}


def test_pipes_and_large_files_are_refused_without_reading_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableError, match="not a regular file"):
        read_bytes(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnreadableError, match="larger than"):
        read_bytes(tmp_path / "large")


@pytest.mark.parametrize(
    "data",
    [b"<testsuites>" + b"<a>" * 2000, "<testsuites/>".encode("utf-16"), b"<testsuites name='&#1;'/>",
     b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", b"", b"<a>"],
)  # fmt: skip
def test_bad_junit_is_a_problem_and_the_rest_is_joined(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "junit-bad.xml").write_bytes(data)
    (tmp_path / "junit-good.xml").write_text('<testsuite name="s"><testcase classname="c" name="n"/></testsuite>')
    out = tmp_path / "out.xml"
    files = [tmp_path / "junit-bad.xml", tmp_path / "junit-good.xml"]
    problems = join_junit(files, [("cases/x.yaml::x", "broke \x01\u202e here")], out)
    assert len(problems) == 1
    assert "junit-bad.xml" in problems[0]
    joined = parse_xml(out.read_bytes(), "out")
    assert [case.get("name") for case in joined.iter("testcase")] == ["n", "x"]


@pytest.mark.parametrize("data", [b"\xff", b'{"runners": {"cpu": {"a": {"seconds": [1e308]}}}}', b"[" * 5000])
def test_a_bad_plan_or_history_is_told_and_stays(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(data)
    for read in (lambda: read_plan(path), lambda: read_history([path])):
        with pytest.raises(Exception, match="not a") as caught:
            read()
        assert caught.value.exit_code == 17  # type: ignore[attr-defined]
    assert path.read_bytes() == data


def test_a_record_with_impossible_times_does_not_reach_the_history() -> None:
    base = {
        "run": "r", "case": "a", "node": "n", "source": "s", "runner": "cpu", "started": "2026-01-01", "request": {},
        "verdict": {"outcome": "pass", "cause": "none", "summary": ""},
        "generation": {
            "clip": "c", "clip_sha256": "0", "shape": [1, 1, 1, 3], "trace": {"steps": []}, "receipts": {"modules": []},
            "float_stats": {"nan": 0, "inf": 0, "minimum": 0, "maximum": 1},
        },
    }  # fmt: skip
    bad, good = (CaseRecord.model_validate({**base, "timing": {"total": total}}) for total in (1e308, 4.0))
    assert History().with_records([bad]) == History()
    assert History().with_records([bad, good]).runners["cpu"]["a"].seconds == (4.0,)


def test_nothing_invisible_is_left_in_cleaned_text() -> None:
    every = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    left = {sign for sign in clean(every) if unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp")}
    assert left == {"\t", "\n"}


class _One(BaseModel):
    kind: Literal["one"]


class _Two(BaseModel):
    kind: Literal["two"]


class _Both(BaseModel):
    operation: _One | _Two = Field(discriminator="kind")


def test_a_kind_that_is_none_is_not_quoted() -> None:
    with pytest.raises(ValidationError) as refused:
        _Both.model_validate({"operation": {"kind": "hf_secret"}})
    assert "hf_secret" in str(refused.value), "pydantic quotes it"
    assert sentence(refused.value) == "operation: its kind is none of those that are known"
