"""The view of a checkpoint that runtimes get: the same content, and nothing that they write reaches the original."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.engine.backends.checkpoint_view import CheckpointView
from harness.errors import InfraError


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A snapshot as the hub's cache lays it out: every file is a link to a blob."""
    snapshot = tmp_path / "hub" / "models--nvidia--Wan" / "snapshots" / "abc"
    blobs = tmp_path / "hub" / "models--nvidia--Wan" / "blobs"
    blobs.mkdir(parents=True)
    for name, text in {
        "model_index.json": "{}",
        "transformer/config.json": '{"a": 1}',
        "transformer/diffusion.safetensors": "weights",
    }.items():
        blob = blobs / name.replace("/", "-")
        blob.write_text(text)
        blob.chmod(0o444)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    (snapshot / "transformer" / "gone.safetensors").symlink_to(blobs / "gone")
    (snapshot / "again").symlink_to(snapshot)
    return snapshot


def test_what_is_written_into_the_view_does_not_reach_the_checkpoint(hub: Path) -> None:
    view = CheckpointView()
    paths = view.open({"model": hub})
    config = paths["model"] / "transformer" / "config.json"
    assert config.read_text() == '{"a": 1}'
    config.chmod(0o644)
    config.write_text("changed")
    (paths["model"] / "transformer" / "new.json").write_text("{}")
    assert (hub / "transformer" / "config.json").read_text() == '{"a": 1}'
    assert not (hub / "transformer" / "new.json").exists()
    assert (paths["model"] / "transformer" / "diffusion.safetensors").read_text() == "weights"
    view.close()
    assert not paths["model"].exists()
    assert (hub / "transformer" / "diffusion.safetensors").read_text() == "weights"


def test_the_view_keeps_the_names_by_which_a_runtime_recognises_a_snapshot(hub: Path, tmp_path: Path) -> None:
    view, picture = CheckpointView(), tmp_path / "first.png"
    picture.write_bytes(b"")
    paths = view.open({"model": hub, "base": hub, "transformer": hub / "transformer", "image": picture})
    assert paths["model"].parts[-3:] == ("models--nvidia--Wan", "snapshots", "abc")
    assert paths["base"] == paths["model"]
    assert paths["transformer"].parts[-2:] == ("abc", "transformer")
    assert paths["image"] == picture
    assert not (paths["model"] / "again").exists()  # a link to a folder above itself would not end
    view.close()


def test_a_view_that_cannot_be_written_is_an_infrastructure_error(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InfraError, match="No space left"):
        CheckpointView().open({"model": hub})
