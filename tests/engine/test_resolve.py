"""From names to folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from builders import make_case

from harness.definitions.case import CheckpointRef
from harness.engine.resolve import resolve_case, resolve_checkpoint
from harness.errors import InfraError, InvalidCaseError
from harness.inspector.sources import Meter, open_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_local_folder_is_relative_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    assert resolve_checkpoint(CheckpointRef(path="./weights"), tmp_path) == (tmp_path / "weights").resolve()


def test_a_folder_elsewhere_on_the_disk_in_full_by_home_and_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, root = tmp_path / "models/wan", tmp_path / "repository"
    models.mkdir(parents=True)
    (models / "model.safetensors").write_bytes(b"1234")
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "models")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (str(models), "~/models/wan", "./link/wan"):
        reference = CheckpointRef(path=path)
        assert reference.is_local
        assert resolve_checkpoint(reference, root) == models
        source = open_source(reference, Meter(), root)
        assert (source.label, set(source.files)) == (path, {"model.safetensors"})
    with pytest.raises(InvalidCaseError, match="there is no folder"):
        resolve_checkpoint(CheckpointRef(path="~/models/wann"), root)


def test_an_absent_folder_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidCaseError) as caught:
        resolve_checkpoint(CheckpointRef(path="./weights", made_by="python -m make"), tmp_path, place="case")
    assert caught.value.remedy == "python -m make"


def test_a_misspelt_folder_is_no_infra_and_the_near_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "tiny" / "weights").mkdir(parents=True)
    with pytest.raises(InvalidCaseError, match=r"there is no folder \./tiny/wieghts; did you mean \./tiny/weights\?"):
        resolve_checkpoint(CheckpointRef(path="./tiny/wieghts"), tmp_path, place="case")
    with pytest.raises(InvalidCaseError, match=r"there is no folder \./nothing\n"):
        resolve_checkpoint(CheckpointRef(path="./nothing"), tmp_path)


@pytest.mark.parametrize("revision", [None, "unresolved"])
def test_an_unresolved_revision_is_refused(tmp_path: Path, revision: str | None) -> None:
    with pytest.raises(InvalidCaseError, match="no commit"):
        resolve_checkpoint(CheckpointRef(path="owner/name", revision=revision), tmp_path)


@pytest.mark.parametrize(("offline", "local_only"), [("1", True), ("0", False), ("", False)])
def test_the_hub_is_asked_at_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: str, local_only: bool
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(tmp_path)

    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert resolve_checkpoint(CheckpointRef(path="owner/name", revision=COMMIT), tmp_path) == tmp_path
    assert asked == [("owner/name", {"revision": COMMIT, "local_files_only": local_only})]


def test_a_failed_download_is_infra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InfraError) as caught:
        resolve_checkpoint(CheckpointRef(path="owner/name-that-is-not-cached", revision=COMMIT), tmp_path)
    assert caught.value.kind == "download"
    assert COMMIT in caught.value.remedy


def test_the_engine_does_not_need_the_base(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    weights = {"path": "./weights"}
    case = make_case(model=weights, base={"path": "./absent"}, transformer_2=weights)
    assert set(resolve_case(case, tmp_path)) == {"model", "transformer_2"}
