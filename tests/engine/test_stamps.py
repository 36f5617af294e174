"""A file that was replaced is seen, however alike the new one is; links are followed and end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.engine.stamps import changed_files, require_unchanged, stamps, stamps_of
from harness.errors import InfraError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "vae").mkdir(parents=True)
    (made / "vae" / "weights").write_bytes(b"aaaa")
    return made


def _written(file: Path) -> None:
    file.write_bytes(b"aaaab")


def _replaced(file: Path) -> None:
    """Another file of the same size and the same modification time."""
    state = file.stat()
    other = file.with_name("other")
    other.write_bytes(b"bbbb")
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.replace(file)


def _written_in_place(file: Path) -> None:
    """The same size, inode and modification time: only the kernel's change time tells."""
    state = file.stat()
    with file.open("r+b") as out:
        out.write(b"bbbb")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def _gone(file: Path) -> None:
    file.unlink()


def _one_more(file: Path) -> None:
    (file.parent / "more").write_bytes(b"")


@pytest.mark.parametrize("act", [_written, _replaced, _written_in_place, _gone, _one_more])
@pytest.mark.parametrize("linked", [False, True])
def test_every_change_is_seen(folder: Path, linked: bool, act: Callable[[Path], None]) -> None:
    file = folder / "vae" / "weights"
    if linked:
        (folder / "vae").rename(folder.parent / "elsewhere")
        (folder / "vae").symlink_to(folder.parent / "elsewhere")
    before = stamps_of({"model": folder})
    assert before == stamps_of({"model": folder})
    require_unchanged(before, stamps_of({"model": folder}), "case")
    act(file)
    after = stamps_of({"model": folder})
    assert [Path(path).parent.name for path in changed_files(before, after)] == ["vae"]
    with pytest.raises(InfraError, match=r"changed during the run: .*vae") as caught:
        require_unchanged(before, after, "case")
    assert caught.value.kind == "disk"


def test_another_folder_in_the_same_role_is_a_change(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    assert changed_files(stamps_of({"model": folder}), stamps_of({"model": tmp_path / "b"}))


def test_a_cycle_ends_and_what_is_hidden_or_dangling_is_passed_over(folder: Path) -> None:
    (folder / "vae" / "up").symlink_to(folder)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_bytes(b"")
    (folder / "nowhere").symlink_to(folder / "missing")
    assert [Path(stamp.path).name for stamp in stamps(folder)] == ["weights"]


def test_two_links_to_one_folder_are_both_followed(folder: Path) -> None:
    (folder / "again").symlink_to(folder / "vae")
    assert [Path(stamp.path).parent.name for stamp in stamps(folder)] == ["again", "vae"]
