"""What is too much, or stands in the wrong place: one small change of a real export each, and its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.corpus.dialects import single_transformer
from benchmarks.corpus.edit import Edit, quantized
from harness.inspector import inspect_checkpoint
from harness.records.inspection import InspectionFinding, InspectionReport

LINEAR = "blocks.1.attn1.to_out.0"
REGISTERED = "nvidia/Wan2.2-T2V-A14B-Diffusers-NVFP4"


@pytest.fixture
def edit(exports: Path, tmp_path: Path) -> Edit:
    """An NVFP4 export that may be changed."""
    return Edit(exports / "nvfp4", tmp_path / "made")


def inspected(edit: Edit, base: Path | None = None) -> InspectionReport:
    return inspect_checkpoint(edit.folder, base=base or edit.base, digests=False)


def only(report: InspectionReport, code: str) -> InspectionFinding:
    """The one finding of the report."""
    (found,) = report.findings
    assert found.code == code
    return found


def test_a_tensor_that_the_base_does_not_have(edit: Edit) -> None:
    tensors = edit.tensors("transformer")
    edit.write("transformer", {**tensors, "extra_table": torch.ones(4)})
    report = inspected(edit)
    found = only(report, "tensor_unexpected")
    assert (found.severity, found.tensor, report.outcome) == ("warning", "extra_table", "clean")


def test_a_tensor_too_many_where_another_is_absent_is_a_fault(edit: Edit) -> None:
    tensors = edit.tensors("transformer")
    tensors["proj_out.offset"] = tensors.pop("proj_out.bias")
    edit.write("transformer", tensors)
    report = inspected(edit)
    assert [(item.code, item.severity) for item in report.findings] == [
        ("tensor_missing", "fault"),
        ("tensor_unexpected", "fault"),
    ]


def test_a_tensor_in_two_shards(edit: Edit) -> None:
    place = edit.own("transformer")
    (shard,) = edit.shards("transformer")
    save_file({"proj_out.bias": load_file(shard)["proj_out.bias"]}, place / "more.safetensors")
    found = only(inspected(edit), "duplicate_tensors")
    assert (found.severity, found.evidence["tensors"]) == ("fault", ["proj_out.bias"])


def test_an_ignore_pattern_that_matches_nothing_is_only_said(edit: Edit) -> None:
    edit.quantization("transformer", lambda body: body["ignore"].append("no.such.module*"))
    report = inspected(edit)
    found = only(report, "ignore_unmatched")
    assert (found.severity, found.evidence["patterns"]) == ("info", ["no.such.module*"])
    assert report.outcome == "clean"


def test_experts_that_quantize_different_linears(edit: Edit) -> None:
    tensors = edit.tensors("transformer")
    kept = {name: value for name, value in tensors.items() if not name.startswith(f"{LINEAR}.")}
    base = load_file(next((edit.base / "transformer").glob("*.safetensors")))
    own = {name: base[name] for name in (f"{LINEAR}.weight", f"{LINEAR}.bias")}
    edit.write("transformer", kept | own)
    edit.quantization("transformer", lambda body: body["ignore"].append(LINEAR))
    report = inspected(edit)
    found = only(report, "experts_policy_differs")
    assert (found.severity, found.evidence["modules"], report.outcome) == ("warning", [LINEAR], "clean")


def test_one_transformer_that_is_the_other_expert(edit: Edit) -> None:
    first = edit.folder / "transformer"
    second = (edit.folder / "transformer_2").resolve()
    first.unlink()
    first.symlink_to(second, target_is_directory=True)
    single_transformer(edit)
    report = inspected(edit)
    assert (report.outcome, report.cause) == ("fault", "wrong_expert")


def test_a_base_that_lacks_every_quantized_linear_proves_nothing(edit: Edit, tmp_path: Path) -> None:
    base = Edit(edit.base, tmp_path / "base")
    for expert in ("transformer", "transformer_2"):
        packed = {f"{name}.weight" for name in quantized(edit.tensors(expert))}
        base.write(expert, {name: value for name, value in base.tensors(expert).items() if name not in packed})
    report = inspected(edit, base.folder)
    assert (report.outcome, report.cause) == ("inconclusive", "encoding_unproven")
    assert "no Linear could be compared" in report.with_code("encoding_unproven")[0].message


@pytest.mark.parametrize(
    ("name", "known"), [(REGISTERED, True), (f"somebody/{REGISTERED.partition('/')[2]}", True), ("some/Other", False)]
)
def test_a_repository_that_the_runtime_has_no_entry_for(hub: Any, exports: Path, name: str, known: bool) -> None:
    folder = exports / "nvfp4"
    hub.create(name, kind="models")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    commit = hub.commit(name, files, kind="models")
    report = inspect_checkpoint(f"{name}@{commit}", base=exports / "base", contracts=["sglang==0.5.23"], digests=False)
    found = report.with_code("repository_unregistered")
    assert [(item.severity, item.contract) for item in found] == ([] if known else [("warning", "sglang==0.5.23")])
    assert report.outcome == "clean"


def test_a_folder_has_no_name_that_a_runtime_could_know(exports: Path) -> None:
    report = inspect_checkpoint(exports / "nvfp4", base=exports / "base", contracts=["sglang==0.5.23"], digests=False)
    assert {item.code for item in report.findings} == {"contract_schedule"}, "a hint that names no repository"


@pytest.mark.parametrize("ending", [".incomplete", ".aria2"])
def test_a_rest_of_a_download_beside_a_whole_file_is_information(edit: Edit, ending: str) -> None:
    edit.own("transformer")
    (shard,) = edit.shards("transformer")
    shard.with_name(shard.name + ending).write_bytes(b"\0" * 64)
    report = inspected(edit)
    found = only(report, "download_unfinished")
    assert (found.severity, report.outcome, found.next_command) == ("info", "clean", "delete it")


@pytest.mark.parametrize("hole", ["in the middle", "no file"])
def test_a_download_that_did_not_end_is_a_fault(edit: Edit, hole: str) -> None:
    edit.own("transformer")
    (shard,) = edit.shards("transformer")
    if hole == "no file":
        shard.with_name("other.safetensors.part").write_bytes(b"\0" * 64)
    else:
        data = bytearray(shard.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 8192] = bytes(8192)
        shard.unlink()
        shard.write_bytes(data)
        shard.with_name(f"{shard.name}.aria2").write_bytes(b"\0" * 64)
    (found,) = (item for item in inspected(edit).findings if item.code == "download_unfinished")
    assert found.severity == "fault"
    assert found.next_command
