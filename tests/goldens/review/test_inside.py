"""What is written and deleted lies in the project: not behind a link, and not where a journal of others points."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import GoldenError
from harness.goldens.accept import accept
from harness.goldens.folder import FolderStore
from harness.goldens.golden import copy_private
from harness.goldens.journal import recover
from harness.goldens.workspace import Workspace
from harness.inside import read_inside, remove_inside, require_inside, write_inside

Left = Callable[..., Path]


def _journal(workspace: Workspace, operation: dict[str, object]) -> Path:
    """A journal that somebody else wrote, with a staged file that it would put somewhere."""
    folder = workspace.transactions / "planted"
    folder.mkdir(parents=True)
    (folder / "00").write_bytes(b"planted")
    (folder / "journal.json").write_text(json.dumps({"message": "planted", "operations": [operation]}))
    return folder


@pytest.mark.parametrize(
    "target",
    [
        "../outside.txt",
        "goldens/../../outside.txt",
        "{tmp}/outside.txt",
        "conftest.py",
        ".git/hooks/pre-commit",
        ".github/workflows/x.yml",
        "link/outside.txt",
        "goldens/link/outside.txt",
        "",
    ],
)
def test_a_planted_journal_writes_nothing(workspace: Workspace, tmp_path: Path, target: str) -> None:
    (workspace.root / "goldens").mkdir(parents=True)
    for place in ("link", "goldens/link"):
        (workspace.root / place).symlink_to(tmp_path)
    after = "f57a8f9a0a6d3e1d8a7ef4c6d2cbb0e9c0de8c0f9c0ed0d2bb0a8a3f2a4d4bb2"
    target = target.replace("{tmp}", str(tmp_path))
    operation = {"kind": "write", "target": target, "staged": "00", "before": None, "after": after}
    folder = _journal(workspace, operation)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with workspace.locked(), pytest.raises(GoldenError, match=r"journal was not written by a command") as refused:
        recover(workspace)
    assert str(folder) in refused.value.remedy
    left = {str(workspace.state / name) for name in (".gitignore", "review.lock")}
    assert sorted(set(map(str, tmp_path.rglob("*"))) - left) == before


@pytest.mark.parametrize("folder", ["../victim", "goldens", ".quantgate", ".quantgate/pending", "victim"])
def test_a_planted_journal_deletes_nothing(workspace: Workspace, tmp_path: Path, folder: str) -> None:
    for victim in (tmp_path / "victim", workspace.root / "victim", workspace.goldens):
        victim.mkdir(parents=True, exist_ok=True)
        (victim / "kept").touch()
    _journal(workspace, {"kind": "discard", "folder": folder, "seal": "x"})
    with workspace.locked(), pytest.raises(GoldenError, match="journal was not written"):
        recover(workspace)
    assert (tmp_path / "victim/kept").exists()
    assert (workspace.goldens / "kept").exists()


def test_a_staged_name_cannot_leave_the_transaction(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    _journal(
        workspace,
        {"kind": "write", "target": "cases/x", "staged": "../../../../secret", "before": None, "after": "a" * 64},
    )
    with workspace.locked(), pytest.raises(GoldenError, match="cannot be finished"):
        recover(workspace)
    assert not (workspace.root / "cases/x").exists()


def test_a_staged_file_that_is_not_the_journals_is_not_installed(workspace: Workspace) -> None:
    _journal(workspace, {"kind": "write", "target": "cases/x", "staged": "00", "before": None, "after": "a" * 64})
    with workspace.locked(), pytest.raises(GoldenError, match="differs from its journal"):
        recover(workspace)
    assert not (workspace.root / "cases/x").exists()


@pytest.mark.parametrize("place", [".quantgate", ".quantgate/transactions", ".quantgate/pending"])
def test_a_clean_up_does_not_follow_a_link_of_the_checkout(workspace: Workspace, tmp_path: Path, place: str) -> None:
    victim = tmp_path / "victim"
    (victim / "transactions/photos").mkdir(parents=True)
    (victim / "photos").mkdir()
    link = workspace.root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(victim)
    with pytest.raises(GoldenError, match="is a link"), workspace.locked():
        recover(workspace)
    assert (victim / "photos").is_dir()
    assert (victim / "transactions/photos").is_dir()


@pytest.mark.parametrize("place", ["goldens", "goldens/b200", "goldens/b200/nvfp4", "goldens/.work", "thresholds"])
def test_accept_writes_through_no_link(
    workspace: Workspace, left: Left, limit_file: Callable, record: Callable, tmp_path: Path, place: str
) -> None:
    left()
    limits = workspace.limits("b200", "nvfp4")
    limits.parent.mkdir(parents=True)
    limit_file().write(limits)
    victim = tmp_path / "victim"
    if place == "thresholds":
        (workspace.root / place).rename(victim)
    else:
        (victim / "kept").mkdir(parents=True)
    link = workspace.root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(victim)
    before = sorted(map(str, victim.rglob("*")))
    with pytest.raises(GoldenError, match=r"is a link|leads|lies outside"):
        accept(workspace, "nvfp4", reason="r", author="a")
    assert sorted(map(str, victim.rglob("*"))) == before


def test_a_store_reads_through_no_link(workspace: Workspace, left: Left, tmp_path: Path) -> None:
    left()
    done = accept(workspace, "nvfp4", reason="r", author="a")
    store = FolderStore(workspace.goldens)
    clip = store.get("b200", "nvfp4", done.digest).open_part("clip")
    moved = tmp_path / "elsewhere"
    clip.rename(moved)
    clip.symlink_to(moved)
    with pytest.raises(GoldenError, match="is a link"):
        store.get("b200", "nvfp4", done.digest).open_part("clip")


def test_a_project_that_is_reached_through_a_link_works(workspace: Workspace, left: Left, tmp_path: Path) -> None:
    left()
    (tmp_path / "alias").symlink_to(workspace.root)
    accept(Workspace(tmp_path / "alias"), "nvfp4", reason="r", author="a")
    assert FolderStore(workspace.goldens).index("b200", "nvfp4").goldens


def test_a_writer_that_damages_its_copy_leaves_the_golden_alone(tmp_path: Path) -> None:
    golden, copy = tmp_path / "golden", tmp_path / "run"
    golden.write_bytes(b"golden bytes")
    copy.symlink_to(golden)  # what a program left in its place is replaced, not written through
    copy_private(golden, copy)
    assert copy.read_bytes() == b"golden bytes"
    assert not copy.is_symlink()
    assert copy.stat().st_ino != golden.stat().st_ino
    with copy.open("r+b") as file:
        file.write(b"damaged")
    assert golden.read_bytes() == b"golden bytes"


def test_descriptors_see_an_exchange_that_a_check_by_name_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder becomes a link after it was looked at: the descriptor still is the folder that was looked at."""
    root, victim = tmp_path / "root", tmp_path / "victim"
    (root / "a").mkdir(parents=True)
    victim.mkdir()
    original = os.open

    def exchange(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        handle = original(path, flags, mode, dir_fd=dir_fd)
        if path == "a":
            (root / "a").rename(root / "b")
            (root / "a").symlink_to(victim)
        return handle

    monkeypatch.setattr(os, "open", exchange)
    write_inside(root, "a/file", b"x")
    assert list(victim.iterdir()) == []
    assert (root / "b/file").read_bytes() == b"x"


def test_inside_reads_writes_and_removes_plain_files_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write_inside(root, "a/b/c", b"1")
    write_inside(root, "a/b/c", b"2")
    assert read_inside(root, "a/b/c") == b"2"
    assert [path.name for path in (root / "a/b").iterdir()] == ["c"]
    remove_inside(root, "a/b/c")
    remove_inside(root, "a/b/c")
    assert read_inside(root, "a/b/c") is None
    assert read_inside(root, "no/such/folder") is None
    (tmp_path / "secret").write_bytes(b"s")
    (root / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(root / "fifo")
    with pytest.raises(GoldenError, match="is a link"):
        read_inside(root, "link")
    with pytest.raises(GoldenError, match="no regular file"):
        read_inside(root, "fifo")
    write_inside(root, "link", b"own")
    assert (tmp_path / "secret").read_bytes() == b"s"
    assert require_inside(root, root / "a" / ".." / "a" / "x") == "a/x"
    with pytest.raises(GoldenError, match="outside"):
        require_inside(root, root / ".." / "secret")
