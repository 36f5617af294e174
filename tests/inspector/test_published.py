"""Findings about published files: absent parts, one expert stored twice, merged weights, channels, other contents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.corpus import published_faults as wild
from harness.inspector import inspect_checkpoint
from harness.records.inspection import InspectionReport

BASE = Path(__file__).resolve().parents[2] / "tiny" / "weights"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The transformers of the embedded model in BF16, to be changed."""
    for expert in ("transformer", "transformer_2"):
        shutil.copytree(BASE / expert, tmp_path / "made" / expert)
    shutil.copy(BASE / "model_index.json", tmp_path / "made" / "model_index.json")
    return tmp_path / "made"


def weights(place: Path) -> Path:
    (file,) = place.glob("*.safetensors")
    return file


def inspected(place: Path, base: Path | None = None) -> InspectionReport:
    return inspect_checkpoint(place, base=base, digests=False)


def faults(report: InspectionReport) -> list[str]:
    return [item.code for item in report.findings if item.severity == "fault"]


def parts(place: Path, count: int) -> Iterator[Path]:
    """Split an expert into numbered parts without an index."""
    file = weights(place)
    tensors = load_file(file)
    file.unlink()
    for number in range(count):
        own = {name: tensors[name] for name in sorted(tensors)[number::count]}
        yield place / f"diffusion_pytorch_model-{number + 1:05d}-of-{count:05d}.safetensors"
        save_file(own, place / f"diffusion_pytorch_model-{number + 1:05d}-of-{count:05d}.safetensors")


def test_an_absent_part_is_named_first_and_all_parts_are_no_fault(made: Path) -> None:
    files = list(parts(made / "transformer", 3))
    assert faults(inspected(made)) == []
    files[1].unlink()
    report = inspected(made)
    assert report.cause == "shard_missing"
    assert "is stored in 3 parts, and part 2 is not here" in report.summary


def test_one_expert_stored_twice_is_a_fault_without_a_base(made: Path) -> None:
    assert faults(inspected(made)) == []
    shutil.copy(weights(made / "transformer"), weights(made / "transformer_2"))
    assert inspected(made).cause == "experts_identical"


def test_merged_weights_are_other_weights_by_a_stated_distance(made: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    file = weights(made / "transformer")
    tensors = load_file(file)
    for name, value in tensors.items():
        if name.startswith("blocks.") and value.ndim == 2:
            update = torch.randn(len(value), 8, generator=generator) @ torch.randn(
                8, value.shape[1], generator=generator
            )
            tensors[name] = (value.float() + update * (0.05 * value.float().norm() / update.norm())).to(value.dtype)
    save_file(tensors, file)
    report = inspected(made, BASE)
    (item,) = [item for item in report.findings if item.code == "excluded_differs"]
    assert "60 of 60 unquantized Linears are other weights than the base's, by about 5 % in the median" in item.message
    assert "base: in the case" in item.next_command
    tensors = load_file(weights(BASE / "transformer"))
    tensors["blocks.1.attn1.to_q.weight"] = tensors["blocks.1.attn1.to_q.weight"] * 1.5
    save_file(tensors, file)
    (item,) = [item for item in inspected(made, BASE).findings if item.code == "excluded_differs"]
    assert "were not quantized and still differ from the base" in item.message


@pytest.mark.parametrize(("field", "value"), [("in_channels", 36), ("out_channels", 48)])
def test_channels_of_another_model_contradict_the_tensors(made: Path, field: str, value: int) -> None:
    config = made / "transformer" / "config.json"
    body = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**body, field: value}), encoding="utf-8")
    report = inspected(made)
    (item,) = [item for item in report.findings if item.code == "config_contradicts_tensors"]
    assert field in item.message


@pytest.mark.parametrize("tensors", [wild.COMFY_LORA, wild.VAE, wild.TEXT_ENCODER])
@pytest.mark.parametrize("base", [None, BASE])
def test_other_contents_get_one_sentence(tensors: Tensors, base: Path | None, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "weights.safetensors")
    report = inspected(tmp_path / "weights.safetensors", base)
    assert [(item.severity, item.code) for item in report.findings] == [("inconclusive", "not_a_transformer")]
    assert "no transformer" in report.summary
    assert "inspect the transformer" in report.findings[0].next_command
