"""The text that names a checkpoint: which part of it is a path, and which a revision."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.formats.errors import BadReferenceError
from harness.inspector.sources import LocalSource, Meter, open_source


@pytest.mark.parametrize("name", ["wan@v2", "@", "a@b@c"])
def test_a_folder_may_have_an_at_sign_in_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    for text in (str(tmp_path / name), f"./{name}", name):
        source = open_source(text, Meter(), tmp_path)
        assert isinstance(source, LocalSource)
        assert source.folder.resolve() == (tmp_path / name).resolve()


def test_a_missing_folder_is_named_whole(tmp_path: Path) -> None:
    with pytest.raises(BadReferenceError, match="no such folder") as raised:
        open_source("./wan@v2", Meter(), tmp_path)
    assert "wan@v2" in str(raised.value)


def test_a_name_of_the_hub_keeps_its_revision(tmp_path: Path) -> None:
    with pytest.raises(BadReferenceError, match="not resolved"):
        open_source("owner/name@unresolved", Meter(), tmp_path)


def test_hidden_files_and_folders_are_no_part_of_a_checkpoint(tmp_path: Path) -> None:
    for name in (
        "transformer/model.safetensors",
        "transformer/._model.safetensors",
        ".cache/x.json",
        "vae/.git/y.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(LocalSource(tmp_path, Meter()).files) == ["transformer/model.safetensors"]
