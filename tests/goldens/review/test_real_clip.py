"""From frames to an accepted golden and back, with the project's own clip files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.frames.clip import Clip, read_clip, write_clip
from harness.goldens.accept import accept
from harness.goldens.matching import MatchKind, select
from harness.goldens.pending import leave
from harness.goldens.refusing import Allow
from harness.goldens.store import open_store
from harness.goldens.workspace import Workspace
from harness.records.identity import Identity


def test_frames_come_back_bit_by_bit(
    workspace: Workspace, record: Callable, output: Callable, identity: Identity
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    made = record()
    files = output(made)
    write_clip(files["clip"], Clip(frames))
    leave(workspace, made, files)
    accept(workspace, "nvfp4", reason="r", author="a", allow=Allow(unseen=True))
    match = select(open_store(workspace.goldens).find("b200", "nvfp4"), identity)
    assert match.kind is MatchKind.EXACT
    golden = match.goldens[0]
    clip = read_clip(golden.open_part("clip"))
    assert np.array_equal(clip.frames, frames)
    assert clip.shape == golden.manifest.shape
