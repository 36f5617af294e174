"""The storm sees each kind of fault that it looks for; slow tests fuzz all readers and kill all writers."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.storm import __main__ as storm
from benchmarks.storm import artifacts, fields, inputs, kills, needles
from benchmarks.storm.trial import NEEDLE, run_trial
from harness import redaction
from harness.errors import InvalidCaseError
from harness.report import markdown


def only(monkeypatch: pytest.MonkeyPatch, read: Callable[[Path, Path], object], content: bytes = b"{}") -> None:
    monkeypatch.setattr(inputs, "READERS", (inputs.Reader("planted", "x.json", lambda: content, read),))


def failures(kind: str, count: int) -> list[str]:
    attack = storm.KINDS[kind][0]
    return [row.failure for n in range(count) if (row := run_trial(kind, attack, 7, n, seconds=5)).failure]


def test_a_reader_that_breaks_a_promise_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_folder: Path, path: Path) -> None:
        raise InvalidCaseError("no", place=str(path))

    def quotes(_folder: Path, path: Path) -> None:
        raise InvalidCaseError(f"holds {NEEDLE}")

    def raises(_folder: Path, path: Path) -> None:
        raise KeyError("x")

    def writes(_folder: Path, path: Path) -> None:
        if path.is_file():
            path.write_text("other")

    only(monkeypatch, refuses)
    assert failures("inputs", 20) == []
    for read, seen in ((quotes, "quotes"), (raises, "KeyError"), (writes, "changed the file")):
        only(monkeypatch, read)
        assert any(seen in text for text in failures("inputs", 20))


def test_a_reader_that_waits_for_ever_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, lambda _folder, _path: time.sleep(60))
    row = run_trial("inputs", inputs.attack, 1, 1, seconds=0.2)
    assert "no end" in row.failure


def test_a_writer_that_tears_its_file_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path) -> None:
        with (folder / "x").open("w") as file:
            file.write("ne")
            file.flush()
            (folder / "y").open("w").close()
            file.write("w")

    def check(folder: Path) -> str:
        return (folder / "x").read_text()

    torn = kills.Writer("planted", lambda folder: (folder / "x").write_text("old"), write, check)
    monkeypatch.setattr(kills, "WRITERS", (torn,))
    assert any("torn" in text for text in failures("kills", 60))
    sound = torn._replace(write=lambda folder: (folder / "z").write_text("x"))
    monkeypatch.setattr(kills, "WRITERS", (sound,))
    assert failures("kills", 10) == []


def test_text_that_a_surface_obeys_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fields.page_fault("<p>text</p><script src='page.js'></script>") == ""
    assert "handler" in fields.page_fault("<p onclick='x()'>text</p>")
    assert "leads to" in fields.page_fault("<a href=' javascript:x'>text</a>")
    assert "U+202E" in fields.page_fault("<p>\u202e</p>")
    monkeypatch.setattr(fields, "harmless", lambda text: text)
    assert "command" in fields.terminal_fault("a\n::error::x")
    assert "mentioned" in fields.markdown_fault("hello @octocat")
    assert fields.markdown_fault("hello `@octocat`") == ""
    monkeypatch.setattr(markdown, "neutral", lambda text, limit=400: text)
    assert failures("fields", 120) != []


def test_a_secret_in_an_output_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failures("needles", 12) == []
    monkeypatch.setattr(redaction.Redactor, "values", lambda self, text: text)
    assert any("secret" in text for text in failures("needles", 12))


def test_a_green_lane_or_an_accepted_lie_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert failures("artifacts", 12) == []
    monkeypatch.setattr("harness.lane.merge._misfit", lambda *_: "")
    assert "green" in {text for n in range(12) if (text := artifacts._shards(random.Random(n), tmp_path / str(n))[1])}


def test_trials_are_mixed_repeatable_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = storm.trials(5000)
    assert len(planned) >= 5000
    assert {kind for kind, _ in planned[:100]} == set(storm.KINDS)
    file = tmp_path / "kept.jsonl"
    arguments = ["--only", "inputs", "--workers", "1", "--resume", str(file), "--trials"]
    assert storm.main([*arguments, "6"]) == 0
    first = file.read_text()
    assert storm.main([*arguments, "9"]) == 0
    assert file.read_text().startswith(first)
    assert len(file.read_text().splitlines()) == 9
    assert "9 of 9 trials" in capsys.readouterr().out
    row = json.loads(first.splitlines()[0])
    again = run_trial("inputs", inputs.attack, 1, 0)
    assert [1, *again] == row


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"), [("inputs", 1500), ("kills", 150), ("needles", 150), ("artifacts", 150), ("fields", 60)]
)
def test_nothing_fails_in_a_storm(kind: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    code = storm.main(["--only", kind, "--trials", str(count), "--seed", "2", "--workers", "2"])
    shown = capsys.readouterr().out
    with capsys.disabled():
        print(shown)
    assert code == 0, shown
    assert f"{count} of {count} trials" in shown


@pytest.mark.slow
def test_every_reader_and_every_writer_is_attacked() -> None:
    def drawn(kind: str, count: int) -> set[str]:
        attack = storm.KINDS[kind][0]
        return {run_trial(kind, attack, 3, n).message.partition(":")[0] for n in range(count)}

    assert drawn("inputs", 600) == {reader.name for reader in inputs.READERS}
    assert drawn("kills", 120) == {writer.name for writer in kills.WRITERS}


def test_forms_of_a_secret_are_made_without_the_code_under_test() -> None:
    assert needles.FORMS["json in json"]('a"b') == 'a\\\\\\"b'
