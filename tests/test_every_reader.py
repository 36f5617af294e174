"""Faults of readers that an attack found, each with the input that showed it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from benchmarks.storm import samples
from harness.cli import app
from harness.definitions.loading import load_cases
from harness.definitions.runner import load_runners
from harness.definitions.yaml_tree import YamlError, read_text
from harness.engine.quantized.headers import read_config, read_headers
from harness.errors import CheckpointFaultError, GoldenError, InfraError, InvalidCaseError, QuantgateError
from harness.frames.clip import read_clip
from harness.frames.errors import ClipError
from harness.goldens.artifact import held_in
from harness.goldens.pending import read_candidate
from harness.inspector.content import document_digest
from harness.inspector.contracts.model import read_contract_file
from harness.judge.observation import read_observation
from harness.lane.github import _comments
from harness.project import Project
from harness.reading import MAX_FOREIGN_DEPTH, UnreadableError, check_safetensors, parse_foreign, parse_toml
from harness.report.history.store import open_history
from harness.text import MOST_PROBLEMS, problem_list

DEEP = b"[" * 3000 + b"]" * 3000


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    signal.alarm(20)  # a reader that blocks ends the test run instead of stopping it for ever
    yield
    signal.alarm(0)


def test_a_pipe_in_the_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "runners").mkdir()
    pipe = tmp_path / "runners/x.yaml"
    os.mkfifo(pipe)
    with pytest.raises(YamlError, match="not a regular file"):
        read_text(pipe)
    with pytest.raises(InvalidCaseError, match="not a regular file"):
        load_runners(tmp_path / "runners")
    with pytest.raises(InvalidCaseError, match="not a regular file"):
        load_cases([pipe], tmp_path)
    os.mkfifo(tmp_path / "candidate.json")
    with pytest.raises(GoldenError, match="not a regular file"):
        read_candidate(tmp_path)
    os.mkfifo(tmp_path / "pyproject.toml")
    with pytest.raises(InvalidCaseError, match="not a regular file"):
        Project.of_repository(tmp_path)
    os.mkfifo(tmp_path / "clip.safetensors")
    for read, kind in ((read_clip, ClipError), (read_observation, GoldenError)):
        with pytest.raises(kind, match="not a regular file"):
            read(tmp_path / "clip.safetensors")  # type: ignore[operator]


def test_a_file_of_many_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "candidate.json"
    with path.open("wb") as file:
        file.truncate(1 << 36)
    with pytest.raises(GoldenError, match="larger than"):
        read_candidate(tmp_path)
    (tmp_path / "config.json").symlink_to(path)
    with pytest.raises(CheckpointFaultError, match="larger than"):
        read_config(tmp_path)


def test_deep_json_of_others_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(DEEP)
    with pytest.raises(CheckpointFaultError, match="nested deeper"):
        read_config(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_bytes(DEEP)
    with pytest.raises(CheckpointFaultError, match="nested deeper"):
        read_headers(tmp_path)
    depth = MAX_FOREIGN_DEPTH + 2
    assert document_digest("config.json", b'{"a":' * depth + b"1" + b"}" * depth), "the digest of its bytes"
    with pytest.raises(InfraError, match="no list of comments"):
        _comments(DEEP.decode())
    with pytest.raises(UnreadableError, match=r"nested too deep|not TOML"):
        parse_toml("a = " + DEEP.decode(), "x")


@pytest.mark.parametrize("body", ["{}", "[[{}]]", '[[{"user": null, "body": "b"}]]', "[1]", "x"])
def test_an_answer_of_gh_that_is_no_list_of_comments_is_one_sentence(body: str) -> None:
    if body == "{}":
        assert _comments(body) == []
        return
    with pytest.raises(InfraError, match="no list of comments"):
        _comments(body)


def test_json_of_others_is_read_as_their_loaders_read_it() -> None:
    assert parse_foreign(b'{"a": NaN, "a": [1e999]}', "x") == {"a": [float("inf")]}
    assert parse_foreign('"\\ud800"', "x") == "\ud800"


def test_a_header_of_a_hundred_megabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    with path.open("wb") as file:
        file.write((100 << 20).to_bytes(8, "little") + b"{")
        file.truncate(101 << 20)
    with pytest.raises(UnreadableError, match="longer than"):
        check_safetensors(path)
    with pytest.raises(ClipError, match="longer than"):
        read_clip(path)
    with pytest.raises(GoldenError, match="longer than"):
        read_observation(path)
    (tmp_path / "m").mkdir()
    path.rename(tmp_path / "m/diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointFaultError, match="header"):
        read_headers(tmp_path / "m")


def test_an_observation_with_fields_of_others_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "probes.safetensors"
    path.write_bytes(
        save({"a": np.zeros(4, np.uint8)}, metadata={"quantgate.probe": '{"probes": [], "\\u007fmpli": 1}'})
    )
    with pytest.raises(GoldenError) as refused:
        read_observation(path)
    assert refused.value.message.isprintable()


def test_a_clip_that_states_a_trillion_frames_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    metadata = {"quantgate.clip": "1", "codec": "webp", "shape": f"[{1 << 40}, 8, 8, 3]", "sha256": "0" * 64}
    path.write_bytes(save({"frame.0": np.zeros(4, np.uint8)}, metadata=metadata))
    with pytest.raises(ClipError, match="states 1099511627776 frames"):
        read_clip(path)
    metadata["shape"] = DEEP.decode()
    path.write_bytes(save({"frame.0": np.zeros(4, np.uint8)}, metadata=metadata))
    with pytest.raises(ClipError, match="nested deeper"):
        read_clip(path)


def test_a_history_with_text_that_is_not_utf8_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    with open_history(path) as history:
        history.add([samples.record()])
    with contextlib.closing(sqlite3.connect(path)) as damaged:
        damaged.execute("UPDATE records SET runner = CAST(x'ff84' AS TEXT)")
        damaged.commit()
    with (
        pytest.raises(QuantgateError, match="not a history, or a damaged one"),
        open_history(path) as history,
    ):
        history.cases()


def test_a_contract_file_goes_through_the_bounded_reader(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    aliases = "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 12))
    path.write_text("b0: &b0 [x]\n" + aliases)
    with pytest.raises(QuantgateError, match="malformed"):
        read_contract_file(path)


@pytest.mark.parametrize("text", ["a: 1\n" * 3000, f"{'k' * 9000}: 1\n", f"runtime: {'x' * 9000}\nrules: 3\n"])
def test_a_contract_file_with_thousands_of_problems_is_one_short_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(QuantgateError, match="malformed") as error:
        read_contract_file(path)
    assert len(str(error.value)) < 4000
    assert "\n" not in error.value.message


def test_a_file_with_thousands_of_problems_lists_some() -> None:
    text = problem_list(f"a.yaml:{n}: \x1b[31mwrong {'x' * 3000}" for n in range(10_000))
    assert len(text.splitlines()) == MOST_PROBLEMS + 1
    assert "and 9950 more" in text
    assert "\x1b" not in text
    assert len(text) < 60_000


def test_an_error_on_the_terminal_has_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise InvalidCaseError("\x1b]0;owned\x07\u202ename", place="a.yaml:1", remedy="next\x1b[2J")

    monkeypatch.setattr(app, "app", refuse)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    with pytest.raises(SystemExit):
        app.main()
    assert capsys.readouterr().err == "error: a.yaml:1: name\n  next: next\n"


def test_a_damaged_archive_is_one_sentence_without_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run/nvfp4/candidate.json", "secret bytes " * 1000)
    data = bytearray(path.read_bytes())
    data[26:28] = (9000).to_bytes(2, "little")  # the length of the name in the header of the entry
    path.write_bytes(data)
    with pytest.raises(GoldenError, match="the archive is damaged") as caught:
        held_in(path)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 400
