"""Linears under each other's names are found within few reads; weights of another model cost few reads and stay so."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from harness.formats.header import TensorEntry
from harness.inspector import inspect_checkpoint
from harness.inspector.exchanged import NEAR, candidates
from harness.records.inspection import InspectionReport

BASE = Path(__file__).resolve().parents[2] / "tiny" / "weights" / "transformer"
SQUARE = ("attn1.to_q", "attn1.to_k", "attn2.to_q")


def blocks(count: int) -> dict[str, TensorEntry]:
    names = [f"blocks.{n}.{part}.weight" for n in range(count) for part in SQUARE]
    tensors = {name: TensorEntry(name, "BF16", (8, 8), "f", 0, 128) for name in names}
    wide = TensorEntry("blocks.1.ffn.net.2.weight", "BF16", (8, 32), "f", 0, 512)
    return {**tensors, wide.name: wide}


def test_the_own_block_comes_first_and_then_the_nearest_blocks() -> None:
    order = candidates("blocks.2.attn1.to_q", (8, 8), blocks(5), {}, 48)
    assert set(order[:2]) == {"blocks.2.attn1.to_k", "blocks.2.attn2.to_q"}
    assert set(order[2:4]) == {"blocks.1.attn1.to_q", "blocks.3.attn1.to_q"}
    assert "blocks.1.ffn.net.2" not in order
    assert "blocks.2.attn1.to_q" not in order


def test_an_exchange_that_was_found_is_tried_first() -> None:
    moved = {"blocks.1.attn1.to_q": "blocks.4.attn1.to_q"}
    assert candidates("blocks.0.attn1.to_q", (8, 8), blocks(5), moved, 48)[0] == "blocks.3.attn1.to_q"
    assert candidates("blocks.0.attn1.to_q", (8, 8), blocks(5), moved, 1) == ["blocks.3.attn1.to_q"]


def test_a_linear_outside_the_blocks_has_no_candidate() -> None:
    assert candidates("proj_out", (8, 8), blocks(2), {}, 48) == []


def changed(place: Path, change: dict[str, torch.Tensor]) -> InspectionReport:
    """One transformer with some tensors replaced, compared with its base."""
    shutil.copytree(BASE, place)
    (file,) = place.glob("*.safetensors")
    save_file({**load_file(file), **change}, file)
    return inspect_checkpoint(place, base=BASE, digests=False)


def test_two_exchanged_linears_are_named_and_their_neighbours_are_not(tmp_path: Path) -> None:
    tensors = load_file(next(BASE.glob("*.safetensors")))
    up, down = (f"blocks.{n}.ffn.net.2.weight" for n in (1, 3))
    report = changed(tmp_path / "made", {up: tensors[down].clone(), down: tensors[up].clone()})
    (fault,) = [item for item in report.findings if item.severity == "fault"]
    assert fault.code == report.cause == "linears_exchanged"
    assert fault.evidence["holds"] == {
        "blocks.1.ffn.net.2": "blocks.3.ffn.net.2",
        "blocks.3.ffn.net.2": "blocks.1.ffn.net.2",
    }


def test_drawn_weights_are_no_other_linears(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(1)
    name = "blocks.1.ffn.net.2.weight"
    report = changed(tmp_path / "made", {name: torch.randn(192, 768, generator=draw).to(torch.bfloat16)})
    assert [item.code for item in report.findings if item.severity == "fault"] == ["excluded_differs"]
    assert NEAR[0] * NEAR[1] < 1000
