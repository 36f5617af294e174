"""Which files are case files."""

from __future__ import annotations

import os

import pytest

from harness.errors import InvalidCaseError
from harness.project import case_files, case_files_below


def test_case_files_lie_at_any_depth_and_end_in_any_letters(tmp_path):
    wanted = ["a.yaml", "b.YML", "build/c.yaml", ".hidden/dist/d.Yaml", "venv/bin/activate.yaml"]
    for name in [*wanted, "lock.json", "e.yaml.orig", "f.txt"]:
        path = tmp_path / "cases" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert case_files(tmp_path) == sorted(tmp_path / "cases" / name for name in wanted)


def test_links_and_special_files_are_told_and_not_followed(tmp_path):
    cases, other = tmp_path / "cases", tmp_path / "other"
    cases.mkdir()
    other.mkdir()
    (other / "x.yaml").touch()
    (cases / "a.yaml").touch()
    (cases / "folder").symlink_to(other)
    (cases / "circle").symlink_to(cases)
    (cases / "file.yaml").symlink_to(other / "x.yaml")
    (cases / "nowhere.yml").symlink_to(other / "absent")
    os.mkfifo(cases / "pipe.yaml")
    found = case_files_below(cases)
    assert found.files == (cases / "a.yaml",)
    assert [text.partition(":")[0] for text in found.problems] == [
        "cases/circle", "cases/file.yaml", "cases/folder", "cases/nowhere.yml", "cases/pipe.yaml",
    ]  # fmt: skip
    with pytest.raises(InvalidCaseError, match=r"cases/folder: a link to a folder"):
        case_files(tmp_path)


@pytest.mark.parametrize("name", [b"a\xff.yaml", b"a\n::error::x.yaml", "a\u202eb.yaml".encode(), b"f\xff/a.yaml"])
def test_a_name_that_no_report_can_show_is_told(tmp_path, name):
    path = tmp_path / "cases" / os.fsdecode(name)
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(InvalidCaseError, match="not all characters of the name can be shown; rename it") as caught:
        case_files(tmp_path)
    assert str(caught.value).splitlines()[0].isprintable()
    assert str(caught.value).isascii()
