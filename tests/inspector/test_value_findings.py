"""What is wrong, or cannot be told, in single values: one small change of a real export each, and its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.corpus.dialects import four_over_six
from benchmarks.corpus.edit import Edit, Tensors, swap_nibbles
from benchmarks.corpus.mutations import FP8, pack
from harness.inspector import inspect_checkpoint
from harness.records.inspection import InspectionFinding, InspectionReport

LINEAR = "blocks.1.attn1.to_out.0"


@pytest.fixture
def edit(exports: Path, tmp_path: Path) -> Edit:
    """An NVFP4 export that may be changed."""
    return Edit(exports / "nvfp4", tmp_path / "made")


def inspected(edit: Edit) -> InspectionReport:
    return inspect_checkpoint(edit.folder, base=edit.base, digests=False)


def changed(edit: Edit, tensors: Tensors) -> InspectionReport:
    """The report after the first expert's tensors were replaced."""
    edit.write("transformer", tensors)
    return inspected(edit)


def only(report: InspectionReport, code: str) -> InspectionFinding:
    """The one finding, where no other finding counts."""
    (found,) = [item for item in report.findings if item.severity in ("fault", "inconclusive", "warning")]
    assert found.code == code
    return found


def remade(edit: Edit, noise: float) -> Tensors:
    """One Linear quantized anew, by torch, from weights that differ from the base by ``noise`` deviations."""
    tensors = edit.tensors("transformer")
    weight = Edit(edit.base, edit.folder.parent / "base").tensors("transformer")[f"{LINEAR}.weight"].float()
    deviation = weight.std(1, keepdim=True) * noise
    moved = weight + torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)) * deviation
    blocks = moved.reshape(len(moved), -1, 16)
    outer = blocks.abs().amax() / (6 * 448)
    scale = (blocks.abs().amax(-1) / (6 * outer)).clamp(2**-9, 448).to(FP8)
    tensors[f"{LINEAR}.weight"] = pack(blocks / (scale.float() * outer)[..., None])
    tensors[f"{LINEAR}.weight_scale"], tensors[f"{LINEAR}.weight_scale_2"] = scale, outer
    return tensors


def test_codes_between_the_gates_are_neither_proven_nor_a_fault(edit: Edit) -> None:
    report = changed(edit, remade(edit, 0.25))
    found = only(report, "encoding_inconclusive")
    assert (found.severity, found.module, found.evidence["modules"]) == ("inconclusive", LINEAR, [LINEAR])
    assert (report.outcome, report.cause) == ("inconclusive", "encoding_inconclusive")


def test_codes_of_other_weights_altogether(edit: Edit) -> None:
    found = only(changed(edit, remade(edit, 2.0)), "weights_unrelated")
    assert (found.severity, found.module) == ("fault", LINEAR)


@pytest.mark.parametrize(("size", "codes"), [(32, ["group_size_contradicted"]), (16, [])])
def test_a_group_size_that_the_format_cannot_have(edit: Edit, size: int, codes: list[str]) -> None:
    path = edit.folder / "transformer" / "config.json"
    body = json.loads(path.read_text())
    body["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"] = size
    path.unlink()
    path.write_text(json.dumps(body))
    found = [item for item in inspected(edit).findings if item.severity == "fault"]
    assert [item.code for item in found] == codes
    assert all("config.json" in item.message and "config.json" in item.next_command for item in found)


def test_a_row_that_is_twice_too_large(edit: Edit) -> None:
    tensors = edit.tensors("transformer")
    scales = tensors[f"{LINEAR}.weight_scale"].float()
    scales[5] *= 2
    tensors[f"{LINEAR}.weight_scale"] = scales.to(FP8)
    report = changed(edit, tensors)
    found = only(report, "row_gain")  # and no second fault for the same row, such as base_stale
    assert (found.severity, found.module, found.evidence["rows"]) == ("fault", LINEAR, [5])
    assert found.evidence["gain"] == pytest.approx(2.0, rel=0.05)
    assert report.cause == "row_gain"


def test_a_row_that_is_twice_too_large_hides_no_stale_base(edit: Edit) -> None:
    tensors = remade(edit, 0.02)
    scales = tensors[f"{LINEAR}.weight_scale"].float()
    scales[5] *= 2
    tensors[f"{LINEAR}.weight_scale"] = scales.to(FP8)
    codes = {item.code for item in changed(edit, tensors).findings if item.severity == "fault"}
    assert codes == {"row_gain", "base_stale"}


def test_a_scale_that_is_wrong_by_a_factor_with_no_name(edit: Edit) -> None:
    tensors = edit.tensors("transformer")
    tensors[f"{LINEAR}.weight_scale_2"] *= 1.25
    found = only(changed(edit, tensors), "gain")
    assert (found.severity, found.module, found.evidence["count"]) == ("fault", LINEAR, 1)
    assert found.evidence["gain"] == pytest.approx(1.25, rel=0.02)


def test_a_row_that_no_reading_explains(edit: Edit) -> None:
    tensors = edit.tensors("transformer")
    weight = tensors[f"{LINEAR}.weight"]
    weight[5] = swap_nibbles(weight[5].flip(0))
    found = only(changed(edit, tensors), "row_corrupt")
    assert (found.severity, found.module, found.evidence["rows"]) == ("fault", LINEAR, [5])


def test_a_bias_that_is_stored_as_integers(edit: Edit) -> None:
    tensors = edit.tensors("transformer")
    tensors[f"{LINEAR}.bias"] = tensors[f"{LINEAR}.bias"].to(torch.int16)
    found = only(changed(edit, tensors), "dtype_differs")
    assert (found.severity, found.evidence["tensors"]) == ("fault", [f"{LINEAR}.bias I16"])


def test_halves_that_stand_exchanged_where_nothing_modulates(edit: Edit) -> None:
    tensors = edit.tensors("transformer")
    tensors["blocks.0.attn1.to_q.weight"] = tensors["blocks.0.attn1.to_q.weight"].roll(96, 0)
    found = only(changed(edit, tensors), "halves_swapped")
    assert (found.severity, found.tensor) == ("fault", "blocks.0.attn1.to_q.weight")


def test_a_recipe_that_cannot_be_recomputed_is_said_and_is_no_fault(edit: Edit) -> None:
    assert not inspected(edit).with_code("recipe_not_recomputable")
    four_over_six(edit)
    report = inspected(edit)
    assert {item.severity for item in report.with_code("recipe_not_recomputable")} == {"info"}
    assert report.outcome == "clean"
