"""Patches of case files: git takes them, the case reads as meant, and comments stay."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from harness.errors import InvalidCaseError
from harness.trial.trying import patch

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["tiny.yaml", "wan22.yaml"])
def test_git_applies_the_patch_and_nothing_else_changes(tmp_path: Path, name: str) -> None:
    (tmp_path / "cases").mkdir()
    file = tmp_path / "cases" / name
    shutil.copy(REPOSITORY / "cases" / name, file)
    before = yaml.safe_load(file.read_text())
    case = next(iter(reversed(before["cases"])))
    changes = {"model": {"path": "./other"}, "quantization": {"transformer": "nvfp4", "transformer_2": "nvfp4"}}
    text = patch(file, case, {**changes, "loader.nibble_order": "high_first"}, tmp_path)
    comments = file.read_text().count("#")
    subprocess.run(["git", "apply", "-"], input=text, text=True, cwd=tmp_path, check=True)
    after = yaml.safe_load(file.read_text())
    wanted = {**before["cases"][case], **changes}
    wanted["loader"] = {**before["cases"][case].get("loader", {}), "nibble_order": "high_first"}
    assert after["cases"][case] == wanted
    assert {key: value for key, value in after["cases"].items() if key != case} == {
        key: value for key, value in before["cases"].items() if key != case
    }
    assert after["defaults"] == before["defaults"]
    assert file.read_text().count("#") == comments
    changed = [line for line in text.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert len(changed) <= 2 * 3


def test_a_case_without_an_entry_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("cases:\n  one:\n    model: {path: ./a}\n")
    with pytest.raises(InvalidCaseError, match="no entry of its own"):
        patch(file, "one_from_a_matrix", {"model": {"path": "./b"}}, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cases:\n  one: {model: {path: \xff}}\n", "not UTF-8"),
        (b"cases: {one: {model: {path: ./a}}, one: {}}\n", "one"),
        (b"cases: [one]\n", "no entry of its own"),
        (b"x: " + b"[" * 3000, "nest"),
    ],
    ids=["bytes", "a key twice", "a list", "too deep"],
)
def test_a_file_that_was_damaged_during_the_trial_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(InvalidCaseError, match=message) as error:
        patch(file, "one", {"model": {"path": "./b"}}, tmp_path)
    assert "x.yaml" in error.value.place
    assert file.read_bytes() == content
