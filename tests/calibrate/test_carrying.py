"""Goldens that name files learn their contents without a run, and lose nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from builders import make_limits
from safetensors.numpy import save_file

from harness.calibrate.carrying import Carried, carry
from harness.definitions.loading import load_cases
from harness.goldens.folder import FolderStore
from harness.goldens.golden import Golden, describe
from harness.goldens.workspace import Workspace
from harness.inspector.content import components_of, contents_of, file_digests
from harness.inspector.identity import DigestCache
from harness.records.contents import CONTENTS, WeightContents
from harness.records.golden import Accepted, AcceptedIndex, GoldenManifest, Provenance
from harness.records.identity import Device, Identity
from harness.records.limits import LimitFile
from harness.session.identity import identity_of

CASES = """
cases:
  one:
    runners: [cpu]
    model: {path: ./model}
    sampling: {prompt: x, width: 96, height: 64, num_frames: 17, num_inference_steps: 8, guidance_scale: 3}
"""
CPU = Device(kind="cpu", name="x86_64")
FILE = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("QUANTGATE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "project"
    (root / "model" / "transformer").mkdir(parents=True)
    save_file({"a": np.arange(6, dtype=np.float32)}, root / "model" / FILE)
    (root / "model" / "transformer" / "config.json").write_text('{"eps": 1}')
    (root / "model" / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    shutil.copytree(Path(__file__).parents[2] / "runners", root / "runners")
    (root / "cases").mkdir()
    (root / "cases" / "a.yaml").write_text(CASES)
    return Workspace(root)


def files(workspace: Workspace) -> dict[str, str]:
    return file_digests({"model": workspace.root / "model"}, DigestCache())


def older(workspace: Workspace, count: int = 1) -> list[Golden]:
    """Accepted goldens as older versions wrote them, and limits."""
    (located,) = load_cases([workspace.root / "cases" / "a.yaml"], workspace.root)
    store = FolderStore(workspace.goldens)
    identity = identity_of(located.case, CPU, files(workspace))
    made = []
    for number in range(count):
        trace = workspace.root / "trace.json"
        trace.write_text(json.dumps({"steps": [], "number": number}))
        manifest = GoldenManifest(
            case="one",
            runner="cpu",
            identity=identity,
            parts={"trace": describe(trace, "application/json")},
            created="2026-01-01",
            author="ann",
            reason=f"mode {number}",
            provenance=Provenance(run="r"),
        )
        made.append(store.add(manifest, {"trace": trace}))
    entries = [Accepted(digest=one.digest, reason=one.reason, author="ann", accepted="2026-01-01") for one in made]
    store.set_index(AcceptedIndex(case="one", runner="cpu", goldens=tuple(entries)))
    first, *rest = (golden.digest for golden in made)
    file = make_limits(golden_digest=first, also=tuple(rest), identity_digest=identity.digest())
    file.write(workspace.limits("cpu", "one"))
    return made


def carried(workspace: Workspace) -> Carried:
    return carry(workspace, load_cases([workspace.root / "cases" / "a.yaml"], workspace.root))


def present(workspace: Workspace) -> tuple[Golden, ...]:
    return FolderStore(workspace.goldens).find("cpu", "one")


def run_identity(workspace: Workspace) -> Identity:
    (located,) = load_cases([workspace.root / "cases" / "a.yaml"], workspace.root)
    contents = contents_of(components_of({"model": workspace.root / "model"}))
    return identity_of(located.case, CPU, contents.digests(), files=files(workspace))


def test_goldens_list_and_limits_are_carried_over_together(workspace: Workspace) -> None:
    old = older(workspace, 2)
    parts = [hashlib.sha256(one.open_part("trace").read_bytes()).hexdigest() for one in old]
    limits = LimitFile.read(workspace.limits("cpu", "one"))
    done = carried(workspace)
    new = present(workspace)
    assert [line.split(" -> ")[1] for line in done.goldens] == [one.digest[:16] for one in new]
    assert done.skipped == []
    assert all(one.verify() == () for one in new)
    assert [hashlib.sha256(one.open_part("trace").read_bytes()).hexdigest() for one in new] == parts
    assert [(one.reason, one.manifest.author, one.manifest.previous) for one in new] == [
        (before.reason, "ann", before.digest) for before in old
    ]
    identity = run_identity(workspace)
    assert all(one.manifest.identity == identity for one in new)
    contents = WeightContents.read(new[0].open_part(CONTENTS))
    assert set(contents.components) == {"transformer", "model_index"}
    after = LimitFile.read(workspace.limits("cpu", "one"))
    assert after.goldens == tuple(one.digest for one in new)
    assert after.identity_digest == identity.digest()
    assert after.limits == limits.limits
    assert limits.is_sealed
    assert after.is_sealed
    assert FolderStore(workspace.goldens).digests("cpu", "one") == tuple(sorted(one.digest[:16] for one in new))
    assert carried(workspace).goldens == []


def test_a_golden_of_other_files_stays_as_it_is(workspace: Workspace) -> None:
    (old,) = older(workspace)
    save_file({"a": np.arange(6, dtype=np.float32) + 1}, workspace.root / "model" / FILE)
    done = carried(workspace)
    assert done.goldens == done.changed == []
    assert f"not made from the files that are here ({FILE})" in done.skipped[0]
    assert [one.digest for one in present(workspace)] == [old.digest]


def test_limits_that_were_changed_by_hand_stay_broken(workspace: Workspace) -> None:
    older(workspace)
    path = workspace.limits("cpu", "one")
    path.write_text(path.read_text().replace('"limit": 0.9', '"limit": 0.1'))
    assert not LimitFile.read(path).is_sealed
    carried(workspace)
    after = LimitFile.read(path)
    assert after.golden_digest == present(workspace)[0].digest
    assert not after.is_sealed


def test_without_the_checkpoint_or_the_case_it_is_said(workspace: Workspace) -> None:
    older(workspace)
    (workspace.root / "model").rename(workspace.root / "gone")
    assert "there is no folder ./model" in carried(workspace).skipped[0]
    assert carry(workspace, []).skipped == ["cpu/one: no case file has this case"]
