"""Accepting from a downloaded CI artifact: folder or zip, and none of the ways in which one can lie."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import GoldenError
from harness.frames.clip import read_clip
from harness.goldens import artifact
from harness.goldens.accept import accept
from harness.goldens.folder import FolderStore
from harness.goldens.pending import leave, listed
from harness.goldens.refusing import Allow
from harness.goldens.workspace import Workspace

Write = dict[str, bytes]


@pytest.fixture
def ci(tmp_path: Path) -> Workspace:
    """The checkout of the CI job, whose pending candidates and runs are uploaded."""
    return Workspace(tmp_path / "ci")


@pytest.fixture
def produced(ci: Workspace, record: Callable, output: Callable) -> Callable[..., Path]:
    """Leave a candidate on the CI machine; returns the folder that is uploaded."""

    def build(fill: int = 1, **fields: Any) -> Path:
        made = record(**fields)
        leave(ci, made, output(made, fill))
        return ci.pending_root

    return build


def entries(folder: Path) -> Write:
    """Name and bytes of every file, as an archive has them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def pack(target: Path, files: Write) -> Path:
    """A zip of these files."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target


def accepted(workspace: Workspace, source: Path, case: str = "nvfp4", **options: Any) -> str:
    """Accept from an artifact that holds no report."""
    options.setdefault("allow", Allow(unseen=True))
    return accept(workspace, case, reason="r", author="Bob", source=source, **options).digest


def refused(workspace: Workspace, source: Path, match: str, case: str = "nvfp4", **options: Any) -> None:
    """Accepting fails with this message, and changes nothing."""
    with pytest.raises(GoldenError, match=match):
        accepted(workspace, source, case, **options)
    assert FolderStore(workspace.goldens).cases() == ()
    assert not workspace.transactions.exists() or list(workspace.transactions.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_a_b200_produced_is_accepted_without_one(
    workspace: Workspace, produced: Callable, tmp_path: Path, kind: str
) -> None:
    folder = produced()
    source = folder if kind == "folder" else pack(tmp_path / "artifact.zip", entries(folder))
    before = entries(folder)
    digest = accepted(workspace, source)
    (golden,) = FolderStore(workspace.goldens).find("b200", "nvfp4")
    assert golden.digest == digest
    assert golden.verify() == ()
    assert golden.manifest.identity.hardware == {"device": "NVIDIA B200"}
    assert entries(folder) == before, "an artifact is only read"


def test_uploaded_run_is_an_artifact(workspace: Workspace, ci: Workspace, record: Callable, output: Callable) -> None:
    made = record()
    files = output(made)
    folder = files["clip"].parent
    leave(ci, made, files, run_folder=folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "candidate.json",
        "clip.safetensors",
        "record.json",
        "trace.json",
    ]
    assert accepted(workspace, folder)


def test_same_candidate_twice_in_an_artifact_is_one(workspace: Workspace, produced: Callable, tmp_path: Path) -> None:
    files = entries(produced())
    twice = {f"{top}/{name}": data for top in ("runs", "pending") for name, data in files.items()}
    assert accepted(workspace, pack(tmp_path / "a.zip", twice))


def test_accepting_from_an_artifact_clears_the_same_pending_candidate(
    workspace: Workspace, record: Callable, output: Callable
) -> None:
    made = record()
    files = output(made)
    folder = files["clip"].parent
    leave(workspace, made, files, run_folder=folder)
    accepted(workspace, folder)
    assert listed(workspace) == ()


def test_other_pending_candidate_survives_an_accept_from_an_artifact(
    workspace: Workspace, produced: Callable, left: Callable
) -> None:
    left(9, run="mine")
    accepted(workspace, produced(1))
    (item,) = listed(workspace)
    assert item.candidate is not None
    assert item.candidate.provenance.run == "mine"


def test_artifact_of_another_case_or_runner(workspace: Workspace, produced: Callable, tmp_path: Path) -> None:
    source = pack(tmp_path / "a.zip", entries(produced()))
    refused(workspace, source, "holds no candidate of other .it holds: b200/nvfp4", case="other")
    refused(workspace, source, "holds no candidate of h200/nvfp4 .it holds: b200/nvfp4", runner="h200")
    refused(workspace, produced(), "holds no candidate of h200/nvfp4", runner="h200")


def test_artifact_of_several_runners_needs_a_name(workspace: Workspace, produced: Callable, tmp_path: Path) -> None:
    produced()
    source = pack(tmp_path / "a.zip", entries(produced(2, runner="h200")))
    refused(workspace, source, "holds 2 candidates of nvfp4")
    accepted(workspace, source, runner="h200")
    assert FolderStore(workspace.goldens).cases() == (("h200", "nvfp4"),)


@pytest.mark.parametrize("part", ["clip.safetensors", "trace.json", "record.json"])
@pytest.mark.parametrize("how", ["tampered", "truncated", "longer", "missing"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_damaged_part_is_named(
    workspace: Workspace, produced: Callable, tmp_path: Path, part: str, how: str, kind: str
) -> None:
    folder = produced()
    path = folder / "b200" / "nvfp4" / part
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({"tampered": data[:-1] + b"?", "truncated": data[:-1], "longer": data + b"x"}[how])
    source = folder if kind == "folder" else pack(tmp_path / "a.zip", entries(folder))
    message = {"tampered": "was changed", "truncated": "is truncated", "longer": "is too long", "missing": "is missing"}
    refused(workspace, source, f"part '{part.split('.')[0]}' {message[how]}")


@pytest.mark.parametrize(
    ("old", "new"),
    [("NVIDIA B200", "NVIDIA H200"), ('"run-1"', '"run-2"'), ('"sampling.seed": 0', '"sampling.seed": 1')],
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_candidate_that_was_edited_is_refused(
    workspace: Workspace, produced: Callable, tmp_path: Path, old: str, new: str, kind: str
) -> None:
    folder = produced()
    path = folder / "b200" / "nvfp4" / "candidate.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    source = folder if kind == "folder" else pack(tmp_path / "a.zip", entries(folder))
    refused(workspace, source, "changed since the run wrote it")


def test_candidate_whose_seal_was_made_anew_still_has_its_record(
    workspace: Workspace, produced: Callable, tmp_path: Path
) -> None:
    from harness.records.candidate import Candidate

    folder = produced()
    path = folder / "b200" / "nvfp4" / "candidate.json"
    body = json.loads(path.read_text())
    body["identity"]["hardware"] = {"device": "NVIDIA H200"}
    Candidate.sealed(**{**body, "seal": ""}).write(path)
    refused(workspace, folder, "record's identity is not the one")


def test_damaged_candidate_of_another_case_does_not_matter(
    workspace: Workspace, produced: Callable, tmp_path: Path
) -> None:
    produced()
    folder = produced(case="other")
    (folder / "b200" / "other" / "candidate.json").write_text("{")
    source = pack(tmp_path / "a.zip", entries(folder))
    refused(workspace, source, "not a candidate", case="other")
    assert accepted(workspace, source)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:\\evil", "a/../b"])
def test_entry_that_leaves_the_folder_is_refused(
    workspace: Workspace, produced: Callable, tmp_path: Path, name: str
) -> None:
    source = pack(tmp_path / "a.zip", {**entries(produced()), name: b"evil"})
    refused(workspace, source, "leaves the archive's folder")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("path", ["../../../evil", "/tmp/evil", "a/b"])  # noqa: S108 - a path that must be refused
def test_part_whose_path_leaves_the_folder_is_refused(
    workspace: Workspace, produced: Callable, tmp_path: Path, path: str
) -> None:
    files = entries(produced())
    body = json.loads(files["b200/nvfp4/candidate.json"])
    body["parts"]["trace"]["path"] = path
    files["b200/nvfp4/candidate.json"] = json.dumps(body).encode()
    refused(workspace, pack(tmp_path / "a.zip", files), "not a candidate")


def test_link_in_an_archive_is_not_followed(workspace: Workspace, produced: Callable, tmp_path: Path) -> None:
    files = entries(produced())
    data = files.pop("b200/nvfp4/clip.safetensors")
    secret = tmp_path / "secret"
    secret.write_bytes(data)
    source = pack(tmp_path / "a.zip", files)
    with zipfile.ZipFile(source, "a") as archive:
        link = zipfile.ZipInfo("b200/nvfp4/clip.safetensors")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(secret))
    refused(workspace, source, "part 'clip' is truncated")


def test_entry_that_is_there_twice_is_refused(workspace: Workspace, produced: Callable, tmp_path: Path) -> None:
    source = pack(tmp_path / "a.zip", entries(produced()))
    with zipfile.ZipFile(source, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("b200/nvfp4/clip.safetensors", b"other")
    refused(workspace, source, "is there twice")


def test_bomb_is_unpacked_no_further_than_its_part(
    workspace: Workspace, produced: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = entries(produced())
    size = len(files["b200/nvfp4/clip.safetensors"])
    files["b200/nvfp4/clip.safetensors"] = bytes(64 << 20)
    written: list[int] = []
    check = artifact.part_files

    def look(folder: Path, candidate: Any) -> dict[str, Path]:
        written.append((folder / "clip.safetensors").stat().st_size)
        return check(folder, candidate)

    monkeypatch.setattr(artifact, "part_files", look)
    refused(workspace, pack(tmp_path / "a.zip", files), "part 'clip' is too long")
    assert written == [size + 1]


def test_bounds(workspace: Workspace, produced: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pack(tmp_path / "a.zip", entries(produced()))
    monkeypatch.setattr(artifact, "MAX_TOTAL_BYTES", 1000)
    refused(workspace, source, "the bound is 1000")
    monkeypatch.setattr(artifact, "MAX_MANIFEST_BYTES", 100)
    refused(workspace, source, "larger than 100 bytes")
    monkeypatch.setattr(artifact, "MAX_ENTRIES", 2)
    refused(workspace, source, "4 entries, the bound is 2")


def test_no_archive_at_all(workspace: Workspace, tmp_path: Path) -> None:
    refused(workspace, tmp_path / "absent.zip", "no such artifact")
    text = tmp_path / "text.zip"
    text.write_text("hello")
    refused(workspace, text, "archive is damaged")
    refused(workspace, pack(tmp_path / "empty.zip", {}), "holds no candidate of nvfp4 .it holds: none")
    (tmp_path / "folder").mkdir()
    refused(workspace, tmp_path / "folder", "it holds: none")


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_archive_with_any_byte_changed_is_the_same_golden_or_an_error(
    ci: Workspace, record: Callable, output: Callable, tmp_path: Path, data: st.DataObject
) -> None:
    source = tmp_path / "a.zip"
    if not source.exists():
        made = record()
        leave(ci, made, output(made))
        pack(source, entries(ci.pending_root))
    raw = bytearray(source.read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    broken = tmp_path / "broken.zip"
    broken.write_bytes(bytes(raw))
    scratch = tmp_path / f"scratch-{len(list(tmp_path.iterdir()))}"
    try:
        found = artifact.take(broken, "nvfp4", "b200", scratch)
    except GoldenError:
        return
    assert (read_clip(found.files["clip"]).frames == 1).all()


def test_wild_offset_in_an_archive_is_damage(workspace: Workspace, produced: Callable, tmp_path: Path) -> None:
    source = pack(tmp_path / "a.zip", entries(produced()))
    raw = bytearray(source.read_bytes())
    end = raw.rindex(b"PK\5\6")
    raw[end + 16 : end + 20] = (2**32 - 2).to_bytes(4, "little")  # where the directory is said to start
    source.write_bytes(bytes(raw))
    refused(workspace, source, "archive is damaged")


def test_unusual_packing_is_refused(workspace: Workspace, produced: Callable, tmp_path: Path) -> None:
    source = tmp_path / "a.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in entries(produced()).items():
            archive.writestr(name, data)
    refused(workspace, source, "packed in an unusual way")


def test_a_long_name_of_an_entry_does_not_become_a_long_error(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"x" * 60_000 + "/candidate.json": b"{}"})
    with pytest.raises(GoldenError, match="the name of an entry has 60015 characters") as caught:
        artifact.held_in(archive)
    assert len(str(caught.value)) < 1000


def test_a_crowd_of_broken_candidates_is_refused_before_it_is_validated(tmp_path: Path) -> None:
    files = {f"{number}/candidate.json": b"" for number in range(artifact.MAX_CANDIDATES + 1)}
    with pytest.raises(GoldenError, match="5001 candidates, the bound is 5000"):
        artifact.held_in(pack(tmp_path / "a.zip", files))
