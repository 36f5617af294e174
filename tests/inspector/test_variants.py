"""Sentences about Wan's variants, other models' files, distilled weights, changed biases and scales."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.corpus import published, variants, written
from benchmarks.corpus.edit import Edit, Tensors
from harness.formats.config import declaration
from harness.formats.families import other_model, parts_of
from harness.formats.modules import flat_blocks, marker_code
from harness.inspector import inspect_checkpoint
from harness.records.inspection import InspectionFinding, InspectionReport


def inspected(folder: Path, base: Path | None = None) -> InspectionReport:
    return inspect_checkpoint(folder, base=base, digests=False)


def findings_of(report: InspectionReport, code: str) -> list[InspectionFinding]:
    return [item for item in report.findings if item.code == code]


def test_corrected_biases_are_a_warning_and_no_fault(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "fp8", tmp_path / "made")
    variants.single(edit, variants.corrected_biases(1.0))
    report = inspected(edit.folder, exports / "base")
    assert report.outcome == "clean"
    (first, second) = findings_of(report, "bias_corrected")
    assert first.severity == second.severity == "warning"
    assert "the biases of 40 quantized Linears differ from the base's" in first.message


def test_a_single_changed_bias_is_a_fault(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "fp8", tmp_path / "made")
    tensors = edit.tensors("transformer")
    tensors["blocks.1.attn1.to_q.bias"] = tensors["blocks.1.attn1.to_q.bias"] * 1.01
    edit.write("transformer", tensors)
    report = inspected(edit.folder, exports / "base")
    assert report.cause == "excluded_differs"
    assert not findings_of(report, "bias_corrected")


def test_scales_of_one_over_cast_codes_are_no_fault_without_a_base(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "fp8", tmp_path / "made")
    variants.unit_scales(edit)
    report = inspected(edit.folder)
    assert (report.outcome, report.cause) == ("inconclusive", "base_missing")
    (first, _) = findings_of(report, "scale_constant")
    assert first.severity == "warning"
    assert "a cast to FP8 with scales" in first.message


def test_distilled_weights_are_called_near_and_drawn_ones_another_model(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "fp8", tmp_path / "near")
    variants.distilled(edit, "all")
    (first, second) = findings_of(inspected(edit.folder, exports / "base"), "wrong_base")
    for item in (first, second):
        assert re.search(r"by (1\.9|2|2\.1) % in the median", item.message)
        assert "distilled, merged or further trained" in item.message
        assert "base: in the case" in item.next_command

    drawn = Edit(exports / "base", tmp_path / "drawn")
    generator = torch.Generator().manual_seed(1)
    for expert in ("transformer", "transformer_2"):
        tensors = drawn.tensors(expert)
        noise = {name: torch.randn(value.shape, generator=generator) for name, value in tensors.items()}
        drawn.write(expert, {name: noise[name].to(value.dtype) for name, value in tensors.items()})
    (first, _) = findings_of(inspected(drawn.folder, exports / "base"), "wrong_base")
    assert "another model than the base that is named" in first.message


def test_parts_of_variants_are_named_and_not_compared(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "fp8", tmp_path / "made")
    variants.animate(edit)
    (first, _) = findings_of(inspected(edit.folder, exports / "base"), "tensor_unexpected")
    assert first.severity == "warning"
    assert "parts of Animate, which this base lacks. They were not compared." in first.message


def test_names_of_no_model_known_here_are_never_clean(tmp_path: Path) -> None:
    place = tmp_path / "model.safetensors"
    save_file({f"stage.{number}.mix.weight": torch.ones(4, 4) for number in range(3)}, place)
    report = inspected(place)
    assert (report.outcome, report.cause) == ("inconclusive", "other_model")
    assert "like those of no model known here" in report.summary


def test_a_vae_is_not_blamed_for_a_configuration_that_its_own_tensors_contradict(tmp_path: Path) -> None:
    from harness.formats.header import TensorEntry
    from harness.inspector.architectures import channels_of
    from harness.inspector.index import Component
    from harness.inspector.sources import LocalSource, Meter

    source = LocalSource(tmp_path, Meter())
    patch = TensorEntry("patch_embedding.weight", "BF16", (8, 36, 1, 2, 2), "f", 0, 8 * 36 * 4 * 2)
    held = Component("transformer", "model", source, "", {patch.name: patch}, config={"in_channels": 16})
    assert channels_of(held) == (36, None)
    assert channels_of(Component("transformer", "model", source, "", {}, config={"in_channels": 16})) == (16, None)


@pytest.mark.parametrize(
    ("names", "model"),
    [
        (["blocks.0.attn1.to_q.weight"], None),
        (["vace_blocks.0.attn1.to_q.weight"], None),
        (["double_blocks.0.img_attn.qkv.weight"], "FLUX or HunyuanVideo"),
        (["model.layers.0.self_attn.q_proj.weight"], "a language model"),
        (["stage.0.weight"], ""),
        ([], None),
    ],
)
def test_other_models_by_names(names: list[str], model: str | None) -> None:
    assert other_model(names) == model


def test_variants_by_names() -> None:
    names = [
        "face_adapter.fuser_blocks.0.linear2.weight",
        "vace_blocks.0.norm2.bias",
        "blocks.0.attn2.add_k_proj.weight",
    ]
    assert parts_of(names) == ["VACE", "Animate", "I2V"]
    assert parts_of(["blocks.0.attn2.to_k.weight", "extra.weight"]) == []


def test_shapes_and_codes_of_scales() -> None:
    assert flat_blocks((6, 1, 2, 1)) == (6, 2)
    assert flat_blocks((6, 2)) == (6, 2)
    assert flat_blocks((6, 2, 2, 1)) == (6, 2, 2, 1)
    assert [marker_code(name) for name in ("float8_e5m2", "float8_e4m3fn_rowwise", "nvfp4", "")] == [
        "e5m2",
        "e4m3",
        "",
        "",
    ]


def test_scales_of_gptq_that_were_lost_are_a_fault_without_a_base(exports: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        published.gptq()(tensors, module, weight)
        del tensors[f"{module}.scales"]

    edit = Edit(exports / "fp8", tmp_path / "made")
    written.remake(edit, change, published.GPTQ)
    assert inspected(edit.folder).cause == "scale_missing"


def test_a_state_of_another_block_size_is_named_once(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "fp8", tmp_path / "made")
    variants.other_state(blocksize=128)(edit, "all")
    report = inspected(edit.folder, exports / "base")
    assert {item.code for item in report.findings if item.severity == "fault"} == {"scale_shape"}


@pytest.mark.parametrize(("bits", "form"), [(4, None), (8, "int8")])
def test_codes_of_four_bits_in_bytes_are_not_declared_int8(bits: int, form: str | None) -> None:
    groups = {"group_0": {"weights": {"num_bits": bits, "type": "int"}, "targets": ["Linear"]}}
    body = {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": groups}
    declared = declaration(body, "config.json")
    assert (declared.format, declared.bits) == (form, bits)
