"""The same verdict over HTTP; one resolution of the branch; a broken server is infra, with what was proven before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.definitions.case import CheckpointRef
from harness.inspector import BadReferenceError, InspectionInterruptedError, SourceError, inspect_checkpoint
from harness.inspector.identity import component_digests
from harness.inspector.inspect import examine


def test_same_verdict_as_from_the_folder(hub: Any, published: dict[str, str], exports: Path) -> None:
    remote = inspect_checkpoint("corpus/nvfp4", base="corpus/base", contracts=["sglang==0.5.12"])
    local = inspect_checkpoint(exports / "nvfp4", base=exports / "base", contracts=["sglang==0.5.12"])
    assert (remote.outcome, remote.cause) == (local.outcome, local.cause) == ("fault", "nibble_order")
    assert remote.reference == f"corpus/nvfp4@{published['corpus/nvfp4']}"
    assert {item.encoding for item in remote.experts} == {"low_first/linear"}
    assert remote.bytes_read < local.bytes_read
    shards = {path for path in local.digests if path.endswith(".safetensors")}
    assert shards
    assert {path: remote.digests[path] for path in shards} == {path: local.digests[path] for path in shards}
    assert any("block scales outside" in line for line in remote.not_done)


def test_a_base_in_float32_proves_as_much(hub: Any, published: dict[str, str]) -> None:
    narrow = inspect_checkpoint("corpus/nvfp4", base="corpus/base", digests=False)
    wide = inspect_checkpoint("corpus/nvfp4_wide", base="corpus/base_wide", digests=False)
    assert [(report.outcome, report.cause) for report in (narrow, wide)] == [("clean", "none")] * 2
    assert all(layer.state == "proven" for layer in wide.layers if layer.format == "nvfp4")


def test_branch_is_resolved_once_and_each_file_once(hub: Any, published: dict[str, str]) -> None:
    hub.log()
    inspect_checkpoint("corpus/nvfp4", base="corpus/base", digests=False)
    log = hub.log()
    asked = [line for line in log if "/api/models/corpus/nvfp4" in line and "/tree/" not in line]
    assert len(asked) == 1
    heads = [line for line in log if line.startswith("HEAD") and "/resolve/" in line]
    assert heads
    assert len(heads) == len(set(heads))
    assert all(published["corpus/nvfp4"] in line or published["corpus/base"] in line for line in heads)
    ranged = [line for line in log if line.startswith("GET") and "/resolve/" in line and ".safetensors" in line]
    assert not [line for line in ranged if not line.split("?")[0].endswith(".index.json")]


def test_pinned_commit_and_unresolved_revision(hub: Any, published: dict[str, str]) -> None:
    ref = CheckpointRef(path="corpus/nvfp4", revision=published["corpus/nvfp4"])
    assert examine(ref).context.experts["transformer"].source.commit == published["corpus/nvfp4"]
    with pytest.raises(BadReferenceError, match="not resolved"):
        examine(CheckpointRef(path="corpus/nvfp4", revision="unresolved"))
    with pytest.raises(BadReferenceError, match="no such rep"):
        examine("corpus/nothing-here")


def test_digests_come_from_hub_metadata(hub: Any, published: dict[str, str]) -> None:
    examined = examine("corpus/nvfp4")
    before = examined.meter.bytes
    digests = component_digests(examined.context.experts.values())
    assert examined.meter.bytes == before
    assert all(len(value) == 64 for path, value in digests.items() if path.endswith(".safetensors"))


@pytest.mark.parametrize(
    ("kind", "more"), [("status", {"status": 500}), ("status", {"status": 404}), ("drop", {"after": 100})]
)
def test_broken_server_is_infra_and_keeps_what_was_proven(
    hub: Any, published: dict[str, str], kind: str, more: dict[str, int], exports: Path
) -> None:
    from harness.inspector import gather

    hub.heal()
    # everything but the base's second expert can be read: headers first, then its rows fail
    original = gather.read_windows

    def failing(source: Any, entries: Any, limit: int) -> Any:
        hub.fail(kind, "transformer_2/diffusion_pytorch_model.safetensors", times=10_000, **more)
        return original(source, entries, limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "read_windows", failing)
        with pytest.raises(InspectionInterruptedError) as caught:
            inspect_checkpoint("corpus/nvfp4", base="corpus/base")
    hub.heal()
    report = caught.value.report
    assert caught.value.kind == "download"
    assert report.outcome == "infra"
    assert report.cause == "source_failed"
    assert any(layer.state == "proven" for layer in report.layers)
    assert any("planned reads" in line for line in report.not_done)


def test_server_that_never_answers_is_infra(hub: Any, published: dict[str, str]) -> None:
    hub.fail("status", "/api/models/corpus/nvfp4", times=50, status=503)
    with pytest.raises(SourceError) as caught:
        inspect_checkpoint("corpus/nvfp4")
    hub.heal()
    assert caught.value.exit_code == 18
