"""Where something cannot be written, an accept says so before it begins, and no later command carries it out."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from harness.errors import InfraError
from harness.goldens import golden, journal
from harness.goldens.accept import accept
from harness.goldens.folder import FolderStore
from harness.goldens.journal import recover
from harness.goldens.pending import listed
from harness.goldens.workspace import Workspace


def read_only(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.EROFS, "Read-only file system")


def files(workspace: Workspace) -> list[Path]:
    """What a commit could hold."""
    hidden = {".quantgate", ".work"}
    return sorted(path for path in workspace.root.rglob("*") if path.is_file() and not hidden & set(path.parts))


def block_lock(workspace: Workspace) -> Path:
    """Where the store's lock file belongs is a folder: it cannot be opened, not even by root."""
    path = workspace.goldens / ".work" / "lock"
    (path / "x").mkdir(parents=True)
    return path


def block_goldens(workspace: Workspace) -> Path:
    path = workspace.goldens / "b200"
    path.parent.mkdir(parents=True)
    path.write_text("")
    return path


def block_extra(workspace: Workspace) -> Path:
    path = workspace.root / "cases"
    path.write_text("")
    return path


@pytest.mark.parametrize("block", [block_lock, block_goldens, block_extra])
def test_nothing_is_begun(
    block: Callable[[Workspace], Path], workspace: Workspace, left: Callable, limit_file: Callable
) -> None:
    left(limits=limit_file())
    blocked = block(workspace)
    before = files(workspace)
    lock = {workspace.root / "cases" / "checkpoints.lock.json": b"{}"}
    with pytest.raises(InfraError, match="nothing was changed") as caught:
        accept(workspace, "nvfp4", reason="r", author="Bob", extra=lock)
    assert (caught.value.kind, caught.value.exit_code) == ("disk", 18)
    assert str(blocked) in str(caught.value)
    assert files(workspace) == before
    with workspace.locked():
        assert recover(workspace) == ()
    assert len(listed(workspace)) == 1


def test_a_read_only_folder(workspace: Workspace, left: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    left()
    monkeypatch.setattr(golden.tempfile, "TemporaryFile", read_only)
    with pytest.raises(InfraError, match=r"accepted.json: Read-only file system; nothing was changed"):
        accept(workspace, "nvfp4", reason="r", author="Bob")
    monkeypatch.undo()
    with workspace.locked():
        assert recover(workspace) == ()
    assert FolderStore(workspace.goldens).cases() == ()


def test_what_fails_after_the_journal_is_said_to_be_begun(
    workspace: Workspace, left: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    left()
    monkeypatch.setattr(journal.FolderStore, "install", read_only)
    with pytest.raises(InfraError, match="begun, and finished by the next command: accept nvfp4: r"):
        accept(workspace, "nvfp4", reason="r", author="Bob")
    with workspace.locked(), pytest.raises(InfraError, match="begun, and finished"):
        recover(workspace)
    monkeypatch.undo()
    with workspace.locked():
        assert len(recover(workspace)) == 1
    assert len(FolderStore(workspace.goldens).find("b200", "nvfp4")) == 1
