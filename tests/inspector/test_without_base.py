"""Without a base: what is provable alone, and a plain word about what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.corpus.edit import Edit
from benchmarks.corpus.mutations import INVERTED, nibbles, swizzled
from harness.formats.codecs import pack_nibbles, unpack_nibbles
from harness.formats.hypotheses import PackedRows, look_blind
from harness.inspector import inspect_checkpoint
from harness.inspector.checks import run_checks
from harness.inspector.inspect import examine
from harness.inspector.summarize import decide


def test_right_bytes_are_inconclusive_and_say_why(exports: Path) -> None:
    report = inspect_checkpoint(exports / "nvfp4", contracts=["sglang==0.5.23"], digests=False)
    assert (report.outcome, report.cause) == ("inconclusive", "contract_unproven")
    assert "nibble order" in report.with_code("base_missing")[0].message
    assert all(layer.state == "not_provable" for layer in report.layers)
    assert {item.agrees for item in report.contracts} == {None}


def test_nibble_order_really_is_not_provable(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "nvfp4", tmp_path / "made")
    nibbles(edit, "all")
    report = inspect_checkpoint(edit.folder, digests=False)
    assert not report.faults
    assert report.outcome == "inconclusive"


def test_scale_layout_is_provable(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "nvfp4", tmp_path / "made")
    swizzled(edit, "all")
    examined = examine(edit.folder)
    findings = run_checks(examined.context)
    assert decide(findings) == ("fault", "scale_layout")
    assert decide(run_checks(examined.context, skip={"blind_layout"}))[0] == "inconclusive"
    assert decide(run_checks(examined.context, skip={"blind_layout", "unproven"}))[0] == "clean"


def test_inverted_global_scale_is_provable(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "nvfp4", tmp_path / "made")
    INVERTED(edit, "all")
    assert inspect_checkpoint(edit.folder, digests=False).cause == "global_scale_inverted"


def test_bf16_needs_no_base(exports: Path) -> None:
    assert inspect_checkpoint(exports / "base", digests=False).outcome == "clean"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_blind_statistic_is_the_same_under_a_swap(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = np.arange(4)
    packed = random.integers(0, 256, (4, 128), dtype=np.uint8)
    scales = random.integers(1, 120, (4, 16), dtype=np.uint8)
    swapped = pack_nibbles(unpack_nibbles(packed, "high_first"), "low_first")
    one = look_blind(PackedRows(rows, packed, scales, None), 16)
    two = look_blind(PackedRows(rows, swapped, scales, None), 16)
    assert one.full_blocks == two.full_blocks
    assert one.z == pytest.approx(two.z)
