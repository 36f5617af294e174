"""What was proven of bytes is not proven again while they stay, and is as soon as anything that it depends on moves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.inspector import proofs
from harness.inspector.proofs import inspect_once, key_of
from harness.records.inspection import InspectionReport

COUNTED = {"bytes_read", "requests", "seconds"}


@pytest.fixture
def pair(exports: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of an NVFP4 export and its base, to be written to."""
    for name in ("nvfp4", "base"):
        shutil.copytree(exports / name, tmp_path / name)
    return tmp_path / "nvfp4", tmp_path / "base"


def said(report: InspectionReport) -> dict[str, Any]:
    return report.model_dump(exclude=COUNTED)


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checkpoints that were really inspected, in order."""
    real, calls = proofs.inspect_checkpoint, list[str]()

    def inspected(ref: Any, **asked: Any) -> InspectionReport:
        calls.append(str(ref))
        return real(ref, **asked)

    monkeypatch.setattr(proofs, "inspect_checkpoint", inspected)
    return calls


def test_the_same_bytes_are_proven_once_and_nothing_is_read_again(pair: tuple[Path, Path], proven: list[str]) -> None:
    model, base = pair
    first, second = (inspect_once(model, base=base) for _ in range(2))
    assert len(proven) == 1
    assert (first.requests > 0, second.requests, second.bytes_read) == (True, 0, 0)
    assert said(first) == said(second)


def test_a_byte_that_changes_is_found(pair: tuple[Path, Path], proven: list[str]) -> None:
    model, base = pair
    assert inspect_once(model, base=base).outcome == "clean"
    shutil.copytree(base, model, dirs_exist_ok=True)  # the export is the base's own bytes now
    inspect_once(model, base=base)
    shard = next((base / "transformer").glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    inspect_once(model, base=base)
    assert len(proven) == 3


def test_a_written_copy_of_the_same_bytes_is_hashed_and_not_proven(pair: tuple[Path, Path], proven: list[str]) -> None:
    model, base = pair
    first = inspect_once(model, base=base)
    for path in model.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
    assert said(inspect_once(model, base=base)) == said(first)
    os.utime(next((base / "transformer").glob("*.safetensors")))  # the base is known by its stamps alone
    inspect_once(model, base=base)
    assert len(proven) == 2


def test_another_question_is_another_proof(pair: tuple[Path, Path], proven: list[str]) -> None:
    model, base = pair
    inspect_once(model, base=base)
    printed = inspect_once(model, base=base, contracts=["sglang==0.5.12"])
    assert printed.contracts
    inspect_once(model)
    inspect_once(model, base=base, full=True)
    assert len(proven) == 4


def test_other_rules_make_no_use_of_it(
    pair: tuple[Path, Path], proven: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, base = pair
    inspect_once(model, base=base)
    monkeypatch.setattr(proofs, "rules_digest", lambda: "of another version")
    inspect_once(model, base=base)
    assert len(proven) == 2


def test_a_damaged_entry_is_none(pair: tuple[Path, Path], proven: list[str], own_cache: Path) -> None:
    model, base = pair
    first = inspect_once(model, base=base)
    (entry,) = (own_cache / "proofs").rglob("content-*.json")
    entry.write_text(entry.read_text()[:100])
    assert said(inspect_once(model, base=base)) == said(first)
    assert len(proven) == 2


def test_what_is_written_meanwhile_is_not_kept(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    model, base = pair
    real = proofs.inspect_checkpoint

    def slow(ref: Any, **asked: Any) -> InspectionReport:
        report = real(ref, **asked)
        (model / "transformer" / "config.json").touch()
        return report

    monkeypatch.setattr(proofs, "inspect_checkpoint", slow)
    inspect_once(model, base=base)
    assert not [path for path in (own_cache / "proofs").rglob("*") if path.suffix == ".json"]


def test_nothing_on_the_hub_is_kept(pair: tuple[Path, Path]) -> None:
    model, base = pair
    assert key_of(model, {"base": base}) is not None
    assert key_of("owner/name", {"base": base}) is None
    assert key_of(model, {"base": "owner/name@main"}) is None


def test_the_home_of_a_user_that_is_not_here_is_no_checkpoint() -> None:
    assert key_of("~nobody-has-this-name/model", {}) is None


def test_files_are_hashed_only_as_far_as_was_allowed(pair: tuple[Path, Path]) -> None:
    model, base = pair
    few = inspect_once(model, base=base, unread=10)
    assert not [name for name in few.digests if name.endswith(".safetensors")]
    assert any("files were not hashed" in line and "--full" in line for line in few.not_done)
    every = inspect_once(model, base=base)
    assert any(name.endswith(".safetensors") for name in every.digests)
    assert not any("not hashed" in line for line in every.not_done)
    # what is remembered by then costs no reading
    assert inspect_once(model, base=base, unread=10, contracts=["sglang==0.5.12"]).digests == every.digests
