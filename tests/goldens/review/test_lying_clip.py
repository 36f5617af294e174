"""A clip whose header has the digest of other pixels, or that holds no frame, is seen through by whoever uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_case
from safetensors.numpy import save_file

from harness.errors import GoldenError
from harness.frames.clip import Clip, write_clip
from harness.goldens.accept import accept
from harness.goldens.folder import FolderStore
from harness.goldens.golden import describe
from harness.goldens.maintenance import verify
from harness.goldens.pending import leave
from harness.goldens.workspace import Workspace
from harness.records.golden import Accepted, AcceptedIndex, GoldenManifest, Provenance
from harness.records.identity import Identity
from harness.session.stages import compare_with

SHAPE = (5, 8, 8, 3)
SHOWN, CLAIMED = (Clip(np.full(SHAPE, level, np.uint8)) for level in (7, 200))


def lie(path: Path, frames: np.ndarray = SHOWN.frames, digest: str = CLAIMED.digest) -> Path:
    """Write ``frames`` under a header that has ``digest``."""
    metadata = {"quantgate.clip": "1", "codec": "raw", "shape": json.dumps(list(SHAPE)), "sha256": digest}
    save_file({"frames": np.ascontiguousarray(frames)}, path, metadata=metadata)
    return path


@pytest.mark.parametrize("kind", ["digest", "no_frames", "other_shape", "no_clip"])
def test_a_candidate_that_lies_about_its_frames_is_not_accepted(
    workspace: Workspace, record: Callable, output: Callable, kind: str
) -> None:
    made = record()
    files = output(made)
    if kind == "digest":
        lie(files["clip"])
    elif kind == "no_frames":
        lie(files["clip"], SHOWN.frames[:0], SHOWN.digest)
    elif kind == "other_shape":
        write_clip(files["clip"], Clip(SHOWN.frames[:3]))
    else:
        files["clip"].write_bytes(b"\1" * 3000)
    leave(workspace, made, files)
    with pytest.raises(GoldenError, match="frames"):
        accept(workspace, "nvfp4", reason="looks right", author="Bob")
    assert not list(workspace.goldens.rglob("manifest.json"))


def golden_of(folder: Path, clip: Path, identity: Identity) -> FolderStore:
    """A store with one accepted golden, put there by hand."""
    fields: dict[str, Any] = {"case": "nvfp4", "runner": "b200", "identity": identity, "shape": SHAPE}
    message: dict[str, Any] = {"created": "2026-01-01T00:00:00+00:00", "author": "Eve", "reason": "by hand"}
    part = describe(clip, "application/vnd.safetensors", "clip.safetensors")
    manifest = GoldenManifest(**fields, **message, parts={"clip": part}, provenance=Provenance(run="r"))
    store = FolderStore(folder / "goldens")
    store.add(manifest, {"clip": clip})
    entry = Accepted(digest=manifest.digest(), reason="by hand", author="Eve", accepted=message["created"])
    store.set_index(AcceptedIndex(case="nvfp4", runner="b200", goldens=(entry,)))
    return store


def test_verify_decodes_every_golden(tmp_path: Path, identity: Identity) -> None:
    (bad,) = verify(golden_of(tmp_path, lie(tmp_path / "lie.safetensors"), identity))
    assert [f"pixels have sha256 {SHOWN.digest}" in fault for fault in bad.faults] == [True]
    (good,) = verify(golden_of(tmp_path / "good", write_clip(tmp_path / "true.safetensors", SHOWN), identity))
    assert good.faults == ()


def test_bit_exact_is_never_said_on_the_word_of_a_header(tmp_path: Path) -> None:
    case = make_case(sampling={"width": 16, "height": 16, "num_frames": 5})
    with pytest.raises(GoldenError, match=r"its frames cannot be used: .*it was written with"):
        compare_with(lie(tmp_path / "golden.safetensors"), case, CLAIMED)
    found = compare_with(write_clip(tmp_path / "true.safetensors", SHOWN), case, SHOWN)
    assert found is not None
    assert found.bit_exact


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (5, 0, 8, 3), (5, 8, 0, 3), (5, 8, 8, 1)])
def test_a_manifest_without_pixels_is_none(identity: Identity, tmp_path: Path, shape: tuple[int, ...]) -> None:
    part = describe(lie(tmp_path / "clip.safetensors"), "application/vnd.safetensors", "clip.safetensors")
    with pytest.raises(ValueError, match="at least 1 and 3 channels"):
        GoldenManifest(
            case="a", runner="b200", identity=identity, parts={"clip": part}, shape=shape,
            created="2026-01-01", author="Eve", reason="by hand", provenance=Provenance(run="r"),
        )  # fmt: skip
