"""Accepting: what changes, what is refused, what becomes of the limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GoldenError
from harness.frames.clip import read_clip
from harness.goldens.accept import Acceptance, accept, install
from harness.goldens.folder import FolderStore
from harness.goldens.pending import candidate_of, leave, listed, reject
from harness.goldens.refusing import Allow
from harness.goldens.workspace import Workspace
from harness.records.case_record import CaseRecord
from harness.records.identity import Identity
from harness.records.limits import LimitFile


def accepted(workspace: Workspace, case: str = "nvfp4", **options: Any) -> Acceptance:
    """Accept with a reason."""
    return accept(workspace, case, **{"reason": "looks right", "author": "Bob", **options})


def digests(workspace: Workspace, case: str = "nvfp4") -> list[str]:
    """What a case accepts now."""
    return [golden.digest for golden in FolderStore(workspace.goldens).find("b200", case)]


def snapshot(workspace: Workspace) -> dict[str, bytes]:
    """Every file of the project but scratch and locks."""
    return {
        str(path.relative_to(workspace.root)): path.read_bytes()
        for path in sorted(workspace.root.rglob("*"))
        if path.is_file() and ".work" not in path.parts and path.name not in ("review.lock", ".gitignore")
    }


def test_first_golden(workspace: Workspace, left: Callable, record: Callable, identity: Identity) -> None:
    folder = left()
    done = accepted(workspace)
    (golden,) = FolderStore(workspace.goldens).find("b200", "nvfp4")
    assert golden.digest == done.digest
    assert golden.verify() == ()
    assert (read_clip(golden.open_part("clip")).frames == 1).all()
    manifest = golden.manifest
    assert manifest.identity == identity
    assert (manifest.author, manifest.reason, manifest.previous) == ("Bob", "looks right", None)
    assert manifest.provenance.run == "run-1"
    assert manifest.provenance.fingerprint == record().fingerprint
    assert set(manifest.parts) == {"clip", "trace"}
    assert golden.reason == "looks right"
    assert not folder.exists()
    assert listed(workspace) == ()
    assert (done.limits, done.replaced) == ("none", ())


def test_what_changed_is_ready_to_commit(workspace: Workspace, left: Callable) -> None:
    left()
    before = snapshot(workspace)
    done = accepted(workspace)
    new = {name for name in snapshot(workspace).keys() - before.keys() if not name.startswith(".quantgate")}
    assert new
    for name in new:
        assert any(name == path or name.startswith(f"{path}/") for path in done.changed), name
    assert all((workspace.root / path).exists() for path in done.changed)


def test_replacing_names_what_it_replaced(workspace: Workspace, left: Callable) -> None:
    left(1)
    first = accepted(workspace).digest
    left(2, golden=first)
    done = accepted(workspace)
    assert done.replaced == (first,)
    assert done.manifest.previous == first
    assert digests(workspace) == [done.digest]
    assert first[:16] in FolderStore(workspace.goldens).digests("b200", "nvfp4")


def test_also_keeps_both_with_their_reasons(workspace: Workspace, left: Callable) -> None:
    left(1)
    first = accepted(workspace, reason="mode A").digest
    left(2, golden=first)
    second = accepted(workspace, reason="mode B", also=True).digest
    goldens = FolderStore(workspace.goldens).find("b200", "nvfp4")
    assert [(golden.digest, golden.reason) for golden in goldens] == [(first, "mode A"), (second, "mode B")]


def test_replacing_one_answer_of_a_bistable_case_keeps_the_other(workspace: Workspace, left: Callable) -> None:
    left(1)
    first = accepted(workspace, reason="mode A").digest
    left(2)
    second = accepted(workspace, reason="mode B", also=True).digest
    left(3, golden=first)
    done = accepted(workspace, reason="mode A, new kernel")
    assert digests(workspace) == [second, done.digest]
    assert done.replaced == (first,)
    assert done.manifest.previous == first


def test_replacing_drops_answers_to_another_question(workspace: Workspace, left: Callable, identity: Identity) -> None:
    left(1)
    first = accepted(workspace).digest
    left(2)
    second = accepted(workspace, also=True).digest
    left(3, golden=first, identity=identity.model_copy(update={"weights": {"model": "b" * 40}}))
    done = accepted(workspace)
    assert digests(workspace) == [done.digest]
    assert done.replaced == (first, second)


def test_over_replaces_also_what_cannot_be_read(workspace: Workspace, left: Callable) -> None:
    left(1)
    first = accepted(workspace).digest
    (FolderStore(workspace.goldens).folder("b200", "nvfp4", first) / "manifest.json").write_text("{")
    left(2)
    with pytest.raises(GoldenError, match="judged against no golden"):
        accepted(workspace)
    done = accepted(workspace, over=True)
    assert digests(workspace) == [done.digest]
    assert done.replaced == (first,)


def test_also_is_for_one_configuration(workspace: Workspace, left: Callable, identity: Identity) -> None:
    left(1)
    accepted(workspace)
    left(2, identity=identity.model_copy(update={"request": {"sampling.seed": 1}}))
    before = snapshot(workspace)
    with pytest.raises(GoldenError, match="of another configuration"):
        accepted(workspace, also=True)
    assert snapshot(workspace) == before


def test_also_of_the_same_clip_is_refused(workspace: Workspace, left: Callable) -> None:
    left(1)
    accepted(workspace)
    left(1)
    with pytest.raises(GoldenError, match="holds the same clip already"):
        accepted(workspace, also=True)


def test_also_and_over_exclude_each_other(workspace: Workspace, left: Callable) -> None:
    left()
    with pytest.raises(GoldenError, match="leave one out"):
        accepted(workspace, also=True, over=True)


@pytest.mark.parametrize("reason", ["", "  \n", "...", "…", "\u200b?"])
def test_a_reason_is_needed(workspace: Workspace, left: Callable, reason: str) -> None:
    left()
    with pytest.raises(GoldenError, match="--reason"):
        accepted(workspace, reason=reason)
    assert len(listed(workspace)) == 1


def test_nothing_pending_is_said(workspace: Workspace, left: Callable) -> None:
    left()
    with pytest.raises(GoldenError, match=r"no candidate of 'other'.*b200/nvfp4"):
        accepted(workspace, "other")
    with pytest.raises(GoldenError, match="on h200 is pending"):
        accepted(workspace, runner="h200")


def test_several_runners_need_a_name(workspace: Workspace, left: Callable) -> None:
    left()
    left(runner="h200")
    with pytest.raises(GoldenError, match="b200, h200"):
        accepted(workspace)
    assert accepted(workspace, runner="b200").manifest.runner == "b200"
    assert [item.runner for item in listed(workspace)] == ["h200"]


def test_accepting_twice_is_refused(workspace: Workspace, left: Callable) -> None:
    left()
    accepted(workspace)
    with pytest.raises(GoldenError, match="no candidate"):
        accepted(workspace)
    left()
    before = snapshot(workspace)
    with pytest.raises(GoldenError, match="judged against no golden, and the case accepts"):
        accepted(workspace)
    assert snapshot(workspace) == before


def test_what_somebody_accepted_since_is_not_replaced(workspace: Workspace, left: Callable) -> None:
    left(1)
    first = accepted(workspace).digest
    left(2, golden=first)
    second = accepted(workspace).digest
    left(3, golden=first)
    with pytest.raises(GoldenError, match=f"judged against {first[:16]}, and the case accepts"):
        accepted(workspace)
    assert digests(workspace) == [second]


@pytest.mark.parametrize("part", ["clip", "trace", "record"])
@pytest.mark.parametrize("how", ["tampered", "truncated", "missing"])
def test_damaged_candidate_is_refused_and_kept(workspace: Workspace, left: Callable, part: str, how: str) -> None:
    folder = left()
    (path,) = folder.glob(f"{part}.*")
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if how == "truncated" else data[:-1] + b"?")
    message = {"missing": "is missing", "truncated": "is truncated", "tampered": "was changed"}[how]
    with pytest.raises(GoldenError, match=f"part '{part}' {message}"):
        accepted(workspace)
    assert digests(workspace) == []
    assert folder.is_dir()


def test_identity_that_was_changed_by_hand_is_refused(workspace: Workspace, left: Callable) -> None:
    folder = left()
    path = folder / "candidate.json"
    path.write_text(path.read_text().replace("NVIDIA B200", "NVIDIA H200"))
    assert "changed since the run wrote it" in listed(workspace)[0].fault
    with pytest.raises(GoldenError, match="changed since the run wrote it"):
        accepted(workspace)
    assert digests(workspace) == []


def test_record_of_another_identity_is_refused(
    workspace: Workspace, record: Callable, output: Callable, identity: Identity
) -> None:
    made: CaseRecord = record()
    files = output(made)
    other = identity.model_copy(update={"weights": {"model": "b" * 40}})
    record(identity=other).write(files["record"])
    leave(workspace, made, files)
    with pytest.raises(GoldenError, match="record's identity is not the one"):
        accepted(workspace)


def test_record_of_another_case_is_refused(workspace: Workspace, record: Callable, output: Callable) -> None:
    made = record()
    files = output(made)
    record(case="other").write(files["record"])
    leave(workspace, made, files)
    with pytest.raises(GoldenError, match="record tells of b200/other"):
        accepted(workspace)


def test_candidate_in_another_cases_place_is_refused(workspace: Workspace, left: Callable) -> None:
    folder = left()
    folder.rename(folder.with_name("other"))
    assert "belongs to b200/nvfp4" in listed(workspace)[0].fault
    with pytest.raises(GoldenError, match="belongs to b200/nvfp4"):
        accepted(workspace, "other")


def test_request_that_changed_since_is_refused_and_named(workspace: Workspace, left: Callable) -> None:
    left()
    with pytest.raises(GoldenError, match=r"asks for something else .*: sampling\.seed: 0 -> 1; sampling\.steps"):
        accepted(workspace, request={"sampling.seed": 1, "sampling.steps": 4})
    assert accepted(workspace, request={"sampling.seed": 0}).digest


def test_run_without_identity_leaves_no_candidate(workspace: Workspace, record: Callable, output: Callable) -> None:
    made = record(identity=None)
    with pytest.raises(GoldenError, match="without an identity"):
        leave(workspace, made, output(made))
    assert listed(workspace) == ()


def test_newer_candidate_takes_the_place_of_the_older(workspace: Workspace, left: Callable) -> None:
    left(1)
    left(2, run="run-2")
    (item,) = listed(workspace)
    assert item.candidate is not None
    assert item.candidate.provenance.run == "run-2"
    assert accepted(workspace).manifest.provenance.run == "run-2"


def test_reject_drops_the_candidate_and_nothing_else(workspace: Workspace, left: Callable, tmp_path: Path) -> None:
    folder = left()
    left(case="other")
    reject(workspace, "nvfp4")
    assert not folder.exists()
    assert [item.case for item in listed(workspace)] == ["other"]
    assert list((tmp_path / "runs").rglob("clip.safetensors"))
    with pytest.raises(GoldenError, match="no candidate"):
        reject(workspace, "nvfp4")


def test_limits_that_came_with_the_candidate_are_bound_to_the_golden(
    workspace: Workspace, left: Callable, limit_file: Callable
) -> None:
    left(limits=limit_file())
    done = accepted(workspace)
    limits = LimitFile.read(workspace.limits("b200", "nvfp4"))
    assert done.limits == "new"
    assert limits.is_sealed
    assert limits.model_copy(update={"seal": ""}) == limit_file(golden_digest=done.digest)


def test_limits_of_another_identity_cannot_come_along(
    workspace: Workspace, left: Callable, limit_file: Callable
) -> None:
    with pytest.raises(ValueError, match="another identity"):
        left(limits=limit_file(identity_digest="1" * 64))
    with pytest.raises(ValueError, match="belong to b200/other"):
        left(limits=limit_file(case="other"))


def test_limits_are_carried_over_where_only_the_code_changed(
    workspace: Workspace, left: Callable, limit_file: Callable, identity: Identity
) -> None:
    left(limits=limit_file())
    first = accepted(workspace).digest
    left(2, golden=first, identity=identity.model_copy(update={"subject": {"code": "c1"}}))
    done = accepted(workspace, reason="new kernel")
    limits = LimitFile.read(workspace.limits("b200", "nvfp4"))
    assert done.limits == "carried"
    assert limits.golden_digest == done.digest
    assert limits.limits == limit_file().limits
    assert first[:16] in limits.reason
    assert "new kernel" in limits.reason
    assert limits.author == "Bob"


@pytest.mark.parametrize("name", ["request", "weights", "env", "hardware"])
def test_limits_of_another_configuration_are_removed(
    workspace: Workspace, left: Callable, limit_file: Callable, identity: Identity, name: str
) -> None:
    left(limits=limit_file())
    first = accepted(workspace).digest
    left(2, golden=first, identity=identity.model_copy(update={name: {"x": "y"}}))
    with pytest.raises(GoldenError, match="with 1 gating limits"):
        accepted(workspace)
    assert workspace.limits("b200", "nvfp4").exists()
    assert accepted(workspace, allow=Allow(drop_limits=True)).limits == "removed"
    assert not workspace.limits("b200", "nvfp4").exists()


def test_limits_hold_for_a_golden_that_is_accepted_beside_theirs(
    workspace: Workspace, left: Callable, limit_file: Callable
) -> None:
    left(limits=limit_file())
    first = accepted(workspace).digest
    left(2)
    done = accepted(workspace, also=True)
    limits = LimitFile.read(workspace.limits("b200", "nvfp4"))
    assert done.limits == "extended"
    assert "thresholds/b200/nvfp4.json" in done.changed
    assert (limits.golden_digest, limits.also) == (first, (done.digest,))
    assert limits.limits == limit_file().limits
    assert f"golden {done.digest[:16]} was accepted beside {first[:16]}" in limits.notes[-1]


def test_limits_follow_the_goldens_of_a_bistable_case(
    workspace: Workspace, left: Callable, limit_file: Callable, identity: Identity
) -> None:
    left(limits=limit_file())
    first = accepted(workspace, reason="mode A").digest
    left(2)
    second = accepted(workspace, reason="mode B", also=True).digest
    left(3, golden=second)
    third = accepted(workspace, reason="mode B, new kernel").digest
    assert LimitFile.read(workspace.limits("b200", "nvfp4")).goldens == (first, third)
    left(4, golden=first)
    fourth = accepted(workspace, reason="mode A, new kernel")
    assert fourth.limits == "carried"
    assert LimitFile.read(workspace.limits("b200", "nvfp4")).goldens == (fourth.digest, third)
    left(5, limits=limit_file())
    fifth = accepted(workspace, reason="a third mode, measured", also=True)
    assert fifth.limits == "new"
    assert LimitFile.read(workspace.limits("b200", "nvfp4")).goldens == (fifth.digest, third, fourth.digest)
    left(6, golden=fifth.digest, identity=identity.model_copy(update={"env": {"x": "y"}}))
    assert accepted(workspace, allow=Allow(drop_limits=True)).limits == "removed"


def test_damaged_limits_stop_the_accept(workspace: Workspace, left: Callable) -> None:
    left()
    path = workspace.limits("b200", "nvfp4")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    before = snapshot(workspace)
    with pytest.raises(GoldenError, match="limits cannot be read"):
        accepted(workspace)
    assert snapshot(workspace) == before


def test_lock_changes_along(workspace: Workspace, left: Callable) -> None:
    left()
    lock = workspace.root / "cases/checkpoints.lock.json"
    lock.parent.mkdir()
    lock.write_text("old")
    done = accepted(workspace, extra={lock: b"new"})
    assert lock.read_bytes() == b"new"
    assert "cases/checkpoints.lock.json" in done.changed


def test_install_writes_golden_and_limits_in_one_go(
    workspace: Workspace, record: Callable, output: Callable, limit_file: Callable
) -> None:
    for fill in (1, 2):
        made = record()
        files = output(made, fill)
        candidate = candidate_of(made, files, limits=limit_file())
        done = install(workspace, candidate, files, reason="regenerated", author="Ada")
        assert digests(workspace) == [done.digest]
        assert LimitFile.read(workspace.limits("b200", "nvfp4")).golden_digest == done.digest


def test_manifest_of_an_accepted_golden_is_plain_json(workspace: Workspace, left: Callable) -> None:
    left()
    done = accepted(workspace)
    folder = FolderStore(workspace.goldens).folder("b200", "nvfp4", done.digest)
    body = json.loads((folder / "manifest.json").read_text())
    assert body["identity"]["hardware"] == {"device": "NVIDIA B200"}
    assert sorted(path.name for path in folder.iterdir()) == ["clip.safetensors", "manifest.json", "trace.json"]


def test_limits_that_were_edited_by_hand_are_not_carried_over(
    workspace: Workspace, left: Callable, limit_file: Callable
) -> None:
    left()
    first = accepted(workspace).digest
    path = limit_file(golden_digest=first).write(workspace.limits("b200", "nvfp4"))
    path.write_text(path.read_text().replace("0.98", "0.1"))
    left(fill=2, golden=first)
    with pytest.raises(GoldenError, match="its seal does not fit"):
        accepted(workspace)
    assert digests(workspace) == [first]
